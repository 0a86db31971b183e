"""Long indirect tables taken whole (Virtio 1.2, 2.7.5.3): the same as the walk, or nothing."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pyvmm import scatter
from pyvmm.devices.virtio import indirect
from pyvmm.devices.virtio.indirect import LEAST, Tables
from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Chain, QueueError, VirtQueue
from pyvmm.kvm.native import address_of
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.scatter import IOV_MAX, IOVEC, Scatter
from tests.support.ring import Ring

if TYPE_CHECKING:
    from pyvmm.scatter import Views

RAM = 64 * MIB
TABLE = 0x20_0000
Entry = list[int]  # address, length, flags, next


class Rig:
    """One ring in guest memory, and two devices' halves of it: one takes tables whole, the other walks."""

    def __init__(self, size: int = 256) -> None:
        self.memory = GuestMemory(RAM)
        self.ring = Ring(self.memory, size)
        self.quick, self.plain = (
            VirtQueue(self.memory, size, self.ring.desc, self.ring.avail, self.ring.used, event_idx=False, indirect=True) for _ in range(2)
        )
        self.quick.take_whole()

    def publish(self, table: list[Entry], where: int = TABLE) -> None:
        self.memory.write(where, b"".join(struct.pack("<QIHH", *entry) for entry in table))
        self.ring.set_descriptor(0, where, 16 * len(table), DESC_INDIRECT)
        self.ring.publish(0)

    def place(self, views: Views) -> list[tuple[int, int]]:
        """Guest addresses and lengths."""
        base = self.memory.regions[0].host_address
        return [(address_of(view) - base, len(view)) for view in views]

    def outcome(self, queue: VirtQueue) -> tuple[object, ...]:
        """All that can be told apart of a call of ``pop``. The queue goes on in any case."""
        try:
            chain = queue.pop()
        except QueueError as error:
            queue.last_avail = queue.last_avail + 1 & 0xFFFF
            return (str(error),)
        assert chain is not None
        for views, length in ((chain.readable, chain.readable_length), (chain.writable, chain.writable_length)):
            assert sum(map(len, views)) == length
            assert not isinstance(views, Scatter) or views.length == length
        place = self.place(chain.readable), self.place(chain.writable)
        return chain.head, *place, chain.readable_length, chain.writable_length, chain.faulty, chain.status_lost

    def same(self, table: list[Entry], where: int = TABLE) -> bool:
        """Whether the table was taken whole; both halves must see the same in it."""
        self.publish(table, where)
        taken = self.tables.take(self.memory.view(where, 16 * len(table)), len(table))
        outcome = self.outcome(self.plain)
        assert self.outcome(self.quick) == outcome
        for _ in range(2):  # at the second look it is known
            block = self.tables.block(self.memory.view(where, 16 * len(table)), len(table))
            assert block is not None or taken is None or (table[0][1], table[-1][1]) != (16, 1)
            if block is not None:
                inward, header, status, data = block
                places = [(header, 16)], [*self.place(data), (status, 1)]
                assert outcome[1:3] == (places if inward else ([(header, 16), *self.place(data)], [(status, 1)]))
                assert outcome[3:] == ((16, data.length + 1, "", False) if inward else (16 + data.length, 1, "", False))
        self.quick.next_used = self.plain.next_used = self.quick.last_avail
        return taken is not None

    def three(self) -> bool:
        """Whether the published table is one of three buffers for ``VirtQueue.three``: then the walk must see the same in it."""
        found = self.quick.three()
        before = self.quick.last_avail
        outcome = self.outcome(self.plain)
        if found is not None:
            head, first, header, second, length, writable, third, behind = found
            readable, written = [(first, header)], [(third, behind)]
            if length:
                (written if writable else readable).insert(0 if writable else 1, (second, length))
            assert outcome == (head, readable, written, sum(n for _, n in readable), sum(n for _, n in written), "", False)
        assert self.quick.last_avail == before, "it does not move on"
        self.quick.last_avail = self.plain.last_avail
        self.quick.next_used = self.plain.next_used = self.quick.last_avail
        return found is not None

    @property
    def tables(self) -> Tables:
        assert self.quick._tables is not None
        return self.quick._tables


@pytest.fixture(params=["moved", "computed"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Both ways to host addresses."""
    if not scatter.supported():
        pytest.skip("this C library has no preadv2")
    rig = Rig()
    assert rig.tables._moves, "GuestMemory begins at a multiple of 16 MiB"
    if request.param == "computed":
        rig.tables._moves = []
    return rig


def plain(chance: random.Random, count: int, reading: bool, usual: bool | None = None) -> list[Entry]:
    """As Linux makes them: header, pages, status. Usual: all the buffers between are of one page."""
    if usual is None:
        usual = chance.random() < 0.5
    table: list[Entry] = []
    for i in range(count):
        length = 16 if i == 0 else 1 if i == count - 1 else 4096 if usual else chance.choice((4096, 4096, 512, 1, 65536))
        flags = DESC_WRITE if (i and reading) or i == count - 1 else 0
        table.append([chance.randrange(RAM - length + 1), length, flags | DESC_NEXT, i + 1])
    table[-1][2] &= ~DESC_NEXT
    return table


Flaw = Callable[[random.Random, list[Entry]], None]


def change(at: int, value: int, where: Callable[[random.Random, int], int]) -> Flaw:
    """One number of one entry: ``at`` 0 address, 1 length, 2 flags, 3 next."""

    def flaw(chance: random.Random, table: list[Entry]) -> None:
        table[where(chance, len(table))][at] = value

    return flaw


def flip(bit: int, where: Callable[[random.Random, int], int]) -> Flaw:
    """A flag of one entry."""

    def flaw(chance: random.Random, table: list[Entry]) -> None:
        table[where(chance, len(table))][2] ^= bit

    return flaw


def lies(address: Callable[[int], int], length: int | None = None) -> Flaw:
    """One buffer is elsewhere: at an address that follows from its length."""

    def flaw(chance: random.Random, table: list[Entry]) -> None:
        entry = table[chance.randrange(len(table))]
        entry[1] = entry[1] if length is None else length
        entry[0] = address(entry[1]) & (1 << 64) - 1  # of a buffer that another flaw made empty, or longer than memory

    return flaw


def all_lie(address: int | None, length: int) -> Flaw:
    def flaw(chance: random.Random, table: list[Entry]) -> None:
        for entry in table:
            entry[:2] = [entry[0] if address is None else address, length]

    return flaw


def moved(chance: random.Random, table: list[Entry]) -> None:
    """The chain goes through the table in another order."""
    order = [0, *chance.sample(range(1, len(table)), len(table) - 1)]
    entries = [list(entry) for entry in table]
    for at, (place, entry) in enumerate(zip(order, entries, strict=True)):
        table[place] = [*entry[:3], order[at + 1] if at + 1 < len(order) else 0]


def turned(chance: random.Random, table: list[Entry]) -> None:
    """Reading ends, and writing begins, somewhere in the middle."""
    border = chance.randrange(2, len(table) - 1)
    for i in range(1, len(table) - 1):
        table[i][2] = DESC_NEXT | (DESC_WRITE if i >= border else 0)


def anywhere(chance: random.Random, count: int) -> int:
    return chance.randrange(count)


def inner(chance: random.Random, count: int) -> int:
    return chance.randrange(2, count - 2)


def but_last(chance: random.Random, count: int) -> int:
    return chance.randrange(count - 1)


def first(_: random.Random, count: int) -> int:
    return 0


def last(_: random.Random, count: int) -> int:
    return count - 1


# What is wrong, or odd, in a table -> (how it comes about, whether it is taken whole all the same)
ODD: dict[str, tuple[Flaw, bool]] = {
    "nothing": (lambda chance, table: None, True),
    "the last one's next": (change(3, 0xFFFF, last), True),
    "a next beyond the table": (change(3, 0xFFFF, but_last), False),
    "a loop": (change(3, 0, but_last), False),
    "it ends early": (flip(DESC_NEXT, but_last), False),
    "it does not end": (flip(DESC_NEXT, last), False),
    "another order": (moved, False),
    "reading for a while": (turned, False),
    "a direction": (flip(DESC_WRITE, inner), False),
    "a header to write": (flip(DESC_WRITE, first), False),
    "a status to read": (flip(DESC_WRITE, last), False),
    "a table in it": (flip(DESC_INDIRECT, anywhere), False),
    "an unknown flag": (flip(0x8000, anywhere), False),
    "empty": (change(1, 0, anywhere), False),
    "empty and outside": (lies(lambda length: 1 << 63, 0), False),
    "all empty": (all_lie(None, 0), False),
    "up to the end of memory": (lies(lambda length: RAM - length), True),
    "one byte beyond it": (lies(lambda length: RAM - length + 1), False),
    "from its end on": (lies(lambda length: RAM), False),
    "at 4 GiB": (lies(lambda length: (1 << 32) - length), False),
    "at 2**63": (lies(lambda length: 1 << 63), False),
    "up to 2**64": (lies(lambda length: (1 << 64) - length), False),
    "round 2**64": (lies(lambda length: (1 << 64) - 1), False),
    "all of memory": (lies(lambda length: 0, RAM), True),
    "more than memory": (lies(lambda length: 0, RAM + 1), False),
    "the longest": (lies(lambda length: 0, 0xFFFF_FFFF), False),
    "the longest, farthest out": (lies(lambda length: (1 << 64) - 1, 0xFFFF_FFFF), False),
    "all as long and far out as can be": (all_lie((1 << 64) - 1, 0xFFFF_FFFF), False),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("reading", [False, True])
def test_the_same_as_the_walk(rig: Rig, odd: str, reading: bool) -> None:
    flaw, whole = ODD[odd]
    chance = random.Random(odd)
    for count in (LEAST, LEAST + 1, 64, 255, IOV_MAX):
        for usual in (False, True):
            table = plain(chance, count, reading, usual)
            flaw(chance, table)
            assert rig.same(table) == whole, count


def test_the_same_as_the_walk_at_random(rig: Rig) -> None:
    chance = random.Random(7)
    flaws = [flaw for flaw, _ in ODD.values()]
    whole = 0
    for _ in range(1000):
        table = plain(chance, chance.choice((LEAST, 9, 10, 33, chance.randint(1, 300))), chance.random() < 0.5)
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            if len(table) >= LEAST:
                chance.choice(flaws)(chance, table)
        for _ in range(chance.choice((0, 0, 0, 1, 3))):
            entry = chance.choice(table)
            at = chance.randrange(4)
            entry[at] ^= 1 << chance.randrange((64, 32, 16, 16)[at])
        whole += rig.same(table)
    assert 200 < whole < 800


@pytest.mark.parametrize("count", [1, 3, LEAST - 1, IOV_MAX + 1, 2000])
def test_tables_of_other_lengths_are_walked(count: int) -> None:
    assert not Rig(4096).same(plain(random.Random(1), count, True) if count > 1 else [[0x5000, 1, DESC_WRITE, 0]])


def test_each_single_bit(rig: Rig) -> None:
    """No bit of a table is judged differently, wherever it is."""
    for reading in (False, True):
        table = plain(random.Random(3), LEAST, reading)
        for entry in range(LEAST):
            for at, bits in enumerate((64, 32, 16, 16)):
                for bit in range(bits):
                    table[entry][at] ^= 1 << bit
                    rig.same(table)
                    table[entry][at] ^= 1 << bit
        assert rig.same(table)


@pytest.mark.parametrize("host", [0x7F12_3400_0000, 0x7FFF_FF00_0000, 0x5500_FF00_0000, 0x7F12_3420_0000])
def test_addresses_wherever_memory_begins(host: int) -> None:
    """The carry out of the fourth byte goes as far as it must."""

    class Memory:
        """Three GiB that nobody looks into."""

        def __len__(self) -> int:
            return 3 << 30

        def __getitem__(self, where: slice) -> bytes:
            return bytes(int(where.stop - where.start))

    tables = Tables(Memory(), host)  # type: ignore[arg-type]
    assert bool(tables._moves) == (host % (16 * MIB) == 0)
    chance = random.Random(host)
    for at_end in (False, True):
        table = plain(chance, 64, True, usual=True)
        for entry in table:
            entry[0] = chance.randrange((3 << 30) - (1 << 24))
        if at_end:
            table[40][0] = (3 << 30) - 4096
        computed = tables._computed
        if tables._moves and not at_end:
            tables._computed = None  # type: ignore[assignment, method-assign]  # not wanted
        taken = tables.take(memoryview(b"".join(struct.pack("<QIHH", *entry) for entry in table)), 64)
        tables._computed = computed  # type: ignore[method-assign]
        assert taken is not None
        pieces = taken[1]
        assert isinstance(pieces, Scatter)
        assert list(IOVEC.iter_unpack(pieces.iovecs)) == [(host + entry[0], entry[1]) for entry in table[1:]]


THREE = [  # what the flaw does to a request of three buffers -> whether it is still taken whole
    ("nothing", True), ("the last one's next", True), ("a next beyond the table", False), ("a loop", False), ("it ends early", False),
    ("it does not end", False), ("a header to write", False), ("a status to read", False), ("a table in it", False),
    ("an unknown flag", False), ("empty", False), ("empty and outside", False), ("all empty", False), ("up to the end of memory", True),
    ("one byte beyond it", False), ("from its end on", False), ("at 2**63", False), ("round 2**64", False), ("all of memory", True),
    ("more than memory", False), ("the longest", False), ("the longest, farthest out", False),
]  # fmt: skip


@pytest.mark.parametrize(("odd", "whole"), THREE)
@pytest.mark.parametrize("reading", [False, True])
def test_three_buffers_are_the_same_as_the_walk(rig: Rig, odd: str, whole: bool, reading: bool) -> None:
    for seed in range(20):
        chance = random.Random(seed)
        table = plain(chance, 3, reading)
        ODD[odd][0](chance, table)
        rig.publish(table)
        assert rig.three() == whole
        rig.quick.next_used = rig.plain.next_used = rig.quick.last_avail


@pytest.mark.parametrize("count", [2, 3])
def test_each_single_bit_of_three(rig: Rig, count: int) -> None:
    for reading in (False, True):
        table = plain(random.Random(3), count, reading)
        for entry in range(count):
            for at, bits in enumerate((64, 32, 16, 16)):
                for bit in range(bits):
                    table[entry][at] ^= 1 << bit
                    rig.publish(table)
                    rig.three()
                    table[entry][at] ^= 1 << bit
        rig.publish(table)
        assert rig.three()


@pytest.mark.parametrize("flags", range(8))
@pytest.mark.parametrize("count", [2, 3])
def test_where_the_table_is_and_what_its_descriptor_says(rig: Rig, flags: int, count: int) -> None:
    content = b"".join(struct.pack("<QIHH", *entry) for entry in plain(random.Random(9), count, True))
    for address in (0, TABLE, RAM - 48, RAM - 47, RAM, 1 << 32, (1 << 64) - 48):
        for length in (0, 16, 32, 47, 48, 49, 64, 1 << 20, (1 << 32) - 1):
            rig.memory.write(TABLE, content)
            rig.ring.set_descriptor(0, address, length, flags)
            rig.ring.publish(0)
            assert rig.three() == (flags == DESC_INDIRECT and length == 16 * count and address == TABLE), (address, length)


def test_4_gib_are_the_limit(rig: Rig) -> None:
    """2.7.5.2: of a chain in all, however small the memory it is in."""
    table = [[0, RAM, DESC_NEXT | DESC_WRITE, i + 1] for i in range((1 << 32) // RAM)]
    table[0][2] = DESC_NEXT
    table[-1][2] = DESC_WRITE
    assert rig.same(table)
    table[-1][2] |= DESC_NEXT
    table.append([0, 1, DESC_WRITE, 0])
    assert not rig.same(table), "a byte more"


def test_a_table_at_the_end_of_memory_or_over_its_buffers(rig: Rig) -> None:
    table = plain(random.Random(4), 256, True)
    assert rig.same(table, RAM - 4096)
    table[9][0] = TABLE
    assert rig.same(table)


def test_what_comes_headerthe_table_is_not_forgotten(rig: Rig) -> None:
    """2.7.5.3.2: a direct descriptor, then one that points to a table."""
    table = plain(random.Random(5), 20, True)
    rig.memory.write(TABLE, b"".join(struct.pack("<QIHH", *entry) for entry in table))
    for direct in ((0x5000, 4, DESC_NEXT, 3), (0x5000, 0, DESC_NEXT, 3), (0x5000, 0, DESC_NEXT | DESC_WRITE, 3)):
        rig.ring.set_descriptor(0, *direct)
        rig.ring.set_descriptor(3, TABLE, 16 * 20, DESC_INDIRECT)
        rig.ring.publish(0)
        found = rig.outcome(rig.quick)
        assert found == rig.outcome(rig.plain)
        rig.quick.next_used = rig.plain.next_used = rig.quick.last_avail


def test_memory_is_looked_at_once() -> None:
    """The driver may change the table at any moment: what is judged is what is used."""

    class Table:
        """Nothing but its bytes, and no second time."""

        def __init__(self) -> None:
            self.content = [b"".join(struct.pack("<QIHH", 4096 * i, 8, 1 if i == 0 else 3 if i < 9 else 2, i + 1) for i in range(10))]

        def __bytes__(self) -> bytes:
            return self.content.pop()

    memory = bytearray(MIB)
    tables = Tables(memoryview(memory), address_of(memory))
    taken = tables.take(Table(), 10)  # type: ignore[arg-type]
    assert taken is not None
    assert taken[2:] == (8, 72)
    assert tables.block(Table(), 10) is None, "no such header"  # type: ignore[arg-type]


def test_a_table_that_has_changed_is_not_taken_for_the_last(rig: Rig) -> None:
    table = plain(random.Random(9), 20, True)
    table[0], table[-1] = (table[0][0], 16, *table[0][2:]), (table[-1][0], 1, *table[-1][2:])
    for at in range(20):
        assert rig.same(table)
        table[at] = (0x7000, *table[at][1:])


def test_what_is_kept_for_lengths_of_tables_is_bounded(rig: Rig) -> None:
    for count in range(LEAST, 400):
        assert rig.same(plain(random.Random(count), count, True))
        tables = rig.tables
        assert sum(tables._shapes) == tables._kept <= indirect._KEPT


def test_a_record_of_writes_walks(rig: Rig) -> None:
    """``GuestMemory.track`` wants to hear of every buffer."""
    table = plain(random.Random(6), 64, True)
    record = rig.memory.track()
    for queue in (rig.quick, rig.plain):
        queue.track(True)
    rig.publish(table)
    record.take()
    chain = rig.quick.pop()
    assert chain is not None
    assert isinstance(chain.writable, list)
    assert {entry[0] // 4096 for entry in table} <= record.take()
    rig.quick.put_back(1)
    record.close()
    rig.quick.track(False)
    chain = rig.quick.pop()
    assert chain is not None
    assert isinstance(chain.writable, Scatter)


def test_memory_stays_mapped_as_long_as_somebody_has_its_addresses(rig: Rig) -> None:
    rig.publish(plain(random.Random(8), 64, True))
    chain = rig.quick.pop()
    assert isinstance(chain, Chain)
    pieces = chain.writable
    assert isinstance(pieces, Scatter)
    rig.memory.close()
    assert not rig.memory.mapping.closed
    del rig.quick, rig.plain
    with open("/dev/zero", "rb") as zeros:
        assert pieces.preadv(zeros.fileno(), 0) == pieces.length
