"""Which instruction caused an exit.

rip alone does not tell. When hardware reports an ``out``, KVM leaves rip at the instruction and moves it on re-entry. When KVM's
emulator executed it (every MMIO access, string I/O, all of ring 0 on a KVM in software), a write has been finished and rip is
behind it, a read waits for its value and rip is at it. And once user space has completed the exit (``Vcpu.settle``), rip is behind
in each case.
(arch/x86/kvm/x86.c: kvm_fast_pio, x86_emulate_instruction.)
"""

from __future__ import annotations

from pyvmm.kvm import uapi
from pyvmm.observe import disasm
from pyvmm.observe.paging import code_bits, linear_address, read_linear, walk
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.exits import Exit
    from pyvmm.observe.disasm import Instruction
    from pyvmm.observe.paging import Memory

_BACK = 48  # bytes before rip to decode: enough for x86 code to fall into step
_STRING_STEP = 16  # bytes that a string instruction, or the parts of one access, may be away from where registers point
_WIDTHS = {"byte ptr": 1, "word ptr": 2, "dword ptr": 4, "qword ptr": 8}
# exits whose instruction can be told from others by what the exit says
_TELLING = (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO, uapi.KVM_EXIT_HLT)
_SIZES = {"b": 1, "w": 2, "d": 4}
_ACCUMULATORS = {"al": 1, "ax": 2, "eax": 4}


class Site(Record):
    """Where an exit happened.

    Fields:
        instruction: None when it cannot be told.
        behind: rip is behind it already.
        bits: 16, 32 or 64.
    """

    instruction: Instruction | None = None
    behind: bool = False
    bits: int = 0


def locate(exit: Exit, regs: Any, sregs: Any, memory: Memory, settled: bool = False, emulated: bool = False) -> Site:
    """Finds the instruction.

    Args:
        regs, sregs: the vCPU's, as kvm_regs and kvm_sregs have them.
        memory: guest memory.
        settled: the exit was completed before the registers were read.
        emulated: this KVM interprets the guest's ring 0 (``kvm.kind.emulates_ring0``).
    """
    site = Site(bits=code_bits(sregs))
    try:
        at = _here(regs, sregs, memory, site.bits)
        fits_here = exit.number not in _TELLING or at is not None and _fits(exit, at)
        if at is not None and fits_here and not _moved_on(exit, at, regs, sregs, memory, settled, emulated):
            site.instruction = at
            return site
        back = _before(exit, regs, sregs, memory, site.bits)
    except ImportError:  # no capstone
        return site
    if back is not None:
        site.instruction, site.behind = back, True
    elif fits_here:
        site.instruction = at
    return site


def _moved_on(exit: Exit, at: Instruction, regs: Any, sregs: Any, memory: Memory, settled: bool, emulated: bool) -> bool:
    """Whether rip, which is at an instruction that fits, may all the same be behind the one in question."""
    if exit.number not in _TELLING or exit.number == uapi.KVM_EXIT_HLT:
        return exit.number == uapi.KVM_EXIT_HLT
    is_io = exit.number == uapi.KVM_EXIT_IO
    if at.mnemonic.startswith("rep") and (is_io or _reaches(exit, at, regs, sregs, memory)):
        return False  # until its last element rip stays
    is_write = exit.fields["direction" if is_io else "is_write"]
    return settled or bool(is_write) and (emulated or not is_io)


def _here(regs: Any, sregs: Any, memory: Memory, bits: int) -> Instruction | None:
    data = read_linear(memory, sregs, linear_address(sregs, sregs.cs, regs.rip), disasm.MAX_INSTRUCTION)
    found = disasm.decode(data, regs.rip, bits, 1)
    return found[0] if found else None


def _before(exit: Exit, regs: Any, sregs: Any, memory: Memory, bits: int) -> Instruction | None:
    """The instruction that ends at rip and fits the exit. x86 code cannot be read backward: decode from many starts, and count votes."""
    length = min(_BACK, regs.rip)
    start = linear_address(sregs, sregs.cs, regs.rip - length)
    data = b""
    while length and len(data) < length:  # the page before may not be there
        data = read_linear(memory, sregs, start, length)
        if len(data) < length:
            length = min(length - 1, linear_address(sregs, sregs.cs, regs.rip) & 0xFFF)
            start = linear_address(sregs, sregs.cs, regs.rip - length)
            data = b"" if length else data
    ends: dict[int, int] = {}  # of the instruction at an offset
    for first in range(length):
        if first not in ends:  # decoders that start apart fall into step after a few instructions
            at = first
            for size in disasm.lengths(data[first:], bits):
                ends[at] = at = at + size
    votes: dict[int, int] = {}
    for first in range(length):
        at = first
        while at in ends:
            if ends[at] == length:
                votes[at] = votes.get(at, 0) + 1
            at = ends[at]
    ranked = sorted(votes, key=lambda each: -votes[each])
    decoded = [disasm.decode(data[at:], regs.rip - length + at, bits, 1) for at in ranked]
    likely = [each[0] for each in decoded if each and _fits(exit, each[0])]
    if exit.number == uapi.KVM_EXIT_MMIO:
        likely.sort(key=lambda each: not _reaches(exit, each, regs, sregs, memory))
    return likely[0] if likely else None


def _fits(exit: Exit, instruction: Instruction) -> bool:
    """Whether an instruction can have caused this exit."""
    name, operands = instruction.mnemonic.split()[-1], instruction.operands
    if exit.number == uapi.KVM_EXIT_HLT:
        return name == "hlt"
    if exit.number == uapi.KVM_EXIT_IO:
        stem = "out" if exit.fields["direction"] else "in"
        if name == stem:
            port, register = operands.split(", ") if stem == "out" else reversed(operands.split(", "))
            given = int(port, 0) if port != "dx" else exit.fields["port"]
            return bool(_ACCUMULATORS.get(register) == exit.fields["size"]) and given == exit.fields["port"]
        return name[:-1] == stem + "s" and bool(_SIZES.get(name[-1]) == exit.fields["size"])
    if exit.number == uapi.KVM_EXIT_MMIO and instruction.memory:
        widths = [width for word, width in _WIDTHS.items() if f" {word}" in f" {operands}"]
        return not widths or int(exit.fields["size"]) <= max(widths)
    return False


def _reaches(exit: Exit, instruction: Instruction, regs: Any, sregs: Any, memory: Memory) -> bool:
    """Whether a memory operand leads to the exit's address, registers being as they are now (string instructions have moved on)."""
    bits = code_bits(sregs)
    for segment, base, index, scale, displacement in instruction.memory:
        offset = displacement + _register(regs, base, instruction) + _register(regs, index, instruction) * scale
        if bits == 64:
            linear = offset + (getattr(sregs, segment).base if segment in ("fs", "gs") else 0) & (1 << 64) - 1
        else:
            linear = linear_address(sregs, getattr(sregs, segment or "ds"), offset & (1 << 32) - 1)
        gpa = walk(memory, sregs, linear).gpa
        if gpa is not None and abs(gpa - exit.fields["address"]) <= _STRING_STEP:
            return True
    return False


def _register(regs: Any, name: str, instruction: Instruction) -> int:
    """A register's value as part of an address, by the disassembler's name: rax, eax, bx, r8d, rip, or ""."""
    if name in ("rip", "eip"):
        return instruction.address + len(instruction.data)
    if name.startswith("e"):
        return int(getattr(regs, "r" + name[1:], 0)) & 0xFFFF_FFFF
    if name.endswith("d") and name[1:2].isdigit():
        return int(getattr(regs, name[:-1], 0)) & 0xFFFF_FFFF
    if len(name) == 2 and not name[1].isdigit():
        return int(getattr(regs, "r" + name, 0)) & 0xFFFF
    return int(getattr(regs, name, 0)) if name else 0
