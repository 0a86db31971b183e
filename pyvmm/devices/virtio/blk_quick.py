"""Reads, writes and flushes of a raw file that wait for nothing, answered in a row: nearly all that Linux asks for.

``VirtioBlk.serve`` can do all of it, with a Request for each, in up to twice the bytecodes. What is not plain is left to it untouched,
so that every rule has its one place there: this file only has to be at least as strict. Sections are those of the Virtio
specification 1.2.
"""

from __future__ import annotations

import os

from pyvmm.devices.virtio.blk_request import FLUSH, HEADER, IN, OK, OUT
from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_WRITE, FIRST, LINKED, SECOND_READ, SECOND_WRITTEN, THREE, TWO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.block.raw import RawFile
    from pyvmm.devices.virtio.blk_request import Disk
    from pyvmm.devices.virtio.blk_waits import Waits
    from pyvmm.devices.virtio.queue import VirtQueue

_linked, _two, _three, _header = LINKED.unpack_from, TWO.unpack_from, THREE.unpack_from, HEADER.unpack_from
_preadv, _NOWAIT = os.preadv, os.RWF_NOWAIT


class Quick:
    """For one queue, whose ``take_whole`` was called.

    Args:
        backend: the file itself, not what somebody has put around it.
        reads, writes, flushes: the device's; told what they took where the file system cannot say beforehand whether they would wait.

    Attributes:
        refused: the next request is a read that was tried and would have to wait. For the caller to take back.
        cached: the host has told of a read that it need not wait.
    """

    __slots__ = (
        "backend", "refused", "cached", "_queue", "_disk", "_reads", "_writes", "_flushes", "_table", "_avail", "_used", "_elements",
        "_tables",
    )  # fmt: skip

    def __init__(self, queue: VirtQueue, disk: Disk, backend: RawFile, reads: Waits, writes: Waits, flushes: Waits) -> None:
        self.backend = backend
        self.refused = self.cached = False
        self._queue, self._disk = queue, disk
        self._reads, self._writes, self._flushes = reads, writes, flushes
        self._table, self._avail, self._used, self._elements, self._tables = queue.parts()

    def answer(self, lane: Any, most: int) -> int:
        """Answers up to ``most`` requests of one kind from the front of the queue; returns how many. Nobody else may push meanwhile.

        Args:
            lane: ends after the present request once its ``stopped`` is true.
        """
        queue, disk = self._queue, self._disk
        avail, size, end = self._avail, queue.size, queue.low_end
        table, tables, low, mask = self._table, self._tables, queue.low, queue.size - 1
        last, available = queue.last_avail, avail[1]
        # As in ``pop``: chains in flight own descriptors, too
        if (available - last & 0xFFFF) + (last - queue.next_used & 0xFFFF) > size:
            return 0
        row, direction = -1, 0  # the kind of all these requests, and what the second descriptor says then
        count = done = 0
        while last != available and done < most and not lane.stopped:
            head = avail[2 + (last & mask)]
            if head >= size:
                break
            address, length, link = _linked(table, head << 4)
            if link & 0xFFFF != DESC_INDIRECT or address + length > end:
                break
            if length == 48:
                header, room, link, buffer, length, also, status, rest, ends = _three(low, address)
                if room != 16 or link != FIRST or rest != 1 or ends & 0xFFFF != DESC_WRITE:
                    break
                if header + 16 > end or buffer + length > end or status >= end or not length:
                    break
                many = None
            elif length == 32:
                header, room, link, status, rest, ends = _two(low, address)
                if room != 16 or link != FIRST or rest != 1 or ends & 0xFFFF != DESC_WRITE or header + 16 > end or status >= end:
                    break
                length = also = 0
            else:
                found = None if length & 15 or tables is None else tables.block(low[address : address + length], length >> 4)
                if found is None:
                    break
                inward, header, status, many = found
                length, also = many.length, SECOND_WRITTEN if inward else SECOND_READ
            kind, _, sector = _header(low, header)
            offset = sector << 9
            if length and ((length | offset) & disk.mask or offset + length > disk.size):
                break
            if kind != row or also != direction:
                if done:
                    break
                if kind == IN and also == SECOND_WRITTEN:
                    waits, flags = self._reads, _NOWAIT if self.backend.nowait else 0
                elif kind == OUT and also == SECOND_READ and not (disk.through or disk.readonly):  # asked after the look at the ring
                    waits, flags = self._writes, 0
                elif kind == FLUSH and not length:
                    waits, flags = self._flushes, 0
                else:
                    break
                if not flags:
                    if waits.long:
                        break
                    begun = waits.begin()
                row, direction = kind, also
                backend, elements, used = self.backend, self._elements, self._used
            try:
                if kind == OUT:
                    backend.write(offset, [low[buffer : buffer + length]] if many is None else many)
                    written = 1
                elif kind == FLUSH:
                    backend.flush()
                    written = 1
                else:
                    if many is None:
                        got = _preadv(backend.fd, (low[buffer : buffer + length],), offset, flags)
                    else:
                        got = many.preadv(backend.fd, offset, flags)
                    if got != length:
                        self.refused = bool(flags)
                        break
                    written = length + 1
            except BlockingIOError:
                self.refused = bool(flags)
                break
            except OSError:  # it comes again when the request is executed in the other way
                break
            low[status] = OK
            place = queue.next_used
            word = 1 + ((place & mask) << 1)
            elements[word] = head
            elements[word + 1] = written
            last = queue.last_avail = last + 1 & 0xFFFF
            place = queue.next_used = place + 1 & 0xFFFF  # before the driver can know and make another available
            used[1] = place
            count += length
            done += 1
        if done:
            if flags:
                self.cached = True
            else:
                waits.end(begun, count, done)
        return done
