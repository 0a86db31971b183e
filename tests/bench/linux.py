"""Linux: Debian's cloud kernel to /init and power-off. Only where a stock kernel can boot: on host B, for one.

    python tests/nested/amd.py --timeout 1500 --results docs -- python -m tests.bench --only linux --markdown docs/benchmarks.md
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

from pyvmm.kvm.kind import emulates_ring0
from tests.bench import contestants
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section
from tests.support import debian, initramfs

NAME, ROUNDS = "linux", 1
_EVENTS = ("kvm:kvm_userspace_exit", "kvm:kvm_exit")
_MARK = "BENCH-INIT "
_INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "{_MARK}$(/bin/busybox cut -d' ' -f1 /proc/uptime)"
/bin/busybox poweroff -f
"""
_BOOT_SECONDS = 240


def _boot(command: list[str], scratch: Path) -> Mapping[str, float]:
    """One boot: wall time to /init, the guest's own clock there, exits of the whole run."""
    counts = scratch / "perf.txt"
    perf = ["perf", "stat", "-x,", "-o", str(counts), "-e", ",".join(_EVENTS)] if shutil.which("perf") else []
    start, reached, uptime, tail = perf_counter(), 0.0, 0.0, ""
    guest = ["timeout", "-s", "KILL", str(_BOOT_SECONDS), *command]
    with subprocess.Popen([*perf, *guest], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        assert run.stdout is not None
        for line in run.stdout:
            tail = line.decode(errors="replace").strip() or tail
            if _MARK.encode() in line:
                reached, uptime = perf_counter() - start, float(line.split()[-1])
    if not reached:
        raise RuntimeError(f"{' '.join(command)}: /init was not reached; the last line: {tail}")
    found = {"wall": reached, "uptime": uptime}
    for event in _EVENTS if perf else ():
        match = re.search(rf"^(\d+),[^,]*,{event}", counts.read_text(), re.MULTILINE)
        if match:
            found[event] = int(match[1])
    return found


def _contestants(kernel: str, initrd: str) -> dict[str, list[str]]:
    qemu = contestants.need(contestants.QEMU[0], "qemu-system-x86")
    boot = ["-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0", "-m", "256", "-no-reboot"]
    common = ["-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", *boot]
    commands = {
        "pyvmm": [sys.executable, "-m", "pyvmm", "run", *boot],
        "QEMU pc": [qemu, "-M", "pc", *common],
        "QEMU microvm": [qemu, "-M", "microvm", *common],
    }
    kvmtool = contestants.kvmtool()
    if kvmtool:
        console = ["-p", "console=ttyS0", "--console", "serial"]
        commands["kvmtool"] = [kvmtool, "run", "-k", kernel, "-i", initrd, "-m", "256", "-c", "1", *console]
    return commands


def measure(rounds: int) -> Section:
    if emulates_ring0():
        raise contestants.Missing("this KVM interprets ring 0 and boots no stock Linux: see tests/bench/linux.py for host B")
    kernel = str(debian.kernel("cloud").vmlinuz)
    section = Section(
        name=NAME,
        title="Linux to /init",
        how="Debian's cloud kernel, busybox initramfs, `console=ttyS0`, 1 vCPU, 256 MiB; /init powers off. Exits (of the whole run, "
        "power-off included) by `perf stat -e kvm:kvm_userspace_exit,kvm:kvm_exit`; times are those of an emulated host. "
        f"Median (quartiles, min), {rounds} round(s).",
        header=["", "wall to /init, s", "guest's uptime at /init, s", "user-space exits", "kernel exits"],
    )
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        initrd = scratch / "initrd"
        initrd.write_bytes(initramfs.build(_INIT))
        who: dict[str, Measure] = {
            each: partial(_boot, command, scratch) for each, command in _contestants(kernel, str(initrd)).items()
        }
        for each, found in paired(who, rounds, warm=False).items():
            exits = [found[event].spread(0) if event in found else "not counted (no perf)" for event in _EVENTS]
            section.rows.append([each, found["wall"].spread(), found["uptime"].spread(2), *exits])
            section.raw[each] = {key: samples.values for key, samples in found.items()}
    return section
