"""What a user wants to stop at, as data: the same for a live machine, where it is armed, and a recording, where it is searched for."""

from __future__ import annotations

from pyvmm import exits
from pyvmm.kvm import structs, uapi
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Kinds. The first two are in the guest, the others at its exits.
ADDRESS = "address"  # an instruction is about to be executed: first = linear address
WATCH = "watch"  # memory, first..last = linear addresses, by ``direction``
EXIT = "exit"  # exits for a reason: first = KVM_EXIT_*
PORT = "port"  # an access to ports first..last
MMIO = "mmio"  # an access to guest physical addresses first..last that are no RAM
LINE = "line"  # interrupt line ``first`` (GSI) is raised by a device in user space
IN_GUEST = (ADDRESS, WATCH)
AT_ACCESS = {PORT: uapi.KVM_EXIT_IO, MMIO: uapi.KVM_EXIT_MMIO}

READ, WRITE = "r", "w"


class Breakpoint(Record):
    """One of them.

    Fields:
        number: what the user calls it, below 0 for those of others; given by ``Breakpoints.add``.
        kind: one of the constants above.
        first, last: see the kinds; both included.
        direction: READ or WRITE as the guest sees it, "" for either.
        value, mask: only accesses whose value & mask is this; None: any value.
        vcpu: only on this one; None: on all.
        hardware: asked for as a hardware breakpoint (gdb's Z1).
        temporary: goes at its first hit.
        enabled: else it never hits.
        ignore: hits to pass over before it stops.
        hits: how often it was reached.
        text: as the user said it ("serial0.THR", "main").
        owner: "" for the prompt's, "gdb" for gdb's, which the prompt shows and leaves alone, "search" for a move's own.
        means: how it is watched for, in words, once it is armed ("planted trap", "single steps").
    """

    kind: str
    first: int
    last: int
    number: int = 0
    direction: str = ""
    value: int | None = None
    mask: int = (1 << 64) - 1
    vcpu: int | None = None
    hardware: bool = False
    temporary: bool = False
    enabled: bool = True
    ignore: int = 0
    hits: int = 0
    text: str = ""
    owner: str = ""
    means: str = ""

    def concerns(self, vcpu: int) -> bool:
        """Whether it is on and about this vCPU."""
        return self.enabled and (self.vcpu is None or self.vcpu == vcpu)

    def at_exit(self, exit: exits.Exit, vcpu: int, answer: bytes = b"") -> bool:
        """Whether an exit is one to stop at. ``answer``: what user space gave the guest, for a read."""
        if not self.concerns(vcpu):
            return False
        if self.kind == EXIT:
            return exit.number == self.first
        if AT_ACCESS.get(self.kind) != exit.number:
            return False
        fields = exit.fields
        is_write = bool(fields["direction" if self.kind == PORT else "is_write"])
        if self.direction and self.direction != (WRITE if is_write else READ):
            return False
        at, size = (fields["port"], fields["size"]) if self.kind == PORT else (fields["address"], fields["size"])
        if at > self.last or at + size <= self.first:
            return False
        if self.value is None:
            return True
        data = exit.data if is_write else answer
        pieces = range(0, len(data), size) if size else ()
        return any(self._value(at, data[start : start + size]) & self.mask == self.value & self.mask for start in pieces)

    def _value(self, at: int, data: bytes) -> int:
        """Of the bytes of one access those that are in the range, as a number."""
        return int.from_bytes(data[max(self.first - at, 0) : self.last - at + 1], "little")


class Breakpoints:
    """The user's, gdb's and those of commands, by number.

    Attributes:
        version: another number after each change, for those who compile them into something quicker.
    """

    def __init__(self) -> None:
        self._all: dict[int, Breakpoint] = {}
        self._last = self._least = 0
        self.version = 0

    def __iter__(self) -> Iterator[Breakpoint]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def get(self, number: int) -> Breakpoint | None:
        """By number; None when there is none."""
        return self._all.get(number)

    def add(self, breakpoint: Breakpoint) -> Breakpoint:
        """Gives it the next number. The user's count from 1 on, however many gdb sets and takes out at each stop: those are below 0."""
        if breakpoint.owner:
            self._least -= 1
        else:
            self._last += 1
        breakpoint.number = self._least if breakpoint.owner else self._last
        self._all[breakpoint.number] = breakpoint
        self.version += 1
        return breakpoint

    def remove(self, number: int) -> bool:
        """Returns whether there was one."""
        self.version += 1
        return self._all.pop(number, None) is not None

    def changed(self) -> None:
        """Says that somebody has changed one's fields."""
        self.version += 1

    def in_guest(self) -> list[Breakpoint]:
        """Those that are on and need something of the vCPU."""
        return [each for each in self if each.enabled and each.kind in IN_GUEST]

    def at_exits(self) -> list[Breakpoint]:
        """Those that are on and are decided at an exit."""
        return [each for each in self if each.enabled and each.kind not in IN_GUEST and each.kind != LINE]

    def hits_at(self, frozen: bytes, vcpu: int, answer: bytes = b"") -> list[int]:
        """Numbers of those to stop at for an exit (``exits.freeze``)."""
        wanted = self.at_exits()
        if not wanted:
            return []
        reason = frozen[structs.RUN_EXIT_REASON] if len(frozen) > structs.RUN_EXIT_REASON else 0
        if all(each.first != reason if each.kind == EXIT else AT_ACCESS[each.kind] != reason for each in wanted):
            return []
        exit = exits.thaw(frozen)
        return [each.number for each in wanted if each.at_exit(exit, vcpu, answer)]

    def reached(self, numbers: list[int]) -> list[int]:
        """Counts hits; returns those that stop, which are gone if temporary."""
        stop = []
        for number in numbers:
            found = self._all.get(number)
            if found is None:
                continue
            found.hits += 1
            if found.ignore:
                found.ignore -= 1
                continue
            stop.append(number)
            if found.temporary:
                self.remove(number)
        return stop
