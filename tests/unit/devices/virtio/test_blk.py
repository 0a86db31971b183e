"""The disk on a ring in guest memory, over a disk in the test's memory (Virtio 1.2, 5.2)."""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyvmm.devices.virtio import blk as module
from pyvmm.devices.virtio import blk_config, blk_waits
from pyvmm.devices.virtio import blk_request as kinds
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.blk_config import BlkOptions
from pyvmm.devices.virtio.queue import QueueError, VirtQueue
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.workers import Workers
from tests.support.disk import FakeDisk
from tests.support.ring import FakeLoop, Part, Ring

ALL = (1 << 32) - 1


class Rig:
    """A disk with ``queues`` rings, started; ``serve`` is called by the test."""

    def __init__(self, disk: FakeDisk, options: BlkOptions | None = None, features: int = ALL, size: int = 64) -> None:
        self.memory = GuestMemory(16 * MIB)
        self.backend = disk
        self.crashes: list[BaseException] = []
        self.pool = Workers(self.crashes.append)
        self.blk = VirtioBlk("disk0", FakeLoop(), self.pool.submit, disk, options)
        self.signals: list[int] = []
        self.kicks: list[int] = []
        self.blk.signals.queue = self.signals.append
        self.blk.signals.kick = self.kicks.append
        count = len(self.blk.queue_sizes)
        self.rings = [Ring(self.memory, size, 0x1_0000 * (1 + n), (1 + n) * MIB, (2 + n) * MIB) for n in range(count)]
        self.ring = self.rings[0]
        self.start(features)

    def queue(self, ring: Ring) -> VirtQueue:
        return VirtQueue(self.memory, ring.size, ring.desc, ring.avail, ring.used, event_idx=ring.event_idx, indirect=True)

    def start(self, features: int = ALL) -> None:
        self.blk.start([self.queue(ring) for ring in self.rings], features & self.blk.features)

    def ask(self, kind: int, sector: int = 0, *parts: Part, ring: Ring | None = None) -> int:
        """Makes a request available; the status byte is added."""
        return (ring or self.ring).add(struct.pack("<IIQ", kind, 0, sector), *parts, 1)

    def serve(self, index: int = 0) -> None:
        self.blk.serve(index)

    def answers(self, count: int, ring: Ring | None = None) -> list[tuple[int, int, bytes]]:
        """Waits for ``count`` answers: (status, used length, data without the status) in the order of completion."""
        ring = ring or self.ring
        done: list[tuple[int, int, bytes]] = []
        deadline = time.monotonic() + 30
        while len(done) < count:
            assert time.monotonic() < deadline, f"{len(done)} of {count} answers"
            buffers = {head: list(chain[1]) for head, chain in ring.chains.items()}
            for head, written in ring.collect():
                content = ring.written(buffers[head])
                done.append((content[-1], written, content[:-1]))
            time.sleep(0.0002)
        return done

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def close(self) -> None:
        self.backend.gate.set()
        self.blk.stop(None)
        assert self.blk.wait_idle(None, 30)
        self.pool.stop()
        self.pool.join(30)
        assert not self.pool.alive
        assert not self.crashes
        self.memory.close()


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


def slow(rig: Rig) -> None:
    """As after a read that was found in the page cache: those that are not would wait for the host."""
    rig.blk._knows_cache = True


@pytest.fixture
def rig(disk: FakeDisk) -> Iterator[Rig]:
    rig = Rig(disk)
    yield rig
    rig.close()


# --- one request ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cached", [False, True])
def test_read(rig: Rig, disk: FakeDisk, cached: bool) -> None:
    disk.cached = cached
    disk.data[1024:2048] = bytes(range(256)) * 4
    rig.ask(kinds.IN, 2, 600, 424)
    rig.serve()
    assert rig.answers(1) == [(kinds.OK, 1025, bytes(range(256)) * 4)]
    assert rig.signals == [0]
    assert disk.log == [("try" if cached else "read", 1024, 1024)]


def test_write_lands_where_it_should(rig: Rig, disk: FakeDisk) -> None:
    rig.ask(kinds.OUT, 3, b"a" * 512, b"b" * 512)
    rig.serve()
    assert rig.answers(1) == [(kinds.OK, 1, b"")]
    assert bytes(disk.data[1536:2560]) == b"a" * 512 + b"b" * 512
    assert disk.log == [("write", 1536, 1024)]


def test_flush(rig: Rig, disk: FakeDisk) -> None:
    rig.ask(kinds.FLUSH)
    rig.serve()
    assert rig.answers(1) == [(kinds.OK, 1, b"")]
    assert disk.log == [("flush", 0, 0)]


@pytest.mark.parametrize(("serial", "shown"), [("", b""), ("abc", b"abc"), ("x" * 20, b"x" * 20), ("y" * 30, b"y" * 20)])
def test_id(disk: FakeDisk, serial: str, shown: bytes) -> None:
    rig = Rig(disk, BlkOptions(serial=serial))
    rig.ask(kinds.GET_ID, 0, 20)
    rig.ask(kinds.GET_ID, 0, 7, 7)
    rig.serve()
    assert rig.answers(2) == [(kinds.OK, 21, shown.ljust(20, b"\0")), (kinds.OK, 15, shown.ljust(20, b"\0")[:14])]
    rig.close()


def test_ranges(rig: Rig, disk: FakeDisk) -> None:
    disk.data[:] = b"x" * disk.size
    rig.ask(kinds.DISCARD, 0, struct.pack("<QIIQII", 0, 8, 0, 64, 8, 0))
    rig.serve()
    assert rig.answers(1) == [(kinds.OK, 1, b"")]
    rig.ask(kinds.WRITE_ZEROES, 0, struct.pack("<QII", 1, 1, 0))
    rig.serve()
    rig.answers(1)
    rig.ask(kinds.WRITE_ZEROES, 0, struct.pack("<QII", 2, 1, 1))
    rig.serve()
    rig.answers(1)
    assert disk.log == [("discard", 0, 4096), ("discard", 32768, 4096), ("zero", 512, 512), ("unmap", 1024, 512)]
    assert bytes(disk.data[512:1537]) == bytes(1024) + b"x"


def test_refused_at_once(rig: Rig, disk: FakeDisk) -> None:
    rig.ask(kinds.IN, disk.size // 512, 512)
    rig.ask(77)
    rig.serve()
    assert [answer[:2] for answer in rig.answers(2)] == [(kinds.IOERR, 0), (kinds.UNSUPP, 1)]
    assert not disk.log


def test_a_broken_request_raises_after_the_others_were_answered(rig: Rig) -> None:
    rig.ask(kinds.GET_ID, 0, 20)
    rig.ring.add(b"no room for a status")
    with pytest.raises(QueueError):
        rig.serve()
    assert rig.answers(1)[0][0] == kinds.OK


# --- errors of the host --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_host_error_is_the_guests_error_and_told_once(
    rig: Rig, disk: FakeDisk, number: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**9]
    monkeypatch.setattr(module, "monotonic_ns", lambda: now[0])
    disk.fail = {"write": number, "read": number, "flush": number, "zero": number}
    for _ in range(3):
        rig.ask(kinds.OUT, 1, bytes(512))
        rig.serve()
        assert rig.answers(1) == [(kinds.IOERR, 1, b"")]
    text = capfd.readouterr().err
    assert text.count("\n") == 1
    assert "drive fake.img: write of 512 bytes at 0x200 failed" in text
    assert errno.errorcode[number] in text
    now[0] += 11 * 10**9
    rig.ask(kinds.OUT, 1, bytes(512))
    rig.serve()
    rig.answers(1)
    assert "3 times since" in capfd.readouterr().err
    monkeypatch.undo()
    for kind, parts in ((kinds.IN, (512,)), (kinds.FLUSH, ()), (kinds.WRITE_ZEROES, (struct.pack("<QII", 0, 1, 0),))):
        rig.ask(kind, 0, *parts)
        rig.serve()
        assert rig.answers(1)[0][0] == kinds.IOERR
    assert capfd.readouterr().err.count("\n") == 3
    disk.fail = {}
    rig.ask(kinds.OUT, 1, bytes(512))
    rig.serve()
    assert rig.answers(1)[0][0] == kinds.OK


# --- many requests -------------------------------------------------------------------------------------------------------
def test_a_single_slow_read_needs_no_other_thread(rig: Rig, disk: FakeDisk) -> None:
    rig.ask(kinds.IN, 0, 512)
    rig.serve()
    assert disk.threads == {threading.get_ident()}


def test_slow_reads_in_company_run_at_the_same_time(rig: Rig, disk: FakeDisk) -> None:
    slow(rig)
    disk.gate.clear()
    for sector in range(6):
        rig.ask(kinds.IN, sector, 512)
    rig.ask(kinds.GET_ID, 0, 20)
    rig.serve()
    rig.wait(lambda: disk.entered == 6)
    assert rig.answers(1)[0][1] == 21  # nobody waits for the slow ones
    assert not rig.blk.idle(None)
    disk.gate.set()
    assert [answer[:2] for answer in rig.answers(6)] == [(kinds.OK, 513)] * 6
    assert rig.blk.wait_idle(None, 30)
    assert threading.get_ident() not in disk.threads


def test_where_nobody_tells_what_is_cached_the_time_does(rig: Rig, disk: FakeDisk) -> None:
    def read(count: int) -> None:
        disk.threads.clear()
        for sector in range(count):
            rig.ask(kinds.IN, sector, 512)
        rig.serve()
        rig.answers(count)

    read(6)
    assert disk.threads == {threading.get_ident()}
    disk.before = lambda operation: time.sleep(0.001)
    while not rig.blk._reads.long:
        read(1)
    read(6)
    assert threading.get_ident() not in disk.threads
    disk.before = lambda operation: None
    while rig.blk._reads.long:
        read(1)
    read(6)
    assert disk.threads == {threading.get_ident()}


@pytest.mark.parametrize("kind", [kinds.IN, kinds.OUT])
@pytest.mark.parametrize("computing", [True, False])
def test_copying_for_long_is_not_waiting(rig: Rig, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch, kind: int, computing: bool) -> None:
    passed = 0

    def work(operation: str) -> None:
        nonlocal passed
        passed += 5_000_000

    monkeypatch.setattr(module, "monotonic_ns", lambda: passed)
    monkeypatch.setattr(blk_waits, "monotonic_ns", lambda: passed)
    monkeypatch.setattr(blk_waits, "thread_time_ns", lambda: passed if computing else 0)
    monkeypatch.setattr(blk_waits, "sleeps", lambda: passed)
    disk.before = work
    for sector in range(6):
        rig.ask(kind, sector, bytes(512) if kind == kinds.OUT else 512)
    rig.serve()
    rig.answers(6)
    assert (disk.threads == {threading.get_ident()}) == computing


def test_a_read_that_had_to_wait_behind_another_sends_the_next_to_workers(rig: Rig, disk: FakeDisk) -> None:
    slow(rig)
    disk.before = lambda operation: (setattr(disk, "before", lambda operation: None), rig.ask(kinds.IN, 1, 512))  # type: ignore[assignment]
    rig.ask(kinds.IN, 0, 512)
    rig.serve()
    rig.answers(2)
    assert len(disk.threads) == 2


def test_slow_writes_in_company_go_to_workers(rig: Rig, disk: FakeDisk) -> None:
    rig.blk._writes.average, rig.blk._writes.long = 10**9, True
    disk.before = lambda operation: time.sleep(0.001)
    for sector in range(4):
        rig.ask(kinds.OUT, sector, bytes(512))
    rig.serve()
    assert [answer[0] for answer in rig.answers(4)] == [kinds.OK] * 4
    assert len(disk.threads) > 1


def test_one_interrupt_for_a_batch(rig: Rig, disk: FakeDisk) -> None:
    disk.cached = True
    for sector in range(10):
        rig.ask(kinds.IN, sector, 512)
    rig.serve()
    assert len(rig.answers(10)) == 10
    assert rig.signals == [0]
    for sector in range(20):
        rig.ask(kinds.IN, sector, 512)
    rig.serve()
    assert rig.signals == [0, 0, 0]  # a batch is bounded: the driver need not wait for all


def test_no_interrupt_for_who_wants_none(rig: Rig, disk: FakeDisk) -> None:
    disk.cached = True
    rig.ring.set_no_interrupt(True)
    rig.ask(kinds.IN, 0, 512)
    rig.serve()
    assert rig.answers(1) and not rig.signals


def test_a_guest_that_never_pauses_gives_others_their_turn(rig: Rig, disk: FakeDisk) -> None:
    disk.cached = True

    def again(index: int) -> None:
        answers.extend(rig.ring.collect())
        while rig.ring.free and len(rig.ring.free) >= 3:
            rig.ask(kinds.IN, 0, 512)

    answers: list[tuple[int, int]] = []
    rig.blk.signals.queue = again
    again(0)
    rig.serve()
    assert module._TURN <= len(answers) + len(rig.ring.collect()) <= module._TURN + 20
    assert rig.kicks == [0]


def test_doorbells_are_not_wanted_while_serving(rig: Rig, disk: FakeDisk) -> None:
    seen: list[bool] = []
    disk.before = lambda operation: seen.append(rig.ring.no_notify)
    rig.ask(kinds.IN, 0, 512)
    rig.serve()
    assert seen == [True]
    assert not rig.ring.no_notify


@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize("cached", [False, True])
def test_every_request_is_answered_once_under_load(depth: int, cached: bool, disk: FakeDisk) -> None:
    """A driver on another thread keeps ``depth`` requests in flight; contents and used lengths hold."""
    rig = Rig(disk)
    slow(rig)
    disk.cached = cached
    for sector in range(disk.size // 512):
        disk.data[512 * sector : 512 * sector + 4] = struct.pack("<I", sector)
    doorbell = threading.Semaphore(0)
    ending = False

    def io_thread() -> None:
        while True:
            doorbell.acquire()
            if ending:
                return
            rig.serve()

    thread = threading.Thread(target=io_thread)
    thread.start()
    expected: dict[int, int] = {}
    done = asked = 0
    deadline = time.monotonic() + 60
    while done < 600:
        while len(expected) < depth and asked < 600:
            buffers = rig.ring.place([struct.pack("<IIQ", kinds.IN, 0, asked), 512, 1])
            expected[rig.ring.add_buffers(buffers)] = asked
            asked += 1
        if rig.ring.wants_kick():
            doorbell.release()
        contents = {head: list(chain[1]) for head, chain in rig.ring.chains.items()}
        for head, written in rig.ring.collect():
            content = rig.ring.written(contents[head])
            assert (written, content[-1]) == (513, kinds.OK)
            assert struct.unpack_from("<I", content)[0] == expected.pop(head)
            done += 1
        assert time.monotonic() < deadline, f"{done} of {asked} answered, {len(rig.ring.chains)} in flight"
        time.sleep(0.00002)  # else this thread keeps Python to itself for 5 ms at a time
    ending = True
    doorbell.release()
    thread.join(30)
    rig.close()


# --- durability ----------------------------------------------------------------------------------------------------------
def test_a_flush_is_not_answered_before_the_disk_has_flushed(rig: Rig, disk: FakeDisk) -> None:
    rig.ask(kinds.OUT, 0, bytes(512))
    rig.serve()
    rig.answers(1)
    disk.gate.clear()
    rig.ask(kinds.FLUSH)
    rig.serve()
    rig.wait(lambda: disk.entered == 2)
    assert not rig.ring.collect()
    disk.gate.set()
    assert rig.answers(1)[0][0] == kinds.OK
    assert [entry[0] for entry in disk.log] == ["write", "flush"]


CASES = [  # (features accepted, write_cache of the backend, option, guest's toggle, operations)
    (ALL, True, None, None, ["write"]),
    (blk_config.F_FLUSH, True, None, None, ["write"]),
    (0, True, None, None, ["write", "flush"]),
    (blk_config.F_CONFIG_WCE, True, None, None, ["write", "flush"]),
    (ALL, True, None, 0, ["write", "flush"]),
    (ALL, True, False, None, ["write", "flush"]),
    (ALL, True, False, 1, ["write"]),
    (ALL, False, None, None, ["write"]),
    (0, False, None, None, ["write"]),
    (blk_config.F_FLUSH, True, False, None, ["write", "flush"]),
]


@pytest.mark.parametrize(("features", "cache", "option", "toggle", "operations"), CASES)
def test_write_through(features: int, cache: bool, option: bool | None, toggle: int | None, operations: list[str]) -> None:
    """5.2.6.2: without FLUSH, or with the cache switched off, an acknowledged write is durable."""
    disk = FakeDisk(write_cache=cache)
    rig = Rig(disk, BlkOptions(write_cache=option), features)
    if toggle is not None:
        rig.blk.write_config(0x20, 1, toggle)
        assert rig.blk.read_config(0x20, 1) == toggle
    rig.ask(kinds.OUT, 0, bytes(512))
    rig.serve()
    rig.answers(1)
    assert [entry[0] for entry in disk.log] == operations
    rig.close()


def test_a_write_through_that_cannot_be_flushed_has_failed() -> None:
    disk = FakeDisk()
    disk.fail = {"flush": errno.EIO}
    rig = Rig(disk, features=0)
    rig.ask(kinds.OUT, 0, bytes(512))
    rig.serve()
    assert rig.answers(1)[0][0] == kinds.IOERR
    rig.close()


# --- configuration space ---------------------------------------------------------------------------------------------------
def test_config() -> None:
    disk = FakeDisk(8 << 20)
    blk = Rig(disk, BlkOptions(logical=512, physical=4096, min_io=4096, opt_io=65536, queues=2, queue_size=128)).blk
    read = blk.read_config
    assert read(0, 8) == 16384 and read(0, 4) == 16384 and read(4, 4) == 0
    assert (read(0x08, 4), read(0x0C, 4)) == (0, 126)
    assert (read(0x10, 2), read(0x12, 1), read(0x13, 1), read(0x14, 4)) == (16, 16, 63, 512)
    assert (read(0x18, 1), read(0x19, 1), read(0x1A, 2), read(0x1C, 4)) == (3, 0, 8, 128)
    assert (read(0x20, 1), read(0x22, 2)) == (1, 2)
    assert read(0x24, 4) >= 1 << 20 and read(0x28, 4) == 64 and read(0x2C, 4) == 8
    assert read(0x30, 4) == 1 << 18 and read(0x34, 4) == 1 and read(0x38, 1) == 1
    assert read(0x3C, 8) == 0 and read(1 << 30, 4) == 0
    assert blk.features & (blk_config.F_MQ | blk_config.F_DISCARD | blk_config.F_WRITE_ZEROES | blk_config.F_FLUSH)
    assert blk.queue_sizes == (128, 128)


def test_config_of_a_readonly_disk() -> None:
    blk = Rig(FakeDisk(readonly=True)).blk
    assert blk.features & blk_config.F_RO
    assert not blk.features & (blk_config.F_DISCARD | blk_config.F_WRITE_ZEROES)
    assert blk.read_config(0x24, 8) == blk.read_config(0x30, 8) == 0


def test_only_the_write_cache_can_be_written(rig: Rig) -> None:
    before = [rig.blk.read_config(at, 1) for at in range(0x40)]
    for size in (1, 2, 4, 8):
        for at in range(0, 0x40, size):
            rig.blk.write_config(at, size, (1 << 8 * size) - 1)
    rig.blk.write_config(1 << 40, 4, 5)
    assert [rig.blk.read_config(at, 1) for at in range(0x40)] == before
    rig.blk.write_config(0x1E, 4, 0xFF00FFFF)  # the byte is in the middle
    assert rig.blk.read_config(0x20, 1) == 0
    rig.blk.reset()
    assert rig.blk.read_config(0x20, 1) == 1
    rig.blk.write_config(0x20, 1, 0)  # not negotiated
    assert rig.blk.read_config(0x20, 1) == 1


# --- stop ------------------------------------------------------------------------------------------------------------------
def test_stop_lets_the_begun_end_and_gives_up_the_rest(rig: Rig, disk: FakeDisk) -> None:
    slow(rig)
    disk.gate.clear()
    for sector in range(12):
        rig.ask(kinds.IN, sector, 512)
    rig.serve()
    rig.wait(lambda: disk.entered == 8)  # as many as there are workers
    rig.blk.stop(None)
    assert not rig.blk.idle(None)
    begun = time.monotonic()
    assert not rig.blk.wait_idle(None, 0.05)
    assert 0.04 < time.monotonic() - begun < 10
    disk.gate.set()
    assert rig.blk.wait_idle(None, 30)
    assert len(rig.ring.collect()) == 8
    before = bytes(rig.memory.read(rig.ring.used, 256))
    rig.serve()
    time.sleep(0.01)
    assert bytes(rig.memory.read(rig.ring.used, 256)) == before


def test_a_stopped_queue_takes_nothing_and_the_other_goes_on(disk: FakeDisk) -> None:
    rig = Rig(disk, BlkOptions(queues=2))
    rig.blk.stop(0)
    for ring in rig.rings:
        rig.ask(kinds.IN, 0, 512, ring=ring)
    rig.serve(0)
    rig.serve(1)
    assert rig.rings[0].used_index == 0
    assert rig.answers(1, rig.rings[1])[0][0] == kinds.OK
    rig.rings[0].clear()
    rig.blk.queue_started(0, rig.queue(rig.rings[0]))
    rig.ask(kinds.IN, 0, 512)
    rig.serve(0)
    assert rig.answers(1)[0][0] == kinds.OK
    rig.close()


def test_reset_and_start_again(rig: Rig) -> None:
    for _ in range(3):
        rig.ask(kinds.IN, 0, 512)
        rig.serve()
        assert rig.answers(1)[0][0] == kinds.OK
        rig.blk.stop(None)
        assert rig.blk.wait_idle(None, 30)
        rig.blk.reset()
        rig.serve()
        rig.ring.clear()
        rig.start()


def test_queues_the_driver_does_not_use(disk: FakeDisk) -> None:
    rig = Rig(disk, BlkOptions(queues=2))
    rig.blk.start([None, None], ALL)
    rig.serve(0)
    rig.blk.stop(1)
    assert rig.blk.idle(1) and rig.blk.idle(None)
    rig.close()


def test_a_bug_in_a_worker_is_told(disk: FakeDisk) -> None:
    rig = Rig(disk)
    slow(rig)

    def crash(offset: int, views: list[memoryview]) -> None:
        raise RuntimeError("bug")

    disk.read = crash  # type: ignore[method-assign]
    for sector in range(2):
        rig.ask(kinds.IN, sector, 512)
    with pytest.raises(RuntimeError):
        rig.blk._lanes[0].in_flight = 0  # type: ignore[union-attr]
        rig.serve()
        rig.wait(lambda: rig.crashes)
        raise rig.crashes[0]


# --- long requests, whose tables are taken whole ---------------------------------------------------------------------------
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("cuts", [[512] * 20, [1] * 511 + [1], [100, 3, 409] * 10, [4096] * 100])
@pytest.mark.parametrize("tail", [[1], [513], [200, 313]], ids=["status alone", "status and data", "status split off late"])
def test_a_long_read(rig: Rig, disk: FakeDisk, cached: bool, cuts: list[int], tail: list[int]) -> None:
    disk.cached = cached
    disk.data[:] = bytes(range(251)) * (len(disk.data) // 251) + bytes(len(disk.data) % 251)
    size = sum(cuts) + sum(tail) - 1
    rig.ring.add(struct.pack("<IIQ", kinds.IN, 0, 3), *cuts, *tail, indirect=True)
    rig.serve()
    ((status, written, data),) = rig.answers(1)
    assert (status, written) == (kinds.OK, size + 1)
    assert data == disk.data[1536 : 1536 + size]


@pytest.mark.parametrize("head", [[16], [8, 8], [16 + 512], [1] * 16, [15, 1 + 512]], ids=str)
def test_a_long_write(rig: Rig, disk: FakeDisk, head: list[int]) -> None:
    content = bytes(range(251)) * 100
    whole = struct.pack("<IIQ", kinds.OUT, 0, 5) + content[: 512 * 40]
    parts: list[Part] = []
    at = 0
    for length in [*head, *[512] * 60]:
        if at < len(whole):
            parts.append(whole[at : at + length])
            at += length
    rig.ring.add(*parts, 1, indirect=True)
    rig.serve()
    assert rig.answers(1) == [(kinds.OK, 1, b"")]
    assert disk.data[2560 : 2560 + 512 * 40] == content[: 512 * 40]


def test_a_long_request_that_is_refused_fails_or_asks_for_something_else(rig: Rig, disk: FakeDisk) -> None:
    rig.ring.add(struct.pack("<IIQ", kinds.IN, 0, disk.size // 512 - 1), *[512] * 20, 1, indirect=True)
    rig.ring.add(struct.pack("<IIQ", kinds.OUT, 0, disk.size // 512 - 1), *[bytes(512)] * 20, 1, indirect=True)
    rig.ring.add(struct.pack("<IIQ", kinds.GET_ID, 0, 0), *[2] * 20, 1, indirect=True)
    rig.ring.add(struct.pack("<IIQ", 77, 0, 0), *[2] * 20, 1, indirect=True)
    rig.ring.add(struct.pack("<IIQ", kinds.DISCARD, 0, 0), *[struct.pack("<QII", 8 * n, 8, 0) for n in range(20)], 1, indirect=True)
    disk.fail = {"read": errno.EIO}
    rig.ring.add(struct.pack("<IIQ", kinds.IN, 0, 0), *[512] * 20, 1, indirect=True)
    rig.serve()
    answers = rig.answers(6)
    assert sorted(status for status, *_ in answers) == [0, 0, 1, 1, 1, 2]
    assert [entry for entry in disk.log if entry[0] == "discard"] == [("discard", 4096 * n, 4096) for n in range(20)]
