"""What each exit to user space costs: closures around handlers, plain lists, no object per exit.

A site is (exit reason, where): for port I/O the word of direction, size and port, for MMIO address and the word of length and direction,
both as the run page has them. Measured with an empty handler: 0.4 us an exit; a bare before/after pair of hooks takes 0.25.

Time is put into buckets whose width is an eighth of their power of two, so a percentile is right to 12 %, of however many exits.
"""

from __future__ import annotations

from time import perf_counter_ns

from pyvmm.kvm import uapi
from pyvmm.runloop import Observer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pyvmm.runloop import Handler, RunLoop

    Site = tuple[int, Hashable]
    """(exit reason, what the run page says of where): ``summary`` takes it apart."""

COUNT, TOTAL, LEAST, MOST, BUCKETS = range(5)  # of a cell; the buckets are the rest
_CELL = [0, 0, 1 << 62, 0] + [0] * 480  # 60 powers of two from 8 ns up
_MOST_SITES = 1024  # a guest can name 2**64 addresses; a cell takes 4 KiB
OTHERS = "others"  # where the rest goes
KICKED = -1  # in place of an exit reason: KVM_RUN ended with EINTR


class _Cells(dict):  # type: ignore[type-arg]
    """Where -> its cell, made when first asked for."""

    def __missing__(self, where: Hashable) -> list[int]:
        if len(self) >= _MOST_SITES:
            where = OTHERS
            if where in self:
                found: list[int] = self[where]
                return found
        cell = self[where] = _CELL.copy()
        return cell


class Meter(Observer):
    """The exits of one vCPU, measured on its thread. ``attach`` to a run loop; read ``cells`` from any thread.

    Attributes:
        cells: exit reason (or KICKED) -> where -> [count, total, least, most, buckets...] in nanoseconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[int, dict[Hashable, list[int]]] = {}

    def attach(self, loop: RunLoop) -> Callable[[], None]:
        """Measures until the returned function is called."""
        self._words, self._quads = loop.vcpu.words, loop.vcpu.quads
        detach = loop.observe(self)
        interrupted = loop.interrupted
        loop.interrupted = self._kicks(interrupted)

        def undo() -> None:
            loop.interrupted = interrupted
            detach()

        return undo

    def around(self, reason: int, handler: Handler) -> Handler:
        words, quads, clock = self._words, self._quads, perf_counter_ns
        cells = self.cells.setdefault(reason, _Cells())

        def timed_port() -> None:
            start = clock()
            try:
                handler()
            finally:
                spent = clock() - start
                cell = cells[words[8]]
                cell[COUNT] += 1
                cell[TOTAL] += spent
                if spent < cell[LEAST]:
                    cell[LEAST] = spent
                if spent > cell[MOST]:
                    cell[MOST] = spent
                spent += 8  # ``bucket``, spelled out: port accesses are what there is most of, and the call costs 0.2 us
                bits = spent.bit_length()
                cell[(bits << 3) + (spent >> bits - 4 & 7) - 28] += 1

        def timed_memory() -> None:
            start = clock()
            try:
                handler()
            finally:
                note(cells[quads[4], quads[6]], clock() - start)

        def timed() -> None:
            start = clock()
            try:
                handler()
            finally:
                note(cells[None], clock() - start)

        return {uapi.KVM_EXIT_IO: timed_port, uapi.KVM_EXIT_MMIO: timed_memory}.get(reason, timed)

    def _kicks(self, interrupted: Callable[[], bool]) -> Callable[[], bool]:
        cells = self.cells.setdefault(KICKED, _Cells())

        def timed() -> bool:
            start = perf_counter_ns()
            try:
                return interrupted()
            finally:
                note(cells[None], perf_counter_ns() - start)

        return timed


def note(cell: list[int], spent: int) -> None:
    """Puts one time into a cell."""
    cell[COUNT] += 1
    cell[TOTAL] += spent
    cell[LEAST] = min(cell[LEAST], spent)
    cell[MOST] = max(cell[MOST], spent)
    cell[bucket(spent)] += 1


def bucket(spent: int) -> int:
    """The index in a cell for a time: 3 bits below the highest one choose among its eighths. 8 ns more, so that there are 3."""
    spent += 8
    bits = spent.bit_length()
    return (bits << 3) + (spent >> bits - 4 & 7) - 32 + BUCKETS


def ceiling(index: int) -> int:
    """The longest time that falls into a bucket."""
    bits, eighth = divmod(index + 32 - BUCKETS, 8)
    return (9 + eighth << bits - 4) - 9


def percentile(cell: list[int], share: float) -> int:
    """The time that ``share`` (0 to 1) of a cell's exits did not exceed, to 12 %; never above the longest."""
    wanted, seen = share * cell[COUNT], 0
    for index in range(BUCKETS, len(cell)):
        seen += cell[index]
        if seen and seen >= wanted:
            return min(ceiling(index), cell[MOST])
    return cell[MOST]


def merge(into: list[int], cell: list[int]) -> None:
    """Adds another vCPU's cell, or another machine's."""
    for index in range(len(into)):
        into[index] += cell[index] if index not in (LEAST, MOST) else 0
    into[LEAST], into[MOST] = min(into[LEAST], cell[LEAST]), max(into[MOST], cell[MOST])


def empty() -> list[int]:
    """A cell of nothing."""
    return _CELL.copy()
