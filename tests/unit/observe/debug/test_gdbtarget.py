"""gdb's view of a subject: registers and memory by gdb's names, breakpoints among the user's, moves on a thread, ends and resets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pyvmm import status
from pyvmm.events import CRASH, StopReason
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, PORT, Breakpoint
from pyvmm.observe.debug.gdbtarget import GdbTarget
from pyvmm.observe.debug.subject import Moment, Stop, SubjectError
from pyvmm.observe.gdb import target
from pyvmm.observe.gdb.target import StopEvent, TargetError
from tests.support.fake_subject import BASE, COUNTER, MESSAGE, FakeSubject

if TYPE_CHECKING:
    from pyvmm.observe.debug.subject import Subject

OUT = BASE + 0x1C  # out dx, al


class FakeHolder:
    """Hands out a subject; ``next`` is what the guest goes on as."""

    def __init__(self, found: FakeSubject, reversible: bool = True) -> None:
        self.subject = found
        self.reversible = reversible
        self.vcpus = found.vcpus
        self.next: list[FakeSubject] = []
        self.log: list[str] = []

    def take(self) -> Subject:
        self.log.append("take")
        return self.subject

    def release(self) -> None:
        self.log.append("release")

    def kill(self) -> None:
        self.log.append("kill")

    def following(self, stop: Stop) -> Subject | None:
        self.log.append("following")
        return self.next.pop() if self.next else None

    def monitor(self, command: str) -> str:
        return f"{command}!\n"


class Debugged:
    """A target with gdb attached; moves wait for their stop."""

    def __init__(self, found: FakeSubject | None = None, reversible: bool = True) -> None:
        self.subject = found or FakeSubject()
        self.holder = FakeHolder(self.subject, reversible)
        self.target = GdbTarget(self.holder, status.of)
        self.said: list[str] = []
        assert self.target.attach(self.said.append).reason == target.ATTACHED

    def moved(self, start: Callable[[target.Stopped], None]) -> StopEvent:
        done = threading.Event()
        found: list[StopEvent] = []

        def stopped(event: StopEvent) -> None:
            found.append(event)
            done.set()

        start(stopped)
        assert done.wait(10)
        return found[0]

    def go(self) -> StopEvent:
        return self.moved(lambda stopped: self.target.resume({0: target.CONTINUE}, stopped))

    def step(self) -> StopEvent:
        return self.moved(lambda stopped: self.target.resume({0: target.STEP}, stopped))

    def asked(self, command: str) -> str:
        done = threading.Event()
        found: list[str] = []
        self.target.monitor(command, lambda text: (found.append(text), done.set()))  # type: ignore[func-returns-value]
        assert done.wait(10)
        self.target.wait(10)
        return found[0]

    @property
    def rip(self) -> int:
        return self.target.read_registers(0)["rip"]


def test_registers_without_what_a_recording_lacks() -> None:
    it = Debugged()
    values = it.target.read_registers(0)
    assert values["rip"] == BASE and values["rdx"] == 0x80 and values["cr0"] == 0x10 and values["cs_base"] == 0
    assert not {"xmm0", "st0", "mxcsr", "ftag", "k_gs_base"} & values.keys()
    it.target.write_registers(0, {**values, "rbx": 5, "eflags": 0x46})
    values = it.target.read_registers(0)
    assert (values["rbx"], values["eflags"]) == (5, 0x46) and it.subject.log == ["set"]
    it.target.write_registers(0, values)
    assert it.subject.log == ["set"], "nothing has changed: nothing is set"
    with pytest.raises(TargetError, match="xmm0 cannot be set here"):
        it.target.write_registers(0, {"xmm0": 1})


def test_memory() -> None:
    it = Debugged()
    assert it.target.read_memory(0, 0x7C2A, 6) == MESSAGE[:6]
    assert it.target.read_memory(0, (1 << 20) - 2, 10) == b"\0\0", "as far as there is memory"
    it.target.write_memory(0, 0x1FFE, b"abcd")
    assert it.target.read_memory(0, 0x1FFE, 4) == b"abcd"
    with pytest.raises(TargetError, match="no memory at 0x100000"):
        it.target.write_memory(0, 0xF_FFFE, b"abcd")
    assert it.target.read_memory(0, 0xF_FFFE, 2) == b"\0\0", "all or nothing"
    assert it.target.describe(0) == "real mode" and it.target.vcpus() == 1


def test_a_recording_cannot_be_changed() -> None:
    it = Debugged(FakeSubject(live=False))
    with pytest.raises(TargetError, match="cannot be changed"):
        it.target.write_memory(0, 0x1000, b"a")
    it.target.insert_breakpoint(target.ACCESS, COUNTER, 1)
    while it.go().reason == target.ACCESS:
        pass
    assert it.go().reason == target.HISTORY_END and it.holder.log == ["take"]


def test_breakpoints_live_among_the_users() -> None:
    it = Debugged()
    mine = it.subject.breakpoints.add(Breakpoint(kind=PORT, first=0x604, last=0x604, text="acpi-pm"))
    it.target.insert_breakpoint(target.SOFTWARE, OUT, 1)
    it.target.insert_breakpoint(target.HARDWARE, BASE + 8, 1)
    made = [(each.kind, each.first, each.hardware, each.owner) for each in it.subject.breakpoints]
    assert made[1:] == [(ADDRESS, OUT, False, "gdb"), (ADDRESS, BASE + 8, True, "gdb")]
    assert [it.go().reason for _ in range(3)] == [target.HARDWARE, target.SOFTWARE, target.HARDWARE] and it.rip == BASE + 8
    it.target.remove_breakpoint(target.SOFTWARE, OUT, 1)
    it.target.remove_breakpoint(target.HARDWARE, BASE + 8, 1)
    it.target.insert_breakpoint(target.WRITE, COUNTER - 2, 4)
    event = it.go()
    assert (event.reason, event.address) == (target.WRITE, COUNTER - 2)
    it.target.remove_breakpoint(target.WRITE, COUNTER - 2, 4)
    event = it.go()
    assert event.reason == target.EVENT and "breakpoint 1 (acpi-pm)" in event.text
    assert list(it.subject.breakpoints) == [mine]


def test_steps_and_the_way_back() -> None:
    it = Debugged()
    assert [(it.step().reason, it.rip) for _ in range(2)] == [(target.STEPPED, BASE + 2), (target.STEPPED, BASE + 4)]
    assert it.moved(lambda stopped: it.target.reverse_step(0, stopped)).reason == target.STEPPED and it.rip == BASE + 2
    assert it.moved(it.target.reverse_continue).reason == target.HISTORY_BEGIN and it.rip == BASE


def test_scheduler_locking_holds_the_others() -> None:
    it = Debugged()
    it.holder.vcpus = 2
    it.moved(lambda stopped: it.target.resume({1: target.CONTINUE}, stopped))
    assert it.subject.log == ["run only [1]"]


def test_the_end_is_shown_before_it_comes_where_one_can_go_back() -> None:
    it = Debugged()
    event = it.go()
    assert event.reason == target.HISTORY_END and it.holder.log == ["take"]
    assert it.moved(lambda stopped: it.target.reverse_step(0, stopped)).reason == target.STEPPED
    it.go()
    assert it.step().reason == target.HISTORY_END and it.holder.log == ["take"], "a step does not end it"
    event = it.go()
    assert (event.reason, event.value) == (target.EXITED, 0) and it.holder.log == ["take", "following"]
    with pytest.raises(TargetError, match="has ended"):
        it.target.read_memory(0, 0, 1)


def test_scheduler_locking_lets_it_end() -> None:
    it = Debugged()
    it.holder.vcpus = 2
    assert it.go().reason == target.HISTORY_END
    assert it.moved(lambda stopped: it.target.resume({0: target.CONTINUE}, stopped)).reason == target.EXITED
    assert it.subject.log == ["run only [0]"], "the end itself holds nobody"


def test_without_history_it_comes_at_once() -> None:
    it = Debugged(reversible=False)
    assert not it.target.reversible and it.go().reason == target.EXITED


def test_a_crash_is_shown_and_has_a_status() -> None:
    crash = StopReason(kind=CRASH, detail="triple fault")

    class Crashing(FakeSubject):
        def run(self) -> Stop:
            self.stop = Stop(why=subject.CRASHED, verdict=crash, text="triple fault")
            return self.stop

    it = Debugged(Crashing(), reversible=False)
    event = it.go()
    assert (event.reason, event.text) == (target.CRASHED, "the guest has crashed: triple fault (continue ends it, and pyvmm then reports)")
    event = it.go()
    assert (event.reason, event.value) == (target.EXITED, 100)


def test_breakpoints_outlive_a_reset() -> None:
    it = Debugged(reversible=False)
    it.holder.next = [FakeSubject()]
    it.holder.next[0].breakpoints = it.subject.breakpoints
    it.target.insert_breakpoint(target.SOFTWARE, BASE + 2, 1)
    assert it.go().reason == target.SOFTWARE
    assert it.go().reason == target.SOFTWARE, "in the machine that came next"
    assert it.holder.log == ["take", "following"] and it.rip == BASE + 2


class Endless(FakeSubject):
    """Runs until it is interrupted; begins late."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = threading.Event()
        self.ends = threading.Event()

    def run(self) -> Stop:
        self.begins.wait(10)
        self.running = True
        assert self.ends.wait(10)
        self.running = False
        return Stop(why=subject.INTERRUPTED, at=Moment(exit=1))

    def interrupt(self) -> None:
        if self.running:
            self.ends.set()


def test_an_interrupt_that_comes_before_the_move_has_begun_is_not_lost() -> None:
    found = Endless()
    it = Debugged(found)
    it.target.interrupt()  # nothing runs
    done = threading.Event()
    events: list[StopEvent] = []
    it.target.resume({0: target.CONTINUE}, lambda event: (events.append(event), done.set()))  # type: ignore[func-returns-value]
    it.target.interrupt()
    it.target.interrupt()
    found.begins.set()
    assert done.wait(10) and [event.reason for event in events] == [target.INTERRUPTED]


@pytest.mark.parametrize("how", ["detach", "kill"])
def test_leaving_while_it_runs_tells_no_stop(how: str) -> None:
    found = Endless()
    it = Debugged(found)
    it.target.insert_breakpoint(target.SOFTWARE, OUT, 1)
    found.begins.set()
    it.target.resume({0: target.CONTINUE}, lambda event: pytest.fail("told"))
    getattr(it.target, how)()
    assert found.ends.is_set() and len(found.breakpoints) == 0
    assert it.holder.log == ["take", "release" if how == "detach" else "kill"]


def test_what_fails_is_told() -> None:
    class Broken(FakeSubject):
        def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
            raise SubjectError("this KVM cannot step")

        def run(self) -> Stop:
            raise ZeroDivisionError

    it = Debugged(Broken())
    event = it.step()
    assert (event.reason, event.text) == (target.EVENT, "this KVM cannot step")
    assert "ZeroDivisionError" in it.go().text
    assert it.asked("info") == "info!\n"


def test_the_user_is_told_once_how_a_breakpoint_is_watched_for() -> None:
    it = Debugged()
    for _ in range(2):
        it.target.insert_breakpoint(target.SOFTWARE, OUT, 1)
        next(iter(it.subject.breakpoints)).means = "single steps"
        it.go()
        it.target.remove_breakpoint(target.SOFTWARE, OUT, 1)
    assert it.said == [f"pyvmm: gdb {OUT:#x} is watched for by single steps"]
