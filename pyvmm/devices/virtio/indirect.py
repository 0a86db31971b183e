"""A long indirect table taken whole: a few operations on one large integer, where a walk makes several objects per descriptor.

A descriptor (Virtio 1.2, 2.7.5) has 128 bits, and so has the kernel's ``struct iovec``. Read as one little-endian integer, a table of n
descriptors has n lanes; what Python does to an integer, it does to all lanes at once, in C:

          127      112 111       96 95                        64 63                                              0
         +------------+------------+----------------------------+-------------------------------------------------+
  lane i |    next    |   flags    |           length           |              guest physical address             |
         +------------+------------+----------------------------+-------------------------------------------------+

    1. are they chained 0, 1, ... n-1, reading first, then writing?      table & LINKS == what such a table has there
         |    i+1     | NEXT,WRITE |             0              |                        0                        |
    2. does each end inside the memory?                    address + length + (2**127 - 1 - end) leaves bit 127 clear
         | this bit: beyond `end`                                         room        + address + length          |
    3. has each a length?                                                   length + (2**127 - 1) sets bit 127
    4. the iovec: next and flags cleared, the host address of the memory added
         |            0            |           length           |                host virtual address               |

No lane carries into the next. Address < 2**64 and length < 2**32, so (2) stays under 2**128, and (4) is done once (2) has shown that
address <= end, where host + end is an address of this process.

The driver may write to the table meanwhile: it is read once, into the integer, and all that is judged and used comes from there.
Nothing is refused here. A table that is not as plain as that gets None, and the walk (queue.py) finds out what it is: every rule
has its one place there, and this file only has to be at least as strict.
"""

from __future__ import annotations

import struct

from pyvmm.devices.virtio.queue import DESC_NEXT, DESC_WRITE, TOTAL_MAX
from pyvmm.scatter import IOV_MAX, Scatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.scatter import Views

LEAST = 8  # descriptors; with fewer the walk is as quick

_LANE = 128
_ADDRESS = (1 << 64) - 1
_LENGTH = 0xFFFF_FFFF << 64
_LINKS = 0xFFFF_FFFF << 96
_BIT_127 = 1 << 127
_KEPT = 4096  # lanes in all the shapes that are kept, 80 bytes each and as often as needed: a driver chooses the lengths of its tables


class _Shape:
    """The constants for tables of ``count`` descriptors."""

    __slots__ = ("links", "reading", "writing", "address", "length", "iovec", "room", "sign", "full", "host", "folds")

    def __init__(self, count: int, end: int, host: int) -> None:
        def lanes(value: int) -> int:
            return int.from_bytes(value.to_bytes(16, "little") * count, "little")

        def chained(readable: int) -> int:
            words = [0] * (4 * count)
            words[3::4] = [DESC_NEXT | (0 if i < readable else DESC_WRITE) | i + 1 << 16 for i in range(count)]
            words[-1] = DESC_WRITE  # it ends the chain: what its next says means nothing, and is not looked at
            return int.from_bytes(struct.pack(f"<{4 * count}I", *words), "little")

        self.links = lanes(_LINKS) ^ 0xFFFF << _LANE * count - 16  # but the last one's next
        self.reading = chained(1)  # a header, then what the device writes
        self.writing = chained(count - 1)  # all for the device to read, but a status
        self.address, self.length, self.iovec = lanes(_ADDRESS), lanes(_LENGTH), lanes(_ADDRESS | _LENGTH)
        self.room = lanes(_BIT_127 - 1 - end)
        self.sign, self.full = lanes(_BIT_127), lanes(_BIT_127 - 1)
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
        lanes = int.from_bytes(table, "little")  # the one look at memory
        links = lanes & shape.links
        reading = links == shape.reading
        if not reading and links != shape.writing:
            return None
        lengths = (lanes & shape.length) >> 64
        if (lanes & shape.address) + lengths + shape.room & shape.sign:
            return None
        if lengths + shape.full & shape.sign != shape.sign:
            return None
        iovecs = ((lanes & shape.iovec) + shape.host).to_bytes(16 * count, "little")
        for bits, mask in shape.folds:  # their sum; a lane has room for 2**96 lengths
            lengths = (lengths >> bits) + (lengths & mask)
        if lengths > TOTAL_MAX:
            return None
        every = Scatter(self._memory, self._host, iovecs, lengths)
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
