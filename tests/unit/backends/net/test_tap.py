"""A tap interface in a network namespace of its own: real kernel at the other end, nothing of the host is touched."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from pyvmm.backends.net.backend import open_netdev
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support import netns

PRELUDE = """
import os, random, select, shutil, socket, struct, subprocess, sys
from pyvmm.backends.net.backend import *
from pyvmm.backends.net.backend import open_netdev
from pyvmm.backends.net.tap import Tap
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.guestnet import Guest, checksum, ip, ipv4, tcp, udp
from tests.support.network import FakeNic, frame, running_loop

def tap(**options):
    return open_netdev(NetConfig(id="n0", kind="tap", options=tuple(options.items())))

def run(*words):
    subprocess.run(words, check=True)

def up(name="tap7", mtu="1500"):
    open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w").write("1")
    run("ip", "addr", "add", "10.9.0.1/24", "dev", name)
    run("ip", "link", "set", name, "mtu", mtu, "up")

def udp_socket(port=0):
    kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    kernel.bind(("10.9.0.1", port))
    kernel.settimeout(10)
    return kernel
"""


def inside(program: str, *wrapper: str) -> str:
    """Runs a program in a fresh namespace; returns its output."""
    reason = netns.why_not()
    if reason:
        pytest.skip(reason)
    command = ["unshare", "-n", *wrapper, sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PRELUDE}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("header", ["on", "off"])
def test_frames_to_and_from_the_kernel(header: str) -> None:
    inside(f"""
with running_loop() as loop:
    wire = tap(ifname="tap7", script="no", downscript="no", vnet_hdr="{header}")
    assert wire.link and wire.offload == ("{header}" == "on")
    up()
    guest = Guest(wire, "10.9.0.2")
    wire.attach(loop, guest)
    words = ["ping", "-c", "3", "-i", "0.01", "-W", "5", "10.9.0.2"]
    ping = subprocess.Popen(words, stdout=subprocess.PIPE) if shutil.which("ping") else None
    kernel = udp_socket()
    kernel.sendto(b"to the guest", ("10.9.0.2", 7))  # asks by ARP first
    assert loop.until(lambda: guest.datagrams)
    assert guest.datagrams[0][3] == b"to the guest"
    guest.send_udp("10.9.0.1", kernel.getsockname()[1], 7, b"to the kernel")
    assert kernel.recvfrom(100) == (b"to the kernel", ("10.9.0.2", 7))
    if ping:
        assert loop.until(lambda: ping.poll() is not None) and ping.returncode == 0
    server = socket.create_server(("10.9.0.1", 0))
    connection = guest.connect("10.9.0.1", server.getsockname()[1])
    assert loop.until(lambda: connection.established)
    peer = server.accept()[0]
    data = random.Random(1).randbytes(300000)
    peer.setblocking(False)
    sent = 0
    def push():
        global sent
        try:
            sent += peer.send(data[sent:])
        except BlockingIOError:
            pass
        return len(connection.received) == len(data)
    assert loop.until(push, 20), len(connection.received)
    assert connection.received == data
    assert max(len(each) for each in guest.frames) <= 1514  # the kernel has cut what it must not leave to us
    wire.close()
    wire.close()
""")


def test_offload_leaves_checksums_and_segments_to_the_other_side() -> None:
    inside("""
with running_loop() as loop:
    wire = tap(ifname="tap7")
    up()
    guest = Guest(wire, "10.9.0.2")
    wire.attach(loop, guest)
    kernel = udp_socket()
    port = kernel.getsockname()[1]
    guest.ask("10.9.0.1")
    assert loop.until(lambda: guest.neighbours)
    # out: a checksum left to the kernel
    body = udp(7, port, b"unfinished")
    right = guest.neighbours[ip("10.9.0.1")] + guest.mac + b"\\x08\\x00" + ipv4(ip("10.9.0.2"), ip("10.9.0.1"), 17, body)
    seed = sum(struct.unpack(">6H", ip("10.9.0.2") + ip("10.9.0.1") + struct.pack(">BBH", 0, 17, len(body))))
    seed = (seed & 0xFFFF) + (seed >> 16)
    wire.send(right[:40] + struct.pack(">H", seed) + right[42:], struct.pack("<BBHHHHH", CSUM, 0, 0, 0, 34, 6, 0))
    assert kernel.recv(100) == b"unfinished"
    wire.send(right[:30], struct.pack("<BBHHHHH", CSUM, 1, 99, 0, 9999, 6, 0))  # a header that lies
    assert wire.counters.dropped_tx == 1
    # in: without offload the kernel finishes, with it the card gets what is left to do
    nic = FakeNic()
    wire.detach()
    wire.attach(loop, nic)
    server = socket.create_server(("10.9.0.1", 0))
    for flags, finished in ((0, True), (CSUM, False)):
        wire.set_offload(flags)
        kernel.sendto(b"x" * 100, ("10.9.0.2", 7))
        assert loop.until(lambda: any(each[23] == 17 for each in nic.frames))
        at = next(index for index, each in enumerate(nic.frames) if each[23] == 17)
        got, header = nic.frames[at], nic.headers[at]
        assert (header[0] & CSUM == 0) is finished, header
        if not finished:
            assert struct.unpack_from("<HH", header, 6) == (34, 6)
        pseudo = got[26:34] + struct.pack(">BBH", 0, 17, len(got) - 34)
        assert (checksum(pseudo + got[34:]) == 0) is finished
        nic.frames.clear(); nic.headers.clear()
    # TSO: a segment of the kernel's larger than the MTU
    wire.set_offload(CSUM | TSO4)
    wire.detach(); wire.attach(loop, guest); wire.set_offload(CSUM | TSO4)
    kept = []
    take = guest.receive
    def receive(frame, header=None):
        data = bytes(frame)
        if header[1]:
            kept.append((data, bytes(header)))
        return True if data[12:14] == b"\\x08\\x00" and len(data) > 200 else take(b"" + data)
    length = lambda packet: struct.unpack_from(">H", packet, 2)[0]
    guest._ip = lambda packet: packet[9] == 6 and guest._tcp(packet[12:16], packet[20:length(packet)])
    guest.receive = receive
    connection = guest.connect("10.9.0.1", server.getsockname()[1])
    assert loop.until(lambda: connection.established)
    peer = server.accept()[0]
    peer.setblocking(False)
    peer.send(bytes(20000))
    assert loop.until(lambda: kept)
    data, header = kept[0]
    assert len(data) > 1514 and header[1] & 0x7F == 1 and struct.unpack_from("<H", header, 4)[0] < 1500
    # a dump of it has the right checksum
    from pyvmm.backends.net.pcap import with_checksum
    whole = bytes(with_checksum(data, header))
    assert checksum(whole[26:34] + struct.pack(">BBH", 0, 6, len(whole) - 34) + whole[34:]) == 0
    # the next guest's driver takes none of this
    wire.detach()
    wire.attach(loop, nic)
    assert loop.until(lambda: wire.counters.received and any(each[23] == 6 for each in nic.frames), 20)
    assert all(len(each) <= 1514 for each in nic.frames) and not any(header[0] & CSUM for header in nic.headers)
    wire.close()
""")


def test_a_card_without_buffers_pauses_it() -> None:
    inside("""
with running_loop() as loop:
    wire = tap(ifname="tap7")
    up()
    run("ip", "neigh", "add", "10.9.0.2", "lladdr", "52:54:00:12:34:56", "dev", "tap7")
    nic = FakeNic(room=2)
    wire.attach(loop, nic)
    kernel = udp_socket()
    for number in range(5):
        kernel.sendto(b"%d" % number * 20, ("10.9.0.2", 7))
    assert loop.until(lambda: wire.counters.paused)
    loop.turn()
    assert nic.refused == 1 and len(nic.frames) == 2
    nic.room = None
    wire.resume()
    assert loop.until(lambda: len(nic.frames) == 5)
    assert [each[42:43] for each in nic.frames] == [b"0", b"1", b"2", b"3", b"4"]
    for number in range(2000):
        kernel.sendto(b"x", ("10.9.0.2", 7))  # the kernel's queue is bounded too
    assert loop.until(lambda: len(nic.frames) > 300)
    wire.close()
""")


def test_noise_and_an_interface_that_goes() -> None:
    out = inside("""
with running_loop() as loop:
    wire = tap(ifname="tap7")
    nic = FakeNic()
    wire.attach(loop, nic)
    wire.send(frame(1))  # down yet
    assert wire.counters.dropped_tx == 1
    up()
    chance = random.Random(4)
    for _ in range(2000):
        wire.send(chance.randbytes(chance.randrange(300)), chance.randbytes(12) if chance.random() < 0.5 else None)
    wire.send(bytes(70000))
    assert wire.counters.sent + wire.counters.dropped_tx == 2002
    loop.turn()
    run("ip", "link", "del", "tap7")
    assert loop.until(lambda: nic.links == [False])
    wire.send(frame(1))
    assert wire.fd < 0 and len(loop._readers) == 0  # an interface that is gone would be readable for ever
    wire.detach()
    wire.attach(loop, nic)
    wire.close()
""")
    assert out.count("\n") == 1 and "the tap interface is gone" in out


def test_an_interface_made_before_and_its_limits() -> None:
    out = inside("""
run("ip", "tuntap", "add", "dev", "tap7", "mode", "tap")
run("ip", "tuntap", "add", "dev", "tap8", "mode", "tap", "multi_queue")
run("ip", "tuntap", "add", "dev", "tun9", "mode", "tun")
run("ip", "link", "add", "dummy0", "type", "bridge")
wires = [tap(ifname="tap7"), tap(ifname="tap8"), tap()]
for name in ("tap7", "tun9", "dummy0"):
    try:
        tap(ifname=name)
        raise SystemExit(f"{name} could be had")
    except ConfigError as error:
        print(error)
# a descriptor of somebody else's
wires[0].detach()
other = tap(fd=str(os.dup(wires[0].fd)))
assert isinstance(other, Tap) and other.offload
""")
    lines = out.splitlines()
    assert len(lines) == 4, out
    assert any("n0 is the tap interface tap" in line for line in lines)
    assert any("tap7: Device or resource busy; another program" in line for line in lines)
    assert sum("another kind" in line for line in lines) == 2


def test_without_the_right_to_make_one() -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    out = inside(
        """
try:
    tap(ifname="tap7")
    raise SystemExit("could be had")
except ConfigError as error:
    print(error)
""",
        "setpriv", "--bounding-set", "-all", "--inh-caps", "-all",
    )  # fmt: skip
    assert "Operation not permitted" in out and "ip tuntap add dev tap7 mode tap user $USER" in out and out.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"script": "/etc/qemu-ifup"}, "runs no scripts"),
        ({"downscript": "x"}, "runs no scripts"),
        ({"vhost": "on"}, "vhost=on"),
        ({"vnet_hdr": "x"}, "vnet_hdr=on"),
        ({"ifname": "a" * 16}, "up to 15 characters"),
        ({"ifname": "a/b"}, "up to 15 characters"),
        ({"fd": "0"}, "fd=0"),
        ({"fd": "x"}, "fd=x"),
        ({"fd": "3", "ifname": "tap0"}, "not both"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_netdev(NetConfig(id="n7", kind="tap", options=tuple(options.items())))
    assert problem in str(caught.value) and "n7" in str(caught.value) and "\n" not in str(caught.value)


def test_no_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.backends.net.tap._DEVICE", "/no/such/tun")
    with pytest.raises(ConfigError, match="modprobe tun"):
        open_netdev(NetConfig(id="n7", kind="tap"))
