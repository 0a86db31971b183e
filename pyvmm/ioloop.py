"""The one I/O thread: descriptors to read, timers, and the way to wake it. Runs on the thread that calls Machine.run().

Callbacks run with the machine lock held, so devices see them like accesses of the guest.
"""

from __future__ import annotations

import heapq
import os
import select
from time import monotonic_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class LoopTimer:
    """A one-shot alarm (``devices.device.Timer``); made by ``IoLoop.make_timer``."""

    __slots__ = ("_loop", "_callback", "due")

    def __init__(self, loop: IoLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self.due: int | None = None  # nanoseconds, None while disarmed

    def arm(self, deadline_ns: int) -> None:
        """(Re-)arms for ``deadline_ns`` on the monotonic clock; from any thread that holds the machine lock."""
        self.due = deadline_ns
        self._loop.schedule(deadline_ns, self)

    def cancel(self) -> None:
        """Disarms."""
        self.due = None

    def expire(self, deadline_ns: int) -> None:
        """Calls back, unless cancelled or re-armed since ``deadline_ns`` was scheduled."""
        if self.due == deadline_ns:
            self.due = None
            self._callback()


class IoLoop:
    """epoll over file descriptors, a heap of timers, and an eventfd that wakes the wait.

    Args:
        lock: the machine lock.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[int, int, LoopTimer]] = []
        self._sequence = 0  # keeps heap entries comparable
        self._crowded = 256
        self._stopped = False

    def close(self) -> None:
        """Closes the loop's own descriptors; those of readers belong to their owners."""
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> bool:
        """Calls ``callback`` whenever ``fd`` is readable or hung up.

        Returns:
            False for a descriptor that epoll does not watch (a regular file, always readable): read it at once instead.
        """
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
        self._readers[fd] = callback
        return True

    def remove_reader(self, fd: int) -> None:
        """Stops watching; harmless when not watched."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def make_timer(self, callback: Callable[[], None]) -> LoopTimer:
        """A disarmed timer."""
        return LoopTimer(self, callback)

    def schedule(self, deadline_ns: int, timer: LoopTimer) -> None:
        """Puts a deadline on the heap; wakes the loop when it is the next one."""
        self._sequence += 1
        if len(self._timers) >= self._crowded:  # a guest may re-arm without end: drop the entries it has outdated
            self._timers = [entry for entry in self._timers if entry[2].due == entry[0]]
            heapq.heapify(self._timers)
            self._crowded = max(2 * len(self._timers), 256)
        first = not self._timers or deadline_ns < self._timers[0][0]
        heapq.heappush(self._timers, (deadline_ns, self._sequence, timer))
        if first:
            self.wake()

    def wake(self) -> None:
        """Makes a wait return; from any thread or signal handler."""
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Makes ``run`` return; from any thread or signal handler."""
        self._stopped = True
        self.wake()

    def run(self) -> None:
        """Serves descriptors and timers until ``stop``."""
        while not self._stopped:
            events = self._epoll.poll(self._timeout())
            with self._lock:
                for fd, _ in events:
                    if fd == self._wake:
                        os.eventfd_read(fd)
                    elif fd in self._readers:
                        self._readers[fd]()
                self._expire()

    def _timeout(self) -> float | None:
        return max(self._timers[0][0] - monotonic_ns(), 0) / 1e9 if self._timers else None

    def _expire(self) -> None:
        now = monotonic_ns()
        while self._timers and self._timers[0][0] <= now:
            deadline, _, timer = heapq.heappop(self._timers)
            timer.expire(deadline)
