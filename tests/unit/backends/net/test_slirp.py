"""The user network by libslirp, seen from a guest: DHCP, connections both ways, and what a hostile guest costs."""

from __future__ import annotations

import gc
import random
import select
import socket
import struct
from collections.abc import Iterator
from time import monotonic_ns

import pytest

from pyvmm.backends.net.backend import open_netdev, open_netdevs
from pyvmm.backends.net.slirp import QUEUE, SlirpWire
from pyvmm.backends.net.slirp_abi import load
from pyvmm.backends.net.user import parse
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.guestnet import Guest, dhcp, ip, ipv4, tcp, udp
from tests.support.network import FakeNic, Loop, running_loop
from tests.support.process import descriptors

pytestmark = pytest.mark.skipif(load() is None, reason="libslirp.so.0 is not installed (Debian: libslirp0)")


@pytest.fixture
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


def user(*options: tuple[str, str]) -> SlirpWire:
    wire = open_netdev(NetConfig(id="n0", kind="user", options=options))
    assert isinstance(wire, SlirpWire)
    return wire


def guest_on(loop: Loop, *options: tuple[str, str], address: str = "10.0.2.15") -> Guest:
    """A guest that has an address and knows the gateway's."""
    wire = user(*options)
    guest = Guest(wire, address)
    wire.attach(loop, guest)
    guest.ask("10.0.2.2")
    assert loop.until(lambda: guest.neighbours)
    return guest


def listener(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, int]:
    server = socket.socket(socket.AF_INET, kind)
    server.bind(("127.0.0.1", 0))
    server.settimeout(10)
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server, server.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_discover_offer_request_acknowledge(loop: Loop) -> None:
    wire = user(("hostname", "box"), ("domainname", "example.org"))
    guest = Guest(wire)
    wire.attach(loop, guest)
    assert wire.link and wire.offload
    guest.discover()
    assert loop.until(lambda: guest.dhcp)
    offer = guest.dhcp[0]
    assert offer[0] == ip("10.0.2.15") and offer[53] == b"\x02"
    guest.request(offer[0], offer[54])
    assert loop.until(lambda: len(guest.dhcp) == 2)
    acknowledge = guest.dhcp[1]
    assert acknowledge[53] == b"\x05" and acknowledge[1] == ip("255.255.255.0") and acknowledge[3] == ip("10.0.2.2")
    assert acknowledge[6] == ip("10.0.2.3") and acknowledge[12] == b"box" and acknowledge[15] == b"example.org"
    wire.close()
    wire.close()


def test_a_network_of_other_addresses(loop: Loop) -> None:
    wire = user(("net", "192.168.7.0/24"), ("dhcpstart", "192.168.7.77"), ("dns", "192.168.7.9"), ("host", "192.168.7.1"))
    guest = Guest(wire)
    wire.attach(loop, guest)
    guest.discover()
    assert loop.until(lambda: guest.dhcp)
    assert guest.dhcp[0][0] == ip("192.168.7.77") and guest.dhcp[0][3] == ip("192.168.7.1") and guest.dhcp[0][6] == ip("192.168.7.9")
    wire.close()


def test_pings_come_back(loop: Loop) -> None:
    guest = guest_on(loop)
    for number in range(200):
        guest.ping("10.0.2.2", number)
    assert loop.until(lambda: len(guest.echoes) == 200)
    assert [sequence for _, _, sequence, _ in guest.echoes] == list(range(200))
    guest.backend.close()


def test_what_the_network_answers_itself_is_there_when_send_returns(loop: Loop) -> None:
    guest = guest_on(loop)
    for number in range(100):
        guest.ping("10.0.2.2", number)
        assert [sequence for _, _, sequence, _ in guest.echoes] == list(range(number + 1))
    guest.backend.close()


def test_an_answer_for_a_card_without_buffers_waits(loop: Loop) -> None:
    wire, nic = user(), FakeNic(room=0)
    wire.attach(loop, nic)
    guest = Guest(wire, "10.0.2.15")
    guest.ask("10.0.2.2")
    guest.ask("10.0.2.2")
    assert nic.refused == 1 and wire.counters.paused == 1
    loop.turn()
    assert not nic.frames
    nic.room = None
    wire.resume()
    assert not nic.frames, "resume never calls the card"
    assert loop.until(lambda: len(nic.frames) == 2)
    wire.close()


def test_what_a_card_sends_while_it_gets_something_is_looked_at_at_once(loop: Loop) -> None:
    port = free_port()
    wire = user(("hostfwd", f"tcp:127.0.0.1:{port}-10.0.2.15:22"), ("ipv6", "off"))
    guest = Guest(wire, "10.0.2.15")  # answers from within ``receive``, as what is behind a hub does
    wire.attach(loop, guest)
    loop.turn()
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("127.0.0.1", port)) in (0, 115)
        while not guest.neighbours:  # libslirp asks for the guest's address, and keeps the SYN back until it is called again
            wire._serve()
        assert wire._asked and wire._timer is not None and wire._timer.due is not None
        assert wire._timer.due <= monotonic_ns()
    wire.close()


def test_tcp_to_a_server_of_the_host(loop: Loop) -> None:
    guest = guest_on(loop)
    server, port = listener()
    with server:
        connection = guest.connect("10.0.2.2", port)
        assert loop.until(lambda: connection.established)
        peer = server.accept()[0]
        with peer:
            connection.send(b"from the guest")
            assert loop.until(lambda: select.select([peer], [], [], 0)[0])
            assert peer.recv(100) == b"from the guest"
            data = random.Random(1).randbytes(1 << 20)
            peer.setblocking(False)
            sent = 0

            def push() -> bool:
                nonlocal sent
                try:
                    sent += peer.send(data[sent:])
                except BlockingIOError:
                    pass
                return len(connection.received) == len(data)

            assert loop.until(push, 20)
            assert connection.received == data
        assert loop.until(lambda: connection.closed)
        connection.close()
    loop.turn()
    guest.backend.close()


def test_large_frames_both_ways_when_the_card_takes_them(loop: Loop) -> None:
    guest = guest_on(loop)
    guest.backend.set_offload(7)
    server, port = listener()
    with server:
        connection = guest.connect("10.0.2.2", port)
        assert loop.until(lambda: connection.established)
        peer = server.accept()[0]
        with peer:
            data = random.Random(2).randbytes(1 << 20)
            sent, peer_got = 0, b""
            peer.setblocking(False)

            def push() -> bool:
                nonlocal sent
                try:
                    sent += peer.send(data[sent:])
                except BlockingIOError:
                    pass
                return len(connection.received) == len(data)

            before = len(guest.frames)
            assert loop.until(push, 20)
            assert connection.received == data
            assert len(guest.frames) - before < 2 * len(data) // 16000 + 20
            connection.send(data[:60000])
            while len(peer_got) < 60000:
                assert loop.until(lambda: select.select([peer], [], [], 0)[0])
                peer_got += peer.recv(1 << 16)
            assert peer_got == data[:60000]
    guest.backend.close()


def test_an_e1000s_network_keeps_to_1500_bytes(loop: Loop) -> None:
    wire = open_netdevs([NetConfig(id="n0", kind="user")], {"n0"})["n0"]
    guest = Guest(wire, "10.0.2.15")
    wire.attach(loop, guest)
    guest.ask("10.0.2.2")
    server, port = listener()
    with server:
        connection = guest.connect("10.0.2.2", port)
        assert loop.until(lambda: connection.established)
        with server.accept()[0] as peer:
            peer.sendall(bytes(100_000))
            assert loop.until(lambda: len(connection.received) == 100_000)
    assert 1400 < max(len(frame) for frame in guest.frames) <= 1514
    wire.close()


def test_tcp_from_the_host(loop: Loop) -> None:
    port = free_port()
    guest = guest_on(loop, ("hostfwd", f"tcp:127.0.0.1:{port}-:22"))
    guest.listen.add(22)
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("127.0.0.1", port)) in (0, 115)
        assert loop.until(lambda: any(each.established for each in guest.connections.values()))
        (connection,) = guest.connections.values()
        client.send(b"hello guest")
        assert loop.until(lambda: connection.received == b"hello guest")
        connection.send(b"hello host")
        assert loop.until(lambda: select.select([client], [], [], 0)[0])
        assert client.recv(100) == b"hello host"
    assert loop.until(lambda: connection.closed)
    guest.backend.close()


def test_udp_both_ways(loop: Loop) -> None:
    port = free_port()
    guest = guest_on(loop, ("hostfwd", f"udp:127.0.0.1:{port}-10.0.2.15:9"))
    server, there = listener(socket.SOCK_DGRAM)
    with server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        guest.send_udp("10.0.2.2", there, 5000, b"question")
        data, sender = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", sender)
        assert loop.until(lambda: guest.datagrams)
        assert guest.datagrams.pop() == (ip("10.0.2.2"), there, 5000, b"answer")
        client.sendto(b"from outside", ("127.0.0.1", port))
        assert loop.until(lambda: guest.datagrams)
        assert guest.datagrams[0][2:] == (9, b"from outside")
    guest.backend.close()


def name_server() -> str:
    """Of this host, "" when there is none or it does not answer."""
    try:
        with open("/etc/resolv.conf", encoding="ascii") as file:
            server = next(line.split()[1] for line in file if line.startswith("nameserver") and line.count(".") == 3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(2)
            probe.sendto(_QUERY, (server, 53))
            return server if probe.recv(512)[:2] == _QUERY[:2] else ""
    except (OSError, StopIteration):
        return ""


_QUERY = struct.pack(">HHHHHH", 0x4242, 0x100, 1, 0, 0, 0) + b"\x09localhost\0" + struct.pack(">HH", 1, 1)


def test_names_are_resolved_by_the_hosts_server(loop: Loop) -> None:
    if not name_server():
        pytest.skip("no name server answers this host")
    guest = guest_on(loop)
    guest.send_udp("10.0.2.3", 53, 5353, _QUERY)
    assert loop.until(lambda: guest.datagrams)
    source, port, _, data = guest.datagrams[0]
    assert (source, port, data[:2]) == (ip("10.0.2.3"), 53, _QUERY[:2])
    guest.backend.close()


def test_restrict_keeps_the_guest_inside(loop: Loop) -> None:
    guest = guest_on(loop, ("restrict", "on"))
    server, port = listener()
    with server:
        server.settimeout(0.1)
        connection = guest.connect("10.0.2.2", port)
        loop.turn(0.1)
        assert not connection.established
        with pytest.raises(TimeoutError):
            server.accept()
    guest.backend.close()


def test_a_port_in_use_is_one_line() -> None:
    server, port = listener()
    with server, pytest.raises(ConfigError) as caught:
        user(("hostfwd", f"tcp:127.0.0.1:{port}-:22"))
    assert str(caught.value).count("\n") == 0 and "Address already in use" in str(caught.value) and str(port) in str(caught.value)


def test_a_guest_without_buffers_makes_the_host_wait(loop: Loop) -> None:
    guest = guest_on(loop)
    server, port = listener()
    with server:
        connection = guest.connect("10.0.2.2", port)
        assert loop.until(lambda: connection.established)
        peer = server.accept()[0]
        peer.setblocking(False)
        guest.room = 3
        sent = 0
        with pytest.raises(BlockingIOError):
            while sent < 64 << 20:
                sent += peer.send(bytes(100_000))
                loop.turn(0.002)
        assert guest.backend.counters.paused == 1
        wire = guest.backend
        assert isinstance(wire, SlirpWire) and len(wire._queue) <= QUEUE
        loop.turn(0.1)
        assert wire.counters.paused == 1 and wire._epoll.fileno() not in loop._readers  # it waits, and does not ask again and again
        while len(connection.received) < sent:
            before = len(connection.received)
            guest.room = 5
            guest.backend.resume()
            assert loop.until(lambda before=before: len(connection.received) > before or guest.backend.counters.paused > 100, 5)
            guest.room = None
            guest.backend.resume()
            loop.turn()
        assert connection.received == bytes(sent)
        peer.close()
    guest.backend.close()


def test_nothing_is_polled_while_nothing_happens(loop: Loop) -> None:
    guest = guest_on(loop, ("ipv6", "off"))
    loop.turn(0.1)
    wire = guest.backend
    assert isinstance(wire, SlirpWire)
    served = 0
    serve = wire._serve

    def count() -> None:
        nonlocal served
        served += 1
        serve()

    assert wire._timer is not None and wire._timer.due is None
    assert loop._readers[wire._epoll.fileno()] == serve
    loop._readers[wire._epoll.fileno()] = count
    loop.turn(0.3)
    assert served == 0
    guest.ping("10.0.2.2", 1)
    assert loop.until(lambda: guest.echoes)
    loop.turn(0.3)
    assert served == 0, "the network answers a ping while its sender waits for the doorbell"
    wire.close()


def test_a_reset_leaves_the_network_as_it_is(loop: Loop) -> None:
    port = free_port()
    first = guest_on(loop, ("hostfwd", f"tcp:127.0.0.1:{port}-:22"))
    wire = first.backend
    first.room = 0
    first.ping("10.0.2.2", 1)
    assert loop.until(lambda: wire.counters.paused)
    wire.detach()
    first.ping("10.0.2.2", 2)  # nobody is there for the answer
    with running_loop() as other:
        second = Guest(wire, "10.0.2.15")
        second.listen.add(22)
        wire.attach(other, second)
        second.ping("10.0.2.2", 3)
        assert other.until(lambda: second.echoes)
        assert second.echoes[-1][2] == 3
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            assert other.until(lambda: any(each.established for each in second.connections.values()))
        wire.close()


def test_callbacks_outlive_a_collection_and_may_raise(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = guest_on(loop)
    wire = guest.backend
    assert isinstance(wire, SlirpWire)
    gc.collect()
    guest.ping("10.0.2.2", 1)
    assert loop.until(lambda: guest.echoes)
    monkeypatch.setattr(wire, "_flows", None)
    with pytest.raises(AttributeError):  # when C tells of a new socket
        wire._library.input(wire._slirp, *_datagram(guest))
        wire._check()
    monkeypatch.undo()
    guest.ping("10.0.2.2", 2)
    assert loop.until(lambda: len(guest.echoes) == 2)
    wire.close()


def _datagram(guest: Guest) -> tuple[bytes, int]:
    to, target = guest.neighbours[ip("10.0.2.2")], ip("10.0.2.2")
    frame = to + guest.mac + b"\x08\x00" + ipv4(guest.address, target, 17, udp(5000, 9, b"x"))
    return frame, len(frame)


def test_many_flows_are_bounded(loop: Loop) -> None:
    guest = guest_on(loop)
    wire = guest.backend
    assert isinstance(wire, SlirpWire)
    wire._most_flows = 20
    before = len(descriptors())
    for port in range(200):
        guest.send_udp("10.0.2.2", 9, 20000 + port, b"x")
        guest.send_ip(ip("10.0.2.2"), 6, tcp(20000 + port, 1, 1, 0, 2))
        if port % 50 == 0:
            loop.turn()
    assert len(descriptors()) <= before + 20
    assert wire.counters.dropped_tx > 300
    guest.ping("10.0.2.2", 9)  # ICMP to the host itself needs no socket, but looks as if it might
    wire.close()
    assert len(descriptors()) < before


@pytest.mark.parametrize("seed", range(8))
def test_a_guest_that_sends_noise(seed: int, loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(seed)
    nic = FakeNic()
    wire = user(("restrict", "on"))  # noise stays here
    wire.attach(loop, nic)
    mac = b"\x52\x55\x0a\x00\x02\x02" + b"\x52\x54\x00\x12\x34\x56"
    count = 0
    for _ in range(400):
        source, target = ip("10.0.2.15"), ip(chance.choice(("10.0.2.2", "10.0.2.3", "255.255.255.255", "10.0.2.255")))
        body = bytearray(
            chance.choice(
                (
                    mac + b"\x08\x00" + ipv4(source, target, 17, udp(68, 67, dhcp(chance.randrange(9), 1, chance.randbytes(60)))),
                    mac + b"\x08\x00" + ipv4(source, target, 17, udp(1000, 69, b"\0\x01file\0octet\0")),
                    mac + b"\x08\x00" + ipv4(source, target, 6, tcp(1000, 80, 1, 1, chance.randrange(64), b"x" * 20)),
                    mac + b"\x08\x00" + ipv4(source, target, 1, chance.randbytes(40)),
                    mac + b"\x08\x06" + chance.randbytes(28),
                    mac + b"\x86\xdd" + chance.randbytes(80),
                    chance.randbytes(chance.randrange(200)),
                )
            )
        )
        for _ in range(chance.randrange(4)):
            if body:
                body[chance.randrange(len(body))] = chance.randrange(256)
        wire.send(bytes(body[: chance.choice((len(body), chance.randrange(len(body) + 1)))]))
        count += 1
        if chance.random() < 0.7:
            wire.flush()
        nic.room = chance.choice((None, None, 0, 3))
        wire.resume()
        if chance.random() < 0.1:
            loop.turn(0.001)
    counters = wire.counters
    assert counters.sent + counters.dropped_tx == count
    assert len(wire._queue) <= QUEUE
    nic.room = None
    wire.resume()
    wire.flush()
    assert loop.until(lambda: not wire._queue)
    assert counters.received == len(nic.frames)
    wire.close()
    assert capfd.readouterr().err.count("\n") <= 6


def test_the_library_may_be_missing_or_old() -> None:
    assert load("libno-such-thing.so.0") is None
    assert load("libc.so.6") is None  # there, but with other functions


def test_an_old_library_gets_timers_of_the_old_kind(loop: Loop) -> None:
    config = NetConfig(id="n0", kind="user")
    library = load()
    assert library is not None
    was = library.version
    try:
        library.version = 1
        wire = SlirpWire(config, parse(config), library)
    finally:
        library.version = was
    guest = Guest(wire, "10.0.2.15")
    wire.attach(loop, guest)
    assert len(wire._alarms) == 1
    (alarm,) = wire._alarms.values()
    assert alarm.due is not None  # the first router advertisement
    alarm.call()
    assert loop.until(lambda: any(frame[12:14] == b"\x86\xdd" for frame in guest.frames))
    wire.close()
