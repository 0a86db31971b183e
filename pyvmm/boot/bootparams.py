"""struct boot_params, the Linux "zero page" (Documentation/arch/x86/zero-page.rst and boot.rst).

``SETUP_HEADER`` names every field of the setup header once; the loaders, ``pyvmm inspect`` and the tests use it.
"""

from __future__ import annotations

from struct import calcsize, pack_into, unpack_from

from pyvmm import layout
from pyvmm.boot.tables import rsdp_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

SIZE = 4096
HEADER = 0x1F1
HEADER_END_MAX = 0x290  # what struct boot_params has room for; edd_mbr_sig_buffer follows
MAGIC = b"HdrS"
LOADER_UNDEFINED = 0xFF  # type_of_loader for loaders without an assigned number

# loadflags
LOADED_HIGH, KASLR_FLAG, QUIET, KEEP_SEGMENTS, CAN_USE_HEAP = 1 << 0, 1 << 1, 1 << 5, 1 << 6, 1 << 7
# xloadflags
XLF_KERNEL_64, XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 0, 1 << 1

# field: (offset in file and in boot_params, struct code, protocol version that brought it)
SETUP_HEADER = {
    "setup_sects": (0x1F1, "<B", 0),
    "syssize": (0x1F4, "<I", 0x204),
    "vid_mode": (0x1FA, "<H", 0),
    "boot_flag": (0x1FE, "<H", 0),
    "jump": (0x200, "<H", 0x200),
    "version": (0x206, "<H", 0x200),
    "type_of_loader": (0x210, "<B", 0x200),
    "loadflags": (0x211, "<B", 0x200),
    "code32_start": (0x214, "<I", 0x200),
    "ramdisk_image": (0x218, "<I", 0x200),
    "ramdisk_size": (0x21C, "<I", 0x200),
    "heap_end_ptr": (0x224, "<H", 0x201),
    "cmd_line_ptr": (0x228, "<I", 0x202),
    "initrd_addr_max": (0x22C, "<I", 0x203),
    "kernel_alignment": (0x230, "<I", 0x205),
    "relocatable_kernel": (0x234, "<B", 0x205),
    "min_alignment": (0x235, "<B", 0x20A),
    "xloadflags": (0x236, "<H", 0x20C),
    "cmdline_size": (0x238, "<I", 0x206),
    "setup_data": (0x250, "<Q", 0x209),
    "pref_address": (0x258, "<Q", 0x20A),
    "init_size": (0x260, "<I", 0x20A),
}
# fields outside the setup header
ACPI_RSDP_ADDR, E820_ENTRIES, E820_TABLE, E820_MAX = 0x070, 0x1E8, 0x2D0, 128


def get(data: bytes | bytearray | memoryview, field: str) -> int:
    """A setup header field of a file or a boot_params page; 0 when the data ends before it."""
    offset, code, _ = SETUP_HEADER[field]
    if offset + calcsize(code) > len(data):
        return 0
    value: int = unpack_from(code, data, offset)[0]
    return value


def put(page: bytearray, field: str, value: int) -> None:
    """Sets a setup header field of a boot_params page."""
    offset, code, _ = SETUP_HEADER[field]
    pack_into(code, page, offset, value)


def fill(page: bytearray, config: Config, initrd: tuple[int, int]) -> None:
    """What every Linux boot needs, whatever its setup header says: loader, command line, initrd, RSDP, e820.

    Args:
        page: 4096 bytes; the setup header is already in it.
        initrd: (gpa, bytes).
    """
    put(page, "type_of_loader", LOADER_UNDEFINED)
    put(page, "vid_mode", 0xFFFF)  # "normal"
    put(page, "ramdisk_image", initrd[0])
    put(page, "ramdisk_size", initrd[1])
    put(page, "cmd_line_ptr", layout.BOOT_CMDLINE)
    put(page, "setup_data", 0)
    pack_into("<Q", page, ACPI_RSDP_ADDR, rsdp_address(config))
    entries = layout.e820(config.memory)
    page[E820_ENTRIES] = len(entries)
    for index, entry in enumerate(entries[:E820_MAX]):
        pack_into("<QQI", page, E820_TABLE + 20 * index, *entry)
