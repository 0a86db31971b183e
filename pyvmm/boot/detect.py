"""Which format an image has, and the plan to boot it.

Automatic detection asks these questions in this order; the first yes decides:

1. "HdrS" at 0x202 and 0xAA55 at 0x1FE: ``linux``, a bzImage. First, since every bzImage has a boot sector's signature
   as well (and may have Multiboot magic somewhere in its code by chance).
2. Multiboot 1 header in the first 8 KiB (aligned, checksum right): ``multiboot``. Before ELF, because most Multiboot
   images are ELF files and expect boot information that a plain ELF start does not give.
3. ELF with a Xen note of type 18 (PHYS32_ENTRY): ``pvh``. Before vmlinux: a 32-bit entry that is made for loaders.
4. ELF with a note that names Linux: ``vmlinux``, started as by the 64-bit boot protocol, or the 32-bit one.
5. any other ELF: ``elf``, by its class in protected or long mode.
6. 0x55 0xAA at 510: ``flat16``, a boot sector. Last: two bytes are the weakest sign.

Raw code without any sign is never guessed: ``--format flat16|flat32|flat64`` says what it is.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot import image as files
from pyvmm.boot.cpu import memory_for
from pyvmm.boot.plan import Placement
from pyvmm.boot.tables import platform_tables
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import BootPlan
    from pyvmm.config import Config

FORMATS = ("auto", "flat16", "flat32", "flat64", "elf", "multiboot", "pvh", "linux", "linux32", "vmlinux", "bios")

ELF_MAGIC = b"\x7fELF"

# What people hand to a VMM by mistake, and what to do instead: (offset, magic, text)
MISTAKES = (
    (0, b"\x1f\x8b", "is gzip-compressed: unpack it first"),
    (0, b"\xfd7zXZ\0", "is xz-compressed: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "is zstd-compressed: unpack it first"),
    (0, b"070701", "is a cpio archive: give it as -initrd, and a kernel as -kernel"),
    (0, b"QFI\xfb", "is a qcow2 disk image: give it as a disk, and a kernel as -kernel"),
    (0, b"!<arch>\n", "is a library archive: link it"),
    (0x38, b"ARM\x64", "is a kernel for arm64: take one for x86"),
    (0x8001, b"CD001", "is a CD image: there are no CD-ROM drives; one that is a disk image too boots by -bios (docs/firmware.md)"),
    (0, b"MZ", "is a PE (EFI or Windows) program: put it on a disk, for a UEFI firmware to start (docs/firmware.md)"),
)


def plan(config: Config) -> BootPlan:
    """Reads the image (and initrd) and says what to put where.

    Raises:
        ImageError: the image cannot be used; one line naming the problem and the fix.
        ConfigError: the configuration cannot work with this image.
    """
    if config.memory < layout.RAM_MIN:
        raise ConfigError(f"guest memory of {config.memory} bytes: give -m at least 1M")
    if not 1 <= config.smp <= layout.MAX_VCPUS:
        raise ConfigError(f"{config.smp} vCPUs: give -smp 1 to {layout.MAX_VCPUS}")
    image = files.open_image(config.boot.kernel)
    fmt, rule = recognise(image, config.boot.fmt)
    return plan_image(image, config, fmt, rule)


def plan_image(image: Image, config: Config, fmt: str, rule: str) -> BootPlan:
    """The plan for an image whose format is known. Raises as ``plan`` does."""
    if fmt == "bios":
        from pyvmm.boot.firmware import plan as plan_firmware

        return plan_firmware(image, config, rule)
    place = Placement(config.memory, image.path)
    if fmt in ("flat16", "flat32", "flat64"):
        from pyvmm.boot import flat as loader
    elif fmt == "multiboot":
        from pyvmm.boot import multiboot as loader  # type: ignore[no-redef]
    elif fmt == "pvh":
        from pyvmm.boot import pvh as loader  # type: ignore[no-redef]
    elif fmt in ("linux", "linux32"):
        from pyvmm.boot import linux as loader  # type: ignore[no-redef]
    elif fmt == "vmlinux":
        from pyvmm.boot import vmlinux as loader  # type: ignore[no-redef]
    else:
        from pyvmm.boot import elf as loader  # type: ignore[no-redef]
    if not fmt.startswith("flat") and (config.boot.address is not None or config.boot.entry is not None):
        raise ConfigError(f"a load address or entry is only for flat images; this is {fmt}: remove it, or give --format flat32")
    result = loader.plan(image, config, fmt, rule, place)
    for gpa, data in memory_for(result.state):
        place.write("boot GDT, TSS or page tables", gpa, data)
    for gpa, data in platform_tables(config):
        place.write("BIOS data, MP or ACPI tables", gpa, data)
    place.check()
    return result


def recognise(image: Image, fmt: str = "auto") -> tuple[str, str]:
    """(format, rule in one line). ``fmt`` other than "auto" is taken as it is.

    Raises:
        ImageError: nothing fits. ConfigError: no such format.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"no image format {fmt!r}: give one of {', '.join(FORMATS)}")
    if fmt != "auto":
        return fmt, f"--format {fmt}"
    head = image.head()
    if head[0x202:0x206] == b"HdrS" and head[0x1FE:0x200] == b"\x55\xaa":
        return "linux", 'Linux boot protocol: "HdrS" at 0x202, 0xaa55 at 0x1fe'
    from pyvmm.boot.multiboot import MULTIBOOT2_MAGIC, find_header

    header = find_header(head)
    if header is not None:
        return "multiboot", f"Multiboot 1 header at file offset {header:#x}"
    if head[:4] == ELF_MAGIC:
        return _recognise_elf(image)
    for offset, magic, text in MISTAKES:
        if image.data[offset : offset + len(magic)] == magic:
            raise image.error(text)
    if head[510:512] == b"\x55\xaa":
        return "flat16", "boot sector: 0x55 0xaa at 510"
    if MULTIBOOT2_MAGIC.to_bytes(4, "little") in head:
        raise image.error("is a Multiboot 2 image; pyvmm speaks Multiboot 1: add its header")
    is_volume = bytes(image.data[40:44]) == b"_FVH"  # of UEFI's
    if is_volume or not len(image) % (64 * layout.KIB) and image.data[-16] in (0xE9, 0xEA):  # a jump at the reset vector
        raise image.error("looks like a PC firmware: give it as -bios")
    raise image.error("not recognised as bzImage, Multiboot, ELF or boot sector; for raw code give --format flat16, flat32 or flat64")


def _recognise_elf(image: Image) -> tuple[str, str]:
    from pyvmm.boot import elf

    parsed = elf.parse(image)
    from pyvmm.boot.pvh import entry_of

    if entry_of(image, parsed) is not None:
        return "pvh", "ELF with a Xen note 18 (PHYS32_ENTRY): PVH"
    # Linux's own notes (BUILD_SALT and the like), or XEN_ELFNOTE_GUEST_OS
    if any(owner == b"Linux" or (owner, kind, text[:5]) == (b"Xen", 6, b"linux") for owner, kind, text in elf.notes(image, parsed)):
        return "vmlinux", f"ELF{parsed.bits} with a note that names Linux"
    return "elf", f"ELF{parsed.bits} by its magic and class"
