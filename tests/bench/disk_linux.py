"""Disk requests of a Linux guest with O_DIRECT: pyvmm, QEMU, kvmtool. Only where a stock kernel can boot: on host B, for one.

    python tests/nested/amd.py --timeout 1500 --results docs --env PYVMM_LKVM=PATH -- \\
        python -m tests.bench --only disk_linux --markdown docs/benchmarks.md

PYVMM_LKVM is kvmtool's program, where it is not called lkvm on the PATH; Debian has no package of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pyvmm.kvm.kind import emulates_ring0
from tests.bench import contestants, phases
from tests.bench.disk import rows
from tests.bench.samples import Measure, Results, paired
from tests.bench.sections import Section
from tests.support import cpio, debian, initramfs

NAME, ROUNDS = "disk_linux", 5
_SIZE = 48 << 20  # of each disk; in the page cache of the host, or in its memory where /tmp is there
_LIMIT = 1500  # seconds for all
_MODULES = ("virtio_ring", "virtio_pci", "virtio_mmio", "virtio_blk")
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod $module; done
/diskload /dev/vda
/bin/busybox reboot -f
"""
# load of diskload.c: label, requests in a round, unit
_LOADS = {
    "read-1M": ("read 1 MiB, sequential", 96, "MiB/s"),
    "write-1M": ("write 1 MiB, sequential", 96, "MiB/s"),
    "read-4K": ("read 4 KiB, random, depth 1", 400, "requests/s"),
    "read-4K-deep": ("read 4 KiB, random, depth 32", 1500, "requests/s"),
    "write-flush": ("write 4 KiB, random, and fdatasync", 150, "pairs/s"),
}


def _contestants(kernel: str, initrd: str, scratch: Path) -> dict[str, list[str]]:
    """Each has its own disk: a VMM keeps the others from writing to its image."""

    def drive(number: int) -> list[str]:
        return ["-drive", f"file={scratch}/disk{number},format=raw,if=none,id=disk"]

    qemu = contestants.need(contestants.QEMU[0], "qemu-system-x86")
    line = "console=ttyS0 quiet panic=-1"
    boot = ["-kernel", kernel, "-initrd", initrd, "-append", line, "-m", "256", "-no-reboot"]
    pyvmm = [sys.executable, "-m", "pyvmm", "run", *boot]
    common = ["-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", *boot]
    commands = {
        "pyvmm": [*pyvmm, *drive(0), "-device", "virtio-blk-pci,drive=disk"],
        "pyvmm, ioeventfd=off": [*pyvmm, *drive(1), "-device", "virtio-blk-pci,drive=disk,ioeventfd=off"],
        "QEMU pc": [qemu, "-M", "pc", *common, *drive(2), "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"],
    }
    kvmtool = contestants.kvmtool()
    if kvmtool:
        console = ["-p", line, "--console", "serial", "--network", "mode=none"]
        commands["kvmtool"] = [kvmtool, "run", "-k", kernel, "-i", initrd, "-m", "256", "-c", "1", "-d", f"{scratch}/disk3", *console]
    return commands


def _sample(guest: phases.Guest, load: str, count: int) -> Mapping[str, float]:
    found = guest.phase(load, count)
    taken = {"rate": count * 1e9 / found.wall, "cpu": found.cpu / count / 1000}
    if found.exits is not None:
        taken["exits"] = found.exits / count
    return taken


def measure(rounds: int) -> Section:
    if emulates_ring0():
        raise contestants.Missing("this KVM interprets ring 0 and boots no stock Linux: see tests/bench/disk_linux.py for host B")
    kernel = debian.kernel("generic")
    program = contestants.compiled("diskload", "-static").read_bytes()
    absent = "" if contestants.kvmtool() else " kvmtool was not there (PYVMM_LKVM)."
    results: dict[str, Results] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as ending:
        initrd = Path(scratch, "initrd")
        extra = [*initramfs.modules(kernel, _MODULES, signed=False), cpio.file("diskload", program, executable=True)]
        initrd.write_bytes(initramfs.build(_INIT, extra=extra))
        commands = _contestants(str(kernel.vmlinuz), str(initrd), Path(scratch))
        guests: dict[str, phases.Guest] = {}
        for number, (name, command) in enumerate(commands.items()):
            with Path(scratch, f"disk{number}").open("wb") as file:
                for _ in range(_SIZE >> 20):
                    file.write(bytes(range(256)) * 4096)
            guests[name] = phases.Guest(command, _LIMIT)
            ending.callback(guests[name].end)
            guests[name].wait("ready")
        for load, (_, count, _) in _LOADS.items():
            who: dict[str, Measure] = {name: partial(_sample, guest, load, count) for name, guest in guests.items()}
            results[load] = paired(who, rounds)
    section = Section(
        name=NAME,
        title="Disk requests, Linux",
        how="Debian's generic kernel, 1 vCPU, 256 MiB, virtio-blk, `tests/bench/diskload.c` with O_DIRECT in the guest. All "
        "are up from beginning to end and take turns, load by load, while the others idle. A raw image of 48 MiB each in memory, "
        "`cache=writeback` (as QEMU and kvmtool by default). "
        f"Median (quartiles, min), {rounds} rounds. Times by the clock of the host, CPU time of the whole VMM process with its guest, "
        f"exits by the tracepoint `kvm:kvm_userspace_exit`.{absent}",
        header=["", *commands, "pyvmm / QEMU"],
    )
    for load, (label, _, unit) in _LOADS.items():
        section.rows += rows(label, unit, results[load], "pyvmm", "QEMU pc")
        section.raw[load] = {name: {key: each.values for key, each in found.items()} for name, found in results[load].items()}
    return section
