"""docs/devices.md, made from the devices' register tables: ``python -m pyvmm.devices.document > docs/devices.md``."""

from __future__ import annotations

from importlib import import_module

from pyvmm import layout
from pyvmm.devices.device import Field, Register

# (heading, where, table) in the order of the page
DEVICES = (
    ("16550A serial port", f"COM1-COM4 at {', '.join(map(hex, layout.SERIAL_PORTS))}, IRQ 4, 3, 4, 3", "serial_regs:REGISTERS"),
    ("CMOS and real-time clock", f"ports {layout.PORT_CMOS:#x}-{layout.PORT_CMOS + 1:#x}, IRQ {layout.IRQ_RTC}", "rtc_regs:REGISTERS"),
    ("Keyboard controller", f"ports {layout.PORT_I8042_DATA:#x} and {layout.PORT_I8042_COMMAND:#x}, IRQ 1", "i8042_regs:REGISTERS"),
    (
        "ACPI power management",
        f"ports from {layout.PORT_ACPI_PM:#x} ({layout.PORT_ACPI_PM_UEFI:#x} with UEFI firmware or U-Boot), IRQ {layout.IRQ_SCI} (SCI)",
        "acpi_pm_regs:REGISTERS",
    ),
    ("PCI bus", f"ports {layout.PORT_PCI_CONFIG:#x}-{layout.PORT_PCI_CONFIG + 7:#x}, bus 0 only", "pci.bus_regs:REGISTERS"),
    ("PCI function: configuration header", "every function's first 64 bytes; unused BARs read 0", "pci.function_regs:HEADER"),
    ("PCI function: MSI-X table", "one entry of 16 bytes per vector in the function's BAR 1", "pci.msix_regs:ENTRY"),
    ("virtio-pci", "BAR 4 of functions 1af4:1040 and above, revision 1", "virtio.pci_regs:REGISTERS"),
    (
        "virtio-pci: legacy interface",
        "BAR 0 of functions 1af4:1000 to 1005, revision 0, which have the above as well (`disable-legacy=off`)",
        "virtio.legacy_regs:REGISTERS",
    ),
    ("virtio-mmio", f"{layout.VIRTIO_MMIO_MAX} times from {layout.VIRTIO_MMIO:#x}", "virtio.mmio_regs:REGISTERS"),
    ("virtio-blk", "configuration space: at 0x2000 of virtio-pci's BAR, at 0x100 of virtio-mmio", "virtio.blk_regs:REGISTERS"),
    ("virtio-console", "configuration space, likewise", "virtio.console_regs:REGISTERS"),
    ("virtio-net", "configuration space, likewise", "virtio.net_regs:REGISTERS"),
    ("Intel 82540EM (e1000)", "BAR 0 of function 8086:100e, 128 KiB; what is not listed reads 0", "e1000.regs:REGISTERS"),
    ("Intel 82540EM: I/O window", "BAR 1", "e1000.regs:IO_REGISTERS"),
    ("Flash", "at the end of the first 4 GiB with `-drive if=pflash`; outside array mode, at every address", "flash_regs:REGISTERS"),
    ("Firmware configuration (fw_cfg)", f"ports {layout.PORT_FW_CFG:#x}-{layout.PORT_FW_CFG + 11:#x}", "fw_cfg_regs:REGISTERS"),
)


def page() -> str:
    """The whole page as Markdown."""
    origin = "Made by `python -m pyvmm.devices.document` from the tables in `pyvmm/devices` (`*_regs.py`, `regs.py`); do not edit."
    parts = ["# Devices", "", origin, ""]
    for heading, where, table in DEVICES:
        module, _, name = table.partition(":")
        registers = getattr(import_module(f"pyvmm.devices.{module}"), name)
        parts += [f"## {heading}", "", f"{where[0].upper()}{where[1:]}.", "", *_rows(registers), ""]
    return "\n".join(parts)


def _rows(registers: tuple[Register, ...]) -> list[str]:
    lines = ["| offset | size | access | name | reset | bits | specified in |", "|---|---|---|---|---|---|---|"]
    for register in registers:
        fields = ", ".join(f"{_bits(field)} {field.name}" for field in register.fields)
        name = register.name + (f" ({register.when})" if register.when else "")
        cells = (f"{register.offset:#x}", register.size, register.access, name, f"{register.reset:#x}", fields, register.section)
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return lines


def _bits(field: Field) -> str:
    return f"{field.high}:{field.low}" if field.high != field.low else str(field.low)


if __name__ == "__main__":
    print(page())
