"""The tiny network guests on wires between them: pyvmm, QEMU, the kernel behind a tap; and what the dump says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import catalogue
from tests.support import netns, network, pcapfile
from tests.support.features import run_pyvmm
from tests.support.process import read_until, wait_until

pytestmark = pytest.mark.kvm
LIMIT = 60.0
CARDS = {"e1000": "e1000", "virtio-net": "virtio-net-pci"}
QEMU = [
    "qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none",
    "-serial", "stdio", "-no-reboot", "-global", "e1000.romfile=", "-global", "virtio-net-pci.romfile=",  # nobody boots from these cards
]  # fmt: skip
# (card, who listens) beside QEMU, whose firmware takes seconds on a KVM in software. A card and a socket know nothing of one another.
BESIDE_QEMU = [("e1000", "pyvmm"), ("virtio-net", "qemu")]
if os.environ.get("PYVMM_FULL"):
    BESIDE_QEMU += [("e1000", "qemu"), ("virtio-net", "pyvmm")]


def words(guest: str, append: str, netdev: str) -> list[str]:
    """What pyvmm and QEMU understand alike; the netdev is called n."""
    card = CARDS[guest] + (",disable-legacy=on" if guest != "e1000" else "")
    image = catalogue.find(guest).file
    return ["-kernel", image, "-append", append, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4",
            "-netdev", netdev, "-device", f"{card},netdev=n"]  # fmt: skip


def pyvmm(*given: str) -> list[str]:
    return [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), *given]


_started: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _none_stays() -> Iterator[None]:
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """A process that does not outlive the test."""
    _started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return _started[-1]


def ended(process: subprocess.Popen[bytes]) -> str:
    """Its output; status 0 and PASS asserted."""
    shown = process.communicate(timeout=LIMIT + 30)[0].decode("latin-1")
    assert process.returncode == 0 and "PASS" in shown, f"status {process.returncode}: {shown}"
    return shown


def stream(path: Path, server: bool) -> str:
    return f"stream,id=n,server={'on' if server else 'off'},addr.type=unix,addr.path={path}"


def sniffed(dump: Path) -> pcapfile.Seen:
    """Frames in order, and tshark finds no fault in them either, where it is installed."""
    seen = pcapfile.examine(dump)
    assert not seen.bad, seen.bad
    tshark = shutil.which("tshark")
    if tshark:
        checks = [f"-o{name}.check_checksum:TRUE" for name in ("ip", "tcp", "udp")]
        faults = "_ws.malformed or _ws.expert.severity >= error or ip.checksum.status==0 or icmp.checksum.status==0"
        command = [tshark, "-r", str(dump), *checks, "-Y"]
        done = subprocess.run([*command, faults], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr
        done = subprocess.run([*command, "frame"], capture_output=True, text=True, timeout=60)
        assert len(done.stdout.splitlines()) == seen.frames
    return seen


@pytest.mark.parametrize("mode", ["", "irq "], ids=["polling", "irq"])
@pytest.mark.parametrize(("first", "second"), [("e1000", "virtio-net"), ("virtio-net", "e1000")])
def test_two_guests_on_a_stream(first: str, second: str, mode: str, tmp_path: Path) -> None:
    wire, dump = tmp_path / "wire", tmp_path / "dump.pcap"
    listening = start(pyvmm(*words(first, f"{mode}ip=10.1.0.1 answer=100", stream(wire, True) + f",pcap={dump}")))
    wait_until(wire.exists, "a listener")
    # Asks again when the other guest was not up yet, which one that sleeps until an interrupt cannot
    calling = words(second, "ip=10.1.0.2 peer=10.1.0.1 pings=100", stream(wire, False))
    shown = ended(start(pyvmm(*calling)))
    assert "100 of 100 pings answered" in shown
    assert "answered 100" in ended(listening)
    seen = sniffed(dump)
    assert seen.kinds["icmp"] == 200 and seen.kinds["arp"] >= 2 and seen.longest == 42 + 1432, seen


@pytest.mark.skipif(shutil.which(QEMU[0]) is None, reason="QEMU is not installed (Debian: qemu-system-x86)")
@pytest.mark.parametrize(("guest", "server"), BESIDE_QEMU)
def test_pyvmm_and_qemu_on_a_stream(guest: str, server: str, tmp_path: Path) -> None:
    wire = tmp_path / "wire"
    who = {"pyvmm": pyvmm(), "qemu": QEMU}
    other = "qemu" if server == "pyvmm" else "pyvmm"
    listening = start([*who[server], *words(guest, "irq ip=10.1.0.1 answer=20", stream(wire, True))])
    assert listening.stdout is not None
    read_until(listening.stdout.fileno(), b"in slot")  # its firmware is through; a caller would ask again and again meanwhile
    calling = start([*who[other], *words(guest, "ip=10.1.0.2 peer=10.1.0.1 pings=20", stream(wire, False))])
    assert "20 of 20 pings answered" in ended(calling)
    assert "answered 20" in ended(listening)


@pytest.mark.parametrize("guest", CARDS)
def test_tap(guest: str, tmp_path: Path) -> None:
    """The kernel answers the guest's pings, the guest the kernel's."""
    if reason := netns.why_not():
        pytest.skip(reason)

    def body() -> None:
        netns.tap("tap7", "10.1.0.1/24")
        netdev = "tap,id=n,ifname=tap7,script=no,downscript=no"
        shown = ended(start(pyvmm(*words(guest, "irq ip=10.1.0.2 peer=10.1.0.1 pings=50", netdev))))
        assert "50 of 50 pings answered" in shown
        listening = start(pyvmm(*words(guest, "irq ip=10.1.0.2 answer=1000000", netdev)))
        pings = ["tests/support/pinger.py", "10.1.0.2", "20"]
        done = subprocess.run([sys.executable, *pings], capture_output=True, text=True, timeout=LIMIT, cwd=Path(__file__).parents[2])
        listening.kill()
        assert done.stdout == "20 of 20\n", f"{done}\n{listening.communicate()[0].decode('latin-1')}"

    netns.inside(body)


@pytest.mark.parametrize("guest", CARDS)
def test_user_network_in_the_dump(guest: str, tmp_path: Path) -> None:
    """Also: a run that is killed leaves a file that can be read."""
    if missing := network.why_no_user():
        pytest.skip(missing)
    dump = tmp_path / "dump.pcap"
    given = words(guest, "irq pings=10", "user,id=n")
    done = run_pyvmm("run", *given, "-object", f"filter-dump,id=d,netdev=n,file={dump}", "--timeout", str(LIMIT), timeout=LIMIT + 30)
    assert done.returncode == 0 and done.stderr == b"", done
    seen = sniffed(dump)
    assert seen.kinds["icmp"] == 20 and seen.kinds["arp"] >= 2, seen
    dump.unlink()
    process = start(pyvmm(*words(guest, "irq pings=1000000", f"user,id=n,pcap={dump}")))
    # Not at 4096: SIGKILL ends even a write(2) between two pages of the file.
    wait_until(lambda: dump.exists() and dump.stat().st_size > 5000, "frames in the dump")
    process.kill()
    process.communicate()
    assert sniffed(dump).frames >= 8
