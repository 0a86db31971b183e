"""tox -e nested-intel: entry states on a stock kvm_intel (host C), in one boot of the L1 host.

    python tests/nested/suite_intel.py [WORD...]      all checks, or those whose names hold one of the words

Closes with "N passed, N failed"; before that, the list of exceptions, where the emulator is known to differ from Intel's
hardware: their outcome is pinned down too, so they count as passed. The status is 0 if nothing failed and nothing is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

if __package__ in (None, ""):  # run as a program: make `tests` importable, as pytest does
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.nested import emulator
from tests.nested.intel_checks.report import EXCEPTION, FAILED, PASSED, PLANNED

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600  # seconds for boot and checks: several times what they take on an idle machine
# What goes into the host as its package `tests`: these and what they import, nothing that needs more than the standard library
INSIDE = ("__init__.py", "nested/__init__.py", "nested/intel_checks", "support/__init__.py") + tuple(
    f"support/{name}.py" for name in ("images", "entry_cases", "entry_guests")
)


class Tally:
    """Counts the lines of intel_checks/report.py."""

    def __init__(self) -> None:
        self.planned = 0
        self.passed = 0
        self.failed: list[str] = []
        self.exceptions: list[str] = []

    def take(self, line: str) -> None:
        """Looks at one line of output."""
        if line.startswith(PLANNED):
            self.__init__()  # type: ignore[misc]  # the host is tried a second time when it did not come up
            self.planned = int(line.removeprefix(PLANNED))
        elif line.startswith(PASSED):
            self.passed += 1
        elif line.startswith(FAILED):
            self.failed.append(line.removeprefix(FAILED))
        elif line.startswith(EXCEPTION):
            self.exceptions.append(line.removeprefix(EXCEPTION))

    def close(self, status: int) -> Iterator[str]:
        """The closing lines; ``status`` is the host runner's."""
        known = "known exceptions, where a state ends otherwise than on Intel's hardware"
        for title, lines in ((known, self.exceptions), ("failed", self.failed)):
            if lines:
                yield f"{title}:"
                yield from (f"  {line}" for line in lines)
        missing = self.planned - self.passed - len(self.exceptions) - len(self.failed)
        failed = len(self.failed) + missing
        if missing or not self.planned:
            yield f"{missing or 'all'} checks did not come to an end (status {status})"
        if not failed and (status or not self.planned):
            failed = 1
        yield f"{self.passed + len(self.exceptions)} passed, {failed} failed"


@contextmanager
def inside() -> Iterator[Path]:
    """A folder with the part of `tests` that runs in the host."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-intel-") as name:
        root = Path(name) / "tests"
        for part in INSIDE:
            source, target = ROOT / "tests" / part, root / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        yield root


def output(command: list[str], tally: Tally) -> int:
    """Runs the host's runner, passes its output on and counts it. It ends with this process, whatever ends that."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        for line in _lines(process.stdout):
            print(line, flush=True)
            tally.take(line)
        return process.wait()
    finally:
        process.terminate()  # its own clean-up takes the emulator along
        process.wait()


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    for line in stream:
        yield line.decode(errors="replace").rstrip()


def main(words: list[str]) -> int:
    emulator.signals_raise()
    tally = Tally()
    with inside() as package:
        runner = [sys.executable, str(ROOT / "tests/nested/intel.py"), "--timeout", str(TIMEOUT), "--add", f"{package}:/app/tests"]
        status = output([*runner, "--", "-m", "tests.nested.intel_checks", *words], tally)
    closing = list(tally.close(status))
    print("\n".join(closing), flush=True)
    return 0 if closing[-1].endswith(" 0 failed") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
