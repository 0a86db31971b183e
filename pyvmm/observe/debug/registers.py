"""Registers by the names people use: rax, eax, ax, ah, al; cr0, efer; cs, cs.base; pc, sp, eflags."""

from __future__ import annotations

from pyvmm.observe.debug.command import CommandError
from pyvmm.observe.paging import code_bits, linear_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.subject import Subject

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
TABLES = ("gdt", "idt")
_SYNONYMS = {
    "pc": "rip",
    "sp": "rsp",
    "fp": "rbp",
    "eflags": "rflags",
    "flags": "rflags",
    "eip": "rip",
    "ip": "rip",
    "lapic_base": "apic_base",
}
_IN_SEGMENT = ("selector", "base", "limit", "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable")


def _parts() -> dict[str, tuple[str, int, int]]:
    """name -> (register it is a part of, first bit, bits)"""
    found = {name: (name, 0, 64) for name in (*GENERAL, "rip", "rflags")}
    for name in GENERAL:
        if name[1:].isdigit():
            found |= {f"{name}d": (name, 0, 32), f"{name}w": (name, 0, 16), f"{name}b": (name, 0, 8)}
        else:
            short = name[1:]
            found |= {f"e{short}": (name, 0, 32), short: (name, 0, 16)}
            if short.endswith("x"):
                found |= {f"{short[0]}l": (name, 0, 8), f"{short[0]}h": (name, 8, 8)}
            else:
                found[f"{short}l"] = (name, 0, 8)
    return found


PARTS = _parts()
NAMES = (*PARTS, *_SYNONYMS, *CONTROL, "apic_base", *SEGMENTS, *TABLES)


def width(name: str) -> int:
    """Bits of a general register by this name, 64 for others."""
    return PARTS.get(_SYNONYMS.get(name, name), ("", 0, 64))[2]


def read(subject: Subject, vcpu: int, name: str) -> int | None:
    """A register's value; None when there is none of this name. ``pc`` is linear: what x/i and break take."""
    if name.lower() == "pc":
        sregs = subject.sregs(vcpu)
        return linear_address(sregs, sregs.cs, int(subject.regs(vcpu).rip))
    name = _SYNONYMS.get(name.lower(), name.lower())
    if name in PARTS:
        whole, low, bits = PARTS[name]
        return int(getattr(subject.regs(vcpu), whole)) >> low & (1 << bits) - 1
    if name in CONTROL or name == "apic_base":
        return int(getattr(subject.sregs(vcpu), name))
    segment, _, field = name.partition(".")
    if segment in SEGMENTS and (not field or field in _IN_SEGMENT):
        return int(getattr(getattr(subject.sregs(vcpu), segment), field or "selector"))
    if segment in TABLES and field in ("", "base", "limit"):
        return int(getattr(getattr(subject.sregs(vcpu), segment), field or "base"))
    return None


def write(subject: Subject, vcpu: int, name: str, value: int) -> None:
    """Sets a register, or a part of one as the processor would: a write of 32 bits clears the upper half (SDM volume 1, 3.4.1.1).

    Raises:
        CommandError: there is none, or it cannot be set, or the value does not fit.
    """
    name = _SYNONYMS.get(name.lower(), name.lower())
    if name in PARTS:
        whole, low, bits = PARTS[name]
        _fits(name, value, bits)
        value &= (1 << bits) - 1
        if bits < 32:
            kept = getattr(subject.regs(vcpu), whole) & ~((1 << bits) - 1 << low)
            value = kept | value << low
        subject.set_regs(vcpu, {whole: value})
    elif name in CONTROL:
        subject.set_regs(vcpu, {name: value})
    elif name.partition(".")[0] in (*SEGMENTS, *TABLES, "apic_base"):
        raise CommandError(f"${name} cannot be set here; {', '.join(CONTROL)} and the general registers can")
    else:
        raise CommandError(f"there is no register {name}")


def _fits(name: str, value: int, bits: int) -> None:
    if bits < 64 and value >> bits and value >> bits - 1 != (1 << 65 - bits) - 1:  # a negative number has all upper bits
        raise CommandError(f"{value:#x} does not fit into {name}, which has {bits} bits")


def general(regs: Any) -> dict[str, int]:
    """What comes under "registers" in views and data."""
    return {name: int(getattr(regs, name)) for name in (*GENERAL, "rip", "rflags")}


def control(sregs: Any) -> dict[str, int]:
    """Control registers and selectors."""
    found = {name: int(getattr(sregs, name)) for name in CONTROL}
    return found | {name: int(getattr(sregs, name).selector) for name in SEGMENTS}


def shown_names(sregs: Any) -> tuple[str, ...]:
    """The general registers the present mode has: r8 to r15 are for 64-bit code only."""
    return GENERAL if code_bits(sregs) == 64 else GENERAL[:8]
