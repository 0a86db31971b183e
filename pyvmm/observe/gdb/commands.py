"""Packets and what they do (GDB manual E.2 Packets). Queries, which do nothing, are in ``queries``.

A handler takes the session and what follows the packet's name; it returns the reply, or None when there is none yet.
"""

from __future__ import annotations

import re

from pyvmm.observe.gdb import framing, queries
from pyvmm.observe.gdb.target import BREAKPOINTS, CONTINUE, STEP, TargetError
from pyvmm.observe.gdb.words import Malformed, number, numbers, thread, unhex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.gdb.session import Session

    Handler = Callable[[Session, bytes], bytes | None]

_MEMORY_FAULT = b"E0e"  # EFAULT: the one error whose form gdb insists on
_BREAKPOINTS_MAX = 4096
_NAME = re.compile(rb"[a-zA-Z]+\??")


def find(packet: bytes) -> tuple[Handler | None, bytes, bool]:
    """(handler or None, what follows the name, whether the machine must stand still for it)."""
    if packet[:1] in (b"q", b"Q", b"v", b"b"):
        match = _NAME.match(packet)
        name = match[0] if match else packet[:1]
        rest = packet[len(name) :]
        if rest[:1] in (b":", b";", b","):
            rest = rest[1:]
    else:
        name, rest = packet[:1], packet[1:]
    handler, needs_stop = _HANDLERS.get(name, (None, False))
    return handler, rest, needs_stop


# --- registers -----------------------------------------------------------------------------------------------------------
def _read_registers(session: Session, body: bytes) -> bytes:
    values = session.target.read_registers(session.selected)
    return b"".join(
        _shown(each.encode(values[each.source])) if each.source in values else b"xx" * (each.bits // 8) for each in session.registers
    )


def _write_registers(session: Session, body: bytes) -> bytes:
    before = session.target.read_registers(session.selected)
    changes = {}
    at = 0
    for each in session.registers:
        digits = body[at : at + each.bits // 4]
        at += each.bits // 4
        if digits and digits == b"x" * len(digits):
            continue
        data = unhex(digits)
        if len(data) * 8 != each.bits:
            raise Malformed
        if data != each.encode(before.get(each.source)):
            changes[each.source] = int.from_bytes(data, "little")
    if at != len(body):
        raise Malformed
    if changes:
        session.target.write_registers(session.selected, changes)
    return b"OK"


def _read_register(session: Session, body: bytes) -> bytes:
    index = number(body)
    if index >= len(session.registers):
        return b"E01"
    register = session.registers[index]
    value = session.target.read_registers(session.selected).get(register.source)
    return b"xx" * (register.bits // 8) if value is None else _shown(register.encode(value))


def _write_register(session: Session, body: bytes) -> bytes:
    index, equals, digits = body.partition(b"=")
    data = unhex(digits)
    if not equals or number(index) >= len(session.registers):
        raise Malformed
    register = session.registers[number(index)]
    if len(data) * 8 != register.bits:
        raise Malformed
    session.target.write_registers(session.selected, {register.source: int.from_bytes(data, "little")})
    return b"OK"


def _shown(data: bytes) -> bytes:
    return data.hex().encode()


# --- memory --------------------------------------------------------------------------------------------------------------
def _read_memory(session: Session, body: bytes) -> bytes:
    address, length = numbers(body)
    length = min(length, framing.PACKET_SIZE // 2, (1 << 64) - address)
    if not length:
        return b""
    try:
        data = session.target.read_memory(session.selected, address, length)[:length]
    except TargetError:
        return _MEMORY_FAULT
    return _shown(data) if data else _MEMORY_FAULT


def _write_memory(session: Session, body: bytes) -> bytes:
    place, _, digits = body.partition(b":")
    return _write(session, place, unhex(digits))


def _write_binary(session: Session, body: bytes) -> bytes:
    place, _, data = body.partition(b":")
    return _write(session, place, framing.unescape(data))


def _write(session: Session, place: bytes, data: bytes) -> bytes:
    address, length = numbers(place)
    if length != len(data):
        raise Malformed
    if address + length > 1 << 64:
        return _MEMORY_FAULT
    try:
        if data:  # X with none asks whether we know X
            session.target.write_memory(session.selected, address, data)
    except TargetError:
        return _MEMORY_FAULT
    return b"OK"


# --- breakpoints ---------------------------------------------------------------------------------------------------------
def _insert(session: Session, body: bytes) -> bytes:
    point = _breakpoint(body)
    if point is None:
        return b""
    if point not in session.breakpoints:  # gdb may repeat itself after a lost acknowledgement
        if len(session.breakpoints) >= _BREAKPOINTS_MAX:
            raise TargetError("too many breakpoints")
        try:
            session.target.insert_breakpoint(*point)
        except TargetError as problem:
            session.say(f"{point[0]} breakpoint at {point[1]:#x}: {problem}")  # gdb keeps the words of an error to itself here
            raise
        session.breakpoints.add(point)
    return b"OK"


def _remove(session: Session, body: bytes) -> bytes:
    point = _breakpoint(body)
    if point is None:
        return b""
    if point in session.breakpoints:
        session.breakpoints.discard(point)
        session.target.remove_breakpoint(*point)
    return b"OK"


def _breakpoint(body: bytes) -> tuple[str, int, int] | None:
    kind, _, place = body.partition(b",")
    if number(kind) >= len(BREAKPOINTS):
        return None
    if b";" in place:
        raise TargetError("conditions are gdb's to check")
    address, length = numbers(place)
    return BREAKPOINTS[number(kind)], address, length


# --- run -----------------------------------------------------------------------------------------------------------------
def _continue(session: Session, body: bytes) -> None:
    _go_to(session, body)
    session.resume(dict.fromkeys(range(session.target.vcpus()), CONTINUE))


def _step(session: Session, body: bytes) -> None:
    _go_to(session, body)
    session.resume({_chosen(session): STEP})


def _continue_signal(session: Session, body: bytes) -> None:
    signal, _, address = body.partition(b";")  # a machine takes no signal of gdb's
    number(signal)
    _continue(session, address)


def _step_signal(session: Session, body: bytes) -> None:
    signal, _, address = body.partition(b";")
    number(signal)
    _step(session, address)


def _go_to(session: Session, body: bytes) -> None:
    if body:
        session.target.write_registers(_chosen(session), {"rip": number(body)})


def _chosen(session: Session) -> int:
    return session.selected if session.resumed < 0 else session.resumed


def _resume(session: Session, body: bytes) -> None:
    """``vCont``: the leftmost action whose thread matches counts, for each vCPU."""
    count = session.target.vcpus()
    actions: dict[int, str] = {}
    ranges: dict[int, tuple[int, int]] = {}
    for each in body.split(b";"):
        action, colon, who = each.partition(b":")
        chosen = thread(who) if colon else -1
        letter, rest = action[:1], action[1:]
        if letter not in (b"c", b"C", b"s", b"S", b"r") or (letter in b"cs" and rest):
            raise Malformed
        span = numbers(rest) if letter == b"r" else None
        if letter in b"CS":
            number(rest)
        for vcpu in range(count):
            if vcpu not in actions and chosen in (-1, 0, vcpu + 1):
                actions[vcpu] = CONTINUE if letter in b"cC" else STEP
                if span is not None:
                    ranges[vcpu] = span
    if not actions:
        raise TargetError("no such vCPU")
    session.resume(actions, ranges)


def _reverse_step(session: Session, body: bytes) -> bytes | None:
    if body or not session.target.reversible:
        return b""
    vcpu = _chosen(session)
    session.run(lambda stopped: session.target.reverse_step(vcpu, stopped))
    return None


def _reverse_continue(session: Session, body: bytes) -> bytes | None:
    if body or not session.target.reversible:
        return b""
    session.run(session.target.reverse_continue)
    return None


# --- threads and the session itself --------------------------------------------------------------------------------------
def _select(session: Session, body: bytes) -> bytes:
    chosen = thread(body[1:])
    if chosen > session.target.vcpus():
        return b"E01"
    if body[:1] == b"g":
        session.selected = chosen - 1 if chosen > 0 else session.selected
    elif body[:1] == b"c":
        session.resumed = chosen - 1 if chosen > 0 else -1
    else:
        raise Malformed
    return b"OK"


def _alive(session: Session, body: bytes) -> bytes:
    return b"OK" if 0 < thread(body) <= session.target.vcpus() else b"E01"


def _why(session: Session, body: bytes) -> bytes:
    if session.running:
        raise TargetError("the guest is running")
    return session.stop_reply()


def _extended(session: Session, body: bytes) -> bytes:
    return b"OK"


def _attach(session: Session, body: bytes) -> bytes:
    if session.attached:
        raise TargetError("attached already")
    session.attach()
    return session.stop_reply()


def _detach(session: Session, body: bytes) -> bytes:
    if session.attached:
        session.detach()
    return b"OK"


def _kill(session: Session, body: bytes) -> bytes:
    session.over = True
    if session.attached:
        session.kill()
    return b"X09"  # gdb waits for nothing, LLDB for this


def _kill_process(session: Session, body: bytes) -> bytes:
    if session.attached:
        session.kill()
    return b"OK"


def _run(session: Session, body: bytes) -> bytes:
    raise TargetError("a machine is not run from gdb: end pyvmm and start it again")


def _restart(session: Session, body: bytes) -> None:
    """No reply belongs to it (E.2), not even that it is not known."""


def _no_acks(session: Session, body: bytes) -> None:
    session.stop_acknowledging()


def _unknown(session: Session, body: bytes) -> bytes:
    return b""  # vMustReplyEmpty


_STILL: dict[bytes, Handler] = {
    b"g": _read_registers,
    b"G": _write_registers,
    b"p": _read_register,
    b"P": _write_register,
    b"m": _read_memory,
    b"M": _write_memory,
    b"X": _write_binary,
    b"Z": _insert,
    b"z": _remove,
    b"c": _continue,
    b"C": _continue_signal,
    b"s": _step,
    b"S": _step_signal,
    b"vCont": _resume,
    b"bs": _reverse_step,
    b"bc": _reverse_continue,
    b"qRcmd": queries.monitor,
}
_ALWAYS: dict[bytes, Handler] = {
    b"H": _select,
    b"T": _alive,
    b"?": _why,
    b"!": _extended,
    b"D": _detach,
    b"k": _kill,
    b"vKill": _kill_process,
    b"vAttach": _attach,
    b"vRun": _run,
    b"R": _restart,
    b"vMustReplyEmpty": _unknown,
    b"QStartNoAckMode": _no_acks,
    **queries.HANDLERS,
}
_HANDLERS: dict[bytes, tuple[Handler | None, bool]] = {
    **{name: (handler, True) for name, handler in _STILL.items()},
    **{name: (handler, False) for name, handler in _ALWAYS.items()},
}
