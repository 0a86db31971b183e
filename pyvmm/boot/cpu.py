"""The state a vCPU starts in: real mode, 32-bit protected mode, 64-bit long mode.

Attribute names are those of ``struct kvm_sregs`` and ``struct kvm_regs`` so that the vCPU copies them one by one, but
nothing here knows KVM. Every state passes Intel's checks on VM entry (SDM Vol. 3C, 26.3.1; see
``pyvmm.kvm.entry_rules``), which are the strictest of all hosts: TR a busy TSS, accessed bits set, granularity that
matches the limit, null segments marked unusable.

A state needs memory behind it (GDT, page tables, TSS): ``memory_for`` gives these writes.
"""

from __future__ import annotations

from struct import pack

from pyvmm.layout import BOOT_GDT, BOOT_PAGE_TABLES, BOOT_STACK, BOOT_TSS, GIB, MIB, PAGE
from pyvmm.record import Record

# Selectors of the boot GDT: code, and data behind it. Linux wants __BOOT_CS = 0x10 and __BOOT_DS = 0x18
# (Documentation/arch/x86/boot.rst, "32-bit boot protocol"). Multiboot (3.2) and PVH leave the values open, but kernels are
# about that reload DS before they have a GDT of their own: they get what GRUB and QEMU have.
SELECTOR_CODE, SELECTOR_DATA = 0x10, 0x18
SELECTOR_CODE_MULTIBOOT = 0x08
SELECTOR_TSS = 0x20  # 8 bytes in protected mode, 16 in long mode (SDM Vol. 3A, 7.2.3)

# Segment types (SDM Vol. 3A, 3.4.5.1 and 3.5), the accessed or busy bit set
DATA_RW, CODE_RX, LDT, TSS_BUSY = 0x3, 0xB, 0x2, 0xB

CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
RFLAGS_FIXED = 1 << 1  # bit 1 always reads 1; IF, TF and VM clear, as every boot protocol asks

TSS_SIZE = 0x68  # without I/O permission bitmap, in both modes
IDENTITY_MAP_END = 4 * GIB


class Segment(Record):
    """A segment register with its hidden part. All fields are ints; ``limit`` is in bytes, already scaled by ``g``."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741  (the name in struct kvm_segment)
    g: int = 0
    avl: int = 0
    unusable: int = 0


class Table(Record):
    """GDTR or IDTR: linear base, limit = size in bytes - 1."""

    base: int = 0
    limit: int = 0


class CpuState(Record):
    """Everything of a vCPU that a boot protocol prescribes; what is not here stays as KVM's reset left it."""

    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: Table
    idt: Table
    cr0: int
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = RFLAGS_FIXED


def real_mode(entry: int, *, rsp: int = 0, rdx: int = 0) -> CpuState:
    """16-bit real mode, as a BIOS leaves it.

    Args:
        entry: linear address below 1 MiB. CS is 0 in the first 64 KiB (the classic 0000:7C00), else the start of the
            64 KiB block that holds the entry.
        rsp, rdx: stack pointer (SS is 0) and DX, whose low byte is the BIOS's drive number.
    """
    block = entry & ~0xFFFF
    code = Segment(base=block, limit=0xFFFF, selector=block >> 4, type=CODE_RX, present=1, s=1)
    data = Segment(limit=0xFFFF, type=DATA_RW, present=1, s=1)
    return CpuState(
        cs=code,
        ds=data,
        es=data.replace(),
        fs=data.replace(),
        gs=data.replace(),
        ss=data.replace(),
        tr=Segment(limit=0xFFFF, type=TSS_BUSY, present=1),  # as after reset (SDM Vol. 3A, table 9-1)
        ldt=Segment(limit=0xFFFF, type=LDT, present=1),
        gdt=Table(limit=0xFFFF),
        idt=Table(limit=0x3FF),  # the interrupt vector table, 256 far pointers
        cr0=CR0_ET,
        rip=entry & 0xFFFF,
        rsp=rsp,
        rdx=rdx,
    )


def protected_mode(entry: int, *, tss: int = BOOT_TSS, code: int = SELECTOR_CODE, **registers: int) -> CpuState:
    """32-bit protected mode: flat 4 GiB segments, paging off, interrupts off, no IDT.

    Args:
        entry: linear address of the first instruction, below 4 GiB.
        tss: where TR points; PVH wants 0.
        code: the selector of CS; the others have the next one.
        registers: rax, rbx, rsi, ... as the protocol prescribes; rsp defaults to the boot stack.
    """
    cs = Segment(limit=0xFFFF_FFFF, selector=code, type=CODE_RX, present=1, s=1, db=1, g=1)
    data = Segment(limit=0xFFFF_FFFF, selector=code + 8, type=DATA_RW, present=1, s=1, db=1, g=1)
    state = CpuState(
        cs=cs,
        ds=data,
        es=data.replace(),
        fs=data.replace(),
        gs=data.replace(),
        ss=data.replace(),
        tr=Segment(base=tss, limit=TSS_SIZE - 1, selector=SELECTOR_TSS, type=TSS_BUSY, present=1),
        ldt=Segment(unusable=1),
        gdt=Table(base=BOOT_GDT, limit=SELECTOR_TSS + 8 - 1),
        idt=Table(),
        cr0=CR0_PE | CR0_ET,
        rip=entry,
        rsp=BOOT_STACK,
    )
    for name, value in registers.items():
        setattr(state, name, value)
    return state


def long_mode(entry: int, **registers: int) -> CpuState:
    """64-bit mode: the first 4 GiB identity-mapped in 2 MiB pages, interrupts off, no IDT.

    Args:
        entry: linear address of the first instruction, inside the identity map.
        registers: rsi, rdi, ... as the protocol prescribes; rsp defaults to the boot stack.
    """
    state = protected_mode(entry, **registers)
    state.cs.l, state.cs.db = 1, 0  # 64-bit code: L set, D clear (SDM Vol. 3A, 5.2.1)
    state.gdt.limit = SELECTOR_TSS + 16 - 1
    state.cr0 = CR0_PE | CR0_ET | CR0_PG
    state.cr3 = BOOT_PAGE_TABLES
    state.cr4 = CR4_PAE
    state.efer = EFER_LME | EFER_LMA
    return state


def memory_for(state: CpuState) -> list[tuple[int, bytes]]:
    """What must be in memory for a state: GDT, TSS, page tables. [(gpa, bytes)]; nothing for real mode."""
    if not state.cr0 & CR0_PE:
        return []
    writes = [(state.gdt.base, gdt(state))]
    if state.tr.base:  # a TSS at 0 is what PVH asks for; the zeros of the real-mode vectors serve
        writes.append((state.tr.base, bytes(TSS_SIZE - 2) + pack("<H", TSS_SIZE)))  # bitmap base at the limit: none
    if state.cr3:
        writes.append((state.cr3, identity_map(state.cr3)))
    return writes


def gdt(state: CpuState) -> bytes:
    """The GDT whose descriptors match the hidden parts of ``state``: code and data where they are, TSS, null in between."""
    tss = _descriptor(state.tr)
    if state.efer & EFER_LMA:
        tss += pack("<Q", state.tr.base >> 32)
    return (bytes(state.cs.selector) + _descriptor(state.cs) + _descriptor(state.ds)).ljust(SELECTOR_TSS, b"\0") + tss


def _descriptor(segment: Segment) -> bytes:
    """The 8-byte descriptor of a segment (SDM Vol. 3A, figure 3-8)."""
    limit = segment.limit >> 12 if segment.g else segment.limit
    access = segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
    flags = segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3
    high = segment.base >> 16 & 0xFF | access << 8 | (limit >> 16 & 0xF | flags << 4) << 16 | segment.base & 0xFF00_0000
    return pack("<HHI", limit & 0xFFFF, segment.base & 0xFFFF, high)


def identity_map(root: int) -> bytes:
    """PML4, PDPT and 4 page directories for the first 4 GiB, 24 KiB to be written at ``root`` (SDM Vol. 3A, 4.5)."""
    present_rw, large = 0x3, 0x80
    pml4 = pack("<Q", root + PAGE | present_rw).ljust(PAGE, b"\0")
    pdpt = pack("<4Q", *(root + (2 + n) * PAGE | present_rw for n in range(4))).ljust(PAGE, b"\0")
    return pml4 + pdpt + pack("<2048Q", *range(large | present_rw, IDENTITY_MAP_END, 2 * MIB))
