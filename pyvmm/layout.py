"""THE MACHINE ON ONE PAGE: guest physical memory map, ports, interrupt lines. Every constant stands here once.

    gpa
    0x1_0000_0000+  high RAM: what does not fit below the hole            (RAM)
    0xFFFB_D000     3 pages for Intel's TSS in real mode                  (kernel, KVM_SET_TSS_ADDR)
    0xFFFB_C000     1 page for Intel's identity map in real mode          (kernel, KVM_SET_IDENTITY_MAP_ADDR)
    0xFF00_0000     64 KiB iomem of pc-testdev                            (device, optional)
    0xFEE0_0000     local APIC page                                       (kernel)
    0xFEC0_0000     I/O APIC                                              (kernel)
    0xD000_0000     virtio-mmio transports, 0x200 bytes each              (devices, later)
    0xC000_0000     end of low RAM at the latest; PCI memory windows      (the hole below 4 GiB)
    0x0010_0000     1 MiB: kernels, Multiboot images, initrd at the top   (RAM)
    0x000E_0000     ACPI tables, MP table, RSDP: where firmware keeps them (RAM, reserved in e820)
    0x000A_0000     legacy VGA window: plain RAM here, reserved in e820    (RAM)
    0x0009_FC00     EBDA: 1 KiB, with a copy of the MP floating pointer    (RAM, reserved in e820)
    0x0000_7C00     boot sectors start here                                (RAM)
    0x0000_0500     boot structures (below)                                (RAM)
    0x0000_0000     real-mode interrupt vectors, BIOS data area            (RAM)
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096

# --- guest physical memory -------------------------------------------------------------------------------------------
RAM_MIN = 1 * MIB
LOW_RAM_END = 0xC000_0000  # RAM above this many bytes continues at 4 GiB
HIGH_RAM = 4 * GIB
EBDA = 0x9_FC00
VGA_WINDOW = 0xA_0000
BIOS_AREA = 0xE_0000  # .. 1 MiB: searched by guests for RSDP and MP floating pointer
ONE_MIB = 0x10_0000

PCI_MMIO = LOW_RAM_END
VIRTIO_MMIO = 0xD000_0000
VIRTIO_MMIO_STRIDE = 0x200
IOAPIC = 0xFEC0_0000
LAPIC = 0xFEE0_0000
TESTDEV_IOMEM = 0xFF00_0000
IDENTITY_MAP = 0xFFFB_C000
TSS = 0xFFFB_D000

# --- boot structures in low RAM (each boot path uses its own; none overlaps) ------------------------------------------
BOOT_SECTOR = 0x7C00
BOOT_GDT = 0x0500
BOOT_TSS = 0x0600
BOOT_INFO = 0x6000  # multiboot info / hvm_start_info, with their maps and module lists behind
BOOT_PARAMS = 0x7000  # Linux zero page, 4 KiB
BOOT_STACK = 0x8FF0
BOOT_PAGE_TABLES = 0x9000  # PML4, PDPT, 4 PDs: identity map of 4 GiB in 2 MiB pages, 24 KiB
BOOT_CMDLINE = 0x2_0000
BOOT_CMDLINE_MAX = 64 * KIB

# --- ports -----------------------------------------------------------------------------------------------------------
PORT_I8042_DATA = 0x60
PORT_SYSTEM_B = 0x61  # in-kernel with the PIT's speaker dummy
PORT_I8042_COMMAND = 0x64
PORT_CMOS = 0x70
PORT_POST = 0x80
PORT_SYSTEM_A = 0x92
PORT_DEBUGCON = 0xE9
PORT_DEBUG_EXIT = 0xF4
PORT_DEBUGCON_BIOS = 0x402
PORT_FW_CFG = 0x510
PORT_ACPI_PM = 0x600  # PM1a event block +0, PM1a control +4, PM timer +8
PORT_CONFIG_ADDRESS = 0xCF8  # PCI's, doublewords only
PORT_RESET_CONTROL = 0xCF9  # bytes only
PORT_BOCHS_SHUTDOWN = 0x8900
SERIAL_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)

# --- interrupt lines (GSI) -------------------------------------------------------------------------------------------
IRQ_PIT = 0  # wired to I/O APIC pin 2, as in the MADT and the MP table
IRQ_KEYBOARD = 1
SERIAL_IRQS = (4, 3, 4, 3)
IRQ_RTC = 8
IRQ_SCI = 9
PCI_GSIS = (16, 17, 18, 19)  # INTA..INTD on the I/O APIC; see PCI_ISA_IRQS for the PIC
PCI_ISA_IRQS = (10, 10, 11, 11)
PIC_MASTER_VECTOR, PIC_SLAVE_VECTOR = 0x08, 0x70  # of IRQ 0 and IRQ 8 (IBM PC/AT Technical Reference, system interrupts)
MAX_VCPUS = 255  # xAPIC ids


def ram_regions(size: int) -> list[tuple[int, int]]:
    """Splits ``size`` bytes of RAM around the hole below 4 GiB: [(gpa, length)], ascending."""
    low = min(size, LOW_RAM_END)
    return [(0, low)] + ([(HIGH_RAM, size - low)] if size > low else [])


# e820 / Multiboot / PVH memory types
E820_RAM, E820_RESERVED, E820_ACPI, E820_NVS = 1, 2, 3, 4


def e820(size: int) -> list[tuple[int, int, int]]:
    """The firmware memory map for ``size`` bytes of RAM: [(gpa, length, type)], ascending, not overlapping."""
    low = min(size, LOW_RAM_END)
    entries = [(0, EBDA, E820_RAM), (EBDA, VGA_WINDOW - EBDA, E820_RESERVED), (BIOS_AREA, ONE_MIB - BIOS_AREA, E820_RESERVED)]
    if low > ONE_MIB:
        entries.append((ONE_MIB, low - ONE_MIB, E820_RAM))
    entries.append((TSS - PAGE, 4 * PAGE, E820_RESERVED))
    if size > low:
        entries.append((HIGH_RAM, size - low, E820_RAM))
    return entries
