"""Messages for the user: whatever state stderr is in, a message must neither hang nor kill the run.

Plain ``sys.stderr.write`` does both: it blocks for good on a full pipe nobody reads, and raises when the terminal is gone.
"""

from __future__ import annotations

import os
import select

_PATIENCE_MS = 1000


def say(text: str) -> None:
    """Writes one message of one line: what could break it (control characters, undecodable bytes) is escaped."""
    say_lines(one_line(text) + "\n")


def say_lines(text: str) -> None:
    """Writes text as it is, line breaks included. A reader that takes nothing for a second misses the rest."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        room = select.poll()
        room.register(2, select.POLLOUT)
        while data and room.poll(_PATIENCE_MS):
            data = data[os.write(2, data[:4096]) :]
    except OSError:
        pass  # closed, or its terminal hung up: nobody is there to be told


def one_line(text: str) -> str:
    """``text`` with everything that is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
