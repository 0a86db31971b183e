"""A PCI function's configuration space: masks, BAR registers, capabilities, the interrupt pin."""

from __future__ import annotations

import pytest

from pyvmm.devices.pci.function import PHYSICAL_LIMIT, Bar, PciFunction
from tests.support.fakes import FakeLine
from tests.support.pci import Scratch

IO, MEM, MASTER, INTX_OFF = 1, 2, 4, 0x400


def make(**options: int) -> PciFunction:
    return PciFunction("card", 0x1AF4, 0x1042, 0x01_80_00, revision=1, subsystem=(0x1AF4, 0x1100), **options)


def test_the_header_says_what_it_is() -> None:
    card = make(pin=2)
    assert card.read_config(0, 4) == 0x1042_1AF4
    assert card.read_config(8, 4) == 0x0180_0001
    assert card.read_config(0x2C, 4) == 0x1100_1AF4
    assert card.read_config(0x3C, 4) == 0x0000_0200
    assert card.read_config(0x0E, 1) == 0


def test_any_width_reads_the_same_bytes() -> None:
    card = make()
    whole = card.state.config
    for size in (1, 2, 4):
        for offset in range(256 - size + 1):
            assert card.read_config(offset, size) == int.from_bytes(whole[offset : offset + size], "little")


def test_only_writable_bits_take_writes() -> None:
    card = make()
    for offset in range(0, 256, 4):
        card.write_config(offset, 4, 0xFFFF_FFFF)
    written = {offset: card.read_config(offset, 4) for offset in range(0, 256, 4)}
    assert written[0] == 0x1042_1AF4
    assert written[4] == 0x0000_0547
    assert written[0x0C] == 0x0000_F8FF  # cache line size, latency timer
    assert written[0x3C] == 0x0000_01FF  # interrupt line
    assert not any(written[offset] for offset in (0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30, 0x34))  # no BARs, no ROM, no list
    assert not any(written[offset] for offset in range(0x40, 256, 4))


def test_byte_writes_reach_their_byte_only() -> None:
    card = make()
    card.write_config(5, 1, 0x04)
    assert card.read_config(4, 2) == INTX_OFF
    card.write_config(4, 1, MEM)
    assert card.read_config(4, 2) == INTX_OFF | MEM
    card.write_config(3, 4, 0x00_00_00_FF)  # unaligned: bytes 3 to 6
    assert card.read_config(0, 4) == 0x1042_1AF4
    assert card.command == 0


def test_accesses_behind_the_end_do_nothing() -> None:
    card = make()
    assert card.read_config(254, 4) == 0xFFFF_0000
    assert card.read_config(300, 2) == 0xFFFF
    card.write_config(254, 4, 0)
    card.write_config(300, 4, 0)


def test_status_errors_clear_by_writing_ones() -> None:
    card = make()
    card.state.config[6:8] = b"\x00\xf9"
    card.write_config(6, 2, 0x8100)
    assert card.read_config(6, 2) == 0x7800
    card.write_config(4, 4, 0xFFFF_0000)
    assert card.read_config(6, 2) == 0


# --- BARs --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "prefetch", "size", "flags"),
    [("io", False, 4, 1), ("io", False, 256, 1), ("mem32", False, 16, 0), ("mem32", True, 4096, 8), ("mem32", False, 1 << 31, 0)],
)
def test_sizing_reads_back_mask_and_flags(kind: str, prefetch: bool, size: int, flags: int) -> None:
    card = make()
    card.add_bar(2, size, Scratch(), kind=kind, prefetch=prefetch)  # type: ignore[arg-type]
    assert card.read_config(0x18, 4) == flags
    card.write_config(0x18, 4, 0xFFFF_FFFF)
    assert card.read_config(0x18, 4) == -size & 0xFFFF_FFFF | flags
    card.write_config(0x18, 4, 0)
    assert card.read_config(0x18, 4) == flags


@pytest.mark.parametrize("size", [16, 0x4000, 1 << 32, 1 << 40])
def test_a_64_bit_bar_sizes_both_halves(size: int) -> None:
    card = make()
    card.add_bar(4, size, Scratch(), kind="mem64", prefetch=True)
    card.write_config(0x20, 4, 0xFFFF_FFFF)
    card.write_config(0x24, 4, 0xFFFF_FFFF)
    assert card.read_config(0x20, 4) | card.read_config(0x24, 4) << 32 == -size & (1 << 64) - 1 | 0xC


@pytest.mark.parametrize(
    ("index", "size", "kind"),
    [(0, 0, "mem32"), (0, 24, "mem32"), (0, 8, "mem32"), (0, 2, "io"), (0, 512, "io"), (6, 16, "mem32"), (5, 16, "mem64"),
     (-1, 16, "mem32"), (2, 16, "mem32"), (1, 16, "mem64"), (3, 16, "mem32"), (0, 1 << 32, "mem32"), (0, 1 << 52, "mem64")],
)  # fmt: skip
def test_impossible_bars_are_refused(index: int, size: int, kind: str) -> None:
    card = make()
    card.add_bar(2, 16, Scratch(), kind="mem64")
    with pytest.raises(ValueError, match="BAR"):
        card.add_bar(index, size, Scratch(), kind=kind)  # type: ignore[arg-type]


def where(card: PciFunction, bar: Bar, command: int, *values: int) -> int | None:
    for at, value in enumerate(values):
        card.write_config(0x10 + 4 * (bar.index + at), 4, value)
    card.write_config(4, 2, command)
    return bar.wanted(card.state.config)


def test_where_bars_are_wanted() -> None:
    card = make()
    io = card.add_bar(0, 32, Scratch(), kind="io")
    low = card.add_bar(1, 4096, Scratch())
    high = card.add_bar(2, 1 << 14, Scratch(), kind="mem64")
    assert where(card, io, IO, 0xC000) == 0xC000
    assert where(card, io, MEM, 0xC000) is None  # I/O is not decoded
    assert where(card, io, IO, 0xFFE0) == 0xFFE0
    assert where(card, io, IO, 0x1_0000) is None
    assert where(card, io, IO, 0xFFFF_FFFF) is None
    assert where(card, io, IO, 0) is None
    assert where(card, low, MEM, 0xC000_0123) == 0xC000_0000
    assert where(card, low, IO | MASTER, 0xC000_0000) is None
    assert where(card, low, MEM, 0xFFFF_FFFF) is None  # being sized
    assert where(card, low, MEM, 0) is None
    assert where(card, high, MEM, 0xC000_4000, 0) == 0xC000_4000
    assert where(card, high, MEM, 0, 5) == 5 << 32
    assert where(card, high, MEM, 0xFFFF_FFFF, 0) is None
    assert where(card, high, MEM, 0xFFFF_FFFF, 0xFFFF_FFFF) is None
    assert where(card, high, MEM, 0, 0xFFFF_FFFF) is None
    assert where(card, high, MEM, 0xFFFF_C000, (PHYSICAL_LIMIT >> 32) - 1) == PHYSICAL_LIMIT - (1 << 14)
    assert where(card, high, MEM, 0, PHYSICAL_LIMIT >> 32) is None


# --- capabilities ------------------------------------------------------------------------------------------------------
def test_capabilities_form_a_list_with_masks() -> None:
    card = make()
    assert not card.read_config(6, 2) & 0x10
    first = card.add_capability(0x09, b"\x05\xaa\xbb", writable=b"\0\xf0")
    second = card.add_capability(0x11, b"\1\2\3\4")
    assert card.read_config(6, 2) & 0x10
    assert (first, second) == (0x40, 0x48)
    assert card.read_config(0x34, 1) == first
    assert card.read_config(first, 4) == 0xAA05_4809
    assert card.read_config(second, 4) == 0x0201_0011
    card.write_config(first, 4, 0)
    assert card.read_config(first, 4) == 0x0A05_4809
    with pytest.raises(ValueError, match="no room"):
        card.add_capability(0x09, bytes(200))


def test_watchers_hear_of_writes_to_their_bytes() -> None:
    card = make()
    heard: list[str] = []
    card.watch(0x40, 2, lambda: heard.append("cap"))
    card.watch(0x04, 1, lambda: heard.append("command"))
    cap, none = ["cap"], list[str]()
    for offset, size, expected in ((0x3C, 4, none), (0x3E, 4, cap), (0x41, 1, cap), (0x42, 2, none), (0x05, 1, none), (4, 4, ["command"])):
        heard.clear()
        card.write_config(offset, size, 0)
        assert heard == expected, hex(offset)


# --- interrupt pin -----------------------------------------------------------------------------------------------------
def test_the_pin_drives_its_line_and_the_status_bit() -> None:
    card, line = make(), FakeLine()
    card.set_intx(1)  # not plugged in yet
    card.intx = line
    card.drive_intx()
    assert line.level == 1
    assert card.read_config(6, 2) & 8
    assert card.read_config(4, 4) & 8 << 16
    assert card.read_config(6, 1) & 8
    card.write_config(4, 2, INTX_OFF)
    assert line.level == 0
    assert card.read_config(6, 2) & 8  # pending all the same
    card.write_config(4, 2, 0)
    assert line.level == 1
    card.set_intx(0)
    assert line.level == 0
    assert not card.read_config(6, 2) & 8
    assert line.edges == 2


def test_the_pin_is_silent_while_messages_are_used() -> None:
    card, card.intx = make(), (line := FakeLine())
    card.use_messages(True)
    card.set_intx(1)
    assert line.level == 0
    card.use_messages(False)
    assert line.level == 1


def test_on_command_is_called_for_changes_only() -> None:
    commands: list[int] = []

    class Card(PciFunction):
        def on_command(self, command: int) -> None:
            commands.append(command)

    card = Card("card", 1, 2, 3)
    card.write_config(4, 2, MEM | MASTER)
    card.write_config(4, 2, MEM | MASTER)
    card.write_config(4, 1, 0)
    card.write_config(0x10, 4, 0)
    assert commands == [MEM | MASTER, 0]
    assert not (card.memory_enabled or card.io_enabled or card.bus_master)


def test_reset_is_power_on() -> None:
    card, card.intx = make(), (line := FakeLine())
    card.add_bar(0, 4096, Scratch())
    card.add_capability(9, b"\x01", b"\xff")
    before = bytes(card.state.config)
    parts: list[str] = []
    card.at_reset.append(lambda: parts.append("reset"))
    for offset in range(0, 256, 4):
        card.write_config(offset, 4, 0x5A5A_5A5A)
    card.set_intx(1)
    card.reset()
    assert bytes(card.state.config) == before
    assert line.level == 0
    assert parts == ["reset"]
