"""The run page after an exit, as a value for people: tracer, statistics, debugger, crash report.

The run loop never comes here: it reads three words of the page. This file names every field of every exit
(Documentation/virt/kvm/api.rst, section 5, "The kvm_run structure"), and says in one sentence what happened.
"""

from __future__ import annotations

from struct import Struct, calcsize, pack_into, unpack_from

from pyvmm.kvm import structs, uapi
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Fields = dict[str, Any]

_UNION = structs.RUN_UNION
_COUNT_AND_OFFSET = Struct("<IQ")  # of KVM_EXIT_IO

# Reasons that x86 never sees, or that <linux/kvm.h> got later; uapi names those that pyvmm deals with.
_OTHER_NAMES = {
    13: "KVM_EXIT_S390_SIEIC",
    14: "KVM_EXIT_S390_RESET",
    15: "KVM_EXIT_DCR",
    18: "KVM_EXIT_OSI",
    19: "KVM_EXIT_PAPR_HCALL",
    20: "KVM_EXIT_S390_UCONTROL",
    21: "KVM_EXIT_WATCHDOG",
    22: "KVM_EXIT_S390_TSCH",
    23: "KVM_EXIT_EPR",
    25: "KVM_EXIT_S390_STSI",
    28: "KVM_EXIT_ARM_NISV",
    32: "KVM_EXIT_AP_RESET_HOLD",
    35: "KVM_EXIT_RISCV_SBI",
    36: "KVM_EXIT_RISCV_CSR",
    38: "KVM_EXIT_LOONGARCH_IOCSR",
    40: "KVM_EXIT_TDX",
}

# exit reason -> (name, struct code, offset in the run page) of its plain fields
LAYOUTS: dict[int, tuple[tuple[str, str, int], ...]] = {
    uapi.KVM_EXIT_UNKNOWN: (("hardware_exit_reason", "Q", 0x20),),
    uapi.KVM_EXIT_EXCEPTION: (("exception", "I", 0x20), ("error_code", "I", 0x24)),
    uapi.KVM_EXIT_IO: (
        ("direction", "B", 0x20),
        ("size", "B", 0x21),
        ("port", "H", 0x22),
        ("count", "I", 0x24),
        ("data_offset", "Q", 0x28),
    ),
    uapi.KVM_EXIT_HYPERCALL: (("nr", "Q", 0x20), ("args", "6Q", 0x28), ("ret", "Q", 0x58), ("longmode", "I", 0x60)),
    uapi.KVM_EXIT_DEBUG: (("exception", "I", 0x20), ("pc", "Q", 0x28), ("dr6", "Q", 0x30), ("dr7", "Q", 0x38)),
    uapi.KVM_EXIT_MMIO: (("address", "Q", 0x20), ("size", "I", 0x30), ("is_write", "B", 0x34)),
    uapi.KVM_EXIT_FAIL_ENTRY: (("hardware_entry_failure_reason", "Q", 0x20), ("cpu", "I", 0x28)),
    uapi.KVM_EXIT_TPR_ACCESS: (("rip", "Q", 0x20), ("is_write", "I", 0x28)),
    uapi.KVM_EXIT_INTERNAL_ERROR: (("suberror", "I", 0x20), ("ndata", "I", 0x24)),
    uapi.KVM_EXIT_SYSTEM_EVENT: (("type", "I", 0x20), ("ndata", "I", 0x24)),
    uapi.KVM_EXIT_IOAPIC_EOI: (("vector", "B", 0x20),),
    uapi.KVM_EXIT_HYPERV: (("type", "I", 0x20),),
    uapi.KVM_EXIT_X86_RDMSR: (("error", "B", 0x20), ("reason", "I", 0x28), ("index", "I", 0x2C), ("value", "Q", 0x30)),
    uapi.KVM_EXIT_X86_WRMSR: (("error", "B", 0x20), ("reason", "I", 0x28), ("index", "I", 0x2C), ("value", "Q", 0x30)),
    uapi.KVM_EXIT_XEN: (("type", "I", 0x20),),
    uapi.KVM_EXIT_NOTIFY: (("flags", "I", 0x20),),
    uapi.KVM_EXIT_MEMORY_FAULT: (("flags", "Q", 0x20), ("gpa", "Q", 0x28), ("size", "Q", 0x30)),
}

SUBERRORS = {
    uapi.KVM_INTERNAL_ERROR_EMULATION: "KVM_INTERNAL_ERROR_EMULATION",
    uapi.KVM_INTERNAL_ERROR_SIMUL_EX: "KVM_INTERNAL_ERROR_SIMUL_EX",
    uapi.KVM_INTERNAL_ERROR_DELIVERY_EV: "KVM_INTERNAL_ERROR_DELIVERY_EV",
    uapi.KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON",
}
_SUBERROR_TEXT = {
    1: "KVM had to emulate an instruction and could not",
    2: "two exceptions at once that KVM cannot combine",
    3: "an exit KVM did not expect while it delivered an event to the guest",
    4: "the hardware left the guest for a reason KVM has no handler for",
}
SYSTEM_EVENTS = {1: "SHUTDOWN", 2: "RESET", 3: "CRASH", 4: "WAKEUP", 5: "SUSPEND", 6: "SEV_TERM", 7: "TDX_FATAL"}
_SYSTEM_EVENT_TEXT = {
    1: "the guest asked to be powered off",
    2: "the guest asked for a reset",
    3: "the guest reports that it has crashed",
    4: "the guest asked to be woken up",
    5: "the guest asked to be suspended",
    6: "an encrypted guest asked to be ended",
    7: "a TDX guest reports a fatal error",
}
_MSR_REASONS = {1: "invalid value or access", 2: "unknown to KVM", 4: "filtered"}
_EXCEPTIONS = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound range",
    "#UD invalid opcode",
    "#NM no FPU",
    "#DF double fault",
    "FPU segment",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "(15)",
    "#MF x87 error",
    "#AC alignment check",
    "#MC machine check",
    "#XM SIMD error",
    "#VE virtualisation",
    "#CP control protection",
]

# Intel SDM volume 3C, 27.8 and appendix C: basic exit reasons with bit 31 set
_VMX_ENTRY_FAILURES = {
    33: "invalid guest state: a register or segment breaks one of Intel's entry rules",
    34: "an MSR in the entry load list is refused",
    41: "machine check during VM entry",
}
# SDM volume 3C, 31.4: VM-instruction errors, which KVM reports without bit 31
_VMX_INSTRUCTION_ERRORS = {
    7: "VM entry with invalid control fields: a bug or a limit of this host's KVM, not of the guest",
    8: "VM entry with invalid host-state fields: a bug of this host's KVM",
    12: "write to a VMCS component this CPU does not have",
}


class Exit(Record):
    """One exit.

    Fields:
        name: KVM_EXIT_..., or "KVM_EXIT_? (99)" for a reason this pyvmm does not know.
        number: exit_reason.
        fields: the exit's fields by the names of <linux/kvm.h> (mmio: address, size, is_write).
        data: bytes that travelled: I/O and MMIO data, or the instruction bytes of an emulation failure.
        flags: kvm_run.flags: 1 = in system management mode, 2 = bus lock.
    """

    name: str
    number: int
    fields: dict[str, Any]
    data: bytes = b""
    flags: int = 0


def exit_name(number: int) -> str:
    """KVM_EXIT_... for a number."""
    return uapi.EXIT_NAMES.get(number) or _OTHER_NAMES.get(number) or f"KVM_EXIT_? ({number})"


def exception_name(vector: int) -> str:
    """ "#PF page fault" for 14."""
    return _EXCEPTIONS[vector] if 0 <= vector < len(_EXCEPTIONS) else f"vector {vector:#x}"


def decode(page: memoryview) -> Exit:
    """The exit that the run page (bytes) holds. Never fails on a page of KVM's; copies what it needs."""
    (number,) = unpack_from("<I", page, structs.RUN_EXIT_REASON)
    fields: Fields = {}
    for name, code, offset in LAYOUTS.get(number, ()):
        values = unpack_from("<" + code, page, offset)
        fields[name] = values if len(values) > 1 else values[0]
    extra = _EXTRAS.get(number)
    data = extra(page, fields) if extra else b""
    (flags,) = unpack_from("<H", page, structs.RUN_FLAGS)
    return Exit(name=exit_name(number), number=number, fields=fields, data=data, flags=flags)


# --- an exit as bytes, for those who see thousands of them and explain a few ---------------------------------------------
_KEPT = structs.RUN_UNION + 0x100  # the header and the union
_IO_KEPT = structs.RUN_UNION + 0x10  # what KVM_EXIT_IO and KVM_EXIT_MMIO use of it
_MMIO_KEPT = structs.RUN_UNION + 0x18


def freeze(page: memoryview) -> bytes:
    """What ``thaw`` needs of a run page: 48 bytes and the data for port I/O, 56 for MMIO, 288 for what is rare. No parsing."""
    reason = page[structs.RUN_EXIT_REASON]
    if reason == uapi.KVM_EXIT_IO:
        size, count, start = page[structs.RUN_IO_SIZE], *_COUNT_AND_OFFSET.unpack_from(page, structs.RUN_IO_COUNT)
        return bytes(page[:_IO_KEPT]) + bytes(page[start : start + size * count])
    return bytes(page[: _MMIO_KEPT if reason == uapi.KVM_EXIT_MMIO else _KEPT])


def thaw(frozen: bytes) -> Exit:
    """The exit that ``freeze`` kept. Any bytes will do (a recording may be damaged): what is missing reads as zeros."""
    page = bytearray(frozen[:_KEPT].ljust(_KEPT, b"\0"))
    if page[structs.RUN_EXIT_REASON] != uapi.KVM_EXIT_IO:
        return decode(memoryview(page))
    page = bytearray(page[:_IO_KEPT].ljust(_KEPT, b"\0")) + frozen[_IO_KEPT:]
    (offset,) = unpack_from("<Q", page, structs.RUN_IO_DATA_OFFSET)
    pack_into("<Q", page, structs.RUN_IO_DATA_OFFSET, _KEPT)
    exit = decode(memoryview(page))
    exit.fields["data_offset"] = offset  # as it was in the page that KVM left
    return exit


def _io(page: memoryview, fields: Fields) -> bytes:
    start = fields["data_offset"]
    return bytes(page[start : start + fields["size"] * fields["count"]])


def _mmio(page: memoryview, fields: Fields) -> bytes:
    return bytes(page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + min(fields["size"], 8)])


def _internal(page: memoryview, fields: Fields) -> bytes:
    count = fields["ndata"] = min(fields["ndata"], 16)
    fields["data"] = unpack_from(f"<{count}Q", page, _UNION + 8)
    # struct emulation_failure: data[0] = flags, then insn_size and 15 bytes; only ABI while bit 0 and ndata say so
    if fields["suberror"] == uapi.KVM_INTERNAL_ERROR_EMULATION and count >= 3 and fields["data"][0] & 1:
        size = fields["insn_size"] = min(page[0x30], 15)
        return bytes(page[0x31 : 0x31 + size])
    return b""


def _system_event(page: memoryview, fields: Fields) -> bytes:
    count = fields["ndata"] = min(fields["ndata"], 16)
    fields["data"] = unpack_from(f"<{count}Q", page, _UNION + 8)
    return b""


_EXTRAS: dict[int, Callable[[memoryview, Fields], bytes]] = {
    uapi.KVM_EXIT_IO: _io,
    uapi.KVM_EXIT_MMIO: _mmio,
    uapi.KVM_EXIT_INTERNAL_ERROR: _internal,
    uapi.KVM_EXIT_SYSTEM_EVENT: _system_event,
}
assert all(offset + calcsize(code) <= _UNION + 256 for layout in LAYOUTS.values() for _, code, offset in layout)


# --- sentences -----------------------------------------------------------------------------------------------------------
def describe(exit: Exit) -> str:
    """One sentence for people."""
    say = _SENTENCES.get(exit.number)
    if say is None:
        return exit.name if exit.name.startswith("KVM_EXIT_?") else f"{exit.name}: not expected on x86"
    return say(exit.fields, exit)


def _value(data: bytes, size: int) -> str:
    """Data as numbers of ``size`` bytes, a long run cut short."""
    if not size:
        return ""
    values = [f"{int.from_bytes(data[at : at + size], 'little'):#0{2 + 2 * size}x}" for at in range(0, min(len(data), 8 * size), size)]
    return " ".join(values) + (" ..." if len(data) > 8 * size else "")


def _say_io(fields: Fields, exit: Exit) -> str:
    size, count = fields["size"], fields["count"]
    amount = f"{size} byte{'s' * (size > 1)}" + (f" {count} times" if count != 1 else "")
    if fields["direction"]:
        return f"out to port {fields['port']:#x}, {amount}: {_value(exit.data, size)}"
    return f"in from port {fields['port']:#x}, {amount}"


def _say_mmio(fields: Fields, exit: Exit) -> str:
    what = f"{fields['size']} byte{'s' * (fields['size'] > 1)} at {fields['address']:#x}"
    return f"MMIO write of {what}: {_value(exit.data, fields['size'])}" if fields["is_write"] else f"MMIO read of {what}"


def _say_debug(fields: Fields, exit: Exit) -> str:
    dr6 = fields["dr6"]
    if fields["exception"] == 3:
        cause = "breakpoint instruction"
    elif dr6 & 0xF:
        cause = "debug register " + " ".join(f"DR{n}" for n in range(4) if dr6 >> n & 1)
    elif dr6 & 1 << 14:
        cause = "single step"
    else:
        cause = exception_name(fields["exception"])
    return f"debug exit at {fields['pc']:#x}: {cause} (dr6 {dr6:#x})"


def _say_internal(fields: Fields, exit: Exit) -> str:
    number = fields["suberror"]
    text = f"KVM gave up, {SUBERRORS.get(number, f'suberror {number}')}: {_SUBERROR_TEXT.get(number, 'a reason this pyvmm does not know')}"
    if exit.data:
        return f"{text}; instruction bytes {exit.data.hex(' ')}"
    if fields["data"]:
        return f"{text}; data {' '.join(f'{word:#x}' for word in fields['data'])}"
    return text


def entry_failure(reason: int) -> str:
    """What hardware_entry_failure_reason means (SDM volume 3C, 27.8 and 31.4; APM volume 2, 15.5.2)."""
    if reason in (0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF):
        return "VMEXIT_INVALID: the state breaks one of AMD's VMRUN rules"
    if reason & 0x8000_0000:
        return _VMX_ENTRY_FAILURES.get(reason & 0xFFFF, f"VM entry failed with basic reason {reason & 0xFFFF}")
    return _VMX_INSTRUCTION_ERRORS.get(reason, f"VM-instruction error {reason}")


def _say_fail_entry(fields: Fields, exit: Exit) -> str:
    reason = fields["hardware_entry_failure_reason"]
    return f"the CPU refused to enter the guest, reason {reason:#x}: {entry_failure(reason)} (host CPU {fields['cpu']})"


def _say_system_event(fields: Fields, exit: Exit) -> str:
    kind = fields["type"]
    data = f" ({' '.join(f'{word:#x}' for word in fields['data'])})" if fields["data"] else ""
    return f"system event {SYSTEM_EVENTS.get(kind, kind)}: {_SYSTEM_EVENT_TEXT.get(kind, 'of a kind this pyvmm does not know')}{data}"


def _say_msr(fields: Fields, exit: Exit) -> str:
    why = _MSR_REASONS.get(fields["reason"], f"reason {fields['reason']}")
    if exit.number == uapi.KVM_EXIT_X86_WRMSR:
        return f"wrmsr {fields['index']:#x} = {fields['value']:#x}, left to user space ({why})"
    return f"rdmsr {fields['index']:#x}, left to user space ({why})"


_SENTENCES: dict[int, Callable[[Fields, Exit], str]] = {
    uapi.KVM_EXIT_UNKNOWN: lambda f, e: f"KVM does not know the hardware's exit reason {f['hardware_exit_reason']:#x}",
    uapi.KVM_EXIT_EXCEPTION: lambda f, e: f"exception {exception_name(f['exception'])}, error code {f['error_code']:#x}",
    uapi.KVM_EXIT_IO: _say_io,
    uapi.KVM_EXIT_HYPERCALL: lambda f, e: f"hypercall {f['nr']:#x} with {', '.join(f'{arg:#x}' for arg in f['args'])}",
    uapi.KVM_EXIT_DEBUG: _say_debug,
    uapi.KVM_EXIT_HLT: lambda f, e: "hlt: the vCPU waits for an interrupt",
    uapi.KVM_EXIT_MMIO: _say_mmio,
    uapi.KVM_EXIT_IRQ_WINDOW_OPEN: lambda f, e: "the guest can take an interrupt now",
    uapi.KVM_EXIT_SHUTDOWN: lambda f, e: "triple fault: an exception could not be delivered, nor could the double fault that followed",
    uapi.KVM_EXIT_FAIL_ENTRY: _say_fail_entry,
    uapi.KVM_EXIT_INTR: lambda f, e: "a signal for this thread interrupted KVM_RUN",
    uapi.KVM_EXIT_SET_TPR: lambda f, e: "the guest lowered its task priority (cr8)",
    uapi.KVM_EXIT_TPR_ACCESS: lambda f, e: f"{'write to' if f['is_write'] else 'read of'} the task priority register at rip {f['rip']:#x}",
    uapi.KVM_EXIT_NMI: lambda f, e: "a non-maskable interrupt of the host",
    uapi.KVM_EXIT_INTERNAL_ERROR: _say_internal,
    uapi.KVM_EXIT_SYSTEM_EVENT: _say_system_event,
    uapi.KVM_EXIT_IOAPIC_EOI: lambda f, e: f"end of interrupt for level-triggered vector {f['vector']:#x}",
    uapi.KVM_EXIT_HYPERV: lambda f, e: f"Hyper-V request of type {f['type']}",
    uapi.KVM_EXIT_X86_RDMSR: _say_msr,
    uapi.KVM_EXIT_X86_WRMSR: _say_msr,
    uapi.KVM_EXIT_DIRTY_RING_FULL: lambda f, e: "the dirty ring is full: collect it and KVM_RESET_DIRTY_RINGS",
    uapi.KVM_EXIT_X86_BUS_LOCK: lambda f, e: "the guest took a bus lock (split or uncached locked access)",
    uapi.KVM_EXIT_XEN: lambda f, e: f"Xen request of type {f['type']}",
    uapi.KVM_EXIT_NOTIFY: lambda f, e: (
        "the guest gave no chance to deliver events for too long" + (": its state is lost" if f["flags"] & 1 else "")
    ),
    32: lambda f, e: "an SEV-ES guest's processor waits for its start (AP reset hold)",
    40: lambda f, e: "a call of a TDX guest",
    uapi.KVM_EXIT_MEMORY_FAULT: lambda f, e: f"KVM cannot resolve a guest access at {f['gpa']:#x}+{f['size']:#x}",
}
