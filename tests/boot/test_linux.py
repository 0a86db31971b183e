"""Debian's unmodified kernels reach /init on the serial console, count their CPUs, power off and reboot.

Run by tox -e nested inside host B; by hand on any machine whose KVM runs stock Linux: pytest tests/boot.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.support import features, linux

pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
LIMIT = 240.0  # seconds for one boot; about 15 on host B, one on hardware


def boot(kernel: Path, *options: str, append: str = "", smp: int = 1) -> subprocess.CompletedProcess[bytes]:
    """Boots to /init and on to whatever ``append`` asks of it."""
    return features.run_pyvmm(
        "run", "-kernel", str(kernel), "-initrd", str(linux.initrd()), "-append", f"console=ttyS0 {append}", "-m", "256", "-smp", str(smp),
        "-no-reboot", "--timeout", str(LIMIT), *options, timeout=LIMIT + 60,
    )  # fmt: skip


def reached_init(ended: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    """What /init printed; asserts that it did, and that the run ended well."""
    shown = ended.stdout.decode("latin-1")
    assert ended.returncode == 0, f"status {ended.returncode}\n{shown[-3000:]}\n{ended.stderr.decode()}"
    assert ended.stderr == b""
    line = next((line for line in shown.splitlines() if line.startswith(linux.READY)), None)
    assert line is not None, shown[-3000:]
    return dict(word.split("=") for word in line.split()[1:])


# Warnings that are true: a conventional PCI bus has no extended configuration space (QEMU's pc gets the same line), and the
# nested host's clock is unstable.
KNOWN = (
    "fail to add MMCONFIG information",
    "Unstable clock", "trace_clock", "local clock", "kernel command line", "clocksource",
)  # fmt: skip
CASES = [
    # image, flavour, format, vCPUs: every way in at least once on each kernel; --full runs the whole matrix
    ("bzimage", "cloud", "auto", 1),
    ("bzimage", "cloud", "auto", 4),
    ("bzimage", "cloud", "linux32", 1),
    ("bzimage", "generic", "auto", 2),
    ("vmlinux", "cloud", "pvh", 2),
    ("vmlinux", "generic", "pvh", 1),
    ("vmlinux", "cloud", "vmlinux", 1),
    ("vmlinux", "generic", "vmlinux", 4),
]
WAYS = (("bzimage", "auto"), ("bzimage", "linux32"), ("vmlinux", "pvh"), ("vmlinux", "vmlinux"))
FULL = [(image, flavour, fmt, smp) for image, fmt in WAYS for flavour in ("cloud", "generic") for smp in (1, 2, 4)]


@pytest.mark.parametrize(("image", "flavour", "fmt", "smp"), FULL if os.environ.get("PYVMM_FULL") else CASES)
def test_reaches_init(image: str, flavour: str, fmt: str, smp: int) -> None:
    found = reached_init(boot(linux.image(flavour, image), "-format", fmt, append="quiet", smp=smp))  # type: ignore[arg-type]
    assert found["nproc"] == str(smp)


@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed (Debian: linux-perf)")
def test_user_space_exits_to_init_and_no_warnings(tmp_path: Path) -> None:
    """Issue 2, item 4: at most 30,000 exits to /init of the cloud kernel with its full log on ttyS0 (QEMU pc: 57,262)."""
    counts = tmp_path / "perf.csv"
    command = [
        "perf", "stat", "-x,", "-o", str(counts), "-e", "kvm:kvm_userspace_exit", sys.executable, "-m", "pyvmm", "run",
        "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-append", "console=ttyS0 pyvmm.run=warnings",
        "-m", "256", "-no-reboot", "--timeout", str(LIMIT),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, timeout=LIMIT + 60, stdin=subprocess.DEVNULL)
    reached_init(ended)
    shown = ended.stdout.decode("latin-1")
    assert "is a 16550A" in shown
    troubles = [line for line in shown.splitlines() if line.startswith("KMSG")]
    assert not [line for line in troubles if not any(word in line for word in KNOWN)], "\n".join(troubles)
    exits = int(counts.read_text().splitlines()[-1].split(",")[0])
    print(f"user-space exits to power-off: {exits}")
    assert exits <= 30_000


def test_reboot_ends_with_status_0_under_no_reboot() -> None:
    reached_init(boot(linux.image("cloud", "bzimage"), append="quiet pyvmm.run=reboot"))


def test_reboot_boots_again_without_no_reboot() -> None:
    """The second boot is stopped by the timeout, so the log must show two kernels."""
    ended = features.run_pyvmm(
        "run", "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-append",
        "console=ttyS0 quiet pyvmm.run=reboot", "-m", "256", "--timeout", "60", timeout=200,
    )  # fmt: skip
    assert ended.returncode == 124
    assert ended.stdout.decode("latin-1").count(linux.READY) >= 2


def test_without_acpi_the_mp_table_serves() -> None:
    """The generic kernel: Debian's cloud kernel is built without CONFIG_X86_MPPARSE."""
    found = reached_init(boot(linux.image("generic", "bzimage"), "-machine", "acpi=off", append="quiet pyvmm.run=reboot", smp=2))
    assert found["nproc"] == "2"


def test_interactive_shell_through_a_terminal() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [
        sys.executable, "-m", "pyvmm", "run", "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()),
        "-append", "console=ttyS0 quiet pyvmm.run=shell", "-m", "256", "-no-reboot", "--timeout", str(LIMIT),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
    try:
        seen = _expect(master, rb"# ")
        os.write(master, b"echo result=$((6 * 7))\r")
        seen = _expect(master, rb"result=42\r*\n")  # the guest's \r\n, and the terminal's own \r before \n
        os.write(master, b"poweroff -f\r")
        assert process.wait(LIMIT) == 0, seen
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def _expect(fd: int, pattern: bytes) -> bytes:
    """Reads from ``fd`` until ``pattern`` appears."""
    seen, deadline = b"", time.monotonic() + LIMIT
    while not re.search(pattern, seen):
        left = deadline - time.monotonic()
        assert left > 0, f"no {pattern!r} in {seen[-2000:]!r}"
        if select.select([fd], [], [], min(left, 1))[0]:
            seen += os.read(fd, 4096)
    return seen
