"""MSI-X: who is sent when, masks, pending bits, and every width of access to the table."""

from __future__ import annotations

import threading

import pytest

from pyvmm.devices.pci.function import PciFunction
from pyvmm.devices.pci.msix import MsiX, MsiXState
from tests.support.fakes import FakeLine
from tests.support.pci import COMMAND, MASTER, MEMORY, Messages

ENABLE, MASK_ALL = 0x8000, 0x4000
ADDRESS, DATA = 0xFEE0_1000, 0x4041


class World:
    def __init__(self, vectors: int = 3, on: bool = True) -> None:
        self.card = PciFunction("card", 1, 2, 3)
        self.line = self.card.intx = FakeLine()
        self.messages = Messages()
        self.msix = MsiX(self.card, vectors, self.messages)
        if on:
            self.card.write_config(COMMAND, 2, MEMORY | MASTER)
            self.control(ENABLE)

    def control(self, value: int) -> None:
        self.card.write_config(self.msix.offset + 2, 2, value)

    def entry(self, vector: int, address: int = ADDRESS, data: int = DATA, masked: int = 0) -> None:
        for at, value in enumerate((address & 0xFFFF_FFFF, address >> 32, data + vector, masked)):
            self.msix.write(16 * vector + 4 * at, 4, value)

    @property
    def sent(self) -> list[int]:
        """Vectors that were sent since the last look."""
        found = [data - DATA for _, data in self.messages.sent]
        self.messages.sent.clear()
        return found


@pytest.mark.parametrize(
    ("vectors", "size", "pba"),
    [(1, 0x1000, 0x800), (128, 0x1000, 0x800), (129, 0x2000, 0x1000), (256, 0x2000, 0x1000), (2048, 0x1_0000, 0x8000)],
)
def test_the_capability_tells_where_table_and_pending_bits_are(vectors: int, size: int, pba: int) -> None:
    world = World(vectors, on=False)
    at = world.msix.offset
    assert world.card.read_config(at, 1) == 0x11
    assert world.card.read_config(at + 2, 2) == vectors - 1
    assert world.card.read_config(at + 4, 4) == 1  # BAR 1, offset 0
    assert world.card.read_config(at + 8, 4) == pba | 1
    (bar,) = world.card.bars
    assert (bar.index, bar.size) == (1, size)
    world.control(0xFFFF)
    assert world.card.read_config(at + 2, 2) == 0xC000 | vectors - 1
    assert world.msix.read(pba + (vectors - 1) // 64 * 8, 8) == 0
    assert pba + -(-vectors // 64) * 8 <= size


@pytest.mark.parametrize("vectors", [0, 2049, -1])
def test_impossible_numbers_of_vectors_are_refused(vectors: int) -> None:
    with pytest.raises(ValueError, match="vectors"):
        World(vectors)


def test_a_vector_sends_the_message_the_guest_wrote() -> None:
    world = World()
    world.entry(1, address=0x12_FEE0_1000)
    world.msix.trigger(1)
    assert world.messages.sent == [(0x12_FEE0_1000, DATA + 1)]
    world.msix.write(16 + 8, 4, 99)
    world.msix.trigger(1)
    assert world.messages.sent[1:] == [(0x12_FEE0_1000, 99)]
    world.msix.trigger(1)
    assert len(world.messages.made) == 2  # made once, sent twice


def test_all_vectors_start_masked() -> None:
    world = World()
    assert [world.msix.read(16 * vector + 12, 4) for vector in range(3)] == [1, 1, 1]
    world.msix.trigger(0)
    assert not world.messages.sent
    assert world.msix.read(0x800, 8) == 1


def test_a_masked_vector_waits_and_is_sent_once() -> None:
    world = World()
    world.entry(2, masked=1)
    world.msix.trigger(2)
    world.msix.trigger(2)
    assert world.sent == []
    assert world.msix.read(0x800, 4) == 4
    world.msix.write(2 * 16 + 12, 4, 0)
    assert world.sent == [2]
    assert world.msix.read(0x800, 4) == 0
    world.msix.write(2 * 16 + 12, 4, 0)
    assert world.sent == []


def test_the_function_mask_holds_all_back() -> None:
    world = World()
    for vector in range(3):
        world.entry(vector)
    world.control(ENABLE | MASK_ALL)
    world.msix.trigger(2)
    world.msix.trigger(0)
    assert world.msix.read(0x800, 1) == 5
    world.entry(0, masked=1)
    world.control(ENABLE)
    assert world.sent == [2]
    assert world.msix.read(0x800, 1) == 1


def test_nothing_is_sent_while_bus_master_is_off() -> None:
    world = World()
    world.entry(0)
    world.card.write_config(COMMAND, 2, MEMORY)
    world.msix.trigger(0)
    assert world.sent == []
    world.card.write_config(COMMAND, 2, MEMORY | MASTER)
    assert world.sent == [0]


def test_switched_off_it_sends_and_remembers_nothing_and_the_pin_works() -> None:
    world = World()
    calls: list[bool] = []
    world.msix.on_enable = lambda: calls.append(world.msix.enabled)
    world.entry(0)
    world.card.set_intx(1)
    assert world.line.level == 0
    world.control(0)
    assert world.line.level == 1
    world.msix.trigger(0)
    world.control(ENABLE | MASK_ALL)
    assert world.line.level == 0
    world.control(ENABLE)
    assert world.sent == []
    assert calls == [False, True]


def test_what_linux_does() -> None:
    """Enable with everything masked, write the entries, unmask them, drop the function mask."""
    world = World(on=False)
    world.control(ENABLE | MASK_ALL)
    for vector in range(3):
        world.entry(vector, masked=1)
    world.card.write_config(COMMAND, 2, MEMORY | MASTER | 0x400)
    world.control(ENABLE)
    for vector in range(3):
        world.msix.write(16 * vector + 12, 4, 0)
    world.msix.trigger(1)
    assert world.sent == [1]


def test_vectors_that_do_not_exist_send_nothing() -> None:
    world = World()
    world.msix.trigger(3)
    world.msix.trigger(0xFFFF)
    assert world.msix.read(0x800, 8) == 0


def test_a_device_reset_forgets_what_is_pending() -> None:
    world = World()
    world.entry(0, masked=1)
    world.msix.trigger(0)
    world.msix.forget()
    world.msix.write(12, 4, 0)
    assert world.sent == []


def test_the_table_takes_every_width_and_keeps_reserved_bits_zero() -> None:
    world = World()
    world.msix.write(0, 8, 0xFFFF_FFFF_FFFF_FFFF)
    assert world.msix.read(0, 8) == 0xFFFF_FFFF_FFFF_FFFC
    world.msix.write(8, 8, 0xFFFF_FFFE_0000_0077)
    assert world.msix.read(8, 4) == 0x77
    assert world.msix.read(12, 4) == 0
    world.msix.trigger(0)
    assert world.messages.sent == [(0xFFFF_FFFF_FFFF_FFFC, 0x77)]
    world.msix.write(9, 1, 0x12)
    assert world.msix.read(8, 2) == 0x1277
    world.msix.write(14, 4, 0x5555_FFFF)  # over two entries
    assert world.msix.read(12, 8) == 0x0000_5554_0000_0000
    assert world.msix.read(17, 1) == 0x55


def test_the_rest_of_the_bar_reads_zero_and_takes_nothing() -> None:
    world = World()
    world.msix.trigger(2)
    before = bytes(world.msix.state.table)
    for offset in (48, 0x400, 0x7F8, 0x800, 0x808, 0xFF8):
        world.msix.write(offset, 8, 0)
        assert world.msix.read(offset, 8) == (4 if offset == 0x800 else 0)
    assert world.msix.state.table == before
    assert world.msix.read(0x7FE, 4) == 4 << 16  # two bytes of nothing, two of the pending bits
    assert world.msix.read(44, 8) == 1


def test_reset_masks_everything() -> None:
    world = World()
    world.entry(0)
    world.msix.trigger(2)
    world.card.reset()
    assert not world.msix.enabled
    assert world.msix.read(12, 4) == 1
    assert world.msix.read(0x800, 8) == world.msix.read(0, 8) == 0
    world.msix.trigger(0)
    assert world.sent == []


def test_a_restored_copy_goes_on() -> None:
    world, twin = World(), World(on=False)
    world.entry(0, masked=1)
    world.entry(1)
    world.msix.trigger(0)
    twin.card.state.config[:] = world.card.state.config
    twin.msix.state = MsiXState(table=bytearray(world.msix.state.table), pending=world.msix.state.pending)
    twin.card.restored()
    twin.msix.restored()
    twin.msix.trigger(1)
    twin.msix.write(12, 4, 0)
    assert twin.sent == [1, 0]


def test_masking_from_one_thread_loses_nothing_that_another_triggers() -> None:
    """Every trigger is sent or ends in the pending bit; after the last unmask nothing is left."""
    world = World()
    world.entry(0)
    done = threading.Event()

    def interrupts() -> None:
        for _ in range(2000):
            world.msix.trigger(0)
        done.set()

    thread = threading.Thread(target=interrupts)
    thread.start()
    while not done.is_set():
        world.msix.write(12, 4, 1)
        before = len(world.messages.sent)
        assert len(world.messages.sent) == before  # masked: none may come
        world.msix.write(12, 4, 0)
    thread.join()
    world.messages.sent.clear()
    world.msix.write(12, 4, 1)
    world.msix.trigger(0)
    world.msix.write(12, 4, 0)
    assert world.sent == [0]
