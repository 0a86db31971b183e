"""pc-testdev as kvm-unit-tests use it."""

from __future__ import annotations

import pytest

from pyvmm.devices.pc_testdev import IRQ_LINES, MEMORY_LENGTH, IoMemory, IrqPorts, Latch, PageFlush
from pyvmm.errors import GuestFault


def test_latch_keeps_every_width_at_its_byte_lanes() -> None:
    latch = Latch()
    latch.write(0, 4, 0x11223344)
    latch.write(1, 1, 0xAA)
    latch.write(2, 2, 0xBBCC)
    assert [latch.read(0, 4), latch.read(0, 1), latch.read(1, 1), latch.read(2, 2)] == [0xBBCCAA44, 0x44, 0xAA, 0xBBCC]
    latch.write(3, 2, 0xFFFF)
    assert latch.read(0, 8) == 0xFFCCAA44, "what sticks out is lost"
    latch.reset()
    assert latch.read(0, 4) == 0


def test_flush_hands_on_the_page_of_the_address() -> None:
    pages: list[int] = []
    PageFlush(pages.append).write(0, 4, 0x12345678)
    assert pages == [0x12345000]


def test_flush_of_a_page_that_is_not_there_is_harmless() -> None:
    def flush(gpa: int) -> None:
        raise GuestFault(gpa, 4096)

    port = PageFlush(flush)
    port.write(0, 4, 0xFFFF_FFFF)
    assert port.read(0, 4) == 0


def test_irq_ports_drive_their_line() -> None:
    driven: list[tuple[int, int]] = []
    ports = IrqPorts(lambda gsi, level: driven.append((gsi, level)))
    for line, value in ((0x0E, 1), (0x0E, 1), (0x0E, 0), (23, 0x80)):
        ports.write(line, 1, value)
    assert driven == [(14, 1), (14, 1), (14, 0), (23, 1)]
    assert [ports.read(line, 1) for line in (14, 23)] == [0, 1]
    ports.reset()
    assert driven[-1] == (23, 0)
    assert len(driven) == 5


def test_irq_ports_restored_drives_all_lines() -> None:
    driven: dict[int, int] = {}
    ports = IrqPorts(driven.__setitem__)
    ports.state.levels = 1 << 5
    ports.restored()
    assert driven == {line: int(line == 5) for line in range(IRQ_LINES)}


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_memory_stores_every_width(size: int) -> None:
    memory = IoMemory()
    value = 0x8877665544332211 & (1 << 8 * size) - 1
    memory.write(MEMORY_LENGTH - size, size, value | 1 << 70)
    assert memory.read(MEMORY_LENGTH - size, size) == value
    assert memory.read(MEMORY_LENGTH - 1, 1) == value >> 8 * (size - 1)
    assert IoMemory().read(MEMORY_LENGTH - size, size) == 0, "contents are not shared"
