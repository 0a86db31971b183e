"""Start-up: the Multiboot hello from the command line to its end, as a user runs it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tests.bench import contestants
from tests.bench.samples import paired
from tests.bench.sections import Section

NAME, ROUNDS = "startup", 20


def _sample(command: list[str]) -> Mapping[str, float]:
    took = contestants.launch(command)
    return {"wall": took.wall, "first": took.first, "cpu": took.cpu, "rss": took.rss / 1024}


def measure(rounds: int) -> Section:
    image = str(contestants.GUESTS / "multiboot" / "multiboot.elf")
    contestants.need(contestants.QEMU[0], "qemu-system-x86")
    commands = {
        "pyvmm": [contestants.installed(), "run", "multiboot"],
        "QEMU microvm": [*contestants.QEMU, "-kernel", image],
        "python -c pass": [contestants.installed().removesuffix("pyvmm") + "python", "-c", "pass"],
    }
    results = paired({name: partial(_sample, command) for name, command in commands.items()}, rounds)
    section = Section(
        name=NAME,
        title="Start-up",
        how=f"`pyvmm run multiboot`, installed by pip in a fresh virtual environment, against `{' '.join(commands['QEMU microvm'][:-1])} "
        f"multiboot.elf`, {rounds} pairs; `python -c pass` of the same environment is the floor. Median (quartiles, min); the ratio is "
        "the median of the pairs' ratios. Peak memory is wait4's ru_maxrss.",
        header=["", "pyvmm", "QEMU microvm", "python -c pass", "pyvmm / QEMU"],
        raw={name: {key: samples.values for key, samples in quantities.items()} for name, quantities in results.items()},
    )
    for quantity, label in (("wall", "wall, ms"), ("first", "to the first byte, ms"), ("cpu", "CPU time, ms"), ("rss", "peak memory, MiB")):
        row = [results[name][quantity].spread() if quantity != "first" or name != "python -c pass" else "" for name in commands]
        ratio = results["pyvmm"][quantity].over(results["QEMU microvm"][quantity])
        section.rows.append([label, *row, ratio.spread(2)])
    return section
