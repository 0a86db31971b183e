"""What firmware would leave in memory for every guest: BIOS data area, EBDA, MP table, ACPI tables."""

from __future__ import annotations

from struct import pack

from pyvmm import layout
from pyvmm.boot import mptable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

BDA_EBDA_SEGMENT = 0x40E  # word: segment of the EBDA
BDA_BASE_MEMORY = 0x413  # word: KiB of conventional memory below it


def platform_tables(config: Config) -> list[tuple[int, bytes]]:
    """All writes, disjoint: [(gpa, bytes)]."""
    writes = [
        (BDA_EBDA_SEGMENT, pack("<H", layout.EBDA >> 4)),
        (BDA_BASE_MEMORY, pack("<H", layout.EBDA // layout.KIB)),
        (layout.EBDA, bytes([(layout.VGA_WINDOW - layout.EBDA) // layout.KIB])),
        *mptable.mp_table(config),
    ]
    if config.acpi:
        from pyvmm.boot import acpi

        writes.append(acpi.acpi_tables(config))
    return writes


def rsdp_address(config: Config) -> int:
    """Where the RSDP is, 0 without ACPI: for boot_params and hvm_start_info."""
    if not config.acpi:
        return 0
    from pyvmm.boot.acpi import RSDP

    return RSDP


def command_line(config: Config) -> str:
    """Linux's command line: the user's, and without ACPI where the virtio-mmio transports are, as QEMU's microvm says it.

    For kernels with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES (Documentation/admin-guide/kernel-parameters.txt, virtio_mmio.device=), which
    Debian's have not; others ignore it. A user who names transports himself is left alone.
    """
    given = config.boot.cmdline
    if config.acpi or "virtio_mmio.device=" in given:
        return given
    places = layout.virtio_mmio(config.devices)
    return " ".join([given, *(f"virtio_mmio.device={layout.VIRTIO_MMIO_STRIDE}@{gpa:#x}:{irq}" for gpa, irq in places)]).strip()
