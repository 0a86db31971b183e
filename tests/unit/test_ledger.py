"""--ledger (tests/conftest.py): a suite cut off by its host goes on behind the tests that have ended, and forgets no failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.nested import suite_amd
from tests.nested.amd import AGAIN

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import os

def test_first():
    pass

def test_second():
    assert False

def test_third():
    if "CUT" in os.environ:
        os.kill(os.getpid(), 9)
"""


def _pytest(path: Path, ledger: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", f"--ledger={ledger}", str(path)]
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent, env=variables, timeout=120)


def test_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    tests, ledger = tmp_path / "test_cut.py", tmp_path / "ledger"
    tests.write_text(TESTS)
    assert _pytest(tests, ledger, CUT="1").returncode == -9
    assert ledger.read_text() == "passed test_cut.py::test_first\nfailed test_cut.py::test_second\n"
    again = _pytest(tests, ledger)
    assert "1 passed, 2 deselected" in again.stdout, again.stdout + again.stderr
    assert ledger.read_text().splitlines()[-1] == "passed test_cut.py::test_third"
    assert _pytest(tests, ledger).returncode == 5  # suite_amd.NOTHING_LEFT


@pytest.mark.parametrize(
    ("boots", "verdict"),
    [
        ([(0, "passed a\n")], 0),
        ([(AGAIN, "passed a\n"), (0, "passed b\n")], 0),
        ([(AGAIN, "passed a\nfailed b\n"), (0, "passed c\n")], 1),  # what failed before the host locked up stays failed
        ([(AGAIN, "passed a\n"), (suite_amd.NOTHING_LEFT, "")], 0),
        ([(suite_amd.NOTHING_LEFT, "")], suite_amd.NOTHING_LEFT),  # no test at all is no success
        ([(125, "passed a\n")], 125),  # a panic, or a test that hangs
        ([(AGAIN, "")] * suite_amd.BOOTS, AGAIN),
    ],
)
def test_the_suite_goes_on_after_a_lock_up_only(
    boots: list[tuple[int, str]], verdict: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(boots)

    def boot(command: list[str], cwd: Path) -> int:
        status, lines = left.pop(0)
        with (tmp_path / "ledger").open("a") as ledger:
            ledger.write(lines)
        return status

    monkeypatch.setattr(subprocess, "call", boot)
    assert suite_amd._run(["tests/boot"], [], tmp_path) == verdict
    assert not left
