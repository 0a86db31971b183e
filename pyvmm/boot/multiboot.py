"""Multiboot 1 (Multiboot Specification 0.6.96): ELF images and raw ones with address fields.

Section numbers below are those of the specification. The guest starts in 32-bit protected mode with
EAX = 0x2BADB002 and EBX = the information structure at layout.BOOT_INFO; command line and module strings are at
layout.BOOT_CMDLINE, modules on the first pages behind the image.
"""

from __future__ import annotations

from struct import pack, unpack_from

from pyvmm import layout
from pyvmm.boot import bios, elf
from pyvmm.boot.cpu import SELECTOR_CODE_MULTIBOOT, protected_mode
from pyvmm.boot.image import encode_cmdline, open_image
from pyvmm.boot.plan import BootPlan
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config

# 3.1 OS image format
SEARCH = 8192  # the header lies wholly in the first 8192 bytes, 4-aligned
HEADER_MAGIC = 0x1BADB002
PAGE_ALIGN, MEMORY_INFO, VIDEO_MODE, ADDRESS_FIELDS = 1 << 0, 1 << 1, 1 << 2, 1 << 16
REQUIRED = 0xFFFF  # bits the loader must understand, or refuse
KNOWN = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE
MULTIBOOT2_MAGIC = 0xE85250D6

# 3.2 machine state, 3.3 boot information
BOOT_MAGIC = 0x2BADB002
INFO_SIZE = 120
INFO_MEMORY, INFO_CMDLINE, INFO_MODULES, INFO_MMAP, INFO_LOADER = 1 << 0, 1 << 2, 1 << 3, 1 << 6, 1 << 9
LOADER_NAME = b"pyvmm\0"


def find_header(head: bytes) -> int | None:
    """File offset of the header in the file's first bytes, None without one (3.1.1: magic, flags, checksum sum to 0)."""
    magic = pack("<I", HEADER_MAGIC)
    at = head.find(magic, 0, SEARCH)
    while at >= 0:
        if at % 4 == 0 and at + 12 <= min(len(head), SEARCH) and not sum(unpack_from("<III", head, at)) & 0xFFFF_FFFF:
            return at
        at = head.find(magic, at + 1, SEARCH)
    return None


def plan(image: Image, config: Config, fmt: str, rule: str, place: Placement) -> BootPlan:
    """A plan for a Multiboot image.

    Raises:
        ImageError: no header, unknown requirements, image or modules do not fit.
        ConfigError: command line or module list do not fit.
    """
    header = find_header(image.head())
    if header is None:
        raise image.error("no Multiboot 1 header in the first 8 KiB (magic 0x1badb002, 4-byte aligned, checksum)")
    (flags,) = unpack_from("<I", image.data, header + 4)
    if unknown := flags & REQUIRED & ~KNOWN:
        raise image.error(f"the Multiboot header requires features nobody defined (flags {unknown:#x}): it is damaged or too new")
    if flags & ADDRESS_FIELDS:
        entry, end, notes = _load_raw(image, header, place)
    else:
        if image.data[:4] != elf.MAGIC:
            raise image.error("this Multiboot image is no ELF file, and its header has no address fields (flag bit 16)")
        parsed = elf.parse(image)
        end = elf.load(image, parsed, place)
        entry = elf.check_entry(image, parsed, parsed.physical_entry())
        notes = elf.segment_lines(parsed)
    if flags & VIDEO_MODE:
        notes.append("note     the header asks for a video mode; pyvmm has none and sets no video flags")
    _boot_info(config, place, max(end, layout.ONE_MIB))
    for what, gpa, data in bios.memory():
        place.write(what, gpa, data)
    return BootPlan(
        format="multiboot",
        rule=rule,
        mode="protected",
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=protected_mode(entry, code=SELECTOR_CODE_MULTIBOOT, rax=BOOT_MAGIC, rbx=layout.BOOT_INFO),
        notes=[f"header   at file offset {header:#x}, flags {flags:#x}{_flag_names(flags)}", *notes],
        bios=True,
    )


def _flag_names(flags: int) -> str:
    names = ((PAGE_ALIGN, "page-aligned modules"), (MEMORY_INFO, "memory info"), (VIDEO_MODE, "video"), (ADDRESS_FIELDS, "address fields"))
    text = ", ".join(name for bit, name in names if flags & bit)
    return f" ({text})" if text else ""


def _load_raw(image: Image, header: int, place: Placement) -> tuple[int, int, list[str]]:
    """Places an image by its header's address fields (3.1.3); returns (entry, end, notes)."""
    if header + 32 > len(image):
        raise image.error("truncated: the Multiboot header's address fields are cut off")
    header_addr, load_addr, load_end, bss_end, entry = unpack_from("<5I", image.data, header + 12)
    start = header - (header_addr - load_addr)
    if header_addr < load_addr or start < 0:
        raise image.error(f"Multiboot header_addr {header_addr:#x} or load_addr {load_addr:#x} does not fit the header's place in the file")
    length = (load_end - load_addr) if load_end else len(image) - start
    if length <= 0 or start + length > len(image):
        raise image.error(f"Multiboot address fields: load_addr {load_addr:#x} .. load_end_addr {load_end:#x} is not inside the file")
    end = load_addr + length
    if bss_end and bss_end < end:
        raise image.error(f"Multiboot address fields: bss_end_addr {bss_end:#x} is below the end of the image {end:#x}")
    if not load_addr <= entry < end:
        raise image.error(f"Multiboot address fields: entry_addr {entry:#x} is outside the image {load_addr:#x}..{end:#x}")
    place.write("image", load_addr, image.data[start : start + length])
    place.zero("bss", end, max(bss_end - end, 0))
    notes = [f"load     file {start:#x}+{length:#x} -> phys {load_addr:#x}..{end:#x}, bss to {bss_end or end:#x}"]
    return entry, max(end, bss_end), notes


def split_modules(text: str) -> list[str]:
    """Splits a module list at its commas: ``"a.elf arg=1,b.bin"``; a doubled comma stands for one in a name."""
    if "\0" in text:
        raise ConfigError("the module list holds a NUL byte: remove it")
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",") if part]


def _boot_info(config: Config, place: Placement, modules_from: int) -> None:
    """Writes information structure, memory map, module list, strings and modules (3.3)."""
    boot = config.boot
    strings = encode_cmdline(f"{boot.kernel} {boot.cmdline}".rstrip())
    modules = b""
    at = modules_from
    for module in split_modules(boot.initrd):
        path = module.split(None, 1)[0] if module.split() else module
        data = open_image(path, "module").data
        at += -at % layout.PAGE
        place.write(f"module {path}", at, data)
        modules += pack("<4I", at, at + len(data), layout.BOOT_CMDLINE + len(strings), 0)
        strings += encode_cmdline(module)
        at += len(data)
    mmap = b"".join(pack("<IQQI", 20, gpa, length, kind) for gpa, length, kind in layout.e820(config.memory))
    mmap_at = layout.BOOT_INFO + INFO_SIZE
    modules_at = mmap_at + len(mmap)
    loader_at = modules_at + len(modules)
    if loader_at + len(LOADER_NAME) > layout.BOOT_PARAMS or len(strings) > layout.BOOT_CMDLINE_MAX:
        raise ConfigError("too many Multiboot modules, or too long a command line with their arguments: shorten -initrd or -append")
    upper = max(min(config.memory, layout.LOW_RAM_END) - layout.ONE_MIB, 0)
    info = pack(
        "<7I16x6I",
        INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER,
        layout.EBDA // layout.KIB,  # mem_lower
        upper // layout.KIB,  # mem_upper
        0,  # boot_device: not told
        layout.BOOT_CMDLINE,
        len(modules) // 16,  # mods_count
        modules_at,
        len(mmap),  # behind the symbol table fields, which stay zero
        mmap_at,
        *(0, 0, 0),  # drives_length, drives_addr, config_table
        loader_at,
    )
    place.write("Multiboot information", layout.BOOT_INFO, info.ljust(INFO_SIZE, b"\0") + mmap + modules + LOADER_NAME)
    place.write("command line", layout.BOOT_CMDLINE, strings)
