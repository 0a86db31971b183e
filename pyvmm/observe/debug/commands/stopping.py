"""Commands about breakpoints: where to stop, and which of them count."""

from __future__ import annotations

from pyvmm.observe.debug.breaks import caution, describe, parse, watched
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply, nearest
from pyvmm.observe.debug.conditions import ADDRESS, READ, WATCH, WRITE, Breakpoint
from pyvmm.observe.debug.expression import evaluate, number, plain_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session


# --- break -----------------------------------------------------------------------------------------------------------
def _break(session: Session, line: Line) -> Reply:
    return _add(session, line, temporary=False)


def _tbreak(session: Session, line: Line) -> Reply:
    return _add(session, line, temporary=True)


def _hbreak(session: Session, line: Line) -> Reply:
    return _add(session, line, temporary=False, hardware=True)


def _add(session: Session, line: Line, temporary: bool, hardware: bool = False) -> Reply:
    text, condition = _split_condition(line.text)
    text, vcpu = _split_vcpu(session, text)
    if not text:
        from pyvmm.observe.debug.views.code import here

        address = here(session)[1]
        breakpoint, extra = Breakpoint(kind=ADDRESS, first=address, last=address, text=f"{address:#x}"), ""
    else:
        breakpoint, extra = parse(session, text)
    if hardware and breakpoint.kind != ADDRESS:
        raise CommandError("hardware breakpoints are for addresses")
    breakpoint.temporary, breakpoint.hardware, breakpoint.vcpu = temporary, hardware, vcpu
    return _added(session, breakpoint, both(extra, condition))


def _split_condition(text: str) -> tuple[str, str]:
    """What stands before and behind ``if``."""
    before, keyword, condition = f" {text} ".partition(" if ")
    if keyword and not condition.strip():
        raise CommandError("a condition must follow 'if'", usage=True)
    return before.strip(), condition.strip()


def _split_vcpu(session: Session, text: str) -> tuple[str, int | None]:
    """Takes ``vcpu N`` (gdb's ``thread N`` counts from 1) off the end."""
    words = text.split()
    if len(words) < 2 or words[-2] not in ("vcpu", "thread") or not words[-1].isdigit():
        return text, None
    vcpu = int(words[-1][:9]) - (words[-2] == "thread")
    if not 0 <= vcpu < session.subject.vcpus:
        raise CommandError(f"there is no vCPU {vcpu}: 0 to {session.subject.vcpus - 1}")
    return " ".join(words[:-2]), vcpu


def _added(session: Session, breakpoint: Breakpoint, condition: str) -> Reply:
    if condition:
        _check_condition(session, condition)
    session.subject.breakpoints.add(breakpoint)
    if condition:
        session.conditions[breakpoint.number] = condition
    if breakpoint.kind == WATCH:
        session.watched[breakpoint.number] = session.some(breakpoint.first, min(breakpoint.last - breakpoint.first + 1, 8))
    text = f"{_title(breakpoint)} {breakpoint.number}: {describe(session, breakpoint)}"
    text += f"\nNote: {caution(breakpoint)}." if caution(breakpoint) else ""
    return Reply(text=text, data={"number": breakpoint.number, "kind": breakpoint.kind, "first": breakpoint.first, "last": breakpoint.last})


def _check_condition(session: Session, text: str) -> None:
    """Raises CommandError for what is no expression. Memory that is not there now may be there later."""
    try:
        plain_number(evaluate(text, session), text)
    except CommandError as error:
        if "not mapped" not in str(error) and "no memory" not in str(error):
            raise


def _title(breakpoint: Breakpoint) -> str:
    kind = "Watchpoint" if breakpoint.kind == WATCH else "Breakpoint"
    return f"Temporary {kind.lower()}" if breakpoint.temporary else kind


def both(one: str, other: str) -> str:
    """Two conditions as one; either may be ""."""
    return f"({one}) && ({other})" if one and other else one or other


# --- watch -----------------------------------------------------------------------------------------------------------
def _watch(session: Session, line: Line) -> Reply:
    return _add_watch(session, line, WRITE)


def _rwatch(session: Session, line: Line) -> Reply:
    return _add_watch(session, line, READ)


def _awatch(session: Session, line: Line) -> Reply:
    return _add_watch(session, line, "")


def _add_watch(session: Session, line: Line, direction: str) -> Reply:
    text, condition = _split_condition(line.text.removeprefix("-l ").removeprefix("-location "))
    if not text:
        raise CommandError("give an address, a symbol or a device register", usage=True)
    breakpoint, extra = watched(session, text, direction)
    return _added(session, breakpoint, both(extra, condition))


# --- those there are ---------------------------------------------------------------------------------------------------
def _numbers(session: Session, line: Line) -> list[Breakpoint]:
    """The user's breakpoints that a command names: "3", "2-4", "1 5"; all without an argument."""
    breakpoints = session.subject.breakpoints
    words = line.text.removeprefix("breakpoints").replace(",", " ").split()
    if not words:
        return [each for each in breakpoints if not each.owner]
    found = []
    for word in words:
        first, dash, last = word.partition("-")
        if not first.isdigit() or dash and not last.isdigit() or len(word) > 20:
            raise CommandError(f"'{word[:40]}' is no breakpoint's number", usage=True)
        for each in range(int(first), min(int(last or first), int(first) + 1000) + 1):
            breakpoint = breakpoints.get(each)
            if breakpoint is None and not dash:
                raise CommandError(f"there is no breakpoint {each}: info breakpoints lists them")
            if breakpoint is not None and breakpoint.owner:
                raise CommandError(f"breakpoint {each} is {breakpoint.owner}'s")
            found += [breakpoint] if breakpoint is not None else []
    return found


def _delete(session: Session, line: Line) -> Reply:
    found = _numbers(session, line)
    for each in found:
        session.subject.breakpoints.remove(each.number)
        session.conditions.pop(each.number, None)
        session.watched.pop(each.number, None)
    return _changed(session, found, "deleted")


def _clear(session: Session, line: Line) -> Reply:
    address = number(line.one("an address").removeprefix("*"), session)
    found = [each for each in session.subject.breakpoints if each.kind == ADDRESS and each.first == address and not each.owner]
    if not found:
        raise CommandError(f"there is no breakpoint at {address:#x}")
    for each in found:
        session.subject.breakpoints.remove(each.number)
    return _changed(session, found, "deleted")


def _enable(session: Session, line: Line) -> Reply:
    return _switch(session, line, True)


def _disable(session: Session, line: Line) -> Reply:
    return _switch(session, line, False)


def _switch(session: Session, line: Line, on: bool) -> Reply:
    found = _numbers(session, line)
    for each in found:
        each.enabled = on
    return _changed(session, found, "enabled" if on else "disabled")


def _changed(session: Session, found: list[Breakpoint], what: str) -> Reply:
    session.subject.breakpoints.changed()
    numbers = [each.number for each in found]
    return Reply(text=f"{what}: {', '.join(map(str, numbers)) or 'there are none'}", data={what: numbers})


def _one(session: Session, word: str) -> Breakpoint:
    found = session.subject.breakpoints.get(int(word[:9])) if word.isdigit() else None
    if found is None:
        close = nearest(word, [str(each.number) for each in session.subject.breakpoints])
        raise CommandError(f"there is no breakpoint '{word[:20]}'" + (f": did you mean {close}?" if close else ""), usage=True)
    return found


def _ignore(session: Session, line: Line) -> Reply:
    words = line.words
    if len(words) != 2:
        raise CommandError("give a breakpoint's number and how many hits to pass over", usage=True)
    found, times = _one(session, words[0]), number(words[1], session)
    found.ignore = min(times, 1 << 40)
    session.subject.breakpoints.changed()
    return Reply(text=f"breakpoint {found.number} passes over its next {found.ignore} hits", data={"ignore": found.ignore})


def _condition(session: Session, line: Line) -> Reply:
    word, _, text = line.text.partition(" ")
    if not word:
        raise CommandError("give a breakpoint's number and an expression", usage=True)
    found, text = _one(session, word), text.strip()
    if not text:
        session.conditions.pop(found.number, None)
        return Reply(text=f"breakpoint {found.number} stops always")
    _check_condition(session, text)
    session.conditions[found.number] = text
    return Reply(text=f"breakpoint {found.number} stops if {text}")


COMMANDS = (
    Command(
        name="break",
        aliases=("b", "br"),
        group="stopping",
        run=_break,
        completes=("symbol", "place", "break"),
        arguments="[ADDRESS | SYMBOL | DEVICE.REGISTER | exit REASON | port P[-Q] | mmio A[-B] | irq LINE | vector N] "
        "[read|write] [VALUE[/MASK]] [vcpu N] [if EXPR]",
        help="stop at an instruction, an exit, a port, a device register, an interrupt",
        more="""\
break main              an address or a symbol: before its instruction is executed (break *0x7c00 too)
break serial0.THR       a device register by name; info devices lists devices, Tab completes registers
break COM1.LSR read     only accesses in one direction (read/in, write/out)
break port 0x3f8-0x3ff  ports; mmio 0xfe000000+0x1000 for guest physical addresses
break port 0x80 write 5 only this value; 0x10/0xf0: only where value & 0xf0 is 0x10
break exit hlt          exits for a reason: io, mmio, hlt, shutdown, ... (info exits counts them)
break irq 4             when a device in user space raises an interrupt line
break vector 14         at the handler that the guest's IDT has for a vector now
break main if $rax > 5  only if an expression is not 0 then; vcpu 1: only there
A breakpoint on an exit stops when the exit is answered. info breakpoints says how each is watched for.""",
    ),
    Command(
        name="tbreak",
        aliases=("tb",),
        arguments="...",
        group="stopping",
        run=_tbreak,
        completes=("symbol", "place", "break"),
        help="break, once",
    ),
    Command(
        name="hbreak",
        aliases=("hb",),
        arguments="ADDRESS",
        group="stopping",
        run=_hbreak,
        completes=("symbol",),
        help="break at an address by a debug register",
    ),
    Command(
        name="watch",
        aliases=("wa",),
        arguments="ADDRESS[, SIZE] | *(TYPE *)ADDRESS | SYMBOL | DEVICE.REGISTER [if EXPR]",
        group="stopping",
        run=_watch,
        completes=("symbol", "place"),
        help="stop behind a write to memory or to a device register",
        more="With reverse-continue: the last write before now.",
    ),
    Command(name="rwatch", arguments="...", group="stopping", run=_rwatch, completes=("symbol", "place"), help="likewise for reads"),
    Command(name="awatch", arguments="...", group="stopping", run=_awatch, completes=("symbol", "place"), help="likewise for both"),
    Command(
        name="delete",
        aliases=("d", "del"),
        arguments="[N | N-M ...]",
        group="stopping",
        run=_delete,
        completes=("breakpoint",),
        standing=False,
        help="delete breakpoints, or all",
    ),
    Command(
        name="clear",
        aliases=("cl",),
        arguments="ADDRESS",
        group="stopping",
        run=_clear,
        completes=("symbol",),
        help="delete the breakpoints at an address",
    ),
    Command(
        name="enable",
        aliases=("en",),
        arguments="[N | N-M ...]",
        group="stopping",
        run=_enable,
        completes=("breakpoint",),
        standing=False,
        help="have breakpoints count again",
    ),
    Command(
        name="disable",
        aliases=("dis",),
        arguments="[N | N-M ...]",
        group="stopping",
        run=_disable,
        completes=("breakpoint",),
        standing=False,
        help="keep breakpoints, but pass over them",
    ),
    Command(
        name="ignore",
        arguments="N COUNT",
        group="stopping",
        run=_ignore,
        completes=("breakpoint",),
        standing=False,
        help="pass over a breakpoint's next hits",
    ),
    Command(
        name="condition",
        aliases=("cond",),
        arguments="N [EXPR]",
        group="stopping",
        run=_condition,
        completes=("breakpoint",),
        help="stop only if an expression is not 0",
    ),
)
