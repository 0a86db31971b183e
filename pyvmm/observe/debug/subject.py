"""A guest in time, as the prompt, gdb and explanations see it: a live machine, or a recording of one.

Time is counted in exits to user space, over all vCPUs: behind exit n the exit is answered and complete, and no vCPU is inside an
instruction. Exit 0 is the state before the first instruction. Between two exits single instructions count.

All calls come from one thread at a time, but ``interrupt``, which may come from any (a signal handler too).
"""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.record import FrozenRecord, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pyvmm.events import StopReason
    from pyvmm.kvm.state import VcpuState, VmState
    from pyvmm.observe.debug.conditions import Breakpoints
    from pyvmm.observe.explain.explain import Explanation
    from pyvmm.observe.explain.layout import Layout, States
    from pyvmm.observe.paging import Memory  # a Protocol: GuestMemory, or what a recording has

# Why a subject stands still.
START = "start"  # nothing has run yet
EXIT = "exit"  # the exits asked for have happened
STEPPED = "stepped"  # the instructions asked for have been executed
BREAKPOINT = "breakpoint"  # one or more breakpoints or watchpoints; ``Stop.hits``
INTERRUPTED = "interrupted"  # somebody asked
ARRIVED = "arrived"  # at the moment asked for (goto, back)
BEGIN = "begin"  # nothing earlier is kept
END = "end"  # the present of a guest that has ended, or the end of a recording
CRASHED = "crashed"  # triple fault, failed entry, emulation failure: there to be looked at, but it cannot go on
DIVERGED = "diverged"  # executing again went another way than the first time; ``Stop.text`` says where


UNCOUNTED = -1  # as ``Moment.steps``: some instructions, which nobody has counted, behind the exit


class SubjectError(PyvmmError):
    """What was asked cannot be done here and now; one line for the user."""


class Moment(FrozenRecord):
    """A point in time.

    Fields:
        exit: exits to user space before it.
        steps: instructions executed since on the vCPU that is being stepped, or UNCOUNTED.
    """

    exit: int
    steps: int = 0

    def __str__(self) -> str:
        return f"exit {self.exit}" + ("" if not self.steps else " + some" if self.steps == UNCOUNTED else f" + {self.steps}")


class ExitRecord(FrozenRecord):
    """One exit to user space.

    Fields:
        number: from 1, in the order they were answered.
        vcpu: whose.
        time: when it came, nanoseconds since the machine started to run.
        frozen: ``exits.freeze`` of the run page as KVM left it.
        answer: the bytes user space put there, for a read; else b"".
        rip: where the vCPU was at the exit, as KVM has it (see ``explain.who``).
        took, inside: nanoseconds user space took to answer, and the vCPU was in KVM_RUN before; -1: only recordings know.
    """

    number: int
    vcpu: int
    time: int
    frozen: bytes
    answer: bytes = b""
    rip: int = 0
    took: int = -1
    inside: int = -1


class Stop(Record):
    """Why it stands still, and where.

    Fields:
        why: one of the constants above.
        vcpu: whose doing.
        at: when.
        hits: numbers of breakpoints.
        text: a line for the user, or "".
        exit: number of the exit that is the cause, else 0.
        address: the linear address, for watchpoints on memory.
        verdict: how the run ended, for END of a live guest and CRASHED.
    """

    why: str
    vcpu: int = 0
    at: Moment = Moment(exit=0)
    hits: list[int] = []
    text: str = ""
    exit: int = 0
    address: int = 0
    verdict: StopReason | None = None


if TYPE_CHECKING:

    class Subject(Protocol):
        """See the module. Each method may raise SubjectError; those that look or move want it to stand still."""

        name: str
        live: bool  # a machine: it can go on beyond what is known of it, and be changed
        vcpus: int
        breakpoints: Breakpoints

        @property
        def layout(self) -> Layout:
            """Its buses and devices, now."""

        @property
        def stop(self) -> Stop:
            """Why it stands still now."""

        @property
        def running(self) -> bool:
            """Whether a move is on its way."""

        # --- where in time -------------------------------------------------------------------------------------------
        @property
        def first(self) -> Moment:
            """The earliest moment to which one can go."""

        @property
        def last(self) -> Moment:
            """The latest known: the present of a machine, the end of a recording."""

        # --- looking -------------------------------------------------------------------------------------------------
        def regs(self, vcpu: int) -> Any:
            """kvm_regs now."""

        def sregs(self, vcpu: int) -> Any:
            """kvm_sregs now."""

        def vcpu_state(self, vcpu: int) -> VcpuState:
            """Everything of a vCPU. SubjectError where a recording has less."""

        def vm_state(self) -> VmState:
            """Interrupt controllers, PIT, clock."""

        @property
        def memory(self) -> Memory:
            """Guest physical memory: ``read(gpa, length)``, ``contains``; GuestFault outside RAM."""

        @property
        def memory_note(self) -> str:
            """ "" when memory is that of this moment; else of which it is, for the user."""

        def devices(self) -> States:
            """Device states by name."""

        def exit(self, number: int) -> ExitRecord:
            """One that has happened; SubjectError for one that has not or is forgotten."""

        def explain(self, number: int) -> Explanation:
            """Likewise, in words."""

        def console(self, most: int = 4096) -> bytes:
            """The last bytes the guest has written to its first serial port, up to now."""

        # --- changing: SubjectError for a recording; forgets what came after this moment --------------------------------
        def set_regs(self, vcpu: int, values: dict[str, int]) -> None:
            """By the names of kvm_regs, and cr0 cr2 cr3 cr4 cr8 efer of kvm_sregs."""

        def write(self, gpa: int, data: bytes) -> None:
            """Guest physical memory. GuestFault outside RAM."""

        # --- moving: blocks until it stands still again, and returns ``stop`` --------------------------------------------
        def step(self, count: int = 1) -> Stop:
            """On by ``count`` exits (breakpoints end it before)."""

        def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
            """On by ``count`` instructions of one vCPU; the others stand still."""

        def run(self, only: frozenset[int] = frozenset()) -> Stop:
            """Until a breakpoint, the end, or ``interrupt``. ``only``: vCPUs that run while the others stand still; empty: all."""

        def goto(self, moment: Moment) -> Stop:
            """There, in either direction; without breakpoints."""

        def back(self, count: int = 1) -> Stop:
            """Back by ``count`` exits."""

        def reverse_step(self, vcpu: int, count: int = 1) -> Stop:
            """Back by ``count`` instructions."""

        def reverse_run(self) -> Stop:
            """Back to the latest hit of a breakpoint before now, or BEGIN."""

        def interrupt(self) -> None:
            """Ends the move that is on its way, if there is one. Any thread; returns at once."""
