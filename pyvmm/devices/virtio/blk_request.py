"""What a block request says: header, status byte and data out of a descriptor chain, and whether the disk can do it at all.

Nothing is executed here. A driver may cut header, data and status into buffers however it likes (Virtio 1.2, 2.7.4.1 and
5.2.6.4), so only the order of bytes counts; the usual cut (16-byte header, data, 1-byte status) takes the short way.
"""

from __future__ import annotations

from struct import Struct

from pyvmm.devices.virtio.queue import QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.virtio.queue import Chain, VirtQueue
    from pyvmm.scatter import Views

# 5.2.6: request types and status
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
DONE = -1  # our own: nothing to execute, the answer is known
OK, IOERR, UNSUPP = 0, 1, 2
NAMES = {IN: "read", OUT: "write", FLUSH: "flush", DISCARD: "discard", WRITE_ZEROES: "write zeroes"}

SECTOR = 512  # the unit of all positions, whatever the block size (5.2.4)
ID_LENGTH = 20
UNMAP = 1  # segment flag
HEADER = Struct("<IIQ")  # type, reserved, sector
_SEGMENT = Struct("<QII")  # sector, number of sectors, flags
_unpack_header, _unpack_header_from = HEADER.unpack, HEADER.unpack_from


class Disk:
    """What requests are judged by.

    Attributes:
        size: bytes.
        mask: block size - 1; requests begin and end on blocks.
        readonly: writes are refused.
        discard, write_zeroes: whether the driver may use these requests.
        discard_sectors, discard_segments, write_zeroes_sectors, write_zeroes_segments: limits per segment, segments per request.
        may_unmap: whether zeroing may also free the space.
        through: each write is flushed before it is acknowledged.
    """

    __slots__ = (
        "size", "mask", "readonly", "through", "discard", "write_zeroes", "may_unmap",
        "discard_sectors", "discard_segments", "write_zeroes_sectors", "write_zeroes_segments",
    )  # fmt: skip

    def __init__(self, size: int, block_size: int = SECTOR, readonly: bool = False) -> None:
        self.size = size
        self.mask = block_size - 1
        self.readonly = readonly
        self.through = False
        self.discard = self.write_zeroes = self.may_unmap = False
        self.discard_sectors = self.write_zeroes_sectors = 0
        self.discard_segments = self.write_zeroes_segments = 0


class Request:
    """One request.

    Attributes:
        head: for ``VirtQueue.push``.
        kind: what to execute, or DONE.
        offset: bytes, of IN and OUT.
        length: bytes of data in ``views``.
        views: the data in guest memory, none of it empty.
        status: one writable byte.
        verdict: what ``status`` gets when all goes well, or at once if ``kind`` is DONE.
        written: used length when all goes well: bytes from the start of the writable part without a gap (2.7.8.2).
        failed: used length when it does not: the status byte alone, if nothing comes before it.
        segments: of DISCARD and WRITE_ZEROES: [(offset, length, unmap)] in bytes.
    """

    __slots__ = ("head", "kind", "offset", "length", "views", "status", "verdict", "written", "failed", "segments")

    def __init__(self, head: int, status: memoryview, room: int) -> None:
        self.head = head
        self.kind = DONE
        self.offset = self.length = 0
        self.views: Views = []
        self.status = status
        self.verdict = OK
        self.written = self.failed = 0 if room else 1
        self.segments: list[tuple[int, int, bool]] = []


def usual(queue: VirtQueue, disk: Disk) -> Request | None:
    """Takes the next request if it is as most are: header, one buffer or for a flush none, status, in one table. Half the long way's price.

    None: ``pop`` and ``parse`` tell what there is. Nothing is refused here, so that every rule has its one place.
    """
    found = queue.three()
    if found is None:
        return None
    head, header, size, address, length, reading, status, rest = found
    if size != 16 or rest != 1:
        return None
    low = queue.low
    kind, _, sector = _unpack_header_from(low, header)
    offset = sector << 9
    if not length:
        if kind != FLUSH:
            return None
        queue.last_avail = queue.last_avail + 1 & 0xFFFF
        request = Request(head, low[status : status + 1], 0)
        request.kind = FLUSH
        return request
    if kind != (IN if reading else OUT) or (length | offset) & disk.mask or offset + length > disk.size or not reading and disk.readonly:
        return None
    queue.last_avail = queue.last_avail + 1 & 0xFFFF
    request = Request(head, low[status : status + 1], reading)
    request.kind = kind
    request.offset = offset
    request.length = length
    request.views = [low[address : address + length]]
    if reading:
        request.written = length + 1
    return request


def parse(chain: Chain, disk: Disk) -> Request:
    """The request in ``chain``, judged.

    Raises:
        QueueError: it has no room for a status, or no whole header: the driver cannot be answered.
    """
    writable = chain.writable
    if not writable or chain.status_lost:
        raise QueueError(chain.faulty or "a block request without a status byte")
    readable = chain.readable
    status = writable.pop()
    room = chain.writable_length - 1
    if len(status) > 1:  # merged with the data before it
        writable = [*writable, status[:-1]]
        status = status[-1:]
    request = Request(chain.head, status, room)
    if chain.faulty:
        request.verdict = IOERR
        return request
    if readable and len(readable[0]) == 16:
        kind, _, sector = _unpack_header(readable.pop(0))
    else:
        readable = list(readable)
        kind, _, sector = _unpack_header(_take(readable, 16))
    if kind == IN:
        offset = sector << 9
        if (room | offset) & disk.mask or offset + room > disk.size:
            request.verdict = IOERR
            return request
        request.kind = IN
        request.offset = offset
        request.length = room
        request.views = writable
        request.written = room + 1
    elif kind == OUT:
        offset = sector << 9
        length = chain.readable_length - 16
        if disk.readonly or (length | offset) & disk.mask or offset + length > disk.size:
            request.verdict = IOERR
            return request
        request.kind = OUT
        request.offset = offset
        request.length = length
        request.views = readable
    elif kind == FLUSH:
        request.kind = FLUSH  # whether or not it was negotiated: nothing is asked that could be refused
    elif kind == GET_ID:
        request.kind = GET_ID
        request.views = writable
        request.length = min(room, ID_LENGTH)
        request.written = room + 1 if room <= ID_LENGTH else ID_LENGTH
    elif (kind == DISCARD and disk.discard) or (kind == WRITE_ZEROES and disk.write_zeroes):
        request.verdict = _parse_segments(request, kind, list(readable), chain.readable_length - 16, disk)
    else:
        request.verdict = UNSUPP
    return request


def _take(views: list[memoryview], count: int) -> bytes:
    """Takes ``count`` bytes from the front of ``views``."""
    taken = b""
    while len(taken) < count:
        if not views:
            raise QueueError("a block request without a whole header")
        missing = count - len(taken)
        first = views[0]
        taken += first[:missing]
        if len(first) > missing:
            views[0] = first[missing:]
        else:
            del views[0]
    return taken


def _parse_segments(request: Request, kind: int, views: list[memoryview], length: int, disk: Disk) -> int:
    """5.2.6: DISCARD and WRITE_ZEROES carry ranges. All are judged before any is executed. Returns the verdict."""
    discard = kind == DISCARD
    count, rest = divmod(length, _SEGMENT.size)
    if disk.readonly or rest or not 0 < count <= (disk.discard_segments if discard else disk.write_zeroes_segments):
        return IOERR
    known, most = (0, disk.discard_sectors) if discard else (UNMAP, disk.write_zeroes_sectors)
    segments = []
    for sector, sectors, flags in _SEGMENT.iter_unpack(_take(views, length)):
        if flags & ~known:  # 5.2.6.2: an unknown flag, or unmap in a discard
            return UNSUPP
        start, size = sector << 9, sectors << 9
        if sectors > most or (start | size) & disk.mask or start + size > disk.size:
            return IOERR
        segments.append((start, size, bool(flags & UNMAP) and disk.may_unmap))
    request.kind = kind
    request.segments = segments
    return OK
