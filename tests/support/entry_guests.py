"""One tiny guest per way into a machine. Each looks where it is and reports it as one number through isa-debug-exit.

The number is the sum of CR0, EFER << 8, CS << 8, 1 << 28 when 64-bit code runs, and of what is wrong with the register
its boot protocol promises (0 when right), so that any difference shows. Standard library and pyvmm only: this runs
inside host C too.
"""

from __future__ import annotations

from struct import pack

from pyvmm.boot.cpu import CR0_ET, CR0_PE, CR0_PG, EFER_LMA, EFER_LME, SELECTOR_CODE, SELECTOR_CODE_MULTIBOOT
from pyvmm.layout import MIB
from pyvmm.record import FrozenRecord
from tests.support import images

MEMORY = 32 * MIB
BASE = 16 * MIB  # where Linux likes to be

# 16-bit code; EDI is what is wrong with DL, the BIOS's drive number
REAL = bytes.fromhex(
    "66 0fb6fa"  # movzx edi, dl
    "66 81f780000000"  # xor edi, 0x80
    "66 b9800000c0"  # mov ecx, EFER
    "0f32"  # rdmsr
    "66 c1e008"  # shl eax, 8
    "66 01c7"  # add edi, eax
    "66 31c9"  # xor ecx, ecx
    "8cc9"  # mov cx, cs
    "66 c1e108"  # shl ecx, 8
    "66 01cf"  # add edi, ecx
    "0f20c0"  # mov eax, cr0
    "66 01f8"  # add eax, edi
    "66 e7f4"  # out 0xf4, eax
    "f4"  # hlt
)
# The same bytes for 32-bit and 64-bit code, behind one of the beginnings below, which leave in EDI what is wrong
REPORT = bytes.fromhex(
    "b9800000c0"  # mov ecx, EFER
    "0f32"  # rdmsr
    "c1e008"  # shl eax, 8
    "01c7"  # add edi, eax
    "8cc9"  # mov ecx, cs
    "c1e108"  # shl ecx, 8
    "01cf"  # add edi, ecx
    "31c0"  # xor eax, eax
    "48ffc0"  # 32-bit: dec eax; inc eax. 64-bit: inc rax
    "c1e01c"  # shl eax, 28
    "01c7"  # add edi, eax
    "0f20c0"  # mov eax, cr0
    "01f8"  # add eax, edi
    "e7f4"  # out 0xf4, eax
    "f4"  # hlt
)
PLAIN = bytes.fromhex("31ff") + REPORT  # xor edi, edi
MULTIBOOT = bytes.fromhex("89c7 81f7") + pack("<I", 0x2BADB002) + REPORT  # mov edi, eax; xor edi, magic
PVH = bytes.fromhex("8b3b 81f7") + pack("<I", 0x336EC578) + REPORT  # mov edi, [ebx]; xor edi, magic of hvm_start_info
LINUX = bytes.fromhex("8bbe02020000 81f7") + b"HdrS" + REPORT  # mov edi, [rsi+0x202]; xor edi, "HdrS"


class EntryGuest(FrozenRecord):
    """A guest image.

    Fields:
        name: for reports.
        image: the file's bytes.
        format, mode: of the boot plan that must come out.
        fmt: for --format.
        address: load address of a flat image, None for the default.
        cs: the selector the guest must see.
    """

    name: str
    image: bytes
    format: str
    mode: str
    fmt: str = "auto"
    address: int | None = None
    cs: int = SELECTOR_CODE

    def expected(self) -> int:
        """The number it reports from the right mode."""
        cr0 = {"real": CR0_ET, "protected": CR0_ET | CR0_PE, "long": CR0_ET | CR0_PE | CR0_PG}[self.mode]
        wide = self.mode == "long"
        return cr0 + ((EFER_LME | EFER_LMA if wide else 0) << 8) + (self.cs << 8) + (wide << 28)


def _elf(bits: int, code: bytes, notes: bytes = b"", high: int = 0) -> bytes:
    return images.elf(bits, [(BASE, code, 0x1000)], entry=BASE, notes=notes, vaddr_offset=high)


def _pvh(bits: int) -> bytes:
    # e_entry is left without code: only the note's entry leads anywhere.
    note = images.note(images.PVH_OWNER, images.PVH_TYPE, pack("<Q" if bits == 64 else "<I", BASE + 16))
    return _elf(bits, bytes(16) + PVH, note)


def _multiboot_elf() -> bytes:
    return images.elf(32, [(MIB, images.multiboot_header(3) + MULTIBOOT, 0x1000)], entry=MIB + 12)


# HLT where the other entry is: whoever takes it never reports.
_LINUX64 = images.HLT.ljust(0x200, b"\xf4") + LINUX.ljust(0x200, b"\xf4")
_LINUX32 = LINUX.ljust(0x400, b"\xf4")
_HIGH = 0xFFFF_FFFF_8000_0000

GUESTS = [
    EntryGuest(name="boot sector", image=images.boot_sector(REAL), format="flat16", mode="real", cs=0),
    EntryGuest(name="real mode at 128 KiB", image=REAL, format="flat16", mode="real", fmt="flat16", address=0x2_0000, cs=0x2000),
    EntryGuest(name="flat32", image=PLAIN, format="flat32", mode="protected", fmt="flat32"),
    EntryGuest(name="flat64", image=PLAIN, format="flat64", mode="long", fmt="flat64"),
    EntryGuest(name="ELF32", image=_elf(32, PLAIN), format="elf32", mode="protected"),
    EntryGuest(name="ELF64", image=_elf(64, PLAIN), format="elf64", mode="long"),
    EntryGuest(
        name="Multiboot, raw", image=images.multiboot_raw(code=MULTIBOOT), format="multiboot", mode="protected", cs=SELECTOR_CODE_MULTIBOOT
    ),
    EntryGuest(name="Multiboot, ELF", image=_multiboot_elf(), format="multiboot", mode="protected", cs=SELECTOR_CODE_MULTIBOOT),
    EntryGuest(name="PVH, ELF32", image=_pvh(32), format="pvh", mode="protected", cs=SELECTOR_CODE_MULTIBOOT),
    EntryGuest(name="PVH, ELF64", image=_pvh(64), format="pvh", mode="protected", cs=SELECTOR_CODE_MULTIBOOT),
    EntryGuest(name="bzImage, 64-bit entry", image=images.bzimage(_LINUX64), format="linux", mode="long"),
    EntryGuest(name="bzImage, 32-bit entry", image=images.bzimage(_LINUX32), format="linux32", mode="protected", fmt="linux32"),
    EntryGuest(
        name="vmlinux, 64-bit entry",
        image=_elf(64, LINUX, images.note(b"Linux\0", 0x100, b"\0"), _HIGH),
        format="vmlinux",
        mode="long",
    ),
]
