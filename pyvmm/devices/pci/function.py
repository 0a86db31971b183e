"""A PCI function: a type-0 header, up to six BARs, a list of capabilities, one interrupt pin (PCI Local Bus 3.0, chapter 6).

A device subclasses ``PciFunction`` (or just makes one), adds its BARs and capabilities in the constructor, and is plugged
into a ``PciBus``. Every register is a byte array with a mask of writable bits behind it, so an access of any width at
any offset is defined; what a write means is looked up afterwards.

BARs follow the registers: where a BAR is decoded is computed from the command register and the BAR's value, never
remembered, so that sizing (writing all ones) and half-written 64-bit addresses map nothing.
"""

from __future__ import annotations

from pyvmm.bus import Mapping
from pyvmm.record import Record
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pyvmm.devices.device import Device
    from pyvmm.irq import IrqLine

    BarKind = Literal["io", "mem32", "mem64"]

CONFIG_SIZE = 256

# Offsets in the header (figure 6-1)
VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
CACHE_LINE, LATENCY, HEADER_TYPE, BAR0, BARS_END = 0x0C, 0x0D, 0x0E, 0x10, 0x28
SUBSYSTEM_VENDOR, SUBSYSTEM, CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x2C, 0x2E, 0x34, 0x3C, 0x3D
FIRST_CAPABILITY = 0x40

IO_SPACE, MEMORY_SPACE, BUS_MASTER, PARITY, SERR, INTX_DISABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 6, 1 << 8, 1 << 10
COMMAND_WRITABLE = IO_SPACE | MEMORY_SPACE | BUS_MASTER | PARITY | SERR | INTX_DISABLE
STATUS_INTX, STATUS_CAPABILITIES = 1 << 3, 1 << 4
STATUS_ERRORS = 0xF900  # detected and signalled errors: writing 1 clears (6.2.3)
MULTIFUNCTION = 0x80

BAR_IO, BAR_64BIT, BAR_PREFETCH = 1 << 0, 1 << 2, 1 << 3
PHYSICAL_LIMIT = 1 << 52  # no x86 has more address lines; a BAR that is being sized lies above


class PciState(Record):
    """What a snapshot keeps of a function.

    Fields:
        config: the configuration space, without the interrupt status bit.
        intx: the level of the device's interrupt, before the command register's disable bit.
    """

    config: bytearray = bytearray(CONFIG_SIZE)
    intx: int = 0


class Bar:
    """One base address register (two for "mem64") and what answers there.

    Attributes:
        base: where it is mapped now; None while it is not.
        on_place: called with the new ``base`` after the BAR was mapped, with None after it went away, machine lock held. A
            move is both, None first: by the time any BAR appears, no other still has its doorbells there.
    """

    __slots__ = ("index", "size", "device", "kind", "prefetch", "width", "base", "asked", "on_place", "mapping")

    def __init__(self, index: int, size: int, device: Device, kind: BarKind, prefetch: bool, width: int) -> None:
        self.index = index
        self.size = size
        self.device = device
        self.kind = kind
        self.prefetch = prefetch
        self.width = width
        self.base: int | None = None
        self.asked: int | None = None  # what the registers said when the bus looked last
        self.on_place: Callable[[int | None], None] | None = None
        self.mapping = Mapping(0, size, device, width)

    def address(self, config: bytearray) -> int:
        """What the registers hold, decoded or not."""
        at = BAR0 + 4 * self.index
        return int.from_bytes(config[at : at + (8 if self.kind == "mem64" else 4)], "little") & ~(3 if self.kind == "io" else 0xF)

    def wanted(self, config: bytearray) -> int | None:
        """Where these registers put it; None: decoding is off, the BAR is unset or being sized, there is no such address."""
        at = BAR0 + 4 * self.index
        if self.kind == "io":
            if not config[COMMAND] & IO_SPACE:
                return None
            base = int.from_bytes(config[at : at + 4], "little") & ~3
            return base if base and base + self.size <= 0x1_0000 else None
        if not config[COMMAND] & MEMORY_SPACE:
            return None
        base = int.from_bytes(config[at : at + (8 if self.kind == "mem64" else 4)], "little") & ~0xF
        end = base + self.size
        return base if base and end <= PHYSICAL_LIMIT and end != 1 << 32 else None  # ending at 4 GiB: all ones were written


class PciFunction:
    """A function's configuration space and interrupt pin.

    Args:
        name: for messages and the machine's list of devices.
        vendor, device: ids.
        class_code: 24 bits: base class, subclass, programming interface.
        revision: 8 bits.
        subsystem: (vendor id, id).
        pin: 1 for INTA to 4 for INTD, 0 for a function without an interrupt.

    Attributes:
        bars: in ascending order of index.
        intx: the line its pin is wired to; set by ``PciBus.plug``.
        changed: tells the bus that BARs may have moved; set by ``PciBus.plug``.
    """

    registers = "pyvmm.devices.pci.function_regs:HEADER"

    def __init__(
        self, name: str, vendor: int, device: int, class_code: int, revision: int = 0, subsystem: tuple[int, int] = (0, 0), pin: int = 1
    ) -> None:
        self.name = name
        self.bars: list[Bar] = []
        self.intx: IrqLine | None = None
        self.changed: Callable[[], None] | None = None
        self.state = PciState()
        self._power_on = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)
        self._clearable = bytearray(CONFIG_SIZE)  # writing 1 clears
        self._capability_link, self._free = CAPABILITIES, FIRST_CAPABILITY
        self._watchers: list[tuple[int, int, Callable[[], None]]] = []
        self.at_reset: list[Callable[[], None]] = []  # parts with a state of their own (MSI-X), before the registers are reset
        self._messages = False  # MSI-X is on: the pin is silent
        self._pin_lock = Lock()  # set_intx comes from I/O threads, the command register from vCPUs
        self._preset(VENDOR, 2, vendor)
        self._preset(DEVICE, 2, device)
        self._preset(COMMAND, 2, 0, COMMAND_WRITABLE)
        self._preset(REVISION, 1, revision)
        self._preset(CLASS, 3, class_code)
        self._preset(CACHE_LINE, 1, 0, 0xFF)
        self._preset(LATENCY, 1, 0, 0xF8)
        self._preset(SUBSYSTEM_VENDOR, 2, subsystem[0])
        self._preset(SUBSYSTEM, 2, subsystem[1])
        self._preset(INTERRUPT_LINE, 1, 0, 0xFF if pin else 0)
        self._preset(INTERRUPT_PIN, 1, pin)
        self._clearable[STATUS : STATUS + 2] = STATUS_ERRORS.to_bytes(2, "little")

    # --- building (constructors) -------------------------------------------------------------------------------------
    def _preset(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        self._power_on[offset : offset + size] = self.state.config[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    def add_bar(self, index: int, size: int, device: Device, kind: BarKind = "mem32", prefetch: bool = False, width: int = 8) -> Bar:
        """Gives the function a BAR of ``size`` bytes (a power of 2) where ``device`` answers accesses of up to ``width`` bytes.

        Raises:
            ValueError: no such BAR, or not of this size.
        """
        used = {bar.index + extra for bar in self.bars for extra in range(2 if bar.kind == "mem64" else 1)}
        places = {index, index + 1} if kind == "mem64" else {index}
        smallest, largest = {"io": (4, 256), "mem32": (16, 1 << 31), "mem64": (16, PHYSICAL_LIMIT >> 1)}[kind]
        if used & places or not places <= set(range(6)) or size & size - 1 or not smallest <= size <= largest:
            raise ValueError(f"{self.name}: BAR {index} of {size:#x} bytes ({kind})")
        length = 4 * len(places)
        flags = BAR_IO if kind == "io" else (BAR_64BIT if kind == "mem64" else 0) | (BAR_PREFETCH if prefetch else 0)
        self._preset(BAR0 + 4 * index, length, flags, -size & (1 << 8 * length) - 1)
        bar = Bar(index, size, device, kind, prefetch, width)
        self.bars.append(bar)
        self.bars.sort(key=lambda each: each.index)
        return bar

    def add_capability(self, cap_id: int, body: bytes, writable: bytes = b"") -> int:
        """Appends a capability to the list (6.7).

        Args:
            cap_id: its number.
            body: what follows the two bytes of header.
            writable: which bits of ``body`` the guest may write; short or empty: none of the rest.

        Returns:
            The offset of the header; ``body`` starts at this plus 2.

        Raises:
            ValueError: configuration space is full.
        """
        at, length = self._free, 2 + len(body)
        if at + length > CONFIG_SIZE:
            raise ValueError(f"{self.name}: no room for capability {cap_id:#x} of {length} bytes")
        self._preset(at, 2, cap_id)
        self._preset(at + 2, len(body), int.from_bytes(body, "little"), int.from_bytes(writable, "little"))
        self._power_on[self._capability_link] = self.state.config[self._capability_link] = at
        self._preset(STATUS, 2, STATUS_CAPABILITIES)
        self._capability_link, self._free = at + 1, at + length + 3 & ~3
        return at

    def watch(self, offset: int, length: int, callback: Callable[[], None]) -> None:
        """Calls back after every write that touched these bytes, and after ``reset``. Machine lock held."""
        self._watchers.append((offset, offset + length, callback))

    def set_multifunction(self) -> None:
        """Says that this slot has functions other than 0."""
        self._preset(HEADER_TYPE, 1, MULTIFUNCTION)

    def hold_line(self) -> None:
        """Makes the interrupt line register read-only."""
        self._preset(INTERRUPT_LINE, 1, self.state.config[INTERRUPT_LINE])

    # --- registers ---------------------------------------------------------------------------------------------------
    @property
    def command(self) -> int:
        """The command register."""
        config = self.state.config
        return config[COMMAND] | config[COMMAND + 1] << 8

    @property
    def io_enabled(self) -> bool:
        """Whether I/O BARs are decoded."""
        return bool(self.state.config[COMMAND] & IO_SPACE)

    @property
    def memory_enabled(self) -> bool:
        """Whether memory BARs are decoded."""
        return bool(self.state.config[COMMAND] & MEMORY_SPACE)

    @property
    def bus_master(self) -> bool:
        """Whether the function may access memory, which includes sending messages."""
        return bool(self.state.config[COMMAND] & BUS_MASTER)

    def read_config(self, offset: int, size: int) -> int:
        """``size`` bytes of configuration space; offsets behind its end read as ones. Subclasses may extend."""
        end = offset + size
        value = int.from_bytes(self.state.config[offset:end], "little")
        if offset <= STATUS < end and self.state.intx:
            value |= STATUS_INTX << 8 * (STATUS - offset)
        if end > CONFIG_SIZE:
            have = 8 * max(CONFIG_SIZE - offset, 0)
            value |= (1 << 8 * size) - 1 >> have << have
        return value

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Takes ``size`` bytes, as far as they can be written. Subclasses may extend."""
        config, end = self.state.config, min(offset + size, CONFIG_SIZE)
        command = self.command
        for at in range(offset, end):
            byte, mask = value & 0xFF, self._writable[at]
            config[at] = config[at] & ~mask & ~(byte & self._clearable[at]) | byte & mask
            value >>= 8
        if offset < BARS_END and end > COMMAND:
            self._header_written(command)
        for start, stop, callback in self._watchers:
            if offset < stop and start < end:
                callback()

    def _header_written(self, before: int) -> None:
        if self.changed is not None:
            self.changed()
        command = self.command
        if command != before:
            self.drive_intx()
            self.on_command(command)

    def on_command(self, command: int) -> None:
        """Hook: the command register has changed, BARs and interrupt pin follow it already."""

    # --- interrupt pin -----------------------------------------------------------------------------------------------
    def set_intx(self, level: int) -> None:
        """Drives the interrupt pin; callable from any thread. The command register may keep it from the line (6.2.2)."""
        with self._pin_lock:
            self.state.intx = 1 if level else 0
            self._drive()

    def drive_intx(self) -> None:
        """Brings the line to what pin, command register and MSI-X say."""
        with self._pin_lock:
            self._drive()

    def _drive(self) -> None:
        if self.intx is not None:
            self.intx.set(self.state.intx and not self.state.config[COMMAND + 1] & INTX_DISABLE >> 8 and not self._messages)

    def use_messages(self, on: bool) -> None:
        """MSI-X is on or off: a function with it on never drives its pin (6.8.2)."""
        self._messages = on
        self.drive_intx()

    # --- life --------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """What the bus's reset line does: nothing decoded, no interrupt, all registers as at power-on."""
        for part in self.at_reset:
            part()
        self.state.config[:] = self._power_on
        self.state.intx = 0
        self.restored()

    def restored(self) -> None:
        """After ``state`` was assigned from outside: BARs, line and capabilities follow."""
        if self.changed is not None:
            self.changed()
        for _, _, callback in self._watchers:
            callback()
        self.drive_intx()
        self.on_command(self.command)
