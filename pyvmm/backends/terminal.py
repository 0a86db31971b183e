"""The user's terminal while a guest owns it: raw mode, the Ctrl-A keys, and its restoration on every way out.

Imported only when stdin is a terminal. SIGKILL apart, every end of the process passes through ``restore``: normal return,
exceptions (the caller's ``finally``), SIGTERM, SIGHUP, SIGINT and their like (they stop the machine), SIGTSTP (gives the
terminal back while stopped). After any stop, SIGCONT finds the modes the shell has set meanwhile and makes the terminal raw again.
"""

from __future__ import annotations

import os
import termios

from pyvmm.backends.stderr import say_lines
from pyvmm.csignal import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ESCAPE = 0x01  # Ctrl-A, as QEMU
HELP = """\

Ctrl-A h        this help
Ctrl-A x        quit
Ctrl-A p        pause, or go on
Ctrl-A b        send a break
Ctrl-A c        the monitor: the debugger's commands
Ctrl-A Ctrl-A   a literal Ctrl-A
"""


class Terminal:
    """Raw mode on ``fd`` from construction until ``restore``.

    Args:
        fd: a terminal.
        commands: key byte -> function, for keys after Ctrl-A ("h" and Ctrl-A itself are built in).
    """

    def __init__(self, fd: int, commands: dict[int, Callable[[], None]]) -> None:
        self.fd = fd
        self.commands = commands
        self._saved: list[Any] | None = termios.tcgetattr(fd)
        self._escaped = False
        self._lent = False
        self._enter()
        signal.signal(signal.SIGTSTP, self._suspend)
        signal.signal(signal.SIGCONT, self._resume)

    def _enter(self) -> None:
        assert self._saved is not None
        attributes = [*self._saved[:6], list(self._saved[6])]
        attributes[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )
        attributes[2] = attributes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        attributes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0  # output processing stays: \n still returns
        _set(self.fd, attributes)

    def restore(self) -> None:
        """Puts the terminal back as it was found. May be called twice."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            _set(self.fd, saved)
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def lend(self) -> None:
        """Gives the terminal to somebody in this process, as it was found, until ``take_back``."""
        if self._saved is not None:
            _set(self.fd, self._saved)
            self._lent = True

    def take_back(self) -> None:
        """Raw again."""
        self._lent = False
        if self._saved is not None:
            self._enter()

    def _suspend(self, *_: object) -> None:
        if self._saved is not None:
            _set(self.fd, self._saved)
            os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, *_: object) -> None:
        if self._saved is not None and not self._lent:
            self._enter()

    def filter(self, data: bytes) -> bytes:
        """Takes the Ctrl-A keys out of what was typed; returns what the guest gets."""
        kept = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == ESCAPE:
                    kept.append(byte)
                elif byte in b"hH?":
                    say_lines(HELP)
                elif byte in self.commands:
                    self.commands[byte]()
            elif byte == ESCAPE:
                self._escaped = True
            else:
                kept.append(byte)
        return bytes(kept)


def _set(fd: int, attributes: list[Any]) -> None:
    try:
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
    except termios.error:
        pass  # the terminal has hung up: nothing to restore, and the run ends by SIGHUP
