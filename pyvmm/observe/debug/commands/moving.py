"""Commands that walk through time: by exits, by instructions, to a moment, in both directions."""

from __future__ import annotations

from pyvmm.observe.debug.breaks import watched
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.conditions import ADDRESS, WRITE, Breakpoint
from pyvmm.observe.debug.expression import number
from pyvmm.observe.debug.subject import BREAKPOINT, Moment, Stop
from pyvmm.observe.debug.views.code import decoded, here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session

_MOST = 1_000_000_000
# what a call-like instruction is called: `nexti` runs to behind it
_OVER = ("call", "lcall", "int", "syscall", "sysenter", "rep", "repe", "repne", "loop", "loope", "loopne")


def count(session: Session, line: Line) -> int:
    """How often: the only argument, 1 without one. Raises CommandError."""
    if not line.text:
        return 1
    value = number(line.text, session)
    if not 0 < value <= _MOST:
        raise CommandError(f"{line.text[:40]}: give a number from 1 to {_MOST}", usage=True)
    return value


def _step(session: Session, line: Line) -> Reply:
    times = count(session, line)
    if times == 1 or not session.hooks.on_exit:
        return session.move(lambda: session.subject.step(times), line.style)

    def one_by_one() -> Stop:
        for _ in range(times):
            stop = session.subject.step(1)
            if stop.why != "exit" or session.hooks.exit(session, stop):
                break
        return stop

    return session.move(one_by_one, line.style)


def _stepi(session: Session, line: Line) -> Reply:
    times = count(session, line)
    return session.move(lambda: session.subject.step_instructions(session.vcpu, times), line.style)


def _nexti(session: Session, line: Line) -> Reply:
    times = count(session, line)

    def over() -> Stop:
        for _ in range(times):
            stop = _over_one(session)
            if stop.why not in ("stepped", BREAKPOINT) or stop.hits:
                break
        return stop

    return session.move(over, line.style)


def _over_one(session: Session) -> Stop:
    """One instruction; of a call, all that it calls."""
    subject, vcpu = session.subject, session.vcpu
    _, at = here(session)
    found = decoded(session, at, 1)
    if not found or found[0].mnemonic.split()[0] not in _OVER:
        return subject.step_instructions(vcpu, 1)
    return _run_to(session, at + len(found[0].data), vcpu)


def _run_to(session: Session, address: int, vcpu: int | None) -> Stop:
    """Runs with a breakpoint of its own, which is gone afterwards and not told of."""
    breakpoints = session.subject.breakpoints
    own = breakpoints.add(Breakpoint(kind=ADDRESS, first=address, last=address, vcpu=vcpu, temporary=True, text=f"{address:#x}"))
    try:
        stop = session.run()
    finally:
        breakpoints.remove(own.number)
    return stop.replace(hits=[each for each in stop.hits if each != own.number])


def _until(session: Session, line: Line) -> Reply:
    if not line.text:
        raise CommandError("give an address", usage=True)
    address = number(line.text.removeprefix("*"), session)
    return session.move(lambda: _run_to(session, address, None), line.style, running=True)


def _continue(session: Session, line: Line) -> Reply:
    if line.text:
        times = count(session, line)
        if not session.subject.stop.hits:
            raise CommandError("no breakpoint has been hit that could be passed over", usage=True)
        for each in session.subject.stop.hits:
            found = session.subject.breakpoints.get(each)
            if found is not None:
                found.ignore = times - 1
        session.subject.breakpoints.changed()
    return session.move(session.run, line.style, again=True, running=True)


def _back(session: Session, line: Line) -> Reply:
    times = count(session, line)
    return session.move(lambda: session.subject.back(times), line.style)


def _reverse_stepi(session: Session, line: Line) -> Reply:
    times = count(session, line)
    return session.move(lambda: session.subject.reverse_step(session.vcpu, times), line.style)


def _reverse_continue(session: Session, line: Line) -> Reply:
    """To the last hit of any breakpoint; with an argument, to the last write to that as well."""
    if not line.text:
        return session.move(session.subject.reverse_run, line.style, again=True)
    own, condition = watched(session, line.text, WRITE)
    session.subject.breakpoints.add(own)
    if condition:
        session.conditions[own.number] = condition
    try:
        return session.move(session.subject.reverse_run, line.style, again=True)
    finally:
        session.subject.breakpoints.remove(own.number)
        session.conditions.pop(own.number, None)


def _goto(session: Session, line: Line) -> Reply:
    if not line.text:
        raise CommandError("give the number of an exit, begin or end", usage=True)
    moment = _moment(session, line.text)
    return session.move(lambda: session.subject.goto(moment), line.style)


def _moment(session: Session, text: str) -> Moment:
    """ "12", "12 + 3" (three instructions behind exit 12), "-1", "begin", "end"."""
    subject = session.subject
    named = {
        "begin": subject.first,
        "start": subject.first,
        "first": subject.first,
        "end": subject.last,
        "last": subject.last,
        "now": subject.last,
    }
    if text.lower() in named:
        return named[text.lower()]
    if text.startswith(("+", "-")) and text[1:].isdigit():
        by = int(text[:12])
        return Moment(exit=max(session.at().exit + by, subject.first.exit))
    exit_, plus, steps = text.removeprefix("exit").removeprefix("#").partition("+")
    moment = Moment(exit=number(exit_, session), steps=number(steps, session) if plus else 0)
    if moment.exit < subject.first.exit:
        raise CommandError(f"exit {moment.exit} is forgotten: the earliest that is kept is {subject.first}")
    if moment.exit > subject.last.exit and not subject.live:
        raise CommandError(f"exit {moment.exit} is not in the recording: its last is {subject.last.exit}")
    if moment.exit > _MOST or moment.steps > _MOST:
        raise CommandError(f"{text[:40]} is too far away")
    return moment


def _run(session: Session, line: Line) -> Reply:
    line.nothing()
    return session.move(lambda: session.subject.goto(session.subject.first), line.style)


def _where(session: Session, line: Line) -> Reply:
    line.nothing()
    return session.stopped(line.style)


COMMANDS = (
    Command(
        name="step",
        aliases=("s",),
        arguments="[N]",
        group="moving",
        repeats=True,
        run=_step,
        help="go on to the next exit to user space, or the Nth",
        more="One KVM_RUN: the guest runs at full speed until KVM needs pyvmm. The exit is answered when you see the prompt again.",
    ),
    Command(
        name="stepi",
        aliases=("si",),
        arguments="[N]",
        group="moving",
        repeats=True,
        run=_stepi,
        help="execute one instruction of this vCPU, or N",
        more="Interrupts wait meanwhile, so you stay in the code you are reading. In a recording there are exits only.",
    ),
    Command(
        name="nexti",
        aliases=("ni", "next", "n"),
        arguments="[N]",
        group="moving",
        repeats=True,
        run=_nexti,
        help="likewise, but a call (a loop, a rep) counts as one instruction",
    ),
    Command(
        name="continue",
        aliases=("c", "cont", "fg"),
        arguments="[N]",
        group="moving",
        repeats=True,
        run=_continue,
        help="run until a breakpoint, the end, or Ctrl-C; N passes over the breakpoint just hit N-1 times",
    ),
    Command(
        name="until",
        aliases=("u", "advance"),
        arguments="ADDRESS",
        group="moving",
        completes=("symbol",),
        run=_until,
        help="run until an address is reached",
    ),
    Command(
        name="back",
        aliases=("bs", "reverse-step", "rs"),
        arguments="[N]",
        group="moving",
        repeats=True,
        run=_back,
        help="go back by one exit, or N",
        more="Registers, memory, devices, disks and the console are what they were. What has left the machine (a frame) has left it.",
    ),
    Command(
        name="reverse-stepi",
        aliases=("rsi", "back-instruction"),
        arguments="[N]",
        group="moving",
        repeats=True,
        run=_reverse_stepi,
        help="go back by one instruction, or N",
        more="Goes to a checkpoint before and executes again up to there. Should the guest take another way this time, you are told.",
    ),
    Command(
        name="reverse-continue",
        arguments="[ADDRESS | DEVICE.REGISTER]",
        completes=("symbol", "place"),
        aliases=("rc",),
        group="moving",
        repeats=True,
        run=_reverse_continue,
        help="run back to the last breakpoint or watchpoint hit, or to the last write to something",
        more="""\
reverse-continue                    to the last hit of any breakpoint before now, or the beginning
reverse-continue serial0.THR        to the last write to a device register
reverse-continue *(int *)0x2000     to the last write to memory""",
    ),
    Command(
        name="goto",
        aliases=("back-to", "g"),
        arguments="EXIT[+INSTRUCTIONS] | -N | +N | begin | end",
        group="moving",
        run=_goto,
        help="go to an exit by its number, in either direction",
    ),
    Command(
        name="run",
        aliases=("r", "start"),
        group="moving",
        run=_run,
        help="go to the beginning (the guest is loaded already; continue lets it run)",
    ),
    Command(
        name="where",
        aliases=("frame", "f", "context"),
        group="moving",
        run=_where,
        help="show the screen of this stop again",
    ),
)
