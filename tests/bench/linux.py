"""Linux: Debian's cloud kernel to /init, and its reset. Where this KVM boots no stock kernel, on host B (tests/nested/amd.py).

PYVMM_BENCH_ICOUNT=1: on a host B whose clocks count instructions. CPU times are good to 0.1 % then, however busy this machine is; its wall
times are not, for whatever waits for this machine's files waits for long by such a clock.
"""

from __future__ import annotations

import compileall
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import clock_gettime_ns, perf_counter

from pyvmm.kvm.kind import emulates_ring0
from tests.bench import contestants
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section
from tests.support import debian, initramfs

NAME, ROUNDS = "linux", 2
_EVENTS = ("kvm:kvm_userspace_exit", "kvm:kvm_exit")
_MARK = "BENCH-INIT "
_INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "{_MARK}$(/bin/busybox cut -d' ' -f1 /proc/uptime)"
/bin/busybox reboot -f
"""  # not power-off: kvmtool has no ACPI
_BOOT_SECONDS = 240


def _boot(command: list[str], scratch: Path) -> Mapping[str, float]:
    """One boot: wall and CPU time of the VMM to /init, the guest's own clock there, exits of the whole run."""
    counts = scratch / "perf.txt"
    perf = ["perf", "stat", "-x,", "-o", str(counts), "-e", ",".join(_EVENTS)] if shutil.which("perf") else []
    found: dict[str, float] = {}
    start, tail = perf_counter(), ""
    with subprocess.Popen([*perf, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        watch = threading.Timer(_BOOT_SECONDS, lambda: os.kill(_vmm(run.pid, bool(perf)), 9))
        watch.start()
        assert run.stdout is not None
        for line in run.stdout:
            tail = line.decode(errors="replace").strip() or tail
            if _MARK.encode() in line:
                clock = (~_vmm(run.pid, bool(perf)) << 3) | 2  # clock_getcpuclockid(3): all threads of a process
                found = {"wall": perf_counter() - start, "cpu": clock_gettime_ns(clock) / 1e9, "uptime": float(line.split()[-1])}
        watch.cancel()
    if not found:
        raise RuntimeError(f"{' '.join(command)}: /init was not reached; the last line: {tail}")
    for event in _EVENTS if perf else ():
        match = re.search(rf"^(\d+),[^,]*,{event}", counts.read_text(), re.MULTILINE)
        if match:
            found[event] = int(match[1])
    return found


def _vmm(started: int, wrapped: bool) -> int:
    """The VMM's process: what was started, or the one child of that."""
    return int(Path(f"/proc/{started}/task/{started}/children").read_text().split()[0]) if wrapped else started


def _warm(command: list[str]) -> None:
    """Has its files read once: till the first line of its output."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.kill()


def _installed(scratch: Path) -> list[str]:
    """pyvmm as an installation has it, compiled; pip would want a network here."""
    shutil.copytree(contestants.CHECKOUT / "pyvmm", scratch / "pyvmm", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(scratch / "pyvmm", quiet=2)
    shutil.copy(contestants.CHECKOUT / "pyvmm" / "cli" / "pyvmm", scratch / "command")
    return [sys.executable, str(scratch / "command")]


def _contestants(scratch: Path, kernel: str, initrd: str) -> dict[str, list[str]]:
    qemu = contestants.need(contestants.QEMU[0], "qemu-system-x86")
    boot = ["-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0", "-m", "256", "-no-reboot"]
    common = ["-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", *boot]
    commands = {
        "pyvmm": [*_installed(scratch), "run", *boot],
        "QEMU pc": [qemu, "-M", "pc", *common],
        "QEMU microvm": [qemu, "-M", "microvm", *common],
    }
    kvmtool = contestants.kvmtool()
    if kvmtool:
        console = ["-p", "console=ttyS0", "--console", "serial"]
        commands["kvmtool"] = [kvmtool, "run", "-k", kernel, "-i", initrd, "-m", "256", "-c", "1", *console]
    return commands


def _on_host_b(rounds: int) -> Section:
    """The same there; its table comes back as JSON."""
    with tempfile.TemporaryDirectory() as results:
        found = Path(results, "linux.json")
        command = [sys.executable, str(contestants.CHECKOUT / "tests" / "nested" / "amd.py"), "--timeout", "1500", "--results", results]
        command += ["--icount"] if os.environ.get("PYVMM_BENCH_ICOUNT") else []
        kvmtool = contestants.kvmtool()
        command += ["--env", f"PYVMM_LKVM={kvmtool}"] if kvmtool else []
        command += ["--env", "PYVMM_BENCH_ICOUNT=1"] if "--icount" in command else []
        bench = [sys.executable, "-m", "tests.bench", "--only", NAME, "--rounds", str(rounds), "--json", str(found)]
        status = subprocess.run([*command, "--", *bench], cwd=contestants.CHECKOUT, stdout=subprocess.DEVNULL).returncode
        if status or not found.exists():
            raise contestants.Missing(f"this KVM boots no stock Linux, and host B failed: status {status} of tests/nested/amd.py")
        (section,) = json.loads(found.read_text())
        return Section(**section)


def measure(rounds: int) -> Section:
    if emulates_ring0():
        return _on_host_b(rounds)
    kernel = str(debian.kernel("cloud").vmlinuz)
    section = Section(
        name=NAME,
        title="Linux to /init",
        how="Debian's cloud kernel, busybox initramfs, `console=ttyS0`, 1 vCPU, 256 MiB; /init resets. Images and pyvmm in memory, all "
        "read once before. Times from the start of the process to /init's line, CPU time of the whole VMM with its guest. Exits (of the "
        "whole run) by `perf stat -e kvm:kvm_userspace_exit,kvm:kvm_exit`; times are those of an emulated host. "
        f"Median (quartiles, min), {rounds} round(s).",
        header=["", "wall, s", "CPU time, s", "guest's uptime, s", "user-space exits", "kernel exits"],
    )
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        initrd = scratch / "initrd"
        initrd.write_bytes(initramfs.build(_INIT))
        commands = _contestants(scratch, shutil.copy(kernel, str(scratch / "vmlinuz")), str(initrd))
        for command in commands.values():
            _warm(command)
        who: dict[str, Measure] = {each: partial(_boot, command, scratch) for each, command in commands.items()}
        for each, found in paired(who, rounds, warm=False).items():
            exits = [found[event].spread(0) if event in found else "not counted (no perf)" for event in _EVENTS]
            section.rows.append([each, found["wall"].spread(), found["cpu"].spread(2), found["uptime"].spread(2), *exits])
            section.raw[each] = {key: samples.values for key, samples in found.items()}
    if "kvmtool" not in commands:
        section.rows.append(["kvmtool", "not here: PYVMM_LKVM=PATH of lkvm", "", "", "", ""])
    if os.environ.get("PYVMM_BENCH_ICOUNT"):
        section.how += " The host's clocks counted instructions (PYVMM_BENCH_ICOUNT=1): CPU times are ratios, wall times are of no use."
    return section
