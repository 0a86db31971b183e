"""Ctrl-Z: the shell finds the terminal as it was, and the prompt finds it as it left it when it comes back (``fg``).

readline does that by signal handlers, which Python does not let it install; the shell's modes are no modes to edit a line in.
"""

from __future__ import annotations

import os

from pyvmm.csignal import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Suspension:
    """``with`` it, on the main thread; on another, and without a terminal, it does nothing.

    Args:
        fd: of the terminal.
        back: called when the process goes on.
    """

    def __init__(self, fd: int, back: Callable[[], None]) -> None:
        self._fd = fd
        self._back = back
        self._before: Any = None  # the handler
        self._shells: Any = None  # modes of the terminal

    def __enter__(self) -> None:
        try:
            import termios
        except ImportError:  # Windows
            return
        try:
            self._shells = termios.tcgetattr(self._fd)
            self._before = signal.signal(signal.SIGTSTP, self._stop)
        except (OSError, ValueError, termios.error):
            pass  # no terminal, or not the main thread: whoever has it deals with signals

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTSTP, self._before)

    def _stop(self, *_: object) -> None:
        import termios

        modes = termios.tcgetattr(self._fd)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._shells)
        os.kill(os.getpid(), signal.SIGSTOP)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, modes)  # in the background it stops us again, until it is our turn
        self._back()
