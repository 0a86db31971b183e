"""Which of KVM's debugging facilities work on this host, in which CPU modes: found out once per process, by tiny guests.

The capabilities say yes to all of it everywhere. A question costs a millisecond or two per mode on hardware.
"""

from __future__ import annotations

from struct import pack

from pyvmm.boot.cpu import SELECTOR_CODE, SELECTOR_DATA, long_mode, protected_mode, real_mode
from pyvmm.errors import PyvmmError
from pyvmm.kvm import uapi
from pyvmm.layout import PAGE
from pyvmm.probes import CODE, DATA, Bench, Guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REAL, PROTECTED, LONG, RING3 = "real", "protected", "long", "ring 3"
KERNEL = (REAL, PROTECTED, LONG)
ALL = (*KERNEL, RING3)

_HLT = b"\xf4"
_NOP = b"\x90"
_ENABLE = uapi.KVM_GUESTDBG_ENABLE
DR7 = 0x400  # bit 10 is always one (SDM volume 3B, 18.2.4)

_known: dict[tuple[str, str], bool] = {}


def able(what: str, modes: tuple[str, ...] = KERNEL) -> bool:
    """Whether this host's KVM does ``what`` in all of ``modes``.

    Args:
        what: "software breakpoints", "hardware breakpoints", "watchpoints", "steps" and more: the keys of QUESTIONS.
    """
    missing = [mode for mode in modes if (what, mode) not in _known]
    if missing:
        bench = Bench()
        try:
            for mode in missing:
                _known[what, mode] = _ask(bench, what, mode)
        finally:
            bench.close()
    return all(_known[what, mode] for mode in modes)


def _ask(bench: Bench, what: str, mode: str) -> bool:
    try:
        return QUESTIONS[what](bench, mode)
    except PyvmmError:
        return False


def _guest(bench: Bench, mode: str, code: bytes) -> Guest:
    if mode != RING3:
        return bench.guest(real_mode(CODE) if mode == REAL else protected_mode(CODE) if mode == PROTECTED else long_mode(CODE), code)
    state = long_mode(CODE)
    state.cs = state.cs.replace(selector=SELECTOR_CODE | 3, dpl=3)
    state.ss = state.ss.replace(selector=SELECTOR_DATA | 3, dpl=3)
    guest = bench.guest(state, code)
    for at in range(3):  # ring 3 may use the first entry of each level: PML4, PDPT, PD
        table = state.cr3 + at * PAGE
        (entry,) = guest.memory.unpack("<Q", table)
        guest.memory.write(table, pack("<Q", entry | 4))
    return guest


def _debug(bench: Bench, mode: str, code: bytes, control: int, registers: tuple[int, ...] = ()) -> tuple[int, int, int] | None:
    with _guest(bench, mode, code) as guest:
        if mode == REAL:
            guest.memory.write(0, _HLT)  # where an interrupt goes that nobody has intercepted: vector 0000:0000
        guest.vcpu.set_guest_debug(_ENABLE | control, registers)
        return guest.debug_exit()


def _software(bench: Bench, mode: str) -> bool:
    found = _debug(bench, mode, _NOP + b"\xcc" + _HLT, uapi.KVM_GUESTDBG_USE_SW_BP)
    return found is not None and found[:2] == (3, CODE + 1)


def _hardware(bench: Bench, mode: str) -> bool:
    registers = (CODE + 1, 0, 0, 0, 0, 0, 0, DR7 | 2)  # G0: execute, one byte
    found = _debug(bench, mode, 2 * _NOP + _HLT, uapi.KVM_GUESTDBG_USE_HW_BP, registers)
    return found is not None and found[1] == CODE + 1


def _watch(bench: Bench, mode: str) -> bool:
    offset = DATA if mode != REAL else 0x1000
    address = pack("<I", offset) if mode in (PROTECTED, REAL) else pack("<Q", offset)
    code = (b"\x67" if mode == REAL else b"") + b"\xa2" + address + _NOP + _HLT  # mov [DATA], al
    registers = (offset, 0, 0, 0, 0, 0, 0, DR7 | 2 | 1 << 16)  # G0: write, one byte
    found = _debug(bench, mode, code, uapi.KVM_GUESTDBG_USE_HW_BP, registers)
    return found is not None and bool(found[2] & 1)


def _steps(bench: Bench, mode: str) -> bool:
    with _guest(bench, mode, 2 * _NOP + _HLT) as guest:
        for _ in range(3):  # some nested hosts report the first address twice
            guest.vcpu.set_guest_debug(_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP)
            found = guest.debug_exit()
            if found is None or found[1] == CODE + 1:
                break
        return found is not None and found[1] == CODE + 1


def _at_once(bench: Bench, mode: str) -> bool:
    with _guest(bench, mode, 2 * _NOP + _HLT) as guest:
        guest.vcpu.set_guest_debug(_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP)
        found = guest.debug_exit()
        return found is not None and found[1] == CODE + 1


def _halts(bench: Bench, mode: str) -> bool:
    with _guest(bench, mode, _HLT + _NOP) as guest:
        guest.vcpu.set_guest_debug(_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP)
        return guest.run() == uapi.KVM_EXIT_HLT  # there is no interrupt controller


QUESTIONS: dict[str, Callable[[Bench, str], bool]] = {
    "software breakpoints": _software,
    "hardware breakpoints": _hardware,
    "watchpoints": _watch,
    "steps": _steps,
    "steps at once": _at_once,
    "halts in steps": _halts,
}
