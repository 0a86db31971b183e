"""PCI bus 0: configuration mechanism 1 on ports 0xCF8-0xCFF (PCI Local Bus 3.0, 3.2.2.3.2), and who decodes which BAR.

A doubleword to 0xCF8 chooses a register, any access to 0xCFC-0xCFF reaches it. Narrower accesses to 0xCF8-0xCFB are not
PCI's: a byte at 0xCF9 belongs to the reset control register, the others to nobody.

BARs are placed by what the registers say now, never by history: of two that overlap, the lower function (then the lower
BAR) is mapped and the other is not, until one of them moves. A BAR over RAM, over another device or over something that
the kernel answers is not mapped either. Nothing of this is an error: a guest may write what it likes.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.devices.pci.function import BAR0, COMMAND, INTERRUPT_LINE, INTERRUPT_PIN, IO_SPACE, MEMORY_SPACE
from pyvmm.errors import ConfigError
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvmm.bus import Bus
    from pyvmm.devices.pci.function import Bar, PciFunction
    from pyvmm.devices.system_ports import ResetControl
    from pyvmm.irq import IrqLine

    Ranges = list[tuple[int, int]]  # (first, first behind)

SLOTS = layout.PCI_SLOTS
ENABLE = 0x8000_0000
ADDRESS_BITS = 0x80FF_FFFC  # the others are reserved and read 0
PAGE = layout.PAGE


class PciBusState(Record):
    """The address register at 0xCF8, as it was written."""

    address: int = 0


class PciBus:
    """The device on ports 0xCF8-0xCFF, and the functions behind it.

    Args:
        ports, mmio: where BARs are mapped.
        reset_control: gets the byte accesses at 0xCF9.
        make_intx: makes a source on PCI line 0 to 3 (``layout.pci_line``).
        ram: [(gpa, length)] that no BAR may cover: RAM, and a firmware's ROM below 4 GiB.

    Attributes:
        functions: number of slot << 3 | number of function -> what is there.
    """

    registers = "pyvmm.devices.pci.bus_regs:REGISTERS"

    def __init__(
        self, ports: Bus, mmio: Bus, reset_control: ResetControl, make_intx: Callable[[int], IrqLine], ram: Iterable[tuple[int, int]] = ()
    ) -> None:
        self.name = "pci"
        self.state = PciBusState()
        self.functions: dict[int, PciFunction] = {}
        self._ports, self._mmio = ports, mmio
        self.reset_control = reset_control
        self._make_intx = make_intx
        self._ram = list(ram)

    # --- building ----------------------------------------------------------------------------------------------------
    def plug(self, function: PciFunction, slot: int | None = None, number: int = 0) -> int:
        """Puts a function into a slot, None for the first free one, and wires its interrupt pin. Returns the slot.

        Raises:
            ConfigError: the slot does not exist, is taken, or none is left.
        """
        if slot is None:
            slot = next((each for each in range(1, SLOTS) if each << 3 not in self.functions), None)
            if slot is None:
                raise ConfigError(f"{function.name}: all {SLOTS - 1} PCI slots are taken")
        if not 0 <= slot < SLOTS:
            raise ConfigError(f"{function.name}: PCI slot {slot:#x} does not exist: give 0x1 to {SLOTS - 1:#x}")
        devfn = slot << 3 | number
        other = self.functions.get(devfn)
        if other is not None:
            raise ConfigError(f"{function.name}: PCI slot {slot:#x} is taken by {other.name}: give another, or none for the first free one")
        self.functions[devfn] = function
        self.functions = dict(sorted(self.functions.items()))
        first = self.functions.get(slot << 3)  # guests look for others only when function 0 tells of them
        if first is not None and any(slot << 3 | other in self.functions for other in range(1, 8)):
            first.set_multifunction()
        pin = function.state.config[INTERRUPT_PIN]
        if pin:
            function.intx = self._make_intx(layout.pci_line(slot, pin))
        function.changed = self._place
        return slot

    def assign(self) -> None:
        """What firmware does before it starts a guest: an address for every BAR, decoding on, the line in 0x3C.

        Raises:
            ConfigError: the windows are too small.
        """
        window_64 = layout.pci_memory_64(sum(length for gpa, length in self._ram if not layout.LOW_RAM_END <= gpa < layout.HIGH_RAM))
        next_free = {"io": layout.PCI_IO, "mem32": layout.PCI_MEMORY, "mem64": window_64[0]}
        ends = {"io": layout.PCI_IO_END, "mem32": layout.PCI_MEMORY_END, "mem64": window_64[1]}
        wishes = [(bar, function) for function in self.functions.values() for bar in function.bars]
        wishes = sorted(wishes, key=lambda wish: -wish[0].size)  # the largest first: no gaps
        kinds_of = [_window(bar) for bar, _ in wishes]
        small = [max(bar.size, PAGE) for (bar, _), kind in zip(wishes, kinds_of, strict=True) if kind == "mem32"]
        if small:  # at the window's end, as PC firmware does: small kernels map no more of it than from 0xFE000000
            next_free["mem32"] = max(ends["mem32"] - sum(small) & -small[0], layout.PCI_MEMORY)
        for (bar, function), kind in zip(wishes, kinds_of, strict=True):
            step = max(bar.size, 16 if kind == "io" else PAGE)
            base = -(-next_free[kind] // step) * step
            if base + step > ends[kind]:
                raise ConfigError(f"{function.name}: no room for {bar.size:#x} bytes of PCI {kind} space: use fewer or smaller devices")
            next_free[kind] = base + step
            for at in range(0, 8 if bar.kind == "mem64" else 4, 4):
                function.write_config(BAR0 + 4 * bar.index + at, 4, base >> 8 * at & 0xFFFF_FFFF)
        for devfn, function in self.functions.items():
            kinds = {bar.kind for bar in function.bars}
            spaces = (IO_SPACE if "io" in kinds else 0) | (MEMORY_SPACE if kinds - {"io"} else 0)
            function.write_config(COMMAND, 2, function.command | spaces)
            pin = function.state.config[INTERRUPT_PIN]
            if pin:
                function.write_config(INTERRUPT_LINE, 1, layout.PCI_IRQS[layout.pci_line(devfn >> 3, pin)])

    def hold_lines(self) -> None:
        """Has register 0x3C keep what ``assign`` put there: a firmware that does not know the board would write "unknown" over it."""
        for function in self.functions.values():
            function.hold_line()

    # --- configuration mechanism 1 -----------------------------------------------------------------------------------
    def _chosen(self) -> PciFunction | None:
        address = self.state.address
        return self.functions.get(address >> 8 & 0xFFFF) if address & ENABLE else None  # bus 0: bits 23:16 are 0

    def _register(self, offset: int, size: int) -> int:
        """The register an access to the data ports means.

        Bits 1:0 of the address register are reserved, the port says which byte. kvm-unit-tests put them into the address
        all the same and read a byte or word at 0xCFC, as QEMU lets them; a doubleword always is the aligned one.
        """
        address = self.state.address
        return address & 0xFC | offset - 4 | (address & 3 if size < 4 else 0)

    def read(self, offset: int, size: int) -> int:
        if offset >= 4:
            function = self._chosen()
            return (1 << 8 * size) - 1 if function is None else function.read_config(self._register(offset, size), size)
        if (offset, size) == (0, 4):
            return self.state.address & ADDRESS_BITS
        if (offset, size) == (1, 1):
            return self.reset_control.read(0, 1)
        if offset + size > 4:  # unaligned, over the end of the address register
            return sum(self.read(offset + at, 1) << 8 * at for at in range(size))
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= 4:
            function = self._chosen()
            if function is not None:
                function.write_config(self._register(offset, size), size, value)
        elif (offset, size) == (0, 4):
            self.state.address = value
        elif (offset, size) == (1, 1):
            self.reset_control.write(0, 1, value)
        elif offset + size > 4:
            for at in range(4 - offset, size):  # what comes before is nobody's
                self.write(offset + at, 1, value >> 8 * at & 0xFF)

    def reset(self) -> None:
        """The bus's reset line: no function decodes or interrupts any more."""
        self.state.address = 0
        self.reset_control.reset()
        for function in self.functions.values():
            function.reset()

    # --- decoding ----------------------------------------------------------------------------------------------------
    def _place(self) -> None:
        """Maps every BAR where the registers ask for it, as far as that is free; tells those that moved."""
        moved = False
        functions = self.functions.values()
        for function in functions:
            config = function.state.config
            for bar in function.bars:
                asked = bar.wanted(config)
                if asked != bar.asked:
                    bar.asked = asked
                    moved = True
        if moved:
            bars = [bar for function in functions for bar in function.bars]
            _settle(self._ports, [bar for bar in bars if bar.kind == "io"], layout.KERNEL_PORTS)
            _settle(self._mmio, [bar for bar in bars if bar.kind != "io"], (*layout.KERNEL_MEMORY, *self._ram))


def _window(bar: Bar) -> str:
    """Where firmware puts it: of the 64-bit BARs only large ones above 4 GiB, which some kernels do not reach."""
    return "mem32" if bar.kind == "mem64" and bar.size <= layout.PCI_MEMORY_END - layout.PCI_MEMORY >> 2 else bar.kind


def _settle(bus: Bus, bars: list[Bar], reserved: Iterable[tuple[int, int]]) -> None:
    """One address space's part of ``PciBus._place``."""
    ours = {id(bar.mapping) for bar in bars}
    taken: Ranges = [(mapping.base, mapping.end) for mapping in bus.mappings if id(mapping) not in ours]
    taken += [(base, base + length) for base, length in reserved]
    changed: list[tuple[Bar, int | None]] = []
    for bar in bars:
        base = bar.asked
        if base is not None:
            end = base + bar.size
            if any(base < other_end and other < end for other, other_end in taken):
                base = None
            else:
                taken.append((base, end))
        if base != bar.base:
            changed.append((bar, base))
    for bar, _ in changed:  # all of them away first: two may change places, with their doorbells
        if bar.base is not None:
            bus.remove(bar.mapping)
            bar.base = None
            if bar.on_place is not None:
                bar.on_place(None)
    for bar, base in changed:
        if base is not None:
            bus.move(bar.mapping, base)
            bar.base = base
            if bar.on_place is not None:
                bar.on_place(base)
