"""A console line in time: what the guest has said up to a moment, and what was typed at which.

What has been printed stays on the screen. A guest that is taken back and says the same again prints nothing; from the first byte that
is another, it prints. What was typed is typed again, at the same exit, when that time is lived through once more; the keyboard waits.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST = 1 << 20  # bytes of output kept to look at; older ones are cut off
_TYPED = 1 << 16  # inputs kept


class Line:
    """Stands between a device (``output``, and ``receive`` if it has one) and its console, until ``close``. Machine lock held.

    Args:
        device: a serial port, a virtio console, a debug console.
        now: the exit behind which the machine is.
        is_past: whether the machine is in a time that has been before: no key reaches it.

    Attributes:
        position: bytes the guest has said until now.
        prints: what the device's output was.
    """

    def __init__(self, device: Any, now: Callable[[], int], is_past: Callable[[], bool]) -> None:
        self.device = device
        self.position = 0
        self._now = now
        self._is_past = is_past
        self._start = 0  # of what is kept
        self._said = bytearray()  # all that is on the screen and belongs to the time we are in
        self._typed: list[tuple[int, bytes]] = []
        self._refused = False
        self.prints: Callable[[bytes], None] = device.output
        device.output = self._output
        self._receive: Callable[[bytes], int] | None = getattr(device, "receive", None)
        if self._receive is not None:
            device.receive = self._input

    def close(self) -> None:
        """The device is as it was."""
        self.device.output = self.prints
        if self._receive is not None:
            del self.device.receive  # the class's again
        self.offer()

    # --- what the guest says -------------------------------------------------------------------------------------------
    def _output(self, data: bytes) -> None:
        at = self.position - self._start
        known = bytes(self._said[max(at, 0) : max(at + len(data), 0)])
        if at >= 0 and data[: len(known)] == known:  # as far as it has been said before
            fresh = data[len(known) :]
        else:
            self.forget()
            fresh = data
        self.position += len(data)
        if fresh:
            self._said += fresh
            if len(self._said) > 2 * MOST:
                self._start += len(self._said) - MOST
                del self._said[:-MOST]
            self.prints(fresh)

    def tail(self, most: int) -> bytes:
        """The last bytes it has said until now."""
        end = max(self.position - self._start, 0)
        return bytes(self._said[max(end - most, 0) : end])

    def forget(self) -> None:
        """What it said, and what was typed, after this moment did not happen; on the screen it stays."""
        at = self.position - self._start
        if at < 0:
            self._start, at = self.position, 0
        del self._said[at:]
        now = self._now()
        self._typed = [entry for entry in self._typed if entry[0] < now]

    # --- what is typed -------------------------------------------------------------------------------------------------
    def _input(self, data: bytes) -> int:
        assert self._receive is not None
        if self._is_past():
            self._refused = True
            return 0
        taken = self._receive(data)
        if taken:
            self._typed.append((self._now(), data[:taken]))
            del self._typed[:-_TYPED]
        return taken

    def replay(self) -> None:
        """Types what was typed behind this exit, to a device that was put back to it."""
        if self._receive is not None:
            now = self._now()
            for at, data in self._typed:
                if at == now:
                    self._receive(data)

    def offer(self) -> None:
        """The present has come again: the keyboard need not wait."""
        if self._refused and not self._is_past() and self.device.on_room is not None:
            self._refused = False
            self.device.on_room()
