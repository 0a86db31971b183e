"""The MP table (Intel MultiProcessor Specification 1.4): CPUs and interrupt wiring for guests that read no ACPI.

The floating pointer stands in the EBDA and at 0xF0000, two of the places where guests search it (section 4); both lead
to the one configuration table behind the second.
"""

from __future__ import annotations

from struct import pack

from pyvmm import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

FLOATING_POINTER = 0xF_0000
CONFIG_TABLE = FLOATING_POINTER + 16
EBDA_POINTER = layout.EBDA + 16  # the EBDA's first byte is its size

SPEC_REVISION = 4  # 1.4
LAPIC_VERSION, IOAPIC_VERSION = 0x14, 0x11  # what KVM's in-kernel models report
PROCESSOR, BUS, IOAPIC, IO_INTERRUPT, LOCAL_INTERRUPT = 0, 1, 2, 3, 4  # entry types, section 4.3
CPU_ENABLED, CPU_BOOT = 1, 2
INT, NMI, EXT_INT = 0, 1, 3
CONFORMS, LEVEL_HIGH = 0, 0b11_01  # EL in bits 3:2, PO in bits 1:0 (table 4-10)
PCI_BUS, ISA_BUS = 0, 1  # PCI's is the number of the bus, too (section 4.3.2)
ALL_LAPICS = 0xFF
FEATURES = 0x201  # CPUID(1).EDX as far as anybody looks: FPU, APIC


def ioapic_id(config: Config) -> int:
    """The I/O APIC's id: behind all CPUs, whose ids are 0..smp-1. Old kernels refuse ids that collide."""
    return config.smp


def isa_pin(irq: int) -> int:
    """The I/O APIC pin of an ISA interrupt: the PIT is on pin 2, all others on the pin of their number."""
    return 2 if irq == layout.IRQ_PIT else irq


def level_irqs(config: Config) -> list[int]:
    """Interrupts below 16 that are not as ISA's are, edge-triggered, but level-triggered and active high; ascending."""
    return sorted({layout.IRQ_SCI, *layout.PCI_IRQS, *(irq for _, irq in layout.virtio_mmio(config.devices))})


def mp_table(config: Config) -> list[tuple[int, bytes]]:
    """Both floating pointers and the configuration table: [(gpa, bytes)]."""
    pointer = floating_pointer()
    return [(EBDA_POINTER, pointer), (FLOATING_POINTER, pointer + configuration(config))]


def floating_pointer() -> bytes:
    """16 bytes (section 4.1): feature bytes 0: a configuration table exists, no IMCR (virtual wire mode)."""
    return checksummed(pack("<4sIBBB5x", b"_MP_", CONFIG_TABLE, 1, SPEC_REVISION, 0), 10)


def configuration(config: Config) -> bytes:
    """The configuration table (section 4.2), entries in ascending order of type."""
    ioapic, levels = ioapic_id(config), level_irqs(config)
    entries = []
    for apic in range(config.smp):
        flags = CPU_ENABLED if apic else CPU_ENABLED | CPU_BOOT
        entries.append(pack("<BBBBII8x", PROCESSOR, apic, LAPIC_VERSION, flags, 0, FEATURES))
    entries.append(pack("<BB6s", BUS, PCI_BUS, b"PCI   "))
    entries.append(pack("<BB6s", BUS, ISA_BUS, b"ISA   "))
    entries.append(pack("<BBBBI", IOAPIC, ioapic, IOAPIC_VERSION, 1, layout.IOAPIC))
    for irq in range(16):
        if irq != 2 and irq not in layout.PCI_IRQS:  # the cascade between the PICs is no interrupt
            trigger = LEVEL_HIGH if irq in levels else CONFORMS
            entries.append(pack("<BBHBBBB", IO_INTERRUPT, INT, trigger, ISA_BUS, irq, ioapic, isa_pin(irq)))
    entries += _pci_interrupts(ioapic)
    entries.append(pack("<BBHBBBB", LOCAL_INTERRUPT, EXT_INT, CONFORMS, ISA_BUS, 0, ALL_LAPICS, 0))  # LINT0: the PIC
    entries.append(pack("<BBHBBBB", LOCAL_INTERRUPT, NMI, CONFORMS, ISA_BUS, 0, ALL_LAPICS, 1))  # LINT1
    body = b"".join(entries)
    header = pack("<4sHBB8s12s", b"PCMP", 44 + len(body), SPEC_REVISION, 0, b"PYVMM   ", b"PYVMM       ")
    header += pack("<IHHII", 0, 0, len(entries), layout.LAPIC, 0)  # no OEM table, no extended table
    return checksummed(header + body, 7)


def _pci_interrupts(ioapic: int) -> list[bytes]:
    """An entry for each pin of slots 1..31; the source has the slot in bits 6:2 and the pin in bits 1:0 (section D.3)."""
    head = pack("<BBHB", IO_INTERRUPT, INT, LEVEL_HIGH, PCI_BUS)
    lines = [layout.PCI_IRQS[layout.pci_line(source >> 2, (source & 3) + 1)] for source in range(16)]  # slots 4 apart are wired alike
    return [head + bytes((source, ioapic, lines[source % 16])) for source in range(4, 4 * layout.PCI_SLOTS)]


def checksummed(data: bytes, offset: int) -> bytes:
    """Sets the checksum byte at ``offset`` (which must be 0) so that all bytes sum to 0 modulo 256."""
    return data[:offset] + bytes([-sum(data) & 0xFF]) + data[offset + 1 :]
