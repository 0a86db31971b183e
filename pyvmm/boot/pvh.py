"""PVH, the x86/HVM direct boot ABI of Xen (docs/misc/pvh, xen/include/public/arch-x86/hvm/start_info.h).

An ELF file whose note "Xen" type 18 (PHYS32_ENTRY) holds a 32-bit entry. EBX = struct hvm_start_info at
layout.BOOT_INFO, version 1 (with memory map); the first module is the initrd.
"""

from __future__ import annotations

from struct import pack

from pyvmm import layout
from pyvmm.boot import elf
from pyvmm.boot.cpu import SELECTOR_CODE_MULTIBOOT, protected_mode
from pyvmm.boot.image import encode_cmdline
from pyvmm.boot.initrd import place_initrd
from pyvmm.boot.plan import BootPlan
from pyvmm.boot.tables import command_line, rsdp_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.elf import Elf
    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config

NOTE_OWNER, NOTE_PHYS32_ENTRY = b"Xen", 18
START_MAGIC = 0x336EC578  # "xEn3" with the 0x80 bit of the "E" set
START_INFO_SIZE = 56


def entry_of(image: Image, parsed: Elf) -> int | None:
    """The 32-bit entry of the PVH note, None without one."""
    for owner, kind, data in elf.notes(image, parsed):
        if (owner, kind) == (NOTE_OWNER, NOTE_PHYS32_ENTRY) and len(data) in (4, 8):
            return int.from_bytes(data, "little")
    return None


def plan(image: Image, config: Config, fmt: str, rule: str, place: Placement) -> BootPlan:
    """A plan for an ELF file with a PVH note.

    Raises:
        ImageError: no note, or image or initrd do not fit. ConfigError: the command line is too long.
    """
    parsed = elf.parse(image)
    entry = entry_of(image, parsed)
    if entry is None:
        raise image.error("no PVH entry: the ELF file has no Xen note of type 18 (for Linux: CONFIG_PVH=y)")
    end = elf.load(image, parsed, place)
    elf.check_entry(image, parsed, entry)
    initrd = place_initrd(config, place, max(end, layout.ONE_MIB))
    modules = pack("<QQQQ", *initrd, 0, 0) if initrd[1] else b""
    memory_map = b"".join(pack("<QQII", gpa, length, kind, 0) for gpa, length, kind in layout.e820(config.memory))
    modules_at = layout.BOOT_INFO + START_INFO_SIZE
    map_at = modules_at + len(modules)
    info = pack(
        "<IIIIQQQQII",
        START_MAGIC,
        1,  # version: with the memory map fields
        0,  # flags: not the initial domain
        1 if modules else 0,
        modules_at if modules else 0,
        layout.BOOT_CMDLINE,
        rsdp_address(config),
        map_at,
        len(memory_map) // 24,
        0,
    )
    place.write("hvm_start_info", layout.BOOT_INFO, info + modules + memory_map)
    place.write("command line", layout.BOOT_CMDLINE, encode_cmdline(command_line(config)))
    return BootPlan(
        format=fmt,
        rule=rule,
        mode="protected",
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=protected_mode(entry, tss=0, code=SELECTOR_CODE_MULTIBOOT, rbx=layout.BOOT_INFO),
        notes=elf.segment_lines(parsed) + ([f"initrd   {initrd[0]:#x}..{sum(initrd):#x}"] if initrd[1] else []),
    )
