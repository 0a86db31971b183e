"""What a device is wired to in a unit test: a line, time, and a place where bytes and stop requests end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyvmm.events import StopReason

if TYPE_CHECKING:
    from pyvmm.devices.device import Timer


class FakeLine:
    """An interrupt line that remembers its level and counts rising edges, as an edge-triggered controller would."""

    def __init__(self) -> None:
        self.level = 0
        self.edges = 0
        self.changes: list[int] = []

    def set(self, level: int) -> None:
        level = 1 if level else 0
        if level != self.level:
            self.level = level
            self.edges += level
            self.changes.append(level)

    def pulse(self) -> None:
        self.set(1)
        self.set(0)


class FakeTimer:
    """A timer of a FakeTime: ``deadline`` is None while it is not armed."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.deadline: int | None = None

    def arm(self, deadline_ns: int) -> None:
        self.deadline = deadline_ns

    def cancel(self) -> None:
        self.deadline = None


class FakeTime:
    """A clock that moves when told, and the timers on it.

    Args:
        start: what the monotonic clock shows first.
        wall: what the wall clock shows first, nanoseconds since 1970.
    """

    def __init__(self, start: int = 0, wall: int = 0) -> None:
        self.now = start
        self.ahead = wall - start  # of the wall clock
        self.timers: list[FakeTimer] = []

    def clock(self) -> int:
        return self.now

    def wall_clock(self) -> int:
        return self.now + self.ahead

    def make_timer(self, callback: Callable[[], None]) -> Timer:
        timer = FakeTimer(callback)
        self.timers.append(timer)
        return timer

    @property
    def armed(self) -> int:
        """How many timers are armed."""
        return sum(timer.deadline is not None for timer in self.timers)

    def advance(self, nanoseconds: int, limit: int = 100_000) -> int:
        """Moves on, firing timers at their deadlines in order; returns how many fired. More than ``limit`` is a failure."""
        end = self.now + nanoseconds
        fired = 0
        while True:
            due = [timer for timer in self.timers if timer.deadline is not None and timer.deadline <= end]
            if not due:
                break
            timer = min(due, key=lambda timer: timer.deadline or 0)
            assert timer.deadline is not None
            self.now = max(self.now, timer.deadline)
            timer.deadline = None
            timer.callback()
            fired += 1
            assert fired <= limit, "a timer re-arms itself without end"
        self.now = end
        return fired


class ByteSink:
    """Takes output; ``writes`` has it call by call, ``data`` joined."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def __call__(self, data: bytes) -> None:
        self.writes.append(data)

    @property
    def data(self) -> bytes:
        return b"".join(self.writes)


class StopSink:
    """Takes stop requests."""

    def __init__(self) -> None:
        self.reasons: list[StopReason] = []

    def __call__(self, reason: StopReason) -> None:
        self.reasons.append(reason)

    @property
    def kinds(self) -> list[str]:
        return [reason.kind for reason in self.reasons]


class FaultySystem:
    """Stands for ``os`` in a module under test: everything works as in ``os``, but for what was planned.

    Attributes:
        planned: function name -> what becomes of its next calls, in order. An int below 0 is an errno (-EIO), from 0 a number of
            bytes after which a read or write comes to an end; None: works as ever.
        calls: (name, offset or None) of the calls of planned functions.
    """

    def __init__(self) -> None:
        self.planned: dict[str, list[int | None]] = {}
        self.calls: list[tuple[str, int | None]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.planned:
            return real

        def faulty(*arguments: Any) -> Any:
            self.calls.append((name, arguments[2] if len(arguments) > 2 else None))
            step = self.planned[name].pop(0) if self.planned[name] else None
            if step is None:
                return real(*arguments)
            if step < 0:
                raise OSError(-step, os.strerror(-step))
            fd, views, *rest = arguments
            kept: list[memoryview] = []
            for view in views:
                kept.append(view[:step])
                step -= len(kept[-1])
            return real(fd, kept, *rest)

        return faulty
