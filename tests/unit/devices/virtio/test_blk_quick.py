"""The short way of plain requests against the long one: the same guest memory, disk, interrupts and refusals, whatever the driver does."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import scatter
from pyvmm.backends.block import raw
from pyvmm.backends.block.raw import RawFile
from pyvmm.devices.virtio import blk, blk_config, blk_quick, blk_waits
from pyvmm.devices.virtio import blk_request as kinds
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.blk_config import BlkOptions
from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, QueueError, VirtQueue
from pyvmm.memory import GuestMemory
from tests.support.fakes import FaultySystem
from tests.support.ring import FakeLoop, Ring

pytestmark = pytest.mark.skipif(not scatter.supported(), reason="this C library has no preadv2, so there is no short way")
MEMORY, SIZE = 1 << 20, 64 << 10  # of the guest, of its disk
ENTRIES = 64
TABLES, HEADERS, BUFFERS, STATUSES = 0x2_0000, 0x3_0000, 0x4_0000, 0x3_8000


class Kept(RawFile):
    """A raw file for which there is no short way: it may be anything."""


class Side:
    """A disk in a file, with its guest memory; workers' work is done at once."""

    def __init__(self, path: Path, kind: type[RawFile], features: int, *, logical: int = 512, readonly: bool = False) -> None:
        path.write_bytes(random.Random(5).randbytes(SIZE))
        self.path = path
        self.memory = GuestMemory(MEMORY)
        self.ring = Ring(self.memory, ENTRIES)
        self.file = kind(os.open(path, os.O_RDONLY if readonly else os.O_RDWR), str(path), SIZE, readonly=readonly)
        self.blk = VirtioBlk("disk0", FakeLoop(), lambda call, *rest: call(*rest), self.file, BlkOptions(logical=logical))
        self.flushes = 0
        self.file.flush = self._flush  # type: ignore[method-assign]
        self.signals: list[int] = []
        self.blk.signals.queue = self.signals.append
        self.quick = 0
        self.features = features & self.blk.features
        self.start()

    def start(self) -> None:
        self.ring.clear()
        self.queue = VirtQueue(self.memory, ENTRIES, self.ring.desc, self.ring.avail, self.ring.used, event_idx=False, indirect=True)
        self.blk.start([self.queue], self.features)
        lane = self.blk._lanes[0]
        assert lane is not None
        if lane.whole and type(self.file) is RawFile:
            quick = blk_quick.Quick(self.queue, self.blk.disk, self.file, self.blk._reads, self.blk._writes, self.blk._flushes)
            lane.quick = Counting(quick, self)  # type: ignore[assignment]

    def _flush(self) -> None:
        self.flushes += 1

    def serve(self) -> str:
        try:
            self.blk.serve(0)
        except QueueError as error:
            return str(error)
        return ""

    def state(self) -> tuple[object, ...]:
        return self.memory.read(0, MEMORY), self.path.read_bytes(), self.signals, self.flushes, self.queue.last_avail, self.queue.next_used

    def close(self) -> None:
        self.file.close()
        self.memory.close()


class Counting:
    """The short way, and how many requests went there."""

    def __init__(self, inner: blk_quick.Quick, side: Side) -> None:
        self.__dict__.update(_inner=inner, _side=side)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inner, name, value)

    def answer(self, lane: object, most: int) -> int:
        done: int = self._inner.answer(lane, most)
        self._side.quick += done
        return done


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the host is, nothing waits for it."""
    for module in (blk, blk_waits):
        monkeypatch.setattr(module, "monotonic_ns", lambda: 0)
    monkeypatch.setattr(blk_waits, "thread_time_ns", lambda: 0)


def put(sides: tuple[Side, ...], gpa: int, data: bytes) -> None:
    for side in sides:
        side.memory.write(gpa, data)


def request(
    sides: tuple[Side, ...],
    slot: int,
    kind: int,
    sector: int,
    lengths: tuple[int, ...],
    chance: random.Random | None = None,
    spoil: float = 0.0,
) -> None:
    """Makes a request in one table available; with ``spoil``, how likely each word of it is something else."""

    def word(usual: int, *others: int) -> int:
        return chance.choice(others) if chance is not None and chance.random() < spoil else usual

    table, header, buffer, status = TABLES + 0x400 * slot, HEADERS + 16 * slot, BUFFERS + 0x1000 * slot, STATUSES + 8 * slot
    put(sides, header, struct.pack("<IIQ", word(kind, 0, 1, 4, 8, 77), 0, word(sector, 0, 127, 128, 1 << 55, (1 << 64) - 8)))
    put(sides, buffer, bytes([slot]) * 64 + bytes(4032))
    middle = DESC_NEXT | (DESC_WRITE if kind == kinds.IN else 0)
    parts = [(header, word(16, 0, 8, 15, 17, 32), word(DESC_NEXT, 0, DESC_NEXT | DESC_WRITE))]
    for at, length in enumerate(lengths):
        flags = word(middle, DESC_NEXT, DESC_NEXT | DESC_WRITE, middle & ~DESC_NEXT)
        parts.append((buffer + at * 512 % 4096, word(length, 0, 1, 511, 1024, 0xFFFF_FFFF), flags))
    parts.append((status, word(1, 0, 2, 513), word(DESC_WRITE, 0, DESC_NEXT | DESC_WRITE)))
    for at, (address, size, flags) in enumerate(parts):
        where, following = word(address, MEMORY - 1, MEMORY, 1 << 63, (1 << 64) - 16, address + 1), word(at + 1, 0, 2, 3)
        for side in sides:
            side.ring.set_descriptor(at, where, size, flags, following, table)
    where, size = word(table, MEMORY - 16, 1 << 62), word(16 * len(parts), 0, 16, 32, 47, 48, 64)
    flags = word(DESC_INDIRECT, DESC_INDIRECT | DESC_WRITE, DESC_INDIRECT | DESC_NEXT, 0)
    head = word(slot, ENTRIES - 1, ENTRIES, 0xFFFF)
    for side in sides:
        side.ring.set_descriptor(slot, where, size, flags)
        side.ring.publish(head)


ALL = (1 << 32) - 1


@pytest.mark.parametrize("features", [ALL, ALL & ~blk_config.F_FLUSH & ~blk_config.F_CONFIG_WCE], ids=["cached", "write through"])
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("logical", [512, 4096])
def test_the_short_way_does_what_the_long_one_does(tmp_path: Path, features: int, readonly: bool, logical: int) -> None:
    sides = tuple(
        Side(tmp_path / name, kind, features, logical=logical, readonly=readonly) for name, kind in (("short", RawFile), ("long", Kept))
    )
    chance = random.Random(features ^ readonly ^ logical)
    refused = 0
    for _ in range(20):
        spoil = chance.choice((0, 0.003, 0.01, 0.05))
        for slot in range(chance.randrange(1, 41)):
            kind = chance.choice((kinds.IN, kinds.IN, kinds.IN, kinds.OUT, kinds.OUT, kinds.FLUSH, kinds.GET_ID))
            sector = chance.choice((*range(0, 136, 8), 1 << 55))
            lengths: tuple[int, ...] = ()
            if chance.random() < (0.1 if kind == kinds.FLUSH else 0.98):
                lengths = chance.choice(((logical,), (logical,), (4096,), (512,), (512,) * 8, (512,) * 6, (512,) * 15 + (logical + 512,)))
            request(sides, slot, kind, sector, lengths, chance, spoil)
        if chance.random() < 0.05:
            for side in sides:
                side.ring.avail_index += chance.choice((ENTRIES, ENTRIES + 1)) if side is sides[0] else 0
            sides[1].ring.avail_index = sides[0].ring.avail_index
        said = [side.serve() for side in sides]
        assert said[0] == said[1]
        assert sides[0].state() == sides[1].state()
        refused += bool(said[0])
        for side in sides:
            side.start()  # as after a reset, whether or not it was needed
    assert sides[0].quick > 20 and not sides[1].quick
    assert refused > 1
    for side in sides:
        side.close()


@pytest.mark.parametrize("kind", [kinds.IN, kinds.OUT])
@pytest.mark.parametrize(
    ("pieces", "header", "status", "more"), [(8, 15, 1, 0), (8, 17, 1, 0), (8, 16, 513, 0), (8, 16, 1, 8), (1, 16, 1, 8)]
)
def test_what_is_not_plain_in_a_long_table(tmp_path: Path, kind: int, pieces: int, header: int, status: int, more: int) -> None:
    sides = tuple(Side(tmp_path / name, of, ALL) for name, of in (("short", RawFile), ("long", Kept)))
    request(sides, 0, kind, 0, (512,) * pieces)
    put(sides, TABLES + 8, struct.pack("<I", header))
    put(sides, TABLES + 16 * (pieces + 1) + 8, struct.pack("<I", status))
    put(sides, sides[0].ring.desc + 8, struct.pack("<I", 16 * (pieces + 2) + more))
    put(sides, STATUSES, b"\xff" * 513)
    said = [side.serve() for side in sides]
    assert said[0] == said[1]
    assert sides[0].state() == sides[1].state()
    assert not sides[0].quick
    for side in sides:
        side.close()


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "disk", RawFile, ALL)


def read(side: Side, count: int, first: int = 0) -> None:
    for slot in range(first, first + count):
        request((side,), slot, kinds.IN, 0, (512,))


def statuses(side: Side, count: int) -> list[int]:
    return [side.memory.read(STATUSES + 8 * slot, 1)[0] for slot in range(count)]


def test_flushes_in_a_row_are_as_many(side: Side) -> None:
    for slots in ((0,), (1, 2, 3)):
        for slot in slots:
            request((side,), slot, kinds.FLUSH, 0, ())
        side.serve()
    assert statuses(side, 4) == [kinds.OK] * 4
    assert side.flushes == 4
    assert side.quick == 3, "of the first one nobody knows how long it waits"
    side.close()


@pytest.mark.parametrize("kind", [kinds.IN, kinds.OUT])
@pytest.mark.parametrize("pieces", [1, 6, 62])
def test_one_call_of_the_kernel_for_a_request(side: Side, monkeypatch: pytest.MonkeyPatch, kind: int, pieces: int) -> None:
    calls: list[int] = []
    for module, name in ((blk_quick, "_preadv"), (raw.os, "pwritev")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *call, real=real: (calls.append(len(call[1])), real(*call))[1])
    for name, real in list(scatter._calls.items()):
        monkeypatch.setitem(scatter._calls, name, lambda *call, real=real: (calls.append(call[2]), real(*call))[1])
    request((side,), 0, kind, 0, (512,) * pieces)
    side.memory.write(STATUSES, b"\xff")
    side.serve()
    assert calls == [pieces]
    assert side.quick == 1 and statuses(side, 1) == [kinds.OK]
    side.close()


def faulty(monkeypatch: pytest.MonkeyPatch, answers: list[object]) -> list[int]:
    """Has the short way's reads give these, then what the kernel says. Returns the flags of each."""
    flags: list[int] = []
    real: Callable[..., int] = os.preadv

    def preadv(fd: int, views: object, offset: int, how: int) -> int:
        flags.append(how)
        answer = answers.pop(0) if answers else None
        if isinstance(answer, OSError):
            raise answer
        return answer if isinstance(answer, int) else real(fd, views, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(blk_quick, "_preadv", preadv)
    return flags


def test_a_read_that_would_wait_is_tried_once(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = faulty(monkeypatch, [None, BlockingIOError(errno.EAGAIN, "")])
    side.file.try_read = lambda *_: pytest.fail("tried before")  # type: ignore[method-assign]
    read(side, 2)
    put((side,), STATUSES, b"\xff" * 16)
    side.serve()
    assert flags == [os.RWF_NOWAIT] * 2
    assert statuses(side, 2) == [kinds.OK] * 2
    assert side.quick == 1
    assert side.blk._knows_cache
    side.close()


def test_a_host_that_finds_a_part_makes_the_rest_wait(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, [100])
    read(side, 1)
    side.serve()
    assert not side.quick
    assert side.memory.read(BUFFERS, 512) == side.path.read_bytes()[:512]
    side.close()


def test_a_file_system_without_such_reads_is_asked_once(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = faulty(monkeypatch, [OSError(errno.EOPNOTSUPP, "")])
    system = FaultySystem()
    system.planned = {"preadv": [-errno.EOPNOTSUPP]}
    monkeypatch.setattr(raw, "os", system)
    read(side, 4)
    side.serve()
    assert flags == [os.RWF_NOWAIT, 0, 0, 0]
    assert statuses(side, 4) == [kinds.OK] * 4
    assert side.quick == 3 and not side.blk._knows_cache
    side.blk._reads.long = True
    read(side, 4, 4)
    side.serve()
    assert side.quick == 3, "they wait for a disk: workers are there for that"
    side.close()


def test_an_error_is_found_and_told_by_the_long_way(side: Side, capfd: pytest.CaptureFixture[str]) -> None:
    os.truncate(side.path, 0)
    put((side,), STATUSES, b"\xff" * 16)
    read(side, 1)
    request((side,), 1, kinds.OUT, 0, (512,))
    side.serve()
    assert statuses(side, 2) == [kinds.IOERR] * 2
    assert not side.quick and not side.path.stat().st_size
    said = capfd.readouterr().err
    assert "read of 512 bytes" in said and "write of 512 bytes" in said
    side.close()


def test_a_listener_hears_every_request(side: Side) -> None:
    heard = Kept(os.dup(side.file.fd), "heard", SIZE)
    side.blk.backend = heard
    read(side, 2)
    side.serve()
    assert statuses(side, 2) == [kinds.OK] * 2 and not side.quick
    side.blk.backend = side.file
    put((side,), STATUSES, b"\xff" * 32)
    read(side, 2, 2)
    side.serve()
    lane = side.blk._lanes[0]
    assert lane is not None and type(lane.quick) is blk_quick.Quick, "when nobody listens any more, it goes on as before"
    assert side.memory.read(STATUSES + 16, 1)[0] == kinds.OK
    heard.close()
    side.close()


def test_the_write_cache_is_switched_off_just_before_a_write(side: Side) -> None:
    """5.2.6.2: a write that was submitted afterwards is durable when it is acknowledged, however late the disk looked."""

    class Ring:
        """The available ring, and a driver on another CPU that was quicker."""

        def __init__(self, real: memoryview) -> None:
            self.real = real

        def __getitem__(self, index: int) -> int:
            side.blk.write_config(blk_config.WRITEBACK, 1, 0)
            return self.real[index]

    lane = side.blk._lanes[0]
    assert lane is not None and lane.quick is not None
    lane.quick._avail = Ring(side.queue.parts()[1])  # type: ignore[assignment]
    side.blk.negotiated = side.features
    request((side,), 0, kinds.OUT, 0, (512,))
    side.serve()
    assert statuses(side, 1) == [kinds.OK] and side.flushes == 1
    side.close()


def test_memory_with_a_record_of_what_is_written(side: Side) -> None:
    side.queue.track(True)
    read(side, 2)
    side.serve()
    assert statuses(side, 2) == [kinds.OK] * 2 and not side.quick
    side.close()
