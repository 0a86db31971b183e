"""What a linear address means to the guest: segment, mode, and a walk through the page tables in guest memory.

Works on registers and memory alone, so it serves a live vCPU, a snapshot and a recorded session, and can tell at which
level an address ends, which KVM_TRANSLATE cannot. Formats: SDM volume 3A, chapter 4; APM volume 2, chapter 5.
"""

from __future__ import annotations

from pyvmm.errors import GuestFault
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Memory(Protocol):
        """Guest physical memory to look at: ``pyvmm.memory.GuestMemory``, or what a recording has of it."""

        def contains(self, gpa: int, length: int) -> bool:
            """Whether the whole range is RAM."""

        def read(self, gpa: int, length: int) -> bytes:
            """A copy. GuestFault outside RAM."""

        def unpack(self, layout: str, gpa: int) -> tuple[Any, ...]:
            """``struct.unpack`` of the bytes there. GuestFault outside RAM."""


CR0_PE, CR0_PG = 1, 1 << 31
CR4_PSE, CR4_PAE, CR4_LA57 = 1 << 4, 1 << 5, 1 << 12
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
RFLAGS_VM = 1 << 17
_PRESENT, _WRITABLE, _USER, _LARGE = 1, 2, 4, 1 << 7
_ADDRESS = 0x000F_FFFF_FFFF_F000

_LONG_LEVELS = ("PML5", "PML4", "PDPT", "PD", "PT")


class Walk(Record):
    """Where a linear address leads.

    Fields:
        linear: the address asked for.
        gpa: guest physical address, None when the guest would take a page fault.
        steps: [(table, gpa of the entry, entry)], from the top.
        fault: why there is no gpa, "" otherwise.
        user, writable: what all levels together allow; both true without paging.
    """

    linear: int
    gpa: int | None = None
    steps: list[tuple[str, int, int]] = []
    fault: str = ""
    user: bool = True
    writable: bool = True

    def _step(self, table: str, at: int, entry: int, present: int) -> bool:
        """Notes one entry on the way; returns whether the way goes on."""
        self.steps.append((table, at, entry))
        if not present:
            self.fault = f"is not mapped: its {table} entry is not present"
        return bool(present)

    def _allow(self, entry: int) -> None:
        self.user, self.writable = self.user and bool(entry & _USER), self.writable and bool(entry & _WRITABLE)


def code_bits(sregs: Any) -> int:
    """16, 32 or 64: how the CPU decodes instructions now."""
    if sregs.efer & EFER_LMA and sregs.cs.l:
        return 64
    return 32 if sregs.cs.db else 16


def mode_name(sregs: Any, rflags: int = 0) -> str:
    """The CPU mode in words, with paging and privilege level."""
    if not sregs.cr0 & CR0_PE:
        return "real mode"
    if rflags & RFLAGS_VM and not sregs.efer & EFER_LMA:
        return "virtual-8086 mode"
    if sregs.efer & EFER_LMA:
        mode = "64-bit long mode" if sregs.cs.l else f"compatibility mode ({code_bits(sregs)}-bit code in long mode)"
    else:
        mode = f"{code_bits(sregs)}-bit protected mode"
        mode += ", paging off" if not sregs.cr0 & CR0_PG else ", PAE paging" if sregs.cr4 & CR4_PAE else ", 32-bit paging"
    return f"{mode}, ring {sregs.ss.dpl}"


def linear_address(sregs: Any, segment: Any, offset: int) -> int:
    """Segment base plus offset, as wide as the mode makes it."""
    if code_bits(sregs) == 64:
        return offset & 0xFFFF_FFFF_FFFF_FFFF  # bases of CS, DS, ES and SS count as 0
    return int(segment.base + offset) & 0xFFFF_FFFF


def canonical(sregs: Any, linear: int) -> bool:
    """Whether an address is one the paging mode can have at all."""
    if not sregs.efer & EFER_LMA:
        return linear >> 32 == 0
    bits = 57 if sregs.cr4 & CR4_LA57 else 48
    return linear >> bits - 1 in (0, (1 << 65 - bits) - 1)


def walk(memory: Memory, sregs: Any, linear: int) -> Walk:
    """Translates a linear address as the guest's page tables stand now. Never raises."""
    result = Walk(linear=linear)
    if not canonical(sregs, linear):
        result.fault = "is not canonical"
    elif not (sregs.cr0 & CR0_PG and sregs.cr0 & CR0_PE):
        result.gpa = linear & 0xFFFF_FFFF
    else:
        try:
            if sregs.efer & EFER_LMA or sregs.cr4 & CR4_PAE:
                _walk_64(memory, sregs, result)
            else:
                _walk_32(memory, sregs, result)
        except GuestFault as fault:
            result.fault = f"needs a page table at {fault.gpa:#x}, outside guest memory"
    return result


def _walk_32(memory: Memory, sregs: Any, result: Walk) -> None:
    at = (sregs.cr3 & 0xFFFF_F000) + (result.linear >> 22) * 4
    (entry,) = memory.unpack("<I", at)
    if not result._step("PD", at, entry, entry & _PRESENT):
        return
    result._allow(entry)
    if entry & _LARGE and sregs.cr4 & CR4_PSE:  # bits 20:13 of the entry are address bits 39:32 (PSE-36)
        result.gpa = (entry & 0xFFC0_0000) | (entry >> 13 & 0xFF) << 32 | result.linear & 0x3F_FFFF
        return
    at = (entry & 0xFFFF_F000) + (result.linear >> 12 & 0x3FF) * 4
    (entry,) = memory.unpack("<I", at)
    if result._step("PT", at, entry, entry & _PRESENT):
        result._allow(entry)
        result.gpa = (entry & 0xFFFF_F000) | result.linear & 0xFFF


def _walk_64(memory: Memory, sregs: Any, result: Walk) -> None:
    long_mode = bool(sregs.efer & EFER_LMA)
    levels = _LONG_LEVELS[0 if sregs.cr4 & CR4_LA57 else 1 :] if long_mode else _LONG_LEVELS[2:]
    table = sregs.cr3 & (_ADDRESS if long_mode else 0xFFFF_FFE0)
    for depth, name in enumerate(levels):
        shift = 12 + 9 * (len(levels) - 1 - depth)
        at = table + (result.linear >> shift & 0x1FF) * 8
        (entry,) = memory.unpack("<Q", at)
        if not result._step(name, at, entry, entry & _PRESENT):
            return
        if long_mode or name != "PDPT":  # PAE's PDPT entries have no access rights
            result._allow(entry)
        if name == "PT" or (name == "PD" or (name == "PDPT" and long_mode)) and entry & _LARGE:
            inside = (1 << shift) - 1
            result.gpa = entry & _ADDRESS & ~inside | result.linear & inside
            return
        table = entry & _ADDRESS


def read_linear(memory: Memory, sregs: Any, linear: int, length: int) -> bytes:
    """Up to ``length`` bytes at a linear address, page by page; shorter when a page is not mapped or not RAM."""
    data = b""
    while len(data) < length:
        at = linear + len(data)
        gpa = walk(memory, sregs, at).gpa
        if gpa is None:
            break
        piece = min(length - len(data), 4096 - (at & 0xFFF))
        try:
            data += memory.read(gpa, piece)
        except GuestFault:
            break
    return data
