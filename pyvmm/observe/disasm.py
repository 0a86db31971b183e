"""Instructions as text, by capstone when it is installed. Imported late: capstone costs 70 ms."""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_INSTRUCTION = 15  # bytes, SDM volume 2A, 2.3.11
NOT_INSTALLED = "capstone is not installed: no disassembly (pip install capstone)"


class Instruction(Record):
    """One decoded instruction.

    Fields:
        address, data: where it stands, and its bytes.
        mnemonic, operands: Intel syntax.
        groups: capstone's group names ("avx512", "sse42", ...).
        memory: what it accesses: (segment, base, index, scale, displacement), register names or "".
    """

    address: int
    data: bytes
    mnemonic: str
    operands: str = ""
    groups: tuple[str, ...] = ()
    memory: tuple[tuple[str, str, str, int, int], ...] = ()

    @property
    def text(self) -> str:
        """Intel syntax."""
        return f"{self.mnemonic} {self.operands}".rstrip()


def available() -> bool:
    """Whether capstone can be imported."""
    try:
        import capstone  # noqa: F401
    except ImportError:
        return False
    return True


def decode(data: bytes, address: int, bits: int, count: int = 0) -> list[Instruction]:
    """Decodes up to ``count`` instructions (0: all) until bytes run out or do not decode.

    Args:
        data: code bytes.
        address: of the first byte, for branch targets and the result.
        bits: 16, 32 or 64.

    Raises:
        ImportError: capstone is not installed.
    """
    import capstone

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    engine: Any = capstone.Cs(capstone.CS_ARCH_X86, mode)
    engine.detail = True
    return [
        Instruction(
            address=each.address,
            data=bytes(each.bytes),
            mnemonic=each.mnemonic,
            operands=each.op_str,
            groups=tuple(each.group_name(group) for group in each.groups),
            memory=_memory(each, capstone.x86.X86_OP_MEM),
        )
        for each in engine.disasm(data, address, count)
    ]


def lengths(data: bytes, bits: int) -> list[int]:
    """How long the instructions are that code bytes consist of, up to the first that does not decode; far quicker than ``decode``.

    Raises:
        ImportError: capstone is not installed.
    """
    import capstone

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    return [size for _, size, _, _ in capstone.Cs(capstone.CS_ARCH_X86, mode).disasm_lite(data, 0)]


def _memory(instruction: Any, kind: int) -> tuple[tuple[str, str, str, int, int], ...]:
    found = []
    for operand in instruction.operands:
        if operand.type == kind and instruction.mnemonic not in ("lea", "nop"):
            names = [instruction.reg_name(number) or "" for number in (operand.mem.segment, operand.mem.base, operand.mem.index)]
            found.append((names[0], names[1], names[2], operand.mem.scale, operand.mem.disp))
    return tuple(found)
