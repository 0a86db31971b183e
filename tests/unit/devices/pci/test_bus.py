"""The PCI bus: configuration mechanism 1, slots, what firmware assigns, and who decodes what."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pyvmm import layout
from pyvmm.devices.pci.function import PciFunction
from pyvmm.devices.pci.host import HostBridge
from pyvmm.errors import ConfigError
from pyvmm.events import RESET
from tests.support.pci import BAR0, COMMAND, CONFIG_ADDRESS, CONFIG_DATA, IO, MASTER, MEMORY, Scratch, World

ONES = 0xFFFF_FFFF


def card(name: str = "card", **options: int) -> PciFunction:
    return PciFunction(name, 0x1AF4, 0x1042, 0x01_80_00, **options)


def test_a_line_can_be_held_against_firmware_that_does_not_know_the_board() -> None:
    world = World()
    world.bus.plug(card(), 3)
    world.bus.assign()
    line = world.read(3, 0x3C, 1)
    world.write(3, 0x3C, 0x99, size=1)
    assert world.read(3, 0x3C, 1) == 0x99
    world.write(3, 0x3C, line, size=1)
    world.bus.hold_lines()
    world.write(3, 0x3C, 0xFF, size=1)
    assert world.read(3, 0x3C, 1) == line in layout.PCI_IRQS


# --- mechanism 1 -------------------------------------------------------------------------------------------------------
def test_the_address_register_takes_doublewords_only() -> None:
    ports = World().ports
    assert ports.read(CONFIG_ADDRESS, 4) == 0
    ports.write(CONFIG_ADDRESS, 4, 0x8000_0000)
    assert ports.read(CONFIG_ADDRESS, 4) == 0x8000_0000  # what Linux's probe looks for
    ports.write(CONFIG_ADDRESS, 4, ONES)
    assert ports.read(CONFIG_ADDRESS, 4) == 0x80FF_FFFC  # reserved bits read 0, which BSD's probe looks for
    for port, size in ((0xCF8, 1), (0xCF8, 2), (0xCFA, 1), (0xCFA, 2), (0xCFB, 1), (0xCF9, 2)):
        ports.write(port, size, 0)
        assert ports.read(port, size) == (1 << 8 * size) - 1
        assert ports.read(CONFIG_ADDRESS, 4) == 0x80FF_FFFC


def test_a_byte_at_cf9_is_the_reset_control() -> None:
    world = World()
    world.ports.write(CONFIG_ADDRESS, 4, ONES)  # its second byte has all bits of a reset
    world.ports.write(0xCF9, 1, 0x02)
    assert world.ports.read(0xCF9, 1) == 0x02
    assert not world.stop.reasons
    world.ports.write(0xCF9, 1, 0x06)
    assert world.stop.kinds == [RESET]


def test_the_enable_bit_opens_the_data_register() -> None:
    world = World()
    world.bus.plug(HostBridge(), 0)
    assert world.read(0, 0) == 0x0008_1B36
    world.ports.write(CONFIG_ADDRESS, 4, 0)
    assert world.ports.read(CONFIG_DATA, 4) == ONES
    world.ports.write(CONFIG_DATA + 4 - 4, 4, 0)


def test_the_data_register_takes_any_width() -> None:
    world = World()
    world.bus.plug(HostBridge(), 0)
    assert [world.read(0, offset, 1) for offset in range(4)] == [0x36, 0x1B, 0x08, 0x00]
    assert world.read(0, 0x0A, 2) == 0x0600
    world.write(0, 0x0C, 0x40, size=1)
    assert world.read(0, 0x0C) == 0x40
    world.ports.write(CONFIG_ADDRESS, 4, 0x8000_0000)
    assert world.ports.read(0xCFE, 4) == 0xFFFF_0008  # two bytes of it, two of nobody
    assert world.ports.read(0xCFA, 4) == 0x1B36_FFFF
    world.ports.write(CONFIG_ADDRESS, 4, 0x8000_000C)
    world.ports.write(0xCFB, 2, 0x10_00)
    assert world.read(0, 0x0C, 1) == 0x10


def test_low_bits_of_the_address_count_for_narrow_accesses() -> None:
    """kvm-unit-tests' lib/x86/asm/pci.h reads the device id as a word at 0xCFC with 2 in the address."""
    world = World()
    world.bus.plug(HostBridge(), 0)
    for low, port, size, value in (
        (2, 0xCFC, 2, 0x0008), (2, 0xCFE, 2, 0x0008), (1, 0xCFC, 1, 0x1B), (3, 0xCFF, 1, 0x00), (2, 0xCFC, 4, 0x0008_1B36),
    ):  # fmt: skip
        world.ports.write(CONFIG_ADDRESS, 4, 0x8000_0000 | low)
        assert world.ports.read(CONFIG_ADDRESS, 4) == 0x8000_0000
        assert world.ports.read(port, size) == value
    world.ports.write(CONFIG_ADDRESS, 4, 0x8000_00FF)
    assert world.ports.read(CONFIG_DATA, 2) == 0xFF00  # the last byte, and one behind it
    world.ports.write(CONFIG_DATA, 2, 0)


def test_who_is_not_there_reads_as_ones() -> None:
    world = World()
    world.bus.plug(HostBridge(), 0)
    for slot, function in ((1, 0), (31, 0), (0, 1), (0, 7)):
        assert world.read(slot, 0, function=function) == ONES
        world.ports.write(CONFIG_DATA, 4, 0)
    for bus in (1, 0xFF):
        world.ports.write(CONFIG_ADDRESS, 4, 0x8000_0000 | bus << 16)
        assert world.ports.read(CONFIG_DATA, 4) == ONES
        assert world.ports.read(CONFIG_DATA + 3, 1) == 0xFF
        world.ports.write(CONFIG_DATA, 4, 0)


# --- slots -------------------------------------------------------------------------------------------------------------
def test_slots_are_given_out_in_order() -> None:
    world = World()
    assert world.bus.plug(HostBridge(), 0) == 0
    assert world.bus.plug(card("b"), 2) == 2
    assert [world.bus.plug(card()) for _ in range(3)] == [1, 3, 4]
    assert [devfn >> 3 for devfn in world.bus.functions] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="taken by b"):
        world.bus.plug(card(), 2)
    for slot in (-1, 32):
        with pytest.raises(ConfigError, match="does not exist"):
            world.bus.plug(card(), slot)
    for _ in range(27):
        world.bus.plug(card())
    with pytest.raises(ConfigError, match="all 31"):
        world.bus.plug(card())


@pytest.mark.parametrize("last", [0, 1])
def test_a_slot_with_several_functions_says_so(last: int) -> None:
    world = World()
    for number in (1 - last, last):
        world.bus.plug(card(), 3, number)
    assert world.read(3, 0x0E, 1) == 0x80
    assert world.read(3, 0x00, function=1) == 0x1042_1AF4


def test_neighbours_interrupt_on_different_lines() -> None:
    world = World()
    for slot in range(1, 6):
        world.bus.plug(card(), slot)
    world.bus.plug(card(pin=3), 6)
    world.bus.plug(card(pin=0), 7)
    assert [number for number, _ in world.lines] == [1, 2, 3, 0, 1, 0]
    world.bus.functions[2 << 3].set_intx(1)
    assert [line.level for _, line in world.lines] == [0, 1, 0, 0, 0, 0]
    world.bus.assign()
    assert [world.read(slot, 0x3C, 1) for slot in range(1, 8)] == [layout.PCI_IRQS[n] for n in (1, 2, 3, 0, 1, 0)] + [0]


# --- firmware's part ---------------------------------------------------------------------------------------------------
def test_assign_places_every_bar() -> None:
    world = World()
    world.bus.plug(HostBridge(), 0)
    for _ in range(31):
        one = card()
        one.add_bar(0, 64, Scratch(), kind="io")
        one.add_bar(1, 4096, Scratch())
        one.add_bar(2, 16, Scratch())
        one.add_bar(4, 1 << 14, Scratch(), kind="mem64", prefetch=True)
        world.bus.plug(one)
    world.bus.assign()
    bars = [bar for function in world.bus.functions.values() for bar in function.bars]
    for kind, first, end in (("io", layout.PCI_IO, layout.PCI_IO_END), ("mem", layout.PCI_MEMORY, layout.PCI_MEMORY_END)):
        ranges = sorted((bar.base or 0, (bar.base or 0) + bar.size) for bar in bars if bar.kind.startswith(kind))
        assert all(start % (size_end - start) == 0 for start, size_end in ranges)
        assert ranges[0][0] >= first
        assert ranges[-1][1] <= end
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    assert all(bar.base % 4096 == 0 for bar in bars if bar.base is not None and bar.kind != "io")
    assert [world.read(slot, COMMAND, 2) for slot in (0, 1, 31)] == [0, IO | MEMORY, IO | MEMORY]


def test_large_bars_go_above_4_gib_when_they_can() -> None:
    world = World(ram=((0, 0xC000_0000), (1 << 32, 1 << 30)))
    one = card()
    big = one.add_bar(0, 1 << 30, Scratch(), kind="mem64")
    world.bus.plug(one)
    world.bus.assign()
    assert big.base == 5 << 30
    two = card()
    two.add_bar(0, 1 << 30, Scratch())
    world.bus.plug(two)
    with pytest.raises(ConfigError, match="no room"):
        world.bus.assign()


# --- decoding ----------------------------------------------------------------------------------------------------------
class Two:
    """Two functions in slots 1 and 2 with an I/O BAR and a memory BAR each, where firmware puts them; log of moves of the first."""

    def __init__(self) -> None:
        self.world = World()
        self.scratch = [Scratch("a"), Scratch("b")]
        self.moves: list[int | None] = []
        for device in self.scratch:
            function = card(device.name)
            function.add_bar(0, 4096, device)
            function.add_bar(1, 64, device, kind="io")
            function.add_bar(2, 1 << 14, device, kind="mem64")
            self.world.bus.plug(function)
        self.world.bus.assign()
        self.bars = [function.bars for function in self.world.bus.functions.values()]
        self.bars[0][0].on_place = self.moves.append

    def at(self, gpa: int) -> str | None:
        found = [mapping.device.name for mapping in self.world.mmio.mappings if mapping.base <= gpa < mapping.end]
        return found[0] if found else None


def test_a_bar_answers_where_it_is_and_moves_with_its_register() -> None:
    two = Two()
    world, old = two.world, two.bars[0][0].base
    assert old is not None
    world.mmio.write(old + 8, 4, 0x1234_5678)
    assert two.scratch[0].state.data[8:12] == b"\x78\x56\x34\x12"
    world.write(1, BAR0, 0xD000_0000)
    assert two.moves == [None, 0xD000_0000]
    assert world.mmio.read(0xD000_0008, 4) == 0x1234_5678
    assert world.mmio.read(old + 8, 4) == ONES
    world.write(1, COMMAND, IO, size=2)
    assert two.moves == [None, 0xD000_0000, None]
    assert world.mmio.read(0xD000_0008, 4) == ONES
    world.write(1, BAR0, old)
    assert two.moves == [None, 0xD000_0000, None]
    world.write(1, COMMAND, MEMORY, size=1)
    assert two.moves == [None, 0xD000_0000, None, old]


def test_sizing_with_decoding_on_maps_nothing_on_the_way() -> None:
    two = Two()
    bar = two.bars[0][2]
    old = bar.base
    assert old is not None
    places: list[int | None] = []
    bar.on_place = places.append
    for offset in (BAR0 + 8, BAR0 + 12):
        before = two.world.read(1, offset)
        two.world.write(1, offset, ONES)
        two.world.write(1, offset, before)
    assert places == [None, old, None, old]
    assert two.at(old) == "a"


def test_io_bars_move_too() -> None:
    two = Two()
    world = two.world
    world.write(1, BAR0 + 4, 0x1000)
    world.ports.write(0x1010, 2, 0xABCD)
    assert two.scratch[0].state.data[0x10:0x12] == b"\xcd\xab"
    world.write(1, BAR0 + 4, 0x1_1000)
    assert world.ports.read(0x1010, 2) == 0xFFFF
    world.write(1, BAR0 + 4, 0xCC0)  # 64 ports up to 0xCFF: over the configuration ports
    assert two.bars[0][1].base is None
    assert world.read(1, 0) == 0x1042_1AF4


@pytest.mark.parametrize(
    "gpa", [0x1000, (128 << 20) - 4096, layout.IOAPIC, layout.LAPIC, layout.TSS, layout.TSS + 0x2000, layout.IDENTITY_MAP, 0xFFFF_F000]
)
def test_ram_and_what_the_kernel_answers_cannot_be_covered(gpa: int) -> None:
    two = Two()
    two.world.write(1, BAR0, gpa)
    assert two.bars[0][0].base is None
    assert two.at(gpa) is None
    assert two.world.read(1, BAR0) == gpa  # the register has it


def test_rom_cannot_be_covered_and_moves_no_window() -> None:
    rom = (0xFFFC_0000, 256 << 10)
    ram = [(0, 3 << 30), rom, (1 << 32, 1 << 30)]
    world = World(tuple(ram))
    function = card()
    bar = function.add_bar(0, 1 << 30, Scratch(), kind="mem64")
    world.bus.plug(function, 1)
    world.bus.assign()
    assert bar.base == layout.pci_memory_64(4 << 30)[0]
    small = card()
    covering = small.add_bar(0, 4096, Scratch())
    world.bus.plug(small, 2)
    world.write(2, COMMAND, MEMORY)
    for gpa, there in ((rom[0] - 0x1_0000, True), (rom[0], False), (rom[0] + 0x8000, False)):
        world.write(2, BAR0, gpa)
        assert (covering.base == gpa) is there


@pytest.mark.parametrize("port", [0x20, 0x40, 0xA0, 0x4C0])
def test_ports_of_the_kernel_cannot_be_covered(port: int) -> None:
    two = Two()
    two.world.write(1, BAR0 + 4, port)
    assert two.bars[0][1].base is None


def test_another_device_cannot_be_covered() -> None:
    two = Two()
    two.world.mmio.add(layout.VIRTIO_MMIO, 0x200, Scratch("fixed"))
    two.world.write(1, BAR0, layout.VIRTIO_MMIO)
    assert two.at(layout.VIRTIO_MMIO) == "fixed"
    assert two.bars[0][0].base is None


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_that_overlap_the_lower_slot_wins_whoever_came_first(order: tuple[int, int]) -> None:
    two = Two()
    for slot in order:
        two.world.write(slot, BAR0, 0xD000_0000)
    assert two.at(0xD000_0000) == "a"
    assert two.bars[1][0].base is None
    two.world.write(1, BAR0, 0xD100_0000)  # out of the way
    assert two.at(0xD000_0000) == "b"
    two.world.write(1, BAR0, 0xD000_0000)
    assert two.at(0xD000_0000) == "a"
    two.world.write(1, COMMAND, 0, size=2)
    assert two.at(0xD000_0000) == "b"


def test_two_bars_change_places() -> None:
    two = Two()
    first, second = two.bars[0][0].base, two.bars[1][0].base
    assert first is not None and second is not None
    heard: list[tuple[str, int | None]] = []
    two.bars[0][0].on_place = lambda base: heard.append(("a", base))
    two.bars[1][0].on_place = lambda base: heard.append(("b", base))
    two.world.write(1, BAR0, second)  # the lower slot wins
    assert heard == [("a", None), ("b", None), ("a", second)]
    two.world.write(2, BAR0, first)
    assert (two.at(first), two.at(second)) == ("b", "a")


def test_bars_of_one_function_may_overlap_as_well() -> None:
    two = Two()
    two.world.write(1, BAR0 + 8, 0xD000_0000)
    two.world.write(1, BAR0, 0xD000_1000)
    assert two.bars[0][0].base == 0xD000_1000
    assert two.bars[0][2].base is None


def test_reset_undoes_everything() -> None:
    two = Two()
    function = two.world.bus.functions[1 << 3]
    function.set_intx(1)
    two.world.write(1, COMMAND, IO | MEMORY | MASTER, size=2)
    two.world.ports.write(0xCF9, 1, 2)
    two.world.bus.reset()
    assert not any(bar.base for bars in two.bars for bar in bars)
    assert not two.world.mmio.mappings
    assert [mapping.device.name for mapping in two.world.ports.mappings] == ["pci"]
    assert not any(line.level for _, line in two.world.lines)
    assert two.world.ports.read(CONFIG_ADDRESS, 4) == two.world.ports.read(0xCF9, 1) == 0


def test_the_run_loops_are_told_of_every_move() -> None:
    two = Two()
    changes: list[int] = []
    two.world.mmio.on_change.append(lambda: changes.append(1))
    two.world.write(1, 0x0C, 0x10)
    two.world.write(1, COMMAND, IO | MEMORY | MASTER, size=2)
    assert not changes
    two.world.write(1, BAR0, 0xD000_0000)
    assert changes


def test_memory_bars_are_put_at_the_end_of_the_window_the_largest_first() -> None:
    """As PC firmware does: small kernels map devices from 0xFE000000 on."""
    world = World()
    sizes = (0x1000, 0x2_0000, 0x4000)
    bars = []
    for slot, size in enumerate(sizes, 1):
        function = card(f"card{slot}")
        bars.append(function.add_bar(0, size, Scratch(), kind="mem64" if slot == 3 else "mem32"))
        world.bus.plug(function, slot)
    world.bus.assign()
    first = 0xFEAC_0000
    assert [bar.base for bar in bars] == [first + 0x2_4000, first, first + 0x2_0000]
    assert first + sum(sizes) <= layout.PCI_MEMORY_END
