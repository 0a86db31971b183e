from __future__ import annotations

import pytest

from pyvmm.bus import Bus
from pyvmm.errors import ConfigError
from pyvmm.events import Access


class Latch:
    """A device of plain bytes that notes how it was accessed."""

    def __init__(self, name: str = "latch", length: int = 8) -> None:
        self.name = name
        self.state = bytearray(length)
        self.seen: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append(("r", offset, size))
        return int.from_bytes(self.state[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append(("w", offset, size))
        self.state[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self) -> None:
        self.state[:] = bytes(len(self.state))


@pytest.fixture
def bus() -> Bus:
    return Bus("pio", 0x1_0000)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_nothing_reads_all_ones(bus: Bus, size: int) -> None:
    bus.write(0x1234, size, 0)
    assert bus.read(0x1234, size) == (1 << 8 * size) - 1


def test_a_device_sees_offsets(bus: Bus) -> None:
    device = Latch()
    bus.add(0x100, 8, device)
    bus.write(0x104, 2, 0xBEEF)
    assert bus.read(0x104, 2) == 0xBEEF
    assert device.seen == [("w", 4, 2), ("r", 4, 2)]


def test_wide_accesses_are_split_to_the_devices_width(bus: Bus) -> None:
    device = Latch()
    bus.add(0x100, 8, device, width=1)
    bus.write(0x100, 4, 0x44332211)
    assert device.seen == [("w", 0, 1), ("w", 1, 1), ("w", 2, 1), ("w", 3, 1)]
    assert bus.read(0x100, 2) == 0x2211


def test_an_access_over_the_end_is_split_into_bytes(bus: Bus) -> None:
    device = Latch()
    bus.add(0x100, 8, device)
    device.state[7] = 0x5A
    assert bus.read(0x107, 2) == 0xFF5A
    assert bus.read(0x106, 4) == 0xFFFF5A00


def test_an_access_that_starts_in_nothing_and_ends_in_a_device(bus: Bus) -> None:
    device = Latch()
    bus.add(0x100, 8, device)
    bus.write(0x0FE, 4, 0x44332211)
    assert device.state[:3] == b"\x33\x44\x00"


def test_an_access_over_two_devices_reaches_both(bus: Bus) -> None:
    low, high = Latch("low"), Latch("high")
    bus.add(0x100, 8, low)
    bus.add(0x108, 8, high)
    bus.write(0x106, 4, 0x44332211)
    assert (low.state[6:], high.state[:2]) == (b"\x11\x22", b"\x33\x44")


@pytest.mark.parametrize(("base", "length"), [(0xF8, 9), (0x100, 8), (0x102, 2), (0x107, 1), (0xF0, 0x100)])
def test_overlap_is_refused_and_names_both(bus: Bus, base: int, length: int) -> None:
    bus.add(0x100, 8, Latch("first"))
    with pytest.raises(ConfigError, match="second.*overlaps first"):
        bus.add(base, length, Latch("second", length))


@pytest.mark.parametrize(("base", "length"), [(0xFFFF, 2), (0x1_0000, 1), (-1, 1), (0x10, 0)])
def test_ranges_off_the_bus_are_refused(bus: Bus, base: int, length: int) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        bus.add(base, length, Latch())


def test_neighbours_do_not_overlap(bus: Bus) -> None:
    bus.add(0x100, 8, Latch())
    bus.add(0x108, 8, Latch())
    bus.add(0xF8, 8, Latch())
    assert [mapping.base for mapping in bus.mappings] == [0xF8, 0x100, 0x108]


def test_move_and_remove_tell_the_run_loop(bus: Bus) -> None:
    changes: list[int] = []
    bus.on_change.append(lambda: changes.append(1))
    mapping = bus.add(0x100, 8, Latch())
    bus.move(mapping, 0x200)
    assert bus.read(0x100, 1) == 0xFF
    assert bus.read(0x200, 1) == 0
    bus.remove(mapping)
    assert bus.read(0x200, 1) == 0xFF
    bus.move(mapping, 0x300)
    assert bus.read(0x300, 1) == 0
    assert len(changes) >= 4


def test_a_move_onto_another_device_is_refused(bus: Bus) -> None:
    bus.add(0x200, 8, Latch("there"))
    mapping = bus.add(0x100, 8, Latch("mover"))
    with pytest.raises(ConfigError):
        bus.move(mapping, 0x204)
    assert bus.read(0x100, 1) == 0xFF
    assert bus.mappings[0].device.name == "there"


def test_taps_see_accesses_and_leave_no_trace(bus: Bus) -> None:
    device = Latch()
    mapping = bus.add(0x100, 8, device)
    before = mapping.read, mapping.write
    seen: list[Access] = []
    detach = bus.tap(seen.append)
    bus.write(0x101, 1, 7)
    assert bus.read(0x101, 1) == 7
    detach()
    bus.read(0x101, 1)
    assert [(each.address, each.is_write, each.value, each.device, each.offset) for each in seen] == [
        (0x101, True, 7, "latch", 1),
        (0x101, False, 7, "latch", 1),
    ]
    assert (mapping.read, mapping.write) == before


def test_unclaimed_accesses_are_counted_and_bounded(bus: Bus) -> None:
    bus.unclaimed = {}
    for _ in range(3):
        bus.read(0x80, 1)
    for port in range(0x10000):
        bus.write(port, 1, 0)
    assert bus.unclaimed[0x80, 1, False] == 3
    assert len(bus.unclaimed) <= 4096
