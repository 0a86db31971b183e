"""python -m tests.bench [--rounds N] [--only NAME]... [--json FILE] [--markdown FILE], or pyvmm bench"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from tests.bench.contestants import Missing
from tests.bench.sections import Section, update
from tests.support.debian import DebianError

NAMES = ("startup", "exits", "observers", "serial", "gil", "locks", "linux", "disk", "disk_linux", "network", "network_linux")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Paired benchmarks against QEMU and a bare C loop.")
    parser.add_argument("--rounds", type=int, metavar="N", help="pairs of each measurement (default: its own)")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables into FILE (docs/benchmarks.md)")
    options = parser.parse_args()
    sections: list[Section] = []
    failed = False
    for name in options.only or NAMES:
        module = import_module(f"tests.bench.{name}")
        try:
            section = module.measure(options.rounds or module.ROUNDS)
        except (Missing, DebianError) as missing:
            print(f"{name}: left out: {missing}\n", flush=True)
            failed = failed or bool(options.only)
            continue
        sections.append(section)
        print(section.plain() + "\n", flush=True)
        if options.markdown:
            update(options.markdown, [section])  # each at once: a later one may fail
    if options.json:
        options.json.write_text(json.dumps([section.data() for section in sections], indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
