"""How the debugger's texts look: plain for pipes, scripts and sockets, coloured for a terminal that wants it."""

from __future__ import annotations

import os
import re

from pyvmm.observe.explain.text import wrap
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

NARROW, WIDE = 80, 100  # columns: no line is broken later than WIDE, whatever the terminal has
_OFF = "\033[0m"
_ESCAPES = re.compile(r"\033\[[0-9;]*m")


class Style(FrozenRecord):
    """What a text is made for.

    Fields:
        colour: whether escape sequences are welcome.
        width: columns.
    """

    colour: bool = False
    width: int = WIDE

    def _dress(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}{_OFF}" if self.colour and text else text

    def title(self, text: str) -> str:
        """What happened."""
        return self._dress("1", text)

    def label(self, text: str) -> str:
        """Names of rows, and what is of less interest."""
        return self._dress("2", text)

    def changed(self, text: str) -> str:
        """What is not as it was."""
        return self._dress("33", text)

    def here(self, text: str) -> str:
        """Where the vCPU is."""
        return self._dress("1;32", text)

    def name(self, text: str) -> str:
        """Commands, symbols, registers."""
        return self._dress("36", text)

    def error(self, text: str) -> str:
        """What went wrong."""
        return self._dress("31", text)

    def rule(self, left: str, right: str = "") -> str:
        """A line across the screen with a text near either end."""
        dash = "\u2500" if self.colour else "-"
        head, tail = f"{dash * 2} {left} ", f" {right} {dash * 2}" if right else ""
        return self._dress("34", head + dash * max(self.width - len(head) - len(tail), 2) + tail)


PLAIN = Style()


def of_terminal(stream: TextIO, colour: str = "auto") -> Style:
    """The style for a stream.

    Args:
        colour: "on", "off", or "auto": for a terminal that is not dumb, unless NO_COLOR is set (no-color.org).
    """
    try:
        is_terminal = stream.isatty()
        width = os.get_terminal_size(stream.fileno()).columns if is_terminal else WIDE
    except (OSError, ValueError):
        is_terminal, width = False, WIDE
    wanted = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("dumb", "")
    return Style(colour=wanted if colour == "auto" else colour == "on", width=min(max(width or WIDE, NARROW), WIDE))


def table(rows: Iterable[tuple[str, str]], column: int, style: Style, indent: str = "  ") -> list[str]:
    """Names and what they mean, the latter from a column on and broken at spaces."""
    lines = []
    for name, text in rows:
        head = f"{indent}{name}"
        room = style.width - column
        first = True
        for line in wrap(text, room) or [""]:
            gap = " " * max(column - len(head), 1) if first else " " * column
            lines.append((head.replace(name, style.name(name), 1) if first else "") + gap + line)
            first = False
    return lines


def visible(text: str) -> int:
    """Columns that a text takes."""
    return len(_ESCAPES.sub("", text))


def pad(text: str, width: int) -> str:
    """``ljust`` for texts with colours."""
    return text + " " * max(width - visible(text), 0)


def printable(data: bytes | str) -> str:
    """A guest's text for people: nothing in it can move the cursor or change colours."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return "".join(each if each.isprintable() else "." for each in text)
