"""The device's half of a split virtqueue. Sections are those of the Virtio specification 1.2."""

from __future__ import annotations

import gc
import weakref

import pytest

from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, QueueError, VirtQueue
from pyvmm.layout import GIB, HIGH_RAM, LOW_RAM_END, MIB
from pyvmm.memory import GuestMemory, host_memory
from tests.support.ring import Ring

SIZE = 8


class Rig:
    """A ring with both halves."""

    def __init__(self, size: int = SIZE, *, event_idx: bool = False, indirect: bool = True, start: int = 0, memory: int = 2 * MIB) -> None:
        self.memory = GuestMemory(memory)
        self.ring = Ring(self.memory, size, event_idx=event_idx)
        self.event_idx = event_idx
        if start:  # as if that many requests had gone through
            self.ring.next_avail = self.ring.seen_used = self.ring.kicked = start
            self.ring.avail_index = start
            self.ring.set_word(self.ring.used + 2, start)
        self.queue = VirtQueue(
            self.memory,
            size,
            self.ring.desc,
            self.ring.avail,
            self.ring.used,
            event_idx=event_idx,
            indirect=indirect,
            last_avail=start,
            next_used=start,
        )

    def raw(self, *descriptors: tuple[int, int, int, int]) -> None:
        """Descriptors 0.. as given: (address, length, flags, next), and a chain that starts at 0."""
        for index, descriptor in enumerate(descriptors):
            self.ring.set_descriptor(index, *descriptor)
        self.ring.publish(0)

    def refuses(self, pattern: str) -> None:
        """Twice: a queue that is broken stays where it is."""
        before = self.queue.last_avail
        for _ in range(2):
            with pytest.raises(QueueError, match=pattern) as caught:
                self.queue.pop()
            assert "\n" not in str(caught.value)
        assert self.queue.last_avail == before


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- 2.7.13, 2.7.14 requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_brings_its_buffers_in_order(rig: Rig, indirect: bool) -> None:
    head = rig.ring.add(b"head", b"more", 512, 1, indirect=indirect)
    chain = rig.queue.pop()
    assert chain is not None
    assert [bytes(view) for view in chain.readable] == [b"head", b"more"]
    assert [len(view) for view in chain.writable] == [512, 1]
    assert (chain.head, chain.readable_length, chain.writable_length, chain.faulty) == (head, 8, 513, "")
    chain.writable[1][0] = 0x5A
    rig.queue.push(chain.head, 513)
    _, buffers = rig.ring.chains[head]
    assert rig.ring.written(buffers)[-1] == 0x5A
    assert rig.ring.collect() == [(head, 513)]
    assert rig.queue.pop() is None


def test_nothing_available_is_none(rig: Rig) -> None:
    assert rig.queue.pop() is None


def test_requests_come_in_the_order_of_the_available_ring_and_go_back_in_any(rig: Rig) -> None:
    heads = [rig.ring.add(bytes([number])) for number in range(3)]
    chains = [rig.queue.pop() for _ in range(3)]
    assert [bytes(chain.readable[0]) for chain in chains if chain] == [b"\0", b"\1", b"\2"]
    for head in reversed(heads):
        rig.queue.push(head, 0)
    assert rig.ring.collect() == [(head, 0) for head in reversed(heads)]


@pytest.mark.parametrize("start", [0, 0xFFFC, 0x7FFE])
def test_indices_wrap_at_65536_and_at_the_queue_size(start: int) -> None:
    rig = Rig(4, start=start)
    for number in range(12):
        head = rig.ring.add(bytes([number]), 1)
        chain = rig.queue.pop()
        assert chain is not None
        assert bytes(chain.readable[0]) == bytes([number])
        rig.queue.push(chain.head, 1)
        assert rig.ring.collect() == [(head, 1)]
    assert rig.queue.last_avail == rig.queue.next_used == (start + 12) & 0xFFFF


def test_a_full_ring(rig: Rig) -> None:
    heads = [rig.ring.add(1) for _ in range(SIZE)]
    chains = [rig.queue.pop() for _ in range(SIZE)]
    assert [chain.head for chain in chains if chain] == heads
    assert rig.queue.pop() is None


def test_the_largest_queue() -> None:
    rig = Rig(32768)
    for _ in range(32768):
        rig.ring.publish(32767)
    for _ in range(32768):
        assert rig.queue.pop() is not None
    assert rig.queue.pop() is None


@pytest.mark.parametrize("indirect", [False, True])
def test_zero_length_buffers_leave_no_trace(rig: Rig, indirect: bool) -> None:
    rig.ring.add_buffers([(0x5000, 4, False), (1 << 63, 0, False), (0x6000, 0, True), (0x7000, 1, True)], indirect=indirect)
    chain = rig.queue.pop()
    assert chain is not None
    assert (len(chain.readable), len(chain.writable), chain.faulty) == (1, 1, "")


def test_2_7_5_3_direct_descriptors_before_an_indirect_one(rig: Rig) -> None:
    rig.ring.write_chain([0, 1], [(0x5000, 4, False), (0x6000, 8, True)], table=0x9000)
    rig.raw((0x4000, 2, DESC_NEXT, 3))
    rig.ring.set_descriptor(3, 0x9000, 32, DESC_INDIRECT | DESC_WRITE)  # its WRITE means nothing
    chain = rig.queue.pop()
    assert chain is not None
    assert ([len(view) for view in chain.readable], chain.writable_length) == ([2, 4], 8)


def test_indirect_chains_may_exceed_a_small_queue() -> None:
    rig = Rig(2)
    rig.ring.add(*[4] * 100, indirect=True)
    chain = rig.queue.pop()
    assert chain is not None
    assert len(chain.writable) == 100


# --- robustness: what the specification forbids ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", [SIZE + 1, 0x8000, 0xFFFF])
def test_available_index_ahead_of_the_ring(rig: Rig, index: int) -> None:
    rig.ring.avail_index = index
    rig.refuses("available index")


def test_available_index_going_backwards(rig: Rig) -> None:
    rig.ring.add(1)
    rig.ring.add(1)
    rig.queue.pop()
    rig.queue.pop()
    rig.ring.avail_index = 1
    rig.refuses("available index")


def test_more_in_flight_than_descriptors(rig: Rig) -> None:
    """Bounds what a device must remember: the driver makes the same descriptor available again and again."""
    for _ in range(SIZE):
        rig.ring.publish(0)
        assert rig.queue.pop() is not None
    rig.ring.publish(0)
    rig.refuses("in flight")


@pytest.mark.parametrize("head", [SIZE, 0x7FFF, 0xFFFF])
def test_head_outside_the_table(rig: Rig, head: int) -> None:
    rig.ring.publish(head)
    rig.refuses(f"descriptor {head} of a table of {SIZE}")


def test_next_outside_the_table(rig: Rig) -> None:
    rig.raw((0x5000, 1, DESC_NEXT, SIZE))
    rig.refuses(f"descriptor {SIZE} of")


def test_next_outside_the_indirect_table(rig: Rig) -> None:
    rig.ring.set_descriptor(0, 0x5000, 1, DESC_NEXT, 2, table=0x9000)
    rig.raw((0x9000, 32, DESC_INDIRECT, 0))
    rig.refuses("descriptor 2 of a table of 2")


def test_loops(rig: Rig) -> None:
    rig.raw((0x5000, 1, DESC_NEXT, 1), (0x5000, 1, DESC_NEXT, 0))
    rig.refuses("loop")


def test_indirect_loops(rig: Rig) -> None:
    rig.ring.set_descriptor(0, 0x5000, 1, DESC_NEXT, 0, table=0x9000)
    rig.raw((0x9000, 16, DESC_INDIRECT, 0))
    rig.refuses("loop")


def test_a_chain_of_every_descriptor_is_none(rig: Rig) -> None:
    rig.ring.add(*[1] * SIZE)
    assert rig.queue.pop() is not None


@pytest.mark.parametrize("length", [0, 8, 17, 31, (65536 << 4) + 16, 0xFFFF_FFF0])
def test_indirect_table_lengths(rig: Rig, length: int) -> None:
    rig.raw((0x9000, length, DESC_INDIRECT, 0))
    rig.refuses("indirect table of")


def test_indirect_table_larger_than_allowed_is_walked_within_bounds() -> None:
    rig = Rig(memory=4 * MIB)
    table = 2 * MIB
    for index in range(2048):
        rig.ring.set_descriptor(index, 0x5000, 1, DESC_NEXT, index + 1, table=table)
    rig.raw((table, 2048 * 16, DESC_INDIRECT, 0))
    rig.refuses("more descriptors than allowed")


@pytest.mark.parametrize("address", [2 * MIB - 16, 2 * MIB, LOW_RAM_END, (1 << 64) - 16])
def test_indirect_table_outside_ram(rig: Rig, address: int) -> None:
    rig.raw((address, 32, DESC_INDIRECT, 0))
    rig.refuses("indirect table at")


def test_indirect_with_next(rig: Rig) -> None:
    rig.raw((0x9000, 16, DESC_INDIRECT | DESC_NEXT, 1))
    rig.refuses("with NEXT")


def test_indirect_within_indirect(rig: Rig) -> None:
    rig.ring.set_descriptor(0, 0x9000, 16, DESC_INDIRECT, table=0x9000)
    rig.raw((0x9000, 16, DESC_INDIRECT, 0))
    rig.refuses("nested")


def test_indirect_without_the_feature() -> None:
    rig = Rig(indirect=False)
    rig.raw((0x9000, 16, DESC_INDIRECT, 0))
    rig.refuses("without VIRTIO_F_INDIRECT_DESC")


def test_2_7_4_2_readable_after_writable(rig: Rig) -> None:
    rig.raw((0x5000, 1, DESC_NEXT | DESC_WRITE, 1), (0x5000, 1, 0, 0))
    rig.refuses("device-readable")


def test_2_7_5_2_chains_beyond_4_gib() -> None:
    rig = Rig(memory=GIB)
    part = GIB - MIB
    rig.ring.write_chain([0, 1, 2, 3, 4], [(0, part, True)] * 4 + [(0, 4 * MIB + 1, True)])
    rig.ring.publish(0)
    rig.refuses("longer than 4 GiB")
    rig.ring.set_descriptor(4, 0, 4 * MIB, DESC_WRITE)
    chain = rig.queue.pop()
    assert chain is not None
    assert chain.writable_length == 4 * GIB


# --- robustness: buffers outside RAM ------------------------------------------------------------------------------------

OUTSIDE = [(2 * MIB - 1, 2), (2 * MIB, 1), (LOW_RAM_END, 1), (0xFEE0_0000, 4), (HIGH_RAM, 4096), ((1 << 64) - 1, 2), (0x1000, 0xFFFF_FFFF)]


@pytest.mark.parametrize(("address", "length"), OUTSIDE)
@pytest.mark.parametrize("indirect", [False, True])
def test_a_buffer_outside_ram_fails_the_request_not_the_ring(rig: Rig, address: int, length: int, indirect: bool) -> None:
    rig.ring.add_buffers([(address, length, False), (0x5000, 1, True)], indirect=indirect)
    rig.ring.add_buffers([(0x5000, 1, False), (address, length, True), (0x5000, 1, True)], indirect=indirect)
    rig.ring.add_buffers([(0x5000, 1, True), (address, length, True)], indirect=indirect)
    first, second, third = rig.queue.pop(), rig.queue.pop(), rig.queue.pop()
    assert first is not None and second is not None and third is not None
    assert (first.readable, first.status_lost, len(first.writable)) == ([], False, 1)
    assert (second.readable_length, second.status_lost, second.writable_length) == (1, False, 1)
    assert (third.status_lost, third.writable_length) == (True, 1)
    for chain in (first, second, third):
        assert f"{address:#x}+{length:#x} is not inside guest RAM" in chain.faulty


def test_the_last_byte_of_ram_is_ram(rig: Rig) -> None:
    rig.ring.add_buffers([(2 * MIB - 1, 1, True)])
    chain = rig.queue.pop()
    assert chain is not None and not chain.faulty
    chain.writable[0][0] = 7
    assert rig.memory.read(2 * MIB - 1, 1) == b"\7"


@pytest.mark.skipif(host_memory() < LOW_RAM_END + MIB, reason="this host has no 3 GiB to promise")
def test_ram_above_the_hole() -> None:
    rig = Rig(memory=LOW_RAM_END + MIB)
    rig.ring.add_buffers([(HIGH_RAM + 16, 4, False), (LOW_RAM_END - 4, 4, True)])
    rig.memory.write(HIGH_RAM + 16, b"high")
    rig.ring.add_buffers([(LOW_RAM_END - 1, 2, True), (HIGH_RAM + MIB - 1, 2, True), (HIGH_RAM + MIB - 1, 1, True)])
    first, second = rig.queue.pop(), rig.queue.pop()
    assert first is not None and second is not None
    assert (bytes(first.readable[0]), first.writable_length, first.faulty) == (b"high", 4, "")
    assert (second.writable_length, second.status_lost) == (1, False) and second.faulty


# --- ring addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((0x1008, 0x2000, 0x3000), "descriptor table at 0x1008 is not aligned to 16"),
        ((0x1000, 0x2001, 0x3000), "available ring at 0x2001 is not aligned to 2"),
        ((0x1000, 0x2000, 0x3002), "used ring at 0x3002 is not aligned to 4"),
        ((2 * MIB - 16, 0x2000, 0x3000), "descriptor table .* is not inside guest RAM"),
        ((0x1000, 2 * MIB, 0x3000), "available ring .* is not inside guest RAM"),
        ((0x1000, 0x2000, LOW_RAM_END), "used ring .* is not inside guest RAM"),
        (((1 << 64) - 16, 0x2000, 0x3000), "descriptor table"),
    ],
)
def test_ring_addresses_are_checked(place: tuple[int, int, int], words: str) -> None:
    with pytest.raises(QueueError, match=words):
        VirtQueue(GuestMemory(2 * MIB), SIZE, *place, event_idx=True, indirect=True)


@pytest.mark.parametrize("size", [0, 3, 12, 65536, -8])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(QueueError, match="power of two"):
        VirtQueue(GuestMemory(2 * MIB), size, 0x1000, 0x2000, 0x3000, event_idx=False, indirect=False)


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_used_ring_at_the_very_end_of_ram(event_idx: bool) -> None:
    """Without EVENT_IDX its last two bytes need not exist; with it they must."""
    memory = GuestMemory(2 * MIB)
    used = 2 * MIB - 4 - 8 * SIZE
    if event_idx:
        with pytest.raises(QueueError):
            VirtQueue(memory, SIZE, 0x1000, 0x2000, used, event_idx=True, indirect=False)
        return
    queue = VirtQueue(memory, SIZE, 0x1000, 0x2000, used, event_idx=False, indirect=False)
    for _ in range(SIZE):
        queue.push(1, 0xFFFF_FFFF)
    assert memory.read(used + 4 + 8 * (SIZE - 1), 8) == b"\1\0\0\0\xff\xff\xff\xff"


# --- 2.7.7, 2.7.10 notifications ------------------------------------------------------------------------------------------


def test_2_7_7_no_interrupt_flag(rig: Rig) -> None:
    rig.ring.add(1)
    chain = rig.queue.pop()
    assert chain is not None
    assert not rig.queue.should_signal(), "nothing was given back"
    rig.queue.push(chain.head, 0)
    assert rig.queue.should_signal()
    assert not rig.queue.should_signal(), "once is enough"
    rig.ring.set_no_interrupt(True)
    rig.queue.push(chain.head, 0)
    assert not rig.queue.should_signal()


@pytest.mark.parametrize("start", [0, 0xFFFD])
def test_2_7_7_used_event(start: int) -> None:
    rig = Rig(event_idx=True, start=start)
    rig.ring.set_used_event(start + 2 & 0xFFFF)  # wants to hear of the third
    seen = []
    for _ in range(5):
        rig.queue.push(0, 0)
        seen.append(rig.queue.should_signal())
    assert seen == [False, False, True, False, False]
    rig.ring.set_used_event(start + 6 & 0xFFFF)
    for _ in range(3):
        rig.queue.push(0, 0)
    assert rig.queue.should_signal(), "a batch that goes past it"


def test_2_7_10_flag_for_doorbells(rig: Rig) -> None:
    assert not rig.ring.no_notify
    rig.queue.disable_kicks()
    assert rig.ring.no_notify
    rig.ring.add(1)
    assert rig.queue.enable_kicks(), "it came while doorbells were off"
    assert not rig.ring.no_notify
    rig.queue.pop()
    assert not rig.queue.enable_kicks()


@pytest.mark.parametrize("start", [0, 0xFFFF])
def test_2_7_10_avail_event(start: int) -> None:
    rig = Rig(event_idx=True, start=start)
    rig.ring.set_word(rig.ring.used + 4 + 8 * SIZE, start)
    rig.ring.add(1)
    assert rig.ring.wants_kick()
    rig.queue.disable_kicks()
    assert not rig.ring.no_notify, "2.7.10.1: flags stay 0 with EVENT_IDX"
    assert rig.queue.pop() is not None
    rig.ring.add(1)
    assert not rig.ring.wants_kick(), "the device has not asked yet"
    assert rig.queue.enable_kicks()
    assert rig.queue.pop() is not None
    assert not rig.queue.enable_kicks()
    rig.ring.add(1)
    assert rig.ring.wants_kick()


# --- life time --------------------------------------------------------------------------------------------------------


def test_memory_can_be_closed_under_a_queue() -> None:
    rig = Rig()
    rig.ring.add(b"x", 4)
    rig.ring.add(b"y", 4)
    chain = rig.queue.pop()
    assert chain is not None
    rig.memory.close()
    chain.writable[0][0] = 1
    rig.queue.push(chain.head, 1)
    assert rig.queue.pop() is not None
    mapping = weakref.ref(rig.memory.mapping)
    del rig, chain
    gc.collect()
    assert mapping() is None, "nothing keeps the pages"
