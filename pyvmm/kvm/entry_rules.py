"""Why a VM entry would fail: Intel's checks on guest state, and the ones KVM_SET_SREGS makes itself.

A state that breaks a rule of the Intel SDM Vol. 3C, 26.3.1 "Checks on the Guest State Area", ends KVM_RUN with
KVM_EXIT_FAIL_ENTRY 0x80000021 (on VMX; SVM lets most of them through), and the hardware does not say which rule it was.
``violations`` does. Rules that cannot be broken through a CPU state are left out (VMCS fields KVM fills itself, PDPTEs,
non-register state); "unrestricted guest" is taken as given, as on every CPU since Westmere.

What KVM repairs before the CPU sees it is no violation: accessed bits of segments (vmx_set_segment), RFLAGS bit 1, a
segment that is not present (it becomes unusable).
"""

from __future__ import annotations

from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CONTROL = "26.3.1.1"  # control registers, debug registers, MSRs
SEGMENTS = "26.3.1.2"
TABLES = "26.3.1.3"  # GDTR, IDTR
FLAGS = "26.3.1.4"  # RIP, RFLAGS
SET_SREGS = "KVM_SET_SREGS"

PE, NW, CD, PG = 1 << 0, 1 << 29, 1 << 30, 1 << 31
PAE, LA57, PCIDE = 1 << 5, 1 << 12, 1 << 17
# CR4 bits KVM knows: VME..OSXMMEXCPT, UMIP, LA57, VMXE, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE, CET, LAM_SUP
CR4_KNOWN = 0x7FF | 1 << 11 | LA57 | 1 << 13 | 1 << 16 | PCIDE | 1 << 18 | 0xF << 20 | 1 << 28
LME, LMA = 1 << 8, 1 << 10
EFER_KNOWN = 1 << 0 | LME | LMA | 1 << 11  # SCE, LME, LMA, NXE: all that Intel has
VM = 1 << 17
RFLAGS_RESERVED = ~((1 << 22) - 1) & (1 << 64) - 1 | 1 << 15 | 1 << 5 | 1 << 3

DATA_SEGMENTS = ("ds", "es", "fs", "gs")
V86_ACCESS = 0xF3  # present, DPL 3, S, read-write accessed data


class Violation(FrozenRecord):
    """One broken rule.

    Fields:
        rule: a short name, the same for the same rule: "tr.type", "g.limit".
        field: the register and field: "cs.type", "cr4".
        text: what it is and what it must be, one line.
        section: of the Intel SDM Vol. 3C ("26.3.1.2"), or "KVM_SET_SREGS" for KVM's own check (EINVAL).
    """

    rule: str
    field: str
    text: str
    section: str


def violations(sregs: Any, regs: Any, *, physical_bits: int = 52) -> list[Violation]:
    """All broken rules, in the order of the SDM; an empty list means that every KVM enters this state.

    Args:
        sregs: anything with the attributes of struct kvm_sregs (a boot.cpu.CpuState, the ctypes structure).
        regs: anything with those of struct kvm_regs; rip and rflags are looked at.
        physical_bits: MAXPHYADDR of the guest, CPUID 0x80000008 EAX bits 7:0.
    """
    return [*_control(sregs, physical_bits), *_segments(sregs, regs), *_tables(sregs), *_flags(sregs, regs)]


def _control(sregs: Any, physical_bits: int) -> Iterator[Violation]:
    cr0, cr3, cr4, efer = sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer

    def broken(rule: str, field: str, text: str, section: str = SET_SREGS) -> Violation:
        return Violation(rule=rule, field=field, text=text, section=section)

    if cr0 >> 32:
        yield broken("cr0.reserved", "cr0", f"cr0 {cr0:#x} has bits above 31 set")
    if cr0 & PG and not cr0 & PE:
        yield broken("cr0.pg-pe", "cr0", "PG (paging) is set without PE (protected mode)")
    if cr0 & NW and not cr0 & CD:
        yield broken("cr0.nw-cd", "cr0", "NW (not write-through) is set without CD (cache disable)")
    if cr4 & ~CR4_KNOWN:
        yield broken("cr4.reserved", "cr4", f"cr4 {cr4:#x} has reserved bits {cr4 & ~CR4_KNOWN:#x} set")
    long_mode = bool(efer & LME and cr0 & PG)
    if long_mode:
        if not efer & LMA:
            yield broken("efer.lma", "efer", "LME and PG are set, so LMA must be set")
        if not cr4 & PAE:
            yield broken("cr4.pae", "cr4", "long mode (LME and PG) needs PAE")
    else:
        if efer & LMA:
            yield broken("efer.lma", "efer", "LMA is set, but long mode needs LME and PG too")
        if sregs.cs.l:
            yield broken("cs.l", "cs.l", "L (64-bit code) is set outside long mode")
        if cr4 & PCIDE:
            yield broken("cr4.pcide", "cr4", "PCIDE is set outside long mode", CONTROL)
    if cr3 >> physical_bits:
        section = SET_SREGS if long_mode else CONTROL  # KVM looks at it in long mode only
        yield broken("cr3.reserved", "cr3", f"cr3 {cr3:#x} is beyond {physical_bits} physical address bits", section)
    if efer & ~EFER_KNOWN:
        what = "SVME, which only AMD has" if efer & ~EFER_KNOWN == 1 << 12 else f"reserved bits {efer & ~EFER_KNOWN:#x}"
        yield broken("efer.reserved", "efer", f"efer {efer:#x} has {what}", CONTROL)


def _segments(sregs: Any, regs: Any) -> Iterator[Violation]:
    long_mode, v86 = _long(sregs), bool(regs.rflags & VM)

    def broken(name: str, field: str, rule: str, text: str) -> Violation:
        return Violation(rule=rule, field=f"{name}.{field}", text=f"{name.upper()}: {text}", section=SEGMENTS)

    yield from _bases(sregs, broken)
    if v86:
        for name in ("cs", "ss", *DATA_SEGMENTS):
            segment = getattr(sregs, name)
            access = segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
            if segment.base != segment.selector << 4:
                yield broken(name, "base", "v86.base", f"base {segment.base:#x} must be selector * 16 in virtual-8086 mode")
            if segment.limit != 0xFFFF:
                yield broken(name, "limit", "v86.limit", f"limit {segment.limit:#x} must be 0xffff in virtual-8086 mode")
            if access != V86_ACCESS or not _usable(segment):
                yield broken(name, "type", "v86.access", "must be a present read-write data segment with DPL 3 in virtual-8086 mode")
    else:
        yield from _code(sregs, long_mode, broken)
        yield from _stack(sregs, broken)
        for name in DATA_SEGMENTS:
            segment = getattr(sregs, name)
            if not _usable(segment):
                continue
            if not segment.s:
                yield broken(name, "s", "data.s", "a system descriptor (S=0) where code or data is needed")
            if segment.type & 0b1010 == 0b1000:
                yield broken(name, "type", "data.type", f"type {segment.type} is execute-only code, which cannot be read")
            yield from _granularity(name, segment, broken)
    yield from _task_register(sregs.tr, long_mode, broken)
    yield from _ldtr(sregs.ldt, broken)


def _bases(sregs: Any, broken: Any) -> Iterator[Violation]:
    for name in ("tr", "fs", "gs", "ldt"):
        segment = getattr(sregs, name)
        if (name != "ldt" or _usable(segment)) and not _canonical(sregs, segment.base):
            yield broken(name, "base", "base.canonical", f"base {segment.base:#x} is not canonical")
    for name in ("cs", "ss", "ds", "es"):
        segment = getattr(sregs, name)
        if (name == "cs" or _usable(segment)) and segment.base >> 32:
            yield broken(name, "base", "base.high", f"base {segment.base:#x} does not fit 32 bits")


def _code(sregs: Any, long_mode: bool, broken: Any) -> Iterator[Violation]:
    cs, ss = sregs.cs, sregs.ss
    kind = cs.type | 1  # KVM sets the accessed bit
    if kind not in (3, 9, 11, 13, 15):
        yield broken("cs", "type", "cs.type", f"type {cs.type} is no code segment (9, 11, 13, 15; 3 in real mode)")
    if not cs.s:
        yield broken("cs", "s", "cs.s", "a system descriptor (S=0) where code is needed")
    if not cs.present:  # "unusable" is not looked at: CS is always in use
        yield broken("cs", "present", "cs.present", "must be present")
    if kind == 3 and cs.dpl:
        yield broken("cs", "dpl", "cs.dpl", f"DPL {cs.dpl} must be 0 for a data-type code segment (real mode)")
    if kind in (9, 11) and cs.dpl != ss.dpl:
        yield broken("cs", "dpl", "cs.dpl", f"DPL {cs.dpl} must equal SS.DPL {ss.dpl} (non-conforming code)")
    if kind in (13, 15) and cs.dpl > ss.dpl:
        yield broken("cs", "dpl", "cs.dpl", f"DPL {cs.dpl} must not be above SS.DPL {ss.dpl} (conforming code)")
    if long_mode and cs.l and cs.db:
        yield broken("cs", "db", "cs.db", "D and L are both set; 64-bit code has D=0")
    yield from _granularity("cs", cs, broken)


def _stack(sregs: Any, broken: Any) -> Iterator[Violation]:
    ss = sregs.ss
    if ss.dpl and (sregs.cs.type | 1 == 3 or not sregs.cr0 & PE):
        yield broken("ss", "dpl", "ss.dpl", f"DPL {ss.dpl} must be 0 in real mode")
    if not _usable(ss):
        return
    if ss.type | 1 not in (3, 7):
        yield broken("ss", "type", "ss.type", f"type {ss.type} is no writable data segment (3, 7)")
    if not ss.s:
        yield broken("ss", "s", "ss.s", "a system descriptor (S=0) where data is needed")
    yield from _granularity("ss", ss, broken)


def _task_register(tr: Any, long_mode: bool, broken: Any) -> Iterator[Violation]:
    kind = tr.type | 1  # KVM sets this bit here too; it makes 2 (LDT) a 3 and 10 an 11
    if kind != 11 and (long_mode or kind != 3):
        wanted = "11, a busy 64-bit TSS" if long_mode else "11 or 3, a busy TSS"
        yield broken("tr", "type", "tr.type", f"type {tr.type} must be {wanted}")
    if tr.s:
        yield broken("tr", "s", "tr.s", "S must be 0 (a system descriptor)")
    if not _usable(tr):
        yield broken("tr", "present", "tr.present", "must be present and usable, even where the guest has no TSS")
    if tr.selector & 4:
        yield broken("tr", "selector", "selector.ti", f"selector {tr.selector:#x} must not have TI (the LDT bit) set")
    yield from _granularity("tr", tr, broken)


def _ldtr(ldt: Any, broken: Any) -> Iterator[Violation]:
    if not _usable(ldt):
        return
    if ldt.type != 2:
        yield broken("ldt", "type", "ldt.type", f"type {ldt.type} must be 2 (LDT), or the register unusable")
    if ldt.s:
        yield broken("ldt", "s", "ldt.s", "S must be 0 (a system descriptor)")
    if ldt.selector & 4:
        yield broken("ldt", "selector", "selector.ti", f"selector {ldt.selector:#x} must not have TI (the LDT bit) set")
    yield from _granularity("ldt", ldt, broken)


def _granularity(name: str, segment: Any, broken: Any) -> Iterator[Violation]:
    if segment.g and segment.limit & 0xFFF != 0xFFF:
        yield broken(name, "limit", "g.limit", f"limit {segment.limit:#x} is no multiple of 4 KiB less 1, so G must be 0")
    if not segment.g and segment.limit >> 20:
        yield broken(name, "limit", "g.limit", f"limit {segment.limit:#x} is above 0xfffff, so G must be 1")


def _tables(sregs: Any) -> Iterator[Violation]:
    for name in ("gdt", "idt"):
        table = getattr(sregs, name)
        if not _canonical(sregs, table.base):
            yield Violation(
                rule="table.canonical", field=f"{name}.base", text=f"{name.upper()}R base {table.base:#x} is not canonical", section=TABLES
            )
        if table.limit >> 16:
            yield Violation(
                rule="table.limit", field=f"{name}.limit", text=f"{name.upper()}R limit {table.limit:#x} is above 0xffff", section=TABLES
            )


def _flags(sregs: Any, regs: Any) -> Iterator[Violation]:
    def broken(rule: str, field: str, text: str) -> Violation:
        return Violation(rule=rule, field=field, text=text, section=FLAGS)

    if not (_long(sregs) and sregs.cs.l):
        if regs.rip >> 32:
            yield broken("rip.high", "rip", f"rip {regs.rip:#x} does not fit 32 bits outside 64-bit code")
    elif regs.rip >> (bits := _linear_bits(sregs)) not in (0, (1 << 64 - bits) - 1):
        # One bit less than canonical: a RIP just behind the lower half is entered, and its fetch raises #GP.
        yield broken("rip.canonical", "rip", f"rip {regs.rip:#x} is not canonical (bits 63..{bits} differ)")
    if regs.rflags & RFLAGS_RESERVED:
        yield broken("rflags.reserved", "rflags", f"rflags {regs.rflags:#x} has reserved bits {regs.rflags & RFLAGS_RESERVED:#x} set")
    if regs.rflags & VM and (_long(sregs) or not sregs.cr0 & PE):
        yield broken("rflags.vm", "rflags", "VM (virtual-8086 mode) is set in real or long mode")


def _long(sregs: Any) -> bool:
    return bool(sregs.efer & LMA and sregs.cr0 & PG)


def _usable(segment: Any) -> bool:
    return bool(segment.present and not segment.unusable)


def _linear_bits(sregs: Any) -> int:
    return 57 if sregs.cr4 & LA57 else 48


def _canonical(sregs: Any, address: int) -> bool:
    """Bits 63 down to the highest linear address bit are all equal."""
    below = _linear_bits(sregs) - 1
    return address >> below in (0, (1 << 64 - below) - 1)
