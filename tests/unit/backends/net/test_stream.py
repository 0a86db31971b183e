"""Frames over stream sockets: both ends, what a hostile peer may do, and that nothing buffers without bound."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.backends.net.backend import open_netdev
from pyvmm.backends.net.stream import LONGEST, QUEUE, StreamWire
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.network import FakeNic, Loop, frame, running_loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


def stream(name: str = "n0", kind: str = "stream", **options: str) -> Any:
    pairs = tuple((key.replace("_", "."), value) for key, value in options.items())
    return open_netdev(NetConfig(id=name, kind=kind, options=pairs))


def pair(loop: Loop, nic: FakeNic) -> tuple[StreamWire, socket.socket]:
    """A wire with a card, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    wire = StreamWire("n0", ours)
    wire.attach(loop, nic)
    theirs.settimeout(10)
    return wire, theirs


def framed(*frames: bytes) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in frames)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_ends_talk_over_a_unix_socket(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = stream("a", addr_type="unix", addr_path=path, server="on")
    one, two = FakeNic(), FakeNic()
    server.attach(loop, one)
    assert not server.link
    client = stream("b", addr_type="unix", addr_path=path)
    client.attach(loop, two)
    assert client.link
    assert loop.until(lambda: one.links == [True])
    sizes = [14, 60, 1514, 9014, 65549, LONGEST]
    for number, size in enumerate(sizes):
        client.send(frame(number, size))
        server.send(memoryview(frame(100 + number, size)))
    assert loop.until(lambda: len(one.frames) == len(two.frames) == len(sizes))
    assert one.frames == [frame(number, size) for number, size in enumerate(sizes)]
    assert two.frames == [frame(100 + number, size) for number, size in enumerate(sizes)]
    assert client.counters.sent == server.counters.received == len(sizes)
    client.close()
    assert loop.until(lambda: one.links == [True, False])
    server.close()
    assert not Path(path).exists()
    server.close()


@pytest.mark.parametrize("kind", ["stream", "socket"])
def test_two_ends_talk_over_tcp(kind: str, loop: Loop) -> None:
    port = str(free_port())
    if kind == "stream":
        server = stream("a", addr_type="inet", addr_host="127.0.0.1", addr_port=port, server="on")
        client = stream("b", addr_type="inet", addr_host="127.0.0.1", addr_port=port)
    else:
        server = stream("a", "socket", listen=f":{port}")
        client = stream("b", "socket", connect=f"127.0.0.1:{port}")
    one, two = FakeNic(), FakeNic()
    server.attach(loop, one)
    client.attach(loop, two)
    for number in range(300):  # more than one delivery's budget
        client.send(frame(number, 1514))
    assert loop.until(lambda: len(one.frames) == 300)
    assert one.frames == [frame(number, 1514) for number in range(300)]
    assert one.bursts == [True, False] * (len(one.bursts) // 2) and 1 <= len(one.bursts) // 2 < 100
    client.close()
    server.close()


def test_peers_come_and_go(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = stream(addr_type="unix", addr_path=path, server="on")
    nic = FakeNic()
    server.attach(loop, nic)
    server.send(frame(0))
    assert server.counters.dropped_tx == 1
    for number in range(3):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(10)
            peer.connect(path)
            assert loop.until(lambda: server.link)
            peer.sendall(framed(frame(number)) + framed(frame(99))[:-1])  # and leaves in the middle of one
            server.send(frame(number))
            assert peer.recv(100) == framed(frame(number))
        assert loop.until(lambda: not server.link)
    assert nic.links == [True, False] * 3
    assert nic.frames == [frame(number) for number in range(3)]
    assert server.counters.malformed == 3
    server.close()


def test_a_client_reconnects(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    client = stream(addr_type="unix", addr_path=path, **{"reconnect-ms": "10"})
    nic = FakeNic()
    client.attach(loop, nic)
    loop.turn()
    assert not client.link
    for _ in range(2):
        server = stream("a", addr_type="unix", addr_path=path, server="on")
        other = FakeNic()
        server.attach(loop, other)
        assert loop.until(lambda server=server: client.link and server.link)
        client.send(frame(7))
        assert loop.until(lambda other=other: other.frames == [frame(7)])
        server.close()
        assert loop.until(lambda: not client.link)
    client.close()
    assert nic.links == [True, False] * 2


def test_a_client_reconnects_by_tcp(loop: Loop) -> None:
    port = str(free_port())
    client = stream(addr_type="inet", addr_host="127.0.0.1", addr_port=port, **{"reconnect-ms": "10"})
    client.attach(loop, FakeNic())
    loop.turn()
    server = stream("a", addr_type="inet", addr_host="127.0.0.1", addr_port=port, server="on")
    server.attach(loop, FakeNic())
    assert loop.until(lambda: client.link and server.link)
    client.close()
    server.close()


def test_a_card_without_buffers_pauses_the_wire(loop: Loop) -> None:
    nic = FakeNic(room=2)
    wire, peer = pair(loop, nic)
    peer.sendall(framed(*(frame(number) for number in range(5))))
    assert loop.until(lambda: wire.counters.paused)
    loop.turn()
    assert nic.frames == [frame(0), frame(1)] and nic.refused == 1  # asked once, not again and again
    nic.room = 1
    wire.resume()
    assert nic.refused == 1  # not from within resume
    assert loop.until(lambda: wire.counters.paused == 2)
    nic.room = None
    wire.resume()
    assert loop.until(lambda: len(nic.frames) == 5)
    assert nic.frames == [frame(number) for number in range(5)]
    assert (wire.counters.received, wire.counters.dropped_rx) == (5, 0)
    wire.close()


def test_a_paused_wire_does_not_read_on(loop: Loop) -> None:
    wire, peer = pair(loop, FakeNic(room=0))
    peer.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 64 << 20:
            sent += peer.send(framed(frame(0, 1514)) * 100)
            loop.turn(0.001)
    wire.close()


def test_a_reset_gives_the_next_card_what_waits(loop: Loop) -> None:
    first, second = FakeNic(room=1), FakeNic()
    wire, peer = pair(loop, first)
    peer.sendall(framed(frame(0), frame(1)))
    assert loop.until(lambda: wire.counters.paused)
    wire.detach()
    wire.detach()
    with running_loop() as other:
        wire.attach(other, second)
        assert other.until(lambda: second.frames == [frame(1)])
        wire.close()


def test_a_peer_that_never_reads_costs_frames_not_memory(loop: Loop) -> None:
    wire, peer = pair(loop, FakeNic())
    big = frame(1, 60000)
    for _ in range(400):
        wire.send(big)
        assert len(wire._queue) <= QUEUE
    counters = wire.counters
    assert counters.dropped_tx > 300 and counters.sent + counters.dropped_tx == 400
    received = bytearray()

    def drain() -> bool:
        peer.setblocking(False)
        try:
            while data := peer.recv(1 << 20):
                received.extend(data)
        except BlockingIOError:
            pass
        return len(received) == counters.sent * (len(big) + 4)

    assert loop.until(drain)
    assert received == framed(big) * counters.sent  # whole frames only
    wire.send(frame(2))
    assert peer.recv(100) == framed(frame(2))
    wire.close()


def test_an_absurd_length_ends_the_connection_with_one_line(loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    for length in (LONGEST + 1, 0x47455420, 0xFFFF_FFFF):  # the middle one begins an HTTP request
        nic = FakeNic()
        wire, peer = pair(loop, nic)
        peer.sendall(framed(frame(0)) + length.to_bytes(4, "big") + b"x" * 100)
        assert loop.until(lambda nic=nic: nic.links == [False])
        assert nic.frames == [frame(0)]
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and str(length) in err
        wire.send(frame(1))
        assert wire.counters.dropped_tx == 1
        wire.close()
        peer.close()


def test_frames_too_short_for_a_header_are_counted(loop: Loop) -> None:
    nic = FakeNic()
    wire, peer = pair(loop, nic)
    peer.sendall(framed(b"", b"x" * 13, frame(0, 14)))
    assert loop.until(lambda: nic.frames)
    assert wire.counters.malformed == 2 and wire.counters.received == 1
    wire.send(b"")
    wire.send(bytes(LONGEST + 1))
    assert wire.counters.dropped_tx == 2
    wire.close()


@pytest.mark.parametrize("seed", range(5))
def test_frames_in_random_pieces(seed: int, loop: Loop) -> None:
    chance = random.Random(seed)
    nic = FakeNic()
    wire, peer = pair(loop, nic)
    frames = [chance.randbytes(chance.choice((14, 60, 1514, 9000, chance.randrange(14, LONGEST + 1)))) for _ in range(40)]
    data = framed(*frames)
    place = 0
    peer.setblocking(False)
    while place < len(data):
        nic.room = chance.choice((None, 0, 1, 5))
        try:
            place += peer.send(data[place : place + chance.choice((1, 3, 100, 5000, 70000))])
        except BlockingIOError:
            nic.room = None
        wire.resume()
        loop.turn(0.001)
    nic.room = None
    wire.resume()
    assert loop.until(lambda: len(nic.frames) == len(frames))
    assert nic.frames == frames
    wire.close()


@pytest.mark.parametrize("seed", range(20))
def test_noise_on_the_wire(seed: int, loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(seed)
    nic = FakeNic()
    wire, peer = pair(loop, nic)
    offered = 0
    try:
        for _ in range(30):
            if chance.random() < 0.7:
                body = chance.randbytes(chance.randrange(2000))
                peer.sendall(framed(body))
                offered += 1
            else:
                peer.sendall(chance.randbytes(chance.randrange(20)))
            wire.send(chance.randbytes(chance.randrange(3000)))
            nic.room = chance.choice((None, 0, 2))
            wire.resume()
            loop.turn(0.001)
    except OSError:
        pass  # hung up on
    peer.close()
    nic.room = None
    wire.resume()
    assert loop.until(lambda: not wire.link)
    assert wire.counters.received == len(nic.frames)
    assert wire.counters.sent + wire.counters.dropped_tx <= 30
    assert wire._start == wire._end == 0 and not wire._queue
    wire.close()


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("stream", {}, "addr.type=unix"),
        ("stream", {"addr_type": "unix"}, "addr.path=PATH"),
        ("stream", {"addr_type": "inet", "addr_host": "h"}, "addr.port=PORT"),
        ("stream", {"addr_type": "inet", "addr_port": "70000"}, "up to 65535"),
        ("stream", {"addr_type": "inet", "addr_port": "x"}, "up to 65535"),
        ("stream", {"addr_type": "inet", "addr_host": "no.such.host.invalid", "addr_port": "1"}, "is the name right"),
        ("stream", {"addr_type": "unix", "addr_path": "/no/such/dir/s", "server": "on"}, "No such file"),
        ("stream", {"addr_type": "unix", "addr_path": "/no/such/s"}, "reconnect=1"),
        ("stream", {"addr_type": "unix", "addr_path": "x" * 200}, "too long"),
        ("stream", {"addr_type": "unix", "addr_path": "a\0b", "server": "on"}, "null"),
        ("stream", {"addr_type": "unix", "addr_path": "/x", "server": "maybe"}, "server=on or server=off"),
        ("stream", {"addr_type": "unix", "addr_path": "/x", "reconnect": "soon"}, "give a number"),
        ("stream", {"addr_type": "unix", "addr_path": "/x", "server": "on", "reconnect": "1"}, "waits"),
        ("stream", {"addr_type": "fd", "addr_str": "0"}, "no inherited stream socket"),
        ("socket", {}, "give one of"),
        ("socket", {"listen": ":1", "connect": "a:1"}, "give one of"),
        ("socket", {"listen": "here"}, "HOST:PORT"),
        ("socket", {"fd": "999"}, "no inherited stream socket"),
        ("socket", {"connect": "127.0.0.1:1"}, "refused"),
    ],
)
def test_mistakes_are_one_line(kind: str, options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stream("n7", kind, **options)
    text = str(caught.value)
    assert problem in text and f"-netdev {kind},id=n7" in text and "\n" not in text


def test_an_inherited_socket(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    wire = stream(kind="socket", fd=str(ours.detach()))
    wire.attach(loop, FakeNic())
    wire.send(frame(1))
    assert theirs.recv(100) == framed(frame(1))
    wire.close()
    assert theirs.recv(1) == b""
