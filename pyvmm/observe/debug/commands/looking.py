"""Commands that show exits and instructions: explain, history, disassemble."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.exits import thaw
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.commands.moving import count
from pyvmm.observe.debug.expression import number
from pyvmm.observe.debug.subject import CRASHED, SubjectError
from pyvmm.observe.debug.views.calls import guess, returned_to
from pyvmm.observe.debug.views.code import here, instructions
from pyvmm.observe.explain.text import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.session import Session

_LINES = 10
_MOST = 10_000


def _explain(session: Session, line: Line) -> Reply:
    which = number(line.text.lstrip("#"), session) if line.text else session.subject.stop.exit or session.at().exit
    if not which:
        raise CommandError("nothing has happened yet: step goes to the first exit")
    explanation = session.subject.explain(which)
    page = render(explanation, line.style.colour)
    head = line.style.rule(f"exit {which}")
    causes = _causes(session, which)
    if causes:
        page += "\n" + "\n".join(line.style.changed(f"  {'cause?' if not number else '':<10}{each}") for number, each in enumerate(causes))
    return Reply(text=f"{head}\n{page}", data={"exit": which} | {name: _plain(value) for name, value in explanation})


def _causes(session: Session, which: int) -> list[str]:
    """What usually makes a guest die like this, when it is there, dead; in lines."""
    from pyvmm.kvm import structs
    from pyvmm.observe.causes import likely
    from pyvmm.observe.explain.text import WIDTH, wrap

    subject = session.subject
    if subject.stop.why != CRASHED or which != session.at().exit:
        return []
    record = subject.exit(which)
    try:
        state = subject.vcpu_state(record.vcpu)
        happened = structs.kvm_vcpu_events.from_buffer_copy(state.events)
        found = likely(thaw(record.frozen), subject.regs(record.vcpu), subject.sregs(record.vcpu), happened, subject.memory)
    except (PyvmmError, ValueError):
        return []
    return [text for each in found for text in wrap(f"- {each}", WIDTH - 12, 2)]


def _plain(value: object) -> object:
    if hasattr(value, "_fields"):
        return {name: _plain(each) for name, each in value}  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _history(session: Session, line: Line) -> Reply:
    """The last exits up to now, or around one, one line each."""
    subject, words = session.subject, line.words
    if len(words) > 2:
        raise CommandError("give how many, and perhaps the exit they end with", usage=True)
    many = min(number(words[0], session), _MOST) if words else _LINES
    if not many:
        raise CommandError("0: give how many exits, from 1", usage=True)
    now = session.at().exit
    last = (
        min(number(words[1], session), subject.last.exit)
        if len(words) > 1
        else min(subject.last.exit, now + (3 if now < subject.last.exit else 0))
    )
    lines, data = [], []
    for which in range(max(last - many + 1, 1), last + 1):
        try:
            record, text = subject.exit(which), subject.explain(which).line
        except SubjectError as error:
            lines.append(f"   {which:>6}  {error}")
            continue
        mark = "=> " if which == now else "   "
        told = text.removeprefix(f"vCPU {record.vcpu}").lstrip(" :")
        told = told if subject.vcpus == 1 else f"[{record.vcpu}] {told}"
        shown = f"{mark}{which:>6} {record.time / 1e6:>9.3f} ms  {told}"
        shown = shown if len(shown) <= line.style.width else shown[: line.style.width - 4] + " ..."
        lines.append(line.style.here(shown) if which == now else shown)
        data.append({"exit": which, "vcpu": record.vcpu, "time": record.time, "text": text})
    if not lines:
        lines.append("no exit is known yet: step goes to the next")
    elif now < subject.last.exit and last < subject.last.exit:
        lines.append(line.style.label(f"   {'':>6}  ... up to exit {subject.last.exit}: there is a future that is known; goto end"))
    return Reply(text="\n".join(lines), data=data)


def _disassemble(session: Session, line: Line) -> Reply:
    """From an address, for a number of instructions, or up to an end."""
    start, end, many = None, None, _LINES
    if line.text:
        first, comma, rest = line.text.partition(",")
        start = number(first.strip().removeprefix("*"), session)
        rest = rest.strip()
        if comma and rest.startswith("+"):
            end = start + number(rest[1:], session)
        elif comma:
            value = number(rest, session)
            end, many = (value, many) if value > start else (None, value)
    if end is not None:
        if not 0 < end - start <= 1 << 16:  # type: ignore[operator]
            raise CommandError("the range is empty or larger than 64 KiB")
        many = end - start  # type: ignore[operator]
    if not 0 < many <= 1 << 16:
        raise CommandError("give a number of instructions from 1 to 1000", usage=True)
    found = [each for each in instructions(session, start, many, line.style) if end is None or each[1].address < end]
    data = [{"address": each.address, "bytes": each.data, "text": each.text} for _, each in found]
    return Reply(text="\n".join(text for text, _ in found), data=data)


def _backtrace(session: Session, line: Line) -> Reply:
    """Follows frame pointers, as long as they look like some; where they do not and there are names, the stack is looked through."""
    many = count(session, line) if line.text else 20
    subject, size = session.subject, session.word
    rip, at = here(session)
    frame = subject.regs(session.vcpu).rbp
    lines = [f"#0  {at:#x}{session.place(at)}"]
    data: list[dict[str, Any]] = [{"address": at, "place": session.place(at)}]
    while len(lines) < min(many, 200) and frame:
        try:
            following, back = session.load(frame, size), session.load(frame + size, size)
        except PyvmmError:
            break
        if not back or following <= frame and following:
            break
        lines.append(f"#{len(lines):<3}{back:#x}{session.place(back)}")
        data.append({"address": back, "place": session.place(back)})
        frame = following
    note = "(by frame pointers: code compiled without them shows fewer or others)"
    if session.symbols is not None and (len(data) < 2 or not returned_to(session, data[1]["address"])):
        guessed = guess(session, min(many, 200) - 1)
        if guessed:
            note = "(no frame pointers: what on the stack lies behind a call; some may be of calls that are over)"
            del lines[1:], data[1:]
            lines += [f"#{number:<3}{back:#x}{session.place(back)}" for number, back in enumerate(guessed, 1)]
            data += [{"address": back, "place": session.place(back), "guessed": True} for back in guessed]
    return Reply(text="\n".join([*lines, line.style.label(note)]), data=data)


COMMANDS = (
    Command(
        name="explain",
        aliases=("e", "ex", "why"),
        arguments="[EXIT]",
        run=_explain,
        help="an exit in words: what the kernel saw, why it asked, which member says what, what changed, what comes next",
    ),
    Command(
        name="history",
        aliases=("h", "hist"),
        arguments="[N [LAST]]",
        run=_history,
        help="the last exits, one line each; => marks now",
    ),
    Command(
        name="disassemble",
        aliases=("disas", "l", "list"),
        arguments="[ADDRESS][, END | , +BYTES | , COUNT]",
        completes=("symbol",),
        run=_disassemble,
        help="instructions from where the vCPU is, or from an address",
    ),
    Command(
        name="backtrace",
        aliases=("bt",),
        arguments="[N]",
        run=_backtrace,
        help="who called whom, by frame pointers, else by what is on the stack",
    ),
)
