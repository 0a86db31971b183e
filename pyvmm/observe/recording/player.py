"""A recording as a guest in time: the Subject of the debugger's prompt and of gdb, read-only.

It knows exits only. What happens at exits is searched for in the log; what happens between two of them (an instruction, a breakpoint on an
address) nobody has seen, and it says so.
"""

from __future__ import annotations

from pyvmm import events, exits
from pyvmm.events import StopReason
from pyvmm.kvm import structs
from pyvmm.kvm.vcpu_state import VcpuState, VmState
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import Breakpoints
from pyvmm.observe.debug.subject import ExitRecord, Moment, Stop, SubjectError
from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.layout import Layout
from pyvmm.observe.explain.who import locate
from pyvmm.observe.recording.format import INSIDE, REGS, Damaged, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyvmm.observe.explain.explain import Explanation
    from pyvmm.observe.explain.layout import States
    from pyvmm.observe.recording.reader import Recording, State

_EXITS_ONLY = "a recording has exits only, nothing between them"
_FORGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # of values no recorder writes


class Player:
    """See the module, and ``subject.Subject`` for what is not said here.

    Args:
        recording: open; the caller closes it.
        breakpoints: somebody's; else its own.
    """

    live = False

    def __init__(self, recording: Recording, breakpoints: Breakpoints | None = None) -> None:
        self.recording = recording
        self.name = recording.header.name
        self.vcpus = recording.header.vcpus
        self.breakpoints = breakpoints if breakpoints is not None else Breakpoints()
        self.running = False
        self.stop = Stop(why=subject.START)
        self._called_off = False
        self._layout: tuple[dict[str, Any], Layout] | None = None
        self._state = self._look(0)

    # --- where in time -------------------------------------------------------------------------------------------------
    @property
    def at(self) -> Moment:
        """Where it stands."""
        return Moment(exit=self._state.exit)

    @property
    def first(self) -> Moment:
        """See Subject."""
        return Moment(exit=0)

    @property
    def last(self) -> Moment:
        """See Subject."""
        return Moment(exit=self.recording.count)

    # --- looking -------------------------------------------------------------------------------------------------------
    @property
    def layout(self) -> Layout:
        """See Subject."""
        return self._layout_of(self._state)

    def regs(self, vcpu: int) -> Any:
        """See Subject."""
        return structs.kvm_regs.from_buffer_copy(self._registers(self._state, vcpu))

    def sregs(self, vcpu: int) -> Any:
        """See Subject."""
        return structs.kvm_sregs.from_buffer_copy(self._registers(self._state, vcpu), REGS)

    def vcpu_state(self, vcpu: int) -> VcpuState:
        """See Subject. Keyframes have it."""
        keyframe = self._keyframe("all of a vCPU's registers")
        self._registers(self._state, vcpu)
        if vcpu not in keyframe.vcpus:
            raise SubjectError(f"vCPU {vcpu} was inside an instruction at exit {self._state.exit}: only its general registers are recorded")
        made: VcpuState = self._made(VcpuState, keyframe.vcpus[vcpu])
        return made

    def vm_state(self) -> VmState:
        """See Subject. Keyframes have it."""
        made: VmState = self._made(VmState, self._keyframe("the state of KVM's interrupt controllers and timer").vm)
        return made

    @property
    def memory(self) -> Any:
        """See Subject."""
        return self._state.memory

    @property
    def memory_note(self) -> str:
        """See Subject."""
        behind = self._state.exit - self._state.memory.exit
        if not behind:
            return ""
        return f"memory is that of exit {self._state.memory.exit}, {behind} before this one: of a large guest it is recorded now and then"

    def devices(self) -> States:
        """See Subject."""
        return self._state.devices

    def exit(self, number: int) -> ExitRecord:
        """See Subject."""
        entry = self._entry(number)
        return ExitRecord(
            number=number, vcpu=entry.vcpu, time=entry.time, frozen=entry.frozen, answer=entry.answer, rip=entry.rip, took=entry.took,
            inside=entry.inside,
        )  # fmt: skip

    def explain(self, number: int) -> Explanation:
        """See Subject."""
        entry = self._entry(number)
        before, after = self._look(number - 1), self._look(number)
        regs = structs.kvm_regs.from_buffer_copy(self._registers(after, entry.vcpu))
        sregs = structs.kvm_sregs.from_buffer_copy(self._registers(after, entry.vcpu), REGS)
        regs.rip = entry.rip  # the others are those behind it
        exit = exits.thaw(entry.frozen)
        try:
            return explain(
                exit,
                self._layout_of(before),
                vcpu=entry.vcpu,
                regs=regs,
                sregs=sregs,
                site=locate(exit, regs, sregs, after.memory, emulated=self.recording.header.emulates_ring0),
                before=before.devices,
                after=after.devices,
                answer=entry.answer or None,
            )
        except Damaged as error:
            raise SubjectError(str(error)) from None
        except _FORGED as error:
            raise SubjectError(f"exit {number} is damaged in the recording ({type(error).__name__}: {error})") from None

    def console(self, most: int = 4096) -> bytes:
        """See Subject."""
        shown = self._state.console
        if self._state.exit == self.recording.count:
            rest = (self.recording.end or {}).get("console", b"")
            shown += rest if isinstance(rest, bytes) else b""
        return shown[-most:] if most > 0 else b""

    def _registers(self, state: State, vcpu: int) -> bytes:
        if not 0 <= vcpu < self.vcpus:
            raise SubjectError(f"there is no vCPU {vcpu}: the recording has {self.vcpus}")
        found = state.registers[vcpu]
        if not found:
            raise SubjectError(f"vCPU {vcpu} has no registers in the recording at exit {state.exit}")
        return found

    def _keyframe(self, what: str) -> Any:
        state = self._state
        if state.exit != state.keyframe_exit:
            raise SubjectError(f"{what}: a recording has that now and then; the nearest before is exit {state.keyframe_exit}: goto it")
        return state.keyframe

    def _made(self, kind: Any, fields: Any) -> Any:
        try:
            return kind(**fields)
        except TypeError as error:
            raise SubjectError(f"the recording is damaged at exit {self._state.exit}: {error}") from None

    def _layout_of(self, state: State) -> Layout:
        if self._layout is None or self._layout[0] is not state.layout:
            try:
                self._layout = state.layout, Layout.from_plain(state.layout)
            except _FORGED:
                raise SubjectError(f"the recording is damaged: it has no buses at exit {state.exit}") from None
        return self._layout[1]

    def _look(self, number: int) -> State:
        try:
            return self.recording.state(number)
        except Damaged as error:
            raise SubjectError(str(error)) from None

    def _entry(self, number: int) -> Entry:
        if not 0 < number <= self.recording.count:
            raise SubjectError(f"exit {number} is not in the recording, which has {self.recording.count}")
        try:
            return self.recording.entry(number)
        except Damaged as error:
            raise SubjectError(str(error)) from None

    # --- changing ------------------------------------------------------------------------------------------------------
    def set_regs(self, vcpu: int, values: dict[str, int]) -> None:
        """See Subject."""
        raise SubjectError("a recording cannot be changed")

    def write(self, gpa: int, data: bytes) -> None:
        """See Subject."""
        raise SubjectError("a recording cannot be changed")

    # --- moving --------------------------------------------------------------------------------------------------------
    def step(self, count: int = 1) -> Stop:
        """See Subject."""
        return self._move(lambda: self._search(range(self._state.exit + 1, min(self._state.exit + count, self.recording.count) + 1), count))

    def run(self, only: frozenset[int] = frozenset()) -> Stop:
        """See Subject. SubjectError: only some; the others' exits are in here as well."""
        if only and len(only) < self.vcpus:
            raise SubjectError("in a recording all processors go on: set scheduler-locking off")
        return self._move(lambda: self._search(range(self._state.exit + 1, self.recording.count + 1)))

    def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
        """See Subject."""
        raise SubjectError(f"{_EXITS_ONLY}: step goes to the next exit; pyvmm debug steps instructions")

    def reverse_step(self, vcpu: int, count: int = 1) -> Stop:
        """See Subject."""
        raise SubjectError(f"{_EXITS_ONLY}: back goes to the exit before; pyvmm debug steps instructions")

    def goto(self, moment: Moment) -> Stop:
        """See Subject."""
        if moment.steps:
            raise SubjectError(f"{_EXITS_ONLY}: go to exit {moment.exit}")
        if not 0 <= moment.exit <= self.recording.count:
            raise SubjectError(f"{moment} is not in the recording, which has exits 1 to {self.recording.count}")
        return self._move(lambda: self._arrive(moment.exit, Stop(why=subject.ARRIVED)))

    def back(self, count: int = 1) -> Stop:
        """See Subject."""
        target = self._state.exit - count
        return self._move(lambda: self._arrive(max(target, 0), Stop(why=subject.ARRIVED if target >= 0 else subject.BEGIN)))

    def reverse_run(self) -> Stop:
        """See Subject."""
        return self._move(lambda: self._search(range(self._state.exit - 1, 0, -1)))

    def interrupt(self) -> None:
        """See Subject."""
        self._called_off = True

    def _move(self, act: Callable[[], Stop]) -> Stop:
        self._called_off, self.running = False, True
        try:
            stop = act()
        except Damaged as error:
            raise SubjectError(str(error)) from None
        finally:
            self.running = False
        stop.at = self.at
        self.stop = stop
        return stop

    def _arrive(self, number: int, stop: Stop) -> Stop:
        self._state = self._look(number)
        stop.exit = number
        stop.vcpu = self._entry(number).vcpu if number else 0
        return stop

    def _search(self, numbers: range, count: int = 0) -> Stop:
        """Goes to the first of these exits that has a breakpoint, or as far as they go; ``count``: how many were asked for."""
        in_guest = self.breakpoints.in_guest()
        if in_guest:
            raise SubjectError(f"breakpoint {in_guest[0].number} is inside the guest, and {_EXITS_ONLY}: disable it, or use pyvmm debug")
        forward = numbers.step > 0
        if self.breakpoints.at_exits():
            for entry in self._entries(numbers):
                hits = self.breakpoints.reached(self.breakpoints.hits_at(entry.frozen, entry.vcpu, entry.answer))
                if hits:
                    return self._arrive(entry.number, Stop(why=subject.BREAKPOINT, hits=hits))
                if self._called_off:
                    return self._arrive(entry.number, Stop(why=subject.INTERRUPTED))
        if not forward:
            return self._arrive(0, Stop(why=subject.BEGIN))
        if count and len(numbers) == count:
            return self._arrive(numbers[-1], Stop(why=subject.EXIT)) if numbers[-1] < self.recording.count else self._end(subject.EXIT)
        return self._end(subject.END)

    def _entries(self, numbers: range) -> Iterator[Entry]:
        if numbers.step > 0:
            return self.recording.exits(numbers.start, numbers.stop - 1)
        return (self.recording.entry(number) for number in numbers)

    def _end(self, why: str) -> Stop:
        """At the last exit, which may have been the guest's end in another sense, too."""
        end = self.recording.end or {}
        stop = self._arrive(self.recording.count, Stop(why=why, text=self.recording.note))
        if end.get("kind") == events.CRASH:
            stop.why = subject.CRASHED
        if stop.why != subject.EXIT and isinstance(end.get("kind"), str):
            stop.verdict = StopReason(kind=end["kind"], detail=str(end.get("detail", "")), report=str(end.get("report", "")))
        return stop

    @property
    def inside(self) -> bool:
        """Whether the last exit is one in the middle of an instruction: registers are, too."""
        return bool(self._state.exit and self._entry(self._state.exit).flags & INSIDE)


if TYPE_CHECKING:
    from pyvmm.observe.debug.subject import Subject

    _check: Callable[[Player], Subject] = lambda each: each  # noqa: E731
