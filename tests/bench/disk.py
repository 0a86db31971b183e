"""Disk requests of the tiny driver guest (guests/bench-blk): pyvmm, with and without ioeventfd, against QEMU on the same image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import contestants, phases
from tests.bench.samples import Measure, Results, Samples, paired
from tests.bench.sections import Section

NAME, ROUNDS = "disk", 5
_SIZE = 64 << 20  # of the disk


@dataclass(frozen=True)
class Load:
    label: str
    append: str
    count: int  # requests
    unit: str = "requests/s"
    scale: float = 1.0  # what one request counts in that unit


LOADS = (
    Load("no data (get id), depth 1", "op=id", 4000),
    Load("read 4 KiB, depth 1", "op=read random", 4000),
    Load("read 4 KiB, depth 32", "op=read random depth=32", 8000),
    Load("read 1 MiB, sequential, depth 2", "op=read size=1048576 depth=2", 400, "MiB/s"),
    Load("write 4 KiB and flush in turn", "op=flush", 1000),
)
_QEMU = [
    "qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none",
    "-serial", "stdio", "-no-reboot",
]  # fmt: skip


def _commands(image: Path) -> dict[str, list[str]]:
    guest = ["-kernel", str(contestants.GUESTS / "bench-blk" / "bench-blk.elf"), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]
    drive = ["-drive", f"file={image},format=raw,if=none,id=disk"]
    pyvmm = [contestants.installed(), "run", *guest, *drive, "-device"]
    return {
        "pyvmm": [*pyvmm, "virtio-blk-pci,drive=disk"],
        "pyvmm, ioeventfd=off": [*pyvmm, "virtio-blk-pci,drive=disk,ioeventfd=off"],
        "QEMU": [*_QEMU, *guest, *drive, "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"],
    }


def _sample(command: list[str], load: Load) -> Mapping[str, float]:
    found = phases.run([*command, "-append", f"irq count={load.count} {load.append}"], contestants.RUN_TIMEOUT)[""]
    taken = {"rate": load.count * 1e9 * load.scale / found.wall, "cpu": found.cpu / load.count / 1000}
    if found.exits is not None:
        taken["exits"] = found.exits / load.count
    return taken


def rows(label: str, unit: str, results: Results, first: str, other: str, each: str = "request") -> list[list[str]]:
    """Rate, CPU time and exits of one load, a column per contestant, and what ``first`` is in relation to ``other``."""
    table = []
    for quantity, text, digits in (("rate", unit, 0), ("cpu", f"CPU time, us per {each}", 1), ("exits", f"user-space exits per {each}", 2)):
        found = {name: samples[quantity] for name, samples in results.items() if quantity in samples}
        if not found:
            continue
        if unit in ("MB/s", "probes/s") and quantity == "rate":
            digits = 2  # a user network under emulation has few of them
        values = [_short(found[name], digits) if name in found else "" for name in results]
        over = quantity != "exits" and first in found and other in found
        table.append([f"{label}: {text}", *values, found[first].over(found[other]).spread(2) if over else ""])
    return table


def _short(samples: Samples, digits: int) -> str:
    return samples.spread(digits) if digits < 2 else f"{samples.median:.{digits}f}"


def measure(rounds: int) -> Section:
    contestants.need(_QEMU[0], "qemu-system-x86")
    section = Section(
        name=NAME,
        title="Disk requests, tiny driver",
        how="`guests/bench-blk`, one ring of virtio-blk on PCI, an MSI-X interrupt per batch (the guest sleeps in HLT), 128 MiB, a raw "
        "image of 64 MiB in the host's page cache, `cache=writeback`. QEMU: `-M pc`, its defaults, the same image and guest. "
        f"Median (quartiles, min), {rounds} rounds, contestants in turn; times from the guest's line `go` to its line `done`. "
        "CPU time is that of the whole VMM process, the guest's own included. "
        "Exits: the tracepoint `kvm:kvm_userspace_exit` (what `perf stat -e` counts), read at those two lines.",
        header=["", "pyvmm", "pyvmm, ioeventfd=off", "QEMU", "pyvmm / QEMU"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "disk.img")
        with image.open("wb") as file:
            for _ in range(_SIZE >> 20):
                file.write(os.urandom(1 << 20))
        commands = _commands(image)
        for load in LOADS:
            who: dict[str, Measure] = {name: partial(_sample, command, load) for name, command in commands.items()}
            results = paired(who, rounds)
            section.rows += rows(load.label, load.unit, results, "pyvmm", "QEMU")
            section.raw[load.label] = {name: {key: each.values for key, each in found.items()} for name, found in results.items()}
    return section
