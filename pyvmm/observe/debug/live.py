"""A live machine in time: the Subject of prompt, gdb and monitor. ``Control`` moves it forward, ``History`` knows where it has been.

    live = Live(machine)           # before Machine.run(), which runs on another thread, or at any time later
    live.run(); live.back(3); live.explain(7)
    live.close()                   # the machine goes on without a debugger, from where it stands; its drives are written

In a time that has been before, the machine is put from checkpoint to checkpoint without executing anything, unless somebody waits for
something inside the guest (a breakpoint on an address, a watchpoint), or checkpoints were thinned out: then it executes, is compared
with what is known at each exit, and goes on from the checkpoint there. What is changed is changed for good: the future that was known
then is forgotten.
"""

from __future__ import annotations

from contextlib import contextmanager

from pyvmm import exits
from pyvmm.errors import HostError
from pyvmm.kvm import structs
from pyvmm.kvm.kind import emulates_ring0
from pyvmm.observe.debug import reverse, subject
from pyvmm.observe.debug.forward import Forward
from pyvmm.observe.debug.history import LIMIT, History
from pyvmm.observe.debug.subject import UNCOUNTED, ExitRecord, Moment, Stop, SubjectError
from pyvmm.observe.explain import layout as layouts
from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.who import locate
from pyvmm.snapshot import parts
from pyvmm.snapshot.plain import thaw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvmm.events import StopReason
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.machine import Machine
    from pyvmm.observe.debug.checkpoint import Checkpoint
    from pyvmm.observe.debug.conditions import Breakpoints
    from pyvmm.observe.explain.explain import Explanation
    from pyvmm.observe.explain.layout import States


class Live(Forward):
    """See the module, and ``subject.Subject`` for what is not said here.

    Args:
        machine: not running yet, or running; it is stopped, exit 0 is where it stands.
        name: for the user.
        limit: bytes for the history, about.
        breakpoints: somebody's; else its own.

    Raises:
        SubjectError: the run is over, or another debugger is there.
        ConfigError: there is no place for the history of its drives.

    Attributes:
        control, history: the two halves.
        notes: what cannot be taken back, in words: to be said once.
    """

    def __init__(self, machine: Machine, name: str = "", limit: int = LIMIT, breakpoints: Breakpoints | None = None) -> None:
        super().__init__(machine, name, breakpoints)
        self.called_off = False
        self.steps = 0  # since the exit; UNCOUNTED
        self.stepped = 0  # which vCPU's they are
        self._moving = False
        self._stop = Stop(why=subject.START)
        self._end: tuple[Stop, StopReason | None] | None = None  # how the guest has ended, at the last exit
        try:
            with self.control.quiet():
                self.history = History(machine, limit)
            self.control.on_exits = self.history.on_exits
            self.history.on_enough = self.control.interrupt
        except BaseException:
            self.control.detach()
            raise
        self.notes = self.history.notes

    def close(self) -> None:
        """Lets the machine go on, or end if the guest has ended; a debugger no more. Once more does nothing.

        Raises:
            OSError: a drive could not be written; it can be tried again.
        """
        self.history.close()
        self.control.on_exits = None
        super().close()

    @property
    def stop(self) -> Stop:
        """See Subject."""
        return self._stop

    @property
    def running(self) -> bool:
        """See Subject."""
        return self._moving

    # --- where in time -------------------------------------------------------------------------------------------------
    @property
    def at(self) -> Moment:
        """Where it stands."""
        return Moment(exit=self.history.position, steps=self.steps)

    @property
    def first(self) -> Moment:
        """See Subject."""
        return Moment(exit=0)

    @property
    def last(self) -> Moment:
        """See Subject."""
        return Moment(exit=self.history.last) if self.history.reliving else self.at

    # --- looking -------------------------------------------------------------------------------------------------------
    def exit(self, number: int) -> ExitRecord:
        """See Subject."""
        found = self.history.log.get(number)
        if found is not None:
            return found
        if not 0 < number <= self.history.last:
            raise SubjectError(f"exit {number} has not happened; the latest is {self.history.last}")
        raise SubjectError(f"exit {number} is too long ago: the log of exits begins at {self.history.log.first}")

    def explain(self, number: int) -> Explanation:
        """See Subject. Where checkpoints were thinned out it says less: registers and devices are those of a checkpoint."""
        record = self.exit(number)
        behind, before = self.history.log.rest_behind(number), self.history.log.rest_before(number - 1)
        exact = self.history.has(behind)
        found = self.history.checkpoint(behind if exact else self.history.kept(number))
        state = found.processors[record.vcpu]
        regs = structs.kvm_regs.from_buffer_copy(state.regs) if exact else structs.kvm_regs()
        regs.rip = record.rip  # the checkpoint's is behind the instruction
        sregs = structs.kvm_sregs.from_buffer_copy(state.sregs)  # kvm_sregs2 begins like it
        exit = exits.thaw(record.frozen)
        has_both = exact and self.history.has(before)
        return explain(
            exit,
            self.history.checkpoint(before).layout if has_both else found.layout,
            vcpu=record.vcpu,
            regs=regs,
            sregs=sregs,
            site=locate(exit, regs, sregs, self.history.memory(number), emulated=emulates_ring0()),
            before=self._states(self.history.checkpoint(before)) if has_both else None,
            after=self._states(found) if has_both else None,
            answer=record.answer or None,
        )

    def _states(self, checkpoint: Checkpoint) -> States:
        """A checkpoint's device states by the names that explanations use."""
        mine = parts.parts(self.machine)
        found: States = {}
        for name, part in layouts.parts(self.machine).items():
            same = name if name in mine else next((key for key, each in mine.items() if each is part or each.state is part.state), "")
            found[name] = thaw(checkpoint.devices[same]) if same else {}
        return found

    def console(self, most: int = 4096) -> bytes:
        """See Subject."""
        return self.history.lines[0].tail(most) if self.history.lines else b""

    # --- changing ------------------------------------------------------------------------------------------------------
    def set_regs(self, vcpu: int, values: dict[str, int]) -> None:
        """See Subject."""
        super().set_regs(vcpu, values)
        self._amend()

    def change(self, vcpu: int, act: Callable[[Vcpu], None]) -> None:
        """See Forward."""
        super().change(vcpu, act)
        self._amend()

    def write(self, gpa: int, data: bytes) -> None:
        """See Subject."""
        super().write(gpa, data)
        self._amend()

    def _amend(self) -> None:
        with self.control.quiet():
            self.history.amend()
        self.steps, self._end = 0, None
        self.control.rewind(self.history.position)

    # --- moving forward --------------------------------------------------------------------------------------------------
    def step(self, count: int = 1) -> Stop:
        """See Subject."""
        return self.move(lambda: self._forward(self.history.position + count))

    def run(self, only: frozenset[int] = frozenset()) -> Stop:
        """See Subject. SubjectError: only some, in the past, in which all did what they did."""
        if only and len(only) < self.vcpus and self.history.reliving:
            raise SubjectError("in the past all processors go on: let them (set scheduler-locking off), or go to the present first")
        return self.move(lambda: self._forward(None, only))

    def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
        """See Subject."""
        self._vcpu(vcpu)
        return self.move(lambda: self._step(vcpu, count))

    def interrupt(self) -> None:
        """See Subject."""
        if self._moving:
            self.called_off = True
            self.control.interrupt()

    def move(self, act: Callable[[], Stop]) -> Stop:
        """Has it move; ``stop`` is what comes of it. For this package."""
        self._vcpu(0)  # it stands still, and has not ended
        self.called_off, self._moving = False, True
        try:
            stop = act()
        except HostError as error:
            raise SubjectError(str(error)) from None
        finally:
            self._moving = False
        stop.at = self.at
        self._stop = stop
        return stop

    def _forward(self, target: int | None, only: frozenset[int] = frozenset()) -> Stop:
        """To behind exit ``target``, or to a breakpoint before."""
        if self.history.reliving and not self.breakpoints.in_guest():
            stop = self._look_forward(target)
            if stop is not None:
                return stop
        ended = self.ended()
        if ended is not None:
            return ended
        self.history.enough = -1
        self.history.resume()
        return self.landed(self.go(target, only), executed=True)

    def go(self, target: int | None, only: frozenset[int] = frozenset()) -> Stop:
        """``Control.run``. For this package."""
        return self.control.run(until=target, only=only)

    def _look_forward(self, target: int | None) -> Stop | None:
        """In the past: by the log. None: it stands at the present, and has further to go."""
        history = self.history
        goal = history.last if target is None else min(target, history.last)
        hits: list[int] = []
        number = history.position
        while number < goal and not hits and not self.called_off:
            number += 1
            record = history.log.get(number)
            if record is not None:
                hits = self.breakpoints.reached(self.breakpoints.hits_at(record.frozen, record.vcpu, record.answer))
        diverged = self.arrive(history.log.rest_behind(number))
        if diverged is not None:
            return diverged
        if hits:
            return Stop(why=subject.BREAKPOINT, hits=hits, exit=number, vcpu=self.exit(number).vcpu)
        if self.called_off:
            return Stop(why=subject.INTERRUPTED)
        if target is not None and number >= target:
            return self.ended() or Stop(why=subject.EXIT, exit=number, vcpu=self._owner(number))
        return None

    def _owner(self, number: int) -> int:
        record = self.history.log.get(number)
        return record.vcpu if record is not None else 0

    def _step(self, vcpu: int, count: int) -> Stop:
        ended = self.ended()
        if ended is not None:
            return ended
        if self.steps and vcpu != self.stepped:
            if self.history.reliving:
                raise SubjectError(f"vCPU {self.stepped} has been stepped: go to an exit before you step another")
            self._amend()  # from here the other's steps are counted
        self.history.enough = -1
        return self.stepping(vcpu, count)

    def stepping(self, vcpu: int, count: int) -> Stop:
        """``Control.step_instructions``, and where that leads. For this package."""
        before = self.history.position
        self.stepped = vcpu
        self.history.resume()
        stop = self.control.step_instructions(vcpu, count)
        if self.history.position != before:
            self.steps = self.control.steps
        elif self.steps != UNCOUNTED:
            self.steps += self.control.stepped
        return self.landed(stop, executed=False)

    def landed(self, stop: Stop, executed: bool) -> Stop:
        """Where a move of ``Control`` has ended.

        Args:
            executed: instructions were executed that nobody has counted.
        """
        history = self.history
        if history.diverged:
            return self._diverge()
        if stop.why in (subject.END, subject.CRASHED):
            self._end = stop, self.control.ending
            self.steps = 0
        elif executed and (stop.why == subject.EXIT or stop.exit):
            self.steps = 0
            if self.vcpus > 1 and history.has(history.position):
                self.put(history.position)  # other vCPUs have gone on a little since
        elif executed:
            self.steps, self.stepped = UNCOUNTED, stop.vcpu
        return stop

    def ended(self) -> Stop | None:
        """How the guest has ended, when it stands there."""
        if self._end is None or self.history.reliving or self.history.position < self.history.last or self.steps:
            return None
        return self._end[0]

    def _diverge(self) -> Stop:
        history = self.history
        text, number = history.diverged, history.position
        self.put(history.kept(number))
        return Stop(why=subject.DIVERGED, exit=number, text=f"{text}; this is exit {history.position} as it was the first time")

    # --- moving in time --------------------------------------------------------------------------------------------------
    def goto(self, moment: Moment) -> Stop:
        """See Subject."""
        return self.move(lambda: self.going(moment))

    def going(self, moment: Moment) -> Stop:
        """``goto`` inside a move. For this package."""
        if moment.exit < 0 or moment.steps < 0:
            raise SubjectError(f"{moment} is no moment one can go to")
        if moment.exit > self.history.last:
            diverged = self.arrive(self.history.last) if self.history.reliving else None
            with self.unarmed():
                stop = diverged or self._forward(moment.exit)
        else:
            stop = self.arrive(self.history.log.rest_behind(moment.exit)) or Stop(why=subject.EXIT)
        if stop.why == subject.EXIT and moment.steps:
            with self.unarmed():
                stop = self.stepping(self.stepped, moment.steps)
        return Stop(why=subject.ARRIVED, vcpu=self.stepped) if stop.why in (subject.EXIT, subject.STEPPED) else stop

    def arrive(self, number: int) -> Stop | None:
        """Behind an exit that is known, at which the machine was at rest. Returns a stop when it did not get there."""
        history = self.history
        kept = history.kept(number)
        self.put(kept)
        if kept == number:
            return None
        history.enough = number
        history.resume()
        with self.unarmed():
            stop = self.go(number)
        if history.diverged:
            return self._diverge()
        return None if history.position == number else self.landed(stop, executed=True)

    def put(self, number: int) -> None:
        """Behind an exit of which there is a checkpoint."""
        with self.control.quiet():
            self.history.restore(number)
        self.control.rewind(number)
        self.steps = 0
        if self._end is not None and number == self.history.last:
            self.control.ending = self._end[1]

    @contextmanager
    def unarmed(self) -> Iterator[None]:
        """Without breakpoints."""
        armed = [each for each in self.breakpoints if each.enabled]
        for each in armed:
            each.enabled = False
        if armed:
            self.breakpoints.changed()
        try:
            yield
        finally:
            for each in armed:
                each.enabled = True
            if armed:
                self.breakpoints.changed()

    # --- moving backward -------------------------------------------------------------------------------------------------
    def back(self, count: int = 1) -> Stop:
        """See Subject. From between two exits the first step leads to the earlier one."""
        return self.move(lambda: reverse.back(self, count))

    def reverse_step(self, vcpu: int, count: int = 1) -> Stop:
        """See Subject."""
        self._vcpu(vcpu)
        return self.move(lambda: reverse.step(self, vcpu, count))

    def reverse_run(self) -> Stop:
        """See Subject."""
        return self.move(lambda: reverse.run(self))


if TYPE_CHECKING:
    from pyvmm.observe.debug.subject import Subject

    _check: Callable[[Live], Subject] = lambda each: each  # noqa: E731
