"""The one I/O thread: descriptors to read, timers, and the way to wake it. Runs on the thread that calls Machine.run().

Callbacks run with the machine lock held, so devices see them like accesses of the guest. The one exception is ``deadline``:
a vCPU may keep the lock for good (its console write waits for a reader), and the run must end all the same.
"""

from __future__ import annotations

import heapq
import os
import select
from time import monotonic_ns

from pyvmm.csignal import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_PATIENCE = 0.1  # seconds between two looks at deadline and stop while somebody keeps the machine lock


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

    Attributes:
        deadline: the timer that ends the run, or None; may expire without the lock and on any thread.
        abandoned: the run was ended from outside; nobody waits for output any more.
        drain: empties the coalesced ring before a callback looks at a device; None while no zone is registered.
        turns: how often callbacks may have run; for those who keep an eye on devices.
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
        self._turning = False  # the thread of this loop has the machine lock, and will look at the timers before it waits
        self.deadline: LoopTimer | None = None
        self.abandoned = False
        self.drain: Callable[[], None] | None = None
        self.turns = 0

    def close(self) -> None:
        """Closes the loop's own descriptors; those of readers belong to their owners."""
        if not self._epoll.closed:
            self._readers.clear()
            self._epoll.close()
            wake, self._wake = self._wake, -1
            os.close(wake)

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
            timers = [entry for entry in self._timers if entry[2].due == entry[0]]
            heapq.heapify(timers)
            self._timers = timers  # complete: the loop's thread looks at it without the lock
            self._crowded = max(2 * len(timers), 256)
        first = not self._timers or deadline_ns < self._timers[0][0]
        heapq.heappush(self._timers, (deadline_ns, self._sequence, timer))
        if first and not self._turning:
            self.wake()

    def wake(self) -> None:
        """Makes a wait return; from any thread or signal handler, even after ``close``."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Makes ``run`` return; from any thread or signal handler."""
        self._stopped = True
        self.wake()

    def given_up(self) -> bool:
        """Whether whoever waits for a reader, lock held, should stop waiting: the run was ended from outside or is overdue."""
        self._check_deadline()
        return self.abandoned

    def run(self) -> None:
        """Serves descriptors and timers until ``stop``."""
        # Python runs a signal's handler between two bytecodes of the main thread. One that comes after the last of them and before
        # epoll_wait, or to another thread, would wait for the next event; so the signal itself is made an event.
        wake, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try:
                before = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
            except ValueError:  # not the main thread: handlers run elsewhere
                self.serve()
                return
            try:
                self.add_reader(wake, lambda: _empty(wake))
                self.serve()
            finally:
                self.remove_reader(wake)
                signal.set_wakeup_fd(before)
        finally:
            os.close(wake)
            os.close(written)

    def serve(self) -> None:
        """``run`` without the care for signals: for a thread that has them blocked."""
        while not self._stopped:
            events = self._epoll.poll(self._timeout())
            if not self._take_lock():
                return
            self.turns += 1
            self._turning = True
            try:
                if self.drain is not None:
                    self.drain()
                for fd, callback in [(fd, self._readers.get(fd)) for fd, _ in events]:
                    if fd == self._wake:
                        os.eventfd_read(fd)
                    elif callback is not None and self._readers.get(fd) is callback:
                        callback()  # else an earlier one has removed it; the number may be somebody else's, with nothing to read
                self._expire()
            finally:
                self._turning = False
                self._lock.release()

    def _take_lock(self) -> bool:
        """Takes the machine lock; False when the run has ended meanwhile."""
        while not self._lock.acquire(timeout=_PATIENCE):
            self._check_deadline()
            if self._stopped:
                return False
        return True

    def _check_deadline(self) -> None:
        timer = self.deadline
        if timer is not None and timer.due is not None and timer.due <= monotonic_ns():
            timer.expire(timer.due)

    def _timeout(self) -> float | None:
        timers = self._timers
        return max(timers[0][0] - monotonic_ns(), 0) / 1e9 if timers else None

    def _expire(self) -> None:
        now = monotonic_ns()
        while self._timers and self._timers[0][0] <= now:
            deadline, _, timer = heapq.heappop(self._timers)
            timer.expire(deadline)


class GuestClock:
    """The clock of what the guest can see of time in user space. It can be set, so that time goes on where a snapshot left it.

    Call it for nanoseconds. Timers made here take deadlines of this clock; who sets ``offset`` has the devices arm theirs anew.

    Args:
        loop: where the timers run.
        offset: nanoseconds that this clock is ahead of the host's monotonic one.
    """

    def __init__(self, loop: IoLoop, offset: int = 0) -> None:
        self._loop = loop
        self.offset = offset

    def __call__(self) -> int:
        return monotonic_ns() + self.offset

    def set(self, now: int) -> None:
        """Has it be ``now``."""
        self.offset = now - monotonic_ns()

    def make_timer(self, callback: Callable[[], None]) -> GuestTimer:
        """A disarmed timer."""
        return GuestTimer(self, self._loop.make_timer(callback))


class GuestTimer:
    """A one-shot alarm (``devices.device.Timer``) by the guest's clock."""

    __slots__ = ("_clock", "_timer", "cancel")

    def __init__(self, clock: GuestClock, timer: LoopTimer) -> None:
        self._clock = clock
        self._timer = timer
        self.cancel = timer.cancel

    def arm(self, deadline_ns: int) -> None:
        """(Re-)arms for ``deadline_ns`` on the guest's clock; from any thread that holds the machine lock."""
        self._timer.arm(deadline_ns - self._clock.offset)


def _empty(pipe: int) -> None:
    try:
        os.read(pipe, 4096)
    except BlockingIOError:
        pass
