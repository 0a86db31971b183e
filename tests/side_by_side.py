"""pytest in several processes: python -m tests.side_by_side [PYTEST ARGUMENTS]

One more than there are CPUs, up to three: many tests wait for a guest or for a clock.

Each test runs in the process that first claims it (tests/nested/sharing.py). The first prints as it goes, the others at the end.
Status 0: every test that was collected has ended well in one of them. With PYVMM_COVERAGE in the environment, and if the lines of the
package that they have reached are enough ([tool.coverage] in pyproject.toml).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 3
COVERAGE = "PYVMM_COVERAGE"
TESTS = ("tests/unit", "tests/fuzz", "tests/kvm")  # what pyproject.toml says
QUICK = "/dev/shm"  # each test's begin and end is put on the disk (sharing.py): a millisecond that nobody needs here


def unprepared(files: Sequence[Path]) -> list[Path]:
    """Test files that pytest would have to rewrite (it keeps what it has made of their asserts beside other bytecode)."""
    import pytest

    made = f".{sys.implementation.cache_tag}-pytest-{pytest.__version__}.pyc"
    kept = [(file, file.parent / "__pycache__" / (file.stem + made)) for file in files]
    return [file for file, each in kept if not each.exists() or each.stat().st_mtime < file.stat().st_mtime]


def prepare(files: Sequence[Path], count: int) -> None:
    """Has the files rewritten, each by one of ``count`` processes. Processes that begin side by side would each do all."""
    files = [] if sys.dont_write_bytecode else unprepared(files)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    parts = [part for part in (files[number::count] for number in range(count)) if part]
    quiet = subprocess.DEVNULL  # what is wrong with a file, the real run tells
    for process in [subprocess.Popen([*command, *map(str, part)], cwd=ROOT, stdout=quiet, stderr=quiet) for part in parts]:
        process.wait()


def run(arguments: Sequence[str], count: int, folder: Path) -> int:
    """``count`` processes with a common list in ``folder``."""
    from tests.nested.sharing import COLLECTED, FAILED, PASSED, Share

    counted = ["coverage", "run", "-m"] if COVERAGE in os.environ else []
    processes = []
    for number in range(count):
        command = [sys.executable, "-m", *counted, "pytest", "-p", "tests.nested.sharing", f"--share={folder}", f"--host={number}", "-p",
                   "no:cacheprovider", *arguments]  # fmt: skip
        output = (folder / f"output-{number}").open("wb") if number else None
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output))
        if output is not None:
            output.close()
    statuses = [process.wait() for process in processes]
    for number in range(1, count):
        print(f"side by side: process {number} printed:\n{(folder / f'output-{number}').read_text(errors='replace')}", flush=True)
    books = [Share(folder, number) for number in range(count)]
    passed, failed = ([test for book in books for test in book.lines(event)] for event in (PASSED, FAILED))
    wanted = {number for book in books for number in book.lines(COLLECTED)}
    for test in failed:
        print(f"side by side: failed {test}")
    print(f"side by side: {len(passed)} passed, {len(failed)} failed, of {' or '.join(wanted) or 'no'} tests, in {count} processes")
    whole = wanted == {str(len(passed) + len(failed))} and set(statuses) <= {0, 1}
    return int(bool(failed) or not whole or any(statuses))


def main() -> int:
    coverage = [sys.executable, "-m", "coverage"]
    if COVERAGE in os.environ:
        subprocess.run([*coverage, "erase"], cwd=ROOT, check=True)
    count = min(len(os.sched_getaffinity(0)) + 1, MOST)
    if all(argument.startswith("-") for argument in sys.argv[1:]):
        prepare(sorted(file for folder in TESTS for file in (ROOT / folder).rglob("test_*.py")), count)
    with tempfile.TemporaryDirectory(prefix="pyvmm-tests-", dir=QUICK if os.access(QUICK, os.W_OK) else None) as folder:
        status = run(sys.argv[1:], count, Path(folder))
    if COVERAGE in os.environ:
        subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, check=True)
        status |= subprocess.run([*coverage, "report"], cwd=ROOT).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
