"""What a machine was at each exit, so that one can go back: checkpoints, the exits themselves, what was said, what disks held.

There is a checkpoint behind every exit at which the machine was at rest (one instruction may make several exits). When all takes more than
the limit, checkpoints are thinned out: of the older ones every second is kept, then every fourth, and so on; the first and the last always
stay. The log of exits may have half of the limit, and forgets the oldest.

Time is either new (each exit is added) or lived through once more (``reliving``): then each exit is compared with the one that is known.
Is it the same, the machine goes on from the checkpoint that was made then, so that what comes is what came, and from the last on new
time begins. Is it another, the machine has diverged. ``amend`` forgets the future.

Frames that were sent to a network stay sent; frames received count as what they did to card and memory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from pyvmm.backends.stderr import say
from pyvmm.errors import HostError
from pyvmm.observe.debug import checkpoint as checkpoints
from pyvmm.observe.debug.drives import Drives
from pyvmm.observe.debug.exitlog import ExitLog, difference
from pyvmm.observe.debug.line import Line
from pyvmm.observe.debug.ram import Ram
from pyvmm.observe.debug.subject import SubjectError
from pyvmm.observe.explain.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.machine import Machine
    from pyvmm.observe.debug.checkpoint import Checkpoint
    from pyvmm.observe.debug.ram import PastMemory
    from pyvmm.observe.debug.subject import ExitRecord

LIMIT = 256 << 20  # bytes
_LOG = 2  # up to half of it is for the log
_LATEST = 16  # checkpoints that are not thinned out before all others are


class History:
    """See the module. Looking wants the machine at rest (``Machine.quiesce``), and so does moving, whoever calls.

    Args:
        machine: whose; standing still.
        limit: bytes for it all, about.

    Attributes:
        position: the exit that the machine is behind.
        last: the latest that is known.
        reliving: the machine is in a time that has been before.
        diverged: what was different when it lived through it once more, since the last ``restore``; "" when nothing was.
        enough, on_enough: what to call when the machine, reliving, comes to that exit, or when it has diverged.
        log: the exits.
        lines: console lines; the first is the first serial port's.
        notes: what cannot be taken back, in words, for the user.
    """

    def __init__(self, machine: Machine, limit: int = LIMIT) -> None:
        self.machine = machine
        self.limit = limit
        self.position = self.last = 0
        self.reliving = False
        self.diverged = ""
        self.enough = -1
        self.on_enough: Callable[[], None] = lambda: None
        self.log = ExitLog(limit // _LOG)
        self.notes = ["frames that were sent to the network stay sent when you go back"] if machine.netdevs else []
        self._kept: dict[int, Checkpoint] = {}
        self._numbers: list[int] = []  # of the checkpoints, ascending
        self._weights: dict[int, int] = {}  # their bytes
        self._weight = 0  # in all
        self._fresh = False  # put back, and not run since
        self._layout: Layout | None = None
        self._is_open = True
        with machine.quiesce():
            if machine.coalesced is not None:  # which writes would make an exit is not part of a machine's state
                machine.coalesced.forbidden = True
                machine.coalesced.stop()
            self._drives = Drives(machine)
            self._ram = Ram(machine)
            ports = [device for device in machine.devices.values() if hasattr(device, "output")]
            self.lines = [Line(port, lambda: self.position, lambda: self.reliving) for port in ports]
            for bus in (machine.ports, machine.mmio):
                bus.on_change.append(self._moved)
            self._add(0)
        machine.at_end.append(self._end)

    def close(self) -> None:
        """The machine goes on from where it is, without a history; drives are written. Once more does nothing, nor after the end.

        Raises:
            OSError: a drive could not be written; it can be tried again.
            HostError: a disk of the host does not answer.
        """
        try:
            with self.machine.quiesce():
                if self._is_open:
                    self._leave()
                    self._ram.close()
        except HostError:
            if self.machine.reason is None:
                raise
            # the run is over: ``_end`` has been called, or will be

    def _leave(self) -> None:
        """The machine is at rest, or has ended."""
        self._drives.close()
        machine, self._is_open, self.reliving = self.machine, False, False
        if machine.coalesced is not None:
            machine.coalesced.forbidden = False
        for line in self.lines:
            line.close()
        for bus in (machine.ports, machine.mmio):
            bus.on_change.remove(self._moved)

    def _end(self) -> None:
        """The run is over (``Machine.at_end``)."""
        try:
            if self._is_open:
                self._leave()
        except OSError as error:
            say(f"pyvmm: warning: what the guest has written to its drives is lost: {error.strerror}")

    @property
    def layout(self) -> Layout:
        """Who is where on the buses now."""
        if self._layout is None:
            self._layout = Layout.of(self.machine)
        return self._layout

    def _moved(self) -> None:
        """Something is elsewhere on a bus: the layout is made anew when it is wanted."""
        self._layout = None

    @property
    def size(self) -> int:
        """Bytes in use, about."""
        return self._weight + self._ram.size + self.log.size

    # --- time goes on --------------------------------------------------------------------------------------------------
    def on_exits(self, records: list[ExitRecord]) -> None:
        """``Control.on_exits``."""
        if self.reliving:
            self._relive(records)
        else:
            self._append(records)

    def _append(self, records: list[ExitRecord]) -> None:
        self.log.add(records)
        self.position = self.last = records[-1].number
        self._add(self.last)
        if self.size > self.limit:
            self._thin()

    def _relive(self, records: list[ExitRecord]) -> None:
        for record in records:
            known = self.log.get(record.number)
            if known is not None and not self.diverged:
                self.diverged = difference(known, record)
        self.position = min(records[-1].number, self.last)
        if records[-1].number > self.last and not self.diverged:
            self.diverged = f"several exits at once came behind exit {self.last}, where one was known"
        if self.diverged or self.position == self.enough:
            self.on_enough()
        if not self.diverged and self.has(self.position):
            self.restore(self.position)  # small differences, a timer's count, do not add up
            self.resume()

    def _add(self, number: int) -> None:
        """A checkpoint of the machine as it is, behind the last one or in its place."""
        before = self._kept[self._numbers[-1]] if self._numbers else None
        said = [line.position for line in self.lines]
        self._kept[number] = checkpoints.take(self.machine, number, self.layout, said, before)
        if not self._numbers or self._numbers[-1] != number:
            self._numbers.append(number)
        self._weigh(len(self._numbers) - 1)
        self._ram.take(number)
        self._drives.take(number)

    def amend(self) -> None:
        """Somebody has changed the machine: what came after this moment did not happen."""
        with self.machine.quiesce():
            for number in self._numbers[bisect_right(self._numbers, self.position) :]:
                self._drop(number)
            for part in (self._ram, self._drives, self.log):
                part.forget_after(self.position)
            for line in self.lines:
                line.forget()
            self.last, self.reliving = self.position, False
            self._add(self.position)
        self._present()

    # --- what is too much ------------------------------------------------------------------------------------------------
    def _weigh(self, index: int) -> None:
        """Finds out what a checkpoint takes beside what it shares with the one before."""
        number = self._numbers[index]
        before = self._kept[self._numbers[index - 1]] if index else None
        self._weight -= self._weights.get(number, 0)
        self._weights[number] = checkpoints.cost(self._kept[number], before)
        self._weight += self._weights[number]

    def _drop(self, number: int) -> None:
        index = bisect_left(self._numbers, number)
        del self._numbers[index], self._kept[number]
        self._weight -= self._weights.pop(number)
        if index < len(self._numbers):
            self._weigh(index)

    def _thin(self) -> None:
        goal, stride, spared = self.limit * 3 // 4, 2, _LATEST
        while self.size > goal and len(self._numbers) > 2:
            if stride > 2 * self.last:
                spared, stride = 1, 2  # what is left is large: the latest must go as well
            for number in self._numbers[1:-spared]:
                if number % stride:
                    following = self._numbers[bisect_right(self._numbers, number)]
                    self._ram.merge(number, following)
                    self._drives.merge(number, following)
                    self._drop(number)
            if spared == 1 and stride > self.last:
                break
            stride *= 2

    # --- going there -----------------------------------------------------------------------------------------------------
    def kept(self, number: int) -> int:
        """The latest checkpoint at or before an exit."""
        return self._numbers[bisect_right(self._numbers, number) - 1]

    def restore(self, number: int) -> None:
        """Has the machine be as it was behind an exit of which there is a checkpoint. SubjectError: there is none."""
        found = self.checkpoint(number)
        with self.machine.quiesce():
            self.reliving = True  # a port that is put back has room, and offers it: the keyboard is not for it yet (``resume``)
            self._drives.put(number)
            checkpoints.put(self.machine, found, lambda: self._ram.put(number))
            self._ram.mend()
            for line, position in zip(self.lines, found.said, strict=True):
                line.position = position
            self._layout = found.layout
            self.position, self.reliving, self.diverged = number, number < self.last, ""
        self._fresh = True

    def resume(self) -> None:
        """The machine is about to run. Put back just now, it is told what was typed here."""
        if self._fresh:
            self._fresh = False
            with self.machine.quiesce():
                for line in self.lines:
                    line.replay()
                self._present()

    def _present(self) -> None:
        for line in self.lines:
            line.offer()

    # --- looking ---------------------------------------------------------------------------------------------------------
    def checkpoint(self, number: int) -> Checkpoint:
        """SubjectError: there is none."""
        found = self._kept.get(number)
        if found is None:
            raise SubjectError(f"nothing is kept of exit {number}")
        return found

    def has(self, number: int) -> bool:
        """Whether there is a checkpoint."""
        return number in self._kept

    def memory(self, number: int) -> PastMemory:
        """RAM behind an exit, or at the latest checkpoint before."""
        return self._ram.at(number)

    def digests(self, number: int | None = None) -> dict[str, str]:
        """The whole state, part by part (see ``checkpoint``): kept of an exit, or of the machine as it is."""
        if number is not None:
            return checkpoints.digests(self.checkpoint(number), self._ram.contents(number), self._drives.contents(number))
        with self.machine.quiesce():
            found = checkpoints.take(self.machine, self.position, Layout(), [line.position for line in self.lines])
            return checkpoints.digests(found, self._ram.present(), self._drives.present())

    def digest(self, number: int | None = None) -> str:
        """The same as one number."""
        return checkpoints.digest(self.digests(number))
