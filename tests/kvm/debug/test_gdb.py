"""A real gdb at real guests, by ``pyvmm run -gdb``: what it prints is what counts."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyvmm.observe.debug.holder import RunHolder
from tests.support.debugged import COUNTER as COUNTED
from tests.support.debugged import ROUND
from tests.support.process import wait_until
from tests.support.symbolfile import BASE, COUNTER, FUNCTION, GLOBAL, LOOP, TEXT, WORK, Entry, counting_guest, executable
from tests.support.vm import HANG, flat

GDB = shutil.which("gdb")
pytestmark = [pytest.mark.kvm, pytest.mark.skipif(GDB is None, reason="gdb is not installed (apt-get install gdb)")]
SECONDS = 90


class Debugged:
    """``pyvmm run`` with a gdb at it, over a UNIX socket."""

    def __init__(self, tmp_path: Path, guest: str, *commands: str, options: tuple[str, ...] = ("-S",), gdb: str = "") -> None:
        assert GDB is not None
        path = tmp_path / "gdb"
        self._said: str | None = None
        self.pyvmm = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pyvmm",
                "run",
                guest,
                "-m",
                "16M",
                "-serial",
                "null",
                "-gdb",
                f"unix:{path}{gdb}",
                "--timeout",
                "80",
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(path.exists, "pyvmm listens")
        file = [guest] if "/" in guest else []
        script = [f"target remote {path}", *commands]
        self.gdb = subprocess.Popen(
            [GDB, "-nx", "-batch", "-iex", "set pagination off", "-iex", "set remotetimeout 60", *file]
            + [each for command in script for each in ("-ex", command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def said(self) -> str:
        """What gdb printed, when it has ended."""
        if self._said is None:
            self._said = self.gdb.communicate(timeout=SECONDS)[0]
        return self._said

    def ends(self) -> tuple[str, str, int]:
        """What gdb printed, what pyvmm printed, and its status."""
        try:
            said = self.said()
            told = self.pyvmm.communicate(timeout=SECONDS)[0]
        finally:
            self.gdb.kill()
            self.pyvmm.kill()
        return said, told, self.pyvmm.returncode


@pytest.fixture
def counting(tmp_path: Path) -> str:
    path = tmp_path / "counting.elf"
    path.write_bytes(counting_guest())
    return str(path)


def rips(text: str) -> list[int]:
    return [int(each, 16) for each in re.findall(r"^rip is (0x[0-9a-f]+)", text, re.MULTILINE)]


WHERE = 'printf "rip is %#lx\\n", $rip'


def test_breakpoints_at_symbols_watchpoints_and_steps(tmp_path: Path, counting: str) -> None:
    said, _, status = Debugged(
        tmp_path, counting,
        "break *work", "continue", "backtrace 2", "continue", "p *(int*)&counter", "delete",
        "watch *(int*)&counter", "continue", "continue", "delete", WHERE,
        *["stepi", WHERE] * 9, "hbreak *work+4", "continue", WHERE, "stepi", WHERE, "delete",
        "set $rax=0x1234", "p $ax", "set var *(int*)&counter = 1000", "x/dw &counter", "p $cr0",
        "set $xmm1.uint128=0x77", "p $xmm1.uint128", "set $fs_base=0x5000", "p/x $fs_base", "monitor info breakpoints", "kill",
    ).ends()  # fmt: skip
    assert said.count(f"Breakpoint 1, 0x{WORK:016x} in work ()") == 2, said
    assert f"#1  0x{BASE + 12:016x} in _start ()" in said
    assert "$1 = 2\n" in said
    assert re.findall(r"Old value = (\d+)\nNew value = (\d+)\n0x", said) == [("2", "3"), ("3", "4")]
    round_ = [BASE + each for each in LOOP]
    found = rips(said)
    assert found[:10] == round_[1:] + round_[:2]
    assert found[10:] == [WORK + 4, WORK + 5], "at the breakpoint, and one step on"
    assert "Breakpoint 3, " in said and "= 4660\n" in said and f"{COUNTER:#x}:\t1000" in said and "PE" in said
    assert re.search(r"= (119|0x77)\n", said) and "= 0x5000\n" in said
    assert status == 0


def test_a_32_bit_elf_file(tmp_path: Path) -> None:
    path = tmp_path / "rounds.elf"
    entries: list[Entry] = [("_start", BASE, 0, FUNCTION, GLOBAL, TEXT), ("send", BASE + 12, 4, FUNCTION, GLOBAL, TEXT)]
    path.write_bytes(executable(ROUND, entries, wide=False, linear=BASE, physical=BASE))
    said, _, _ = Debugged(
        tmp_path, str(path), "break *send", "continue", "continue", "p $eip", "p/x $edx", "stepi", "p $eip", "kill"
    ).ends()
    assert said.count(f"Breakpoint 1, {BASE + 12:#010x} in send ()") == 2, said
    assert "= 0x3f8\n" in said and f"{BASE + 13:#x} <send+1>" in said


def test_a_hundred_steps_with_the_timer_on_meet_no_handler(tmp_path: Path) -> None:
    said, _, _ = Debugged(
        tmp_path, "timer-pit", "break *0x7c5e", "continue", "delete", 'printf "handler %#x\\n", *(unsigned short*)0x80',
        *["stepi", WHERE] * 100, "shell sleep 0.1", "stepi", WHERE, "detach",
    ).ends()  # fmt: skip
    handler = int(re.findall(r"handler (0x[0-9a-f]+)", said)[0], 16)
    found = rips(said)
    assert len(found) == 101 and handler not in found and len(set(found)) > 20, said


def test_a_spinning_guest_is_interrupted_and_let_go(tmp_path: Path) -> None:
    run = Debugged(tmp_path, "hang", r"echo going\n", "continue", WHERE, "stepi", "info registers rip", "detach", options=())
    assert run.gdb.stdout is not None
    for line in run.gdb.stdout:
        if line == "going\n":
            break
    time.sleep(1)
    run.gdb.send_signal(signal.SIGINT)
    said = run.said()
    assert "SIGINT" in said and len(rips(said)) == 1 and "detached]" in said
    assert run.pyvmm.poll() is None, "after gdb has gone it goes on"
    run.pyvmm.send_signal(signal.SIGTERM)
    assert run.ends()[2] == 128 + signal.SIGTERM


def test_a_monitor_command_that_goes_on_for_ever_is_interrupted(tmp_path: Path) -> None:
    here = "signal.pthread_kill, (threading.get_ident(), signal.SIGINT)"  # as Ctrl-C does
    later = f"python import signal, threading; threading.Timer(2, {here}).start()"
    wait = "set remotetimeout 2"  # gdb's default, after which it looks whether there was a Ctrl-C
    said, _, status = Debugged(tmp_path, "hang", later, wait, "monitor continue", "set remotetimeout 60", "kill").ends()
    assert "Interrupted: no exit" in said and "gdb shows registers and memory as they were before" in said, said
    assert status == 0, said


def test_a_gdb_that_comes_while_the_machine_is_being_built_waits_for_it(tmp_path: Path) -> None:
    """gdb calls as soon as the socket is there; a refusal made it give up."""
    holder = RunHolder(vcpus=1)
    with flat(HANG, tmp_path) as (machine, _):
        later = threading.Timer(0.1, holder.begin, (machine,))
        later.start()
        try:
            assert holder.take().vcpus == 1
        finally:
            later.join()
            holder.end(machine)


@pytest.mark.parametrize("history", [False, True])
def test_a_guest_that_is_killed_executes_nothing_more(tmp_path: Path, history: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = RunHolder(1, history)
    with flat(ROUND, tmp_path, coalesce=False) as (machine, _):
        stop = machine.stop
        monkeypatch.setattr(machine, "stop", lambda: (time.sleep(0.2), stop()))  # long enough for who has been let go
        holder.begin(machine)
        found = holder.take()
        thread = threading.Thread(target=machine.run, args=(60.0,))
        thread.start()
        found.step(3)
        (before,) = machine.memory.unpack("<I", COUNTED)
        holder.kill()
        thread.join(30)
        assert not thread.is_alive() and machine.memory.unpack("<I", COUNTED) == (before,)
        holder.end(machine)


def test_processors_are_threads(tmp_path: Path) -> None:
    said, _, status = Debugged(tmp_path, "smp", "info threads", "thread 2", WHERE, "thread 1", "stepi", "continue", gdb="").ends()
    assert re.search(r"\* 1 +Thread 1 \"vCPU 0\"", said) and re.search(r"  2 +Thread 2 \"vCPU 1\"", said), said
    assert "exited normally" in said and status == 0


def test_back_and_forth(tmp_path: Path, counting: str) -> None:
    said, _, status = Debugged(
        tmp_path, counting, "break *work", *["continue"] * 3, "p *(int*)&counter",
        *["stepi", WHERE] * 6, *["reverse-stepi", WHERE] * 6, *["reverse-continue", "p *(int*)&counter"] * 2,
        "delete", "reverse-continue", WHERE, "kill",
        gdb=",history=on",
    ).ends()  # fmt: skip
    found = rips(said)
    assert found[6:12] == [*found[:5][::-1], WORK], said
    assert [int(each) for each in re.findall(r"\$\d = (\d+)", said)] == [3, 2, 1]
    assert "No more reverse-execution history" in said and found[12] == BASE
    assert status == 0


def test_a_crash_stands_still(tmp_path: Path) -> None:
    said, told, status = Debugged(tmp_path, "triple-fault", "continue", "continue").ends()
    assert "SIGABRT" in said and "KVM_EXIT_SHUTDOWN" in said and "exited with code 0144" in said, said
    assert status == 100 and "crash" in told.lower()


def test_gdb_and_its_breakpoints_stay_when_the_guest_resets(tmp_path: Path) -> None:
    guest = tmp_path / "resets.bin"
    guest.write_bytes(bytes.fromhex("90 66baf90c b006 ee ebfe"))  # nop; mov dx, 0xcf9; mov al, 6; out dx, al
    run = Debugged(
        tmp_path, str(guest), f"break *{BASE + 5:#x}", *["continue", WHERE, "p $al"] * 3, "detach", options=("-S", "-format", "flat32")
    )
    said = run.said()
    assert rips(said) == [BASE + 5] * 3 and "exited" not in said and "detached]" in said, said
    run.pyvmm.send_signal(signal.SIGTERM)
    assert run.ends()[2] == 128 + signal.SIGTERM


def test_exit_status_and_kill(tmp_path: Path) -> None:
    said, _, status = Debugged(tmp_path, "exit-code", "continue").ends()
    assert re.search(rf"exited (normally|with code 0?{status:o})", said), said
    said, _, status = Debugged(tmp_path, "hang", "kill").ends()
    assert status == 0 and "killed" in said


def test_wrong_addresses_are_one_line() -> None:
    for address in ("nonsense", "tcp::1234,history=maybe", "tcp::1,arch=arm", "unix:"):
        done = subprocess.run(
            [sys.executable, "-m", "pyvmm", "run", "hello", "-gdb", address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "-gdb" in done.stderr, done.stderr
