"""What Tab offers: commands, and for their arguments what the command says they are (``Command.completes``)."""

from __future__ import annotations

import os

from pyvmm.errors import PyvmmError
from pyvmm.observe.debug import registers
from pyvmm.observe.debug.commands.info import INFO
from pyvmm.observe.debug.commands.picture import PICTURES
from pyvmm.observe.debug.commands.settings import SETTINGS
from pyvmm.observe.debug.exit_names import NAMES as EXITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvmm.observe.debug.session import Session

DELIMITERS = " \t\n,()=&|<>+*{}!~"  # what ends a word; dots and dollars belong to it
_MOST = 500
_BREAK_WORDS = ("exit", "port", "mmio", "irq", "vector")


def candidates(session: Session, line: str, word: str) -> list[str]:
    """What ``word``, the last of ``line``, may become; sorted. Never raises."""
    before = line[: len(line) - len(word)] if word else line
    try:
        found = _commands(session) if not before.strip() else _arguments(session, before, word)
    except (PyvmmError, OSError):
        return []
    exact = [each for each in found if each.startswith(word)]
    loose = exact or [each for each in found if each.lower().startswith(word.lower())]
    return sorted(set(loose))[:_MOST]


def _commands(session: Session) -> Iterable[str]:
    return session.commands.commands


def _arguments(session: Session, before: str, word: str) -> Iterable[str]:
    command, _, rest = session.find(before)
    words = rest.split()
    if command.name == "info" and words:
        command, words = INFO.find(words[0]), words[1:]
    if command.name in ("break", "tbreak") and words == ["exit"]:
        return EXITS
    if command.name == "help" and words[:1] == ["info"]:
        return INFO.commands
    found: list[str] = []
    for source in command.completes:
        found += SOURCES[source](session, word)
    return found


def _symbols(session: Session, word: str) -> Iterable[str]:
    if session.symbols is None or len(word) < 2:
        return []
    return [name for name in session.symbols.names() if name.startswith(word)][:_MOST]


def _places(session: Session, word: str) -> Iterable[str]:
    """Devices, and once one is chosen its registers."""
    names = session.places.names()
    return names if "." in word else [name for name in names if "." not in name]


def _state(session: Session, word: str) -> Iterable[str]:
    name, dot, _ = word.partition(".")
    states = session.subject.devices()
    return [f"{name}.{key}" for key in states.get(name, {})] if dot else states


def _files(session: Session, word: str) -> Iterable[str]:
    if "\0" in word:  # no path has one
        return []
    folder, _, begin = word.rpartition("/")
    path = os.path.expanduser(f"{folder}/" if folder or word.startswith("/") else ".")
    names = [name for name in os.listdir(path) if name.startswith(begin) and (begin or not name.startswith("."))]
    head = f"{folder}/" if "/" in word else ""
    return [f"{head}{name}" + ("/" if os.path.isdir(os.path.join(path, name)) else "") for name in names[:_MOST]]


SOURCES: dict[str, Callable[[Session, str], Iterable[str]]] = {
    "command": lambda session, word: [*session.commands.commands],
    "info": lambda session, word: INFO.commands,
    "symbol": _symbols,
    "place": _places,
    "device": lambda session, word: dict.fromkeys((*session.subject.devices(), *(each.device for each in session.subject.layout.ports))),
    "break": lambda session, word: _BREAK_WORDS,
    "breakpoint": lambda session, word: [str(each.number) for each in session.subject.breakpoints],
    "register": lambda session, word: ["$" + name for name in registers.NAMES] if word.startswith("$") else registers.NAMES,
    "expression": lambda session, word: [
        *(["$" + name for name in registers.NAMES] if word.startswith("$") else []),
        *_symbols(session, word),
        *_state(session, word),
    ],
    "picture": lambda session, word: PICTURES,
    "setting": lambda session, word: [name for name, (values, _) in SETTINGS.items() if values],
    "file": _files,
}
