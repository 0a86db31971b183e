"""Frames and pings of the tiny driver guests (guests/bench-e1000, bench-virtio-net): pyvmm against QEMU on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from tests.bench import contestants, phases
from tests.bench.contestants import Missing
from tests.bench.disk import rows
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section
from tests.support import network

NAME, ROUNDS = "network", 5
CARDS = {"e1000": "e1000", "virtio-net": "virtio-net-pci,disable-legacy=on"}


@dataclass(frozen=True)
class Load:
    label: str
    append: str
    count: int
    netdev: str
    unit: str = "frames/s"


# libslirp takes a frame of a protocol it does not know, and drops it. A hub with nobody on it will not do: QEMU's virtio-net waits there.
_NOBODY, _USER = "user,id=n,restrict=on", "user,id=n"
LOADS = (
    Load("send 60 bytes, one per doorbell", "op=send size=60 batch=1", 10000, _NOBODY),
    Load("send 60 bytes, 16 per doorbell", "op=send size=60 batch=16", 20000, _NOBODY),
    Load("send 1514 bytes, 16 per doorbell", "op=send size=1514 batch=16", 20000, _NOBODY),
    Load("ping the user network, by interrupt", "op=ping irq size=98", 2000, _USER, "pings/s"),
)
_QEMU = [
    "qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none",
    "-serial", "stdio", "-no-reboot",
]  # fmt: skip


def _command(who: list[str], card: str, load: Load) -> list[str]:
    image = contestants.GUESTS / f"bench-{card}" / f"bench-{card}.elf"
    guest = ["-kernel", str(image), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]
    return [*who, *guest, "-netdev", load.netdev, "-device", f"{CARDS[card]},netdev=n", "-append", f"count={load.count} {load.append}"]


def _sample(command: list[str], load: Load) -> Mapping[str, float]:
    found = phases.run(command, contestants.RUN_TIMEOUT)[""]
    taken = {"rate": load.count * 1e9 / found.wall, "cpu": found.cpu / load.count / 1000}
    if found.exits is not None:
        taken["exits"] = found.exits / load.count
    return taken


def measure(rounds: int) -> Section:
    contestants.need(_QEMU[0], "qemu-system-x86")
    if missing := network.why_no_user():
        raise Missing(missing)
    section = Section(
        name=NAME,
        title="Network frames, tiny drivers",
        how="`guests/bench-e1000` and `guests/bench-virtio-net`, 1 vCPU, 128 MiB. Frames go to a `user` network, which drops "
        "their protocol; the driver looks for their completion. Pings go to that network's router (libslirp in both) one at a time, the "
        "guest sleeps in HLT until the interrupt (INTx for the e1000, MSI-X for virtio). QEMU: `-M pc`, its defaults, the same images. "
        f"Median (quartiles, min), {rounds} rounds, contestants in turn; times from the guest's line `go` to its line `done`. "
        "CPU time is that of the whole VMM process, the guest's own included. "
        "Exits: the tracepoint `kvm:kvm_userspace_exit` (what `perf stat -e` counts), read at those two lines.",
        header=["", "pyvmm", "QEMU", "pyvmm / QEMU"],
    )
    for card in CARDS:
        for load in LOADS:
            who = {"pyvmm": [contestants.installed(), "run"], "QEMU": _QEMU}
            run: dict[str, Measure] = {name: partial(_sample, _command(each, card, load), load) for name, each in who.items()}
            results = paired(run, rounds)
            label = f"{card}, {load.label}"
            section.rows += rows(label, load.unit, results, "pyvmm", "QEMU", "ping" if load.netdev == _USER else "frame")
            section.raw[label] = {name: {key: each.values for key, each in found.items()} for name, found in results.items()}
    return section
