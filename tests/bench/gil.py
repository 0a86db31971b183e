"""Python's one lock: what vCPUs and a disk's I/O thread cost each other, by switch interval and by who serves the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.bench import contestants
from tests.bench.exits import inside
from tests.bench.samples import Measure, paired
from tests.bench.sections import Section

NAME, ROUNDS = "gil", 5
INTERVALS = (0.005, 0.001, 0.0005, 0.0001, 0.00001)  # CPython's default first
_EXITS, _REQUESTS, _SIZE = 5000, 2000, 16 << 20


def _both(image: Path, interval: float, *options: str, requests: int = _REQUESTS) -> Mapping[str, float]:
    command = [sys.executable, "-m", "tests.bench.gil_inside", str(image), str(requests), str(interval), *options]
    done = subprocess.run(command, cwd=contestants.CHECKOUT, capture_output=True, text=True, timeout=contestants.RUN_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    served, exits, nanoseconds = map(int, done.stdout.split())
    return {"requests": served * 1e9 / nanoseconds, "exits": exits * 1e9 / nanoseconds}


def _spun(image: Path, *options: str) -> Mapping[str, float]:
    return {"exits": _EXITS * 1e9 / inside(image, "flat32", *options)[1]}


def measure(rounds: int) -> Section:
    section = Section(
        name=NAME,
        title="Python's lock",
        how="Exits per second of a vCPU that does OUT after OUT, and requests per second of a disk (`guests/bench-blk` on another vCPU "
        "of the same machine: 4 KiB, random, depth 8), by `sys.setswitchinterval`: medians. First beside a Python thread that "
        "computes without end, then beside the disk served by its I/O thread, then by the vCPU that rings (`ioeventfd=off`). A vCPU "
        "gives the lock up at every KVM_RUN and waits for it after every exit; a disk's thread gives it up in every system call. "
        f"{rounds} rounds.",
        header=["", "alone", *(f"{interval * 1000:g} ms" for interval in INTERVALS)],
    )
    with tempfile.TemporaryDirectory() as scratch:
        disk, guest = Path(scratch, "disk.img"), Path(scratch, "guest.bin")
        disk.write_bytes(os.urandom(_SIZE))
        code = (contestants.GUESTS / "bench-out" / "bench-out.bin").read_bytes()
        guest.write_bytes(contestants.with_count(code, _EXITS))
        chosen = 0.0005  # iothread.py's
        who: dict[str, Measure] = {
            "spin alone": partial(_spun, guest),
            "exits alone": partial(_both, disk, chosen, requests=0),
            "thread alone": partial(_both, disk, chosen, "--alone"),
            "vcpu alone": partial(_both, disk, chosen, "--alone", "--vcpu"),
        }
        for interval in INTERVALS:
            who[f"spin {interval}"] = partial(_spun, guest, "--spin", str(interval))
            who[f"thread {interval}"] = partial(_both, disk, interval)
            who[f"vcpu {interval}"] = partial(_both, disk, interval, "--vcpu")
        results = paired(who, rounds)
    for label, load, alone, quantity in (
        ("beside a computing thread: exits/s", "spin", "spin alone", "exits"),
        ("disk on its I/O thread: exits/s of the other vCPU", "thread", "exits alone", "exits"),
        ("disk on its I/O thread: requests/s", "thread", "thread alone", "requests"),
        ("disk on its vCPU: exits/s of the other vCPU", "vcpu", "exits alone", "exits"),
        ("disk on its vCPU: requests/s", "vcpu", "vcpu alone", "requests"),
    ):
        names = [alone, *(f"{load} {interval}" for interval in INTERVALS)]
        section.rows.append([label, *(f"{results[name][quantity].median:.0f}" for name in names)])
    section.raw = {name: {key: samples.values for key, samples in found.items()} for name, found in results.items()}
    return section
