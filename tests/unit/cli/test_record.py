"""``pyvmm record`` and ``pyvmm replay``: wrong command lines are one line each, before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli import main
from tests.support.recordings import letters


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["record", "hello", "-o", ""], "-o: name a file"),
        (["record", "hello", "-o"], "a value must follow"),
        (["record", "hello", "-s", "-o", "x"], "a debugger could change what has been recorded"),
        (["record", "nobody"], "no guest is called 'nobody'"),
        (["replay"], "wants one recording"),
        (["replay", "a", "b"], "wants one recording"),
        (["replay", "--wrong", "a"], "unknown option --wrong: pyvmm replay -help"),
        (["replay", "-x"], "a file of commands must follow"),
        (["replay", "/nowhere.pvm"], "cannot read the recording"),
        (["replay", "/dev/null"], "no recording of pyvmm"),
        (["replay", "."], "cannot read the recording"),
    ],
)
def test_wrong_command_lines(
    line: list[str], told: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line) == 2
    shown = capfd.readouterr()
    assert told in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["record", "replay"])
def test_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capfd.readouterr().out.startswith(f"usage: pyvmm {command}")


def test_commands_of_a_file_and_of_the_line_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = letters(tmp_path / "s.pvm")
    (tmp_path / "script").write_text("step 3\n")
    assert main(["replay", str(path), "--batch", "-ex", "goto 4", "-x", str(tmp_path / "script"), "-ex", "back 2"]) == 0
    shown = capfd.readouterr().out
    assert shown.index("exit 4 ") < shown.index("exit 7 ") < shown.index("exit 5 ")


def test_a_file_that_was_cut_off_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = letters(tmp_path / "s.pvm")
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["replay", str(path), "--batch", "-ex", "continue"]) == 0
    assert "cut off or damaged behind exit" in capfd.readouterr().err
