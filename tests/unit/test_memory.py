from __future__ import annotations

import os

import pytest

from pyvmm import layout, memory
from pyvmm.errors import ConfigError, GuestFault
from pyvmm.layout import GIB, MIB

FROM_4G = layout.HIGH_RAM


@pytest.fixture(scope="module")
def big() -> memory.GuestMemory:
    """4 GiB: one region below the hole, one above; nothing is touched, so it costs nothing."""
    if memory.host_memory() < 4 * GIB:
        pytest.skip("this host has less than 4 GiB in all")
    return memory.GuestMemory(4 * GIB)


def test_smallest_guest() -> None:
    ram = memory.GuestMemory(MIB)
    ram.write(MIB - 4, b"last")
    assert ram.read(MIB - 4, 4) == b"last"
    assert [(region.gpa, region.size) for region in ram.regions] == [(0, MIB)]


def test_host_and_guest_addresses_agree_in_what_a_huge_page_holds(big: memory.GuestMemory) -> None:
    for ram in (big, memory.GuestMemory(MIB), memory.GuestMemory(3 * MIB + 4096)):
        assert [(region.host_address - region.gpa) % (2 * MIB) for region in ram.regions] == [0] * len(ram.regions)


def test_huge_pages_are_asked_for() -> None:
    """VmFlags has "hg" for a mapping whose owner wants them (proc_pid_smaps(5)); a kernel without them has no such file."""
    if not os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled"):
        pytest.skip("this kernel has no huge pages for those who ask")
    ram = memory.GuestMemory(8 * MIB)
    start = f"{ram.regions[0].host_address:x}-"
    with open("/proc/self/smaps") as smaps:
        found = smaps.read().partition(start)[2].partition("VmFlags:")[2].partition("\n")[0]
    assert "hg" in found.split(), found


def test_rom_ends_at_4_gib(big: memory.GuestMemory) -> None:
    """The guest's processors cannot write it; of RAM it takes nothing."""
    for size in (MIB, big.size):
        ram = memory.GuestMemory(size, rom=b"rom!" * 1024)
        assert [(slot.gpa, slot.size, slot.flags) for slot in ram.slots][:2] == [(0, min(size, 3 * GIB), 0), (FROM_4G - 4096, 4096, 2)]
        assert [region.gpa for region in ram.regions] == sorted(region.gpa for region in ram.regions)
        assert ram.read(FROM_4G - 4, 4) == b"rom!"
        assert ram.size == size
        with pytest.raises(GuestFault):
            ram.view(FROM_4G - 8192, 8)


def test_ram_continues_above_the_hole(big: memory.GuestMemory) -> None:
    assert [(region.gpa, region.size) for region in big.regions] == [(0, 3 * GIB), (FROM_4G, GIB)]
    big.write(FROM_4G, b"high")
    assert big.read(FROM_4G, 4) == b"high"
    assert big.read(0, 4) == bytes(4)


@pytest.mark.parametrize(
    ("gpa", "length"),
    [(3 * GIB - 1, 2), (3 * GIB, 1), (FROM_4G - 1, 2), (FROM_4G + GIB - 1, 2), (1 << 63, 8), (0, 5 * GIB), (16, -1), ((1 << 64) - 1, 1)],
)
def test_ranges_outside_ram_fault(big: memory.GuestMemory, gpa: int, length: int) -> None:
    with pytest.raises(GuestFault):
        big.view(gpa, length)
    assert not big.contains(gpa, length) or length < 0


def test_a_write_that_does_not_fit_writes_nothing() -> None:
    ram = memory.GuestMemory(MIB)
    with pytest.raises(GuestFault):
        ram.write(MIB - 2, b"abcd")
    assert ram.read(MIB - 2, 2) == bytes(2)


def test_views_are_the_memory_itself() -> None:
    ram = memory.GuestMemory(MIB)
    view = ram.view(0x1000, 8)
    view[:] = b"12345678"
    assert ram.unpack("<Q", 0x1000) == (int.from_bytes(b"12345678", "little"),)


def test_more_than_is_free_is_fine_more_than_there_is_is_not() -> None:
    total = memory.host_memory() & ~4095
    assert memory.GuestMemory(total).size == total
    with pytest.raises(ConfigError, match="lower -m"):
        memory.GuestMemory(total + 4096)


@pytest.mark.parametrize("size", [0, 4096, MIB - 4096, MIB + 1, -MIB])
def test_odd_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="at least 1M"):
        memory.GuestMemory(size)


@pytest.mark.parametrize("size", [MIB, 128 * MIB, 3 * GIB, 3 * GIB + MIB, 4 * GIB, 64 * GIB])
def test_e820_covers_ram_without_overlap(size: int) -> None:
    entries = layout.e820(size)
    for (start, length, _), (following, _, _) in zip(entries, entries[1:], strict=False):
        assert start + length <= following
    ram = sum(length for _, length, kind in entries if kind == layout.E820_RAM)
    assert ram == size - (layout.ONE_MIB - layout.EBDA)


def test_a_record_has_the_pages_of_every_view() -> None:
    ram = memory.GuestMemory(MIB)
    assert not ram.tracked
    record = ram.track()
    assert ram.tracked
    ram.write(0x1FFE, b"over the end")
    ram.view(0x5000, 0)
    ram.unpack("<I", 0x7000)
    with pytest.raises(GuestFault):
        ram.write(MIB - 1, b"no")
    assert record.take() == {1, 2, 7}
    assert record.take() == set()
    record.close()
    assert not ram.tracked
    ram.write(0, b"x")
    assert record.take() == set()
