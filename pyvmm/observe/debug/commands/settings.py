"""How the debugger behaves: ``set NAME VALUE``, ``show``, and which vCPU is meant."""

from __future__ import annotations

from pyvmm.observe.debug.command import Command, CommandError, Line, Reply
from pyvmm.observe.debug.expression import number
from pyvmm.observe.debug.views.code import here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style

# name -> (values, what it does); the first value is the default. Those of gdb that mean nothing here are taken without a word.
SETTINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "context": (("on", "off"), "the screen after each stop; off: one line"),
    "color": (("auto", "on", "off"), "escape sequences for colours"),
}
_GDBS = (
    "pagination",
    "confirm",
    "width",
    "height",
    "disassembly-flavor",
    "logging",
    "architecture",
    "style",
    "print",
    "history",
    "verbose",
)
for _name in _GDBS:
    SETTINGS[_name] = ((), "accepted for gdb's sake")


def change(session: Session, name: str, value: str, style: Style) -> Reply:
    """Sets one. Raises CommandError."""
    if name in _GDBS:
        return Reply()
    values, text = SETTINGS[name]
    if value not in values:
        raise CommandError(f"{name} is one of {', '.join(values)}: {text}")
    session.settings[name] = value
    return Reply(text=f"{name} is {value}")


def _show(session: Session, line: Line) -> Reply:
    names = [name for name, (values, _) in SETTINGS.items() if values]
    if line.text and line.text not in names:
        raise CommandError(f"there is no setting '{line.text[:40]}': {', '.join(names)}")
    wanted = [line.text] if line.text else names
    data = {name: session.settings.get(name, SETTINGS[name][0][0]) for name in wanted}
    return Reply(text="\n".join(f"{name:<10} {data[name]:<6} {SETTINGS[name][1]}" for name in wanted), data=data)


def _vcpu(session: Session, line: Line) -> Reply:
    if not line.text:
        return Reply(text=f"vCPU {session.vcpu} of {session.subject.vcpus}", data={"vcpu": session.vcpu})
    which = number(line.one("a number"), session)
    if which >= session.subject.vcpus:
        raise CommandError(f"there is no vCPU {line.text[:40]}: 0 to {session.subject.vcpus - 1}")
    return _choose(session, which)


def _thread(session: Session, line: Line) -> Reply:
    """gdb's way to say it: threads count from 1."""
    if not line.text:
        return _vcpu(session, line)
    which = number(line.one("a number"), session) - 1
    if not 0 <= which < session.subject.vcpus:
        raise CommandError(
            f"there is no thread {which + 1}: vCPUs 0 to {session.subject.vcpus - 1} are threads 1 to {session.subject.vcpus}"
        )
    return _choose(session, which)


def _choose(session: Session, which: int) -> Reply:
    session.vcpu, session.look = which, None
    rip, at = here(session)
    return Reply(text=f"vCPU {which} at {at:#x}{session.place(at)}", data={"vcpu": which, "rip": rip, "address": at})


COMMANDS = (
    Command(name="show", arguments="[SETTING]", group="tools", run=_show, standing=False, completes=("setting",), help="the settings"),
    Command(
        name="vcpu",
        aliases=("cpu",),
        arguments="[N]",
        group="looking",
        run=_vcpu,
        help="which vCPU registers and instructions mean; choose one",
    ),
    Command(
        name="thread", aliases=("t",), arguments="[N]", group="looking", run=_thread, help="likewise in gdb's words: vCPU 0 is thread 1"
    ),
)
