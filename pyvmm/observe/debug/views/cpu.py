"""A vCPU's registers, system registers, MSRs and CPUID as lines."""

from __future__ import annotations

from pyvmm.observe.debug import registers
from pyvmm.observe.debug.style import Style
from pyvmm.observe.explain.reasons import msr_name
from pyvmm.observe.flags import CR0, CR4, EFER, RFLAGS, bits
from pyvmm.observe.paging import mode_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAMED_LEAVES = {
    0x0: "vendor, highest leaf", 0x1: "family, features", 0x2: "caches (old)", 0x4: "caches", 0x5: "MONITOR", 0x6: "power", 0x7: "features",
    0xA: "performance counters", 0xB: "topology", 0xD: "XSAVE areas", 0x15: "TSC clock", 0x16: "frequencies", 0x1F: "topology, v2",
    0x4000_0000: "hypervisor's vendor", 0x4000_0001: "KVM's features", 0x8000_0000: "highest leaf", 0x8000_0001: "features",
    0x8000_0002: "brand", 0x8000_0003: "brand", 0x8000_0004: "brand", 0x8000_0006: "caches (AMD)", 0x8000_0007: "power (AMD)",
    0x8000_0008: "address widths", 0x8000_000A: "SVM", 0x8000_001D: "caches (AMD)", 0x8000_001E: "topology (AMD)",
}  # fmt: skip


def general(regs: Any, sregs: Any, changed: set[str], style: Style) -> list[str]:
    """The general registers, four a line; what changed since the last stop stands out."""
    names = registers.shown_names(sregs)
    wide = len(names) == 16
    digits = 16 if wide else 8
    per_line = 4 if style.width >= 90 or not wide else 3

    def one(name: str) -> str:
        value = f"{getattr(regs, name):0{digits}x}"
        return f"{style.name(f'{name:<3}')} {style.changed(value) if name in changed else value}"

    lines = ["  ".join(one(name) for name in names[at : at + per_line]) for at in range(0, len(names), per_line)]
    flags = bits(regs.rflags, RFLAGS)
    return [
        *lines,
        f"{one('rip')}  {style.name('rflags')} {regs.rflags:08x} {style.changed(flags) if 'rflags' in changed else flags}".rstrip(),
    ]


def system(sregs: Any, rflags: int, style: Style) -> list[str]:
    """Mode, control registers, segments, descriptor tables."""
    lines = [
        f"{style.name('mode')} {mode_name(sregs, rflags)}",
        f"{style.name('cr0')}  {sregs.cr0:08x}  {bits(sregs.cr0, CR0)}",
        f"{style.name('cr2')}  {sregs.cr2:016x}  {style.name('cr3')} {sregs.cr3:016x}  {style.name('cr8')} {sregs.cr8:x}",
        f"{style.name('cr4')}  {sregs.cr4:08x}  {bits(sregs.cr4, CR4)}".rstrip(),
        f"{style.name('efer')} {sregs.efer:08x}  {bits(sregs.efer, EFER)}".rstrip(),
        style.label("     selector              base     limit  type  DPL"),
    ]
    for name in registers.SEGMENTS:
        each = getattr(sregs, name)
        text = f"{style.name(f'{name:<4}')}     {each.selector:04x}  {each.base:016x}  {each.limit:08x}"
        if each.unusable or not each.present:
            lines.append(f"{text}  {'unusable' if each.unusable else 'not present'}")
            continue
        kind = "system" if not each.s else "code" if each.type & 8 else "data"
        size = "" if not each.s else " 64-bit" if each.l else " 32-bit" if each.db else " 16-bit"
        lines.append(f"{text}    {each.type:x}    {each.dpl}  {kind}{size}")
    for name in registers.TABLES:
        each = getattr(sregs, name)
        lines.append(f"{style.name(f'{name:<4}')}           {each.base:016x}  {each.limit:08x}")
    enabled = "on" if sregs.apic_base >> 11 & 1 else "off"
    x2 = ", x2APIC" if sregs.apic_base >> 10 & 1 else ""
    boot = ", boot processor" if sregs.apic_base >> 8 & 1 else ""
    return [*lines, f"{style.name('apic_base')} {sregs.apic_base:x}  at {sregs.apic_base & ~0xFFF:#x}, {enabled}{x2}{boot}"]


def msrs(values: dict[int, int], style: Style) -> list[str]:
    """One a line."""
    named = [(msr_name(number), value) for number, value in sorted(values.items())]
    width = max((len(name) for name, _ in named), default=0)
    return [f"{style.name(f'{name:<{width}}')}  {value:016x}" for name, value in named]


def cpuid(leaves: list[tuple[int, ...]], style: Style) -> list[str]:
    """(function, index, flags, eax, ebx, ecx, edx) one a line."""
    lines = [style.label("leaf      sub  eax       ebx       ecx       edx")]
    for function, index, flags, eax, ebx, ecx, edx in leaves:
        text = b"".join(each.to_bytes(4, "little") for each in _order(function, eax, ebx, ecx, edx))
        shown = "".join(chr(each) if 0x20 <= each < 0x7F else "" for each in text) if function in _TEXTS else ""
        words = _NAMED_LEAVES.get(function, "") if not index else ""
        sub = f"{index:>3}" if flags & 1 else "   "
        line = f"{style.name(f'{function:08x}')}  {sub}  {eax:08x}  {ebx:08x}  {ecx:08x}  {edx:08x}  {words}{f': {shown}' if shown else ''}"
        lines.append(line.rstrip())
    return lines


_TEXTS = (0, 0x4000_0000, 0x8000_0000, 0x8000_0002, 0x8000_0003, 0x8000_0004)


def _order(function: int, eax: int, ebx: int, ecx: int, edx: int) -> tuple[int, ...]:
    """In which order registers spell a text: vendors' leaves mix them (SDM volume 2A, CPUID)."""
    if function in (0, 0x8000_0000):
        return ebx, edx, ecx
    return (ebx, ecx, edx) if function == 0x4000_0000 else (eax, ebx, ecx, edx)
