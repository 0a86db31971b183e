"""What a network backend is wired to in a unit test: the card's half, and an I/O loop that runs until something has happened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic_ns

from pyvmm.ioloop import IoLoop


class FakeNic:
    """A card that keeps what it takes. ``room``: buffers it has left, None for no end; ``refused``: frames it had none for."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.frames: list[bytes] = []
        self.headers: list[bytes | None] = []
        self.refused = 0
        self.links: list[bool] = []
        self.bursts: list[bool] = []

    def receive(self, frame: bytes | bytearray | memoryview, header: bytes | bytearray | memoryview | None = None) -> bool:
        if self.room == 0:
            self.refused += 1
            return False
        if self.room is not None:
            self.room -= 1
        self.frames.append(bytes(frame))
        self.headers.append(None if header is None else bytes(header))
        return True

    def burst(self, on: bool) -> None:
        self.bursts.append(on)

    def link_changed(self, up: bool) -> None:
        self.links.append(up)


class Loop(IoLoop):
    """An I/O loop that a test turns by hand."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        super().__init__(self.lock)

    def until(self, done: Callable[[], object], seconds: float = 10.0) -> bool:
        """Serves until ``done()``, which is looked at with the lock held; False when that took too long."""
        end = monotonic_ns() + int(seconds * 1e9)
        happened = False

        def look() -> None:
            nonlocal happened
            happened = bool(done())
            if happened or monotonic_ns() >= end:
                self.stop()
            else:
                timer.arm(monotonic_ns() + 2_000_000)

        timer = self.make_timer(look)
        timer.arm(monotonic_ns())
        self._stopped = False
        self.run()
        return happened

    def turn(self, seconds: float = 0.02) -> None:
        """Serves for a moment."""
        self.until(lambda: False, seconds)


def why_no_user() -> str:
    """Why `user` networks cannot be had here; "" when they can."""
    from pyvmm.backends.net import passt, slirp_abi

    return "" if slirp_abi.load() is not None or passt.find() else "neither libslirp (Debian: libslirp0) nor passt is installed"


@contextmanager
def running_loop() -> Iterator[Loop]:
    """A Loop, closed at the end."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


def frame(number: int, size: int = 60) -> bytes:
    """A frame of ``size`` bytes between two cards that says its number."""
    return (b"\x52\x54\x00\x12\x34\x57" + b"\x52\x54\x00\x12\x34\x56" + b"\x88\xb5" + number.to_bytes(4, "big")).ljust(size, b".")[:size]
