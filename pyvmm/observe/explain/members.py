"""The members of kvm_run that carry an exit: offset, name as in <linux/kvm.h>, value in words, meaning. Offsets: exits.LAYOUTS."""

from __future__ import annotations

from pyvmm import exits
from pyvmm.kvm import structs, uapi
from pyvmm.observe.explain.reasons import FLAGS, msr_name, reason
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.exits import Exit

    Say = Callable[[Any], str]


class Member(Record):
    """One member: ``name`` as C spells it, ``value`` for people, ``text``: what it means, often ""."""

    offset: int
    name: str
    value: str
    text: str = ""


def _exception(value: int) -> str:
    return f"{value} ({exits.exception_name(value)})"


def _hex(value: int) -> str:
    return f"{value:#x}"


def _named(names: dict[int, str]) -> Say:
    return lambda value: f"{value} ({names.get(value, 'not known')})"


_DR6 = {0: "DR0 hit", 1: "DR1 hit", 2: "DR2 hit", 3: "DR3 hit", 13: "access to a debug register", 14: "single step", 15: "task switch"}


def _dr6(value: int) -> str:
    hits = [text for bit, text in _DR6.items() if value >> bit & 1]
    return f"{value:#x}" + (f" ({', '.join(hits)})" if hits else "")


# (exit reason, field of exits.LAYOUTS) -> (C's name where it is another, value in words, meaning)
_TEXTS: dict[tuple[int, str], tuple[str, Say, str]] = {
    (uapi.KVM_EXIT_UNKNOWN, "hardware_exit_reason"): ("", _hex, "as VMX or SVM number their exits"),
    (uapi.KVM_EXIT_EXCEPTION, "exception"): ("", _exception, ""),
    (uapi.KVM_EXIT_EXCEPTION, "error_code"): ("", _hex, ""),
    (uapi.KVM_EXIT_IO, "direction"): ("", _named({0: "KVM_EXIT_IO_IN", 1: "KVM_EXIT_IO_OUT"}), ""),
    (uapi.KVM_EXIT_IO, "size"): ("", str, "bytes of one access"),
    (uapi.KVM_EXIT_IO, "port"): ("", _hex, ""),
    (uapi.KVM_EXIT_IO, "count"): ("", str, "accesses; more with rep"),
    (uapi.KVM_EXIT_IO, "data_offset"): ("", _hex, "where in the mapping the data is"),
    (uapi.KVM_EXIT_HYPERCALL, "nr"): ("", _hex, "the guest's rax"),
    (uapi.KVM_EXIT_HYPERCALL, "args"): ("", lambda value: " ".join(map(hex, value)), "the guest's rbx, rcx, rdx, rsi"),
    (uapi.KVM_EXIT_HYPERCALL, "ret"): ("", _hex, "user space's answer goes here"),
    (uapi.KVM_EXIT_HYPERCALL, "longmode"): ("", str, "1: from 64-bit code"),
    (uapi.KVM_EXIT_DEBUG, "exception"): ("", _exception, ""),
    (uapi.KVM_EXIT_DEBUG, "pc"): ("", _hex, "linear address"),
    (uapi.KVM_EXIT_DEBUG, "dr6"): ("", _dr6, "what caused it"),
    (uapi.KVM_EXIT_DEBUG, "dr7"): ("", _hex, "which debug registers are armed"),
    (uapi.KVM_EXIT_MMIO, "address"): ("phys_addr", _hex, "guest physical"),
    (uapi.KVM_EXIT_MMIO, "size"): ("len", str, "bytes, 1 to 8"),
    (uapi.KVM_EXIT_MMIO, "is_write"): ("", _named({0: "read", 1: "write"}), ""),
    (uapi.KVM_EXIT_FAIL_ENTRY, "hardware_entry_failure_reason"): ("", lambda value: f"{value:#x}: {exits.entry_failure(value)}", ""),
    (uapi.KVM_EXIT_FAIL_ENTRY, "cpu"): ("", str, "of the host"),
    (uapi.KVM_EXIT_TPR_ACCESS, "rip"): ("", _hex, ""),
    (uapi.KVM_EXIT_TPR_ACCESS, "is_write"): ("", _named({0: "read", 1: "write"}), ""),
    (uapi.KVM_EXIT_INTERNAL_ERROR, "suberror"): ("", _named(exits.SUBERRORS), ""),
    (uapi.KVM_EXIT_INTERNAL_ERROR, "ndata"): ("", str, "words that follow"),
    (uapi.KVM_EXIT_SYSTEM_EVENT, "type"): ("", _named({key: f"KVM_SYSTEM_EVENT_{name}" for key, name in exits.SYSTEM_EVENTS.items()}), ""),
    (uapi.KVM_EXIT_SYSTEM_EVENT, "ndata"): ("", str, "words that follow"),
    (uapi.KVM_EXIT_IOAPIC_EOI, "vector"): ("", _hex, ""),
    (uapi.KVM_EXIT_HYPERV, "type"): ("", _named({1: "SYNIC", 2: "HCALL", 3: "SYNDBG"}), ""),
    (uapi.KVM_EXIT_XEN, "type"): ("", _named({1: "HCALL"}), ""),
    (uapi.KVM_EXIT_NOTIFY, "flags"): ("", _hex, "bit 0: the guest's state is lost"),
    (uapi.KVM_EXIT_MEMORY_FAULT, "flags"): ("", _hex, "bit 3: private memory"),
    (uapi.KVM_EXIT_MEMORY_FAULT, "gpa"): ("", _hex, "guest physical"),
    (uapi.KVM_EXIT_MEMORY_FAULT, "size"): ("", _hex, "bytes"),
}
for _number in (uapi.KVM_EXIT_X86_RDMSR, uapi.KVM_EXIT_X86_WRMSR):
    _TEXTS[_number, "error"] = ("", str, "user space sets 1 here for #GP")
    _TEXTS[_number, "reason"] = ("", _named({1: "INVAL", 2: "UNKNOWN", 4: "FILTER"}), "")
    _TEXTS[_number, "index"] = ("", msr_name, "the guest's ecx")
    _TEXTS[_number, "value"] = ("data", _hex, "the guest's edx:eax")


def members(exit: Exit, answer: bytes | None = None) -> list[Member]:
    """What the run page says about an exit, in the order of offsets.

    Args:
        answer: what user space has put into it for a read.
    """
    number, union = exit.number, reason(exit.number).member
    found = [Member(offset=structs.RUN_EXIT_REASON, name="exit_reason", value=f"{number} ({exit.name})")]
    if exit.flags:
        names = [text for bit, text in FLAGS.items() if exit.flags & bit]
        found.append(Member(offset=structs.RUN_FLAGS, name="flags", value=f"{exit.flags:#x}", text=", ".join(names)))
    for field, _, offset in exits.LAYOUTS.get(number, ()):
        name, say, text = _TEXTS.get((number, field), ("", str, ""))
        found.append(Member(offset=offset, name=f"{union}.{name or field}", value=say(exit.fields[field]), text=text))
    found += _data(exit, union, answer)
    return sorted(found, key=lambda member: member.offset)


def _data(exit: Exit, union: str, answer: bytes | None) -> list[Member]:
    """Bytes and words whose place or number the exit itself says."""
    fields, number = exit.fields, exit.number
    if number in (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO):
        is_io = number == uapi.KVM_EXIT_IO
        offset, name = (fields["data_offset"], "(data)") if is_io else (structs.RUN_MMIO_DATA, f"{union}.data")
        if fields["direction" if is_io else "is_write"]:
            return [Member(offset=offset, name=name, value=_bytes(exit.data), text="what the guest wrote, lowest byte first")]
        return [Member(offset=offset, name=name, value=_bytes(answer or b"") or "-", text="user space's answer, lowest byte first")]
    if number == uapi.KVM_EXIT_INTERNAL_ERROR and exit.data:
        return [Member(offset=0x31, name="emulation_failure.insn_bytes", value=_bytes(exit.data), text="the instruction")]
    if fields.get("data"):
        words = " ".join(f"{word:#x}" for word in fields["data"])
        return [Member(offset=structs.RUN_UNION + 8, name=f"{union}.data", value=words)]
    return []


def _bytes(data: bytes) -> str:
    return data[:16].hex(" ") + (f" ... ({len(data)} bytes)" if len(data) > 16 else "")
