"""Commands that change the present: set, type. What came after this moment is forgotten then."""

from __future__ import annotations

from pyvmm.observe.debug import registers
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.commands.memory import SIZES
from pyvmm.observe.debug.commands.settings import SETTINGS, change
from pyvmm.observe.debug.expression import evaluate, number, plain_number
from pyvmm.observe.paging import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session

_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "e": b"\x1b", "0": b"\0", "\\": b"\\", "'": b"'", '"': b'"'}
_LONGEST = 4096


def _set(session: Session, line: Line) -> Reply:
    word, _, rest = line.text.partition(" ")
    if word in SETTINGS and not rest.startswith("=") and "=" not in word:
        return change(session, word, rest.strip(), line.style)
    target, equals, value_text = _halves(line.text.removeprefix("var ").removeprefix("variable "))
    if not equals or not target or not value_text:
        raise CommandError(
            "write it with an equals sign: set $rax = 5, set *(char *)0x7c00 = 0x90, set NAME VALUE for settings", usage=True
        )
    value = number(value_text, session)
    if target.startswith("$") or registers.read(session.subject, session.vcpu, target) is not None and session.symbol(target) is None:
        return _set_register(session, target.lstrip("$").strip(), value)
    return _set_memory(session, target, value, line)


def _halves(text: str) -> tuple[str, str, str]:
    """What stands on both sides of the first "=" that is no "==", "<=" or the like."""
    for at, each in enumerate(text):
        if each == "=" and text[at - 1 : at] not in ("=", "<", ">", "!") and text[at + 1 : at + 2] != "=":
            return text[:at].strip(), "=", text[at + 1 :].strip()
    return text.strip(), "", ""


def _set_register(session: Session, name: str, value: int) -> Reply:
    if registers.read(session.subject, session.vcpu, name) is None:
        if not name.isidentifier():
            raise CommandError(f"${name[:40]} is no name")
        if len(session.variables) >= 1000 and name not in session.variables:
            raise CommandError("there are 1000 variables already")
        session.variables[name] = value
        return Reply(text=f"${name} = {value:#x}", data={name: value})
    registers.write(session.subject, session.vcpu, name, value)
    now = registers.read(session.subject, session.vcpu, name)
    return Reply(text=f"{name} = {now:#x}", data={name: now})


def _set_memory(session: Session, target: str, value: int, line: Line) -> Reply:
    """Memory at a linear address: its size comes from a type, from /b /h /w /g, or is the mode's word."""
    found = evaluate(target, session)
    if found.device:
        raise CommandError(f"{found.device} belongs to a device, whose state cannot be set: write to its registers as the guest would")
    address = found.address if found.address is not None else plain_number(found, target)
    size = found.size if found.address is not None else session.word
    if line.format:
        if line.format not in SIZES:
            raise CommandError(f"/{line.format[:10]} is no size: /b /h /w /g")
        size = SIZES[line.format]
    if value >> 8 * size and value >> 8 * size - 1 != (1 << 65 - 8 * size) - 1:
        raise CommandError(f"{value:#x} does not fit into {size} byte{'s' * (size > 1)}")
    write_linear(session, address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
    return Reply(text=f"{address:#x}: {session.linear(address, size).hex(' ')}", data={"address": address, "size": size})


def write_linear(session: Session, address: int, data: bytes) -> None:
    """Writes linear memory, all or nothing, read-only pages as well. Raises CommandError."""
    sregs, memory = session.subject.sregs(session.vcpu), session.subject.memory
    pieces, done = [], 0
    while done < len(data):
        length = min(len(data) - done, 4096 - (address + done & 0xFFF))
        gpa = walk(memory, sregs, address + done).gpa
        if gpa is None or not memory.contains(gpa, length):
            raise CommandError(session.unreadable(address + done))
        pieces.append((gpa, data[done : done + length]))
        done += length
    for gpa, piece in pieces:
        session.subject.write(gpa, piece)


def _type(session: Session, line: Line) -> Reply:
    if not line.text:
        raise CommandError("give a text: type hello\\n", usage=True)
    if session.type is None:
        raise CommandError("nothing can be typed here: a recording's input is what it was, or the guest has no console on stdio")
    text = line.text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    data = unescape(text)
    if len(data) > _LONGEST:
        raise CommandError(f"{len(data)} bytes are too many at once: {_LONGEST}")
    session.type(data)
    return Reply(
        text=f"{len(data)} byte{'s wait' if len(data) > 1 else ' waits'} at the console for the guest to go on", data={"bytes": len(data)}
    )


def unescape(text: str) -> bytes:
    """``\\n \\r \\t \\e \\xHH \\\\`` as C has them. Raises CommandError."""
    data, at = b"", 0
    while at < len(text):
        each = text[at]
        if each != "\\":
            data += each.encode()
            at += 1
            continue
        kind = text[at + 1 : at + 2]
        if kind == "x":
            digits = text[at + 2 : at + 4]
            if len(digits) != 2 or not all(each in "0123456789abcdefABCDEF" for each in digits):
                raise CommandError(f"\\x wants two hexadecimal digits, not '{digits}'")
            data += bytes.fromhex(digits)
            at += 4
        elif kind in _ESCAPES and kind:
            data += _ESCAPES[kind]
            at += 2
        else:
            raise CommandError(f"\\{kind} is not known: there are \\n \\r \\t \\e \\0 \\xHH \\\\")
    return data


COMMANDS = (
    Command(
        name="set",
        arguments="[/b|/h|/w|/g] $REGISTER = VALUE | ADDRESS = VALUE | SETTING VALUE",
        group="changing",
        run=_set,
        completes=("setting", "register"),
        help="change a register, memory, or how the debugger behaves",
        more="""\
set $rip = main         registers, also parts of them ($eax, $al), cr0 to cr8, efer
set *(short *)0x46c = 0 memory at a linear address; set/b 0x7c00 = 0x90 too
set $n = 5              a variable of your own
set context off         settings: info about them by show""",
    ),
    Command(
        name="type",
        aliases=("send",),
        arguments="TEXT",
        group="changing",
        run=_type,
        help="type to the guest's console: type hello\\n; \\x03 is Ctrl-C",
    ),
)
