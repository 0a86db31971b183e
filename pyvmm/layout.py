"""THE MACHINE ON ONE PAGE: guest physical memory map, ports, interrupt lines. Every constant stands here once.

    gpa
    end of RAM+     16 GiB PCI memory window above 4 GiB, from the next GiB
    0x1_0000_0000+  high RAM: what does not fit below the hole            (RAM)
    0xFFFC_0000     a BIOS's ROM, with -bios, to the end of 4 GiB          (ROM; a copy ends at 1 MiB, in RAM)
    0xFF80_0000     or a UEFI firmware's, which may begin here             (ROM; the four pages below are at 0xFEFF_C000 then)
    0xFFFB_D000     3 pages for Intel's TSS in real mode                  (kernel, KVM_SET_TSS_ADDR)
    0xFFFB_C000     1 page for Intel's identity map in real mode          (kernel, KVM_SET_IDENTITY_MAP_ADDR)
    0xFF00_0000     64 KiB iomem of pc-testdev                            (device, optional)
    0xFEE0_0000     local APIC page                                       (kernel)
    0xFEC0_0000     I/O APIC                                              (kernel)
    0xFEB0_0000     virtio-mmio transports, 0x200 bytes each              (devices, optional)
    0xC000_0000     end of low RAM at the latest; PCI memory window to 0xFEAF_FFFF
    0x0010_0000     1 MiB: kernels, Multiboot images, initrd at the top   (RAM)
    0x000E_0000     ACPI tables, MP table, RSDP: where firmware keeps them (RAM, reserved in e820)
    0x000A_0000     legacy VGA window: plain RAM here, reserved in e820    (RAM)
    0x0009_FC00     EBDA: 1 KiB, with a copy of the MP floating pointer    (RAM, reserved in e820)
    0x0000_7C00     boot sectors start here                                (RAM)
    0x0000_0500     boot structures (below)                                (RAM)
    0x0000_0000     real-mode interrupt vectors, BIOS data area            (RAM)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.config import DeviceConfig

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

PCI_MEMORY, PCI_MEMORY_END = LOW_RAM_END, 0xFEB0_0000
PCI_MEMORY_64_LENGTH = 16 * GIB
VIRTIO_MMIO = 0xFEB0_0000
VIRTIO_MMIO_STRIDE = 0x200
VIRTIO_MMIO_MAX = 8
IOAPIC = 0xFEC0_0000
LAPIC = 0xFEE0_0000
TESTDEV_IOMEM = 0xFF00_0000
IDENTITY_MAP = 0xFFFB_C000
TSS = IDENTITY_MAP + PAGE
UEFI_ROM = 0xFF80_0000  # no UEFI firmware's ROM begins below
UEFI_IDENTITY_MAP = 0xFEFF_C000  # where the two are on a machine with one, the TSS a page behind
KERNEL_MEMORY = ((IOAPIC, PAGE), (LAPIC, PAGE), (IDENTITY_MAP, PAGE), (TSS, 3 * PAGE))  # KVM answers here: nothing else can

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
PORT_DEBUGCON_BIOS = 0x402
PORT_FW_CFG = 0x510
PORT_ACPI_PM = 0x600  # PM1a event block +0, PM1a control +4, PM timer +8
PORT_ACPI_PM_UEFI = 0xB000  # the same with UEFI firmware or U-Boot, which know chip sets that have it there
PORT_PCI_CONFIG = 0xCF8  # address +0, doublewords only; data +4
PORT_RESET_CONTROL = 0xCF9  # bytes only
PORTS_IDE = ((0x1F0, 0x3F6), (0x170, 0x376))  # command block, alternate status
PORT_BOCHS_SHUTDOWN = 0x8900
SERIAL_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
PCI_IO, PCI_IO_END = 0xC000, 0x1_0000  # where I/O BARs are put; the guest may choose others
KERNEL_PORTS = ((0x20, 2), (0x40, 4), (PORT_SYSTEM_B, 1), (0xA0, 2), (0x4D0, 2))  # PICs, PIT, speaker, ELCR: KVM answers

# --- interrupt lines (GSI) -------------------------------------------------------------------------------------------
IRQ_PIT = 0  # wired to I/O APIC pin 2, as in the MADT and the MP table
IRQ_KEYBOARD = 1
SERIAL_IRQS = (4, 3, 4, 3)
IRQ_RTC = 8
IRQ_SCI = 9
PCI_SLOTS = 32
PCI_IRQS = (10, 11, 5, 12)  # PCI lines 0..3, on PIC and I/O APIC alike: what register 0x3C says holds whatever a kernel uses
VIRTIO_MMIO_IRQS = (6, 7, 14, 15)  # round robin; level-triggered, active high
PIC_MASTER_VECTOR, PIC_SLAVE_VECTOR = 0x08, 0x70  # of IRQ 0 and IRQ 8 (IBM PC/AT Technical Reference, system interrupts)
MAX_VCPUS = 255  # xAPIC ids


def ram_regions(size: int) -> list[tuple[int, int]]:
    """Splits ``size`` bytes of RAM around the hole below 4 GiB: [(gpa, length)], ascending."""
    low = min(size, LOW_RAM_END)
    return [(0, low)] + ([(HIGH_RAM, size - low)] if size > low else [])


def pci_memory_64(size: int) -> tuple[int, int]:
    """The PCI memory window above 4 GiB of a machine with ``size`` bytes of RAM: (first address, first behind it)."""
    end_of_ram = HIGH_RAM + min(max(size - LOW_RAM_END, 0), 1 << 50)  # what asks for more is refused elsewhere
    first = -(-end_of_ram // GIB) * GIB
    return first, first + PCI_MEMORY_64_LENGTH


def pci_line(slot: int, pin: int) -> int:
    """Which of the 4 PCI lines pin 1 (INTA) to 4 (INTD) of a slot is wired to: neighbours take different ones."""
    return (slot + pin - 1) % 4


def virtio_mmio(devices: Sequence[DeviceConfig]) -> list[tuple[int, int]]:
    """Where the virtio-mmio transports (``-device NAME-device``) among these are, in their order: [(gpa, ISA interrupt)]."""
    count = min(sum(device.name.endswith("-device") for device in devices), VIRTIO_MMIO_MAX)
    return [(VIRTIO_MMIO + VIRTIO_MMIO_STRIDE * slot, VIRTIO_MMIO_IRQS[slot % 4]) for slot in range(count)]


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
