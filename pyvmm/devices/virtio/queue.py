"""The device's half of a split virtqueue. Sections are those of the Virtio specification 1.2.

Everything here is in memory that a hostile driver may change at any moment, so each word is read once into a local and judged
there; the work for one chain is bounded by the size of its table. What the specification forbids raises QueueError, which the
core turns into DEVICE_NEEDS_RESET. A buffer outside RAM is no fault of the ring: the chain comes back marked ``faulty``, so
that a device with a status byte can fail the one request.

Ring indices go through memoryviews cast to native 16-bit words: one load or store each, never torn. x86 keeps stores in order
and loads in order (TSO); the one barrier needed is between a store and a later load (2.7.7.2, 2.7.10.1), and a locked
instruction is one: taking and giving back a lock that nobody else wants.
"""

from __future__ import annotations

import struct

from pyvmm.errors import GuestFault
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.virtio.indirect import Tables
    from pyvmm.memory import GuestMemory
    from pyvmm.scatter import Views

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4  # 2.7.5
AVAIL_NO_INTERRUPT = 1  # 2.7.6
USED_NO_NOTIFY = 1  # 2.7.8
SIZE_MAX = 32768  # 2.7
INDIRECT_MAX = 1024  # descriptors in an indirect chain when the queue is smaller: drivers exceed small queues (QEMU takes as many)

_DESC = struct.Struct("<QIHH")
LINKED = struct.Struct("<QII")  # flags and next taken together
TWO, THREE = struct.Struct("<QIIQII"), struct.Struct("<QIIQIIQII")
FIRST, SECOND_READ, SECOND_WRITTEN = DESC_NEXT | 1 << 16, DESC_NEXT | 2 << 16, DESC_NEXT | DESC_WRITE | 2 << 16
TOTAL_MAX = 1 << 32  # bytes in one chain (2.7.5.2)
Three = tuple[int, int, int, int, int, bool, int, int]  # head; address and length of each buffer, after the second's: writable


class QueueError(Exception):
    """The driver broke the ring; the message is one line. The device needs a reset."""


class Chain:
    """One request: the buffers of a descriptor chain, as views of guest RAM.

    Attributes:
        head: what ``push`` wants back.
        readable, writable: views in the order of the chain; none is empty, buffers of length 0 leave no trace. Lists, or a
            Scatter if the device has asked for it (``VirtQueue.take_whole``).
        readable_length, writable_length: bytes in these views.
        faulty: "" or, in words, which buffer lies outside RAM; its view is left out. Such a chain must not be executed:
            the device fails the request if it can still say so, and else raises ``QueueError(chain.faulty)``.
        status_lost: the last device-writable byte is one that lies outside RAM, so ``writable[-1][-1]`` is not it.
    """

    __slots__ = ("head", "readable", "writable", "readable_length", "writable_length", "faulty", "status_lost")

    def __init__(
        self,
        head: int,
        readable: Views,
        writable: Views,
        readable_length: int,
        writable_length: int,
        faulty: str = "",
        status_lost: bool = False,
    ) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable
        self.readable_length = readable_length
        self.writable_length = writable_length
        self.faulty = faulty
        self.status_lost = status_lost


class VirtQueue:
    """A ring that the driver has enabled. One thread at a time pops; pushing threads take ``lock``, if there are several.

    Args:
        memory: guest RAM. Only views are kept, so the memory may be closed at any time.
        size: number of descriptors, a power of two up to 32768.
        desc, avail, used: guest physical addresses of the three parts.
        event_idx, indirect: whether these features were negotiated.
        last_avail, next_used: where to go on (snapshots); 0 for a new ring.

    Attributes:
        low: the memory from guest address 0 on, nearly all of it; ``low_end`` is where buffers must end to be taken from there.
        lock: for the device: held around ``push`` and ``should_signal`` where completions come from several threads.

    Raises:
        QueueError: a part is misaligned or not wholly in RAM, or the size is impossible.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        desc: int,
        avail: int,
        used: int,
        *,
        event_idx: bool,
        indirect: bool,
        last_avail: int = 0,
        next_used: int = 0,
    ) -> None:
        if not 0 < size <= SIZE_MAX or size & (size - 1):
            raise QueueError(f"queue size {size} is not a power of two up to {SIZE_MAX}")
        self.size = size
        self.last_avail = last_avail
        self.next_used = next_used
        self.lock = Lock()
        self._memory = memory
        self._event_idx = event_idx
        self._indirect = indirect
        event = 2 if event_idx else 0  # 2.7.6, 2.7.8: without the feature nobody looks at the last two bytes
        self._table = self._ring("descriptor table", desc, 16 * size, 16)
        self._avail = self._ring("available ring", avail, 4 + 2 * size + event, 2).cast("H")
        whole = self._ring("used ring", used, 4 + 8 * size + event, 4)
        self._used = whole.cast("H")
        self._elements = whole[: 4 + 8 * size].cast("I")  # element i at words 1 + 2i (id) and 2 + 2i (length)
        self._signalled = next_used
        self._mask = size - 1
        self._fence = Lock()
        low = memory.regions[0]  # nearly all buffers; the rest goes through memory.view
        self.low = low.view[:] if low.gpa == 0 else memoryview(b"")
        self._low_host = low.host_address
        self._tables: Tables | None = None
        self.track(memory.tracked)

    def take_whole(self) -> bool:
        """For a device that takes a Scatter where lists of views come else: tables are not walked any more if they are plain.

        Returns:
            False: they are walked, as the driver or the C library wants it.
        """
        from pyvmm import scatter
        from pyvmm.devices.virtio.indirect import Tables

        if self._indirect and scatter.supported():
            self._tables = Tables(self.low, self._low_host)
        return self._tables is not None

    def parts(self) -> tuple[memoryview, memoryview, memoryview, memoryview, Tables | None]:
        """For a device that needs no Chain for what is plain: the descriptor table in bytes, the available ring and the used ring in words
        of 16 bits, the used ring in words of 32, with element i at 1 + 2i (id) and 2 + 2i (length); what takes long tables."""
        return self._table, self._avail, self._used, self._elements, self._tables

    def track(self, on: bool) -> None:
        """Whether memory keeps a record of what is written: every buffer comes from ``memory.view`` then. Not during ``pop``."""
        self.low_end = 0 if on else len(self.low)

    def _ring(self, what: str, gpa: int, length: int, alignment: int) -> memoryview:
        if gpa % alignment:
            raise QueueError(f"{what} at {gpa:#x} is not aligned to {alignment}")
        try:
            return self._memory.view(gpa, length)
        except GuestFault:
            raise QueueError(f"{what} at {gpa:#x}+{length:#x} is not inside guest RAM") from None

    # --- available ring ----------------------------------------------------------------------------------------------
    def pop(self) -> Chain | None:
        """The next request, or None when the driver has made no more available.

        Raises:
            QueueError: the available ring or this chain breaks the rules; the queue does not move on.
        """
        available = self._avail[1]
        last = self.last_avail
        if available == last:
            return None
        # Chains that are in flight still own a descriptor each, so both together cannot be more than there are (2.7.13.1).
        if (available - last & 0xFFFF) + (last - self.next_used & 0xFFFF) > self.size:
            raise QueueError(f"available index {available} after {last}, with {last - self.next_used & 0xFFFF} of {self.size} in flight")
        head = self._avail[2 + (last & self._mask)]
        chain = (self._tables is not None and self._whole(head)) or self._walked(head)
        self.last_avail = last + 1 & 0xFFFF
        return chain

    def _whole(self, head: int) -> Chain | None:
        """A chain that is one long table of a plain kind, without a walk. None: find out by walking what it is; nothing is refused here."""
        if head >= self.size:
            return None
        address, length, flags, _ = _DESC.unpack_from(self._table, head << 4)
        if flags != DESC_INDIRECT or length & 15 or address + length > self.low_end:
            return None
        assert self._tables is not None
        taken = self._tables.take(self.low[address : address + length], length >> 4)
        return None if taken is None else Chain(head, *taken)

    def three(self) -> Three | None:
        """What comes next, if it is one table of three buffers in ``low``, the first to read, the last to write: most requests of a disk.

        Or of two: the one in the middle has length 0 then. Only after ``take_whole``. The queue does not move on: add 1 to ``last_avail``
        to take it, or ``pop``. None: ``pop`` tells. That they are not too long in all (2.7.5.2) is for the caller to see.
        """
        avail, size = self._avail, self.size
        available, last = avail[1], self.last_avail
        if available == last or (available - last & 0xFFFF) + (last - self.next_used & 0xFFFF) > size or self._tables is None:
            return None
        head = avail[2 + (last & self._mask)]
        if head >= size:
            return None
        address, length, link = LINKED.unpack_from(self._table, head << 4)
        end = self.low_end
        if link & 0xFFFF != DESC_INDIRECT or address + length > end:
            return None
        if length == 48:
            first, before, link, second, length, also, third, behind, ends = THREE.unpack_from(self.low, address)
            if also != SECOND_WRITTEN and also != SECOND_READ or not length or second + length > end:
                return None
        elif length == 32:
            first, before, link, third, behind, ends = TWO.unpack_from(self.low, address)
            second = length = also = 0
        else:
            return None
        if link != FIRST or ends & 0xFFFF != DESC_WRITE or not (before and behind) or first + before > end or third + behind > end:
            return None
        return head, first, before, second, length, also == SECOND_WRITTEN, third, behind

    def buffers(self, total: int, most: int) -> list[tuple[int, int, int]] | None:
        """(head, address, length) of what comes next, as far as ``total`` bytes need: one device-writable buffer in ``low`` each.

        The queue does not move on: add their number to ``last_avail`` to take them. None: they are of another kind, too few, or more
        than ``most``; ``pop`` tells.
        """
        avail, table, unpack = self._avail, self._table, _DESC.unpack_from
        size, mask, low_end, last = self.size, self._mask, self.low_end, self.last_avail
        left = avail[1] - last & 0xFFFF
        if left + (last - self.next_used & 0xFFFF) > size:
            return None
        if left > most:
            left = most
        found = []
        while total > 0:
            head = avail[2 + (last & mask)]
            if not left or head >= size:
                return None
            address, length, flags, _ = unpack(table, head << 4)
            if flags != DESC_WRITE or not length or address + length > low_end:
                return None
            found.append((head, address, length))
            total -= length
            last += 1
            left -= 1
        return found

    def _walked(self, head: int) -> Chain:
        index = head
        size = self.size
        table = self._table
        if head < size:  # one buffer, as most of a network card's are; anything else is read again and walked
            address, length, flags, _ = _DESC.unpack_from(table, head << 4)
            end = address + length
            if not flags & ~DESC_WRITE and length and end <= self.low_end:
                views = [self.low[address:end]]
                return Chain(head, [], views, 0, length) if flags else Chain(head, views, [], length, 0)
        entries = left = size
        low = self.low
        low_end = self.low_end
        unpack = _DESC.unpack_from
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        readable_length = writable_length = 0
        seen_writable = False
        faulty = ""
        lost = -1  # how many writable views there were at the last one outside RAM
        while True:
            if index >= entries:
                raise QueueError(f"descriptor {index} of a table of {entries}, in chain {head}")
            if not left:
                raise QueueError(f"chain {head} has a loop, or more descriptors than allowed")
            left -= 1
            address, length, flags, following = unpack(table, index << 4)
            if flags & DESC_INDIRECT:
                if table is not self._table:
                    raise QueueError(f"nested indirect descriptor in chain {head}")
                table = self._indirect_table(address, length, flags)
                entries = length >> 4
                left = min(entries, max(size, INDIRECT_MAX))
                index = 0
                continue
            if flags & DESC_WRITE:
                seen_writable = True
                if length:
                    end = address + length
                    view = low[address:end] if end <= low_end else self._far(address, length)
                    if view is None:
                        faulty = f"buffer {address:#x}+{length:#x} is not inside guest RAM"
                        lost = len(writable)
                    else:
                        writable.append(view)
                        writable_length += length
            else:
                if seen_writable:
                    raise QueueError(f"device-readable descriptor after a device-writable one, in chain {head}")
                if length:
                    end = address + length
                    view = low[address:end] if end <= low_end else self._far(address, length)
                    if view is None:
                        faulty = f"buffer {address:#x}+{length:#x} is not inside guest RAM"
                    else:
                        readable.append(view)
                        readable_length += length
            if not flags & DESC_NEXT:
                break
            index = following
        if readable_length + writable_length > TOTAL_MAX:
            raise QueueError(f"chain {head} is longer than 4 GiB")
        return Chain(head, readable, writable, readable_length, writable_length, faulty, lost == len(writable))

    def put_back(self, count: int) -> None:
        """Undoes the last ``count`` calls of ``pop``: the same chains come again. Nothing of them may have been pushed."""
        self.last_avail = self.last_avail - count & 0xFFFF

    def walk(self, head: int) -> list[tuple[int, int, int]]:
        """Address, length and flags of a chain's descriptors as they are now, tables of indirect ones included; for tracers."""
        found: list[tuple[int, int, int]] = []
        table, index = self._table, head
        while index < len(table) >> 4 and len(found) < self.size + INDIRECT_MAX:
            address, length, flags, following = _DESC.unpack_from(table, index << 4)
            found.append((address, length, flags))
            if flags & DESC_INDIRECT and table is self._table:
                try:
                    table, index = self._indirect_table(address, length, flags), 0
                except QueueError:
                    break
            elif flags & DESC_NEXT:
                index = following
            else:
                break
        return found

    def _indirect_table(self, address: int, length: int, flags: int) -> memoryview:
        """2.7.5.3: the table a descriptor points to. Its own WRITE flag means nothing."""
        if not self._indirect:
            raise QueueError("indirect descriptor without VIRTIO_F_INDIRECT_DESC")
        if flags & DESC_NEXT:
            raise QueueError("indirect descriptor with NEXT")
        if not length or length & 15 or length > 65536 << 4:
            raise QueueError(f"indirect table of {length} bytes")
        end = address + length
        table = self.low[address:end] if end <= self.low_end else self._far(address, length)
        if table is None:
            raise QueueError(f"indirect table at {address:#x}+{length:#x} is not inside guest RAM")
        return table

    def _far(self, address: int, length: int) -> memoryview | None:
        try:
            return self._memory.view(address, length)
        except GuestFault:
            return None

    def disable_kicks(self) -> None:
        """Asks for no doorbells while the device looks at the ring anyway; a hint (2.7.10)."""
        if not self._event_idx:  # with it the driver rings once and then waits for avail_event to move
            self._used[0] = USED_NO_NOTIFY

    def enable_kicks(self) -> bool:
        """Asks for a doorbell with the next request.

        Returns:
            True: more is waiting that may have come without one, go on popping.
        """
        if self._event_idx:
            self._used[2 + 4 * self.size] = self.last_avail
        else:
            self._used[0] = 0
        with self._fence:
            pass
        return bool(self._avail[1] != self.last_avail)

    # --- used ring ---------------------------------------------------------------------------------------------------
    def push(self, head: int, written: int) -> None:
        """Gives a chain back, visible to the driver at once. ``written``: bytes from the start of its writable part."""
        used = self.next_used
        word = 1 + ((used & self._mask) << 1)
        self._elements[word] = head
        self._elements[word + 1] = written & 0xFFFF_FFFF
        used = used + 1 & 0xFFFF
        self.next_used = used  # before the driver can know and make another available: see pop
        self._used[1] = used

    def push_together(self, parts: list[tuple[int, int]]) -> None:
        """Gives several chains back, [(head, written)], of which the driver sees none before it sees all."""
        used = self.next_used
        for head, written in parts:
            word = 1 + ((used & self._mask) << 1)
            self._elements[word] = head
            self._elements[word + 1] = written
            used = used + 1 & 0xFFFF
        self.next_used = used
        self._used[1] = used

    def should_signal(self) -> bool:
        """Whether the driver wants an interrupt for what was pushed since the last call (2.7.7.2)."""
        new = self.next_used
        old, self._signalled = self._signalled, new
        if new == old:
            return False
        with self._fence:
            pass
        if self._event_idx:
            return bool((new - self._avail[2 + self.size] - 1 & 0xFFFF) < (new - old & 0xFFFF))
        return not self._avail[0] & AVAIL_NO_INTERRUPT
