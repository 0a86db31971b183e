"""Small synthetic guest images of every format, for tests: valid by default, any field may be made wrong."""

from __future__ import annotations

from struct import pack, pack_into

from pyvmm.boot import cpu
from pyvmm.boot.bootparams import SETUP_HEADER
from pyvmm.boot.plan import BootPlan
from pyvmm.config import BootConfig, Config
from pyvmm.kvm.entry_rules import violations
from pyvmm.layout import MIB, ram_regions

HLT = b"\xf4" * 16
PVH_OWNER, PVH_TYPE = b"Xen\0", 18


def boot_sector(code: bytes = HLT) -> bytes:
    """512 bytes with the signature."""
    return code.ljust(510, b"\0") + b"\x55\xaa"


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    """One 4-aligned ELF note; ``owner`` with its NUL."""
    return pack("<III", len(owner), len(data), kind) + owner + bytes(-len(owner) % 4) + data + bytes(-len(data) % 4)


def elf(
    bits: int,
    loads: list[tuple[int, bytes, int]],
    *,
    entry: int,
    notes: bytes = b"",
    vaddr_offset: int = 0,
    machine: int | None = None,
    kind: int = 2,
    extra: tuple[int, ...] = (),
) -> bytes:
    """An ELF executable.

    Args:
        bits: 32 or 64.
        loads: (physical address, bytes in the file, bytes in memory).
        entry: e_entry.
        notes: contents of a PT_NOTE segment, none when empty.
        vaddr_offset: virtual minus physical addresses.
        machine, kind: e_machine and e_type.
        extra: types of further, empty program headers.
    """
    wide = bits == 64
    header_size, entry_size = (64, 56) if wide else (52, 32)
    parts = [(1, paddr, data, memsz) for paddr, data, memsz in loads]
    parts += [(4, 0, notes, len(notes))] if notes else []
    parts += [(type_, 0, b"", 0) for type_ in extra]
    offset = header_size + entry_size * len(parts)
    headers, body = b"", b""
    for type_, paddr, data, memsz in parts:
        vaddr = paddr + vaddr_offset
        if wide:
            headers += pack("<IIQQQQQQ", type_, 7, offset + len(body), vaddr, paddr, len(data), memsz, 4)
        else:
            headers += pack("<8I", type_, offset + len(body), vaddr, paddr, len(data), memsz, 7, 4)
        body += data
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    middle = pack("<HHI", kind, machine or (62 if wide else 3), 1) + pack("<QQQ" if wide else "<III", entry, header_size, 0)
    return ident + middle + pack("<IHHHHHH", 0, header_size, entry_size, len(parts), 0, 0, 0) + headers + body


def multiboot_header(flags: int = 0, *fields: int) -> bytes:
    """Magic, flags, checksum, and the address fields that are given."""
    return pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFF_FFFF) + pack(f"<{len(fields)}I", *fields)


def multiboot_raw(address: int = MIB, code: bytes = HLT, *, bss: int = 0x100, flags: int = 0) -> bytes:
    """A raw image with address fields; the code follows the 32-byte header and is the entry."""
    end = address + 32 + len(code)
    return multiboot_header(0x10000 | flags, address, address, end, end + bss, address + 32) + code


def multiboot_elf(bits: int = 32, address: int = MIB, flags: int = 3) -> bytes:
    """An ELF file whose only segment starts with the header."""
    return elf(bits, [(address, multiboot_header(flags) + HLT, 0x1000)], entry=address + 12)


def pvh(bits: int = 64, address: int = 16 * MIB, *, entry: int | None = None) -> bytes:
    """An ELF file with a PVH note, linked high as Linux is."""
    notes = note(b"GNU\0", 3, b"12345678") + note(PVH_OWNER, PVH_TYPE, pack("<Q", address + 4 if entry is None else entry))
    return elf(bits, [(address, HLT, 0x2000)], entry=address, notes=notes, vaddr_offset=0 if bits == 32 else 0xFFFF_FFFF_8000_0000)


def vmlinux(address: int = 16 * MIB, bits: int = 64) -> bytes:
    """An ELF file with Linux's note, e_entry physical."""
    high = 0xFFFF_FFFF_8000_0000 if bits == 64 else 0xC000_0000
    return elf(bits, [(address, HLT, 0x2000)], entry=address, notes=note(b"Linux\0", 0x100, b"\0"), vaddr_offset=high)


def bzimage(payload: bytes = HLT * 64, **fields: int) -> bytes:
    """A bzImage: one setup sector besides the boot sector, protocol 2.15; any setup header field can be given."""
    head = bytearray(1024)
    values = {
        "setup_sects": 1,
        "syssize": len(payload) // 16,
        "boot_flag": 0xAA55,
        "jump": 0x6AEB,
        "version": 0x20F,
        "loadflags": 1,
        "code32_start": 0x100000,
        "initrd_addr_max": 0x7FFF_FFFF,
        "kernel_alignment": 0x200000,
        "relocatable_kernel": 1,
        "xloadflags": 3,
        "cmdline_size": 2047,
        "pref_address": 0x1000000,
        "init_size": 0x200000,
        **fields,
    }
    head[0x202:0x206] = b"HdrS"
    for name, value in values.items():
        offset, code, _ = SETUP_HEADER[name]
        pack_into(code, head, offset, value)
    return bytes(head) + payload


def config(kernel: object, *, memory: int = 128 * MIB, smp: int = 1, acpi: bool = True, **boot: object) -> Config:
    """A Config for an image file; further arguments are BootConfig fields."""
    return Config(boot=BootConfig(kernel=str(kernel), **boot), memory=memory, smp=smp, acpi=acpi)  # type: ignore[arg-type]


def memory_of(plan: BootPlan, gpa: int, length: int) -> bytes:
    """What the plan's writes put at a guest address; bytes nobody writes are zero."""
    result = bytearray(length)
    for start, data in plan.writes:
        first, last = max(start, gpa), min(start + len(data), gpa + length)
        if first < last:
            result[first - gpa : last - gpa] = data[first - start : last - start]
    return bytes(result)


def check_plan(plan: BootPlan, memory: int) -> None:
    """The properties every plan has: inside RAM, disjoint, and a CPU state that any KVM enters."""
    ranges = sorted([(gpa, gpa + len(data)) for gpa, data in plan.writes] + [(gpa, gpa + length) for gpa, length in plan.zero])
    regions = [(start, start + length) for start, length in ram_regions(memory)]
    for gpa, end in ranges:
        assert gpa < end, f"empty range at {gpa:#x}"
        assert any(start <= gpa and end <= stop for start, stop in regions), f"{gpa:#x}..{end:#x} is outside RAM"
    for (gpa, end), (other, _) in zip(ranges, ranges[1:], strict=False):
        assert end <= other, f"{gpa:#x}..{end:#x} overlaps what begins at {other:#x}"
    assert violations(plan.state, plan.state) == []
    assert plan.entry == plan.state.cs.base + plan.state.rip
    assert plan.mode == {0: "real", 1: "protected", 2: "long"}[(plan.state.cr0 & cpu.CR0_PE) + (plan.state.efer >> 10)]
