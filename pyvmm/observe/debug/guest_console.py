"""The guest's console while the terminal belongs to the debugger.

What the guest prints is shown while it runs (``foreground``); at a single exit the screen after the stop has it. What is typed while
it runs goes to the guest, but Ctrl-C; at other times ``type`` does that.
"""

from __future__ import annotations

import os
import select
import sys

from pyvmm.backends.console import Console
from pyvmm.observe.debug.command import CommandError
from pyvmm.threads import Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class GuestConsole(Console):
    """``with console.foreground():`` while the guest runs at full speed.

    Args:
        keyboard: descriptor of the terminal where a person types; -1: nobody does.
    """

    def __init__(self, keyboard: int = -1) -> None:
        self._pipe, self._typed = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        super().__init__(self._pipe, -1)
        self._keyboard = keyboard
        self._shown = False
        self._column = 0  # 0: the cursor is at the beginning of a line
        self._modes: list[Any] = []
        self._thread: Thread | None = None
        self._wake = -1

    def write(self, data: bytes) -> None:
        """Shows it if the guest is in the foreground; the history keeps it anyway."""
        if self._shown and data:
            try:
                os.write(1, data)
            except OSError:
                self._shown = False  # nobody looks any more
            self._column = 0 if data.endswith(b"\n") else 1

    def type(self, data: bytes) -> None:
        """Gives the guest something to read. CommandError: it has not read what it got before."""
        try:
            taken = os.write(self._typed, data)
        except BlockingIOError:
            taken = 0
        if taken < len(data):
            raise CommandError(f"only {taken} of {len(data)} bytes were taken: the guest does not read")

    def close(self) -> None:
        """As any console's; the pipe goes too."""
        super().close()
        self.in_fd = -1
        for fd in (self._pipe, self._typed):
            if fd >= 0:
                os.close(fd)
        self._pipe = self._typed = -1

    # --- in the foreground -----------------------------------------------------------------------------------------------
    def foreground(self) -> GuestConsole:
        """To be entered while the guest runs."""
        return self

    def __enter__(self) -> GuestConsole:
        sys.stdout.flush()
        self._shown, self._column = True, 0
        if self._keyboard >= 0:
            self._take_keyboard()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown = False
        if self._thread is not None:
            self._give_keyboard_back()
        if self._column:
            os.write(1, b"\n")
            self._column = 0

    def _take_keyboard(self) -> None:
        """Key by key and without echo, which is the guest's affair; Ctrl-C stays a signal."""
        import termios

        try:
            self._modes = termios.tcgetattr(self._keyboard)
            modes = [*self._modes[:6], list(self._modes[6])]
            modes[0] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
            modes[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
            for key in (termios.VQUIT, termios.VSUSP):
                modes[6][key] = b"\0"  # Ctrl-\ and Ctrl-Z are the guest's
            modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, modes)
        except termios.error:
            return  # it has hung up
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = Thread(target=self._feed)
        self._thread.start()

    def _give_keyboard_back(self) -> None:
        import termios

        assert self._thread is not None
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._thread = None
        os.close(self._wake)
        try:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)
        except termios.error:
            pass

    def _feed(self) -> None:
        """On a thread: from the keyboard to the guest."""
        block_signals()
        watch = select.poll()
        watch.register(self._keyboard, select.POLLIN)
        watch.register(self._wake, select.POLLIN)
        while True:
            ready = dict(watch.poll())
            if self._wake in ready:
                return
            try:
                data = os.read(self._keyboard, 256)
                if not data:
                    return
                os.write(self._typed, data)
            except BlockingIOError:
                pass  # the guest does not read: the key is lost, as on any full buffer
            except OSError:
                return
