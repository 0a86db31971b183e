"""Guest memory in time: pages that changed between checkpoints, found by the dirty log, kept once for as long as they stay the same."""

from __future__ import annotations

import struct

from pyvmm.errors import GuestFault
from pyvmm.layout import PAGE
from pyvmm.observe.debug.versions import Versions
from pyvmm.snapshot import capture, pages, parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyvmm.machine import Machine

_PRICE = PAGE + 200  # bytes of one version of a page, about


class Ram:
    """The memory of one machine, from now on until ``close``. The machine is quiet at each call.

    Args:
        machine: whose.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._versions = Versions(pages.ZERO)
        self._base = 0  # the moment that memory was at, but for what was written since
        self._written: set[int] = set()
        self._mine = machine.tracked is None
        machine.track(True)
        assert machine.tracked is not None
        self._tracked = machine.tracked
        self._tracked.readers.append(self._written)
        self._versions.put(0, pages.scan(machine.memory).own)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._versions.count * _PRICE

    def take(self, moment: int) -> None:
        """What is there now is what is there at ``moment``: the latest, or one later."""
        self._tracked.collect(parts.lasting(self._machine))
        changed, latest = {}, self._versions.latest
        for region in self._machine.memory.regions:  # once for each page that the guest has touched, at every exit
            view, first, last = region.view, region.gpa // PAGE, region.end // PAGE
            for number in self._written:
                if first <= number < last:
                    start = (number - first) * PAGE
                    data = bytes(view[start : start + PAGE])
                    if data != latest(number):
                        changed[number] = data
        self._versions.put(moment, changed)
        self._written.clear()
        self._base = moment

    def put(self, moment: int) -> None:
        """Has memory be what it was."""
        self._tracked.collect(parts.lasting(self._machine))
        touched = self._written | self._versions.between(self._base, moment)
        if self._tracked.put({number: self._versions.at(number, moment) for number in touched}):
            capture.forget_shadows(self._machine)
        self._written.clear()
        self._base = moment

    def mend(self) -> None:
        """The rest of the machine has been put back as well, and KVM may have written: its wall clock, where the guest wants it."""
        self._tracked.collect(parts.lasting(self._machine))
        self._tracked.put({number: self._versions.at(number, self._base) for number in self._written})
        self._written.clear()

    def merge(self, moment: int, following: int) -> None:
        """See Versions."""
        self._versions.merge(moment, following)

    def forget_after(self, moment: int) -> None:
        """See Versions. Where it is now will be the latest moment: ``take`` follows."""
        self._written |= self._versions.between(self._base, moment)
        self._base = moment
        self._versions.forget_after(moment)

    def at(self, moment: int) -> PastMemory:
        """To look at."""
        return PastMemory(self._machine, self._versions, moment)

    def contents(self, moment: int) -> Iterator[tuple[int, bytes]]:
        """(page number, contents) of all that was ever written by then."""
        yield from self._versions.all(moment).items()

    def present(self) -> Iterator[tuple[int, bytes]]:
        """The same of memory as it is."""
        yield from pages.scan(self._machine.memory).own.items()

    def close(self) -> None:
        """No more."""
        self._tracked.readers.remove(self._written)
        if self._mine:
            self._machine.track(False)


class PastMemory:
    """Guest memory at one moment (``paging.Memory``)."""

    def __init__(self, machine: Machine, versions: Versions, moment: int) -> None:
        self._contains = machine.memory.contains
        self._versions = versions
        self._moment = moment

    def contains(self, gpa: int, length: int) -> bool:
        """Whether the whole range is RAM."""
        return self._contains(gpa, length)

    def read(self, gpa: int, length: int) -> bytes:
        """A copy. GuestFault outside RAM."""
        if length < 0 or not self._contains(gpa, length):
            raise GuestFault(gpa, length)
        first, last = gpa // PAGE, (gpa + length - 1) // PAGE
        data = b"".join(self._versions.at(number, self._moment) for number in range(first, last + 1))
        return bytes(data[gpa % PAGE : gpa % PAGE + length])

    def unpack(self, layout: str, gpa: int) -> tuple[Any, ...]:
        """``struct.unpack`` of the bytes there. GuestFault outside RAM."""
        return struct.unpack(layout, self.read(gpa, struct.calcsize(layout)))
