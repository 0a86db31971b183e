"""``pyvmm top`` on a terminal and on a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import termios

import pytest

from tests.support.process import COMMAND, PATIENCE, ROOT, read_until

pytestmark = pytest.mark.kvm


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "top", *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False)


def test_on_a_pipe_it_is_blocks_of_text() -> None:
    done = top("hang", "-d", "0.1", "-n", "2")
    assert done.returncode == 0
    assert done.stderr == ""
    blocks = done.stdout.strip().split("\n\n")
    assert done.stdout.count("hang: ") == 3  # two looks and the end
    assert "COM1 THR" in blocks[1]
    assert "\033" not in done.stdout


def test_on_a_terminal_keys_work_and_it_is_given_back() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    before = termios.tcgetattr(theirs)
    with subprocess.Popen([*COMMAND, "top", "hang", "-d", "0.1"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT) as process:
        try:
            read_until(ours, b"COM1 THR")
            os.write(ours, b"s")
            read_until(ours, b"sort: count")
            os.write(ours, b"p")
            read_until(ours, b"[paused]")
            os.write(ours, b"q")
            assert process.wait(PATIENCE) == 0
            shown = os.read(ours, 65536)
        finally:
            process.kill()
    assert b"\033[?1049l" in shown
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("line", ["hello -d 0", "hello -d x", "hello -n -1", "hello --sort x"])
def test_mistakes_are_one_line(line: str) -> None:
    done = top(*line.split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_in_a_sandbox() -> None:
    done = top("hello", "-d", "0.1", "-sandbox", "on")
    assert (done.returncode, done.stderr) == (0, "")
    assert "COM1 THR" in done.stdout
