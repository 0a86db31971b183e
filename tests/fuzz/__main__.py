"""All fuzzers, again and again, each round with other dice: python -m tests.fuzz [--seconds S] [--first N] [PYTEST ARGUMENTS]

A round is one run of pytest over every file of tests/fuzz, tests/unit and tests/kvm that throws dice. The round that runs when the
time is up is run to its end. Status 0: nothing was found. Else each finding has been printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from tests.support import reseed

ROOT = Path(__file__).resolve().parents[2]
MORE = {"PYVMM_FUZZ_RECORDINGS": "5000"}  # where an ordinary run of the tests does little
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+(?:\[.*?\])?)(?: - |$)", re.MULTILINE)


def files() -> list[str]:
    """Test files that make a ``random.Random``, by themselves or by what of tests.support they use for it."""
    chosen = sorted((ROOT / "tests/fuzz").glob("test_*.py"))
    for room in ("unit", "kvm"):
        chosen += [path for path in sorted((ROOT / "tests" / room).rglob("test_*.py")) if "random.Random(" in path.read_text()]
    return [str(path.relative_to(ROOT)) for path in chosen]


def play(lot: int, arguments: Sequence[str]) -> list[str]:
    """One round; returns the tests that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**MORE, **os.environ, reseed.VARIABLE: str(lot)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    print(f"lot {lot}: {lines[-1].strip('= ') if lines else 'pytest said nothing'}", flush=True)
    if done.returncode == 0:
        return []
    print(done.stdout, done.stderr, sep="\n", flush=True)
    return _FAILED.findall(done.stdout) or ["(pytest itself)"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="All fuzzers, each round with other dice.")
    parser.add_argument("--seconds", type=float, default=600, help="no round begins later than this (default 600)")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="number of the first lot of dice (default 1)")
    options, arguments = parser.parse_known_args()
    chosen = arguments if any(not word.startswith("-") for word in arguments) else [*files(), *arguments]
    began, lot, found = monotonic(), options.first, []
    while lot == options.first or monotonic() - began < options.seconds:
        found += [(lot, test) for test in play(lot, chosen)]
        lot += 1
    for number, test in found:
        print(f"found: {reseed.VARIABLE}={number} python -m pytest '{test}'")
    print(f"{lot - options.first} rounds in {monotonic() - began:.0f} s, {len(found)} findings")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
