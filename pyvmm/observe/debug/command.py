"""What a command is: data. Commands register themselves in tables; the session finds and calls them."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.record import FrozenRecord, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style

    Run = Callable[[Session, "Line"], "Reply"]

GROUPS = {
    "moving": "walking through time, in both directions",
    "stopping": "where to stop",
    "looking": "what the guest is and does",
    "changing": "changing the present",
    "tools": "files, scripts, the debugger itself",
}


class CommandError(PyvmmError):
    """A command cannot be carried out; the message is one line.

    Args:
        usage: show how the command is written as well.
    """

    def __init__(self, message: str, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class Command(FrozenRecord):
    """One command.

    Fields:
        name: what help calls it.
        run: carries it out.
        aliases: other names. Any unique beginning of a name will do as well.
        arguments: how they are written.
        help: one line.
        more: further lines for ``help NAME``.
        group: key of GROUPS; "info" for what comes after ``info``.
        completes: what its arguments are, for completion: keys of completion.SOURCES.
        repeats: an empty line does it again.
        standing: the guest must stand still for it.
    """

    name: str
    run: Run
    aliases: tuple[str, ...] = ()
    arguments: str = ""
    help: str = ""
    more: str = ""
    group: str = "looking"
    completes: tuple[str, ...] = ()
    repeats: bool = False
    standing: bool = True

    @property
    def usage(self) -> str:
        """ "step [N]"."""
        return f"{self.name} {self.arguments}".rstrip()


class Reply(Record):
    """What a command has to say.

    Fields:
        text: lines for people, without the last line's end.
        data: the same for programs: dicts, lists, numbers, texts, bytes.
        error: it failed, and ``text`` says why in one line.
        leave: the user wants out.
    """

    text: str = ""
    data: Any = None
    error: bool = False
    leave: bool = False


class Line:
    """What came after a command's name.

    Attributes:
        text: all of it.
        format: what stood behind the slash: "8xb" of ``x/8xb``.
        style: what the reply is made for.
    """

    def __init__(self, text: str, format: str, style: Style) -> None:
        self.text = text.strip()
        self.format = format
        self.style = style

    @property
    def words(self) -> list[str]:
        """Between spaces."""
        return self.text.split()

    def nothing(self) -> None:
        """Raises CommandError when there are arguments."""
        if self.text:
            raise CommandError(f"'{self.text[:40]}' is too much: it takes no arguments", usage=True)

    def one(self, what: str) -> str:
        """The only word. Raises CommandError."""
        words = self.words
        if len(words) != 1:
            raise CommandError(f"give {what}" if not words else f"give only {what}", usage=True)
        return words[0]


class Table:
    """Commands by name, with aliases and beginnings."""

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self.commands: dict[str, Command] = {}
        self._aliases: dict[str, Command] = {}
        for each in commands:
            self.add(each)

    def add(self, command: Command) -> None:
        """One more; names and aliases are nobody else's (a mistake of ours otherwise)."""
        for name in (command.name, *command.aliases):
            assert name not in self._aliases, name
            self._aliases[name] = command
        self.commands[command.name] = command

    def find(self, word: str) -> Command:
        """By name, alias or unique beginning. Raises CommandError, which says what there is."""
        found = self._aliases.get(word)
        if found is not None:
            return found
        begin = {each.name: each for name, each in self._aliases.items() if word and name.startswith(word)}
        if len(begin) == 1:
            return next(iter(begin.values()))
        if begin:
            raise CommandError(f"'{word}' may be {', '.join(sorted(begin))}")
        close = nearest(word, self._aliases)
        raise CommandError(f"no command '{word[:40]}'" + (f": did you mean {close}?" if close else ": help lists them"))


def nearest(word: str, names: Iterable[str]) -> str:
    """The name somebody who wrote ``word`` may have meant, or ""."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word[:40], list(names), 1)), "")
