"""The interpreter lock: what an exit costs while another Python thread is busy. For information."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tests.bench import contestants
from tests.bench.exits import inside
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section

NAME, ROUNDS = "gil", 3
INTERVALS = (0.005, 0.001, 0.0001, 0.00001)  # CPython's default first


def measure(rounds: int) -> Section:
    image = contestants.GUESTS / "bench-out" / "bench-out.bin"
    count = contestants.count_of(image.read_bytes())

    def sample(options: tuple[str, ...]) -> Mapping[str, float]:
        return {"us": inside(image, "flat32", *options)[1] / count / 1000}

    who: dict[str, Measure] = {"no other thread": partial(sample, ())}
    for interval in INTERVALS:
        who[f"busy thread, interval {interval * 1000:g} ms"] = partial(sample, ("--spin", str(interval)))
    results = paired(who, rounds)
    section = Section(
        name=NAME,
        title="A busy Python thread",
        how="bench-out in pyvmm beside one Python thread that computes without end, for several values of `sys.setswitchinterval`: "
        f"microseconds per exit, median (quartiles, min), {rounds} rounds. A vCPU gives the interpreter lock up at every KVM_RUN and "
        "waits for it after every exit.",
        header=["", "us per exit", "against no other thread"],
        raw={name: found["us"].values for name, found in results.items()},
    )
    alone = results["no other thread"]["us"]
    section.rows = [[name, found["us"].spread(), found["us"].over(alone).spread(1)] for name, found in results.items()]
    return section
