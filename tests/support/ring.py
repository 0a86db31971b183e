"""The driver's half of a split virtqueue, and the loop a device is served on, for tests.

The ring lives in real guest memory, so the device sees what a guest's driver would have written. Every helper that breaks the
rules does so by plain ``memory.write``; this half itself keeps them.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable, Sequence

from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from pyvmm.memory import GuestMemory

PAGE = 4096
Part = bytes | int  # bytes: device-readable with this content; int: device-writable of this length
Buffer = tuple[int, int, bool]  # gpa, length, device-writable


class Ring:
    """One queue as its driver has it.

    Args:
        memory: guest RAM.
        size: descriptors.
        base: where the three parts begin; ``end`` is behind them. Buffers are taken from ``buffers`` on.
        buffers, buffers_end: an area from which ``add`` takes buffers, going round.
        event_idx: whether the feature is negotiated.
        align: what the three parts are aligned to (legacy drivers: 4096).
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int = 8,
        base: int = 0x1_0000,
        buffers: int = 0x4_0000,
        buffers_end: int = 0x8_0000,
        *,
        event_idx: bool = False,
        align: int = 16,
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.desc = base
        self.avail = -(-(base + 16 * size) // align) * align
        self.used = -(-(self.avail + 6 + 2 * size) // align) * align
        self.end = self.used + 6 + 8 * size
        self._buffers = (buffers, buffers_end)
        self.clear()

    def clear(self) -> None:
        """As a driver does before it enables the queue."""
        self.memory.write(self.desc, bytes(self.end - self.desc))
        self.next_avail = 0
        self.seen_used = 0
        self.kicked = 0
        self.free = list(range(self.size))
        self.chains: dict[int, tuple[list[int], list[Buffer]]] = {}  # head -> its descriptors and buffers
        self._next_buffer = self._buffers[0]

    # --- words -------------------------------------------------------------------------------------------------------
    def word(self, gpa: int) -> int:
        return int(self.memory.unpack("<H", gpa)[0])

    def set_word(self, gpa: int, value: int) -> None:
        self.memory.write(gpa, struct.pack("<H", value & 0xFFFF))

    def set_descriptor(self, index: int, address: int, length: int, flags: int = 0, following: int = 0, table: int | None = None) -> None:
        """Writes one descriptor, of the queue's table or of another."""
        where = (self.desc if table is None else table) + 16 * index
        self.memory.write(where, struct.pack("<QIHH", address & (1 << 64) - 1, length & 0xFFFF_FFFF, flags & 0xFFFF, following & 0xFFFF))

    @property
    def avail_index(self) -> int:
        return self.word(self.avail + 2)

    @avail_index.setter
    def avail_index(self, value: int) -> None:
        self.set_word(self.avail + 2, value)

    @property
    def used_index(self) -> int:
        return self.word(self.used + 2)

    def set_no_interrupt(self, on: bool) -> None:
        self.set_word(self.avail, 1 if on else 0)

    def set_used_event(self, value: int) -> None:
        self.set_word(self.avail + 4 + 2 * self.size, value)

    @property
    def avail_event(self) -> int:
        return self.word(self.used + 4 + 8 * self.size)

    @property
    def no_notify(self) -> bool:
        return bool(self.word(self.used) & 1)

    # --- requests ----------------------------------------------------------------------------------------------------
    def buffer(self, length: int, alignment: int = 16) -> int:
        """Takes ``length`` bytes from the buffer area, round and round."""
        start, end = self._buffers
        gpa = -(-self._next_buffer // alignment) * alignment
        if gpa + length > end:
            gpa = start
        assert gpa + length <= end, "the buffer area is too small"
        self._next_buffer = gpa + length
        return gpa

    def place(self, parts: Sequence[Part]) -> list[Buffer]:
        """Buffers for parts, the readable ones filled."""
        buffers: list[Buffer] = []
        for part in parts:
            length = part if isinstance(part, int) else len(part)
            gpa = self.buffer(length)
            self.memory.write(gpa, bytes(length) if isinstance(part, int) else part)
            buffers.append((gpa, length, isinstance(part, int)))
        return buffers

    def add(self, *parts: Part, indirect: bool = False) -> int:
        """Makes a request of these parts available; returns its head. The doorbell is the caller's (``wants_kick``)."""
        return self.add_buffers(self.place(parts), indirect=indirect)

    def add_buffers(self, buffers: list[Buffer], *, indirect: bool = False) -> int:
        """Makes a request of buffers that exist already available; returns its head."""
        taken = [self.free.pop(0) for _ in range(1 if indirect else len(buffers))]
        if indirect:
            table = self.buffer(16 * len(buffers))
            self.write_chain(list(range(len(buffers))), buffers, table)
            self.set_descriptor(taken[0], table, 16 * len(buffers), DESC_INDIRECT)
        else:
            self.write_chain(taken, buffers)
        self.chains[taken[0]] = (taken, buffers)
        self.publish(taken[0])
        return taken[0]

    def write_chain(self, indices: list[int], buffers: list[Buffer], table: int | None = None) -> None:
        """Writes the descriptors of one chain."""
        for at, (gpa, length, writable) in enumerate(buffers):
            last = at == len(buffers) - 1
            flags = (DESC_WRITE if writable else 0) | (0 if last else DESC_NEXT)
            self.set_descriptor(indices[at], gpa, length, flags, 0 if last else indices[at + 1], table)

    def publish(self, head: int) -> None:
        """Puts a head into the available ring."""
        self.set_word(self.avail + 4 + 2 * (self.next_avail % self.size), head)
        self.next_avail = self.next_avail + 1 & 0xFFFF
        self.avail_index = self.next_avail

    def wants_kick(self) -> bool:
        """2.7.10: whether the device wants a doorbell for what was published since the last call."""
        old, self.kicked = self.kicked, self.next_avail
        if self.event_idx:
            return (self.next_avail - self.avail_event - 1 & 0xFFFF) < (self.next_avail - old & 0xFFFF)
        return not self.no_notify and old != self.next_avail

    def collect(self) -> list[tuple[int, int]]:
        """What the device has given back since the last call: [(head, written)]; their descriptors are free again."""
        done: list[tuple[int, int]] = []
        while self.seen_used != self.used_index:
            head, written = self.memory.unpack("<II", self.used + 4 + 8 * (self.seen_used % self.size))
            self.seen_used = self.seen_used + 1 & 0xFFFF
            assert head in self.chains, f"the device gave back {head}, which it does not have"
            taken, buffers = self.chains.pop(head)
            assert written <= sum(length for _, length, writable in buffers if writable), "used.len beyond the writable part"
            self.free += taken
            done.append((head, written))
        return done

    def written(self, buffers: list[Buffer]) -> bytes:
        """The content of the device-writable buffers, joined."""
        return b"".join(self.memory.read(gpa, length) for gpa, length, writable in buffers if writable)


class FakeLoop:
    """A loop that runs when told, on the caller's thread."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()

    def add_reader(self, fd: int, callback: Callable[[], None]) -> bool:
        self.readers[fd] = callback
        self._poll.register(fd, select.POLLIN)
        return True

    def remove_reader(self, fd: int) -> None:
        if self.readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def run_pending(self, limit: int = 1000) -> int:
        """Calls back for whatever is readable, until nothing is; returns how often. More than ``limit`` is a failure."""
        called = 0
        while ready := self._poll.poll(0):
            for fd, _ in ready:
                callback = self.readers.get(fd)
                if callback is not None:
                    callback()
                    called += 1
            assert called <= limit, "a callback leaves its descriptor readable"
        return called
