"""The DSDT: devices that a guest cannot find by itself, with their ports and interrupts."""

from __future__ import annotations

from struct import pack

from pyvmm import layout
from pyvmm.boot.aml import (
    bus_numbers,
    device,
    eisa_id,
    interrupt,
    io,
    io_window,
    irq,
    memory32,
    memory_window,
    name,
    package,
    resources,
    scope,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

    Windows = tuple[tuple[int, int], tuple[int, int]]  # PCI memory below and above 4 GiB: (first, first behind)

_PINS = (b"\0", b"\1", b"\x0a\2", b"\x0a\3")  # 0 to 3 as AML integers
SLEEP_TYPE_S5 = 0  # SLP_TYP written to PM1a control for power-off


def dsdt(config: Config, windows: Windows | None = None) -> bytes:
    """The DSDT's AML, without the table header; as long whatever the PCI windows are."""
    return (
        name("\\_S5", package(SLEEP_TYPE_S5, SLEEP_TYPE_S5, 0, 0))
        + scope("\\_SB", pci_root(config, windows), *isa_devices(config), *virtio_mmio(config))
    )


def pci_root(config: Config, windows: Windows | None = None) -> bytes:
    """The PCI bus: number, windows, and where its interrupts go (6.2.13), the same for both interrupt controllers."""
    low_end = layout.IOAPIC if config.boot.fmt == "bios" else layout.PCI_MEMORY_END
    (low, low_end), (high, high_end) = windows or ((layout.PCI_MEMORY, low_end), layout.pci_memory_64(config.memory))
    ranges = (
        bus_numbers(0, 0),
        io(layout.PORT_PCI_CONFIG, 8),
        io_window(0, layout.PORT_PCI_CONFIG - 1),
        io_window(layout.PORT_PCI_CONFIG + 8, 0xFFFF),
        memory_window(low, low_end - 1),
        memory_window(high, high_end - 1),
    )
    return device(
        "PCI0",
        name("_HID", eisa_id("PNP0A03")),
        name("_UID", 0),
        name("_BBN", 0),
        name("_CRS", resources(*ranges)),
        name("_PRT", _routing(layout.PCI_IRQS)),
    )


def _routing(lines: tuple[int, ...]) -> bytes:
    """Package {slot << 16 | any function, pin, no link device, line} for the 4 pins of slots 1..31.

    Made at every start, so by few calls: a slot's four packages are put together around its address, a DWord.
    """
    around = [[b""] for _ in range(4)]  # slots 4 apart are wired alike
    for slot in range(4):
        for pin, code in enumerate(_PINS):
            around[slot][-1] += bytes((0x12, 10 + len(code), 4, 0x0C))  # a package of 4 elements, the first a DWord
            around[slot].append(code + bytes((0, 0x0A, lines[layout.pci_line(slot, pin + 1)])))  # ..., pin, Zero, Byte
    slots = [pack("<I", slot << 16 | 0xFFFF).join(around[slot % 4]) for slot in range(1, layout.PCI_SLOTS)]
    return package(*slots, count=4 * len(slots))


def virtio_mmio(config: Config) -> list[bytes]:
    """A node for each virtio-mmio transport, as Linux and QEMU's microvm know them."""
    return [
        device(
            f"VM{slot:02}",
            name("_HID", "LNRO0005"),
            name("_UID", slot),
            name("_CRS", resources(memory32(base, layout.VIRTIO_MMIO_STRIDE), interrupt(line, shared=True))),
        )
        for slot, (base, line) in enumerate(layout.virtio_mmio(config.devices))
    ]


def isa_devices(config: Config) -> list[bytes]:
    """PIC, PIT, RTC, and the serial ports that are configured. No keyboard: see the FADT's boot flags."""
    devices = [
        _isa("PIC", "PNP0000", io(0x20, 2), io(0xA0, 2), io(0x4D0, 2), irq(2)),
        _isa("TIMR", "PNP0100", io(0x40, 4), irq(layout.IRQ_PIT)),
        _isa("SPKR", "PNP0800", io(layout.PORT_SYSTEM_B, 1)),
        _isa("RTC", "PNP0B00", io(layout.PORT_CMOS, 2), irq(layout.IRQ_RTC)),
    ]
    for index, (port, line) in enumerate(zip(layout.SERIAL_PORTS, layout.SERIAL_IRQS, strict=True)):
        if index < len(config.serials) and config.serials[index].kind != "none":
            devices.append(_isa(f"COM{index + 1}", "PNP0501", io(port, 8, 8), irq(line), unit=index + 1))
    return devices


def _isa(label: str, plug_and_play: str, *descriptors: bytes, unit: int | None = None) -> bytes:
    uid = [] if unit is None else [name("_UID", unit)]
    return device(label, name("_HID", eisa_id(plug_and_play)), *uid, name("_CRS", resources(*descriptors)))
