"""A live machine in a debugger's hands: exits numbered, moves forward that stop where they should, crashes that wait to be looked at.

    control = Control(machine, breakpoints)
    control.attach()                      # before Machine.run() (which runs on another thread), or at any time later
    stop = control.run()                  # until a breakpoint, the end, or interrupt()
    stop = control.run(until=10)          # behind exit 10
    stop = control.step_instructions(0)   # one instruction of vCPU 0, the others stand still
    with control.quiet(): ...             # look at everything, or change it
    control.detach()                      # the machine goes on as if nobody had been there

Threads: moves and ``quiet`` belong to one thread at a time, the debugger's, which is no vCPU's; ``interrupt`` may come from any. Exits are
handled on the vCPUs' threads. What they find out is put down as an event, the vCPUs park (``standstill``), and the debugger's
thread decides whether that is a stop.

Detached, nothing is left of it: no hook, no lock, no question at an exit.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvmm import events
from pyvmm.errors import HostError
from pyvmm.kvm import uapi
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.abilities import RING3, able
from pyvmm.observe.debug.conditions import ADDRESS, WATCH
from pyvmm.observe.debug.event import Event, one_at_a_time
from pyvmm.observe.debug.lines import Lines
from pyvmm.observe.debug.mechanisms import Mechanisms
from pyvmm.observe.debug.standstill import MISSED, Standstill
from pyvmm.observe.debug.stepper import Stepper
from pyvmm.observe.debug.subject import ExitRecord, Moment, Stop, SubjectError
from pyvmm.observe.debug.watch import ExitWatch
from pyvmm.observe.paging import linear_address
from pyvmm.runloop import Stop as LeaveLoop
from pyvmm.snapshot.quiesce import Quiet
from pyvmm.threads import Condition, Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.events import StopReason
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.machine import Machine
    from pyvmm.observe.debug.conditions import Breakpoints

    OnExits = Callable[[list[ExitRecord]], None]

# Ends that are the guest's doing: under a debugger the machine stays to be looked at, and history can go back from there
_GUESTS = (events.POWEROFF, events.RESET, events.WAKE, events.DEBUG_EXIT, events.HALTED, events.CRASH)
_MANY = 1 << 62


class Control:
    """See the module.

    Args:
        machine: not yet running, or running; it must outlive this object's attachment.
        breakpoints: what to stop at. Change them while the machine stands still.

    Attributes:
        number: exits to user space so far, over all vCPUs, since ``attach`` (or as ``rewind`` said).
        steps, stepped: instructions executed by ``step_instructions``: since then; by the last call, over exits as well.
        stop: why it stands still.
        running: a move is on its way.
        on_exits: for a history: called behind each exit with the machine at rest (``quiet``) and the records of the exits since the last
            call (one as a rule; more when an instruction made several, or other vCPUs' came in meanwhile), the last of which the machine
            is behind; on the vCPU's thread, or the mover's before its move ends. Set it while all stands still. None: exits are counted.
    """

    def __init__(self, machine: Machine, breakpoints: Breakpoints) -> None:
        self.machine = machine
        self.breakpoints = breakpoints
        self.number = self.steps = self.stepped = 0
        self.stop = Stop(why=subject.START)
        self.running = False
        self.on_exits: OnExits | None = None
        self.recording = False  # exits are to be written down: somebody wants to see them
        self.ending: StopReason | None = None  # how the guest has ended, put off
        self.mechanisms = Mechanisms(machine, breakpoints)
        self._lines = Lines(machine, breakpoints, lambda numbers: self.event(Event(why="", hits=numbers)))
        self._standstill = Standstill(machine)
        self._watches = [ExitWatch(self, index) for index in range(len(machine.vcpus))]
        self._unhandled = [loop.unhandled for loop in machine.runloops]
        self._counting = Lock()
        self._records: list[ExitRecord] = []  # not yet told to ``on_exits``
        self._events: list[Event] = []
        self._news = Condition()  # of an event, or of the end: ``parking`` would wake the debugger's thread several times at each exit
        self._is_over = False
        self._until: int | None = None
        self._stepping = False
        self._all = frozenset(range(len(machine.vcpus)))
        self._going = self._all  # who runs; the others are held
        self._reported: dict[int, int] = {}  # vCPU -> linear address of a breakpoint that it has reached and not passed
        self._arrived = self._all  # who is at a breakpoint if it stands on one: it has not run since it was put there
        self._unwritten: set[int] = set()  # vCPUs whose write to a read-only page KVM could not emulate
        self._epoch = 0
        self.attached = False

    # --- being there or not ------------------------------------------------------------------------------------------
    def attach(self) -> None:
        """Stops the machine and watches its exits from now on.

        Raises:
            SubjectError: the run is over, or another debugger is there.
        """
        machine = self.machine
        if machine.reason is not None:
            raise SubjectError("the machine has ended")
        if machine.defer is not None:
            raise SubjectError("another debugger holds this machine")
        machine.defer = self._put_off
        self._standstill.attach()
        self._epoch = monotonic_ns()
        for index, (loop, watch) in enumerate(zip(machine.runloops, self._watches, strict=True)):
            loop.unhandled = lambda reason, index=index: self._unhandled_exit(index, reason)  # type: ignore[misc]
            watch.attach()
        self.attached = True

    def detach(self) -> None:
        """Lets the machine go on without a debugger, or end if the guest has ended. Between moves; once more does nothing."""
        if not self.attached:
            return
        self.attached = False
        machine = self.machine
        if machine.reason is None:
            self.mechanisms.unprotect()
        machine.defer = None
        for loop, watch, unhandled in zip(machine.runloops, self._watches, self._unhandled, strict=True):
            loop.unhandled = unhandled
            watch.detach()
        if self.ending is not None:
            machine.request_stop(self.ending)
        self._standstill.detach()

    # --- moves -------------------------------------------------------------------------------------------------------
    @property
    def moment(self) -> Moment:
        """Where the machine stands."""
        return Moment(exit=self.number, steps=self.steps)

    def run(self, until: int | None = None, only: frozenset[int] = frozenset()) -> Stop:
        """On until it stops, at the latest behind exit number ``until``, and returns why.

        Several vCPUs may bring it a few exits beyond.

        Args:
            only: vCPUs that run while the others stand still; empty: all.

        Raises:
            SubjectError: the guest has ended, or nobody is attached.
        """
        self._going = (only & self._all) or self._all
        return self._move(lambda: self._go(until))

    def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
        """``count`` instructions of one vCPU, without interrupts; the others stand still. Breakpoints end it before.

        Raises:
            SubjectError: as ``run``; or this KVM cannot step.
        """
        return self._move(lambda: self._step(vcpu, count))

    def interrupt(self) -> None:
        """Ends the move that is on its way; nothing when there is none. Any thread, a signal handler too; returns at once."""
        if self.running:
            self.event(Event(why=subject.INTERRUPTED))

    # --- between moves -----------------------------------------------------------------------------------------------
    def quiet(self) -> Quiet:
        """``with control.quiet():`` the machine is at rest (``snapshot.quiesce``), without its vCPUs changing threads for it."""
        return Quiet(self.machine, standing=True)

    def rewind(self, number: int) -> None:
        """Somebody has put the machine back to behind exit ``number``: it goes on counting there, and has not ended."""
        self.number, self.steps = number, 0
        self.ending = None
        self._arrived = self._all

    # --- how a move goes ---------------------------------------------------------------------------------------------
    def _move(self, act: Callable[[], Stop]) -> Stop:
        if not self.attached:
            raise SubjectError("no debugger is attached to the machine")
        if self.machine.reason is not None or self.ending is not None:
            raise SubjectError("the guest has ended: it can go no further")
        with self.machine.parking:
            self._events.clear()
            self.running = True
        self._until = None
        self.recording = self.on_exits is not None or bool(self.breakpoints.at_exits())
        self._lines.arm()
        try:
            self.stop = act()
        finally:
            self._lines.disarm()
            with self.machine.parking:
                self.running = False
        return self.stop

    def _go(self, until: int | None) -> Stop:
        self._until = until
        while True:
            self._pass()
            if not self._eventful():
                self.mechanisms.prepare(self.stop.vcpu)
                if self.mechanisms.stepping:
                    self._walk()
                else:
                    self._resume()
            stop = self._decide()
            if stop is not None:
                return stop

    def _pass(self) -> None:
        """Steps over the breakpoints at which vCPUs stand, and over writes that KVM cannot emulate."""
        self._write()
        reported, self._reported = self._reported, {at: self._reported[at] for at in self._reported.keys() - self._going}
        arrived, self._arrived = self._arrived & self._going, self._arrived - self._going
        if reported or arrived and self.breakpoints.in_guest():
            addresses = {each.first for each in self.breakpoints.in_guest() if each.kind == ADDRESS}
            for index in sorted(self._going):
                here = self._linear(index)
                if here in addresses and (index in arrived or reported.get(index) == here):
                    self.mechanisms.prepare(index)
                    self._do_steps(index, 1)

    def _write(self) -> int:
        """Has vCPUs write what KVM cannot emulate, with the pages writable for that one instruction. Returns how many have."""
        done = 0
        while self._unwritten:
            index = self._unwritten.pop()
            self.mechanisms.unprotect()
            done += self._do_steps(index, 1)  # which sees what has changed
        return done

    def _linear(self, index: int) -> int:
        """Where a parked vCPU is."""
        sregs = self.machine.vcpus[index].get_sregs()
        return linear_address(sregs, sregs.cs, self.machine.vcpus[index].get_regs().rip)

    def _walk(self) -> None:
        """Runs by single steps."""
        if len(self.machine.vcpus) > 1:
            raise SubjectError("a breakpoint in ring 3 takes single steps here, which goes with one processor only: delete it")
        self._do_steps(0, _MANY, interrupts=True)

    def _resume(self) -> None:
        """Lets the vCPUs run to the next event."""
        self.mechanisms.arm()
        with self.machine.parking:
            if not self._events:
                self._standstill.release(self._all - self._going)
        with self._news:
            self._news.wait_for(lambda: self._eventful() or self._is_over, MISSED)
        self._standstill.wait()
        if self.on_exits is not None:
            self._tell()  # a vCPU that still waits for its turn to tell counts as parked
        if self.machine.reason is None:
            self.mechanisms.disarm()

    def _step(self, vcpu: int, count: int) -> Stop:
        self.stepped = 0
        self.mechanisms.prepare(vcpu)
        self._reported.pop(vcpu, None)
        while count > 0:
            count -= self._write() or self._do_steps(vcpu, count)
            stop = self._decide()
            if stop is not None:
                return stop
        return Stop(why=subject.STEPPED, vcpu=vcpu, at=self.moment)

    def _do_steps(self, vcpu: int, count: int, interrupts: bool = False) -> int:
        done: int | None = self._standstill.do(vcpu, lambda: self._steps(vcpu, count, interrupts), self._eventful)
        return done or 0

    def _steps(self, index: int, count: int, interrupts: bool) -> int:
        """On the vCPU's thread: up to ``count`` steps, fewer when there is an event. Returns how many."""
        vcpu, mechanisms = self.machine.vcpus[index], self.mechanisms
        stepper = Stepper(self.machine, index, self._eventful)
        self._stepping = True
        try:
            for done in range(count):
                self._can_step(vcpu)
                number = self.number
                if not stepper.step(interrupts) or index in self._unwritten:
                    return done
                self.stepped += 1
                if self.number == number:
                    self.steps += 1
                if mechanisms.watched:
                    self._hit(index, *mechanisms.changed())
                if mechanisms.addresses:
                    here = self._linear(index)
                    self._hit(index, mechanisms.addresses.get(here, []), here, passed=False)
                if self._eventful():
                    return done + 1
        finally:
            self._stepping = False
            stepper.finish()
        return count

    @staticmethod
    def _can_step(vcpu: Vcpu) -> None:
        if not able("steps", (RING3,)) and vcpu.get_sregs().ss.dpl == 3:
            raise SubjectError("this host's KVM cannot single-step in ring 3: set a breakpoint in the kernel, or go on to the next exit")

    def _eventful(self) -> bool:
        return bool(self._events) or self.machine.reason is not None

    def _decide(self) -> Stop | None:
        """What the events come to, the machine standing still."""
        verdict = self.machine.reason or self.ending
        with self.machine.parking:
            found, self._events = self._events, []
        found, again = one_at_a_time(found)
        for vcpu in again:
            self._reported.pop(vcpu, None)
        hits = self.breakpoints.reached(sorted({number for event in found for number in event.hits}))
        stop = Stop(why="", at=self.moment, hits=hits)
        if verdict is not None:
            crashed = verdict.kind == events.CRASH
            return stop.replace(
                why=subject.CRASHED if crashed else subject.END,
                vcpu=verdict.vcpu or 0,
                exit=self.number,
                text=verdict.detail,
                verdict=verdict,
            )
        for event in found:
            if any(number in hits for number in event.hits):
                return stop.replace(why=subject.BREAKPOINT, vcpu=event.vcpu, exit=event.exit, address=event.address)
        for event in found:
            if event.why:
                return stop.replace(why=event.why, vcpu=event.vcpu, exit=event.exit)
        return None

    # --- on the vCPUs' threads ---------------------------------------------------------------------------------------
    def event(self, event: Event) -> None:
        """Something to stop for, perhaps. From any thread."""
        with self.machine.parking:
            self._events.append(event)
            self._standstill.stop()
        with self._news:
            self._news.notify_all()

    def taken(self, index: int, reason: int) -> bool:
        """Whether an exit is the debugger's own doing; then it has been dealt with."""
        found = self.mechanisms.exit(index, reason)
        if found is not None:
            self._hit(index, *found, passed=reason == uapi.KVM_EXIT_MMIO)
            return True
        if reason == uapi.KVM_EXIT_INTERNAL_ERROR and self.mechanisms.protecting:
            vcpu = self.machine.vcpus[index]
            vcpu.set_regs(vcpu.get_regs())  # drops the #UD that KVM has made pending
            self._unwritten.add(index)
            self.event(Event(why=""))
            return True
        return False

    def debug_exit(self, index: int) -> None:
        """KVM_EXIT_DEBUG: a hardware or software breakpoint; or a step, which whoever steps sees himself."""
        if not self._stepping:
            self._hit(index, *self.mechanisms.debug_exit(index), passed=False)

    def _hit(self, index: int, numbers: list[int], address: int, passed: bool = True) -> None:
        """Breakpoints in the guest are hit; ``passed``: the instruction has been executed. Others' vCPUs count as none, but stop."""
        if numbers:
            if not passed:
                self._reported[index] = address
            found = [each for number in numbers if (each := self.breakpoints.get(number)) is not None and each.concerns(index)]
            data = any(each.kind == WATCH for each in found)
            hits = [each.number for each in found]
            self.event(Event(why="", vcpu=index, hits=hits, address=address if data else 0, ahead=not passed and not data))

    def exit_done(self, index: int, frozen: bytes = b"", time: int = 0, rip: int = 0, answer: bytes = b"") -> None:
        """User space has answered an exit of a vCPU."""
        hits = self.breakpoints.hits_at(frozen, index, answer) if frozen else []
        with self._counting:
            self.number = number = self.number + 1
            self.steps = 0
            if self.on_exits is not None:
                self._records.append(ExitRecord(number=number, vcpu=index, time=time - self._epoch, frozen=frozen, answer=answer, rip=rip))
        settled = self.on_exits is not None and self._watches[index].settle()
        if hits:
            self.event(Event(why="", vcpu=index, hits=hits, exit=number))
        elif self._until is not None and number >= self._until:
            self.event(Event(why=subject.EXIT, vcpu=index, exit=number))
        elif self.mechanisms.overdue(index):
            self.event(Event(why=""))
        if settled:
            self._rest()  # last: standing counts as parked, so this move may be over, and the next on its way, when it returns

    def _rest(self) -> None:
        """Brings the machine to rest and tells ``on_exits``.

        Two vCPUs that want this at once do not wait for one another: each has completed its exit and counts as parked while it waits
        for its turn. The first then tells of both exits, and the checkpoint stands for the last; the other finds nothing to tell.
        """
        machine = self.machine
        if self._stepping:
            machine.resting.release()  # ``Standstill.do`` holds it for us
            try:
                return self._tell()
            finally:
                machine.resting.acquire()
        machine.stand(True)
        try:
            self._tell()
        finally:
            machine.stand(False)

    def _tell(self) -> None:
        """Tells ``on_exits`` of the exits since the last call. From a vCPU's thread that stands, or the debugger's."""
        try:
            with Quiet(self.machine, standing=True):
                with self._counting:
                    records, self._records = self._records, []
                if records and self.on_exits is not None:
                    with self.mechanisms.hidden():
                        self.on_exits(records)
        except HostError as error:
            self.machine.crashed(error)  # a disk does not answer; or the run is over, then nothing comes of it

    def _unhandled_exit(self, index: int, reason: int) -> None:
        """The end of the guest, as a rule; put off, its thread must not leave the run loop."""
        try:
            self._unhandled[index](reason)
        except LeaveLoop:
            if self.ending is None:
                raise

    def _put_off(self, reason: StopReason) -> bool:
        """``Machine.defer``."""
        if reason.kind not in _GUESTS:
            with self._news:
                self._is_over = True
                self._news.notify_all()
            return False
        with self.machine.parking:
            if self.ending is None:
                self.ending = reason
        self.event(Event(why=subject.END, vcpu=reason.vcpu or 0))
        return True
