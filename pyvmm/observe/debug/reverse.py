"""A live machine backward: by exits, by instructions, to the latest hit of a breakpoint.

No machine runs backward. It is put to a checkpoint and executes again up to the moment in question: once to count, once to get there.
"""

from __future__ import annotations

from contextlib import contextmanager

from pyvmm.observe import paging
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, Breakpoint
from pyvmm.observe.debug.subject import UNCOUNTED, Moment, Stop, SubjectError
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.observe.debug.live import Live

_FOREVER = 1 << 62  # instructions
_FLAGS = (1 << 8 | 1 << 16) ^ (1 << 64) - 1  # without RFLAGS.TF and RF, which stepping leaves as it likes


def back(live: Live, count: int) -> Stop:
    """``Subject.back``."""
    position = live.history.position
    for _ in range(count - bool(live.steps)):
        if not position:
            break
        position = live.history.log.rest_before(position - 1)
    began = position == 0 and count > 0 and not live.history.position and not live.steps
    stop = live.arrive(position)
    return stop or Stop(why=subject.BEGIN if began else subject.ARRIVED)


# --- by instructions ---------------------------------------------------------------------------------------------------
def step(live: Live, vcpu: int, count: int) -> Stop:
    """``Subject.reverse_step``."""
    if live.steps and vcpu != live.stepped:
        raise SubjectError(f"vCPU {live.stepped} has been stepped: go to an exit before you step another back")
    number, steps = live.history.position, live.steps
    if steps == UNCOUNTED:
        steps = _count(live, vcpu)
    while steps < count:
        count -= steps
        if not number:
            return live.arrive(0) or Stop(why=subject.BEGIN)
        behind = number
        number = live.history.log.rest_before(number - 1)
        stop = live.arrive(number)
        if stop is not None:
            return stop
        steps = _length(live, vcpu, behind)
        if live.called_off:
            return Stop(why=subject.INTERRUPTED)
        if live.history.diverged:
            return live.landed(Stop(why=subject.DIVERGED), executed=True)
    live.stepped = vcpu
    return live.going(Moment(exit=number, steps=steps - count))


def _length(live: Live, vcpu: int, behind: int) -> int:
    """How many instructions of a vCPU lie between the moment where it stands and exit ``behind``, to which it goes."""
    owner = live.history.log.get(behind)
    if live.vcpus > 1 and owner is not None and owner.vcpu != vcpu:
        raise SubjectError(f"exit {behind} is vCPU {owner.vcpu}'s: step that one back, or go back by exits")
    live.history.enough = behind
    with live.unarmed():
        live.history.resume()
        live.control.step_instructions(vcpu, _FOREVER)
    return live.control.stepped


def _count(live: Live, vcpu: int) -> int:
    """How many instructions it has executed since the exit, when it ran freely: executes them again until the registers are the same."""
    wanted = _registers(live, vcpu)
    number = live.history.position
    live.put(number if live.history.has(number) else live.history.kept(number))
    steps = 0
    with live.unarmed():
        live.history.resume()
        while not live.called_off and live.history.position == number:
            if _registers(live, vcpu) == wanted:
                return steps
            live.control.step_instructions(vcpu, 1)
            steps += 1
    if live.called_off:
        raise SubjectError("interrupted while instructions were counted again")
    raise SubjectError("executing again did not come by here: go back by exits")


def _registers(live: Live, vcpu: int) -> bytes:
    with live.control.quiet() as machine:
        regs = machine.vcpus[vcpu].get_regs()
    regs.rflags &= _FLAGS
    return bytes(regs)


# --- to a breakpoint ---------------------------------------------------------------------------------------------------
class _Now(FrozenRecord):
    """Where it stands when it does so between two exits: there the search ends.

    Fields:
        vcpu, registers: whose they are, what they are.
        mark: number of a breakpoint there, without which it would not stop to be compared.
    """

    vcpu: int
    registers: bytes
    mark: int


def run(live: Live) -> Stop:
    """``Subject.reverse_run``."""
    if not live.steps or not live.breakpoints.in_guest():
        return _run(live, None)
    at = _linear(live, live.stepped)
    mark = live.breakpoints.add(Breakpoint(kind=ADDRESS, first=at, last=at, vcpu=live.stepped, text="now", owner="search"))
    try:
        return _run(live, _Now(vcpu=live.stepped, registers=_registers(live, live.stepped), mark=mark.number))
    finally:
        live.breakpoints.remove(mark.number)


def _run(live: Live, until: _Now | None) -> Stop:
    history = live.history
    number, steps = history.position, live.steps
    end = number  # of the interval that begins at ``start``
    start = number if steps else history.log.rest_before(number - 1) if number else 0
    with _uncounted(live):
        while True:
            if live.called_off:
                return live.arrive(start) or Stop(why=subject.INTERRUPTED)
            if live.breakpoints.in_guest() and (start < end or until is not None):
                stop = _search(live, start, end, until)
                if stop is not None:
                    return stop
            if not start:
                return live.arrive(0) or Stop(why=subject.BEGIN)
            hits = _at_exits(live, start) if start < number or steps else []
            if hits:
                return live.arrive(start) or Stop(why=subject.BREAKPOINT, hits=hits, exit=start)
            if until is not None:
                live.breakpoints.remove(until.mark)
            until, end = None, start
            start = history.log.rest_before(start - 1)
            if not live.breakpoints.in_guest():  # nothing but the log to look at
                while start and not _at_exits(live, start) and not live.called_off:
                    start = history.log.rest_before(start - 1)


def _at_exits(live: Live, rest: int) -> list[int]:
    """Breakpoints that an exit, or one of those of the same instruction, hits."""
    found: list[int] = []
    for record in live.history.log.backward(rest):
        if record.number <= live.history.log.rest_before(rest - 1):
            break
        found += live.breakpoints.hits_at(record.frozen, record.vcpu, record.answer)
    return found


def _search(live: Live, start: int, end: int, until: _Now | None) -> Stop | None:
    """The last hit between two exits, or between an exit and ``until``; the machine is there then."""
    found = _hits(live, start, end, until, _FOREVER)
    if found is None or live.called_off:
        return None
    count, _ = found
    if count:
        stop = _hits(live, start, end, until, count)
        if stop is not None:
            return stop[1]
    return None


def _hits(live: Live, start: int, end: int, until: _Now | None, most: int) -> tuple[int, Stop] | None:
    """Goes from exit ``start`` on to the ``most``-th hit, at most to exit ``end``. Returns how many there were, and the last. None: it
    did not get there."""
    stop = live.arrive(start)
    if stop is not None:
        return None
    live.history.enough = end if end > start else -1
    live.history.resume()
    count, last = 0, Stop(why=subject.BREAKPOINT)
    here = _here(live, until)
    if here.hits and not _is(live, until):
        count, last = 1, here
    while count < most and not live.called_off:
        stop = live.go(end if end > start else start + 1)
        if live.history.diverged or stop.why != subject.BREAKPOINT or stop.exit or live.history.position != start:
            break
        live.steps = UNCOUNTED
        if _is(live, until):
            break
        if until is not None:
            stop.hits = [each for each in stop.hits if each != until.mark]
        if stop.hits:
            live.stepped = stop.vcpu
            count, last = count + 1, stop
    return count, last


def _is(live: Live, until: _Now | None) -> bool:
    """Whether this is the moment at which the search ends."""
    return until is not None and _registers(live, until.vcpu) == until.registers


def _linear(live: Live, vcpu: int) -> int:
    """Where a vCPU stands."""
    with live.control.quiet() as machine:
        regs, sregs = machine.vcpus[vcpu].get_regs(), machine.vcpus[vcpu].get_sregs()
    return paging.linear_address(sregs, sregs.cs, regs.rip)


def _here(live: Live, until: _Now | None) -> Stop:
    """Breakpoints on the address where a vCPU stands: running from there would not stop at them."""
    wanted = [each for each in live.breakpoints.in_guest() if each.kind == ADDRESS and (until is None or each.number != until.mark)]
    for vcpu in range(live.vcpus):
        at = _linear(live, vcpu)
        hits = [each.number for each in wanted if each.first == at and each.concerns(vcpu)]
        if hits:
            return Stop(why=subject.BREAKPOINT, vcpu=vcpu, hits=hits)
    return Stop(why=subject.BREAKPOINT)


@contextmanager
def _uncounted(live: Live) -> Iterator[None]:
    """What is hit while looking for the last hit does not count, is not passed over, and is not gone."""
    before = [(each, each.hits, each.ignore, each.temporary) for each in live.breakpoints]
    for each, *_ in before:
        each.ignore, each.temporary = 0, False
    try:
        yield
    finally:
        for each, hits, ignore, temporary in before:
            each.hits, each.ignore, each.temporary = hits, ignore, temporary
