"""A live machine in time: backward by exits and instructions, changes, consoles and disks of the moment, nothing left at the end."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.machine import Machine
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, EXIT, PORT, WATCH, WRITE, Breakpoint
from pyvmm.observe.debug.live import Live
from pyvmm.observe.debug.subject import UNCOUNTED, Moment, SubjectError
from tests.support import replay
from tests.support.debugged import COUNTER, ROUND
from tests.support.disk import FakeDisk
from tests.support.explained import explanations
from tests.support.living import alive, living, screen
from tests.support.process import wait_until
from tests.support.vm import Collector, flat

pytestmark = pytest.mark.kvm

HELLO = replay.config("hello", "-m", "16M")
TEXT = b"Hello, world! This is a guest in 16-bit real mode.\n"


def on_thr(live: Live) -> Breakpoint:
    """A stop at each byte that is printed."""
    return live.breakpoints.add(Breakpoint(kind=PORT, first=0x3F8, last=0x3F8, direction=WRITE))


def rips(live: Live, count: int) -> list[int]:
    """Where each of the next instructions begins."""
    found = []
    for _ in range(count):
        found.append(live.regs(0).rip)
        assert live.step_instructions(0).why in (subject.STEPPED, subject.EXIT)
    return found


# --- backward --------------------------------------------------------------------------------------------------------
def test_instructions_backward_are_those_forward_mirrored() -> None:
    with living(HELLO) as live:
        live.step(20)
        forward = rips(live, 25)  # over several exits
        assert live.at.exit > 22
        backward = []
        for _ in range(25):
            assert live.reverse_step(0).why == subject.ARRIVED
            backward.append(live.regs(0).rip)
        assert backward == forward[::-1]
        assert live.at == Moment(exit=20)
        assert live.reverse_step(0, 7).why == subject.ARRIVED
        live.step_instructions(0, 7)
        assert live.at == Moment(exit=20)
        assert live.reverse_step(0, 1 << 40).why == subject.BEGIN
        assert live.at == Moment(exit=0)


def test_the_beginning_is_told() -> None:
    with living(HELLO) as live:
        live.step(3)
        assert live.back(2).why == subject.ARRIVED
        assert live.back().why == subject.ARRIVED
        assert live.at == live.first == Moment(exit=0)
        assert live.back().why == subject.BEGIN
        assert live.reverse_run().why == subject.BEGIN
        assert live.last == Moment(exit=3)


def test_back_to_the_exit_that_a_breakpoint_names() -> None:
    with living(HELLO) as live:
        thr = on_thr(live)
        forward = []
        for _ in range(6):
            stop = live.run()
            assert (stop.why, stop.hits) == (subject.BREAKPOINT, [thr.number])
            forward.append(live.at)
        assert live.console() == TEXT[:6]
        for moment in forward[-2::-1]:
            stop = live.reverse_run()
            assert (stop.why, live.at, stop.hits) == (subject.BREAKPOINT, moment, [thr.number])
        assert live.console() == TEXT[:1]
        assert live.reverse_run().why == subject.BEGIN
        assert thr.hits == 6  # what is found backward does not count
        assert [live.run().at for _ in range(6)] == forward


def test_back_to_a_breakpoint_inside_the_guest() -> None:
    with living(HELLO) as live:
        live.step(30)
        start = rips(live, 5)[3]
        live.goto(Moment(exit=0))
        at = live.breakpoints.add(Breakpoint(kind=ADDRESS, first=start, last=start))
        forward = []
        for _ in range(8):
            stop = live.run()
            assert (stop.why, stop.hits, live.regs(0).rip) == (subject.BREAKPOINT, [at.number], start)
            assert stop.at.steps == UNCOUNTED
            forward.append(live.at.exit)
        for exit in forward[-2::-1]:
            stop = live.reverse_run()
            assert (stop.why, stop.hits, live.at.exit) == (subject.BREAKPOINT, [at.number], exit), stop
            assert live.regs(0).rip == start
        live.reverse_step(0)  # from where nobody has counted
        assert live.at.steps >= 0
        live.step_instructions(0)
        assert live.regs(0).rip == start


def test_back_to_the_last_write_of_a_variable(tmp_path: Path) -> None:
    with flat(ROUND, tmp_path, coalesce=False) as (machine, _), alive(machine) as live:
        live.step(8)
        watched = live.breakpoints.add(Breakpoint(kind=WATCH, first=COUNTER, last=COUNTER + 3, direction=WRITE))
        live.goto(Moment(exit=2))
        forward = []
        for value in (3, 4, 5):
            stop = live.run()
            assert (stop.why, stop.hits) == (subject.BREAKPOINT, [watched.number]), stop
            assert live.memory.unpack("<I", COUNTER) == (value,)
            forward.append((live.at.exit, live.regs(0).rip))
        for value, place in ((4, forward[1]), (3, forward[0]), (2, (1, forward[0][1]))):
            stop = live.reverse_run()
            assert (stop.why, stop.hits) == (subject.BREAKPOINT, [watched.number]), stop
            assert (live.at.exit, live.regs(0).rip) == place
            assert live.memory.unpack("<I", COUNTER) == (value,)
        live.breakpoints.remove(watched.number)
        assert live.reverse_run().why == subject.BEGIN
        assert live.memory.unpack("<I", COUNTER) == (0,)


# --- forward in the past ---------------------------------------------------------------------------------------------
def test_forward_again_nothing_is_printed_twice_and_the_console_is_the_moment_s() -> None:
    with living(HELLO) as live:
        assert live.run().why == subject.END
        assert live.console() == screen(live) == TEXT
        for number in (100, 40, 3, 60, 0):
            live.goto(Moment(exit=number))
            assert TEXT.startswith(live.console())
            assert len(live.console()) < len(TEXT)
        assert live.run().why == subject.END
        assert live.run().why == subject.END
        assert live.console() == screen(live) == TEXT
        with pytest.raises(SubjectError, match="has not happened"):
            live.exit(live.at.exit + 1)


def test_executing_again_prints_nothing_twice_either() -> None:
    with living(HELLO) as live:
        live.step(50)
        shown = screen(live)
        live.goto(Moment(exit=0))
        live.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x10, last=0x10))  # never reached: but it has the guest executed
        assert live.step(50).why == subject.EXIT
        assert live.console() == screen(live) == shown
        assert not live.history.reliving


def test_breakpoints_stop_in_the_past_as_they_would_have() -> None:
    with living(HELLO) as live:
        live.step(60)
        live.goto(Moment(exit=0))
        on_thr(live)
        first = live.run()
        assert first.why == subject.BREAKPOINT
        assert live.exit(first.exit).frozen[0x22:0x24] == b"\xf8\x03"
        assert live.run().at.exit > first.at.exit
        any_exit = live.breakpoints.add(Breakpoint(kind=EXIT, first=2, last=2, ignore=3))
        live.breakpoints.remove(1)
        before = live.at.exit
        assert live.run().at.exit == before + 4
        assert any_exit.hits == 4


# --- changes ---------------------------------------------------------------------------------------------------------
def test_a_change_in_the_past_forgets_the_future() -> None:
    with living(HELLO) as live:
        live.step(80)
        live.goto(Moment(exit=40))
        shown = live.console()
        sregs = live.sregs(0)
        data = live.memory.read(sregs.ds.base + live.regs(0).rsi, 4)
        assert TEXT.startswith(shown + data)
        live.write(sregs.ds.base + live.regs(0).rsi, b"PAST")
        assert live.last == live.at == Moment(exit=40)
        assert not live.history.reliving
        with pytest.raises(SubjectError, match="has not happened"):
            live.exit(41)
        assert live.run().why == subject.END
        assert live.console() == shown + b"PAST" + TEXT[len(shown) + 4 :]
        live.goto(Moment(exit=40))
        assert live.memory.read(sregs.ds.base + live.regs(0).rsi, 4) == b"PAST"
        live.goto(Moment(exit=39))
        assert TEXT.startswith(live.console())


def test_registers_are_changed_between_exits() -> None:
    with living(HELLO) as live:
        live.step(10)
        live.step_instructions(0, 2)
        live.set_regs(0, {"rbx": 0x1234})
        assert live.at == Moment(exit=10)
        live.step_instructions(0, 2)
        live.back()
        assert live.regs(0).rbx == 0x1234
        with pytest.raises(SubjectError, match="no register flags"):
            live.set_regs(0, {"flags": 1})
        with pytest.raises(SubjectError, match="no vCPU 1"):
            live.regs(1)


# --- ends ------------------------------------------------------------------------------------------------------------
def test_a_guest_that_has_ended_is_looked_at_and_goes_back() -> None:
    with living(HELLO) as live:
        stop = live.run()
        assert stop.why == subject.END and stop.verdict is not None and stop.verdict.kind == events.POWEROFF
        assert live.step().why == live.step_instructions(0).why == subject.END
        assert live.machine.reason is None
        live.back(2)
        assert live.step(1).why == subject.EXIT
        assert live.step(1).why == subject.END
        live.close()
        wait_until(lambda: live.machine.reason is not None, "it ends")
        assert live.machine.reason is not None and live.machine.reason.kind == events.POWEROFF


def test_a_crash_is_looked_at_and_one_goes_back_from_it() -> None:
    with living(replay.config("triple-fault", "-m", "16M")) as live:
        stop = live.run()
        assert stop.why == subject.CRASHED
        last = live.at.exit
        live.back()
        assert live.at.exit == last - 1
        live.reverse_step(0, 2)
        assert live.run().why == subject.CRASHED
        assert live.at.exit == last


def test_left_in_the_past_the_guest_goes_on_from_there() -> None:
    with living(HELLO) as live:
        live.step(60)
        shown = screen(live)
        live.goto(Moment(exit=30))
        console = live.history.lines[0].prints.__self__  # type: ignore[attr-defined]
        here = live.console()
        machine = live.machine
        live.close()
        live.close()
        wait_until(lambda: machine.reason is not None, "it ends")
        assert bytes(console.output) == shown + TEXT[len(here) :]
        assert machine.tracked is None
        assert machine.devices["serial0"].output == console.write


# --- what is part of time --------------------------------------------------------------------------------------------
def test_a_disk_is_what_it_was() -> None:
    disk = FakeDisk(1 << 20)
    disk.data[8 * 512 : 9 * 512] = b"old!" * 128
    settings = replay.config("virtio-blk", "-m", "16M").replace(drives=())
    with living(settings, disk=disk) as live:
        assert live.run().why == subject.END
        (core,) = (each.core for each in live.machine.cards.transports)  # type: ignore[union-attr]
        layer = core.device.backend
        assert layer.base is disk

        def sector() -> bytes:
            view = memoryview(bytearray(512))
            layer.read(8 * 512, [view])
            return bytes(view)

        new = sector()
        assert new != b"old!" * 128
        states = []
        for number in range(live.history.last, -1, -20):
            live.goto(Moment(exit=number))
            states.append(sector())
        assert states[0] == new and states[-1] == b"old!" * 128
        assert set(states) == {new, b"old!" * 128}
        assert states == sorted(states, key=lambda each: each != new)
        assert not [entry for entry in disk.log if entry[0] not in ("read", "try")]  # none of it has reached the drive
        live.goto(live.last)
        live.close()
        assert core.device.backend is disk
        assert disk.data[8 * 512 : 9 * 512] == new


def test_a_disk_left_in_the_past_is_the_past_s() -> None:
    disk = FakeDisk(1 << 20)
    settings = replay.config("virtio-blk", "-m", "16M").replace(drives=())
    with living(settings, disk=disk) as live:
        live.run()
        live.goto(Moment(exit=1))
        with live.machine.quiesce():
            live.history._drives.close()
        assert not any(disk.data)


def test_a_run_that_is_stopped_leaves_the_disk_as_it_was_then() -> None:
    disk = FakeDisk(1 << 20)
    settings = replay.config("virtio-blk", "-m", "16M").replace(drives=())
    with living(settings, disk=disk) as live:
        live.run()
        live.machine.stop()
        wait_until(lambda: any(disk.data), "its end has it written")
        live.close()
        with pytest.raises(SubjectError, match="ended"):
            live.regs(0)
    assert disk.log[-1][0] == "flush"


def test_a_drive_that_cannot_be_written_is_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    disk = FakeDisk(1 << 20)
    settings = replay.config("virtio-blk", "-m", "16M").replace(drives=())
    with living(settings, disk=disk) as live:
        live.run()
        disk.fail["write"] = errno.EIO
        with pytest.raises(OSError):
            live.close()
        assert live.back().why == subject.ARRIVED  # nothing is lost
        live.machine.stop()
    assert "is lost: Input/output error" in capfd.readouterr().err


def test_what_was_typed_is_typed_again() -> None:
    with living(replay.config("echo", "-m", "16M")) as live:
        serial = live.machine.devices["serial0"]
        live.step(200)
        with live.machine.lock:
            assert serial.receive(b"h") == 1
        live.step(40)
        with live.machine.lock:
            assert serial.receive(b"i") == 1
        live.step(100)
        said, last = live.console(), live.at.exit
        assert said.endswith(b"hi")
        live.goto(Moment(exit=100))
        with live.machine.lock:
            assert serial.receive(b"x") == 0  # not in the past
        live.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x10, last=0x10))
        stop = live.step(last - 100)
        assert stop.why == subject.EXIT, stop
        assert live.console() == said == screen(live)


def test_what_was_typed_ahead_is_read_after_going_back() -> None:
    """The serial port has room for one byte, the others wait; being put back, it has room again, but that is not for them."""
    with living(replay.config("echo", "-m", "16M")) as live:
        live.step(200)
        console = live.history.lines[0].prints.__self__  # type: ignore[attr-defined]
        with live.machine.lock:
            console.feed(b"abcq")
        live.back()
        live.step(3)
        live.goto(Moment(exit=150))
        live.goto(live.last)
        assert live.step(400).why == subject.END
        assert b"abc" in live.console() and b"bye" in live.console()
        assert bytes(console.output) == live.console()


def test_a_machine_that_runs_is_taken_up_and_let_go() -> None:
    settings = replay.config("serial-poll", "-m", "16M").replace(coalesce=True)
    console = Collector()
    with Machine(settings, [console]) as machine:
        thread = threading.Thread(target=machine.run, args=(120.0,))
        thread.start()
        wait_until(lambda: len(console.output) > 1000, "it prints")
        for _ in range(2):
            live = Live(machine)
            before = len(console.output)
            assert live.step(20).why == subject.EXIT
            assert len(console.output) - before == len(live.console()) == 10
            live.goto(Moment(exit=7))
            live.step(5)
            live.goto(live.last)
            assert len(console.output) - before == 10
            live.close()
            wait_until(lambda: len(console.output) > before + 1000, "it goes on")  # noqa: B023
        machine.stop()
        thread.join(30)
        line = bytes(range(0x30, 0x30 + 63)) + b"\n"
        assert console.output == (line * 1024)[: len(console.output)]


# --- guests that are not like others -----------------------------------------------------------------------------------
def test_a_guest_without_exits_is_interrupted() -> None:
    with living(replay.config("hang", "-m", "16M")) as live:
        for _ in range(2):
            threading.Timer(0.2, live.interrupt).start()
            assert live.run().why == subject.INTERRUPTED
        assert live.at.steps == UNCOUNTED
        with pytest.raises(SubjectError, match="no moment one can go to"):
            live.goto(live.at)
        live.interrupt()  # nothing is on its way
        assert live.back().why in (subject.ARRIVED, subject.BEGIN)
        threading.Timer(0.2, live.interrupt).start()
        time.sleep(0.3)
        assert live.step_instructions(0).why == subject.STEPPED


def test_processors_go_back_together() -> None:
    with living(replay.config("smp", "-m", "16M", "-smp", "2")) as live:
        live.step(30)
        last = live.at.exit
        recorded = [live.history.digest(number) for number in range(last + 1) if live.history.has(number)]
        live.goto(Moment(exit=5))
        states = [live.vcpu_state(index).regs for index in range(2)]
        live.step(4)
        live.goto(Moment(exit=5))
        assert [live.vcpu_state(index).regs for index in range(2)] == states
        while live.history.reliving:
            live.step()
        assert [live.history.digest(number) for number in range(last + 1) if live.history.has(number)] == recorded
        assert live.run().why == subject.END
        assert b"2 of 2 processors" in live.console()


def test_explanations_are_those_of_the_moment() -> None:
    count = 40
    wanted = []
    explanations("virtio-blk", wanted.append, count, "-m", "16M")
    with living(replay.config("virtio-blk", "-m", "16M")) as live:
        live.step(count)
        found = [live.explain(number) for number in range(1, count + 1)]
    for one, other in zip(wanted, found, strict=True):
        assert other.line == one.line
        assert [str(change) for change in other.changed or []] == [str(change) for change in one.changed or []]
        assert (other.who, other.saw, other.reentry) == (one.who, one.saw, one.reentry)
