"""Whether requests of one kind lately waited for the host: then they had better wait on another thread.

Waiting is the time that passed without the thread computing: copying 1 MiB takes long as well, but no other thread would be quicker.
The thread's own clock is a system call, and who is quick by the wall clock has not waited; so it is asked for a while after a
request that was not.
"""

from __future__ import annotations

from time import monotonic_ns, thread_time_ns

_EXACT = 8  # requests


class Waits:
    """A moving average, from any thread; two at once may lose a sample.

    Args:
        limit: nanoseconds from which it is called long.
        known: False: long until the first that was not.

    Attributes:
        long: whether such requests wait for a disk.
        watched: False: only a request that takes ``limit`` or more is worth ``end``.
        average: nanoseconds. Moves slowly up, and down at once: one stall of the host says little, one quick answer that there
            is no disk to wait for.
    """

    __slots__ = ("long", "watched", "average", "_limit", "_exact")

    def __init__(self, limit: int, known: bool = True) -> None:
        self.long = self.watched = not known
        self.average = 0 if known else limit
        self._limit = limit
        self._exact = 0

    def begin(self) -> tuple[int, bool]:
        """For ``end``, on the same thread."""
        if self._exact > 0:
            return monotonic_ns() - thread_time_ns(), True
        return monotonic_ns(), False

    def end(self, begun: tuple[int, bool]) -> None:
        """The request has been executed."""
        start, exact = begun
        waited = monotonic_ns() - start
        if exact:
            waited -= thread_time_ns()
            self._exact -= 1
        elif waited >= self._limit:
            self._exact = _EXACT
            self.watched = True
            return
        elif not self.average:
            return
        before = self.average
        self.average = max(waited, 0) if waited < before else before + (waited - before >> 3)
        self.long = self.average >= self._limit
        self.watched = bool(self.average) or self._exact > 0
