"""Why a guest died, as far as its state tells: one line for each finding, the most telling first.

Pure functions on the exit, the registers and guest memory; ``pyvmm.observe.crash`` prints them.
"""

from __future__ import annotations

from pyvmm.exits import exception_name
from pyvmm.kvm import uapi
from pyvmm.observe import disasm
from pyvmm.observe.paging import CR0_PE, CR0_PG, EFER_LMA, EFER_LME, code_bits, linear_address, read_linear, walk

CR0_EM, CR0_TS = 1 << 2, 1 << 3
CR4_OSFXSR, CR4_OSXSAVE = 1 << 9, 1 << 18

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.exits import Exit
    from pyvmm.observe.paging import Memory

# capstone's instruction groups -> QEMU's name of the CPUID feature that announces them
_GROUP_FEATURES = {
    "avx": "avx",
    "avx2": "avx2",
    "avx512": "avx512f",
    "fma": "fma",
    "fma4": "fma4",
    "f16c": "f16c",
    "xop": "xop",
    "tbm": "tbm",
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse41": "sse4.1",
    "sse42": "sse4.2",
    "sse4a": "sse4a",
    "aes": "aes",
    "pclmul": "pclmulqdq",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "adx": "adx",
    "sha": "sha-ni",
    "3dnow": "3dnow",
    "rtm": "rtm",
    "fsgsbase": "fsgsbase",
}
# feature -> instructions that stand in no group of their own
_FEATURE_INSTRUCTIONS = {
    "cx16": "cmpxchg16b",
    "popcnt": "popcnt",
    "abm": "lzcnt",
    "bmi1": "tzcnt",
    "sse4.2": "crc32",
    "movbe": "movbe",
    "rdtscp": "rdtscp",
    "rdpid": "rdpid",
    "rdrand": "rdrand",
    "rdseed": "rdseed",
    "invpcid": "invpcid",
    "monitor": "monitor mwait",
    "mwaitx": "monitorx mwaitx",
    "smap": "clac stac",
    "clflushopt": "clflushopt",
    "clwb": "clwb",
    "clzero": "clzero",
    "pku": "rdpkru wrpkru",
    "serialize": "serialize",
    "movdiri": "movdiri",
    "movdir64b": "movdir64b",
    "waitpkg": "umonitor umwait tpause",
    "xsave": "xgetbv xsetbv xsave xsave64 xrstor xrstor64",
    "xsaveopt": "xsaveopt xsaveopt64",
    "xsavec": "xsavec xsavec64",
    "xsaves": "xsaves xsaves64 xrstors xrstors64",
    "gfni": "gf2p8mulb gf2p8affineqb gf2p8affineinvqb",
    "shstk": "incsspd incsspq rdsspd rdsspq wrssd wrssq setssbsy clrssbsy saveprevssp rstorssp",
    "sep": "sysenter sysexit",
}
_MNEMONIC_FEATURES = {name: feature for feature, names in _FEATURE_INSTRUCTIONS.items() for name in names.split()}


def likely(exit: Exit, regs: Any, sregs: Any, events: Any, memory: Memory) -> list[str]:
    """What probably is behind a deadly exit; empty when nothing can be said."""
    if was_reset(exit, regs, sregs):
        return [
            "unknown: this KVM (AMD's) has reset the vCPU after the triple fault, so the registers show the reset state (rip 0xfff0), "
            "not the guest's; run again with the debugger or the tracer to see the last instructions"
        ]
    if exit.number == uapi.KVM_EXIT_SHUTDOWN:
        return _triple_fault(regs, sregs, events, memory)
    if exit.number == uapi.KVM_EXIT_FAIL_ENTRY:
        return _failed_entry(exit, regs, sregs)
    if exit.number == uapi.KVM_EXIT_INTERNAL_ERROR:
        if exit.fields["suberror"] == uapi.KVM_INTERNAL_ERROR_EMULATION:
            return _emulation_failure(exit, regs, sregs, memory)
        if exit.fields["suberror"] == uapi.KVM_INTERNAL_ERROR_DELIVERY_EV:
            return _delivery(exit, regs, sregs, memory)
    return []


def was_reset(exit: Exit, regs: Any, sregs: Any) -> bool:
    """Whether the registers are those of a fresh vCPU: SVM re-initialises the VMCB on a triple fault (APM volume 2, 15.14.3)."""
    return bool(exit.number == uapi.KVM_EXIT_SHUTDOWN and regs.rip == 0xFFF0 and sregs.cs.base == 0xFFFF_0000 and not sregs.cr0 & CR0_PE)


# --- triple fault --------------------------------------------------------------------------------------------------------
def _triple_fault(regs: Any, sregs: Any, events: Any, memory: Memory) -> list[str]:
    found: list[str] = []
    if events is not None and (events.exception.injected or events.exception.pending):
        found.append(f"the exception in question: {exception_name(events.exception.nr)}")
    found += _first_exception(regs, sregs, memory)
    found += _table(sregs, memory)
    found += _stack(regs, sregs, memory)
    return found or ["an exception whose handler faults, and the double fault's handler as well: look at the IDT entries and their stack"]


def _first_exception(regs: Any, sregs: Any, memory: Memory) -> list[str]:
    """What at rip may have raised the first exception."""
    linear = linear_address(sregs, sregs.cs, regs.rip)
    code = walk(memory, sregs, linear)
    if code.gpa is None:
        return [f"the next instruction cannot be fetched: rip {linear:#x} {code.fault}"]
    if not memory.contains(code.gpa, 1):
        return [f"the guest executes at guest physical {code.gpa:#x}, which is not RAM"]
    if _ring3(sregs) and not code.user:
        return [f"ring 3 executes at {linear:#x}, a page that only rings 0 to 2 may use: page fault"]
    instruction = _instruction(read_linear(memory, sregs, linear, disasm.MAX_INSTRUCTION), regs.rip, code_bits(sregs))
    if instruction is None and disasm.available():
        return ["there is no valid instruction at rip: #UD"]
    if instruction is None:
        return _page_fault(sregs, memory)
    if _turns_on_paging(instruction, sregs):
        return [_NO_LEGACY_PAGING]
    found = _refused(instruction, sregs) + _bad_selector(instruction, regs, sregs, memory)
    return found + _bad_operand(instruction, regs, sregs, memory) + _page_fault(sregs, memory)


_NO_LEGACY_PAGING = (
    "the guest turns paging on without long mode: this KVM runs ring 0 in software and has no 32-bit or PAE paging; "
    "use a host with VMX or SVM"
)


def _turns_on_paging(instruction: disasm.Instruction, sregs: Any) -> bool:
    from pyvmm.kvm.kind import emulates_ring0

    legacy = sregs.cr0 & CR0_PE and not sregs.cr0 & CR0_PG and not sregs.efer & EFER_LME
    return bool(legacy and instruction.text.startswith("mov cr0,") and emulates_ring0())


def _ring3(sregs: Any) -> bool:
    return bool(sregs.cr0 & CR0_PG and sregs.ss.dpl == 3)


def _page_fault(sregs: Any, memory: Memory) -> list[str]:
    if not (sregs.cr0 & CR0_PG and sregs.cr2):
        return []
    page = walk(memory, sregs, sregs.cr2)
    if page.fault:
        return [f"page fault: the last one was for cr2 = {sregs.cr2:#x}, which {page.fault}"]
    if _ring3(sregs) and not page.user:
        return [f"page fault: the last one was for cr2 = {sregs.cr2:#x}, which ring 3 may not touch"]
    rights = "" if page.writable else "read-only, "
    return [
        f"perhaps a page fault: cr2 = {sregs.cr2:#x} is mapped ({rights}guest physical {page.gpa:#x}), so access rights, or an older one"
    ]


def _refused(instruction: disasm.Instruction, sregs: Any) -> list[str]:
    """Instructions that raise #UD or #NM whatever their operands."""
    name, groups = instruction.mnemonic, instruction.groups
    if name in ("ud0", "ud1", "ud2"):
        return [f"{name} at rip raises #UD on purpose (a BUG or unreachable code in the guest)"]
    if name in ("int3", "int1", "into"):
        return [f"{name} at rip, with no handler for it"]
    simd = [group for group in groups if group.startswith(("sse", "ssse", "avx", "fma", "f16c"))]
    if simd and any(group.startswith(("avx", "fma", "f16c")) for group in simd) and not sregs.cr4 & CR4_OSXSAVE:
        return [f"'{instruction.text}' needs CR4.OSXSAVE and XCR0 set first: #UD"]
    if simd and not sregs.cr4 & CR4_OSFXSR:
        return [f"'{instruction.text}' needs CR4.OSFXSR set first: #UD"]
    if (simd or "fpu" in groups or "mmx" in groups) and sregs.cr0 & (CR0_EM | CR0_TS):
        return [f"'{instruction.text}' while CR0.{'EM' if sregs.cr0 & CR0_EM else 'TS'} is set: #UD or #NM"]
    return []


def _bad_selector(instruction: disasm.Instruction, regs: Any, sregs: Any, memory: Memory) -> list[str]:
    """Segment registers loaded with what is no descriptor (SDM 2B MOV, 2A JMP; APM 3 MOV, JMP Far)."""
    register, comma, source = instruction.text.partition(" ")[2].partition(", ")
    if not sregs.cr0 & CR0_PE or "[" in instruction.text:
        return []
    if instruction.mnemonic == "mov" and comma and register in ("ds", "es", "fs", "gs", "ss"):
        selector = _register(regs, source, instruction) & 0xFFFF
    elif instruction.mnemonic == "ljmp":
        selector = int(register.partition(":")[0], 0)
    else:
        return []
    loads, place, bits = f"'{instruction.text}' loads", selector & ~7, code_bits(sregs)
    if selector < 4:
        may = instruction.mnemonic == "mov" and (register != "ss" or bits == 64)
        return [] if may else [f"{loads} the null selector: #GP"]
    if selector & 4:  # of the LDT
        return []
    if place + 7 > sregs.gdt.limit:
        return [f"{loads} selector {selector:#x}, beyond the GDT's limit {sregs.gdt.limit:#x}: #GP"]
    entry = read_linear(memory, sregs, sregs.gdt.base + place, 8)
    return [f"{loads} selector {selector:#x}, whose descriptor is not present: #NP"] if len(entry) == 8 and not entry[5] & 0x80 else []


def _bad_operand(instruction: disasm.Instruction, regs: Any, sregs: Any, memory: Memory) -> list[str]:
    """Memory operands that lead nowhere."""
    found = []
    bits = code_bits(sregs)
    for segment, base, index, scale, displacement in instruction.memory:
        offset = displacement + _register(regs, base, instruction) + _register(regs, index, instruction) * scale
        width = bits if bits < 64 and not base.startswith("e") else 64
        offset &= (1 << width) - 1
        # FS and GS keep their bases in 64-bit mode
        start = getattr(sregs, segment).base if segment in ("fs", "gs") else 0
        linear = (start + offset) & (1 << 64) - 1 if bits == 64 else linear_address(sregs, getattr(sregs, segment or "ds"), offset)
        fault = walk(memory, sregs, linear).fault
        if fault:
            found.append(f"'{instruction.text}' accesses {linear:#x}, which {fault}")
    return found


def _register(regs: Any, name: str, instruction: disasm.Instruction) -> int:
    """A register's value as part of an address. Names come as rax, eax, bx, r8d, rip, eiz, or ""."""
    if name in ("rip", "eip"):
        return int(regs.rip) + len(instruction.data)
    if name.startswith("r"):
        value = getattr(regs, name.rstrip("d") if name[1:2].isdigit() else name, 0)
        return int(value) & (0xFFFF_FFFF if name.endswith("d") else (1 << 64) - 1)
    if name.startswith("e") and len(name) == 3:
        return int(getattr(regs, "r" + name[1:], 0)) & 0xFFFF_FFFF
    return int(getattr(regs, "r" + name, 0)) & 0xFFFF if name else 0


def _table(sregs: Any, memory: Memory) -> list[str]:
    """What is wrong with the IDT, seen from the exceptions that end in a triple fault."""
    table = sregs.idt
    if not sregs.cr0 & CR0_PE:
        return ["the interrupt vector table's limit cuts off the exception vectors"] if table.limit < 0x3F else []
    if table.limit == 0:
        return ["there is no IDT (limit 0): the first exception of any kind ends the guest; load one before anything can fault"]
    size = 16 if sregs.efer & EFER_LMA else 8
    if walk(memory, sregs, table.base).gpa is None:
        return [f"the IDT itself cannot be read: {table.base:#x} {walk(memory, sregs, table.base).fault}"]
    found = []
    for vector in (6, 8, 13, 14):
        end = vector * size + size - 1
        gate = read_linear(memory, sregs, table.base + vector * size, size)
        if end > table.limit:
            found.append(f"the IDT ends before {exception_name(vector)} (limit {table.limit:#x})")
        elif len(gate) < size:
            found.append(f"the IDT's entry for {exception_name(vector)} cannot be read")
        elif not gate[5] & 0x80:
            found.append(f"the IDT's entry for {exception_name(vector)} is not present")
        else:
            found += _gate(sregs, memory, vector, gate)
    return found


def _gate(sregs: Any, memory: Memory, vector: int, gate: bytes) -> list[str]:
    kind, selector = gate[5] & 0x1F, int.from_bytes(gate[2:4], "little")
    name = exception_name(vector)
    if kind not in ((0xE, 0xF) if sregs.efer & EFER_LMA else (5, 6, 7, 0xE, 0xF)):
        return [f"the IDT's entry for {name} has type {kind:#x}, which is no gate in this mode"]
    if kind == 5:
        return []  # task gate: no address in it
    if selector | 7 > sregs.gdt.limit and not selector & 4 or selector < 4:
        return [f"the IDT's entry for {name} names selector {selector:#x}, outside the GDT (limit {sregs.gdt.limit:#x})"]
    handler = int.from_bytes(gate[0:2] + gate[6:8] + (gate[8:12] if len(gate) == 16 else b""), "little")
    if kind in (6, 7):
        handler &= 0xFFFF
    if sregs.efer & EFER_LMA and walk(memory, sregs, handler).gpa is None:
        return [f"the handler for {name} at {handler:#x} {walk(memory, sregs, handler).fault}"]
    return []


def _stack(regs: Any, sregs: Any, memory: Memory) -> list[str]:
    """Delivery pushes to the stack: a bad rsp turns any exception into a triple fault."""
    pointer = regs.rsp if code_bits(sregs) == 64 else regs.rsp & (0xFFFF_FFFF if sregs.ss.db else 0xFFFF)
    below = linear_address(sregs, sregs.ss, pointer - 8)
    where = walk(memory, sregs, below)
    if where.gpa is None:
        return [f"the stack cannot take the exception's frame: {below:#x} {where.fault}"]
    if not memory.contains(where.gpa, 1):
        return [f"the stack cannot take the exception's frame: {below:#x} is not RAM"]
    return []


# --- internal errors -----------------------------------------------------------------------------------------------------
def _instruction(data: bytes, address: int, bits: int) -> disasm.Instruction | None:
    try:
        found = disasm.decode(data, address, bits, 1)
    except ImportError:
        return None
    return found[0] if found else None


def feature_of(instruction: disasm.Instruction) -> str:
    """The CPUID feature (QEMU's name) that tells guests they may use an instruction; "" for what every CPU has."""
    name = instruction.mnemonic.split()[-1]
    if name in _MNEMONIC_FEATURES:
        return _MNEMONIC_FEATURES[name]
    found = next((_GROUP_FEATURES[group] for group in instruction.groups if group in _GROUP_FEATURES), "")
    if not found and name.startswith(("vfm", "vfnm")):
        return "fma"
    if not found and name.startswith("v") and instruction.data[0] in (0xC4, 0xC5):  # VEX, in a group capstone has no name for
        return "avx"
    return found


def _emulation_failure(exit: Exit, regs: Any, sregs: Any, memory: Memory) -> list[str]:
    from pyvmm.kvm.kind import emulates_ring0

    linear = linear_address(sregs, sregs.cs, regs.rip)
    code = walk(memory, sregs, linear)
    if code.gpa is not None and not memory.contains(code.gpa, 1):
        return [f"the guest jumped to guest physical {code.gpa:#x}, where there is no RAM: KVM cannot fetch instructions from a device"]
    data = exit.data or read_linear(memory, sregs, linear, disasm.MAX_INSTRUCTION)
    if not data:
        return [f"the instruction cannot be read: rip {linear:#x} {code.fault}"]
    instruction = _instruction(data, regs.rip, code_bits(sregs))
    if instruction is None:
        return [f"the instruction at rip starts with {data[:8].hex(' ')}" + ("" if disasm.available() else f"; {disasm.NOT_INSTALLED}")]
    what = f"'{instruction.text}' ({instruction.data.hex(' ')})"
    feature = feature_of(instruction)
    if not emulates_ring0():
        return [
            f"KVM had to emulate {what} and cannot: it touches memory that is not RAM (a device) in a way KVM's emulator does not know, "
            "or this CPU lacks unrestricted guest mode (real mode is emulated then)"
        ]
    if feature:
        return [
            f"this KVM runs ring 0 in software and its interpreter lacks {what}; hide the feature with -cpu host,-{feature} "
            "(a guest that uses it without asking CPUID needs a host with VMX or SVM)"
        ]
    return [
        f"this KVM runs ring 0 in software and its interpreter lacks {what}; no CPUID bit hides it: "
        "keep it out of ring 0, or use a host with VMX or SVM"
    ]


def _delivery(exit: Exit, regs: Any, sregs: Any, memory: Memory) -> list[str]:
    found = ["an exception or interrupt was being delivered and its IDT, GDT, TSS or stack lies where there is no RAM"]
    data = exit.fields.get("data", ())
    if data:  # VMX: IDT-vectoring information (SDM volume 3C, 25.9.3); SVM: EXITINTINFO, the same layout
        found.append(f"it was {exception_name(data[0] & 0xFF)}")
    return [*found, *_table(sregs, memory), *_stack(regs, sregs, memory)]


# --- refused entry -------------------------------------------------------------------------------------------------------
def _failed_entry(exit: Exit, regs: Any, sregs: Any) -> list[str]:
    reason = exit.fields["hardware_entry_failure_reason"]
    if reason & 0xFFFF_FFFF not in (0x8000_0021, 0xFFFF_FFFF):
        return []
    try:
        from pyvmm.kvm import entry_rules
    except ImportError:
        return []
    broken = entry_rules.violations(sregs, regs)
    if not broken:
        return ["no rule that pyvmm knows is broken: look at what was changed last in the segments and control registers"]
    return [f"{each.text} ({each.field}; {each.section})" for each in broken]
