"""pyvmm/observe/debug/prompt.py on pipes; at a terminal: tests/kvm/test_debug_prompt.py. And style.py."""

from __future__ import annotations

import io
import os
import signal
import threading
import time

import pytest

from pyvmm.observe.debug.prompt import Prompt, history_path
from pyvmm.observe.debug.session import Session
from pyvmm.observe.debug.style import PLAIN, Style, of_terminal, pad, printable, visible
from tests.support.fake_subject import FakeSubject


def run(text: str, commands: list[str] | None = None, batch: bool = False) -> tuple[Prompt, str]:
    out = io.StringIO()
    prompt = Prompt(Session(FakeSubject()), io.StringIO(text), out, batch)
    prompt.run(commands or [])
    return prompt, out.getvalue()


def test_lines_from_a_pipe() -> None:
    prompt, said = run("print 1\nprint 2\n")
    assert said == "$1 = 0x1\n$2 = 0x2\n" and not prompt.failed


def test_commands_of_the_command_line_come_first() -> None:
    assert run("print 2\n", ["print 1"])[1] == "$1 = 0x1\n$2 = 0x2\n"


def test_quit_ends_it() -> None:
    assert run("print 1\nquit\nprint 2\n")[1] == "$1 = 0x1\n"


def test_an_error_is_told_and_the_next_line_read() -> None:
    prompt, said = run("nonsense\nprint 1\n")
    assert said == "no command 'nonsense': help lists them\n$1 = 0x1\n" and prompt.failed


def test_control_c_ends_python_that_waits() -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    _, said = run("", ["python import time; time.sleep(30)", "print 1"])
    assert said == "python: interrupted\n$1 = 0x1\n" and time.monotonic() - began < 20


def test_batch_reads_nothing_and_ends_at_the_first_error() -> None:
    prompt, said = run("print 9\n", ["print 1", "nonsense", "print 2"], batch=True)
    assert said == "$1 = 0x1\nno command 'nonsense': help lists them\n" and prompt.failed


def test_an_empty_line_of_a_script_repeats_nothing() -> None:
    prompt, _ = run("step\n\n\n")
    assert prompt.session.subject.log == ["step 1"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "again"),
    [("step 3", "step 3"), ("s", "s"), ("x/4xb $rip", "x/4xb"), ("print 5", ""), ("nonsense", ""), ("", ""), ("set $rax = 1", "")],
)
def test_what_an_empty_line_does(line: str, again: str) -> None:
    assert Prompt(Session(FakeSubject()), io.StringIO(), io.StringIO())._repeatable(line) == again


def test_history_is_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert history_path() == "/state/pyvmm/history"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert history_path() == "/home/me/.local/state/pyvmm/history"


# --- style.py --------------------------------------------------------------------------------------------------------
def test_pipes_get_no_colours() -> None:
    assert of_terminal(io.StringIO()) == PLAIN
    assert PLAIN.title("x") == PLAIN.changed("x") == "x"
    assert len(PLAIN.rule("left", "right")) == 100


@pytest.mark.parametrize(
    ("no_color", "term", "setting", "colour"),
    [
        ("", "xterm", "auto", True),
        ("1", "xterm", "auto", False),
        ("", "dumb", "auto", False),
        ("1", "xterm", "on", True),
        ("", "xterm", "off", False),
    ],
)
def test_a_terminals_colours(monkeypatch: pytest.MonkeyPatch, no_color: str, term: str, setting: str, colour: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    master, slave = os.openpty()
    try:
        with open(slave, "w") as stream:
            assert of_terminal(stream, setting).colour == colour
    finally:
        os.close(master)


def test_widths_do_not_count_colours() -> None:
    style = Style(colour=True)
    assert visible(style.title("abc")) == 3
    assert visible(pad(style.title("abc"), 5)) == 5
    assert visible(style.rule("a", "b")) == 100


def test_a_guests_text_moves_no_cursor() -> None:
    assert printable(b"a\x1b[31mb\x07\xff") == "a.[31mb.\ufffd".replace("\ufffd", printable(b"\xff"))
