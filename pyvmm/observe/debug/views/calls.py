"""Who called whom, guessed from the stack, for code without frame pointers such as most Linux kernels of today: each word on it that
lies behind a call instruction in a function with a name. Calls that are over leave such words, too, so there may be too many, but
hardly too few: Linux's own "guess" unwinder does the same (arch/x86/kernel/unwind_guess.c).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session

_STACK = 16 << 10  # bytes: a kernel's stack has no more
_LONGEST = 7  # bytes of a call: REX or not, FF /2, ModRM, SIB, disp32 (SDM volume 2A, CALL)
_CALL_NEAR, _GROUP_5 = 0xE8, 0xFF


def guess(session: Session, many: int) -> list[int]:
    """Up to ``many`` return addresses, the latest first."""
    size = session.word
    top = session.subject.regs(session.vcpu).rsp
    found: list[int] = []
    stack = session.some(top, _STACK)
    for at in range(0, len(stack) - size + 1, size):
        if len(found) >= many:
            break
        address = int.from_bytes(stack[at : at + size], "little")
        if session.place(address) and returned_to(session, address):
            found.append(address)
    return found


def returned_to(session: Session, address: int) -> bool:
    """Whether a call ends right before ``address``."""
    before = session.some(address - _LONGEST, _LONGEST)
    return len(before) == _LONGEST and ends_in_call(before)


def ends_in_call(code: bytes) -> bool:
    """Whether the last bytes of 7 can be a near call: E8 and 4 bytes, or FF /2 with what its ModRM asks for."""
    return code[-5] == _CALL_NEAR or any(code[-length] == _GROUP_5 and code[1 - length] >> 3 & 7 == 2 for length in (2, 3, 4, 6, 7))
