"""Instructions as lines: address, symbol, bytes, Intel syntax; ``=>`` where the vCPU is."""

from __future__ import annotations

from pyvmm.observe import disasm
from pyvmm.observe.debug.command import CommandError
from pyvmm.observe.debug.style import visible
from pyvmm.observe.paging import code_bits, linear_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style
    from pyvmm.observe.disasm import Instruction

MOST = 1000


def here(session: Session) -> tuple[int, int]:
    """(rip, the linear address that is)."""
    subject, vcpu = session.subject, session.vcpu
    rip, sregs = subject.regs(vcpu).rip, subject.sregs(vcpu)
    return rip, linear_address(sregs, sregs.cs, rip)


def decoded(session: Session, address: int, count: int) -> list[Instruction]:
    """Instructions at a linear address. CommandError: nothing there, or no capstone."""
    data = session.some(address, count * disasm.MAX_INSTRUCTION)
    if not data:
        raise CommandError(session.unreadable(address))
    try:
        return disasm.decode(data, address, code_bits(session.subject.sregs(session.vcpu)), count)
    except ImportError:
        raise CommandError(disasm.NOT_INSTALLED) from None


def instructions(session: Session, address: int | None, count: int, style: Style) -> list[tuple[str, Instruction]]:
    """Lines from an address (linear; None: where the vCPU is), each with its instruction.

    Raises:
        CommandError: see ``decoded``.
    """
    rip, now = here(session)
    start = now if address is None else address
    found = decoded(session, start, min(count, MOST))
    if not found:
        raise CommandError(
            f"{start:#x}: {session.some(start, 8).hex(' ')} is no {code_bits(session.subject.sregs(session.vcpu))}-bit instruction"
        )
    places = [session.place(each.address) for each in found]
    width = max(len(f"{each.address:#x}{place}") for each, place in zip(found, places, strict=True))
    room = max(min(max(len(each.data) for each in found), 8) * 3, 12)
    lines = []
    for each, place in zip(found, places, strict=True):
        mark = "=> " if each.address == now else "   "
        where = f"{each.address:#x}{place}"
        text = f"{mark}{where:<{width}}  {each.data[:8].hex(' '):<{room}} {each.text}"
        if each.address == now:
            text = style.here(text)
        elif place:
            text = text.replace(place, style.name(place), 1)
        lines.append((text if visible(text) <= style.width + 40 else text[: style.width], each))
    return lines
