"""ELF executables: PT_LOAD segments go to their physical addresses (System V gABI, chapters 4 and 5).

A plain ELF gets no boot information: ELF32 starts in protected mode, ELF64 in long mode with the first 4 GiB mapped.
Multiboot, PVH and vmlinux images are ELF files too and load through ``load`` here.
"""

from __future__ import annotations

from struct import unpack_from

from pyvmm import layout
from pyvmm.boot.cpu import IDENTITY_MAP_END, long_mode, protected_mode
from pyvmm.boot.image import encode_cmdline
from pyvmm.boot.plan import BootPlan
from pyvmm.errors import ConfigError
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.boot.image import Image
    from pyvmm.boot.plan import Placement
    from pyvmm.config import Config

MAGIC = b"\x7fELF"
CLASS32, CLASS64 = 1, 2
LITTLE_ENDIAN = 1
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
MAX_HEADERS = 4096  # program headers; real images have a dozen

TYPES = {0: "none", 1: "a relocatable object", 2: "an executable", 3: "a shared object", 4: "a core dump"}
SEGMENT_TYPES = {0: "NULL", 1: "LOAD", 2: "DYNAMIC", 3: "INTERP", 4: "NOTE", 6: "PHDR", 7: "TLS", 0x6474E551: "GNU_STACK"}


class Segment(Record):
    """One program header. All ints; ``offset`` and ``filesz`` are inside the file for PT_LOAD and PT_NOTE."""

    index: int
    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class Elf(Record):
    """What the ELF header says.

    Fields:
        bits: 32 or 64.
        machine: EM_386 or EM_X86_64.
        entry: e_entry as it stands: virtual, or physical where the linker script made it so.
        segments: all program headers in order.
    """

    bits: int
    machine: int
    entry: int
    segments: list[Segment]

    def loads(self) -> list[Segment]:
        """The PT_LOAD segments that occupy memory."""
        return [segment for segment in self.segments if segment.type == PT_LOAD and segment.memsz]

    def physical_entry(self) -> int:
        """e_entry as a physical address: translated when it lies in a segment's virtual range, else as it stands.

        (The gABI defines e_entry as virtual; kernels linked high, e.g. Linux, put a physical one there.)
        """
        for segment in self.loads():
            if segment.vaddr <= self.entry < segment.vaddr + segment.memsz:
                return self.entry - segment.vaddr + segment.paddr
        return self.entry


def parse(image: Image) -> Elf:
    """Reads and checks ELF and program headers.

    Raises:
        ImageError: not an x86 executable, or truncated.
    """
    data = image.data
    if len(data) < 52 or data[:4] != MAGIC:
        raise image.error("truncated ELF header" if data[:4] == MAGIC else "not an ELF file")
    wide = data[4] == CLASS64
    if data[4] not in (CLASS32, CLASS64) or data[5] != LITTLE_ENDIAN:
        raise image.error(f"ELF class {data[4]}, byte order {data[5]}: not a little-endian 32- or 64-bit file")
    if wide and len(data) < 64:
        raise image.error("truncated ELF header")
    kind, machine = unpack_from("<HH", data, 16)
    if machine not in (EM_386, EM_X86_64) or wide and machine == EM_386:
        raise image.error(f"ELF{64 if wide else 32} for machine {machine}: pyvmm runs x86 (3) and x86-64 (62)")
    if kind not in (ET_EXEC, ET_DYN):
        raise image.error(f"ELF file is {TYPES.get(kind, f'of type {kind}')}, not an executable: link it")
    entry, headers = unpack_from("<QQ" if wide else "<II", data, 24)
    entry_size, count = unpack_from("<HH", data, 54 if wide else 42)
    if not count or count > MAX_HEADERS or entry_size < (56 if wide else 32):
        raise image.error(f"ELF file has {count} program headers of {entry_size} bytes: nothing to load")
    if headers + count * entry_size > len(data):
        raise image.error(f"truncated: the ELF program headers end at {headers + count * entry_size:#x}, the file at {len(data):#x}")
    segments = []
    for index in range(count):
        at = headers + index * entry_size
        if wide:
            type_, flags, offset, vaddr, paddr, filesz, memsz, align = unpack_from("<IIQQQQQQ", data, at)
        else:
            type_, offset, vaddr, paddr, filesz, memsz, flags, align = unpack_from("<8I", data, at)
        if type_ in (PT_LOAD, PT_NOTE) and offset + filesz > len(data):
            raise image.error(f"truncated: ELF segment {index} ends at file offset {offset + filesz:#x}, the file at {len(data):#x}")
        if type_ == PT_LOAD and filesz > memsz:
            raise image.error(f"ELF segment {index} has more bytes in the file ({filesz:#x}) than in memory ({memsz:#x})")
        segments.append(
            Segment(index=index, type=type_, flags=flags, offset=offset, vaddr=vaddr, paddr=paddr, filesz=filesz, memsz=memsz, align=align)
        )
    if any(segment.type == PT_INTERP for segment in segments):
        raise image.error("this ELF file is a program for an operating system (it names an interpreter), not a kernel: link it statically")
    elf = Elf(bits=64 if wide else 32, machine=machine, entry=entry, segments=segments)
    if not elf.loads():
        raise image.error("ELF file has no PT_LOAD segment: nothing to load")
    return elf


def load(image: Image, elf: Elf, place: Placement) -> int:
    """Places all PT_LOAD segments; returns the physical end of the highest one.

    Raises:
        ImageError: a segment is outside RAM.
    """
    end = 0
    for segment in elf.loads():
        what = f"ELF segment {segment.index}"
        place.write(what, segment.paddr, image.data[segment.offset : segment.offset + segment.filesz])
        place.zero(f"{what} (bss)", segment.paddr + segment.filesz, segment.memsz - segment.filesz)
        end = max(end, segment.paddr + segment.memsz)
    return end


def check_entry(image: Image, elf: Elf, entry: int, limit: int = 1 << 32) -> int:
    """Returns ``entry`` when it can be run from: loaded and below ``limit``.

    Raises:
        ImageError: it cannot.
    """
    if entry >= limit:
        raise image.error(f"entry {entry:#x} is above {limit:#x}, which the boot CPU cannot reach")
    if not any(segment.paddr <= entry < segment.paddr + segment.memsz for segment in elf.loads()):
        raise image.error(f"entry {entry:#x} is in no loaded segment: check the linker script")
    return entry


def notes(image: Image, elf: Elf) -> Iterator[tuple[bytes, int, bytes]]:
    """All notes of the PT_NOTE segments: (owner without NUL, type, descriptor). Stops at the first malformed one."""
    for segment in elf.segments:
        if segment.type != PT_NOTE:
            continue
        data = image.data[segment.offset : segment.offset + segment.filesz]
        align = 8 if segment.align == 8 else 4  # GNU property notes of 64-bit files are 8-aligned (gABI: 4)
        at = 0
        while at + 12 <= len(data):
            owner_size, size, type_ = unpack_from("<III", data, at)
            start = at + 12 + owner_size + -(12 + owner_size) % align
            if start + size > len(data):
                break
            yield bytes(data[at + 12 : at + 12 + min(owner_size, 64)]).rstrip(b"\0"), type_, bytes(data[start : start + min(size, 256)])
            at = start + size + -size % align


def plan(image: Image, config: Config, fmt: str, rule: str, place: Placement) -> BootPlan:
    """A plan for a plain ELF file. RSI (ESI) is the address of the command line, 0 without one.

    Raises:
        ImageError: cannot be loaded. ConfigError: an initrd is given.
    """
    elf = parse(image)
    if config.boot.initrd:
        raise ConfigError("a plain ELF image takes no initrd: remove -initrd, or give the image a Multiboot header or a PVH note")
    load(image, elf, place)
    entry = check_entry(image, elf, elf.physical_entry(), IDENTITY_MAP_END)
    cmdline = layout.BOOT_CMDLINE if config.boot.cmdline else 0
    if cmdline:
        place.write("command line", cmdline, encode_cmdline(config.boot.cmdline))
    return BootPlan(
        format=f"elf{elf.bits}",
        rule=rule,
        mode="long" if elf.bits == 64 else "protected",
        entry=entry,
        writes=place.writes,
        zero=place.zeros,
        state=long_mode(entry, rsi=cmdline) if elf.bits == 64 else protected_mode(entry, rsi=cmdline),
        notes=segment_lines(elf),
    )


def segment_lines(elf: Elf) -> list[str]:
    """The program headers as a table for people."""
    lines = []
    for segment in elf.segments:
        kind = SEGMENT_TYPES.get(segment.type, f"{segment.type:#x}")
        access = "".join(letter if segment.flags & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        lines.append(
            f"segment  {segment.index:2} {kind:12} {access} file {segment.offset:#x}+{segment.filesz:#x} -> "
            f"phys {segment.paddr:#x}+{segment.memsz:#x} (virt {segment.vaddr:#x})"
        )
    return lines
