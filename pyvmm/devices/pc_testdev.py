"""QEMU's pc-testdev, which kvm-unit-tests drive: one device for each of its ranges.

    0xE0-0xE3, 0xE8-0xEB  Latch      four bytes that read back
    0xE4-0xE7             PageFlush  makes the host drop its translation of a guest page
    0x2000-0x2017         IrqPorts   24 interrupt lines to drive by hand
    0xFF000000, 64 KiB    IoMemory   memory that is not RAM: every access is an exit
"""

from __future__ import annotations

from pyvmm.errors import GuestFault
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PORT_LATCH, PORT_FLUSH, PORT_LATCH_BYTES, PORT_IRQ_LINES = 0xE0, 0xE4, 0xE8, 0x2000
LATCH_LENGTH = 4
IRQ_LINES = 24
MEMORY_LENGTH = 64 * 1024


class LatchState(Record):
    """The four bytes, lowest port first, as a number."""

    value: int = 0


class Latch:
    """Four bytes of storage on ports. Map it with length 4: at 0xE0 with width 4, at 0xE8 with width 1 (byte by byte)."""

    registers = "pyvmm.devices.pc_testdev_regs:LATCH"

    def __init__(self) -> None:
        self.name = "testdev-latch"
        self.state = LatchState()

    def read(self, offset: int, size: int) -> int:
        return self.state.value >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        mask = ((1 << 8 * size) - 1) << 8 * offset & 0xFFFF_FFFF
        self.state.value = self.state.value & ~mask | value << 8 * offset & mask

    def reset(self) -> None:
        self.state.value = 0


class PageFlushState(Record):
    """The page asked for last."""

    page: int = 0


class PageFlush:
    """Writing a guest physical address has the host unmap that page: the next access faults into the host again.

    Args:
        flush_page: does it, keeping what the page holds.
    """

    registers = "pyvmm.devices.pc_testdev_regs:FLUSH"

    def __init__(self, flush_page: Callable[[int], None]) -> None:
        self.name = "testdev-flush"
        self.flush_page = flush_page
        self.state = PageFlushState()

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.state.page = value & 0xFFFF_F000
        try:
            self.flush_page(self.state.page)
        except GuestFault:
            pass  # no such page, nothing to flush

    def reset(self) -> None:
        self.state.page = 0


class IrqPortsState(Record):
    """Bit n is the level of line n."""

    levels: int = 0


class IrqPorts:
    """Port n of 24 drives interrupt line n: 0 low, anything else high.

    Args:
        set_gsi: takes (line, level).
    """

    registers = "pyvmm.devices.pc_testdev_regs:IRQ_LINES"

    def __init__(self, set_gsi: Callable[[int, int], None]) -> None:
        self.name = "testdev-irq"
        self.set_gsi = set_gsi
        self.state = IrqPortsState()

    def read(self, offset: int, size: int) -> int:
        return self.state.levels >> offset & 1

    def write(self, offset: int, size: int, value: int) -> None:
        level = 1 if value & (1 << 8 * size) - 1 else 0
        self.state.levels = self.state.levels & ~(1 << offset) | level << offset
        self.set_gsi(offset, level)

    def reset(self) -> None:
        for line in range(IRQ_LINES):
            if self.state.levels >> line & 1:
                self.set_gsi(line, 0)
        self.state.levels = 0

    def restored(self) -> None:
        """After the state was assigned from outside: drives every line."""
        for line in range(IRQ_LINES):
            self.set_gsi(line, self.state.levels >> line & 1)


class IoMemoryState(Record):
    """The contents."""

    data: bytearray = bytearray(MEMORY_LENGTH)


class IoMemory:
    """64 KiB that behave like memory, one exit for each access."""

    registers = "pyvmm.devices.pc_testdev_regs:MEMORY"

    def __init__(self) -> None:
        self.name = "testdev-memory"
        self.state = IoMemoryState()

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        length = min(size, MEMORY_LENGTH - offset)
        self.state.data[offset : offset + length] = (value & (1 << 8 * length) - 1).to_bytes(length, "little")

    def reset(self) -> None:
        self.state.data = bytearray(MEMORY_LENGTH)
