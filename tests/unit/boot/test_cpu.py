"""Entry states and the memory behind them agree: what a guest reloads from the GDT is what it started with."""

from __future__ import annotations

from struct import unpack_from

import pytest

from pyvmm import layout
from pyvmm.boot import cpu
from pyvmm.kvm.entry_rules import violations

PROTECTED = cpu.protected_mode(0x10_0000, rbx=0x6000)
LONG = cpu.long_mode(0x10_0000, rsi=0x7000)


def decode(descriptor: bytes) -> dict[str, int]:
    """A GDT descriptor's fields, by SDM Vol. 3A figure 3-8."""
    low, base_low, base_mid, access, flags, base_high = unpack_from("<HHBBBB", descriptor)
    g = flags >> 7
    limit = low | (flags & 0xF) << 16
    return {
        "base": base_low | base_mid << 16 | base_high << 24,
        "limit": limit << 12 | 0xFFF if g else limit,
        "type": access & 0xF,
        "s": access >> 4 & 1,
        "dpl": access >> 5 & 3,
        "present": access >> 7,
        "avl": flags >> 4 & 1,
        "l": flags >> 5 & 1,
        "db": flags >> 6 & 1,
        "g": g,
    }


@pytest.mark.parametrize("state", [PROTECTED, LONG, cpu.protected_mode(0, tss=0, code=0x08)], ids=["protected", "long", "pvh"])
@pytest.mark.parametrize("name", ["cs", "ds", "es", "fs", "gs", "ss", "tr"])
def test_the_gdt_holds_what_the_segment_registers_hold(state, name):
    segment = getattr(state, name)
    table = cpu.gdt(state)
    assert segment.selector + 8 <= len(table) == state.gdt.limit + 1
    fields = decode(table[segment.selector : segment.selector + 8])
    assert fields == {field: getattr(segment, field) for field in fields}


def test_selectors_are_those_linux_wants():
    assert (LONG.cs.selector, LONG.ds.selector) == (0x10, 0x18)


def test_with_other_selectors_what_lies_between_is_null():
    state = cpu.protected_mode(0, code=0x08)
    table = cpu.gdt(state)
    assert (state.cs.selector, state.ss.selector, state.tr.selector) == (0x08, 0x10, 0x20)
    assert not any(table[:0x08]) and not any(table[0x18:0x20]) and len(table) == 0x28


def test_a_long_mode_tss_descriptor_has_its_upper_half():
    assert len(cpu.gdt(LONG)) == len(cpu.gdt(PROTECTED)) + 8


def test_boot_structures_of_a_state_do_not_overlap():
    ranges = sorted((gpa, gpa + len(data)) for gpa, data in cpu.memory_for(LONG))
    assert [gpa for gpa, _ in ranges] == [layout.BOOT_GDT, layout.BOOT_TSS, layout.BOOT_PAGE_TABLES]
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))


def translate(root: int, memory: dict[int, bytes], address: int) -> int:
    """Walks the page tables as the CPU does in long mode (SDM Vol. 3A, 4.5.4)."""
    (tables,) = memory.values()
    entry = root
    for shift in (39, 30, 21):
        at = (entry & ~0xFFF) - root + 8 * (address >> shift & 0x1FF)
        (entry,) = unpack_from("<Q", tables, at)
        assert entry & 3 == 3, f"{address:#x} is not mapped writable"
        if entry & 0x80:
            return (entry & ~((1 << shift) - 1)) + (address & (1 << shift) - 1)
    raise AssertionError("no large page found")


@pytest.mark.parametrize("address", [0, 0x7000, 0x1F_FFFF, 0x20_0000, 0x3FFF_FFFF, 0x4000_0000, 0xFEE0_0020, 0xFFFF_FFFF])
def test_the_first_four_gib_are_identity_mapped(address):
    memory = {LONG.cr3: cpu.identity_map(LONG.cr3)}
    assert translate(LONG.cr3, memory, address) == address


def test_the_map_ends_at_four_gib():
    with pytest.raises(AssertionError, match="not mapped"):
        translate(LONG.cr3, {LONG.cr3: cpu.identity_map(LONG.cr3)}, 1 << 32)


@pytest.mark.parametrize(
    "entry, selector, rip",
    [(0x7C00, 0, 0x7C00), (0, 0, 0), (0xFFFF, 0, 0xFFFF), (0x1_0000, 0x1000, 0), (0xF_FFF0, 0xF000, 0xFFF0)],
)
def test_real_mode_splits_an_entry_into_segment_and_offset(entry, selector, rip):
    state = cpu.real_mode(entry)
    assert (state.cs.selector, state.cs.base, state.rip) == (selector, selector << 4, rip)
    assert violations(state, state) == []


def test_real_mode_needs_no_memory():
    assert cpu.memory_for(cpu.real_mode(0x7C00)) == []


def test_interrupts_are_off_in_every_mode():
    for state in (cpu.real_mode(0x7C00), PROTECTED, LONG):
        assert state.rflags == 2


def test_registers_are_passed_on():
    assert (PROTECTED.rbx, LONG.rsi, PROTECTED.rsp) == (0x6000, 0x7000, layout.BOOT_STACK)


def test_segments_are_not_shared():
    state = cpu.protected_mode(0)
    state.ds.base = 5
    assert state.es.base == state.ss.base == 0


def test_the_tss_has_no_io_bitmap():
    writes = dict(cpu.memory_for(LONG))
    tss = writes[layout.BOOT_TSS]
    assert len(tss) == LONG.tr.limit + 1
    assert unpack_from("<H", tss, 0x66) == (0x68,)
