"""How long the machine lock is held, and how long who wants it waits: two vCPUs, a disk's I/O thread and the I/O loop in one machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from random import randbytes
from statistics import quantiles
from typing import Any

from tests.bench import contestants
from tests.bench.sections import Section

NAME, ROUNDS = "locks", 3
_REQUESTS, _SIZE, _INTERVAL = 4000, 16 << 20, 0.0005
_LOADS = (("requests on the I/O thread", ()), ("requests on the vCPU (ioeventfd=off)", ("--vcpu",)))


def _run(image: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.gil_inside", str(image), str(_REQUESTS), str(_INTERVAL), "--locks", *options]
    done = subprocess.run(command, cwd=contestants.CHECKOUT, capture_output=True, text=True, timeout=contestants.RUN_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[1])
    return found


def _times(values: list[int]) -> str:
    """Microseconds of a list of nanoseconds."""
    if len(values) < 2:
        return "-"
    cut = quantiles(values, n=100, method="inclusive")
    return f"{cut[49] / 1000:.1f}, {cut[98] / 1000:.1f}, {max(values) / 1000:.0f}"


def measure(rounds: int) -> Section:
    section = Section(
        name=NAME,
        title="The machine lock",
        how="Two vCPUs in one machine: one keeps a disk busy (`guests/bench-blk`, 4 KiB, random, depth 8), one does OUT after OUT. By "
        "thread: how often it takes the machine lock, the share of the time it holds it, how long each time, how often somebody else has "
        f"it at that moment, and how long it waits then. Times in µs: median, 99th percentile, longest. {rounds} rounds together.",
        header=["", "takes/s", "held, share", "held, µs", "found taken", "waits, µs"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        disk = Path(scratch, "disk.img")
        disk.write_bytes(randbytes(_SIZE))
        for label, options in _LOADS:
            found = [_run(disk, *options) for _ in range(rounds)]
            span = sum(each["nanoseconds"] for each in found)
            for who in found[0]["threads"]:
                threads = [each["threads"][who] for each in found if who in each["threads"]]
                held: list[int] = sum((each["held"] for each in threads), [])
                waited: list[int] = sum((each["waited"] for each in threads), [])
                section.rows.append(
                    [f"{label}: {who}", f"{len(held) * 1e9 / span:.0f}", f"{sum(held) / span:.1%}", _times(held),
                     f"{len(waited) / len(held):.1%}", _times(waited)]
                )  # fmt: skip
            section.raw[label] = found
    return section
