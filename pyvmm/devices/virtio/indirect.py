"""A long indirect table taken whole: a few operations on columns and large integers, where a walk makes several objects per descriptor.

A descriptor (Virtio 1.2, 2.7.5) has four columns of 32 bits, and so has the kernel's ``struct iovec``:

    +------------+------------+----------------------------+-------------------------------------------------+
    |    next    |   flags    |           length           |              guest physical address             |
    +------------+------------+----------------------------+-------------------------------------------------+
    |            0            |           length           |                host virtual address             |
    +------------+------------+----------------------------+-------------------------------------------------+

A column is taken out and put back with a stride, in C:

    1. are they chained 0, 1, ... n-1, reading first, then writing?      next and flags == the column such a table has there
    2. has each a length, and what is their sum?                      known beforehand for the usual request: header, pages, status
    3. does each end inside the memory, and where is it for the host?

GuestMemory begins at a multiple of 16 MiB. So the lower three bytes of an address stay as they are, and the others depend on the fourth
alone: columns of bytes, translated (``_moved``). What is near the end of memory, or long, is computed instead, for all addresses at
once: a column of 64-bit words, read as one little-endian integer, has a lane for each descriptor (``_computed``).

    address + length + (2**63 - 1 - end) leaves bit 63 clear where it ends inside; the iovec is address + host

No lane carries into the next: addresses from 2**48 on are refused first, so that sums stay under 2**64.

The driver may write to the table meanwhile: it is copied once, and all that is judged and used comes from there.
Nothing is refused here. A table that is not as plain as that gets None, and the walk (queue.py) finds out what it is: every rule
has its one place there, and this file only has to be at least as strict.
"""

from __future__ import annotations

from array import array

from pyvmm.devices.virtio.queue import DESC_NEXT, DESC_WRITE, TOTAL_MAX
from pyvmm.layout import PAGE
from pyvmm.scatter import IOV_MAX, IOVEC, Scatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.scatter import Views

LEAST = 8  # descriptors; with fewer the walk is as quick

_LENGTH = 0xFFFF_FFFF
_NEXT_UNSEEN = (1 << 48) - 1  # of flags and length with a next above them
_BIT_63 = 1 << 63
_ADDRESS = (1 << 64) - 1
_TOP = 24  # lowest bit of an address' fourth byte
_HEADER, _STATUS = 16, 1  # bytes; of the usual block request (5.2.6)
_KEPT = 4096  # lanes in all the shapes that are kept, 100 bytes each and as often as needed: a driver chooses the lengths of its tables


class _Shape:
    """The constants for tables of ``count`` descriptors. Drivers use many counts, so this is made of slices."""

    __slots__ = ("reading", "writing", "usual_reading", "usual_writing", "usual_total", "zeros", "lanes", "last", "block")

    def __init__(self, count: int) -> None:
        if not _links:
            _links[:] = [array("I", (DESC_NEXT | flags | i + 1 << 16 for i in range(IOV_MAX))) for flags in (0, DESC_WRITE)]
        self.writing = _links[0][:count]  # all for the device to read, but a status
        self.reading = _links[1][:count]  # a header, then what the device writes
        self.reading[0] = _links[0][0]
        self.reading[-1] = self.writing[-1] = DESC_WRITE  # it ends the chain: what its next says means nothing, and is not looked at
        words = array("I", (PAGE,)) * (2 * count)
        words[0], words[-2] = _HEADER, _STATUS
        words[1::2] = self.reading
        self.usual_reading = array("Q", words.tobytes())
        words[1::2] = self.writing
        self.usual_writing = array("Q", words.tobytes())
        self.usual_total = _HEADER + PAGE * (count - 2) + _STATUS
        self.zeros = bytes(count)
        self.last = b""  # the table that ``block`` saw last, and what it found
        self.block: Block | None = None
        self.lanes: tuple[int, int, int, int] | None = None  # of a length's bits, the room, the sign, the host address: when needed

    def computed(self, end: int, host: int) -> tuple[int, int, int, int]:
        """``lanes``, for a memory that ends there and begins at that host address."""
        count = len(self.zeros)
        length, room, sign, base = (
            int.from_bytes(value.to_bytes(8, "little") * count, "little") for value in (_LENGTH, _BIT_63 - 1 - end, _BIT_63, host)
        )
        self.lanes = length, room, sign, base
        return self.lanes


_links: list[array[int]] = []  # flags and next of descriptors that go on with the one behind them, to read and to write


Block = tuple[bool, int, int, Scatter]
"""Whether the device writes the data; guest addresses of header and status; the data, not to be changed."""


class Tables:
    """Takes tables whose buffers all are in one memory.

    Args:
        memory: guest RAM from guest address 0 on.
        host: host address of its first byte.
    """

    def __init__(self, memory: memoryview, host: int) -> None:
        self._memory = memory
        self._host = host
        self._shapes: dict[int, _Shape] = {}
        self._kept = 0
        self._moves: list[tuple[int, bytes]] = []  # byte of an address, and what becomes of it by the fourth; none: to be computed
        tops = len(memory) >> _TOP
        if tops and not host & (1 << _TOP) - 1:
            columns = zip(*((host + (top << _TOP) & _ADDRESS).to_bytes(8, "little") for top in range(256)), strict=True)
            self._moves = [(at, bytes(column)) for at, column in enumerate(columns) if at >= 3 and any(column)]
            self._inside = bytes(range(min(tops, 256) - 1))  # fourth bytes of addresses with 16 MiB and more behind them
            self._last = bytes((min(tops, 256) - 1,))

    def take(self, table: memoryview, count: int) -> tuple[Views, Views, int, int] | None:
        """What a table of ``count`` descriptors says: readable buffers and writable ones, and the bytes in each.

        Of the two one is a Scatter and one a list with one view. None: it is not a plain one, walk it.
        """
        if not LEAST <= count <= IOV_MAX:
            return None
        judged = self._judged(bytes(table), self._shapes.get(count) or self._shape(count))
        if judged is None:
            return None
        iovecs, total, reading = judged
        every = Scatter(self._memory, self._host, iovecs, total)
        alone = every.pop(0 if reading else -1)
        if reading:
            return [alone], every, len(alone), every.length
        return every, [alone], every.length, len(alone)

    def block(self, table: memoryview, count: int) -> Block | None:
        """A block request (5.2.6) with header and status in buffers of their own. None: it is not such a one, or no plain table.

        Programs that pass by the page cache mostly have one buffer, which they fill again and again: the same table as the last
        of this length says the same.
        """
        if not LEAST <= count <= IOV_MAX:
            return None
        shape = self._shapes.get(count) or self._shape(count)
        data = bytes(table)  # the one look at memory
        if data == shape.last:
            return shape.block
        judged = self._judged(data, shape)
        if judged is None:
            return None
        iovecs, total, reading = judged
        (header, size), (status, rest) = IOVEC.unpack_from(iovecs), IOVEC.unpack_from(iovecs, len(iovecs) - 16)
        if size != _HEADER or rest != _STATUS:
            return None
        buffers = Scatter(self._memory, self._host, iovecs[16:-16], total - _HEADER - _STATUS)
        shape.last, shape.block = data, (reading, header - self._host, status - self._host, buffers)
        return shape.block

    def _judged(self, data: bytes, shape: _Shape) -> tuple[bytes, int, bool] | None:
        """Iovecs of all buffers, their bytes, whether the device writes all but the first. None: the table is not plain."""
        others = array("Q", data)[1::2]
        others[-1] &= _NEXT_UNSEEN
        reading = others == shape.usual_reading
        if reading or others == shape.usual_writing:
            total = shape.usual_total
        else:
            words = array("I", others.tobytes())
            links = words[1::2]
            reading = links == shape.reading
            if not reading and links != shape.writing:
                return None
            lengths = words[::2].tolist()
            total = sum(lengths)
            if total > TOTAL_MAX or not all(lengths):
                return None
        iovecs = (self._moved(data, shape) if self._moves else None) or self._computed(data, shape)
        return None if iovecs is None else (iovecs, total, reading)

    def _moved(self, data: bytes, shape: _Shape) -> bytes | None:
        """The iovecs, if no buffer is of 16 MiB or may reach behind the memory; else None: compute them."""
        zeros = shape.zeros
        if not data[4::16] == data[5::16] == data[6::16] == data[7::16] == data[11::16] == zeros:
            return None
        tops = data[3::16]
        rest = tops.translate(None, self._inside)
        if rest:  # of less than 64 KiB they may begin in the last 16 MiB, but not in the last 64 KiB of these
            if rest.translate(None, self._last) or data[10::16] != zeros:
                return None
            if b"\xff" + self._last in array("H", data)[1::8].tobytes():
                return None
        iovecs = bytearray(data)
        for at, column in self._moves:
            iovecs[at::16] = tops.translate(column)
        for at in (12, 13, 14, 15):
            iovecs[at::16] = zeros
        return bytes(iovecs)

    def _computed(self, data: bytes, shape: _Shape) -> bytes | None:
        """The iovecs of any table. None: a buffer is not inside."""
        if data[6::16] != shape.zeros or data[7::16] != shape.zeros:
            return None  # from 2**48 on
        quads = array("Q", data)
        length, room, sign, host = shape.lanes or shape.computed(len(self._memory), self._host)
        addresses = int.from_bytes(quads[::2], "little")
        lengths = int.from_bytes(quads[1::2], "little") & length
        if addresses + lengths + room & sign:
            return None
        size = len(data) >> 1
        quads[::2] = array("Q", (addresses + host).to_bytes(size, "little"))
        quads[1::2] = array("Q", lengths.to_bytes(size, "little"))
        return quads.tobytes()

    def _shape(self, count: int) -> _Shape:
        if self._kept + count > _KEPT:
            self._shapes.clear()
            self._kept = 0
        self._kept += count
        shape = self._shapes[count] = _Shape(count)
        return shape
