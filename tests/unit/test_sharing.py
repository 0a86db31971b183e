"""tests/nested/sharing.py and suite_amd.py: hosts share a list of tests; one that is cut off goes on, and no failure is forgotten."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import side_by_side
from tests.nested import suite_amd
from tests.nested.amd import AGAIN
from tests.nested.sharing import CLAIMED, FAILED, PASSED, Share

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import os
import pytest

@pytest.fixture(scope="module")
def dear():
    yield
    print("dear is gone")

def test_first(dear):
    pass

def test_second(dear):
    assert False

def test_third(dear):
    if "CUT" in os.environ:
        os.kill(os.getpid(), 9)

def test_fourth():
    pass
"""


def _pytest(path: Path, host: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.nested.sharing"]
    command += [f"--share={path.parent / 'share'}", f"--host={host}", str(path)]
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent, env=variables, timeout=120)


def test_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    tests, share = tmp_path / "test_cut.py", Share(tmp_path / "share", 0)
    tests.write_text(TESTS)
    assert _pytest(tests, 0, CUT="1").returncode == -9
    assert share.lines(PASSED) == ["test_cut.py::test_first"] and share.lines(FAILED) == ["test_cut.py::test_second"]
    other = _pytest(tests, 1)  # what the first one has claimed is not the other's
    assert other.returncode == 0 and "no tests ran" in other.stdout, other.stdout + other.stderr
    assert share.give_back() == ["test_cut.py::test_third", "test_cut.py::test_fourth"]
    assert share.give_back() == []
    again = _pytest(tests, 0)
    assert "2 passed" in again.stdout, again.stdout + again.stderr
    assert share.lines(PASSED) == [f"test_cut.py::test_{name}" for name in ("first", "third", "fourth")]


def test_each_test_runs_on_one_host(tmp_path: Path) -> None:
    tests = tmp_path / "test_shared.py"
    tests.write_text("import pytest, time\n@pytest.mark.parametrize('n', range(40))\ndef test_it(n):\n    time.sleep(0.02)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.nested.sharing", f"--share={tmp_path / 'share'}"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([*command, f"--host={host}", str(tests)], cwd=tmp_path, env=environment) for host in (0, 1)]
    assert [each.wait(120) for each in both] == [0, 0]
    ran = [Share(tmp_path / "share", host).lines(PASSED) for host in (0, 1)]
    assert sorted(ran[0] + ran[1]) == sorted(f"test_shared.py::test_it[{n}]" for n in range(40))
    claimed = [Share(tmp_path / "share", host).lines(CLAIMED) for host in (0, 1)]
    assert claimed == ran


Boot = tuple[int, list[str]]


@pytest.mark.parametrize(
    ("boots", "verdict"),
    [
        ([(0, ["collected 1", "claimed a", "passed a"])], 0),
        ([(AGAIN, ["collected 2", "claimed a", "passed a"]), (0, ["claimed b", "passed b"])], 0),
        ([(AGAIN, ["collected 2", "claimed a", "failed a"]), (0, ["claimed b", "passed b"])], 1),  # what has failed stays failed
        ([(AGAIN, ["collected 1", "claimed a"]), (0, ["claimed a", "passed a"])], 0),
        ([(AGAIN, ["collected 1", "claimed a"]), (AGAIN, ["claimed a"])], AGAIN),  # cut off twice in the same test
        ([(0, ["collected 2", "claimed a", "passed a"])], 1),  # one has not run
        ([(0, ["collected 0"])], 1),  # no test at all is no success
        ([(4, [])], 4),
        ([(125, ["collected 1", "claimed a"])], 125),  # a panic, or a test that hangs
        ([(AGAIN, [])] * suite_amd.BOOTS, AGAIN),
    ],
)
def test_the_suite_goes_on_after_a_lock_up_only(
    boots: list[Boot], verdict: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left, share = list(boots), Share(tmp_path, 0)

    def boot(command: list[str], cwd: Path) -> int:
        assert command[command.index("--smp") + 1] == "1"
        status, lines = left.pop(0)
        for event, what in (line.split() for line in lines):
            if event == CLAIMED:
                assert share.claim(what)
            else:
                share.note(event, what)
        return status

    monkeypatch.setattr(subprocess, "call", boot)
    assert suite_amd.run(["tests/boot"], [], tmp_path, 1) == verdict
    assert not left


def test_two_hosts_are_one_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def boot(command: list[str], cwd: Path, stdout: object = None, stderr: object = None) -> int:
        host = int(next(word for word in command if word.startswith("--host=")).removeprefix("--host="))
        share = Share(tmp_path, host)
        share.note("collected", "2")
        assert share.claim(f"test-{host}")
        share.note(PASSED, f"test-{host}")
        return 0

    _patch(monkeypatch, boot)
    assert suite_amd.run(["tests/boot"], [], tmp_path, 2) == 0
    assert "2 passed, 0 failed, of 2 tests, on 2 hosts" in capfd.readouterr().err


def _patch(monkeypatch: pytest.MonkeyPatch, boot: Callable[..., int]) -> None:
    def call(command: list[str], cwd: Path, **files: object) -> int:
        return boot(command, cwd, **files)

    monkeypatch.setattr(subprocess, "call", call)


def test_two_processes_side_by_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tests, shares = tmp_path / "test_some.py", [tmp_path / name for name in ("well", "ill")]
    tests.write_text(TESTS)
    for share in shares:
        share.mkdir()
    assert side_by_side.run(["-k", "not second", str(tests)], 2, shares[0]) == 0
    assert "3 passed, 0 failed, of 3 tests, in 2 processes" in capfd.readouterr().out
    assert side_by_side.run([str(tests)], 2, shares[1]) == 1
    out = capfd.readouterr().out
    assert "::test_second\n" in out and "3 passed, 1 failed, of 4 tests, in 2 processes" in out


def test_each_file_is_rewritten_once_before_the_processes_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"test_{name}.py" for name in ("one", "two", "three")]
    for file in files:
        file.write_text(f"def test_{file.stem}_it():\n    assert True\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    side_by_side.prepare(files, 2)
    assert side_by_side.unprepared(files) == files, "nothing can be kept"
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    side_by_side.prepare(files, 2)
    assert side_by_side.unprepared(files) == [], "the name is as this pytest has it"
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("nothing is left to do"))
    side_by_side.prepare(files, 2)


def test_what_is_prepared_is_what_is_run() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert list(side_by_side.TESTS) == tomllib.load(file)["tool"]["pytest"]["ini_options"]["testpaths"]
