"""The engine on real machines: exits numbered, moves that stop where they should, nothing left behind."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from struct import pack

import pytest

from pyvmm import events, exits
from pyvmm.machine import Machine
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, EXIT, LINE, PORT, WATCH, Breakpoint
from pyvmm.observe.debug.control import Control
from pyvmm.observe.debug.subject import ExitRecord, Moment, SubjectError
from tests.support import replay
from tests.support.debugged import BASE, COUNTER, INC, INSTRUCTIONS, JMP, MOV_AL, NOP, OUT, controlled, counter, guest, rip, rounds
from tests.support.vm import DEBUG_EXIT, HANG, flat

pytestmark = pytest.mark.kvm


def test_it_stands_behind_the_exit_asked_for(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        assert control.stop.why == subject.START
        for number in (1, 2, 50):
            stop = control.run(until=number)
            assert (stop.why, stop.at, control.number, rip(control)) == (subject.EXIT, Moment(exit=number), number, NOP)
            assert counter(control) == number


def test_single_steps_count_accesses_once(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        control.run(until=1)
        found = []
        for _ in range(13):
            found.append((rip(control), control.moment))
            assert control.step_instructions(0).why == subject.STEPPED
        expected = [(NOP, 1, 0), *((at, 1, 1 + n) for n, at in enumerate((JMP, *INSTRUCTIONS[:4]))), (NOP, 2, 0)]
        assert [(at, moment.exit, moment.steps) for at, moment in found[:7]] == expected
        assert [at for at, _ in found[7:]] == [JMP, *INSTRUCTIONS[:4], NOP]
        assert control.step_instructions(0, 600).at == Moment(exit=3 + 100, steps=1)
        assert rip(control) == JMP and counter(control) == 103


def test_halt_is_a_step_and_a_halted_processor_waits(tmp_path: Path) -> None:
    with rounds(tmp_path, bytes.fromhex("90 f4 90 ebfb")) as control:
        for expected in (BASE + 1, BASE + 2):
            control.step_instructions(0)
            assert rip(control) == expected
        threading.Timer(0.2, control.interrupt).start()
        assert control.step_instructions(0).why == subject.INTERRUPTED and rip(control) == BASE + 2


def test_a_guest_stepped_over_halts_goes_on() -> None:
    with guest("timer-pit") as control:
        control.run(until=30)
        for _ in range(3):
            assert control.step_instructions(0, 100).why == subject.STEPPED
        assert control.run().why == subject.END and b" 10 done" in bytes(control.machine.devices["serial0"].output.__self__.output)


def test_a_spinning_guest_is_interrupted(tmp_path: Path) -> None:
    with rounds(tmp_path, HANG) as control:
        control.interrupt()  # nothing runs: nothing happens
        for _ in range(3):
            threading.Timer(0.1, control.interrupt).start()
            stop = control.run()
            assert (stop.why, rip(control), control.number) == (subject.INTERRUPTED, BASE, 0)


def test_exits_are_told_in_order_at_rest(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        told: list[ExitRecord] = []
        standing: list[tuple[int, int]] = []

        def on_exits(records: list[ExitRecord]) -> None:
            with control.machine.quiesce():  # nested
                told.extend(records)
                standing.append((rip(control), counter(control)))

        control.on_exits = on_exits
        control.run(until=20)
        assert [record.number for record in told] == list(range(1, 21))
        assert standing == [(NOP, number) for number in range(1, 21)]
        exit = exits.thaw(told[3].frozen)
        assert (exit.name, exit.data, exit.fields["port"], told[3].vcpu, told[3].answer) == ("KVM_EXIT_IO", b"x", 0x3F8, 0, b"")
        assert told[3].rip in (OUT, NOP) and 0 < told[3].time < told[4].time


def test_answers_of_reads_are_in_the_record(tmp_path: Path) -> None:
    code = bytes.fromhex("66bafd03 ec ebfd")  # mov dx, 0x3fd; in al, dx
    with rounds(tmp_path, code) as control:
        told: list[ExitRecord] = []
        control.on_exits = told.extend
        control.run(until=2)
        assert [record.answer for record in told] == [b"\x60", b"\x60"]


def test_a_move_ends_when_its_exits_are_told(tmp_path: Path) -> None:
    """A vCPU that waits for its turn to tell counts as parked: the debugger's thread is not to be back before its exit is told."""
    with rounds(tmp_path) as control:
        told: list[int] = []
        control.on_exits = lambda records: told.extend(record.number for record in records)
        stand = control.machine.stand

        def slow(on: bool) -> None:
            stand(on)
            if on and not told:
                control.interrupt()
                time.sleep(0.2)  # another has its turn

        control.machine.stand = slow  # type: ignore[method-assign]
        stop = control.run()
        assert stop.why == subject.INTERRUPTED and told == [1] == list(range(1, control.number + 1))
        assert control.run(until=5).why == subject.EXIT and told == [1, 2, 3, 4, 5]


def test_two_processors_that_want_rest_at_once(tmp_path: Path) -> None:
    with guest("smp") as control:
        told: list[int] = []
        control.on_exits = lambda records: told.extend(record.number for record in records)
        stop = control.run()
        assert stop.why == subject.END and told == list(range(1, control.number + 1))
        assert b"4 of 4 processors" in bytes(control.machine.devices["serial0"].output.__self__.output)


@pytest.mark.parametrize(
    ("kind", "port", "value", "hits"),
    [(PORT, 0x3F8, None, [1, 2, 3]), (PORT, 0x3F8, ord("x"), [1, 2, 3]), (PORT, 0x3F8, ord("y"), []), (EXIT, 2, None, [1, 2, 3])],
)
def test_breakpoints_at_exits(tmp_path: Path, kind: str, port: int, value: int | None, hits: list[int]) -> None:
    with rounds(tmp_path) as control:
        control.breakpoints.add(Breakpoint(kind=kind, first=port, last=port, value=value))
        for expected in hits:
            stop = control.run(until=9)
            assert (stop.why, stop.exit, stop.hits, rip(control)) == (subject.BREAKPOINT, expected, [1], NOP)
        assert hits or control.run(until=9).why == subject.EXIT


def test_an_interrupt_line_is_a_breakpoint(tmp_path: Path) -> None:
    code = bytes.fromhex("90 66baf903 b002 ee 90ebfd")  # IER: interrupt when the transmitter is empty, which it is
    with rounds(tmp_path, code) as control:
        line = control.machine.lines.lines[4]
        before = line.drive
        control.breakpoints.add(Breakpoint(kind=LINE, first=4, last=4))
        control.breakpoints.add(Breakpoint(kind=LINE, first=3, last=3))
        stop = control.run()
        assert (stop.why, stop.hits, rip(control), control.number) == (subject.BREAKPOINT, [1], BASE + 8, 1)
        assert line.drive == before


def test_a_breakpoint_at_an_address(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        found = control.breakpoints.add(Breakpoint(kind=ADDRESS, first=MOV_AL, last=MOV_AL))
        for expected in (1, 2, 3):
            stop = control.run()
            assert (stop.why, stop.hits, rip(control), counter(control)) == (subject.BREAKPOINT, [1], MOV_AL, expected)
            assert control.machine.memory.read(MOV_AL, 2) == b"\xb0\x78", "what is planted is not seen"
            assert control.number == expected - 1, "a breakpoint is no exit of the guest's"
        assert found.hits == 3 and found.means
        found.ignore = 10
        assert control.run().why == subject.BREAKPOINT and counter(control) == 14


def test_breakpoints_on_every_instruction_are_as_single_steps(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        for at in INSTRUCTIONS:
            control.breakpoints.add(Breakpoint(kind=ADDRESS, first=at, last=at))
        found = []
        for _ in range(20):
            assert control.run().why == subject.BREAKPOINT
            found.append(rip(control))
        assert found == [INSTRUCTIONS[(1 + n) % 6] for n in range(20)]
        assert counter(control) == 4


def test_code_loaded_over_a_breakpoint(tmp_path: Path) -> None:
    """mov dword [BASE + 0x100], nop nop jmp back; out 0x80, al; jmp there."""
    code = bytes.fromhex("c7050001100090 90ebfd b000 e680 e9ed000000")
    with rounds(tmp_path, code) as control:
        for unused in range(4):  # the debug registers, where those serve
            control.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x30_0000 + unused, last=0x30_0000 + unused))
        there = BASE + 0x100
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=there, last=there))
        stop = control.run()
        assert (stop.why, stop.hits, rip(control)) == (subject.BREAKPOINT, [5], there)
        assert control.machine.memory.read(there, 4) == bytes.fromhex("9090ebfd")


def test_a_step_stops_at_a_breakpoint(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=OUT, last=OUT))
        stop = control.step_instructions(0, 100)
        assert (stop.why, stop.at, rip(control)) == (subject.BREAKPOINT, Moment(exit=0, steps=3), OUT)
        assert control.step_instructions(0).why == subject.STEPPED and rip(control) == NOP


def test_the_guests_own_int3_reaches_it(tmp_path: Path) -> None:
    """A vector 3 of real mode that counts; a breakpoint on the NOP behind the INT3."""
    code = bytes.fromhex("c7060c00137c c7060e000000 bc0070 cc 90 ebfc ff060090 cf")
    with rounds(tmp_path, code, fmt="flat16") as control:
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x7C10, last=0x7C10))
        for expected in (1, 2, 3):
            assert control.run().why == subject.BREAKPOINT and rip(control) == 0x7C10
            assert control.machine.memory.unpack("<H", 0x9000) == (expected,)


def test_a_paused_machine_can_be_interrupted(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        control.run(until=3)
        control.machine.pause()
        for move in (control.run, lambda: control.step_instructions(0, 10_000)):
            threading.Timer(0.2, control.interrupt).start()
            assert move().why == subject.INTERRUPTED
        control.machine.resume()
        assert control.run(until=20).why == subject.EXIT


def test_checkpoints_do_not_see_planted_bytes(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=INC, last=INC, ignore=5))
        seen = set()
        control.on_exits = lambda records: seen.add(control.machine.memory.read(BASE, 16))
        assert control.run().why == subject.BREAKPOINT and counter(control) == 6
        assert seen == {control.machine.memory.read(BASE, 16)}


@pytest.mark.parametrize(
    ("first", "last", "hits"), [(COUNTER, COUNTER, 4), (COUNTER + 1, COUNTER + 3, 1), (COUNTER + 4, COUNTER + 4095, 0)]
)
def test_memory_is_watched(tmp_path: Path, first: int, last: int, hits: int) -> None:
    with rounds(tmp_path) as control:
        found = control.breakpoints.add(Breakpoint(kind=WATCH, first=first, last=last, direction="w"))
        if hits == 1:
            control.machine.memory.write(COUNTER, b"\xfd")
        for expected in range(1, hits + 1):
            stop = control.run()
            assert (stop.why, stop.hits, rip(control)) == (subject.BREAKPOINT, [1], INC + 6), found.means
            assert counter(control) == (expected if hits == 4 else 0x100)
            assert stop.address == first
        stop = control.run(until=10)
        assert hits == 4 or stop.why == subject.EXIT
        control.breakpoints.remove(1)
        assert control.run(until=20).why == subject.EXIT and counter(control) == (0xFD if hits == 1 else 0) + 20
        assert [slot.flags for slot in control.machine.memory.slots] == [0] * len(control.machine.memory.regions)


def test_a_step_sees_a_write(tmp_path: Path) -> None:
    with rounds(tmp_path) as control:
        control.breakpoints.add(Breakpoint(kind=WATCH, first=COUNTER, last=COUNTER + 3, direction="w"))
        stop = control.step_instructions(0, 3)
        assert (stop.why, stop.address, stop.at.steps) == (subject.BREAKPOINT, COUNTER, 1)


# fninit; fldpi; fstp qword ptr [2 MiB]; inc dword ptr [2 MiB + 4 KiB]; jmp back: KVM's emulator does not know the FSTP
STORE_PI = bytes.fromhex("dbe3 d9eb dd1d00002000 ff0500102000 ebee")


@pytest.mark.kvm("ring0-simd")
@pytest.mark.parametrize("steps", [False, True])
def test_a_write_that_kvm_cannot_emulate_is_seen(tmp_path: Path, steps: bool) -> None:
    with rounds(tmp_path, STORE_PI) as control:
        found = control.breakpoints.add(Breakpoint(kind=WATCH, first=COUNTER, last=COUNTER + 7, direction="w"))
        stop = control.step_instructions(0, 10) if steps else control.run()
        assert (stop.why, stop.hits, rip(control)) == (subject.BREAKPOINT, [1], BASE + 10), (stop, found.means)
        assert control.machine.memory.read(COUNTER, 8) == pack("<d", math.pi)
        threading.Timer(0.5, control.interrupt).start()
        assert control.run().why == subject.INTERRUPTED, "what is written again is the same"
        assert control.machine.memory.read(COUNTER + 0x1000, 1) != b"\0" and control.number == 0


def test_a_crashed_guest_stands_still() -> None:
    with guest("triple-fault") as control:
        stop = control.run()
        assert stop.why == subject.CRASHED and stop.verdict is not None and stop.verdict.kind == events.CRASH
        assert stop.exit == control.number
        with control.quiet():
            assert control.machine.vcpus[0].get_mp_state() == 0
        with pytest.raises(SubjectError, match="has ended"):
            control.run()
        assert control.machine.reason is None
        control.detach()
        assert replay_ends(control.machine).kind == events.CRASH


def test_a_guest_that_ends_stands_still(tmp_path: Path) -> None:
    code = bytes.fromhex("66baf400 b803000000 ef ebfe")  # isa-debug-exit: 3
    with rounds(tmp_path, code, devices=(DEBUG_EXIT,)) as control:
        stop = control.run()
        assert (stop.why, stop.at.exit) == (subject.END, 1) and stop.verdict is not None and stop.verdict.value == 3
        control.rewind(0)  # as history would, with the machine's state
        control.machine.vcpus[0].set_regs(_at(control, BASE))
        assert control.run().at.exit == 1
        control.detach()
        assert replay_ends(control.machine).kind == events.DEBUG_EXIT


def _at(control: Control, address: int) -> object:
    regs = control.machine.vcpus[0].get_regs()
    regs.rip = address
    return regs


def replay_ends(machine: Machine) -> events.StopReason:
    end = time.monotonic() + 20
    while machine.reason is None and time.monotonic() < end:
        time.sleep(0.01)
    assert machine.reason is not None
    return machine.reason


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with flat(bytes.fromhex("90 ebfd"), tmp_path) as (machine, _), replay.running(machine):
        loop = machine.runloops[0]
        before = (loop.interrupted, loop.unhandled, machine.defer, dict(loop.handlers))
        machine.resume()
        for _ in range(3):
            control = Control(machine, _breakpoints())
            control.attach()
            assert loop.interrupted != before[0]
            control.detach()
            control.detach()
            assert (loop.interrupted, loop.unhandled, machine.defer) == before[:3]
            assert all(loop.exits[reason] is handler for reason, handler in loop.handlers.items())
        time.sleep(0.05)
        machine.pause()
        assert rip(control) in (BASE, BASE + 1)
        with pytest.raises(SubjectError, match="no debugger"):
            control.run()


def _breakpoints():  # type: ignore[no-untyped-def]
    from pyvmm.observe.debug.conditions import Breakpoints

    return Breakpoints()


def test_one_debugger_at_a_time(tmp_path: Path) -> None:
    with flat(HANG, tmp_path) as (machine, _), controlled(machine), pytest.raises(SubjectError, match="another debugger"):
        Control(machine, _breakpoints()).attach()


def test_the_end_of_the_run_ends_a_move(tmp_path: Path) -> None:
    with rounds(tmp_path, HANG) as control:
        threading.Timer(0.2, control.machine.stop).start()
        stop = control.run()
        assert stop.why == subject.END and stop.verdict is not None and stop.verdict.kind == events.QUIT


@pytest.mark.kvm("syscall")
def test_a_breakpoint_in_ring_3() -> None:
    program = 0x40_0000
    with guest("ring3") as control:
        console = control.machine.devices["serial0"].output.__self__
        while b"down to ring 3\n" not in console.output:
            assert control.run(until=control.number + 1).why == subject.EXIT
        found = control.breakpoints.add(Breakpoint(kind=ADDRESS, first=program, last=program))
        stop = control.run()
        assert (stop.why, rip(control)) == (subject.BREAKPOINT, program), found.means
        assert control.machine.vcpus[0].get_sregs().ss.dpl == 3
        assert control.step_instructions(0, 2).why == subject.STEPPED and rip(control) > program
        assert control.run().why == subject.END and b"FAIL" not in console.output
