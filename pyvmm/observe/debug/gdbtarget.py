"""What gdb debugs, over any ``Subject``: a live machine with or without history, or a recording.

gdb's breakpoints are ``Breakpoint(owner="gdb")`` among the others. Moves block, the gdb server's thread must not: each goes on a thread of
its own, of which there is one at a time.
"""

from __future__ import annotations

from time import monotonic, sleep

from pyvmm import events
from pyvmm.errors import PyvmmError
from pyvmm.kvm import structs
from pyvmm.observe import paging
from pyvmm.observe.debug import conditions, subject
from pyvmm.observe.debug.conditions import Breakpoint
from pyvmm.observe.gdb import cpu_state, target
from pyvmm.observe.gdb.target import StopEvent, TargetError
from pyvmm.threads import Condition, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from pyvmm.events import StopReason
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.observe.debug.subject import Stop, Subject
    from pyvmm.observe.gdb.target import Say, Stopped, Told

    T = TypeVar("T")

    class Holder(Protocol):
        """Where the guest comes from, and what becomes of it. All but ``monitor`` may wait for the machine."""

        reversible: bool
        vcpus: int

        def take(self) -> Subject:
            """Stops the guest. TargetError: there is none."""

        def release(self) -> None:
            """Lets it go on."""

        def kill(self) -> None:
            """Ends it."""

        def following(self, stop: Stop) -> Subject | None:
            """The guest has ended like this: lets that happen. What it goes on as after a reset, None when it is gone."""

        def monitor(self, command: str) -> str:
            """A command of the user's."""


_KERNEL_GS_BASE = 0xC000_0102
_PAGE = 4096
_OVER = (subject.END, subject.CRASHED)
_STALE = "gdb shows registers and memory as they were before: say `maintenance flush register-cache`, `maintenance flush dcache`\n"
_INSIST = 0.01  # seconds between two attempts to interrupt
_KINDS = {
    target.SOFTWARE: (conditions.ADDRESS, ""),
    target.HARDWARE: (conditions.ADDRESS, ""),
    target.WRITE: (conditions.WATCH, conditions.WRITE),
    target.READ: (conditions.WATCH, conditions.READ),
    target.ACCESS: (conditions.WATCH, ""),
}
_REASONS = {
    subject.STEPPED: target.STEPPED,
    subject.INTERRUPTED: target.INTERRUPTED,
    subject.BEGIN: target.HISTORY_BEGIN,
    subject.END: target.HISTORY_END,
    subject.CRASHED: target.CRASHED,
}
_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip", "eflags")
_NAMED = (*_GENERAL, "cr0", "cr2", "cr3", "cr4", "cr8", "efer")  # what ``Subject.set_regs`` knows


class GdbTarget:
    """``gdb.target.Target``.

    Args:
        holder: of the guest.
        status: what its end comes to as an exit status.
    """

    def __init__(self, holder: Holder, status: Callable[[StopReason], int] = lambda verdict: 0) -> None:
        self._holder = holder
        self._status = status
        self._subject: Subject | None = None
        self._inserted: dict[tuple[str, int, int], Breakpoint] = {}
        self._told: set[tuple[str, str]] = set()  # breakpoints and how they are watched for, as the user knows
        self._state = Condition()
        self._moving = False
        self._wanted = True  # somebody waits for the move's stop
        self._turn = self._asked = 0  # counts moves; the one that is to end
        self._say: Say = lambda text: None
        self._registers: dict[int, dict[str, int]] = {}

    # --- Target: attached or not -------------------------------------------------------------------------------------
    @property
    def reversible(self) -> bool:
        """Whether there is a history."""
        return self._holder.reversible

    def vcpus(self) -> int:
        """How many."""
        return self._holder.vcpus

    def attach(self, say: Say) -> StopEvent:
        """See Target."""
        self._say = say
        self._told.clear()
        self._subject = found = _guarded(self._holder.take)
        return StopEvent(reason=target.ATTACHED, vcpu=found.stop.vcpu)

    def detach(self) -> None:
        """See Target."""
        self._leave()
        if self._subject is not None:
            self._subject = None
            _guarded(self._holder.release)

    def kill(self) -> None:
        """See Target."""
        self._leave()
        if self._subject is not None:
            self._subject = None
            _guarded(self._holder.kill)

    def _leave(self) -> None:
        with self._state:
            self._wanted = False
            self.interrupt()
            self._state.wait_for(lambda: not self._moving)
        self._registers.clear()
        for each in self._inserted.values():
            self._breakpoints().remove(each.number)
        self._inserted.clear()

    def describe(self, vcpu: int) -> str:
        """See Target."""
        found = self._here()
        regs, sregs = found.regs(vcpu), found.sregs(vcpu)
        return paging.mode_name(sregs, regs.rflags)

    def wait(self, seconds: float) -> None:
        """Until no move is on its way, at most so long. From any thread but the server's."""
        end = monotonic() + seconds
        while self._moving and monotonic() < end:
            sleep(_INSIST)

    # --- looking and changing ----------------------------------------------------------------------------------------
    def _here(self) -> Subject:
        if self._subject is None:
            raise TargetError("there is no machine: it has ended or was detached")
        return self._subject

    def read_registers(self, vcpu: int) -> dict[str, int]:
        """See Target."""
        known = self._registers.get(vcpu)
        if known is None:
            known = self._registers[vcpu] = _guarded(lambda: registers(self._here(), vcpu))
        return dict(known)

    def write_registers(self, vcpu: int, values: dict[str, int]) -> None:
        """See Target; what gdb gives back unchanged (around a call of a guest's function) is left alone."""
        known = self.read_registers(vcpu)
        changed = {name: value for name, value in values.items() if known.get(name) != value}
        self._registers.pop(vcpu, None)
        found = self._here()
        named = {"rflags" if name == "eflags" else name: value for name, value in changed.items() if name in _NAMED}
        if named:
            _guarded(lambda: found.set_regs(vcpu, named))
        others = {name: value for name, value in changed.items() if name not in _NAMED}
        if others:
            change = getattr(found, "change", None)  # a machine's
            if change is None:
                raise TargetError(f"{', '.join(others)} cannot be set here")
            _guarded(lambda: change(vcpu, lambda each: assign(each, others)))

    def read_memory(self, vcpu: int, address: int, length: int) -> bytes:
        """See Target."""
        found = self._here()
        return _guarded(lambda: paging.read_linear(found.memory, found.sregs(vcpu), address, length))

    def write_memory(self, vcpu: int, address: int, data: bytes) -> None:
        """See Target."""
        found = self._here()
        sregs = _guarded(lambda: found.sregs(vcpu))
        pieces = []
        while data:
            length = min(len(data), _PAGE - address % _PAGE)
            gpa = paging.walk(found.memory, sregs, address).gpa
            if gpa is None or not found.memory.contains(gpa, length):
                raise TargetError(f"no memory at {address:#x}")
            pieces.append((gpa, data[:length]))
            address, data = address + length, data[length:]
        for gpa, piece in pieces:
            _guarded(lambda gpa=gpa, piece=piece: found.write(gpa, piece))  # type: ignore[misc]

    # --- breakpoints -------------------------------------------------------------------------------------------------
    def _breakpoints(self) -> conditions.Breakpoints:
        return self._here().breakpoints

    def insert_breakpoint(self, kind: str, address: int, length: int) -> None:
        """See Target."""
        what, direction = _KINDS[kind]
        if what == conditions.WATCH and direction != conditions.WRITE and self._here().live:
            from pyvmm.observe.debug import abilities

            if not abilities.able("watchpoints"):
                raise TargetError("this host's KVM has no hardware watchpoints, and nothing else sees reads: use watch")
        last = address + max(length, 1) - 1 if what == conditions.WATCH else address
        made = Breakpoint(
            kind=what,
            first=address,
            last=last,
            direction=direction,
            hardware=kind == target.HARDWARE,
            owner="gdb",
            text=f"gdb {address:#x}",
        )
        self._inserted[kind, address, length] = self._breakpoints().add(made)

    def remove_breakpoint(self, kind: str, address: int, length: int) -> None:
        """See Target."""
        self._breakpoints().remove(self._inserted.pop((kind, address, length)).number)

    # --- moving ------------------------------------------------------------------------------------------------------
    def resume(self, actions: dict[int, str], stopped: Stopped) -> None:
        """See Target. A step moves one vCPU and no other."""
        stepping = [vcpu for vcpu, action in actions.items() if action == target.STEP]
        if stepping:
            self._move(lambda found: found.step_instructions(stepping[0]), stopped)
        elif len(actions) < self.vcpus() and self._here().stop.why not in _OVER:  # scheduler-locking
            self._move(lambda found: found.run(frozenset(actions)), stopped)
        else:
            self._move(_run, stopped)

    def reverse_step(self, vcpu: int, stopped: Stopped) -> None:
        """See Target."""
        self._move(lambda found: found.reverse_step(vcpu), stopped)

    def reverse_continue(self, stopped: Stopped) -> None:
        """See Target."""
        self._move(lambda found: found.reverse_run(), stopped)

    def interrupt(self) -> None:
        """See Target."""
        with self._state:
            if self._moving and self._asked != self._turn:
                self._asked = self._turn
                Thread(target=self._insist, args=(self._turn,)).start()

    def _insist(self, turn: int) -> None:
        """Interrupts a move until it has ended: it may not have begun when it was asked to."""
        block_signals()
        while True:
            with self._state:
                if not self._moving or turn != self._turn:
                    return
                if self._subject is not None:
                    self._subject.interrupt()
            sleep(_INSIST)

    def monitor(self, command: str, told: Told) -> None:
        """See Target."""
        self._aside(lambda turn: self._monitored(command, told, turn))

    def _monitored(self, command: str, told: Told, turn: int) -> None:
        """On a thread of its own."""
        block_signals()
        seen = dict(self._registers)
        self._registers.clear()
        try:
            text = self._holder.monitor(command)
        except PyvmmError as problem:
            text = f"{problem}\n"
        except Exception as problem:  # a bug; gdb must not wait for ever
            text = f"{events.vmm_error(problem).detail}\n"
        if self._wanted and any(self._now(vcpu) not in (None, values) for vcpu, values in seen.items()):
            text += _STALE
        told(text)
        self._ended(turn)

    def _now(self, vcpu: int) -> dict[str, int] | None:
        try:
            return self.read_registers(vcpu)
        except PyvmmError:
            return None

    def _move(self, act: Callable[[Subject], Stop], stopped: Stopped) -> None:
        found = self._here()
        self._registers.clear()
        self._aside(lambda turn: self._moved(found, act, stopped, turn))

    def _aside(self, act: Callable[[int], None]) -> None:
        """Has a thread of its own do what may take its time, until ``interrupt``."""
        with self._state:
            self._moving = self._wanted = True
            self._turn += 1
        try:
            Thread(target=act, args=(self._turn,)).start()
        except RuntimeError:
            self._moving = False
            raise TargetError("the host gives no thread to move the guest on: raise `ulimit -u`") from None

    def _ended(self, turn: int) -> None:
        with self._state:
            self._moving = turn != self._turn  # gdb may have gone on already
            self._state.notify_all()

    def _moved(self, found: Subject, act: Callable[[Subject], Stop], stopped: Stopped, turn: int) -> None:
        """On a thread of its own."""
        block_signals()
        try:
            event = self._outcome(found, act)
        except PyvmmError as problem:
            event = StopEvent(reason=target.EVENT, text=str(problem))
        except Exception as problem:  # a bug; gdb must not wait for ever
            event = StopEvent(reason=target.EVENT, text=events.vmm_error(problem).detail)
        if self._wanted:
            stopped(event)  # posts it to the server's thread
        self._ended(turn)

    def _outcome(self, found: Subject, act: Callable[[Subject], Stop]) -> StopEvent:
        while True:
            over = act is _run and found.live and found.stop.why in _OVER
            stop = found.stop if over else act(found)
            self._explain()
            if stop.why not in _OVER or not found.live:
                return self._event(stop)
            if not self._wanted or not over and (stop.why == subject.CRASHED or self.reversible):
                return self._event(stop)  # to be looked at; the next "continue" lets it end
            following = self._holder.following(stop)
            if following is None:
                self._subject = None
                self._inserted.clear()
                verdict = stop.verdict
                return StopEvent(reason=target.EXITED, vcpu=stop.vcpu, value=self._status(verdict) if verdict is not None else 0)
            self._subject = found = following
            act = _run

    def _event(self, stop: Stop) -> StopEvent:
        mine = {each.number: key for key, each in self._inserted.items()}
        text = stop.text
        for number in stop.hits:
            if number in mine:
                kind, address, _ = mine[number]
                return StopEvent(reason=kind, vcpu=stop.vcpu, address=stop.address or address)
        if stop.hits:
            others = [self._breakpoints().get(number) for number in stop.hits]
            text = text or "stopped by " + ", ".join(f"breakpoint {each.number} ({each.text})" for each in others if each is not None)
        if stop.why == subject.CRASHED:
            text = f"the guest has crashed: {text} (continue ends it, and pyvmm then reports)"
        return StopEvent(reason=_REASONS.get(stop.why, target.EVENT), vcpu=stop.vcpu, text=text)

    def _explain(self) -> None:
        """Tells, once, of a breakpoint that is watched for in a way the user should know."""
        for each in list(self._inserted.values()):
            if (each.text, each.means) not in self._told and each.means.startswith(("single", "nothing", "waiting", "read-only")):
                self._told.add((each.text, each.means))
                self._say(f"pyvmm: {each.text} is watched for by {each.means}")


def _guarded(act: Callable[[], T]) -> T:
    try:
        return act()
    except TargetError:
        raise
    except PyvmmError as problem:
        raise TargetError(str(problem)) from None


def _run(found: Subject) -> Stop:
    return found.run()


def assign(vcpu: Vcpu, values: dict[str, int]) -> None:
    """Gives a vCPU segments, tables, x87 and SSE registers, by gdb's names. TargetError: one cannot be set; nothing is."""
    regs, sregs, xsave = vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_xsave()
    changed = cpu_state.assign(values, regs, sregs, xsave)
    if "sregs" in changed:
        vcpu.set_sregs(sregs)
    if "xsave" in changed:
        vcpu.set_xsave(xsave)
    if "k_gs_base" in values:
        vcpu.set_msrs({_KERNEL_GS_BASE: values["k_gs_base"]})


def registers(found: Subject, vcpu: int) -> dict[str, int]:
    """A vCPU's, by gdb's names; those that a recording does not have are left out."""
    try:
        state = found.vcpu_state(vcpu)
    except subject.SubjectError:
        values = cpu_state.collect(found.regs(vcpu), found.sregs(vcpu), bytes(576), 0)
        return {name: value for name, value in values.items() if not cpu_state.is_fpu(name) and name != "k_gs_base"}
    regs, sregs = structs.kvm_regs.from_buffer_copy(state.regs), structs.kvm_sregs.from_buffer_copy(state.sregs)
    return cpu_state.collect(regs, sregs, state.xsave, state.msrs.get(_KERNEL_GS_BASE, 0))
