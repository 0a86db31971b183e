"""``pyvmm debug``: a guest under the prompt of the debugger, stopped before its first instruction."""

from __future__ import annotations

import os
import sys

from pyvmm import events, status
from pyvmm.backends.stderr import say
from pyvmm.cli import own
from pyvmm.cli.options import WITH_VALUE, Options
from pyvmm.cli.run import Session as Run
from pyvmm.cli.run import prepare, tell
from pyvmm.config import size
from pyvmm.csignal import signal
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.events import StopReason, vmm_error
from pyvmm.layout import MIB
from pyvmm.observe import symbols
from pyvmm.observe.debug.guest_console import GuestConsole
from pyvmm.observe.debug.history import LIMIT
from pyvmm.observe.debug.live import Live
from pyvmm.observe.debug.prompt import Prompt
from pyvmm.observe.debug.session import Session
from pyvmm.threads import Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import Machine

HELP = """\
usage: pyvmm debug GUEST [OPTIONS OF `pyvmm run`]

  -ex COMMAND              carry out a debugger command; may be given again, and with -x in any order
  -x FILE                  carry out the commands in a file
  --batch                  then leave, with status 1 at the first command that fails
  --history-memory SIZE    memory for going back (default 256M); the oldest checkpoints are thinned out
  --symbols FILE           an ELF file with symbols, or a System.map (default: the guest's own)

The guest stands before its first instruction. help lists the commands; docs/debugger.md walks through a session.
"""
_LEAST = MIB
_VALUES = ("history-memory", "symbols")
FAILED = 1


def command(arguments: list[str]) -> int:
    """Opens the prompt; returns the exit status: 0, or in batch mode 1 when a command failed."""
    given, rest = own.take("debug", own.sourced(arguments, (*WITH_VALUE, *_VALUES)), ("batch",), ("ex", *_VALUES))
    options = Options(rest)
    if options.config is None:
        print(HELP, end="")
        return status.OK
    for name, on in (("-gdb", options.gdb), ("-monitor and -qmp", options.monitors), ("-sandbox, -runas and -chroot", options.seal)):
        if on:
            raise ConfigError(f"{name}: not with pyvmm debug, whose prompt has the guest to itself")
    commands, batch = given.get("ex", []), "batch" in given
    debugged = Debugged(options, commands, batch, _limit(given), given.get("symbols", [""])[-1])
    prepare(debugged, options)
    try:
        reason = debugged.run(options.timeout, False, options.load)
    finally:
        debugged.close()
    if debugged.signalled:
        return status.SIGNAL + debugged.signalled
    if reason.kind == events.TIMEOUT:
        tell(reason)
        return status.of(reason)
    return FAILED if batch and debugged.failed else status.OK


def _limit(given: dict[str, list[str]]) -> int:
    if "history-memory" not in given:
        return LIMIT
    text = given["history-memory"][-1]
    value = size(text)
    if value is None or value < _LEAST:
        raise ConfigError(f"--history-memory {text}: give a size such as 64M, at least 1M")
    return value


class _Leave(BaseException):
    """A signal wants the process to end."""


class Debugged(Run):
    """A run whose machine stands still between the user's commands.

    Args:
        options: of the command line.
        commands: to be carried out first.
        batch: and nothing else.
        limit: bytes for the history.
        symbol_file: "" for the guest's own symbols.

    Attributes:
        failed: a command failed.
        signalled: the signal that ended it, or 0.
    """

    def __init__(self, options: Options, commands: list[str], batch: bool, limit: int, symbol_file: str) -> None:
        assert options.config is not None
        config = options.config
        self.console: GuestConsole | None = None
        self.failed = False
        self.signalled = 0
        self._prompt: Prompt | None = None
        self._commands, self._batch, self._limit = commands, batch, limit
        self._name = options.guest.name if options.guest is not None else os.path.basename(config.boot.kernel)
        image = config.boot.kernel
        self._symbols = symbols.load(symbol_file) if symbol_file else symbols.of_guest(image)
        mine = [index for index, serial in enumerate(config.serials) if serial.kind == "stdio"]
        quiet = tuple(each.replace(kind="null") if each.kind == "stdio" else each for each in config.serials)
        # each write to the UART is an exit to stop at: nothing may be collected in the kernel
        super().__init__(config.replace(serials=quiet, coalesce=False), options.debugcon)
        if mine:
            self.console = GuestConsole(0 if sys.stdin.isatty() and not batch else -1)
            self.consoles[mine[0]] = self.console

    def goes_on(self, reason: StopReason) -> bool:
        """A reset is an end here: what was before it stays to be looked at."""
        return False

    def serve(self, machine: Machine, timeout: float | None, paused: bool) -> StopReason:
        """Has the machine run on another thread, and reads commands on this one."""
        for warning in machine.warnings:
            say(f"pyvmm: warning: {warning}")
        live = Live(machine, name=self._name, limit=self._limit)
        for note in live.notes:
            say(f"pyvmm: note: {note}")
        for observe in self.observers:
            observe(machine)
        ended: list[StopReason] = []

        def run() -> None:
            block_signals()
            try:
                ended.append(machine.run(timeout and round(timeout, 1)))
            except BaseException as error:  # for want of a thread, say: the prompt is told
                ended.append(vmm_error(error))
                machine.request_stop(ended[0])

        thread = Thread(target=run)
        thread.start()
        try:
            self._converse(live, machine)
        except _Leave:
            pass
        finally:
            self._end(live, machine)
            thread.join()
            self.left(machine, ended[0])
        return ended[0]

    def _converse(self, live: Live, machine: Machine) -> None:
        console = self.console
        session = Session(
            live,
            self._symbols,
            type_=(lambda data: _type(console, machine, data)) if console is not None else None,
            save=lambda path: _save(machine, path),
            cpuid=lambda vcpu: machine.cpu.leaves(vcpu),
        )
        if console is not None:
            session.foreground = console.foreground
        prompt = self._prompt = Prompt(session, batch=self._batch)
        if prompt.interactive:
            self._greet(prompt)
        try:
            prompt.run(self._commands)
        finally:
            self.failed = prompt.failed

    def _greet(self, prompt: Prompt) -> None:
        style = prompt.style
        print(f"{style.title(self._name)} is loaded and stands before its first instruction.")
        print(f"{style.name('step')} (s) goes to its first exit, {style.name('back')} (bs) returns, {style.name('help')} lists the rest.")
        if not self._commands:
            prompt.show(prompt.session.stopped(style))

    def _end(self, live: Live, machine: Machine) -> None:
        """The guest ends where it stands: nothing of it runs any more."""
        if not machine.paused:
            machine.toggle_pause()
        try:
            live.close()
        except (PyvmmError, OSError) as error:
            say(f"pyvmm: warning: {error}")
        machine.stop()

    def _on_signal(self, number: int, _frame: object) -> None:
        self.signalled = self.signalled or number
        if self._prompt is None or not self._prompt.leave():
            raise _Leave

    def catch_signals(self) -> None:
        """As any run; Ctrl-C is the prompt's."""
        super().catch_signals()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _type(console: GuestConsole, machine: Machine, data: bytes) -> None:
    """The guest finds it at its next instruction, however late the I/O thread is."""
    console.type(data)
    with machine.lock:
        console.look()


def _save(machine: Machine, path: str) -> str:
    """Writes a snapshot; returns what there is to add."""
    from pyvmm.snapshot import file

    snapshot = machine.save()
    file.write(snapshot, path)
    return "".join(f"\n{note}" for note in snapshot.notes)
