"""What the gdb server asks of the thing it debugs. The debugger implements ``Target``; nothing here knows KVM.

Every call comes from the server's one thread, never with a lock of the machine held. vCPUs are numbered from 0.
"""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    Stopped = Callable[["StopEvent"], None]
    """Told once, from any thread, when what was resumed has stopped. May be called before ``resume`` returns."""
    Told = Callable[[str], None]
    """Told once, from any thread, what to show of a command, with its line ends. May be called before ``monitor`` returns."""
    Say = Callable[[str], None]
    """Shows the user a line, from any thread: at once while the guest runs, else with the next resume."""

# Kinds of breakpoints. The length is bytes of memory for watchpoints, and means nothing for the first two.
SOFTWARE, HARDWARE, WRITE, READ, ACCESS = "software", "hardware", "write", "read", "access"
BREAKPOINTS = (SOFTWARE, HARDWARE, WRITE, READ, ACCESS)  # in the order of the packets Z0..Z4

# How a vCPU is resumed.
CONTINUE, STEP = "continue", "step"

# Why it stopped, besides the five kinds of breakpoints.
STEPPED = "stepped"
INTERRUPTED = "interrupted"  # the user pressed Ctrl-C
ATTACHED = "attached"  # stopped because somebody came to look
HISTORY_BEGIN, HISTORY_END = "history-begin", "history-end"  # no more to go back to; at the present, or a recording's end
EVENT = "event"  # anything else that is a stop: an exit, a device register, a port; ``text`` says it
CRASHED = "crashed"  # triple fault, emulation failure: still there to be looked at
EXITED = "exited"  # the machine is gone, ``value`` is the exit status
KILLED = "killed"  # the machine is gone, ``value`` is the signal


class TargetError(PyvmmError):
    """The target cannot do that; the message is shown to the user where gdb lets us."""


class StopEvent(FrozenRecord):
    """Why the machine stands still.

    Fields:
        reason: one of the constants above, or a kind of breakpoint.
        vcpu: who caused it.
        address: linear address of the data, for watchpoints.
        value: exit status (EXITED) or signal number (KILLED).
        text: a line for the user, or "".
    """

    reason: str
    vcpu: int = 0
    address: int = 0
    value: int = 0
    text: str = ""


if TYPE_CHECKING:

    class Target(Protocol):
        """A machine under a debugger. Each method may raise TargetError.

        gdb's breakpoints live from ``insert_breakpoint`` to ``remove_breakpoint``, ``detach``, ``kill``, EXITED or KILLED, whichever
        comes first. A guest that resets itself has not EXITED: gdb stays, and so do its breakpoints.
        Only ``interrupt``, ``detach``, ``kill``, ``vcpus`` and ``reversible`` are asked for between a resume and its stop, or a
        ``monitor`` and its end.
        """

        def attach(self, say: Say) -> StopEvent:
            """gdb has come: stops the machine. Returns why it stands still (ATTACHED, or the last reason if it stood already)."""

        def detach(self) -> None:
            """gdb has gone or lets go, perhaps while resumed: its breakpoints go, the machine goes on, no stop is told any more."""

        def kill(self) -> None:
            """Ends the machine, perhaps while resumed."""

        def vcpus(self) -> int:
            """How many there are."""

        def describe(self, vcpu: int) -> str:
            """A few words on a vCPU for ``info threads``: "halted", "64-bit, ring 3"."""

        @property
        def reversible(self) -> bool:
            """Whether reverse execution exists at all."""

        def read_registers(self, vcpu: int) -> dict[str, int]:
            """Values, not negative, by the names in ``registers.NAMES``. Names left out are shown as unavailable."""

        def write_registers(self, vcpu: int, values: dict[str, int]) -> None:
            """Sets those given."""

        def read_memory(self, vcpu: int, address: int, length: int) -> bytes:
            """Linear memory as the guest sees it, without planted traps; shorter at the first page that is not mapped."""

        def write_memory(self, vcpu: int, address: int, data: bytes) -> None:
            """Writes linear memory, read-only pages as well. All or nothing."""

        def insert_breakpoint(self, kind: str, address: int, length: int) -> None:
            """Each (kind, address, length) at most once until removed."""

        def remove_breakpoint(self, kind: str, address: int, length: int) -> None:
            """One that was inserted."""

        def resume(self, actions: dict[int, str], stopped: Stopped) -> None:
            """Returns at once. vCPUs without an action stay where they are. Any stop stops them all; then ``stopped``, once."""

        def reverse_step(self, vcpu: int, stopped: Stopped) -> None:
            """One instruction back. May work it off before it returns, if that is quick: Ctrl-C is not seen meanwhile."""

        def reverse_continue(self, stopped: Stopped) -> None:
            """Back to the last breakpoint hit before now, or HISTORY_BEGIN. Likewise."""

        def interrupt(self) -> None:
            """Ctrl-C while resumed: leads to ``stopped`` soon, with INTERRUPTED if nothing else came first. Returns at once.

            It may come just after the machine has stopped by itself: then it does nothing, not even to the next resume.
            """

        def monitor(self, command: str, told: Told) -> None:
            """Carries out a command of the user, which may move the machine for as long as that takes: returns at once.

            ``interrupt`` ends it; ``detach`` and ``kill`` do likewise, and wait for it.
            """
