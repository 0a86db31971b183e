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
_CTRL_C = 0x03
_IMPATIENT = 3  # so many Ctrl-C and nothing else: somebody wants to get out
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

    Attributes:
        again: called when the process goes on after Ctrl-Z, while somebody in it has borrowed the terminal.
    """

    def __init__(self, fd: int, commands: dict[int, Callable[[], None]]) -> None:
        self.fd = fd
        self.commands = commands
        self._saved: list[Any] | None = termios.tcgetattr(fd)
        self._escaped = False
        self._lent = False
        self._borrowers: list[Any] | None = None  # modes of whoever had borrowed it when the process was stopped
        self._interrupts = 0  # Ctrl-C in a row
        self.again: Callable[[], None] | None = None
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
            self._borrowers = termios.tcgetattr(self.fd) if self._lent else None
            _set(self.fd, self._saved)
            os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, *_: object) -> None:
        if self._saved is None:
            return
        if not self._lent:
            self._enter()
        elif self._borrowers is not None:
            _set(self.fd, self._borrowers)
            self._borrowers = None
            if self.again is not None:
                self.again()

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
                self._interrupts = self._interrupts + 1 if byte == _CTRL_C else 0
                if self._interrupts == _IMPATIENT:
                    say_lines("\n[Ctrl-C goes to the guest; Ctrl-A x quits, Ctrl-A h has more]\n")
        return bytes(kept)


def _set(fd: int, attributes: list[Any]) -> None:
    try:
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
    except termios.error:
        pass  # the terminal has hung up: nothing to restore, and the run ends by SIGHUP
