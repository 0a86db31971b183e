"""The screen after a stop: what happened in one sentence, the instruction that comes, what has changed, what the guest printed."""

from __future__ import annotations

from pyvmm import events, exits
from pyvmm.errors import PyvmmError
from pyvmm.kvm.uapi import KVM_MP_STATE_HALTED
from pyvmm.observe.causes import was_reset
from pyvmm.observe.debug import subject as stops
from pyvmm.observe.debug.conditions import LINE, WATCH
from pyvmm.observe.debug.style import printable, visible
from pyvmm.observe.debug.views.code import instructions
from pyvmm.observe.explain.changes import Change, changes
from pyvmm.observe.explain.text import wrap
from pyvmm.observe.flags import RFLAGS, bits
from pyvmm.observe.paging import mode_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.look import Look
    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style
    from pyvmm.observe.debug.subject import Stop

LABEL = 12  # columns, as on the page of an explanation
_CODE = 4  # instructions shown
_CHANGES = 6  # of devices
_REGISTERS = 5  # lines of registers
_IF = 1 << 9  # RFLAGS: maskable interrupts are served (SDM 1 3.4.3.3)
_TAIL = 3  # lines of console
_ENDS = {events.POWEROFF: "it has switched itself off", events.RESET: "it has reset itself", events.DEBUG_EXIT: "it wants to exit"}
_OVER = (events.TIMEOUT, events.QUIT, events.KVM_ERROR, events.VMM_ERROR)  # the machine itself is gone
_CLOCKWORK = {("rtc", "offset"), ("rtc", "seen"), ("rtc", "half_periods"), ("rtc", "flags"), ("acpi-pm", "half_periods")}


def context(session: Session, stop: Stop, before: Look, now: Look, style: Style) -> tuple[str, dict[str, Any]]:
    """(the screen, the same as data)."""
    subject = session.subject
    lines = [style.rule(_moment(stop, subject.last.exit), _where(session, now))]
    hits, sentence = _hits(session, stop), _sentence(session, stop)
    for text in hits:
        lines.append(style.here(text))
    for text in (_exit_line(session, stop), sentence):
        lines += [style.title(line) for line in wrap(text, style.width)]
    if _lost(session, stop):
        rows = [("next", ["this KVM (AMD's) has reset the vCPU after the triple fault: its registers say nothing of the guest"])]
    else:
        rows = [("next", _code(session, style)), ("changed", _registers(before, now, style))]
    rows.append(("devices", _devices(before, now, style)))
    rows.append(("console", _console(now, style)))
    if subject.memory_note:
        rows.append(("memory", [subject.memory_note]))
    for label, texts in rows:
        for number, text in enumerate(texts):
            head = f"  {label:<{LABEL - 2}}" if not number else " " * LABEL
            lines.append((style.label(head) if label else head) + text)
    return "\n".join(line.rstrip() for line in lines), _data(stop, before, now, [*hits, _exit_line(session, stop), sentence])


def _lost(session: Session, stop: Stop) -> bool:
    """Whether the registers are those of a fresh vCPU, and not those the guest died with."""
    if stop.why != stops.CRASHED or not stop.at.exit:
        return False
    try:
        subject, vcpu = session.subject, session.vcpu
        return was_reset(exits.thaw(subject.exit(stop.at.exit).frozen), subject.regs(vcpu), subject.sregs(vcpu))
    except PyvmmError:
        return False


def _moment(stop: Stop, last: int) -> str:
    if stop.why == stops.START or not stop.at.exit and not stop.at.steps:
        return "the beginning" + (f" of {last} exits" if last else "")
    steps = "some" if stop.at.steps == stops.UNCOUNTED else str(stop.at.steps)
    known = f" of {last}" if last > stop.at.exit else ""
    return f"exit {stop.at.exit}{known}" + (f" + {steps} instruction{'s' * (steps != '1')}" if stop.at.steps else "")


def _where(session: Session, now: Look) -> str:
    subject = session.subject
    try:
        mode = mode_name(subject.sregs(now.vcpu), subject.regs(now.vcpu).rflags)
    except PyvmmError:
        mode = "registers unreadable"
    vcpu = f"vCPU {now.vcpu}" + (f" of {subject.vcpus}" if subject.vcpus > 1 else "")
    return f"{vcpu}, {mode}"


def _hits(session: Session, stop: Stop) -> list[str]:
    found = []
    for number in stop.hits:
        breakpoint = session.subject.breakpoints.get(number)
        text = f" ({breakpoint.text})" if breakpoint is not None and breakpoint.text else ""
        if breakpoint is not None and breakpoint.kind == WATCH:
            found.append(f"Watchpoint {number}{text}{_watched(session, number, breakpoint)}")
        elif breakpoint is not None and breakpoint.kind == LINE:
            found.append(f"Breakpoint {number}{text}: the line went up")
        else:
            found.append(f"Breakpoint {number}{text}")
    return found


def _watched(session: Session, number: int, breakpoint: Any) -> str:
    """ ": 0x1 -> 0x2": what was and is in the memory of a watchpoint."""
    length = min(breakpoint.last - breakpoint.first + 1, 8)
    old, new = session.watched.get(number), session.some(breakpoint.first, length)
    if len(new) < length:
        return ""
    shown = [f"{int.from_bytes(each, 'little'):#x}" for each in (old, new) if each is not None]
    return f": {' -> '.join(dict.fromkeys(shown))}" + (" (the same value)" if old == new else "")


def _sentence(session: Session, stop: Stop) -> str:
    if stop.why == stops.END and stop.verdict is not None and stop.verdict.kind in _OVER:
        return f"The run is over: {_verdict(stop)}. Nothing is left to be looked at."
    past = session.subject.first != session.subject.last
    if stop.why == stops.END:
        back = " back (bs) leads into its past." if past else ""
        return f"The guest has ended: {_verdict(stop)}.{back}" if _verdict(stop) else "The end of what is known."
    if stop.why == stops.CRASHED:
        back = " explain says why; back (bs) leads to before." if past else ""
        return f"The guest has crashed: {_verdict(stop) or 'it cannot go on'}.{back}"
    if stop.text:
        return stop.text
    if stop.why == stops.BEGIN and not (stop.at.exit and not stop.at.steps):
        return "The beginning: nothing earlier is kept."
    if not stop.at.exit and not stop.at.steps:
        if session.from_boot:
            return "Nothing has run yet: the guest's first instruction comes next."
        return "Here the debugger has come to look: nothing earlier is kept."
    return _interrupted(session) if stop.why == stops.INTERRUPTED else ""


def _interrupted(session: Session) -> str:
    try:
        asleep = session.subject.vcpu_state(session.vcpu).mp_state == KVM_MP_STATE_HALTED
        awake_by_interrupt = session.subject.regs(session.vcpu).rflags & _IF
    except PyvmmError:  # a subject that has less
        asleep, awake_by_interrupt = False, 0
    if not asleep:
        return "Interrupted: no exit, the guest was just running."
    if awake_by_interrupt:
        return f"Interrupted: no exit, vCPU {session.vcpu} is asleep in HLT until an interrupt comes."
    return f"Interrupted: no exit, vCPU {session.vcpu} is asleep in HLT with interrupts off: no interrupt can wake it."


def _verdict(stop: Stop) -> str:
    """How the run ended, in words."""
    kind = _ENDS.get(stop.verdict.kind, "") if stop.verdict is not None else ""
    detail = stop.text or (stop.verdict.detail if stop.verdict is not None else "")
    return f"{kind} ({detail})" if kind and detail else kind or detail


def _exit_line(session: Session, stop: Stop) -> str:
    """The exit that lies behind us, unless instructions have been executed since."""
    if not stop.at.exit or stop.at.steps:
        return ""
    try:
        return session.subject.explain(stop.at.exit).line
    except PyvmmError as error:
        return str(error) if stop.why == stops.EXIT or session.subject.first != session.subject.last else ""  # nothing is ever kept


def _code(session: Session, style: Style) -> list[str]:
    try:
        return [line for line, _ in instructions(session, None, _CODE, style)]
    except PyvmmError as error:
        return [str(error)]


def _registers(before: Look, now: Look, style: Style) -> list[str]:
    if before.vcpu != now.vcpu or not before.registers:
        return []
    parts = []
    for name, value in now.registers.items():
        old = before.registers.get(name, value)
        if old == value or name == "rip":
            continue
        if name == "rflags":
            parts.append(f"{style.name('rflags')} {style.changed(bits(value, RFLAGS) or '0')}")
        else:
            parts.append(f"{style.name(name)} {old:#x} -> {style.changed(f'{value:#x}')}")
    lines = _fill(parts, style.width - LABEL)
    if len(lines) > _REGISTERS:
        shown = sum(line.count(" -> ") for line in lines[: _REGISTERS - 1])
        lines = [*lines[: _REGISTERS - 1], f"and {len(parts) - shown} more: info registers, info sregs"]
    return lines


def _fill(parts: list[str], width: int) -> list[str]:
    """Parts in as few lines as hold them."""
    lines: list[str] = []
    for part in parts:
        if lines and visible(lines[-1]) + 3 + visible(part) <= width:
            lines[-1] += "   " + part
        else:
            lines.append(part)
    return lines


def _devices(before: Look, now: Look, style: Style) -> list[str]:
    found = _changes(before, now)
    lines = []
    for each in found[:_CHANGES]:
        text = str(each)
        lines.append(text if len(text) <= style.width - LABEL else text[: style.width - LABEL - 4] + " ...")
    if len(found) > _CHANGES:
        lines.append(f"and {len(found) - _CHANGES} more")
    return lines


def _changes(before: Look, now: Look) -> list[Change]:
    """What is different, but for what only says how the host's clock and the guest's differ."""
    if not before.devices or not now.devices:
        return []
    return [each for each in changes(before.devices, now.devices) if not _ticks(each)]


def _ticks(change: Change) -> bool:
    """Whether only time has passed: the clocks' own fields, and the bit that the ACPI timer sets every two seconds."""
    place = (change.device, change.path)
    return place in _CLOCKWORK or place == ("acpi-pm", "status") and change.old ^ change.new == 1


def _console(now: Look, style: Style) -> list[str]:
    """The last lines; the cursor shows where the next character goes."""
    if not now.console:
        return []
    lines = now.console.replace(b"\r", b"").split(b"\n")
    if not lines[-1]:
        lines.pop()
    width = style.width - LABEL - 2
    return [style.label("| ") + printable(line)[-width:] for line in lines[-_TAIL:]]


def _data(stop: Stop, before: Look, now: Look, texts: list[str]) -> dict[str, Any]:
    return {
        "why": stop.why,
        "vcpu": now.vcpu,
        "exit": stop.at.exit,
        "steps": stop.at.steps,
        "hits": stop.hits,
        "text": " ".join(each for each in texts if each),
        "rip": now.registers.get("rip"),
        "registers": {name: value for name, value in now.registers.items() if before.registers.get(name) != value},
        "devices": [{"device": each.device, "path": each.path, "old": each.old, "new": each.new} for each in _changes(before, now)],
        "verdict": stop.verdict.kind if stop.verdict is not None else None,
    }
