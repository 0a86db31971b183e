"""pyvmm at a terminal: what a person sees and types, and the terminal's modes after every way out."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import vm
from tests.support.process import Screen, wait_until

pytestmark = pytest.mark.kvm

PROMPT = b"echo: type; q or Ctrl-D ends"


def flat(tmp_path: Path, code: bytes) -> str:
    """A 32-bit guest that says "up" on COM1, then goes on with ``code``."""
    hello = b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in b"up\n")  # mov dx; mov al; out
    (tmp_path / "guest").write_bytes(hello + code)
    return str(tmp_path / "guest")


# --- typing -------------------------------------------------------------------------------------------------------------
def test_a_conversation() -> None:
    with Screen("run", "echo") as screen:
        screen.expect(PROMPT)
        assert screen.raw
        for word in (b"hello", b"wor1d", b"\x03\x1a\x1c"):  # Ctrl-C, Ctrl-Z, Ctrl-\ are the guest's
            screen.type(word)
            screen.expect(word)
        screen.type(b"\r")
        screen.expect(b"\r\r\n")  # Enter is one carriage return; the guest adds the line feed, the terminal a return
        screen.type(b"q")
        screen.expect(b"bye")
        assert screen.end() == 0
        assert screen.modes() == screen.before


def test_interrupt_driven_input() -> None:
    with Screen("run", "echo-irq") as screen:
        screen.expect(b"echo-irq: type")
        screen.type(b"hello")
        screen.expect(b"hello")
        screen.type(b"q")
        assert screen.end() == 0


def test_a_long_paste_arrives_complete_and_in_order() -> None:
    text = b"".join(b"%05d." % number for number in range(2000))
    with Screen("run", "echo") as screen:
        screen.expect(PROMPT)
        shown = b""
        for at in range(0, len(text), 1000):
            screen.type(text[at : at + 1000])
            shown += screen.expect(text[at + 994 : at + 1000])
        assert shown.lstrip(b"\r\n") == text
        screen.type(b"q")
        assert screen.end() == 0


# --- Ctrl-A -------------------------------------------------------------------------------------------------------------
def test_quit() -> None:
    with Screen("run", "echo") as screen:
        screen.expect(PROMPT)
        screen.type(b"\x01x")
        assert screen.end() == 0
        assert screen.modes() == screen.before


def test_help_and_a_literal_ctrl_a() -> None:
    with Screen("run", "echo") as screen:
        screen.expect(PROMPT)
        screen.type(b"\x01h")
        screen.expect(b"Ctrl-A x        quit\r\n")
        screen.expect(b"a literal Ctrl-A\r\n")
        screen.type(b"<\x01\x01>")
        screen.expect(b"<\x01>")
        screen.type(b"q")
        assert screen.end() == 0


def test_pause_and_go_on() -> None:
    with Screen("run", "echo") as screen:
        screen.expect(PROMPT)
        screen.type(b"\x01p")
        screen.expect(b"[paused]\r\n")
        screen.type(b"later\x01p")
        assert screen.expect(b"[running]\r\n") == b"[running]\r\n"
        screen.expect(b"later")
        screen.type(b"\x01p\x01x")
        assert screen.end() == 0


def test_starting_paused() -> None:
    with Screen("run", "-S", "echo") as screen:
        screen.expect(b"Ctrl-A p goes on")
        screen.type(b"\x01p")
        said = screen.expect(b"[running]\r\n")
        assert PROMPT not in said, "it ran before it was told to"
        screen.expect(PROMPT)
        screen.type(b"\x01x")
        assert screen.end() == 0


def test_break_reaches_the_guest(tmp_path: Path) -> None:
    # wait for LSR.BI (bit 4): mov dx,0x3fd; in al,dx; test al,0x10; jz back; then power off
    code = bytes.fromhex("66bafd03 ec a810 74fb") + vm.POWER_OFF + vm.HANG
    with Screen("run", flat(tmp_path, code), "-format", "flat32") as screen:
        screen.expect(b"up")
        screen.type(b"\x01b")
        assert screen.end() == 0


def test_the_keys_work_although_the_guest_reads_nothing() -> None:
    with Screen("run", "hang") as screen:
        screen.expect(b"hanging")
        screen.type(b"is anybody there? " * 30)
        screen.type(b"\x01h")
        screen.expect(b"Ctrl-A x        quit\r\n")
        screen.type(b"\x01x")
        assert screen.end() == 0
        assert screen.modes() == screen.before


def test_the_keys_work_when_the_console_is_not_the_first_port() -> None:
    with Screen("run", "hang", "-serial", "null", "-serial", "stdio") as screen:
        wait_until(lambda: screen.raw, "raw mode")
        screen.type(b"\x01b\x01x")
        assert screen.end() == 0


def test_no_console_no_raw_mode() -> None:
    """Ctrl-C then is what it always is."""
    with Screen("run", "hang", "-serial", "null", "-debugcon", "stdio") as screen:
        wait_until(lambda: _threads(screen) > 1, "a vCPU thread")
        assert not screen.raw
        screen.type(b"\x03")
        assert screen.end() == 128 + signal.SIGINT


def _threads(screen: Screen) -> int:
    assert screen.process.poll() is None
    return len(os.listdir(f"/proc/{screen.process.pid}/task"))


# --- the way out --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM"])
def test_a_signal_restores_the_terminal(name: str) -> None:
    number = getattr(signal, name)
    with Screen("run", "hang") as screen:
        screen.expect(b"hanging")
        assert screen.raw
        screen.signal(number)
        assert screen.end() == 128 + number
        assert screen.modes() == screen.before
        assert b"Traceback" not in screen.shown


def test_many_signals_at_once() -> None:
    with Screen("run", "hang") as screen:
        screen.expect(b"hanging")
        for _ in range(20):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                screen.signal(number)
        assert screen.end() in (129, 130, 143)
        assert screen.modes() == screen.before


def test_power_off_debug_exit_and_reset_restore_the_terminal(tmp_path: Path) -> None:
    debug_exit = bytes.fromhex("b805000000 e7f4")
    reset = bytes.fromhex("b0fe e664")
    for code, options, status in (
        (vm.POWER_OFF, [], 0),
        (debug_exit, ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"], 11),
        (reset, ["-no-reboot"], 0),
    ):
        with Screen("run", flat(tmp_path, code + vm.HANG), "-format", "flat32", *options) as screen:
            screen.expect(b"up\r\n")
            assert screen.end() == status
            assert screen.modes() == screen.before


def test_a_crash_restores_the_terminal_and_reports_below() -> None:
    with Screen("run", "triple-fault") as screen:
        screen.expect(b"about to triple fault")
        screen.expect(b"pyvmm: vCPU 0 died: KVM_EXIT_SHUTDOWN\r\n")
        assert screen.end() == 100
        assert screen.modes() == screen.before


def test_a_timeout_restores_the_terminal() -> None:
    with Screen("run", "hang", "--timeout", "1") as screen:
        screen.expect(b"pyvmm: timeout: no end after 1 s\r\n")
        assert screen.end() == 124
        assert screen.modes() == screen.before


def test_bad_input_never_touches_the_terminal() -> None:
    with Screen("run", "hello", "-device", "isa-debug-exit,iobase=0x3f8") as screen:
        assert screen.end() == 2
        assert screen.modes() == screen.before


def test_a_bug_restores_the_terminal(tmp_path: Path) -> None:
    """sitecustomize plants one: the first key typed raises inside the I/O loop."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pyvmm.backends.terminal as t\ndef broken(self, data): raise ZeroDivisionError('planted')\nt.Terminal.filter = broken\n"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parents[2]}"
    try:
        screen = Screen("run", "hang")
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)
    with screen:
        screen.expect(b"hanging")
        assert screen.raw
        screen.type(b"k")
        screen.expect(b"pyvmm: internal error in sitecustomize.py:2: ZeroDivisionError: planted")
        assert screen.end() == 104
        assert screen.modes() == screen.before


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP], ids=["SIGTSTP", "SIGSTOP"])
def test_stop_and_continue(number: int) -> None:
    import termios

    with Screen("run", "echo") as screen:
        screen.expect(PROMPT)
        raw = screen.modes()
        for _ in range(2):
            screen.signal(number)
            wait_until(lambda: _state(screen) == "T", "stopped")
            if number == signal.SIGTSTP:
                assert screen.modes() == screen.before, "the shell gets a cooked terminal"
            else:
                termios.tcsetattr(screen.slave, termios.TCSANOW, screen.before)  # as the shell would
            screen.signal(signal.SIGCONT)
            wait_until(lambda: screen.modes() == raw, "raw again")
            screen.type(b"back")
            screen.expect(b"back")
        screen.type(b"q")
        assert screen.end() == 0
        assert screen.modes() == screen.before


def _state(screen: Screen) -> str:
    with open(f"/proc/{screen.process.pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


def test_a_terminal_that_disappears_ends_the_run(tmp_path: Path) -> None:
    with open(tmp_path / "stderr", "w+b") as stderr, Screen("run", "hang", stderr=stderr.fileno()) as screen:
        screen.expect(b"hanging")
        os.close(screen.slave)
        os.close(screen.master)  # the terminal emulator is closed: SIGHUP to the session leader
        assert screen.process.wait(60) == 128 + signal.SIGHUP
        stderr.seek(0)
        assert stderr.read() == b""


def test_a_terminal_that_disappears_under_nohup_does_not(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited
    try:
        screen = Screen("run", "hang", "--timeout", "4")
    finally:
        signal.signal(signal.SIGHUP, before)
    with screen:
        screen.expect(b"hanging")
        os.close(screen.slave)
        os.close(screen.master)
        assert screen.process.wait(60) == 124
