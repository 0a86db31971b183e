"""The price of an exit: IN, OUT and MMIO to where nobody is, and HLT with a timer to wake it.

On host B: python tests/nested/amd.py --timeout 1500 -- python -m tests.bench --only exits --rounds 3
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.bench import contestants
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section

NAME, ROUNDS = "exits", 5
GUESTS = ("bench-out", "bench-in", "bench-mmio-write", "bench-mmio-read")
_FEW = 1000


def inside(image: Path, fmt: str, *options: str) -> tuple[int, int, int]:
    """(exits, nanoseconds, nanoseconds on a CPU) of one run of pyvmm, measured in its process."""
    command = [sys.executable, "-m", "tests.bench.inside", str(image), fmt, *options]
    done = subprocess.run(command, cwd=contestants.CHECKOUT, capture_output=True, text=True, timeout=contestants.RUN_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    exits, nanoseconds, cpu = map(int, done.stdout.split())
    return exits, nanoseconds, cpu


def _pyvmm(image: Path, count: int) -> Mapping[str, float]:
    _, nanoseconds, cpu = inside(image, "flat32")
    return {"wall": nanoseconds / count, "cpu": cpu / count}


def _bare(image: Path) -> Mapping[str, float]:
    exits, nanoseconds, cpu = contestants.bare(image)
    return {"wall": nanoseconds / exits, "cpu": cpu / exits}


def _qemu(many: Path, few: Path, difference: int) -> Mapping[str, float]:
    command = [*contestants.QEMU, *contestants.QEMU_EXIT, "-kernel"]
    long, short = (contestants.launch([*command, str(image)], status=1) for image in (many, few))
    return {"wall": (long.wall - short.wall) * 1e6 / difference, "cpu": (long.cpu - short.cpu) * 1e6 / difference}


def measure(rounds: int) -> Section:
    contestants.need(contestants.QEMU[0], "qemu-system-x86")
    section = Section(
        name=NAME,
        title="The price of an exit",
        how="A guest's loop of single accesses to a port or address nobody claims: nanoseconds per access, median (quartiles, min), "
        f"{rounds} rounds, contestants in turn. pyvmm is measured from the start of `Machine.run` to its end, the C loop "
        "(`tests/bench/bare.c`) from its first KVM_RUN to the last, QEMU microvm by the difference between a long run and a short one "
        f"({_FEW} accesses). CPU time is what a busy host disturbs least. HLT: CPU time of the whole process for each of the PIT's "
        "wake-ups (1 kHz; the wake-up itself is the kernel's work), by the difference of two runs; without QEMU, "
        "whose microvm lets no PIT interrupt in before firmware says so.",
        header=["guest", "C loop, ns", "pyvmm, ns", "QEMU microvm, ns", "pyvmm / C", "QEMU / C"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        for guest in GUESTS:
            image = contestants.GUESTS / guest / f"{guest}.bin"
            code = image.read_bytes()
            count = contestants.count_of(code)
            many, few = Path(scratch, "many.elf"), Path(scratch, "few.elf")
            many.write_bytes(contestants.multiboot(code))
            few.write_bytes(contestants.multiboot(contestants.with_count(code, _FEW)))
            who: dict[str, Measure] = {
                "C": partial(_bare, image),
                "pyvmm": partial(_pyvmm, image, count),
                "QEMU": partial(_qemu, many, few, count - _FEW),
            }
            _add(section, guest, who, rounds)
        _add(section, "bench-hlt", _halting(Path(scratch)), rounds)
    return section


def _add(section: Section, guest: str, who: dict[str, Measure], rounds: int) -> None:
    results = paired(who, rounds)
    for quantity in results["C"]:
        found = {name: samples[quantity] for name, samples in results.items()}
        values = [found[name].spread(0) if name in found else "" for name in ("C", "pyvmm", "QEMU")]
        ratios = [found[name].over(found["C"]).spread(2) if name in found else "" for name in ("pyvmm", "QEMU")]
        section.rows.append([f"{guest}, {quantity}", *values, *ratios])
    section.raw[guest] = {name: {key: each.values for key, each in samples.items()} for name, samples in results.items()}


_HALTS = b"\xb9\xe8\x03"  # mov cx, 1000


def _halting(scratch: Path) -> dict[str, Measure]:
    sector = (contestants.GUESTS / "bench-hlt" / "bench-hlt.bin").read_bytes()
    if sector.count(_HALTS) != 1:
        raise RuntimeError("bench-hlt does not count to 1000 in CX: adapt tests/bench/exits.py")
    images = {}
    for name, count in (("many", 1000), ("few", 1)):
        images[name] = Path(scratch, f"{name}.bin")
        images[name].write_bytes(sector.replace(_HALTS, _HALTS[:1] + count.to_bytes(2, "little")))
    commands = {
        "C": lambda image: [str(contestants.compiled("bare")), str(image), "real"],
        "pyvmm": lambda image: [*contestants.checkout(), "run", str(image), "--format", "flat16"],
    }

    def sample(command: Callable[[Path], list[str]]) -> Mapping[str, float]:
        cpu = [contestants.launch(command(images[which])).cpu for which in ("many", "few")]
        return {"cpu": (cpu[0] - cpu[1]) * 1e6 / 999}

    return {name: partial(sample, command) for name, command in commands.items()}
