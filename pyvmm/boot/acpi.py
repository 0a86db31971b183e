"""ACPI tables (ACPI Specification 6.4, chapter 5): RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT in one block at 0xE0000, or where a
firmware puts them.

They describe what the machine has, and only this: see ``pyvmm.layout`` for ports and lines. The fixed hardware is in
ACPI mode from the start (no SMI command port), there are no general purpose events, S5 (power-off) is sleep type 0.
"""

from __future__ import annotations

from struct import pack

from pyvmm import layout
from pyvmm.boot.dsdt import dsdt
from pyvmm.boot.mptable import checksummed, ioapic_id, isa_pin, level_irqs
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.dsdt import Windows
    from pyvmm.config import Config

RSDP = layout.BIOS_AREA  # guests search 0xE0000..0xFFFFF in steps of 16
FACS = RSDP + 64  # first behind the RSDP
FACS_WAKING_VECTOR = 12  # offset of the 32-bit firmware waking vector (5.2.10)
TABLES_END = 0xF_0000  # the MP table begins

OEM = b"PYVMM "
OEM_TABLE = b"PYVMMPC "
CREATOR = b"PYVM"
RESET_VALUE = 0x06  # RST_CPU | SYS_RST in the reset control register

# MADT (5.2.12)
MADT_LAPIC, MADT_IOAPIC, MADT_OVERRIDE, MADT_LAPIC_NMI = 0, 1, 2, 4
PCAT_COMPAT = 1  # two 8259s are there as well
CONFORMS, LEVEL_HIGH = 0, 0b11_01  # MPS INTI flags, table 5-50
ALL_PROCESSORS = 0xFF

# FADT (5.2.9): boot architecture flags and feature flags
LEGACY_DEVICES, NO_VGA = 1 << 0, 1 << 2
WBINVD, PROC_C1, SLP_BUTTON, FIX_RTC, RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 6, 1 << 10
FADT_POINTERS = ((36, 4), (40, 4), (140, 8))  # (offset, bytes) of FIRMWARE_CTRL, DSDT, X_DSDT
HEADER = 36  # bytes of a table before its contents (5.2.6); the check sum is the byte at 9
SYSTEM_IO = 1  # generic address space id
NOT_SUPPORTED_C2, NOT_SUPPORTED_C3 = 101, 1001  # latencies that say "no such state"


class Tables(Record):
    """All tables but the RSDP, as one block that begins with the FACS.

    Fields:
        block: the bytes.
        rsdp: the 36 bytes that lead to it.
        pointers: (offset in the block, bytes) of every address of something in the block.
        summed: (offset, length) of each table with addresses in it: its check sum is its tenth byte.
    """

    block: bytes
    rsdp: bytes
    pointers: list[tuple[int, int]]
    summed: list[tuple[int, int]]


def acpi_tables(config: Config) -> tuple[int, bytes]:
    """All tables as one block: (gpa of the RSDP, bytes)."""
    tables = tables_at(config, FACS)
    assert FACS + len(tables.block) <= TABLES_END, "ACPI tables run into the MP table"
    return RSDP, tables.rsdp.ljust(FACS - RSDP, b"\0") + tables.block


def tables_at(config: Config, base: int, windows: Windows | None = None) -> Tables:
    """The tables for an address that is a multiple of 64, as the FACS must stand; with other PCI windows than ours, if any."""
    block = bytearray()

    def add(table: bytes) -> int:
        block.extend(bytes(-len(block) % 16))
        at = base + len(block)
        block.extend(table)
        return at

    facs_at = add(facs())
    dsdt_at = add(table(b"DSDT", 2, dsdt(config, windows)))
    fadt_at = add(fadt(facs_at, dsdt_at, layout.PORT_ACPI_PM_UEFI if config.boot.fmt == "uefi" else layout.PORT_ACPI_PM))
    listed = [fadt_at, add(madt(config))]
    rsdt_at = add(table(b"RSDT", 1, pack(f"<{len(listed)}I", *listed)))
    xsdt_at = add(table(b"XSDT", 1, pack(f"<{len(listed)}Q", *listed)))
    pointers = [(fadt_at - base + at, size) for at, size in FADT_POINTERS]
    pointers += [(rsdt_at - base + HEADER + 4 * at, 4) for at in range(len(listed))]
    pointers += [(xsdt_at - base + HEADER + 8 * at, 8) for at in range(len(listed))]
    summed = [(at - base, int.from_bytes(block[at - base + 4 : at - base + 8], "little")) for at in (fadt_at, rsdt_at, xsdt_at)]
    return Tables(block=bytes(block), rsdp=rsdp(rsdt_at, xsdt_at), pointers=pointers, summed=summed)


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: 36-byte header (5.2.6) and body."""
    header = pack("<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, OEM, OEM_TABLE, 1, CREATOR, 1)
    return checksummed(header + body, 9)


def rsdp(rsdt_at: int, xsdt_at: int) -> bytes:
    """36 bytes (5.2.5.3): one checksum over the first 20, as in ACPI 1.0, one over all."""
    first = checksummed(pack("<8sB6sBI", b"RSD PTR ", 0, OEM, 2, rsdt_at), 8)
    return checksummed(first + pack("<IQB3x", 36, xsdt_at, 0), 32)


def facs() -> bytes:
    """64 bytes (5.2.10); no checksum. Must be 64-byte aligned."""
    return pack("<4sI24xB31x", b"FACS", 64, 2)


def madt(config: Config) -> bytes:
    """CPUs, I/O APIC and how ISA interrupts reach it."""
    entries = [pack("<BBBBI", MADT_LAPIC, 8, index, index, 1) for index in range(config.smp)]
    entries.append(pack("<BBBxII", MADT_IOAPIC, 12, ioapic_id(config), layout.IOAPIC, 0))
    for irq, flags in ((layout.IRQ_PIT, CONFORMS), *((irq, LEVEL_HIGH) for irq in level_irqs(config))):
        entries.append(pack("<BBBBIH", MADT_OVERRIDE, 10, 0, irq, isa_pin(irq), flags))
    entries.append(pack("<BBBHB", MADT_LAPIC_NMI, 6, ALL_PROCESSORS, CONFORMS, 1))
    return table(b"APIC", 5, pack("<II", layout.LAPIC, PCAT_COMPAT) + b"".join(entries))


def fadt(facs_at: int, dsdt_at: int, event: int = layout.PORT_ACPI_PM) -> bytes:
    """The fixed hardware, 276 bytes (revision 6), its ports from ``event`` on. Field order is that of table 5-9."""
    control, timer = event + 4, event + 8
    body = pack(
        "<IIBBHIBBBB",
        facs_at,
        dsdt_at,
        *(0, 0),  # reserved, preferred PM profile: unspecified
        layout.IRQ_SCI,
        *(0, 0, 0, 0, 0),  # SMI command port 0: the machine always is in ACPI mode
    )
    body += pack("<8I", event, 0, control, 0, 0, timer, 0, 0)  # PM1a/b event, PM1a/b control, PM2, timer, GPE0, GPE1
    body += pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0)  # their lengths, GPE1 base, C-state control
    body += pack("<HHHHBBBBB", NOT_SUPPORTED_C2, NOT_SUPPORTED_C3, 0, 0, 0, 0, 0, 0, 0x32)  # ..., day, month, century in CMOS
    # bit 1 (8042) clear: there is one, for resets and A20, but nothing is plugged in, and a guest that believes this saves
    # hundreds of exits on probing it (Linux: 0.1 s on a nested KVM, and a warning that the mouse port is off)
    body += pack("<HB", LEGACY_DEVICES | NO_VGA, 0)
    # PWR_BUTTON clear: the power button is fixed hardware; TMR_VAL_EXT clear: the timer has 24 bits
    body += pack("<I", WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | RESET_REG_SUP)
    body += address(layout.PORT_RESET_CONTROL, 8, 1) + pack("<BHB", RESET_VALUE, 0, 0)
    body += pack("<QQ", 0, dsdt_at)  # the FACS by its 32-bit field only: both at once are not allowed
    nothing = bytes(12)
    body += address(event, 32, 2) + nothing + address(control, 16, 2) + nothing + nothing + address(timer, 32, 3) + nothing + nothing
    body += nothing + nothing + b"PYVMM\0\0\0"  # sleep control and status registers, hypervisor vendor
    return table(b"FACP", 6, body)


def address(port: int, bits: int, access: int) -> bytes:
    """A Generic Address Structure (5.2.3.2) of a port; access size 1 byte, 2 word, 3 dword."""
    return pack("<BBBBQ", SYSTEM_IO, bits, 0, access, port)
