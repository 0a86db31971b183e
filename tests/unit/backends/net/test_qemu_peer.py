"""QEMU at the other end of a stream: its framing, its coming and going; no guest, its user network answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.backends.net.backend import open_netdev
from pyvmm.config import NetConfig
from tests.support.guestnet import Guest, ip
from tests.support.network import running_loop

QEMU = "qemu-system-x86_64"


@contextmanager
def qemu(socket_netdev: str) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU without a machine, running (stopped, it passes no frame on): its user network and our socket on one hub."""
    if not shutil.which(QEMU):
        pytest.skip(f"{QEMU} is not installed")
    kinds = subprocess.run([QEMU, "-netdev", "help"], capture_output=True, text=True, check=False).stdout.split()
    if "stream" not in kinds or "user" not in kinds:
        pytest.skip("this QEMU has no -netdev stream (7.2) or no -netdev user")
    process = subprocess.Popen(
        [
            QEMU, "-machine", "none", "-nodefaults", "-display", "none",
            "-netdev", "user,id=u", "-netdev", socket_netdev,
            "-netdev", "hubport,hubid=0,id=h0,netdev=u", "-netdev", "hubport,hubid=0,id=h1,netdev=s",
        ],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def talk(guest: Guest, until: object) -> None:
    """An address by DHCP, and echoes of every size that fits."""
    assert callable(until)
    guest.discover()
    assert until(lambda: guest.dhcp)
    guest.address = guest.dhcp[0][0]
    guest.request(guest.address, guest.dhcp[0][54])
    assert until(lambda: len(guest.dhcp) == 2 and guest.dhcp[1][53] == b"\x05")
    guest.ask("10.0.2.2")
    assert until(lambda: guest.neighbours)
    sizes = [0, 1, 100, 1400, 1472]
    for number, size in enumerate(sizes):
        guest.ping("10.0.2.2", number, os.urandom(size))
    assert until(lambda: len(guest.echoes) == len(sizes))
    assert {(source, len(data)) for source, _, _, data in guest.echoes} == {(ip("10.0.2.2"), size) for size in sizes}


def test_qemu_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with qemu(f"stream,id=s,server=on,addr.type=unix,addr.path={path}"), running_loop() as loop:
        options = (("addr.type", "unix"), ("addr.path", path), ("reconnect-ms", "20"))
        wire = open_netdev(NetConfig(id="n", kind="stream", options=options))
        guest = Guest(wire)
        wire.attach(loop, guest)
        assert loop.until(lambda: wire.link, 30)
        talk(guest, loop.until)
        wire.close()


def test_qemu_connects_and_goes(tmp_path: Path) -> None:
    path, dump = str(tmp_path / "s"), str(tmp_path / "dump")
    with running_loop() as loop:
        options = (("addr.type", "unix"), ("addr.path", path), ("server", "on"))
        wire = open_netdev(NetConfig(id="n", kind="stream", options=options, pcap=dump))
        guest = Guest(wire)
        wire.attach(loop, guest)
        for _ in range(2):
            guest.dhcp.clear()
            guest.neighbours.clear()
            guest.echoes.clear()
            guest.address = bytes(4)
            with qemu(f"stream,id=s,server=off,addr.type=unix,addr.path={path}"):
                assert loop.until(lambda: wire.link, 30)
                talk(guest, loop.until)
            assert loop.until(lambda: not wire.link)
        assert guest.links == [True, False] * 2 and wire.counters.malformed == wire.counters.dropped_tx == 0
        wire.close()
    if shutil.which("tshark"):
        fields = ["-T", "fields", "-e", "dhcp.option.dhcp", "-Y", "dhcp or _ws.malformed"]
        done = subprocess.run(["tshark", "-r", dump, *fields], capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.split() == ["1", "2", "3", "5"] * 2


def test_qemus_older_spelling(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_loop() as loop:
        wire = open_netdev(NetConfig(id="n", kind="socket", options=(("listen", f"127.0.0.1:{port}"),)))
        guest = Guest(wire)
        wire.attach(loop, guest)
        with qemu(f"socket,id=s,connect=127.0.0.1:{port}"):
            assert loop.until(lambda: wire.link, 30)
            talk(guest, loop.until)
        wire.close()
