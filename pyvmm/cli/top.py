"""``pyvmm top``: a guest's exits, live. On a terminal a screen that is drawn anew; else a block of text each time."""

from __future__ import annotations

import os
import sys
from threading import Event, Thread
from time import monotonic_ns

from pyvmm import status
from pyvmm.backends.console import Console
from pyvmm.cli import own
from pyvmm.cli.options import Options
from pyvmm.cli.run import Session, prepare, tell
from pyvmm.observe.stats import screen
from pyvmm.observe.stats.collect import Collector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine import Machine
    from pyvmm.observe.stats.summary import Summary

HELP = """\
usage: pyvmm top [OPTIONS] GUEST [OPTIONS OF `pyvmm run`]

  -d SECONDS   between two looks (default 1)
  -n COUNT     looks, then the guest is stopped (default: until it ends)
  --sort KEY   {sorts} (default time)

The guest's console is shown below the table; it cannot be typed to. Keys: q quits, s sorts otherwise, p pauses the guest.
"""
_KEPT = 16 << 10  # bytes of console output
_KEYS = "q quit  s sort  p pause"


def command(arguments: list[str]) -> int:
    """Runs the guest to its end; returns its exit status."""
    given, rest = own.take("top", arguments, (), ("d", "n", "sort"))
    options = Options(rest)
    if options.config is None:
        print(HELP.format(sorts=", ".join(screen.SORTS)), end="")
        return status.OK
    top = Top(
        options.guest.name if options.guest is not None else options.config.boot.kernel,
        own.choice(given, "sort", tuple(screen.SORTS), "time"),
        own.number(given, "d", 1.0, 0.05, 3600),
        int(own.number(given, "n", 0, 0, 1e9)),
    )
    shown = tuple(each.replace(kind="null") if each.kind == "stdio" else each for each in options.config.serials)
    session = Session(options.config.replace(serials=shown), options.debugcon)
    session.consoles = [
        top.console if each.kind == "stdio" else console for each, console in zip(options.config.serials, session.consoles, strict=True)
    ]
    prepare(session, options)
    session.observers.append(top.attach)
    top.start(session)
    try:
        reason = session.run(options.timeout, options.paused, options.load)
    finally:
        top.stop()
        session.close()
    tell(reason)
    return status.of(reason)


class Tail(Console):
    """A console that keeps the last the guest has printed."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = bytearray()

    def write(self, data: bytes) -> None:
        self.kept += data
        if len(self.kept) > 2 * _KEPT:
            del self.kept[:-_KEPT]

    def lines(self) -> list[str]:
        """As a terminal would show them: no control characters."""
        text = bytes(self.kept[-_KEPT:]).decode("utf-8", "replace").replace("\r\n", "\n")
        return ["".join(each for each in line.rpartition("\r")[2] if each.isprintable()) for line in text.rstrip("\n").split("\n")]


class Top:
    """Draws from a thread of its own while the session runs the guest.

    Args:
        name: of the guest.
        sort: a key of ``screen.SORTS``.
        seconds: between two looks.
        looks: after how many the guest is stopped; 0: never.
    """

    def __init__(self, name: str, sort: str, seconds: float, looks: int) -> None:
        self.console = Tail()
        self._name = name
        self._sort = sort
        self._seconds = seconds
        self._looks = looks
        self._collector = Collector()
        self._before: Summary | None = None
        self._wake = Event()
        self._over = False
        self._is_screen = os.isatty(1)
        self._saved: list[Any] | None = None
        self._thread = Thread(target=self._draw_on, daemon=True)

    def attach(self, machine: Machine) -> None:
        """Watches a session's next machine."""
        self._collector.attach(machine)
        self._before = None
        if self._thread.ident is None:
            machine.loop.make_timer(self._thread.start).arm(monotonic_ns())  # with the run, not now: a sandbox wants no thread before
        if self._saved is not None:
            machine.loop.add_reader(0, self._typed)
            machine.at_end.append(lambda: machine.loop.remove_reader(0))

    def start(self, session: Session) -> None:
        """Takes the terminal, if there is one."""
        self._session = session
        if self._is_screen:
            sys.stdout.write("\033[?1049h\033[?25l")
            if os.isatty(0):
                import termios
                import tty

                self._saved = termios.tcgetattr(0)
                tty.setcbreak(0)

    def stop(self) -> None:
        """Gives it back; the last look stays on the screen."""
        self._over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_screen:
            sys.stdout.write("\033[?25h\033[?1049l")
            if self._saved is not None:
                import termios

                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        self._print(screen.frame(None, self._collector.summary(), self._name, "all", 0, []))

    def _typed(self) -> None:
        """Keys; on the I/O loop, machine lock held."""
        for key in os.read(0, 64).decode("latin-1").lower():
            if key == "s":
                names = list(screen.SORTS)
                self._sort = names[(names.index(self._sort) + 1) % len(names)]
            elif key in "qp" and self._session.machine is not None:
                machine = self._session.machine
                machine.stop() if key == "q" else machine.toggle_pause()
        self._wake.set()

    def _draw_on(self) -> None:
        looks = 0
        while not self._over:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if self._over:
                return
            self._draw()
            looks += 1
            machine = self._session.machine
            if looks == self._looks and machine is not None:
                machine.stop()

    def _draw(self) -> None:
        now = self._collector.summary()
        machine = self._session.machine
        if machine is None or not now.machines:
            return
        height, width = 0, 0
        if self._is_screen:
            width, height = os.get_terminal_size(1)
        note = "[paused]  " if machine.paused else ""
        note += f"sort: {self._sort}  {_KEYS}" if self._saved is not None else ""
        lines = screen.frame(self._before, now, self._name, self._sort, height, self.console.lines(), note)
        self._before = now
        if self._is_screen:
            sys.stdout.write("\033[H" + "\n".join(f"{line[:width]}\033[K" for line in lines) + "\033[J")
            sys.stdout.flush()
        else:
            self._print(lines)

    def _print(self, lines: list[str]) -> None:
        sys.stdout.write("\n".join(lines) + "\n\n")
        sys.stdout.flush()
