"""A machine inside the sandbox: it runs as without, opens nothing it was not given, and an escaped device gets nowhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.sandbox import landlock, seccomp
from tests.support import features
from tests.support.process import UNCOUNTED

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not landlock.abi() or not seccomp.available(), reason="this kernel has no Landlock or no seccomp filters"),
]

# A device whose register, written by the guest, does what code of an attacker in the VMM would.
ESCAPE = """
import os, socket, sys
from pyvmm.cli.options import Options
from pyvmm.cli.run import Session

options = Options(["hello", "-sandbox", sys.argv[1], "--timeout", "20"])
session = Session(options.config)

def escape(offset, size, value):
    try:
        {attempt}
    except OSError as error:
        os.write(1, type(error).__name__.encode())
    else:
        os.write(1, b"escaped")
    session.machine.stop()

def seal():
    for mapping in session.machine.ports.mappings:
        if mapping.base == 0x3F8:
            mapping.write = escape
    if options.seal:
        options.seal()

session.seal = seal
session.run(20.0)
session.close()
"""


def _escape(attempt: str, sandbox: str) -> subprocess.CompletedProcess[str]:
    script = ESCAPE.format(attempt=attempt)
    return subprocess.run([sys.executable, "-c", script, sandbox], capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize(
    ("attempt", "status", "says"),
    [
        pytest.param("open('/etc/passwd').read()", 0, "PermissionError", id="open"),
        pytest.param("open('/dev/shm/escaped', 'w')", 0, "PermissionError", id="create"),
        pytest.param("os.execv('/bin/true', ['true'])", -31, "", id="exec"),  # SIGSYS
        pytest.param("os.posix_spawn('/bin/true', ['true'], {})", 0, "PermissionError", id="spawn"),
        pytest.param("socket.create_connection(('127.0.0.1', 1))", 0, "PermissionError", id="connect"),
        pytest.param("os.kill(os.getppid(), 0)", 0, "PermissionError", id="kill"),
    ],
)
def test_an_escaped_device_gets_nowhere(attempt: str, status: int, says: str) -> None:
    ended = _escape(attempt, "on")
    assert (ended.returncode, ended.stdout) == (status, says), ended.stderr


def test_the_attempt_would_work_without() -> None:
    ended = _escape("open('/etc/passwd').read()", "off")
    assert (ended.returncode, ended.stdout) == (0, "escaped"), ended.stderr


@pytest.mark.parametrize("guest", ["hello", "timer-lapic", "virtio-blk", "virtio-net", "e1000", "triple-fault"])
def test_guests_run_as_without(guest: str) -> None:
    plain = features.run_pyvmm("run", guest, "--timeout", "30")
    sealed = features.run_pyvmm("run", guest, "--timeout", "30", "-sandbox", "on")
    assert (sealed.returncode, sealed.stdout) == (plain.returncode, plain.stdout), sealed.stderr.decode()


def test_a_guest_boots_again_inside(tmp_path: Path) -> None:
    image = tmp_path / "reset.bin"
    image.write_bytes(bytes.fromhex("baf803 b041 ee b0fe e664"))  # mov dx,3f8h; mov al,'A'; out dx,al; reset by the keyboard controller
    ended = features.run_pyvmm("run", str(image), "-format", "flat16", "--timeout", "4", "--sandbox", "on")
    assert ended.returncode == 124 and ended.stdout.count(b"A") > 2, ended.stderr.decode()
    assert ended.stderr.startswith(b"pyvmm: timeout"), ended.stderr.decode()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_path_is_opened_after_the_door_is_closed(tmp_path: Path) -> None:
    """Issue 7, item 3: a run with a disk and a network."""
    disk, log = tmp_path / "disk.img", tmp_path / "strace"
    disk.write_bytes(bytes(1 << 20))
    command = [
        "strace", "-f", "-qq", "-e", "trace=%file,%process,%network,seccomp,prctl,landlock_restrict_self", "-o", str(log), sys.executable,
        "-m", "pyvmm", "run", "virtio-blk", "-drive", f"file={disk},format=raw,if=virtio", "-nic", "user", "-sandbox", "on",
        "--timeout", "60",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120, stdin=subprocess.DEVNULL, env=UNCOUNTED)
    if b"libslirp" in ended.stderr:
        pytest.skip("libslirp is not installed")
    assert ended.returncode == 0 and b"PASS" in ended.stdout, ended.stderr.decode()
    lines = log.read_text().splitlines()
    closed = max(at for at, line in enumerate(lines) if "PR_SET_SECCOMP" in line or "seccomp(SECCOMP_SET" in line)
    assert any("landlock_restrict_self" in line for line in lines[:closed])
    after = [line for line in lines[closed + 1 :] if re.search(r"open|stat|exec|connect|bind|unlink|access", line)]
    paths = {match.group(1) for line in after if (match := re.search(r'AT_FDCWD, "([^"]+)"', line))}
    assert paths <= {"/etc/resolv.conf"}, paths
    assert os.path.getsize(log) > 0
