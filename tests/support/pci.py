"""A PCI bus without a machine, the ways a guest reaches it, and what to put behind a BAR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.bus import Bus
from pyvmm.devices.pci.bus import PciBus
from pyvmm.devices.system_ports import ResetControl
from pyvmm.record import Record
from tests.support.fakes import FakeLine, StopSink

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
COMMAND, BAR0 = 0x04, 0x10
IO, MEMORY, MASTER = 1, 2, 4


class ScratchState(Record):
    data: bytearray = bytearray(256)


class Scratch:
    """A device that keeps what is written into its first 256 bytes."""

    def __init__(self, name: str = "scratch") -> None:
        self.name = name
        self.state = ScratchState()

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        for at in range(offset, min(offset + size, 256)):
            self.state.data[at] = value & 0xFF
            value >>= 8

    def reset(self) -> None:
        self.state = ScratchState()


class World:
    """A bus with nothing on it; ``ram`` as for PciBus."""

    def __init__(self, ram: tuple[tuple[int, int], ...] = ((0, 128 << 20),)) -> None:
        self.ports, self.mmio = Bus("pio", 0x1_0000), Bus("mmio", 1 << 64)
        self.stop = StopSink()
        self.lines: list[tuple[int, FakeLine]] = []
        self.bus = PciBus(self.ports, self.mmio, ResetControl(self.stop), self._intx, ram)
        self.ports.add(CONFIG_ADDRESS, 8, self.bus, width=4)

    def _intx(self, number: int) -> FakeLine:
        line = FakeLine()
        self.lines.append((number, line))
        return line

    def read(self, slot: int, offset: int, size: int = 4, function: int = 0) -> int:
        """A guest's configuration read through the ports."""
        self.ports.write(CONFIG_ADDRESS, 4, 0x8000_0000 | slot << 11 | function << 8 | offset & 0xFC)
        return self.ports.read(CONFIG_DATA + (offset & 3), size)

    def write(self, slot: int, offset: int, value: int, size: int = 4) -> None:
        """A guest's configuration write through the ports."""
        self.ports.write(CONFIG_ADDRESS, 4, 0x8000_0000 | slot << 11 | offset & 0xFC)
        self.ports.write(CONFIG_DATA + (offset & 3), size, value)


class Messages:
    """A ``MakeMsi`` that collects what is sent."""

    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []
        self.sent: list[tuple[int, int]] = []

    def __call__(self, address: int, data: int) -> Callable[[], None]:
        self.made.append((address, data))
        return lambda: self.sent.append((address, data))
