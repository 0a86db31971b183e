"""What a block request says (Virtio 1.2, 5.2.6), however the driver cuts it into buffers."""

from __future__ import annotations

import random
import struct

import pytest

from pyvmm import scatter
from pyvmm.devices.virtio import blk_request as blk
from pyvmm.devices.virtio.blk_request import Disk, Request, parse, usual
from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Chain, QueueError, VirtQueue
from pyvmm.kvm.native import address_of
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.ring import Ring

SIZE = 1 << 20


def chain(readable: list[bytes], writable: list[int], faulty: str = "", status_lost: bool = False) -> Chain:
    """A chain as ``VirtQueue.pop`` gives it: no empty views."""
    ins = [memoryview(bytearray(part)) for part in readable if part]
    outs = [memoryview(bytearray(length)) for length in writable if length]
    return Chain(7, ins, outs, sum(map(len, ins)), sum(map(len, outs)), faulty, status_lost)


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0xDEAD, sector)


def segment(sector: int, sectors: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, sectors, flags)


def disk(**changes: object) -> Disk:
    disk = Disk(SIZE)
    disk.discard = disk.write_zeroes = disk.may_unmap = True
    disk.discard_sectors = disk.write_zeroes_sectors = 64
    disk.discard_segments, disk.write_zeroes_segments = 4, 1
    for name, value in changes.items():
        setattr(disk, name, value)
    return disk


def verdict(request: Request) -> tuple[int, int]:
    assert request.kind == blk.DONE
    return request.verdict, request.failed


def test_read() -> None:
    request = parse(chain([header(blk.IN, 3)], [1024, 512, 1]), disk())
    assert (request.kind, request.offset, request.length, request.written) == (blk.IN, 3 * 512, 1536, 1537)
    assert [len(view) for view in request.views] == [1024, 512]
    assert (request.head, len(request.status), request.verdict) == (7, 1, blk.OK)
    assert request.failed == 0  # the status is the last byte, and the data before it was not written (2.7.8.2)


def test_write() -> None:
    request = parse(chain([header(blk.OUT, 2), b"a" * 512], [1]), disk())
    assert (request.kind, request.offset, request.length, request.written) == (blk.OUT, 1024, 512, 1)
    assert b"".join(request.views) == b"a" * 512
    assert request.failed == 1


def test_flush_and_id() -> None:
    assert parse(chain([header(blk.FLUSH, 99)], [1]), disk()).kind == blk.FLUSH
    for room, length, written in ((20, 20, 21), (8, 8, 9), (64, 20, 20), (0, 0, 1)):
        request = parse(chain([header(blk.GET_ID)], [room, 1]), disk())
        assert (request.kind, request.length, request.written) == (blk.GET_ID, length, written)


def test_status_is_the_last_byte_of_whatever_it_is_merged_with() -> None:
    whole = chain([header(blk.IN)], [513])
    last = whole.writable[0]
    request = parse(whole, disk())
    assert [len(view) for view in request.views] == [512]
    request.status[0] = 0x5A
    assert last[512] == 0x5A


def test_header_merged_with_data() -> None:
    request = parse(chain([header(blk.OUT, 1) + b"x" * 512], [1]), disk())
    assert (request.kind, request.offset, b"".join(request.views)) == (blk.OUT, 512, b"x" * 512)


@pytest.mark.parametrize("seed", range(200))
def test_any_cut_means_the_same(seed: int) -> None:
    rng = random.Random(seed)

    def cut(total: int) -> list[int]:
        places = sorted(rng.sample(range(1, total), min(rng.randrange(8), total - 1)))
        return [after - before for before, after in zip([0, *places], [*places, total], strict=True)]

    kind = rng.choice((blk.IN, blk.OUT))
    payload = rng.randbytes(512 * rng.randrange(4))
    readable = header(kind, 5) + (payload if kind == blk.OUT else b"")
    parts = []
    for length in cut(len(readable)):
        parts.append(readable[:length])
        readable = readable[length:]
    request = parse(chain(parts, cut(len(payload) + 1) if kind == blk.IN and payload else [1]), disk())
    assert (request.kind, request.offset, request.length) == (kind, 5 * 512, len(payload))
    assert sum(map(len, request.views)) == len(payload)
    assert all(len(view) for view in request.views)
    if kind == blk.OUT:
        assert b"".join(request.views) == payload


@pytest.mark.parametrize(
    ("readable", "writable"),
    [([header(blk.IN)], []), ([], [1]), ([b"short"], [1]), ([b"x" * 15], [512, 1]), ([header(blk.IN)], [0])],
)
def test_what_cannot_be_answered_is_broken(readable: list[bytes], writable: list[int]) -> None:
    with pytest.raises(QueueError):
        parse(chain(readable, writable), disk())


def test_a_buffer_outside_ram_fails_the_request_while_the_status_is_inside() -> None:
    assert verdict(parse(chain([header(blk.IN)], [512, 1], faulty="buffer"), disk())) == (blk.IOERR, 0)
    assert verdict(parse(chain([], [1], faulty="buffer"), disk())) == (blk.IOERR, 1)
    with pytest.raises(QueueError, match="buffer 0x1234"):
        parse(chain([header(blk.IN)], [512], faulty="buffer 0x1234", status_lost=True), disk())
    with pytest.raises(QueueError, match="buffer 0x1234"):
        parse(chain([], [], faulty="buffer 0x1234"), disk())


@pytest.mark.parametrize("kind", [blk.IN, blk.OUT])
@pytest.mark.parametrize(
    ("sector", "length", "fine"),
    [
        (0, SIZE, True), (SIZE // 512 - 1, 512, True), (SIZE // 512, 0, True),
        (SIZE // 512, 512, False), (1, SIZE, False), (0, 511, False), (0, 513, False),
        ((1 << 64) - 1, 512, False), (1 << 55, 512, False), ((1 << 64) - 1, 0, False),
    ],
)  # fmt: skip
def test_capacity_and_whole_sectors(kind: int, sector: int, length: int, fine: bool) -> None:
    if kind == blk.IN:
        request = parse(chain([header(kind, sector)], [length, 1]), disk())
    else:
        request = parse(chain([header(kind, sector), bytes(length)], [1]), disk())
    assert (request.kind == kind) == fine
    assert request.verdict == (blk.OK if fine else blk.IOERR)


def test_blocks_larger_than_sectors() -> None:
    large = disk(mask=4095)
    for sector, length, fine in ((8, 4096, True), (8, 512, False), (1, 4096, False)):
        assert (parse(chain([header(blk.IN, sector)], [length, 1]), large).kind == blk.IN) == fine


def test_a_readonly_disk_refuses_whatever_writes() -> None:
    locked = disk(readonly=True)
    assert verdict(parse(chain([header(blk.OUT), bytes(512)], [1]), locked)) == (blk.IOERR, 1)
    for kind in (blk.DISCARD, blk.WRITE_ZEROES):
        assert verdict(parse(chain([header(kind), segment(0, 1)], [1]), locked)) == (blk.IOERR, 1)
    assert parse(chain([header(blk.IN)], [512, 1]), locked).kind == blk.IN
    assert parse(chain([header(blk.FLUSH)], [1]), locked).kind == blk.FLUSH


@pytest.mark.parametrize("kind", [2, 3, 5, 7, 9, 10, 12, 14, 24, 0x8000_0000, 0xFFFF_FFFF])
def test_unknown_types(kind: int) -> None:
    assert verdict(parse(chain([header(kind)], [1]), disk())) == (blk.UNSUPP, 1)


def test_ranges() -> None:
    request = parse(chain([header(blk.DISCARD), segment(8, 8) + segment(100, 1)], [1]), disk())
    assert (request.kind, request.segments) == (blk.DISCARD, [(4096, 4096, False), (51200, 512, False)])
    request = parse(chain([header(blk.WRITE_ZEROES) + segment(8, 8, blk.UNMAP)], [1]), disk())
    assert (request.kind, request.segments) == (blk.WRITE_ZEROES, [(4096, 4096, True)])
    request = parse(chain([header(blk.WRITE_ZEROES), segment(8, 8, blk.UNMAP)], [1]), disk(may_unmap=False))
    assert request.segments == [(4096, 4096, False)]  # a hint the disk does not take (5.2.6.2)


@pytest.mark.parametrize(
    ("kind", "body", "answer"),
    [
        (blk.DISCARD, segment(0, 1, blk.UNMAP), blk.UNSUPP),
        (blk.DISCARD, segment(0, 1, 2), blk.UNSUPP),
        (blk.WRITE_ZEROES, segment(0, 1, 2), blk.UNSUPP),
        (blk.WRITE_ZEROES, segment(0, 1, 0x8000_0001), blk.UNSUPP),
        (blk.DISCARD, b"", blk.IOERR),
        (blk.DISCARD, segment(0, 1)[:15], blk.IOERR),
        (blk.DISCARD, segment(0, 1) + b"x", blk.IOERR),
        (blk.DISCARD, segment(0, 1) * 5, blk.IOERR),
        (blk.WRITE_ZEROES, segment(0, 1) * 2, blk.IOERR),
        (blk.DISCARD, segment(0, 65), blk.IOERR),
        (blk.DISCARD, segment(SIZE // 512 - 1, 2), blk.IOERR),
        (blk.DISCARD, segment((1 << 64) - 1, 1), blk.IOERR),
        (blk.DISCARD, segment(0, 1) + segment(SIZE // 512, 1), blk.IOERR),
    ],
)
def test_ranges_that_are_refused_are_so_before_anything_happens(kind: int, body: bytes, answer: int) -> None:
    assert verdict(parse(chain([header(kind), body], [1]), disk())) == (answer, 1)


@pytest.mark.parametrize("kind", [blk.DISCARD, blk.WRITE_ZEROES])
def test_ranges_the_driver_has_not_chosen(kind: int) -> None:
    plain = disk(discard=False, write_zeroes=False)
    assert verdict(parse(chain([header(kind), segment(0, 1)], [1]), plain)) == (blk.UNSUPP, 1)


@pytest.mark.parametrize("seed", range(300))
def test_noise(seed: int) -> None:
    """Whatever bytes there are: a request, a verdict, or QueueError."""
    rng = random.Random(seed)
    kinds = (0, 1, 4, 8, 11, 13, rng.getrandbits(32))
    first = struct.pack("<IIQ", rng.choice(kinds), 0, rng.choice((0, 1, SIZE // 512, rng.getrandbits(64))))
    readable = [first[: rng.choice((16, 16, 16, 3))], *(rng.randbytes(rng.choice((0, 1, 16, 512))) for _ in range(rng.randrange(4)))]
    writable = [rng.choice((0, 1, 20, 512)) for _ in range(rng.randrange(4))]
    try:
        request = parse(chain(readable, writable), disk())
    except QueueError:
        return
    room = sum(writable)
    assert len(request.status) == 1
    assert 0 <= request.failed <= room
    assert 0 <= request.written <= room
    if request.kind in (blk.IN, blk.OUT):
        assert request.offset + request.length <= SIZE
        assert sum(map(len, request.views)) == request.length


# --- the short way --------------------------------------------------------------------------------------------------------
def content(request: Request) -> tuple[object, ...]:
    """All that a request says, with buffers by their place."""
    place = [(address_of(view), len(view)) for view in [*request.views, request.status]]
    said = request.head, request.kind, request.offset, request.length, request.verdict, request.written, request.failed
    return *said, place, request.segments


def test_the_short_way_says_what_the_long_one_does() -> None:
    if not scatter.supported():
        pytest.skip("this C library has no preadv2")
    memory = GuestMemory(16 * MIB)
    ring = Ring(memory, 8)
    short, long = (VirtQueue(memory, 8, ring.desc, ring.avail, ring.used, event_idx=False, indirect=True) for _ in range(2))
    short.take_whole()
    chance = random.Random(11)
    judged = disk()
    taken: set[tuple[int, bool]] = set()
    for _ in range(4000):
        judged.readonly = chance.random() < 0.2
        judged.mask = chance.choice((511, 511, 4095))
        kind = chance.choice((blk.IN, blk.IN, blk.OUT, blk.OUT, blk.FLUSH, blk.GET_ID, 0xFFFF_FFFF))
        sector = chance.choice((0, 8, 2040, 2047, 2048, (1 << 55) - 1, (1 << 64) - 8, chance.randrange(2048)))
        lengths = [chance.choice((16,) * 9 + (15, 17)), chance.choice((512, 4096, 4096, 513, 20, SIZE)), chance.choice((1,) * 9 + (2, 513))]
        writable = kind != blk.OUT if chance.random() < 0.9 else kind == blk.OUT
        flags = [DESC_NEXT, DESC_NEXT | (DESC_WRITE if writable else 0), DESC_WRITE]
        memory.write(0x10_0000, struct.pack("<IIQ", kind, 0, sector))
        for at, address in enumerate((0x10_0000, 0x20_0000, 0x18_0000)):
            ring.set_descriptor(at, address, lengths[at], flags[at], at + 1, table=0x9_0000)
        ring.set_descriptor(0, 0x9_0000, 48, DESC_INDIRECT)
        if chance.random() < 0.3:  # without the one in the middle
            ring.set_descriptor(1, 0x18_0000, lengths[2], flags[2], 0, table=0x9_0000)
            ring.set_descriptor(0, 0x9_0000, 32, DESC_INDIRECT)
        ring.publish(0)
        request = usual(short, judged)
        chain = long.pop()
        assert chain is not None
        if request is not None:
            assert content(request) == content(parse(chain, judged))
            taken.add((request.kind, judged.readonly))
            assert usual(short, judged) is None, "there is no more"
        assert short.last_avail == (long.last_avail if request is not None else long.last_avail - 1 & 0xFFFF)
        short.last_avail = short.next_used = long.next_used = long.last_avail
    assert taken == {(blk.IN, False), (blk.IN, True), (blk.OUT, False), (blk.FLUSH, False), (blk.FLUSH, True)}


def test_the_short_way_leaves_broken_rings_to_the_long_one() -> None:
    memory = GuestMemory(MIB)
    ring = Ring(memory, 8)
    queue = VirtQueue(memory, 8, ring.desc, ring.avail, ring.used, event_idx=False, indirect=True)
    ring.set_descriptor(0, 0x9_0000, 48, DESC_INDIRECT)
    for at, (length, flags) in enumerate(((16, DESC_NEXT), (512, DESC_NEXT | DESC_WRITE), (1, DESC_WRITE))):
        ring.set_descriptor(at, 0x8_0000 + 4096 * at, length, flags, at + 1, table=0x9_0000)
    ring.publish(0)
    assert queue.three() is None, "a device that did not ask for it"
    queue.take_whole()
    if scatter.supported():
        assert queue.three() is not None
    ring.avail_index = 9
    assert usual(queue, disk()) is None
    with pytest.raises(QueueError):
        queue.pop()
    ring.avail_index = 1
    memory.write(ring.avail + 4, struct.pack("<H", 8))
    assert usual(queue, disk()) is None
    with pytest.raises(QueueError):
        queue.pop()
