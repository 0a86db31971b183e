"""What ``break`` can be given, as breakpoints; and breakpoints in words again."""

from __future__ import annotations

from pyvmm.exits import exit_name
from pyvmm.observe.debug.command import CommandError
from pyvmm.observe.debug.conditions import ADDRESS, EXIT, LINE, MMIO, PORT, READ, WATCH, WRITE, Breakpoint
from pyvmm.observe.debug.exit_names import exit_number
from pyvmm.observe.debug.expression import ALL, number, plain_number, prefix
from pyvmm.observe.debug.vectors import handler
from pyvmm.observe.explain.layout import kernel_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.debug.session import Session

_MOST_WATCHED = 4096  # bytes
_PINS = 24  # of the I/O APIC: interrupt lines a device can have
_DIRECTIONS = {
    "read": READ, "r": READ, "in": READ, "load": READ, "write": WRITE, "w": WRITE, "out": WRITE, "store": WRITE,
    "access": "", "rw": "", "any": "",
}  # fmt: skip
_KINDS: dict[str, tuple[str, ...]] = {
    "exit": ("exit",), "port": ("port", "pio", "io"), "mmio": ("mmio",), "irq": ("irq", "line", "gsi"),
    "vector": ("vector", "interrupt", "int"), "vcpu": (),
}  # fmt: skip


def parse(session: Session, text: str) -> tuple[Breakpoint, str]:
    """What ``break`` takes: (the breakpoint, an expression that must hold for it too, or ""). Raises CommandError."""
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    for kind, names in _KINDS.items():
        if word.lower() in names and (rest or session.symbol(word) is None):
            return _PARSERS[kind](session, text, rest)
    place = session.places.find(word) if session.symbol(text) is None else None
    if place is not None:
        direction, value, mask = _filter(session, rest, place.direction)
        found = Breakpoint(kind=place.kind, first=place.first, last=place.last, direction=direction, value=value, mask=mask, text=text)
        return found, place.condition
    address = number(text.removeprefix("*"), session)
    return Breakpoint(kind=ADDRESS, first=address, last=address, text=text.removeprefix("*")), ""


def _exit(session: Session, text: str, rest: str) -> tuple[Breakpoint, str]:
    if not rest:
        raise CommandError("which exit? hlt, io, mmio, shutdown, ... or a number", usage=True)
    reason = exit_number(rest)
    return Breakpoint(kind=EXIT, first=reason, last=reason, text=text), ""


def _port(session: Session, text: str, rest: str) -> tuple[Breakpoint, str]:
    return _range(session, text, rest, PORT, 0xFFFF)


def _mmio(session: Session, text: str, rest: str) -> tuple[Breakpoint, str]:
    return _range(session, text, rest, MMIO, ALL)


def _range(session: Session, text: str, rest: str, kind: str, limit: int) -> tuple[Breakpoint, str]:
    """``FIRST[-LAST|+LENGTH] [read|write] [VALUE[/MASK]]``"""
    words = rest.split()
    if not words:
        raise CommandError(f"which {'port' if kind == PORT else 'guest physical address'}?", usage=True)
    first_text, dash, last_text = words[0].partition("-")
    first_text, plus, length_text = first_text.partition("+") if not dash else (first_text, "", "")
    first = number(first_text, session)
    last = number(last_text, session) if dash else first + number(length_text, session) - 1 if plus else first
    if not first <= last <= limit:
        raise CommandError(f"{words[0][:40]} is no range of {'ports' if kind == PORT else 'addresses'} up to {limit:#x}")
    direction, value, mask = _filter(session, " ".join(words[1:]), "")
    return Breakpoint(kind=kind, first=first, last=last, direction=direction, value=value, mask=mask, text=text), ""


def _irq(session: Session, text: str, rest: str) -> tuple[Breakpoint, str]:
    line = number(rest, session) if rest else -1
    if not 0 <= line < _PINS:
        raise CommandError(f"which interrupt line? 0 to {_PINS - 1}: 4 is COM1's, 0 the timer's", usage=True)
    return Breakpoint(kind=LINE, first=line, last=line, text=text), ""


def _vector(session: Session, text: str, rest: str) -> tuple[Breakpoint, str]:
    vector = number(rest, session) if rest else -1
    if not 0 <= vector < 256:
        raise CommandError("which vector? 0 to 255: 14 is the page fault", usage=True)
    address = handler(session, vector)
    return Breakpoint(kind=ADDRESS, first=address, last=address, text=f"vector {vector:#x}, handler{session.place(address)}"), ""


_PARSERS: dict[str, Callable[[Session, str, str], tuple[Breakpoint, str]]] = {
    "exit": _exit, "port": _port, "mmio": _mmio, "irq": _irq, "vector": _vector,
}  # fmt: skip


def _filter(session: Session, text: str, direction: str) -> tuple[str, int | None, int]:
    """``[read|write] [[=]VALUE[/MASK]]``: (direction, value, mask)."""
    words = text.replace("==", " ").replace("=", " ").split()
    if words and words[0].lower() in _DIRECTIONS:
        direction = _DIRECTIONS[words.pop(0).lower()]
    if not words:
        return direction, None, ALL
    if len(words) > 1:
        raise CommandError(f"'{' '.join(words)[:40]}' is not understood", usage=True)
    value, slash, mask = words[0].partition("/")
    return direction, number(value, session), number(mask, session) if slash else ALL


def watched(session: Session, text: str, direction: str) -> tuple[Breakpoint, str]:
    """What ``watch`` takes: likewise. Raises CommandError."""
    place = session.places.find(text) if session.symbol(text) is None else None
    if place is not None:
        if place.direction and direction not in ("", place.direction):
            only, how = ("read", "rwatch") if place.direction == READ else ("written", "watch")
            raise CommandError(f"{text} is only {only}: {how} stops at that")
        found = Breakpoint(kind=place.kind, first=place.first, last=place.last, direction=direction, text=text)
        return found, place.condition
    value, rest = prefix(text, session)
    address = value.address if value.address is not None else plain_number(value, text)
    if value.register and value.address is None and not rest:
        raise CommandError(f"${value.register} is a register: its value is an address only if you say so: watch *${value.register}")
    size = value.size or session.word
    if rest:
        size = number(rest.removeprefix(",").removeprefix("+"), session)
    if not 0 < size <= _MOST_WATCHED:
        raise CommandError(f"{size} bytes: from 1 to {_MOST_WATCHED} can be watched")
    return Breakpoint(kind=WATCH, first=address, last=address + size - 1, direction=direction, text=text), ""


def describe(session: Session, each: Breakpoint) -> str:
    """What one stops at, in words."""
    if each.kind == ADDRESS:
        text = f"{each.first:#x}{session.place(each.first)}"
        if each.text.startswith("vector"):
            text = f"{each.text} at {text}"
    elif each.kind == WATCH:
        what = {READ: "read of", WRITE: "write to", "": "access to"}[each.direction]
        text = f"{what} {plural(each.last - each.first + 1)} at {each.first:#x}{session.place(each.first)}"
    elif each.kind == EXIT:
        text = f"exits of {exit_name(each.first)}"
    elif each.kind == LINE:
        text = f"interrupt line {each.first} going up"
    else:
        span = f"{each.first:#x}" + (f"-{each.last:#x}" if each.last != each.first else "")
        what = {READ: "read of", WRITE: "write to", "": "access to"}[each.direction]
        who = session.places.at(each.kind, each.first, each.direction)
        text = f"{what} {'port' if each.kind == PORT else 'guest physical'} {span}" + (f", {who}" if who else ", where nobody answers")
    if each.value is not None:
        text += f", value {each.value:#x}" + (f" under mask {each.mask:#x}" if each.mask != ALL else "")
    return text + (f", vCPU {each.vcpu} only" if each.vcpu is not None else "")


def caution(each: Breakpoint) -> str:
    """Why one may never be hit, "" as a rule."""
    if each.kind not in (PORT, MMIO):
        return ""
    if each.text.rpartition(".")[2].lower().replace("_", "") == "queuenotify":
        return "an ioeventfd takes doorbells without an exit: give the device ioeventfd=off to see them"
    kernel = kernel_range("pio" if each.kind == PORT else "mmio", each.first)
    return f"{kernel.who} answers there in the kernel, without an exit, unless {kernel.leaves}" if kernel is not None else ""


def plural(count: int) -> str:
    """ "1 byte"."""
    return f"{count} byte{'s' * (count != 1)}"
