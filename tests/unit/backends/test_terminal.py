"""The terminal: raw mode, the Ctrl-A keys, restoration. On a pseudo-terminal of the test's own."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm.backends.terminal import Terminal

HELP_LINE = "Ctrl-A x        quit\n"


@pytest.fixture
def tty() -> Iterator[int]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)}
    master, slave = os.openpty()
    yield slave
    for fd in (master, slave):
        try:
            os.close(fd)
        except OSError:
            pass
    for number, handler in handlers.items():
        signal.signal(number, handler)


def is_raw(attributes: list[Any]) -> bool:
    return not attributes[3] & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN) and not attributes[0] & (
        termios.ICRNL | termios.IXON
    )


def test_raw_and_back(tty: int) -> None:
    before = termios.tcgetattr(tty)
    assert not is_raw(before)
    terminal = Terminal(tty, {})
    raw = termios.tcgetattr(tty)
    assert is_raw(raw)
    assert (raw[6][termios.VMIN], raw[6][termios.VTIME]) == (b"\x01", b"\x00") or (raw[6][termios.VMIN], raw[6][termios.VTIME]) == (1, 0)
    assert raw[1] == before[1], "output processing stays: \\n still returns"
    terminal.restore()
    assert termios.tcgetattr(tty) == before
    terminal.restore()


def test_odd_modes_come_back_as_they_were(tty: int) -> None:
    odd = termios.tcgetattr(tty)
    odd[0] |= termios.ISTRIP | termios.INLCR
    odd[2] = odd[2] & ~termios.CSIZE | termios.CS7 | termios.PARENB
    odd[3] &= ~termios.ECHO
    termios.tcsetattr(tty, termios.TCSANOW, odd)
    odd = termios.tcgetattr(tty)
    terminal = Terminal(tty, {})
    assert termios.tcgetattr(tty)[2] & termios.CSIZE == termios.CS8
    terminal.restore()
    assert termios.tcgetattr(tty) == odd


def test_a_terminal_that_hung_up_cannot_be_restored_and_that_is_all(tty: int) -> None:
    terminal = Terminal(tty, {})
    os.close(tty)
    terminal.restore()


def test_sigcont_makes_it_raw_again(tty: int) -> None:
    terminal = Terminal(tty, {})
    cooked = termios.tcgetattr(tty)
    cooked[3] |= termios.ICANON | termios.ECHO  # what a shell does while we are stopped
    termios.tcsetattr(tty, termios.TCSANOW, cooked)
    signal.raise_signal(signal.SIGCONT)
    assert is_raw(termios.tcgetattr(tty))
    terminal.restore()
    assert signal.getsignal(signal.SIGCONT) == signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL


def test_who_has_borrowed_it_finds_it_as_it_was_behind_ctrl_z(tty: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = termios.tcgetattr(tty)
    stopped: list[list[Any]] = []
    monkeypatch.setattr("pyvmm.backends.terminal.os.kill", lambda *_: stopped.append(termios.tcgetattr(tty)))
    terminal = Terminal(tty, {})
    called: list[str] = []
    terminal.again = lambda: called.append("again")
    terminal.lend()
    modes = termios.tcgetattr(tty)
    modes[3] &= ~(termios.ICANON | termios.ECHO)  # what readline does
    termios.tcsetattr(tty, termios.TCSANOW, modes)
    modes = termios.tcgetattr(tty)
    signal.raise_signal(signal.SIGTSTP)
    assert stopped == [before], "the shell gets its own modes"
    signal.raise_signal(signal.SIGCONT)
    assert (termios.tcgetattr(tty), called) == (modes, ["again"])
    terminal.take_back()
    signal.raise_signal(signal.SIGTSTP)
    signal.raise_signal(signal.SIGCONT)
    assert is_raw(termios.tcgetattr(tty)) and called == ["again"]
    terminal.restore()


# --- keys ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def keys(tty: int) -> Iterator[tuple[Terminal, list[str]]]:
    called: list[str] = []
    terminal = Terminal(tty, {ord("x"): lambda: called.append("quit"), ord("p"): lambda: called.append("pause")})
    yield terminal, called
    terminal.restore()


@pytest.mark.parametrize(
    ("typed", "kept", "commands"),
    [
        (b"abc", b"abc", []),
        (b"\x01x", b"", ["quit"]),
        (b"a\x01pb\x01xc", b"abc", ["pause", "quit"]),
        (b"\x01\x01", b"\x01", []),
        (b"\x01\x01x", b"\x01x", []),
        (b"\x01\x01\x01x", b"\x01", ["quit"]),
        (b"\x01?z", b"z", []),
        (b"\x01qz", b"z", []),
        (b"x", b"x", []),
        (bytes(range(2, 256)), bytes(range(2, 256)), []),
        (b"\x03\x1a\x1c\x04\x11\x13", b"\x03\x1a\x1c\x04\x11\x13", []),
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
def test_keys(keys: tuple[Terminal, list[str]], typed: bytes, kept: bytes, commands: list[str], piecewise: bool) -> None:
    terminal, called = keys
    got = b"".join(terminal.filter(bytes([byte])) for byte in typed) if piecewise else terminal.filter(typed)
    assert (got, called) == (kept, commands)


@pytest.mark.parametrize("key", [b"h", b"H", b"?"])
def test_help(keys: tuple[Terminal, list[str]], key: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert keys[0].filter(b"\x01" + key) == b""
    out, err = capfd.readouterr()
    assert out == "" and HELP_LINE in err


@pytest.mark.parametrize(
    ("typed", "told"), [(b"\x03\x03", 0), (b"\x03" * 3, 1), (b"\x03\x03a\x03", 0), (b"\x03" * 9, 1), (b"\x03\x03\x03a" * 2, 2)]
)
def test_who_types_ctrl_c_again_and_again_is_told_the_way_out(
    keys: tuple[Terminal, list[str]], typed: bytes, told: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert keys[0].filter(typed) == typed
    assert capfd.readouterr().err.count("Ctrl-C goes to the guest; Ctrl-A x quits") == told
