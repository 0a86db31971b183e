"""Interrupt vectors and the handlers that the guest has for them: the IDT (SDM volume 3A, 6.10 to 6.14), or real mode's table."""

from __future__ import annotations

from pyvmm.observe.debug.command import CommandError
from pyvmm.observe.paging import CR0_PE, EFER_LMA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session

_PRESENT = 1 << 47


def handler(session: Session, vector: int) -> int:
    """The linear address of a vector's handler, as the table stands now (a code segment's base counts as 0).

    Raises:
        CommandError: the table has none.
    """
    sregs = session.subject.sregs(session.vcpu)
    if not sregs.cr0 & CR0_PE:
        entry = session.linear(sregs.idt.base + 4 * vector, 4)
        if not any(entry):
            raise CommandError(f"the guest has no handler for vector {vector:#x}: its place in the table at 0 is empty")
        return (int.from_bytes(entry[2:], "little") << 4) + int.from_bytes(entry[:2], "little")
    long_mode = bool(sregs.efer & EFER_LMA)
    size = 16 if long_mode else 8
    if vector * size + size - 1 > sregs.idt.limit:
        raise CommandError(f"the guest's IDT (limit {sregs.idt.limit:#x}) has no vector {vector:#x}")
    data = session.linear(sregs.idt.base + vector * size, size)
    low = int.from_bytes(data[:8], "little")
    if not low & _PRESENT:
        raise CommandError(f"the guest's IDT has no handler for vector {vector:#x}: the gate is not present")
    offset = low & 0xFFFF | low >> 32 & 0xFFFF_0000
    return offset | (int.from_bytes(data[8:12], "little") << 32 if long_mode else 0)
