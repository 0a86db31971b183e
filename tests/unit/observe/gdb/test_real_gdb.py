"""A real gdb against the server with a small computer behind it: what it prints is what counts."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.observe.gdb.registers import I386, I8086
from pyvmm.observe.gdb.server import Address, GdbServer
from pyvmm.observe.gdb.target import TargetError
from tests.support.gdb_target import HLT, INC, NOP, FakeTarget

if TYPE_CHECKING:
    from pyvmm.observe.gdb.registers import Description
    from pyvmm.observe.gdb.target import Say, StopEvent

GDB = shutil.which("gdb")
pytestmark = pytest.mark.skipif(GDB is None, reason="gdb is not installed (apt-get install gdb)")
SECONDS = 30


class Run:
    """A server and a gdb that is connected to it."""

    def __init__(self, fake: FakeTarget, tmp_path: Path, *commands: str, before: tuple[str, ...] = (), **options: Description) -> None:
        assert GDB is not None
        self.server = GdbServer(fake, Address(path=str(tmp_path / "gdb")), **options)
        self.server.start()
        script = (*before, f"target remote {self.server.address.for_gdb}", *commands)
        arguments = [each for command in script for each in ("-ex", command)]
        self.gdb = subprocess.Popen(
            [GDB, "-nx", "-batch", "-iex", "set pagination off", "-iex", "set debuginfod enabled off", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def output(self) -> str:
        """What gdb printed, when it has ended."""
        try:
            return self.gdb.communicate(timeout=SECONDS)[0]
        finally:
            self.gdb.kill()
            self.server.close()
            assert self.server.failure is None


def _gdb(fake: FakeTarget, tmp_path: Path, *commands: str, before: tuple[str, ...] = ()) -> str:
    return Run(fake, tmp_path, *commands, before=before).output()


def test_look_around(tmp_path: Path) -> None:
    fake = FakeTarget()
    output = _gdb(
        fake, tmp_path,
        "info threads", "info registers", "p $xmm0", "p $mxcsr", "x/4i $pc", "x/2xb 0x1000", "x/xb 0x20000",
        "set $rax=0x1122334455667788", "set $xmm1.uint128=0x1234", "p/x $xmm1.uint128", "set {int}0x3000=0x12345678", "set $cr8=1",
        "thread 2", "p $rsp", "monitor hello world", "monitor fail", "set $st0=1.5", "p $st0", "detach",
    )  # fmt: skip
    for text in (
        '* 1    Thread 1 "vCPU 0" (64-bit <ring 0>) 0x0000000000001000',
        '  2    Thread 2 "vCPU 1" (64-bit <ring 1>) 0x0000000000001000',
        "cr0            0x80050033          [ PE MP ET NE WP AM PG ]",
        "efer           0xd00               [ LME LMA NXE ]",
        "rip            0x1000              0x1000",
        "v4_int32 = {0, 0, 0, 0}",
        "[ IM DM ZM OM UM PM ]",
        "=> 0x1000:\tnop",
        "0x1004:\tmov    %rax,0x2000",
        "0x1000:\t0x90\t0x48",
        "Cannot access memory at address 0x20000",
        "= 0x1234\n",
        'Could not write register "cr8"; remote failure reply',
        "cr8 is read-only here",
        "(void *) 0x7000",
        "you said: hello world\n",
        "that cannot be done\n",
        " = 1.5\n",
        "detached]",
    ):
        assert text in output, output
    assert fake.registers[0]["rax"] == 0x1122334455667788 and fake.memory[0x3000:0x3004] == b"\x78\x56\x34\x12"
    assert fake.registers[1]["st0"] == 0x3FFF_C000_0000_0000_0000
    assert fake.log == ["attach", "detach"]


def test_breakpoints_and_watchpoints(tmp_path: Path) -> None:
    fake = FakeTarget(vcpus=1)
    output = _gdb(
        fake, tmp_path,
        "break *0x1004", "continue", "continue", "p $rax", "delete", "watch *(long*)0x2000", "continue", "continue",
        "awatch *(int*)0x2000", "delete 2", "continue", "delete",
        "hbreak *0x1001", "continue", "stepi 3", "info breakpoints", "monitor say", "stepi", "detach",
    )  # fmt: skip
    assert output.count("Breakpoint 1, 0x0000000000001004 in ?? ()") == 2
    assert "$1 = 2\n" in output
    hits = re.findall(r"Old value = (\d+)\nNew value = (\d+)\n0x0{12}100c", output)
    assert hits == [("1", "2"), ("2", "3"), ("3", "4")], output
    assert "Breakpoint 4, 0x0000000000001001" in output
    assert "said later" in output
    assert not fake.breakpoints


def test_backwards(tmp_path: Path) -> None:
    fake = FakeTarget(vcpus=1)
    output = _gdb(
        fake, tmp_path,
        *["stepi"] * 6, *["reverse-stepi"] * 6, "reverse-stepi",
        "break *0x1004", *["continue"] * 3, "p $rax", *["reverse-continue"] * 3, "p $rax", "detach",
    )  # fmt: skip
    steps = re.findall(r"^(?:=> )?(0x[0-9a-f]{16}) in ", output.partition("No more reverse-execution history")[0], re.MULTILINE)
    rips = [int(each, 16) & 0xFFF for each in steps]
    assert rips == [0, 1, 4, 12, 0, 1, 4, 1, 0, 12, 4, 1, 0], output  # there and back again
    assert output.count("No more reverse-execution history") == 2
    assert "$1 = 3\n" in output and "$2 = 0\n" in output


def test_two_vcpus(tmp_path: Path) -> None:
    output = _gdb(
        FakeTarget(), tmp_path,
        "set scheduler-locking on", "thread 2", "stepi", "stepi", "info threads",
        "set scheduler-locking off", "break *0x1004", "continue", "detach",
    )  # fmt: skip
    assert re.search(r"\* 2 .*0x0{12}1004", output) and re.search(r"  1 .*0x0{12}1000", output), output
    assert "hit Breakpoint 1, 0x0000000000001004" in output


def test_control_c(tmp_path: Path) -> None:
    fake = FakeTarget()
    run = Run(fake, tmp_path, "continue", "p $pc", "detach")
    assert fake.running.wait(SECONDS)
    run.gdb.send_signal(signal.SIGINT)
    output = run.output()
    assert "received signal SIGINT, Interrupt." in output and "detached]" in output, output
    assert fake.log.count("interrupt") == 1


def test_the_guest_ends(tmp_path: Path) -> None:
    output = _gdb(FakeTarget(NOP + INC + HLT), tmp_path, "continue")
    assert "the guest powered off\n" in output and "exited with code 03]" in output, output


def test_the_guest_crashes(tmp_path: Path) -> None:
    output = _gdb(FakeTarget(b"\xcc"), tmp_path, "continue", "p $pc", "detach")
    assert "an instruction nobody knows\n" in output and "SIGABRT" in output and "0x1000" in output, output


def test_a_target_that_refuses(tmp_path: Path) -> None:
    class Refusing(FakeTarget):
        def attach(self, say: Say) -> StopEvent:
            raise TargetError("somebody else has it")

    assert "somebody else has it" in _gdb(Refusing(), tmp_path)


def test_kill(tmp_path: Path) -> None:
    fake = FakeTarget()
    output = _gdb(fake, tmp_path, "kill")
    assert "killed]" in output and fake.killed, output


def test_extended_remote(tmp_path: Path) -> None:
    fake = FakeTarget()
    path = tmp_path / "gdb"
    output = _gdb(fake, tmp_path, "disconnect", f"target extended-remote {path}", "detach", "attach 1", "stepi", "detach", "disconnect")
    assert "0x0000000000001001 in ?? ()" in output, output
    assert [each for each in fake.log if "resume" not in each][-4:] == ["attach", "detach", "attach", "detach"]


def test_gdb_with_a_32_bit_program(tmp_path: Path) -> None:
    fake = FakeTarget()
    fake.registers[0]["rax"] = 7
    run = Run(
        fake, tmp_path, "info registers eax eip esp", "stepi", "set $eax=9", "p $xmm7.v2_int64", "p $cr0", "detach",
        before=("set architecture i386",), description=I386,
    )  # fmt: skip
    output = run.output()
    for text in ("eax            0x7 ", "eip            0x1000 ", "0x00001001 in ?? ()", "{0, 0}", "[ PE MP ET NE WP AM PG ]"):
        assert text in output, output
    assert "warning: Selected architecture" not in output and fake.registers[0]["rax"] == 9


def test_16_bit_code_is_disassembled_as_such(tmp_path: Path) -> None:
    """``set architecture i8086`` does it with no description but its own: with AMD64 gdb refuses it, with I386 it changes nothing."""
    output = Run(FakeTarget(b"\x31\xc0\xbe\x29\x7c\xf4"), tmp_path, "x/3i $pc", "p $eip", "detach", description=I8086).output()
    for text in ("xor    %ax,%ax", "mov    $0x7c29,%si", "hlt", "(void (*)()) 0x1000"):
        assert text in output, output
