"""Registers found by offset, size, direction and state; fields in words."""

from __future__ import annotations

from pyvmm.observe.explain.registers import Found, character, clear, fields, find, part, table

SERIAL = "pyvmm.devices.serial_regs:REGISTERS"
RTC = "pyvmm.devices.rtc_regs:REGISTERS"
PCI = "pyvmm.devices.pci.bus_regs:REGISTERS"
VIRTIO = "pyvmm.devices.virtio.pci_regs:REGISTERS"
E1000 = "pyvmm.devices.e1000.regs:REGISTERS"
MSIX = "pyvmm.devices.pci.msix_regs:ENTRY"


def names(found: list[Found]) -> list[str]:
    return [each.name for each in found]


def test_direction_chooses() -> None:
    assert names(find(SERIAL, 0, 1, True)) == ["THR"]
    assert names(find(SERIAL, 0, 1, False)) == ["RBR"]
    assert names(find(SERIAL, 2, 1, True)) == ["FCR"]


def test_the_divisor_latch() -> None:
    assert names(find(SERIAL, 0, 1, True, {"lcr": 0x83})) == ["DLL"]
    assert names(find(SERIAL, 1, 1, False, {"lcr": 0x80})) == ["DLM"]
    assert names(find(SERIAL, 1, 1, False, {"lcr": 3})) == ["IER"]


def test_a_write_to_what_is_read_only() -> None:
    (found,) = find(SERIAL, 5, 1, True)
    assert (found.name, found.wrong_way) == ("LSR", True)


def test_an_index_leads_further() -> None:
    assert names(find(RTC, 1, 1, False, {"index": 0x8B})) == ["DATA", "B"]
    assert names(find(RTC, 1, 1, False, {"index": 0x35})) == ["DATA", "RAM[0x35]"]
    assert names(find(RTC, 1, 1, False)) == ["DATA"]
    assert names(find("pyvmm.devices.e1000.regs:IO_REGISTERS", 4, 4, True, {"address": 0})) == ["IODATA", "CTRL"]
    assert names(find("pyvmm.devices.e1000.regs:IO_REGISTERS", 4, 4, True, {"address": 0xFFFF_FFF0})) == ["IODATA"]


def test_registers_that_repeat() -> None:
    assert names(find(E1000, 0x5208, 4, True)) == ["MTA[2]"]
    assert names(find(VIRTIO, 0x3004, 2, True)) == ["queue_notify of queue 1"]
    assert names(find(MSIX, 0x24, 4, True)) == ["UADDR of vector 2"]
    assert names(find(MSIX, 0x800, 4, False)) == []


def test_widths() -> None:
    assert names(find(PCI, 1, 1, True)) == ["RST_CNT"]
    assert names(find(PCI, 0, 4, True)) == ["CONFADD"]
    assert names(find(PCI, 0, 1, True)) == []
    assert names(find(SERIAL, 4, 4, False)) == ["MCR", "LSR", "MSR", "SCR"]


def test_a_part_stands_where_it_belongs() -> None:
    (high,) = find(VIRTIO, 0x24, 4, True)
    assert (high.name, part(high, 0x12, 4)) == ("queue_desc", 0x12_0000_0000)
    low, msr = find(SERIAL, 5, 2, False)
    assert (part(low, 0xB060, 2), part(msr, 0xB060, 2)) == (0x60, 0xB0)


def test_memory_has_no_bytes_of_its_own() -> None:
    (found,) = find("pyvmm.devices.pc_testdev_regs:MEMORY", 0x100, 2, True)
    assert (found.name, part(found, 0x1234, 2)) == ("MEMORY+0x100", 0x1234)


def test_fields() -> None:
    (lcr,) = find(SERIAL, 3, 1, True)
    told = [(each.name, each.place, each.value) for each in fields(lcr, 0x83, 1)]
    assert told == [("DLAB", "bit 7", 1), ("WLEN", "bits 1:0", 3)]
    assert clear(lcr, 0x83, 1) == ["BREAK", "STICK", "EVEN", "PARITY", "STOP"]


def test_an_address_is_shown_whole() -> None:
    (bar,) = find("pyvmm.devices.pci.function_regs:HEADER", 0x10, 4, False)
    assert ("BASE", 0xC000_0000) in [(each.name, each.value) for each in fields(bar, 0xC000_0000, 4)]


def test_fields_that_were_not_reached_are_left_out() -> None:
    (ctrl,) = find(E1000, 0, 1, False)
    assert {each.name for each in fields(ctrl, 0xFF, 1)} == {"FD", "LRST", "ASDE", "SLU", "ILOS"}


def test_characters() -> None:
    (thr,), (lsr,) = find(SERIAL, 0, 1, True), find(SERIAL, 5, 1, False)
    assert [character(thr, value) for value in (0x41, 10, 0xFF)] == ["'A'", "'\\n'", ""]
    assert character(lsr, 0x41) == ""


def test_only_tables_of_devices_are_loaded() -> None:
    names = (
        "os:environ",
        "pyvmm.devices.serial:Serial",
        "pyvmm.devices.no_such_regs:X",
        "pyvmm.devices.serial_regs:NO",
        "",
        "pyvmm.devices..regs:X",
    )
    assert [table(name) for name in names] == [()] * len(names)
    assert table("pyvmm.devices.serial_regs:bits") == ()
