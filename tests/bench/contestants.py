"""Who runs the guests: pyvmm as a user has it, QEMU's microvm, the bare C loop; and the launcher that takes their times."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.debian import cache_dir

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
GUESTS = CHECKOUT / "guests"
RUN_TIMEOUT = 120
# isa-debug-exit where ACPI's power-off port is elsewhere: guests that power off end QEMU's microvm too (with status 1).
QEMU = [
    "qemu-system-x86_64", "-M", "microvm", "-accel", "kvm", "-m", "128", "-nodefaults", "-no-user-config",
    "-display", "none", "-serial", "stdio", "-no-reboot",
]  # fmt: skip
QEMU_EXIT = ["-device", "isa-debug-exit,iobase=0x604,iosize=2"]


class Missing(Exception):
    """Something this measurement needs is not here; the message says what."""


@dataclass(frozen=True)
class Taken:
    """What a run took, in ms and KiB."""

    wall: float
    first: float
    cpu: float
    rss: float
    status: int
    size: int


def need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not here (Debian: {package})")
    return found


def kvmtool() -> str | None:
    """kvmtool's program: $PYVMM_LKVM, or lkvm on the PATH."""
    return shutil.which(os.environ.get("PYVMM_LKVM") or "lkvm")


@cache
def compiled(name: str, *flags: str) -> Path:
    compiler = need("cc", "gcc libc6-dev")
    source = HERE / f"{name}.c"
    program = cache_dir() / "bench" / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", *flags, "-o", program, source], check=True, timeout=60)
    return program


def launch(command: list[str], status: int = 0) -> Taken:
    """Runs a command with output into a pipe; the status must be as expected."""
    done = subprocess.run([compiled("launch"), *command], capture_output=True, timeout=RUN_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"launch: status {done.returncode}: {done.stderr.decode()}")
    took = json.loads(done.stdout)
    if took["status"] != status:
        raise RuntimeError(f"{' '.join(command)}: status {took['status']}, not {status}: {done.stderr.decode()[-500:]}")
    return Taken(took["wall"] / 1e6, took["first"] / 1e6, took["cpu"] / 1e3, took["rss"], took["status"], took["bytes"])


def bare(image: Path) -> tuple[int, int, int]:
    """(user-space exits, nanoseconds, nanoseconds on a CPU) of the C loop."""
    command = [str(compiled("bare")), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=True)
    exits, nanoseconds, cpu = map(int, done.stdout.split())
    return exits, nanoseconds, cpu


@cache
def installed() -> str:
    """The ``pyvmm`` command of a fresh virtual environment with this checkout installed by pip, as a user has it."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted((*CHECKOUT.glob("pyvmm/**/*.py"), *GUESTS.rglob("*"), CHECKOUT / "pyproject.toml", *CHECKOUT.glob("scripts/*"))):
        if path.is_file():
            digest.update(path.read_bytes())
    place = cache_dir() / "bench" / f"venv-{digest.hexdigest()[:12]}"
    command = place / "bin" / "pyvmm"
    if not command.exists():
        for old in place.parent.glob("venv-*"):
            shutil.rmtree(old, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=RUN_TIMEOUT)
        # A copy: pip builds in the source's own folder and leaves build/ there.
        source = place / "source"
        shutil.copytree(CHECKOUT, source, ignore=shutil.ignore_patterns(".git", "build", "*.egg-info", ".tox", "__pycache__"))
        subprocess.run([place / "bin" / "pip", "install", "--quiet", "--quiet", source], check=True, timeout=RUN_TIMEOUT)
        shutil.rmtree(source)
    return str(command)


def checkout() -> list[str]:
    """The ``pyvmm`` command of this checkout: where start-up is not measured, and pip may have no network."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from pyvmm.cli import entry; entry()"]


def multiboot(code: bytes) -> bytes:
    """A flat 32-bit guest (position-independent) as a Multiboot image, which QEMU's -kernel takes."""
    load, magic, flags, size = 0x10_0000, 0x1BAD_B002, 1 << 16, 32
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFF_FFFF, load, load, load + size + len(code), 0, load + size)
    return header + code


_COUNTERS = {b"\xb9": "<I", b"\xbb": "<I"}  # mov ecx/ebx, imm32: how each benchmark guest begins


def count_of(code: bytes) -> int:
    """How often a benchmark guest does it."""
    if code[:1] not in _COUNTERS:
        raise RuntimeError("the guest does not begin with its counter: adapt contestants.count_of")
    return int(struct.unpack_from("<I", code, 1)[0])


def with_count(code: bytes, count: int) -> bytes:
    """The same guest doing it ``count`` times."""
    count_of(code)
    return code[:1] + struct.pack("<I", count) + code[5:]
