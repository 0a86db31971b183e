"""The DSDT: devices that a guest cannot find by itself, with their ports and interrupts."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot.aml import device, eisa_id, io, irq, name, package, resources, scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

SLEEP_TYPE_S5 = 0  # SLP_TYP written to PM1a control for power-off


def dsdt(config: Config) -> bytes:
    """The DSDT's AML, without the table header."""
    return name("\\_S5", package(SLEEP_TYPE_S5, SLEEP_TYPE_S5, 0, 0)) + scope("\\_SB", *isa_devices(config))


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
