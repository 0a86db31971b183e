"""Commands that look at numbers and memory: print, x, xp, pagewalk."""

from __future__ import annotations

import re

from pyvmm.errors import GuestFault
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.expression import ALL, Value, evaluate, number
from pyvmm.observe.debug.style import printable
from pyvmm.observe.debug.views.code import instructions
from pyvmm.observe.debug.views.pages import page_walk
from pyvmm.observe.explain.layout import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.observe.debug.session import Session

_FORMAT = re.compile(r"(\d*)([a-zA-Z]*)")
SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
_MOST = 65536  # units
_LETTERS = "xduotcasiz"
_STRING_MOST = 4096


# --- print -----------------------------------------------------------------------------------------------------------
def _signed(value: int, size: int) -> int:
    bits = 8 * size
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def _char(value: int) -> str:
    return f"{value & 0xFF} '{chr(value & 0xFF) if 0x20 <= value & 0xFF < 0x7F else '.'}'"


_SHOW: dict[str, Callable[[int, int], str]] = {
    "x": lambda value, size: f"{value:#x}",
    "z": lambda value, size: f"{value:#0{2 + 2 * size}x}",
    "d": lambda value, size: str(_signed(value, size)),
    "u": lambda value, size: str(value),
    "o": lambda value, size: f"{value:#o}",
    "t": lambda value, size: f"{value:b}",
    "c": lambda value, size: _char(value),
    "a": lambda value, size: f"{value:#x}",
}


def _print(session: Session, line: Line) -> Reply:
    """An expression, or a device's state."""
    if not line.text:
        if not session.values:
            raise CommandError("give an expression", usage=True)
        value = Value(number=session.values[-1])
    else:
        value = evaluate(line.text, session)
    if value.thing is not None:
        return Reply(text=_thing(value.device, value.thing), data=plain(value.thing))
    if value.variable and not value.register:
        raise CommandError(f"${value.variable} is neither a register nor a variable: set ${value.variable} = ... makes it one")
    letter = line.format[-1:].lower()
    if letter and letter not in _SHOW or line.format[:-1].strip("0123456789"):
        raise CommandError(f"/{line.format[:10]} is no format: {' '.join('/' + each for each in _SHOW)}")
    size = value.size if value.address is not None and value.size else 8
    if letter:
        shown = _SHOW[letter](value.number, size) + (session.place(value.number) if letter == "a" else "")
    else:
        shown = f"{value.number:#x}" + (f" ({value.number})" if value.number > 9 else "") + session.place(value.number)
    which = session.remember(value.number)
    return Reply(text=f"${which} = {shown}", data={"value": value.number, "address": value.address})


def _thing(name: str, thing: Any) -> str:
    if isinstance(thing, dict):
        width = max((len(str(each)) for each in thing), default=0)
        return "\n".join(f"{key!s:<{width}}  {_short(value)}" for key, value in thing.items()) or f"{name} has no state"
    return _short(thing, 4096)


def _short(value: Any, most: int = 90) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:#x}" + (f" ({value})" if value > 9 else "")
    if isinstance(value, (bytes, bytearray)):
        text = f"{len(value)} bytes: {bytes(value[: most // 3]).hex(' ')}" if value else "empty"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {_short(each, 20)}" for key, each in list(value.items())[:64]) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(_short(each, 40) for each in value[:64]) + "]"
    else:
        text = printable(str(value))
    return text if len(text) <= most else text[: most - 4] + " ..."


# --- x ---------------------------------------------------------------------------------------------------------------
def _x(session: Session, line: Line) -> Reply:
    return _examine(session, line, physical=False)


def _xp(session: Session, line: Line) -> Reply:
    return _examine(session, line, physical=True)


def parse_format(text: str, word: int) -> tuple[int, str, int]:
    """ "8xb" as (8, "x", 1); the letter is x and the size the mode's word where nothing is said. Raises CommandError."""
    match = _FORMAT.fullmatch(text)
    if not match or len(match[1]) > 6:
        raise CommandError(f"/{text[:20]} is no format: a count, one of {_LETTERS}, a size of {''.join(SIZES)} (x/8xb, x/10i, x/s)")
    many, letter, size = int(match[1] or 1), "x", word
    for each in match[2].lower():
        if each in SIZES:
            size = SIZES[each]
        elif each in _LETTERS:
            letter = each
        else:
            raise CommandError(f"/{text[:20]}: '{each}' is neither a format ({_LETTERS}) nor a size ({''.join(SIZES)})")
    if letter == "a":
        size = word
    if letter == "c" and not set(match[2].lower()) & set(SIZES):
        size = 1
    if not 0 < many <= _MOST:
        raise CommandError(f"/{text[:20]}: from 1 to {_MOST} units")
    return many, letter, size


def _examine(session: Session, line: Line, physical: bool) -> Reply:
    name = "xp" if physical else "x"
    format_ = line.format or (session.examined[0].partition("/")[2] if session.examined is not None else "")
    many, letter, size = parse_format(format_, session.word)
    if not line.text:
        if session.examined is not None and session.examined[0].startswith(f"{name}/"):
            address = session.examined[1]
        elif letter == "i" and not physical:
            address = number("$pc", session)
        else:
            raise CommandError("give an address", usage=True)
    else:
        value = evaluate(line.text, session)
        if value.thing is not None:
            raise CommandError(f"{line.text[:40]} is a device's state: print shows it")
        address = value.address if value.address is not None and line.text.startswith("&") else number(line.text, session)
    show = {"i": _show_code, "s": _show_strings}.get(letter, _show_units)
    if physical and show is _show_code:
        raise CommandError("instructions are at linear addresses: x/i")
    lines, data, end = show(session, address, many, letter, size, physical, line)
    session.examined = (f"{name}/{format_ or 'x'}", end & ALL)
    return Reply(text="\n".join(lines), data=data)


def _read(session: Session, address: int, length: int, physical: bool) -> bytes:
    """What is there of it. CommandError when nothing is."""
    if physical:
        memory = session.subject.memory
        while length and not memory.contains(address, length):
            length >>= 1
        if not length:
            raise CommandError(f"guest physical {address:#x} is outside RAM")
        try:
            return memory.read(address, length)
        except GuestFault as fault:
            raise CommandError(str(fault)) from None
    data = session.some(address, length)
    if not data:
        raise CommandError(session.unreadable(address))
    return data


def _show_units(
    session: Session, address: int, many: int, letter: str, size: int, physical: bool, line: Line
) -> tuple[list[str], Any, int]:
    data = _read(session, address, many * size, physical)
    per_line = {1: 16 if letter in "xz" else 8, 2: 8, 4: 4, 8: 2}[size]
    values = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) - size + 1, size)]
    letter = "z" if letter == "x" else letter
    lines = []
    for first in range(0, len(values), per_line):
        row = values[first : first + per_line]
        at = address + first * size & ALL
        shown = [_SHOW[letter](each, size) + (session.place(each) if letter == "a" else "") for each in row]
        if size == 1 and letter == "z":
            text = "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in row)
            lines.append(f"{at:#x}{'' if physical else session.place(at)}:  {' '.join(f'{each:02x}' for each in row):<47}  {text}")
        else:
            width = max(len(each) for each in shown)
            lines.append(f"{at:#x}{'' if physical else session.place(at)}:  {'  '.join(f'{each:>{width}}' for each in shown)}")
    if len(data) < many * size:
        at = address + len(data) & ALL
        lines.append(f"and no further: {f'guest physical {at:#x} is outside RAM' if physical else session.unreadable(at)}")
    return lines, {"address": address, "values": values}, address + many * size


def _show_code(session: Session, address: int, many: int, letter: str, size: int, physical: bool, line: Line) -> tuple[list[str], Any, int]:
    found = instructions(session, address, many, line.style)
    last = found[-1][1]
    data = [{"address": each.address, "bytes": each.data, "text": each.text} for _, each in found]
    return [text for text, _ in found], data, last.address + len(last.data)


def _show_strings(
    session: Session, address: int, many: int, letter: str, size: int, physical: bool, line: Line
) -> tuple[list[str], Any, int]:
    lines, data = [], []
    for _ in range(min(many, 200)):
        text = _read(session, address, _STRING_MOST, physical).split(b"\0")[0]
        lines.append(f'{address:#x}:  "{_escaped(text)}"')
        data.append({"address": address, "text": text.decode("latin-1")})
        address += len(text) + 1
    return lines, data, address


def _escaped(data: bytes) -> str:
    short = {10: "\\n", 13: "\\r", 9: "\\t", 34: '\\"', 92: "\\\\"}
    text = "".join(short.get(each) or (chr(each) if 0x20 <= each < 0x7F else f"\\x{each:02x}") for each in data[:200])
    return text + ("..." if len(data) > 200 else "")


# --- pagewalk --------------------------------------------------------------------------------------------------------
def _pagewalk(session: Session, line: Line) -> Reply:
    if not line.text:
        raise CommandError("give a linear address: $pc, main, 0xffffffff81000000", usage=True)
    lines, data = page_walk(session, number(line.text.removeprefix("*"), session), line.style)
    return Reply(text="\n".join(lines), data=data)


COMMANDS = (
    Command(
        name="print",
        aliases=("p", "inspect", "call", "output"),
        arguments="[/FMT] EXPRESSION",
        completes=("expression",),
        run=_print,
        help="the value of an expression, or a device's state",
        more="""\
print $rax + 8          registers; print/d signed, /u unsigned, /t binary, /o octal, /c character, /a with symbol
print *(short *)0x46c   memory at a linear address, as char, short, int, long, u8 ... u64
print serial0           a device's state; print serial0.lcr one field of it
print $1 * 2            values printed before: $1, $2, ...; $ is the last""",
    ),
    Command(
        name="x",
        arguments="[/FMT] ADDRESS",
        completes=("expression",),
        run=_x,
        repeats=True,
        help="memory at a linear address: x/8xb, x/4xg, x/10i instructions, x/s texts; once more: what follows",
        more="FMT is a count, a letter (x d u o t c a s i) and a size (b 1, h 2, w 4, g 8 bytes).",
    ),
    Command(
        name="xp", arguments="[/FMT] ADDRESS", completes=("expression",), run=_xp, repeats=True, help="memory at a guest physical address"
    ),
    Command(
        name="pagewalk",
        aliases=("walk", "pw", "translate", "gva2gpa"),
        arguments="ADDRESS",
        completes=("expression",),
        run=_pagewalk,
        help="a linear address through the guest's page tables: every level's entry and bits",
    ),
)
