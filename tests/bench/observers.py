"""What watching costs, for each exit; and that who has left costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tests.bench import contestants
from tests.bench.exits import inside
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section

NAME, ROUNDS = "observers", 7
HOW = {
    "nobody": (),
    "a debugger that has left": ("--watch", "was-debugged"),
    "a debugger without history": ("--watch", "debugged"),
    "pyvmm stat": ("--watch", "stat"),
    "pyvmm record": ("--watch", "record"),
}


def _sample(options: tuple[str, ...]) -> Mapping[str, float]:
    image = contestants.GUESTS / "bench-out" / "bench-out.bin"
    _, nanoseconds, cpu = inside(image, "flat32", *options)
    count = contestants.count_of(image.read_bytes())
    return {"wall": nanoseconds / count, "cpu": cpu / count}


def measure(rounds: int) -> Section:
    section = Section(
        name=NAME,
        title="The price of watching",
        how=f"The guest of the OUT loop above: nanoseconds per exit, median (quartiles, min), {rounds} rounds, in turn. The debugger that "
        "has left had a history, went ten exits with it, and detached.",
        header=["who watches", "wall, ns", "CPU, ns", "wall / nobody"],
    )
    who: dict[str, Measure] = {name: partial(_sample, options) for name, options in HOW.items()}
    results = paired(who, rounds)
    for name, found in results.items():
        ratio = found["wall"].over(results["nobody"]["wall"]).spread(3)
        section.rows.append([name, found["wall"].spread(0), found["cpu"].spread(0), ratio])
        section.raw[name] = {quantity: samples.values for quantity, samples in found.items()}
    return section
