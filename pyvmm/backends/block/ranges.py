"""Mutual exclusion for parts of a disk: who has to read before he writes must not meet another writer there."""

from __future__ import annotations

from pyvmm.threads import Condition


class RangeLock:
    """Locks on ranges of block numbers. A thread holds one at a time, so nobody can wait in a circle."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._held: list[tuple[int, int]] = []

    def acquire(self, first: int, last: int) -> None:
        """Waits until nobody holds a block of [first, last], then holds them all."""
        with self._changed:
            while any(low <= last and first <= high for low, high in self._held):
                self._changed.wait()
            self._held.append((first, last))

    def release(self, first: int, last: int) -> None:
        """Gives back exactly what was acquired."""
        with self._changed:
            self._held.remove((first, last))
            self._changed.notify_all()
