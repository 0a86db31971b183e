"""A long indirect table taken whole: a few operations on columns and large integers, where a walk makes several objects per descriptor.

A descriptor (Virtio 1.2, 2.7.5) has four columns of 32 bits, and so has the kernel's ``struct iovec``:

    +------------+------------+----------------------------+-------------------------------------------------+
    |    next    |   flags    |           length           |              guest physical address             |
    +------------+------------+----------------------------+-------------------------------------------------+
    |            0            |           length           |                host virtual address             |
    +------------+------------+----------------------------+-------------------------------------------------+

A column is an array, taken out and put back with a stride, in C. What must be computed is done to all addresses at once: a column of
64-bit words, read as one little-endian integer, has a lane for each descriptor.

    1. are they chained 0, 1, ... n-1, reading first, then writing?      next and flags == the column such a table has there
    2. does each end inside the memory?                    address + length + (2**63 - 1 - end) leaves bit 63 clear
    3. has each a length?                                                   length + (2**63 - 1) sets bit 63
    4. the iovec: the host address of the memory is added

No lane carries into the next. Addresses from 2**48 on are refused first, so (2) stays under 2**64, and (4) is done once (2) has shown that
address <= end, where host + end is an address of this process. The usual request for a mebibyte is a header, pages and a status:
one comparison answers (1) and (3), and its sum is known.

The driver may write to the table meanwhile: it is copied once, and all that is judged and used comes from there.
Nothing is refused here. A table that is not as plain as that gets None, and the walk (queue.py) finds out what it is: every rule
has its one place there, and this file only has to be at least as strict.
"""

from __future__ import annotations

from array import array

from pyvmm.devices.virtio.queue import DESC_NEXT, DESC_WRITE, TOTAL_MAX
from pyvmm.layout import PAGE
from pyvmm.scatter import IOV_MAX, Scatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.scatter import Views

LEAST = 8  # descriptors; with fewer the walk is as quick

_LANE = 64
_LENGTH = 0xFFFF_FFFF
_NEXT_UNSEEN = (1 << 48) - 1  # of flags and length with a next above them
_BIT_63 = 1 << 63
_HEADER, _STATUS = 16, 1  # bytes; of the usual block request (5.2.6)
_KEPT = 4096  # lanes in all the shapes that are kept, 100 bytes each and as often as needed: a driver chooses the lengths of its tables


class _Shape:
    """The constants for tables of ``count`` descriptors."""

    __slots__ = (
        "reading", "writing", "usual_reading", "usual_writing", "usual_lengths", "usual_total", "usual_room",
        "zeros", "length", "room", "sign", "full", "host", "folds",
    )  # fmt: skip

    def __init__(self, count: int, end: int, host: int) -> None:
        def lanes(value: int) -> int:
            return int.from_bytes(value.to_bytes(8, "little") * count, "little")

        def chained(readable: int) -> array[int]:
            words = [DESC_NEXT | (0 if i < readable else DESC_WRITE) | i + 1 << 16 for i in range(count)]
            words[-1] = DESC_WRITE  # it ends the chain: what its next says means nothing, and is not looked at
            return array("I", words)

        self.reading = chained(1)  # a header, then what the device writes
        self.writing = chained(count - 1)  # all for the device to read, but a status
        lengths = [_HEADER, *[PAGE] * (count - 2), _STATUS]
        self.usual_reading, self.usual_writing = (
            array("Q", (link << 32 | length for link, length in zip(links, lengths, strict=True))) for links in (self.reading, self.writing)
        )
        self.usual_lengths = array("Q", lengths)
        self.usual_total = sum(lengths)
        self.zeros = bytes(count)
        self.length = lanes(_LENGTH)
        self.room = lanes(_BIT_63 - 1 - end)
        self.usual_room = self.room + int.from_bytes(self.usual_lengths, "little")
        self.sign, self.full = lanes(_BIT_63), lanes(_BIT_63 - 1)
        self.host = lanes(host)
        self.folds: list[tuple[int, int]] = []  # (bits, mask) that halve the number of lanes until one is left
        while count > 1:
            count = count + 1 >> 1
            bits = _LANE * count
            self.folds.append((bits, (1 << bits) - 1))


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

    def take(self, table: memoryview, count: int) -> tuple[Views, Views, int, int] | None:
        """What a table of ``count`` descriptors says: readable buffers and writable ones, and the bytes in each.

        Of the two one is a Scatter and one a list with one view. None: it is not a plain one, walk it.
        """
        if not LEAST <= count <= IOV_MAX:
            return None
        shape = self._shapes.get(count) or self._shape(count)
        data = bytes(table)  # the one look at memory
        if data[6::16] != shape.zeros or data[7::16] != shape.zeros:
            return None  # from 2**48 on
        quads = array("Q", data)
        addresses = int.from_bytes(quads[::2], "little")
        others = quads[1::2]
        others[-1] &= _NEXT_UNSEEN
        reading = others == shape.usual_reading
        if reading or others == shape.usual_writing:
            if addresses + shape.usual_room & shape.sign:
                return None
            column, total = shape.usual_lengths, shape.usual_total
        else:
            links = array("I", others.tobytes())[1::2]
            reading = links == shape.reading
            if not reading and links != shape.writing:
                return None
            lengths = int.from_bytes(others, "little") & shape.length
            if addresses + lengths + shape.room & shape.sign:
                return None
            if lengths + shape.full & shape.sign != shape.sign:
                return None
            column, total = array("Q", lengths.to_bytes(8 * count, "little")), lengths
            for bits, mask in shape.folds:  # their sum; a lane has room for 2**32 lengths
                total = (total >> bits) + (total & mask)
            if total > TOTAL_MAX:
                return None
        quads[::2] = array("Q", (addresses + shape.host).to_bytes(8 * count, "little"))
        quads[1::2] = column
        every = Scatter(self._memory, self._host, quads.tobytes(), total)
        alone = every.pop(0 if reading else -1)
        if reading:
            return [alone], every, len(alone), every.length
        return every, [alone], every.length, len(alone)

    def _shape(self, count: int) -> _Shape:
        if self._kept + count > _KEPT:
            self._shapes.clear()
            self._kept = 0
        self._kept += count
        shape = self._shapes[count] = _Shape(count, len(self._memory), self._host)
        return shape
