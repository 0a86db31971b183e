"""gdb's registers from KVM's structures, and back. Works on the structures alone: a live vCPU's, a snapshot's, a recording's."""

from __future__ import annotations

from pyvmm.observe.gdb.target import TargetError
from pyvmm.observe.paging import CR0_PE, RFLAGS_VM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
_EFLAGS = 0x3F_7FD5  # all defined bits but bit 1, which is always set (SDM volume 1, 3.4.3)
_VALID, _ZERO, _SPECIAL, _EMPTY = range(4)  # x87 tags (SDM volume 1, 8.1.7)
_U64 = (1 << 64) - 1

# The legacy region of an XSAVE area: name: (offset, bytes) (SDM volume 1, 10.5.1, the 64-bit form: pointers without selectors)
_TAG, _XSTATE_BV = 4, 512
_LEGACY = {
    "fctrl": (0, 2),
    "fstat": (2, 2),
    "fop": (6, 2),
    "fioff": (8, 4),
    "fiseg": (12, 2),
    "fooff": (16, 4),
    "foseg": (20, 2),
    "mxcsr": (24, 4),
    **{f"st{n}": (32 + 16 * n, 10) for n in range(8)},
    **{f"xmm{n}": (160 + 16 * n, 16) for n in range(16)},
}


def collect(regs: Any, sregs: Any, xsave: bytes | bytearray, kernel_gs_base: int) -> dict[str, int]:
    """Values for ``Target.read_registers``.

    Args:
        regs, sregs: kvm_regs, kvm_sregs or kvm_sregs2.
        xsave: what KVM_GET_XSAVE gave. (KVM_GET_FPU leaves MXCSR out, and KVM_SET_FPU ignores it.)
        kernel_gs_base: MSR 0xc0000102.
    """
    values = {name: getattr(regs, name) for name in _GENERAL}
    values["eflags"] = regs.rflags & 0xFFFF_FFFF
    for name in _SEGMENTS:
        segment = getattr(sregs, name)
        values[name], values[f"{name}_base"] = segment.selector, segment.base
    values["k_gs_base"] = kernel_gs_base
    values.update((name, getattr(sregs, name)) for name in _CONTROL)
    for name in ("gdt", "idt"):
        table = getattr(sregs, name)
        values[f"{name}_base"], values[f"{name}_limit"] = table.base, table.limit
    values["ldt"], values["tr"] = sregs.ldt.selector, sregs.tr.selector
    values.update(_fpu(xsave))
    return values


def assign(values: dict[str, int], regs: Any, sregs: Any, xsave: bytearray) -> set[str]:
    """Puts ``Target.write_registers``'s values into the structures; ``k_gs_base`` is left to the caller.

    Returns:
        Which have changed: "regs", "sregs", "xsave".

    Raises:
        TargetError: a register that cannot be set like this; the structures may be half changed: drop them.
    """
    changed = set()
    for name, value in values.items():
        if name in _GENERAL:
            setattr(regs, name, value & _U64)
            changed.add("regs")
        elif name == "eflags":
            regs.rflags = value & _EFLAGS | 2
            changed.add("regs")
        elif name in _SEGMENTS:
            _set_selector(name, value & 0xFFFF, regs, sregs)
            changed.add("sregs")
        elif name in _CONTROL:
            setattr(sregs, name, value & _U64)
            changed.add("sregs")
        elif name in ("gdt_base", "idt_base", "gdt_limit", "idt_limit"):
            setattr(getattr(sregs, name[:3]), name[4:], value & (_U64 if name[4:] == "base" else 0xFFFF))
            changed.add("sregs")
        elif name[2:] == "_base":
            getattr(sregs, name[:2]).base = value & _U64
            changed.add("sregs")
        elif name != "k_gs_base":
            _set_fpu(name, value, xsave)
            changed.add("xsave")
    return changed


def _set_selector(name: str, value: int, regs: Any, sregs: Any) -> None:
    segment = getattr(sregs, name)
    if value == segment.selector:
        return
    if sregs.cr0 & CR0_PE and not regs.rflags & RFLAGS_VM:
        raise TargetError(f"{name}: a selector alone loads no descriptor in protected mode; set ${name}_base, or have the guest load it")
    segment.selector, segment.base = value, value << 4


def _fpu(xsave: bytes | bytearray) -> dict[str, int]:
    values = {name: int.from_bytes(xsave[at : at + size], "little") for name, (at, size) in _LEGACY.items()}
    values["ftag"] = full_tag(xsave[_TAG], values["fstat"], [values[f"st{n}"] for n in range(8)])
    return values


def _set_fpu(name: str, value: int, xsave: bytearray) -> None:
    if name == "ftag":
        xsave[_TAG] = abridged_tag(value)
    elif name in _LEGACY:
        at, size = _LEGACY[name]
        xsave[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    else:
        raise TargetError(f"{name} cannot be set from here")  # ldt, tr
    xsave[_XSTATE_BV] |= 2 if name[0] in "xm" else 1  # SSE, x87: no longer as after a reset


def is_fpu(name: str) -> bool:
    """Whether a register is in the XSAVE area."""
    return name in _LEGACY or name == "ftag"


def full_tag(abridged: int, status: int, stack: list[int]) -> int:
    """The 16-bit tag word from FXSAVE's 8 bits (SDM volume 1, 10.5.1.1): two bits per physical register, from its contents.

    Args:
        abridged: bit n set: physical register n is not empty.
        status: the status word, whose bits 13:11 say which physical register st0 is.
        stack: st0 to st7.
    """
    top, tag = status >> 11 & 7, 0
    for physical in range(8):
        kind = _kind(stack[physical - top & 7]) if abridged >> physical & 1 else _EMPTY
        tag |= kind << 2 * physical
    return tag


def abridged_tag(full: int) -> int:
    """FXSAVE's 8 bits from the 16-bit tag word."""
    return sum(1 << n for n in range(8) if full >> 2 * n & 3 != _EMPTY)


def _kind(value: int) -> int:
    exponent, significand = value >> 64 & 0x7FFF, value & _U64
    if exponent == 0:
        return _SPECIAL if significand else _ZERO
    return _VALID if exponent != 0x7FFF and significand >> 63 else _SPECIAL
