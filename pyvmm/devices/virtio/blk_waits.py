"""Whether requests of one kind lately waited for the host: then they had better wait on another thread.

Waiting is the time that passed without the thread computing: copying 1 MiB takes long as well, but no other thread would be quicker.
And it is time the thread slept in: one that had to leave its processor to others waits for no disk, and to hand its requests to
more threads, for the same processors, would only cost more. A voluntary context switch tells (man 2 getrusage).

The thread's own counters are system calls, and who is quick by the wall clock has not waited; so they are asked for a while after a
request that was not. How long computing takes for each byte is known from then on, and such a request is quick enough. Where they
find nothing, as on a busy host, they are asked ever more seldom.
"""

from __future__ import annotations

from resource import RUSAGE_THREAD, getrusage
from time import monotonic_ns, thread_time_ns

Begun = tuple[int, int, int]  # wall clock, the thread's own or -1, its sleeps

_EXACT = 8  # requests, or rows of them
_TRUST = 64  # slow requests that are let pass at most, when looking into such found nothing
_UNIT = 12  # of the pace: bits of a page


def sleeps() -> int:
    """How often this thread has gone to sleep."""
    return getrusage(RUSAGE_THREAD).ru_nvcsw


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

    __slots__ = ("long", "watched", "average", "_limit", "_exact", "_pace", "_trust", "_passing")

    def __init__(self, limit: int, known: bool = True) -> None:
        self.long = self.watched = not known
        self.average = 0 if known else limit
        self._limit = limit
        self._exact = 0
        self._trust = self._passing = 0
        self._pace = 0  # nanoseconds for a page: twice what the quickest of the last spell needed for it

    def begin(self) -> Begun:
        """For ``end``, on the same thread."""
        return (monotonic_ns(), thread_time_ns(), sleeps()) if self._exact > 0 else (monotonic_ns(), -1, 0)

    def end(self, begun: Begun, length: int = 0, count: int = 1) -> None:
        """A request for so many bytes has been executed, or ``count`` of them in a row."""
        start, own, before = begun
        waited = monotonic_ns() - start
        if own >= 0:
            worked = thread_time_ns() - own
            waited = waited - worked if sleeps() != before else 0
            pace = (worked << _UNIT + 1) // length if length else 0
            self._pace = pace if self._exact == _EXACT else min(pace, self._pace)
            self._exact -= 1
        else:
            waited -= self._pace * length >> _UNIT
            if waited >= self._limit * count:
                if self._passing:
                    self._passing -= 1
                    return
                self._exact = _EXACT
                self.watched = True
                return
            if not self.average:
                return
        if count > 1:
            waited //= count
        average = self.average
        self.average = max(waited, 0) if waited < average else average + (waited - average >> 3)
        self.long = self.average >= self._limit
        self.watched = bool(self.average) or self._exact > 0
        if own >= 0 and not self._exact:
            self._trust = 0 if self.average else min(2 * self._trust + _EXACT, _TRUST)
            self._passing = self._trust
