"""Disk requests of a Linux guest with O_DIRECT: pyvmm, QEMU, kvmtool. Only where a stock kernel can boot: on host B, for one.

    python tests/nested/amd.py --timeout 1500 --results docs --env PYVMM_LKVM=PATH -- \\
        python -m tests.bench --only disk_linux --markdown docs/benchmarks.md

PYVMM_LKVM is kvmtool's program, where it is not called lkvm on the PATH; Debian has no package of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pyvmm.kvm.kind import emulates_ring0
from tests.bench import contestants, phases
from tests.bench.disk import rows
from tests.bench.samples import Measure, Results, paired
from tests.bench.sections import Section
from tests.support import cpio, debian, initramfs

NAME, ROUNDS = "disk_linux", 1
_SIZE = 96 << 20  # of the disk; in the page cache of the host, or in its memory where /tmp is there
_LIMIT = 400  # seconds for one boot
_MODULES = ("virtio_ring", "virtio_pci", "virtio_mmio", "virtio_blk")
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod $module; done
/diskload /dev/vda
/bin/busybox reboot -f
"""
# phase of diskload.c: label, requests in it, unit, what one request counts in that unit
_LOADS = {
    "read-1M": ("read 1 MiB, sequential", 192, "MiB/s", 1.0),
    "write-1M": ("write 1 MiB, sequential", 192, "MiB/s", 1.0),
    "read-4K": ("read 4 KiB, random, depth 1", 1500, "requests/s", 1.0),
    "read-4K-deep": ("read 4 KiB, random, depth 32", 3000, "requests/s", 1.0),
    "write-flush": ("write 4 KiB, random, and fdatasync", 500, "pairs/s", 1.0),
}


def _contestants(kernel: str, initrd: str, image: Path) -> dict[str, list[str]]:
    qemu = contestants.need(contestants.QEMU[0], "qemu-system-x86")
    line = "console=ttyS0 quiet panic=-1"
    boot = ["-kernel", kernel, "-initrd", initrd, "-append", line, "-m", "256", "-no-reboot"]
    drive = ["-drive", f"file={image},format=raw,if=none,id=disk"]
    pyvmm = [sys.executable, "-m", "pyvmm", "run", *boot, *drive, "-device"]
    common = ["-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", *boot, *drive]
    commands = {
        "pyvmm": [*pyvmm, "virtio-blk-pci,drive=disk"],
        "pyvmm, ioeventfd=off": [*pyvmm, "virtio-blk-pci,drive=disk,ioeventfd=off"],
        "QEMU pc": [qemu, "-M", "pc", *common, "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"],
    }
    kvmtool = contestants.kvmtool()
    if kvmtool:
        console = ["-p", line, "--console", "serial", "--network", "mode=none"]
        commands["kvmtool"] = [kvmtool, "run", "-k", kernel, "-i", initrd, "-m", "256", "-c", "1", "-d", str(image), *console]
    return commands


def _sample(command: list[str]) -> Mapping[str, float]:
    """One boot with all loads; keys are "load/quantity"."""
    found: dict[str, float] = {}
    for name, phase in phases.run(command, _LIMIT, status=None).items():
        _, count, _, scale = _LOADS[name]
        found[f"{name}/rate"] = count * 1e9 * scale / phase.wall
        found[f"{name}/cpu"] = phase.cpu / count / 1000
        if phase.exits is not None:
            found[f"{name}/exits"] = phase.exits / count
    if len({key.partition("/")[0] for key in found}) != len(_LOADS):
        raise phases.Failed(f"{' '.join(command)}: not all loads ran: {sorted(found)}")
    return found


def measure(rounds: int) -> Section:
    if emulates_ring0():
        raise contestants.Missing("this KVM interprets ring 0 and boots no stock Linux: see tests/bench/disk_linux.py for host B")
    kernel = debian.kernel("generic")
    program = contestants.compiled("diskload", "-static").read_bytes()
    absent = "" if contestants.kvmtool() else " kvmtool was not there (PYVMM_LKVM)."
    with tempfile.TemporaryDirectory() as scratch:
        initrd, image = Path(scratch, "initrd"), Path(scratch, "disk.img")
        extra = [*initramfs.modules(kernel, _MODULES, signed=False), cpio.file("diskload", program, executable=True)]
        initrd.write_bytes(initramfs.build(_INIT, extra=extra))
        with image.open("wb") as file:
            for _ in range(_SIZE >> 20):
                file.write(bytes(range(256)) * 4096)
        commands = _contestants(str(kernel.vmlinuz), str(initrd), image)
        who: dict[str, Measure] = {name: partial(_sample, command) for name, command in commands.items()}
        results = paired(who, rounds, warm=False)
    section = Section(
        name=NAME,
        title="Disk requests, Linux",
        how="Debian's generic kernel, 1 vCPU, 256 MiB, virtio-blk, `tests/bench/diskload.c` with O_DIRECT in the guest; one boot per "
        "contestant and round, all loads in it. A raw image of 96 MiB in the host's memory, `cache=writeback` (as QEMU and kvmtool by "
        "default). "
        f"Median (quartiles, min), {rounds} round(s). Times by the clock of the host, CPU time of the whole VMM process with its guest, "
        f"exits by the tracepoint `kvm:kvm_userspace_exit`.{absent}",
        header=["", *commands, "pyvmm / QEMU"],
    )
    for name, (label, _, unit, _) in _LOADS.items():
        part: Results = {who: {key: found[f"{name}/{key}"] for key in ("rate", "cpu", "exits") if f"{name}/{key}" in found}
                         for who, found in results.items()}  # fmt: skip
        section.rows += rows(label, unit, part, "pyvmm", "QEMU pc")
    section.raw = {who: {key: samples.values for key, samples in found.items()} for who, found in results.items()}
    return section
