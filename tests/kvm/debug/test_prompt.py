"""The prompt at a terminal, as a person uses it: keys, completion, Ctrl-C, a guest to type to; and the monitor of a running guest."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.support.process import COMMAND, PATIENCE, ROOT, Screen, started, wait_until

pytestmark = pytest.mark.kvm
pytest.importorskip("capstone")
READY = b"(pyvmm) "


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("INPUTRC", "/dev/null")
    monkeypatch.delenv("NO_COLOR", raising=False)


def interrupt(screen: Screen) -> None:
    """Ctrl-C at the prompt. Python sees one that comes between the prompt and its wait for a key with the next key only."""
    time.sleep(0.3)
    screen.type(b"\x03")


def say(screen: Screen, line: bytes, *expected: bytes) -> bytes:
    """Types a line; waits for each of some texts in order, then for the prompt."""
    screen.type(line + b"\r")
    shown = b""
    for text in (*expected, READY):
        shown += screen.expect(text)
    return shown


def test_a_first_walk(tmp_path: Path) -> None:
    with Screen("debug", "hello") as screen:
        assert b"stands before its first instruction" in screen.expect(READY)
        shown = say(screen, b"s", b"exit 1", b"COM1 LSR")
        assert b"\x1b[" in shown, "a terminal gets colours"
        say(screen, b"", b"exit 2", b"wrote 0x48 'H' to COM1 THR", b"| ")  # Enter: once more
        say(screen, b"bs", b"exit 1 of 2")
        say(screen, b"si", b"exit 1 of 2 + 1 instruction")
        say(screen, b"rsi", b"exit 1 of 2")
        say(screen, b"b serial0.TH\t", b"Breakpoint 1: write to port 0x3f8, COM1 THR")
        say(screen, b"reverse-c\t$rax", b"is a register")
        say(screen, b"c", b"exit 2", b"Breakpoint 1")
        say(screen, b"c", b"'e'")
        say(screen, b"rc", b"'H'")
        say(screen, b"delet\t", b"deleted: 1")
        say(screen, b"c", b"llo, world!", b"The guest has ended")
        say(screen, b"\x1b[A\x1b[A\x1b[A", b"the beginning")  # three up in the history: rc, with no breakpoint left, goes to the beginning
        screen.type(b"q\r")
        assert screen.end() == 0
        assert screen.modes() == screen.before
    history = (tmp_path / "pyvmm" / "history").read_text().split("\n")
    assert "b serial0.THR" in history and "q" in history


def test_no_colour_when_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Screen("debug", "hello") as screen:
        screen.expect(READY)
        shown = say(screen, b"s", b"exit 1")
        assert b"\x1b[1m" not in shown and b"\x1b[3" not in shown
        screen.type(b"q\r")
        assert screen.end() == 0


def test_a_conversation_with_the_guest() -> None:
    with Screen("debug", "echo") as screen:
        screen.expect(READY)
        screen.type(b"c\r")
        screen.expect(b"echo: type")
        wait_until(lambda: not screen.modes()[3] & (termios.ICANON | termios.ECHO), "the guest's terminal")
        for word in (b"hello", b"world"):
            screen.type(word)
            screen.expect(word)
        screen.type(b"\x03")
        screen.expect(b"Interrupted")
        screen.expect(READY)
        say(screen, b"back 1", b"exit")
        say(screen, b"type abc", b"3 bytes wait")
        screen.type(b"c\r")
        screen.expect(b"abc")
        screen.type(b"q")
        screen.expect(b"bye")
        screen.expect(b"The guest has ended")
        screen.expect(READY)
        screen.type(b"\x04")
        assert screen.end() == 0
        assert screen.modes() == screen.before


def test_a_guest_that_makes_no_exits_is_interrupted() -> None:
    with Screen("debug", "hang") as screen:
        screen.expect(READY)
        screen.type(b"c\r")
        screen.expect(b"hanging\r\n")
        time.sleep(1)  # the newline has an exit of its own
        screen.type(b"\x03")
        screen.expect(b"Interrupted")
        screen.expect(READY)
        screen.type(b"s\r")
        screen.expect(b"s\r\n")
        time.sleep(1)  # nothing tells that the step has begun; a Ctrl-C before would be for the prompt
        screen.type(b"\x03")
        screen.expect(b"Interrupted")
        screen.expect(READY)
        say(screen, b"info r", b"rip")
        interrupt(screen)
        screen.expect(b"once more")
        screen.expect(READY)
        screen.type(b"ste")
        screen.expect(b"ste")
        interrupt(screen)  # that line is not wanted, no more
        assert b"once more" not in screen.expect(READY)
        interrupt(screen)
        screen.expect(b"once more")
        screen.expect(READY)
        interrupt(screen)
        assert screen.end() == 0
        assert screen.modes() == screen.before


def test_suspended_and_back_the_line_is_as_it_was() -> None:
    with Screen("debug", "hello") as screen:
        screen.expect(READY)
        screen.type(b"info reg")
        screen.expect(b"info reg")

        def stopped() -> bool:
            screen.type(b"\x1a")  # once more: as in ``interrupt``, one may come too early. SIGCONT takes back what has not been delivered
            time.sleep(0.3)
            return Path(f"/proc/{screen.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        wait_until(stopped, "it is stopped")
        assert screen.modes() == screen.before, "the shell has its terminal"
        screen.process.send_signal(signal.SIGCONT)
        screen.expect(b"(pyvmm) info reg")
        say(screen, b"isters r\tip", b"rip")
        screen.type(b"q\r")
        assert screen.end() == 0 and screen.modes() == screen.before


def test_a_guest_asleep_for_ever_is_told_of(tmp_path: Path) -> None:
    image = tmp_path / "first.bin"
    image.write_bytes(bytes([0xB0, ord("A"), 0xE6, 0xE9, 0xF4]))  # mov al, 'A'; out 0xe9, al; hlt, with interrupts off
    with Screen("debug", str(image), "-format", "flat16", "-debugcon", "null") as screen:
        screen.expect(READY)
        say(screen, b"s", b"exit 1")
        screen.type(b"s\r")
        screen.expect(b"s\r\n")
        time.sleep(1)  # as above
        screen.type(b"\x03")
        assert b"asleep in HLT with interrupts off" in screen.expect(READY)


def test_a_signal_gives_the_terminal_back() -> None:
    import signal

    with Screen("debug", "hang") as screen:
        screen.expect(READY)
        screen.type(b"c\r")
        screen.expect(b"hanging")
        screen.signal(signal.SIGTERM)
        assert screen.end() == 128 + signal.SIGTERM
        assert screen.modes() == screen.before
        assert b"Traceback" not in screen.shown


# --- batch -----------------------------------------------------------------------------------------------------------
def batch(*arguments: str) -> tuple[int, str, str]:
    with started("debug", *arguments, "--batch") as process:
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out.decode(), err.decode()


def test_batch_is_plain_and_its_status_tells() -> None:
    status, out, err = batch("hello", "-ex", "step", "-ex", "print $rip")
    assert (status, err) == (0, "") and "\x1b" not in out and "exit 1" in out
    status, out, _ = batch("hello", "-ex", "nonsense", "-ex", "step")
    assert status == 1 and "exit 1" not in out
    assert batch("hello", "-history-memory", "nothing")[0] == 2
    assert batch("nobody")[0] == 2


def test_a_timeout_ends_it() -> None:
    status, out, err = batch("hang", "--timeout", "2", "-ex", "c", "-ex", "s")
    assert status == 124 and "The run is over: no end after 2 s" in out and err == "pyvmm: timeout: no end after 2 s\n"


def test_files_and_commands_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("echo two\n")
    status, out, _ = batch("hello", "-ex", "echo one", "-x", str(tmp_path / "script"), "-ex", "echo three")
    assert (status, out) == (0, "one\ntwo\nthree\n")


def test_a_snapshot_goes_on_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "snap"
    status, out, _ = batch("hello", "-ex", "goto 20", "-ex", f"save {path}", "-ex", "goto 2")
    assert status == 0 and "goes on from here" in out
    with started("run", "hello", "--load", str(path)) as process:
        out_, _ = process.communicate(timeout=PATIENCE)
    assert b"ld! This is a guest" in out_ and b"Hello" not in out_


def test_a_hook_on_a_real_guest(tmp_path: Path) -> None:
    (tmp_path / "letters.py").write_text(
        "letters = []\ndef on_exit(exit):\n    if exit.fields.get('port') == 0x3f8:\n        letters.append(exit.data)\n"
        "        return len(letters) == 3\ndef on_stop(stop):\n    print(b''.join(letters))\n"
    )
    status, out, err = batch("hello", "-ex", f"python {tmp_path}/letters.py", "-ex", "continue")
    assert status == 0 and "b'Hel'" in out and "exit 6" in out, out + err


# --- the monitor of a guest that runs ------------------------------------------------------------------------------------
def test_the_monitor_at_the_guests_terminal() -> None:
    with Screen("run", "echo") as screen:
        screen.expect(b"echo: type")
        screen.type(b"abc")
        screen.expect(b"abc")
        screen.type(b"\x01c")
        screen.expect(READY)
        say(screen, b"info registers", b"rip")
        say(screen, b"info status", b"VM status: running")
        say(screen, b"b serial0.THR", b"Breakpoint 1")
        screen.type(b"\x04")
        screen.expect(b"the guest has the terminal")
        wait_until(lambda: screen.raw, "raw mode")
        screen.type(b"x")
        screen.expect(b"Breakpoint 1 (serial0.THR)")
        screen.type(b"\x01c")
        screen.expect(READY)
        say(screen, b"bs", b"exit")
        say(screen, b"delet\t", b"deleted: 1")
        say(screen, b"c", b"the guest runs")
        screen.type(b"\x04")
        screen.expect(b"the guest has the terminal")
        wait_until(lambda: screen.raw, "raw mode")
        screen.type(b"yz")
        screen.expect(b"yz")
        screen.type(b"q")
        assert screen.end() == 0
        assert screen.modes() == screen.before


@pytest.mark.parametrize("stopped", [False, True])
def test_quit_keys_end_a_guest_that_the_monitor_holds(stopped: bool) -> None:
    with Screen("run", "echo") as screen:
        screen.expect(b"echo: type")
        screen.type(b"\x01c")
        screen.expect(READY)
        if stopped:
            say(screen, b"s", b"exit 1")
        screen.type(b"\x04")
        screen.expect(b"[the guest ")
        wait_until(lambda: screen.raw, "raw mode")
        screen.type(b"\x01x")
        assert screen.end() == 0
        assert screen.modes() == screen.before and b"pyvmm:" not in screen.shown


def test_the_run_ends_while_the_monitor_has_the_terminal() -> None:
    with Screen("run", "hang", "--timeout", "4") as screen:
        screen.expect(b"hanging")
        screen.type(b"\x01c")
        screen.expect(READY)
        say(screen, b"stop", b"stands still")
        assert screen.end() == 124
        assert screen.modes() == screen.before
        assert b"Traceback" not in screen.shown


def test_qmp_on_a_running_guest(tmp_path: Path) -> None:
    path = str(tmp_path / "q")
    with started("run", "echo", "-qmp", f"unix:{path},server=on,wait=off") as process, socket.socket(socket.AF_UNIX) as client:
        wait_until(lambda: Path(path).exists(), "the socket")
        client.settimeout(PATIENCE)
        client.connect(path)
        stream = client.makefile("rwb")
        assert "QMP" in json.loads(stream.readline())

        def ask(name: str, /, **arguments: object) -> dict[str, object]:
            stream.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            stream.flush()
            while "event" in (answer := json.loads(stream.readline())):
                pass
            return answer  # type: ignore[no-any-return]

        ask("qmp_capabilities")
        wait_until(lambda: ask("query-status")["return"]["status"] == "running", "a machine")  # type: ignore[index]
        assert ask("stop") == {"return": {}}
        assert ask("query-status")["return"]["status"] == "paused"  # type: ignore[index]
        assert ask("debug", command="step 3")["return"]["data"]["exit"] == 3  # type: ignore[index]
        assert ask("cont") == {"return": {}}
        assert ask("quit") == {"return": {}}
        assert process.wait(PATIENCE) == 0
    assert not Path(path).exists()


def test_a_bad_monitor_is_one_line() -> None:
    for option in ("-monitor stdio", "-qmp tcp::1", "-qmp unix:", "-qmp unix:/nowhere/s,server=on"):
        with started("run", "hello", *option.split()) as process:
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2 and err.count(b"\n") == 1 and err.startswith(b"pyvmm: -"), err


def test_what_is_typed_is_there_at_the_next_instruction_however_late_the_io_thread_is() -> None:
    program = (
        "import sys, time, pyvmm.cli as c, pyvmm.ioloop as l\n"
        "take = l.IoLoop._take_lock\n"
        "l.IoLoop._take_lock = lambda loop: time.sleep(0.5) or take(loop)\n"
        "sys.exit(c.main(['debug', 'echo-irq', '--batch', '-ex', 'break irq 4', '-ex', 'type h', '-ex', 'continue']))\n"
    )
    done = subprocess.run([COMMAND[0], "-c", program], capture_output=True, timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert b"-- exit 2 + some instructions" in done.stdout, done.stdout.decode()
    assert b"Breakpoint 1 (irq 4): the line went up" in done.stdout
