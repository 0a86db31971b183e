"""The monitor of ``pyvmm run``: ``-monitor``, ``-qmp`` and Ctrl-A c. Imported by a run that has one of them."""

from __future__ import annotations

import sys

from pyvmm.backends.stderr import say, say_lines
from pyvmm.backends.unix import parse
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.observe import symbols
from pyvmm.observe.debug.monitor import Monitor
from pyvmm.observe.debug.prompt import Prompt
from pyvmm.observe.debug.sockets import Listener
from pyvmm.threads import Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.console import Console
    from pyvmm.cli.run import Session
    from pyvmm.observe.debug.command import Reply


def monitor_of(session: Session) -> Monitor:
    """The one monitor of a run; made when first asked for."""
    if session.monitor is None:
        monitor = Monitor(symbols=lambda: symbols.of_guest(session.config.boot.kernel))
        monitor.type = lambda data: _feed(session, data)
        session.observers.append(monitor.attach)
        session.leavers.append(monitor.leave)
        if session.machine is not None:
            monitor.attach(session.machine)
        session.monitor = monitor
    found: Monitor = session.monitor
    return found


def _feed(session: Session, data: bytes) -> None:
    machine = session.machine
    if machine is not None and session.consoles:
        with machine.lock:
            session.consoles[0].feed(data)


def listen(session: Session, wanted: list[tuple[str, str]]) -> None:
    """Opens the sockets: ("monitor" or "qmp", "PATH,server=on,wait=off"). ConfigError."""
    if session.seal is not None:
        raise ConfigError("-monitor, -qmp and -sandbox, -runas or -chroot: a debugger needs what they give up: leave one of them out")
    monitor = monitor_of(session)
    for option, target in wanted:
        path, server, wait = parse(target, option)
        session.closing.append(Listener(monitor, path, option == "qmp", server, wait).close)


def end(session: Session) -> None:
    """Ends the run of a machine that the debugger holds. From anywhere: the I/O loop, a signal handler."""
    Thread(target=session.monitor.end).start()


class AtTerminal:
    """Ctrl-A c: the prompt on the guest's terminal, while the guest runs on; Ctrl-D goes back to the guest."""

    def __init__(self, session: Session, console: Console) -> None:
        self.session, self.console = session, console
        self.monitor = monitor_of(session)
        self.monitor.on_event.append(self._event)
        self.open = False
        self._prompt: Prompt | None = None

    def enter(self) -> None:
        """In the I/O loop, machine lock held."""
        if self.session.sealed:
            say("[no monitor under -sandbox, -runas or -chroot: a debugger needs what they give up]")
        if self.open or self.session.terminal is None or self.session.sealed:
            return
        self.open = True
        self.console.lend()
        self.session.terminal.lend()
        self.session.terminal.again = self._again
        Thread(target=self._converse).start()

    def _converse(self) -> None:
        block_signals()
        say_lines("\n[monitor: Ctrl-D goes back to the guest, which runs on; stop halts it, quit ends it; help]\n")
        try:
            prompt = self._prompt = Prompt(self.monitor.session(), execute=self.monitor.execute, complete=self.monitor.complete)
            prompt.run([])
        except PyvmmError as error:
            say(f"pyvmm: {error}")
        finally:
            self._leave()

    def _leave(self) -> None:
        machine, terminal = self.session.machine, self.session.terminal
        self.open = False
        if machine is None or terminal is None or machine.reason is not None:
            return
        terminal.take_back()
        say("[the guest has the terminal]" if self.monitor.status == "running" else "[the guest stands still: cont in the monitor]")
        with machine.lock:
            self.console.take_back()

    def interrupt(self) -> None:
        """Ctrl-C in the monitor. A signal handler."""
        if self._prompt is not None:
            self._prompt.new_line()
        self.monitor.interrupt()

    def _event(self, name: str, data: dict[str, Any], reply: Reply | None) -> None:
        if reply is None:
            return
        if self.open:
            sys.stdout.write(f"\n{reply.text}\n")
            self._again()
        else:
            say_lines(f"\n{reply.text}\n[Ctrl-A c: the monitor]\n")

    def _again(self) -> None:
        """Shows the line once more that somebody is about to type."""
        if self._prompt is not None:
            self._prompt.come_back()
        sys.stdout.flush()
