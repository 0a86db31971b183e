"""Run pages with one exit in them, decoded; and a small machine's layout to explain them against."""

from __future__ import annotations

from struct import pack_into

from pyvmm import exits
from pyvmm.exits import Exit
from pyvmm.kvm import structs, uapi
from pyvmm.observe.explain.layout import Function, Layout, Window

_D = "pyvmm.devices."
CONFIG = bytearray(256)
CONFIG[0x34] = 0x40
CONFIG[0x40:0x4C] = bytes.fromhex("11 4c 01 00 00000000 01080000")  # MSI-X: 2 vectors, table and pending bits in BAR 1
CONFIG[0x4C:0x5C] = bytes.fromhex("09 00 10 01 04 000000 00000000 00100000")  # virtio: common configuration in BAR 4

BOARD = Layout(
    ports=[
        Window(base=0x70, length=2, device="rtc", state="rtc", width=1, tables=((0, _D + "rtc_regs:REGISTERS"),)),
        Window(base=0x2F8, length=8, device="serial1", state="serial1", width=1, tables=((0, _D + "serial_regs:REGISTERS"),)),
        Window(base=0x3F8, length=8, device="serial0", state="serial0", width=1, tables=((0, _D + "serial_regs:REGISTERS"),)),
        Window(base=0x600, length=12, device="acpi-pm", tables=((0, _D + "acpi_pm_regs:REGISTERS"),)),
        Window(base=0xCF8, length=8, device="pci", state="pci", width=4, tables=((0, _D + "pci.bus_regs:REGISTERS"),)),
    ],
    mmio=[
        Window(
            base=0xC000_0000, length=0x4000, device="blk0-bar4", state="blk0-core", bar=("blk0", 4),
            tables=((0, _D + "virtio.pci_regs:REGISTERS"), (0x2000, _D + "virtio.blk_regs:REGISTERS")),
        ),
        Window(base=0xC000_4000, length=0x1000, device="blk0-msix", bar=("blk0", 1), tables=((0, _D + "pci.msix_regs:ENTRY"),)),
        Window(base=0xC002_0000, length=0x20000, device="nic0", bar=("nic0", 0), tables=((0, _D + "e1000.regs:REGISTERS"),)),
        Window(
            base=0xFEB0_0000, length=0x200, device="rng0", state="rng0-core", tables=((0, _D + "virtio.mmio_regs:REGISTERS"),)
        ),
    ],
    functions={
        0: Function(name="host-bridge", vendor=0x1B36, device=8, state="host-bridge"),
        8: Function(name="blk0", vendor=0x1AF4, device=0x1042, state="blk0-card"),
    },
    ram=[(0, 16 << 20)],
)  # fmt: skip


def page(number: int) -> bytearray:
    """A run page of zeros with an exit reason."""
    data = bytearray(3 * 4096)
    pack_into("<I", data, structs.RUN_EXIT_REASON, number)
    return data


def io(port: int, data: bytes = b"", size: int = 1, count: int = 1) -> Exit:
    """KVM_EXIT_IO: an ``out`` of data, or an ``in`` when there is none."""
    run = page(uapi.KVM_EXIT_IO)
    pack_into("<BBHIQ", run, structs.RUN_UNION, bool(data), size, port, len(data) // size if data else count, 0x1000)
    run[0x1000 : 0x1000 + len(data)] = data
    return exits.decode(memoryview(run))


def mmio(address: int, data: bytes = b"", size: int = 4) -> Exit:
    """KVM_EXIT_MMIO: a write of data, or a read when there is none."""
    run = page(uapi.KVM_EXIT_MMIO)
    pack_into("<Q8sIB", run, structs.RUN_UNION, address, data, len(data) or size, bool(data))
    return exits.decode(memoryview(run))
