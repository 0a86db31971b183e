"""One readable page when a guest dies: what happened, what usually causes it, and the state it died in.

Written for the moment when nothing can be trusted: registers may be gone, page tables broken, capstone absent. So every
part stands by itself and says "unreadable" when it fails; ``report`` never raises.
"""

from __future__ import annotations

from pyvmm.exits import describe
from pyvmm.kvm import uapi
from pyvmm.observe import causes, disasm
from pyvmm.observe.flags import CR0, CR4, EFER, RFLAGS, bits
from pyvmm.observe.paging import code_bits, linear_address, mode_name, read_linear, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.exits import Exit
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.memory import GuestMemory

_INSTRUCTIONS = 6
_BEFORE = 16  # code bytes shown in front of rip
_STACK_WORDS = 8

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")


def report(vcpu: Vcpu, memory: GuestMemory, exit: Exit) -> str:
    """The page. Call it from the vCPU's thread or when it is parked; the vCPU is not run."""
    lines = [f"pyvmm: vCPU {getattr(vcpu, 'index', '?')} died: {exit.name}", *_indent([_safe(lambda: describe(exit))])]
    regs = _try(lambda: vcpu.get_regs())
    sregs = _try(lambda: vcpu.get_sregs())
    events = _try(lambda: vcpu.get_events())
    if regs is None or sregs is None:
        return "\n".join([*lines, "  registers: unreadable"]) + "\n"
    lines += _part("likely cause", lambda: ["- " + line for line in causes.likely(exit, regs, sregs, events, memory)])
    if causes.was_reset(exit, regs, sregs):
        return "\n".join(lines) + "\n"  # what follows would show a fresh vCPU
    lines += _part("mode", lambda: [mode_name(sregs, regs.rflags)], inline=True)
    lines += _part("registers", lambda: _registers(regs))
    lines += _part("control", lambda: _control(sregs))
    lines += _part("segments", lambda: _segments(sregs))
    if events is not None:
        lines += _part("events", lambda: _events(events))
    lines += _part("code", lambda: code_lines(memory, regs, sregs, exit.data if exit.number == uapi.KVM_EXIT_INTERNAL_ERROR else b""))
    lines += _part("stack", lambda: _stack(memory, regs, sregs))
    return "\n".join(lines) + "\n"


# --- parts ---------------------------------------------------------------------------------------------------------------
def _try(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except Exception:  # whatever is wrong with the vCPU must not hide the rest
        return None


def _safe(make: Callable[[], str]) -> str:
    try:
        return make()
    except Exception as error:
        return f"unreadable ({type(error).__name__}: {error})"


def _part(title: str, make: Callable[[], list[str]], inline: bool = False) -> list[str]:
    try:
        lines = make()
    except Exception as error:
        return [f"{title}: unreadable ({type(error).__name__}: {error})"]
    if inline:
        return [f"{title}: {' '.join(lines)}"]
    return [f"{title}:", *_indent(lines)] if lines else []


def _indent(lines: list[str]) -> list[str]:
    return ["  " + line for line in lines]


def _registers(regs: Any) -> list[str]:
    lines = ["  ".join(f"{name:3} {getattr(regs, name):016x}" for name in _GENERAL[at : at + 4]) for at in range(0, 16, 4)]
    return [*lines, f"rip {regs.rip:016x}  rflags {regs.rflags:08x} {bits(regs.rflags, RFLAGS)}".rstrip()]


def _control(sregs: Any) -> list[str]:
    return [
        f"cr0 {sregs.cr0:08x} {bits(sregs.cr0, CR0)}",
        f"cr2 {sregs.cr2:016x}  cr3 {sregs.cr3:016x}",
        f"cr4 {sregs.cr4:08x} {bits(sregs.cr4, CR4)}".rstrip(),
        f"efer {sregs.efer:08x} {bits(sregs.efer, EFER)}".rstrip(),
        f"gdt {sregs.gdt.base:016x} limit {sregs.gdt.limit:04x}  idt {sregs.idt.base:016x} limit {sregs.idt.limit:04x}",
    ]


def _segments(sregs: Any) -> list[str]:
    lines = []
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt"):
        each = getattr(sregs, name)
        if each.unusable or not each.present:
            lines.append(f"{name:3} {each.selector:04x} {'unusable' if each.unusable else 'not present'}, base {each.base:x}")
            continue
        size = "64-bit" if each.l else "32-bit" if each.db else "16-bit"
        kind = "system" if not each.s else "code" if each.type & 8 else "data"
        width = f" {size}" if each.s else ""
        lines.append(
            f"{name:3} {each.selector:04x} base {each.base:x} limit {each.limit:x} type {each.type:x} {kind}{width} dpl {each.dpl}"
        )
    return lines


def _events(events: Any) -> list[str]:
    from pyvmm.exits import exception_name

    lines = []
    exception, interrupt = events.exception, events.interrupt
    if exception.injected or exception.pending:
        code = f", error code {exception.error_code:#x}" if exception.has_error_code else ""
        lines.append(f"{exception_name(exception.nr)} {'being delivered' if exception.injected else 'pending'}{code}")
    if interrupt.injected:
        lines.append(f"interrupt {interrupt.nr:#x} being delivered")
    if events.nmi.injected or events.nmi.pending:
        lines.append("NMI")
    return lines


def code_lines(memory: GuestMemory, regs: Any, sregs: Any, known: bytes = b"") -> list[str]:
    """Hex bytes around rip, rip's byte in <>, and the instructions from there.

    Args:
        known: instruction bytes KVM handed over, used where memory cannot be read.
    """
    bits, linear = code_bits(sregs), linear_address(sregs, sregs.cs, regs.rip)
    data = read_linear(memory, sregs, linear, _INSTRUCTIONS * disasm.MAX_INSTRUCTION) or known
    if not data:
        where = walk(memory, sregs, linear)
        place = where.fault or f"is guest physical {where.gpa:#x}, outside RAM"
        return [f"unreadable: {linear:#x} {place}"]
    back = min(_BEFORE, regs.rip)
    before = read_linear(memory, sregs, linear - back, back)
    if len(before) < back:
        before = b""
    lines = [f"{before.hex(' ')} <{data[:1].hex()}> {data[1:_BEFORE].hex(' ')}".strip()]
    try:
        found = disasm.decode(data, regs.rip, bits, _INSTRUCTIONS)
    except ImportError:
        return [*lines, disasm.NOT_INSTALLED]
    if not found:
        return [*lines, f"{regs.rip:#x}: no valid {bits}-bit instruction"]
    return lines + [f"{each.address:#x}: {each.data.hex():<20} {each.text}" for each in found]


def _stack(memory: GuestMemory, regs: Any, sregs: Any) -> list[str]:
    bits = code_bits(sregs)
    size = bits // 8
    pointer = regs.rsp if bits == 64 else regs.rsp & (0xFFFF_FFFF if sregs.ss.db else 0xFFFF)
    linear = linear_address(sregs, sregs.ss, pointer)
    data = read_linear(memory, sregs, linear, _STACK_WORDS * size)
    if len(data) < size:
        where = walk(memory, sregs, linear)
        return [f"unreadable: {linear:#x} {where.fault or 'is outside RAM'}"]
    words = [f"{int.from_bytes(data[at : at + size], 'little'):0{2 * size}x}" for at in range(0, len(data) - size + 1, size)]
    per_line = 4 if bits == 64 else 8
    return [f"{linear + at * size:#x}: {' '.join(words[at : at + per_line])}" for at in range(0, len(words), per_line)]
