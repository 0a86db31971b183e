"""``pyvmm run``: consoles, terminal and signals around one machine after another (a guest's reset builds a new one)."""

from __future__ import annotations

import gc
import os

from pyvmm import events, status
from pyvmm.backends import console
from pyvmm.backends.stderr import say, say_lines
from pyvmm.cli.options import Options, help_text
from pyvmm.config import Config, SerialConfig
from pyvmm.csignal import signal
from pyvmm.events import vmm_error
from pyvmm.machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.backends.net.backend import NetBackend
    from pyvmm.backends.terminal import Terminal
    from pyvmm.cli.monitor import AtTerminal
    from pyvmm.events import StopReason

# What ends a process by default and may come from outside: each must give the terminal back first.
_STOP_SIGNALS = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip


def command(arguments: list[str]) -> int:
    """Runs a guest; returns the exit status (``pyvmm.status``)."""
    options = Options(arguments)
    if options.config is None:
        print(help_text(), end="")
        return status.OK
    if options.config.cpu == "help":
        from pyvmm import cpuid

        print(cpuid.help_text())
        return status.OK
    session = open_session(options)
    prepare(session, options)
    try:
        reason = session.run(options.timeout, options.paused, options.load)
    finally:
        session.close()
    tell(reason)
    return status.of(reason)


def open_session(options: Options) -> Session:
    """The session of a command line. ConfigError, as ``Session``."""
    assert options.config is not None
    if options.json_log:
        from pyvmm.cli.jsonlog import LoggedSession

        return LoggedSession(options)
    return Session(options.config, options.debugcon)


def prepare(session: Session, options: Options) -> None:
    """What any run of these options may have: the sandbox, traces, gdb. ConfigError."""
    session.seal = options.seal
    if options.trace:
        from pyvmm.cli.trace import attach

        attach(session, options.trace)
    if options.gdb:
        from pyvmm.cli.gdb import attach as attach_gdb

        attach_gdb(session, options.gdb, options.paused)
    if options.monitors:
        from pyvmm.cli.monitor import listen

        listen(session, options.monitors)


class Session:
    """What outlives a guest's reset: disks with their locks, networks, consoles, the terminal, and how signals are answered.

    Raises:
        ConfigError: a disk, a network or a console cannot be opened.
    """

    def __init__(self, config: Config, debugcon: SerialConfig | None = None) -> None:
        self.config = config
        self.machine: Machine | None = None
        self.terminal: Terminal | None = None
        self.seal: Callable[[], None] | None = None  # called once, when all is open and before the guest runs
        self.sealed = False
        self.consoles: list[console.Console] = []
        self.debugcon: console.Console | None = None
        self.drives: dict[str, BlockBackend] = {}
        self.chardevs: dict[str, console.Console] = {}
        self.netdevs: dict[str, NetBackend] = {}
        self._signal = 0  # the first one that arrived
        self.monitor: Any = None  # observe.debug.monitor.Monitor, once somebody wants one
        self._at_terminal: AtTerminal | None = None
        self.observers: list[Callable[[Machine], None]] = []  # called with each machine before it runs
        self.leavers: list[Callable[[Machine], None]] = []  # and with each when its run is over
        self.closing: list[Callable[[], None]] = []  # called when the run is over, before anything is closed
        try:
            for drive in config.drives:
                from pyvmm.backends.block.backend import open_drive

                self.drives[drive.id] = open_drive(drive)
            for serial in config.serials:
                self.consoles.append(console.make(serial))
            for chardev in config.chardevs:
                self.chardevs[chardev.id] = console.make(chardev.backend, "chardev")
            if config.netdevs:
                from pyvmm.backends.net.backend import open_netdevs

                plain = {device.get("netdev") for device in config.devices if device.name == "e1000"}
                self.netdevs = open_netdevs(config.netdevs, plain)
            if debugcon is not None:
                self.debugcon = console.make(debugcon, "debugcon")
        except BaseException:
            self.close()
            raise

    def run(self, timeout: float | None = None, paused: bool = False, load: str = "") -> StopReason:
        """Boots, boots again after each reset unless -no-reboot, wakes from S3. The timeout counts over all; -S and a snapshot to
        ``load`` are for the first."""
        from time import monotonic

        deadline = None if timeout is None else monotonic() + timeout
        self.catch_signals()
        sleeper: Machine | None = None
        while True:
            left = None if deadline is None else max(deadline - monotonic(), 0.001)
            reason, machine = self._run_once(left, paused, sleeper, load)
            sleeper = machine if reason.kind == events.WAKE else None
            if not self.goes_on(reason):
                if reason.kind == events.TIMEOUT:
                    reason = reason.replace(detail=f"no end after {timeout:g} s")
                self.finished(reason)
                return reason
            paused, load = False, ""

    def goes_on(self, reason: StopReason) -> bool:
        """Whether another machine follows the one that ended so."""
        return reason.kind == events.WAKE or reason.kind == events.RESET and not self.config.no_reboot

    def finished(self, reason: StopReason) -> None:
        """The run is over; for who tells others of it."""

    def catch_signals(self) -> None:
        """Has what would end the process end the machine. A session inside another program leaves that to the program."""
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._on_signal)

    def _run_once(self, timeout: float | None, paused: bool, sleeper: Machine | None, load: str) -> tuple[StopReason, Machine]:
        with Machine(
            self.config, self.consoles, debugcon=self.debugcon, sleeper=sleeper,
            drives=self.drives, chardevs=self.chardevs, netdevs=self.netdevs,
        ) as machine:  # fmt: skip
            if load:
                from pyvmm.snapshot import file

                for note in file.load(machine, load).notes:
                    say(f"pyvmm: {load}: {note}")
            self.machine = machine
            try:
                return self.serve(machine, timeout, paused), machine
            finally:
                self.machine = None  # a signal from here on finds no machine, and stops the next one

    def serve(self, machine: Machine, timeout: float | None, paused: bool) -> StopReason:
        """Runs one machine to its end. Does not return when a thread of it hangs: the process ends."""
        for warning in machine.warnings:
            say(f"pyvmm: warning: {warning}")
        self._take_terminal()
        if paused:
            machine.pause()  # now: an observer may let gdb in, which resumes it
        for observe in self.observers:
            observe(machine)
        if self.seal is not None:
            seal, self.seal, self.sealed = self.seal, None, True
            seal()
        if self._signal:  # it came while there was no machine yet
            machine.stop(self._signal)
        if paused and self.terminal is not None:
            say("[paused; Ctrl-A p goes on]")
        gc.enable()  # cli.entry turned it off for the start
        reason = machine.run(timeout)
        self.left(machine, reason)
        if reason.kind == events.CRASH:
            reason = reason.replace(report=crash_report(machine, reason))
        if self.config.list_unclaimed:
            say_lines(_unclaimed(machine))
        return reason

    def left(self, machine: Machine, reason: StopReason) -> None:
        """The run of a machine is over. Ends the process when a thread of it hangs."""
        for leave in self.leavers:
            leave(machine)
        if machine.hung:
            if machine.disk_hung:
                self.drives.clear()  # a flush would wait for it as well
            self.close()
            self.finished(reason)
            say(f"pyvmm: {reason.detail}; {machine.stuck}")
            os._exit(status.of(reason))

    def _take_terminal(self) -> None:
        kinds = [each.kind for each in self.config.serials] + [each.backend.kind for each in self.config.chardevs]
        consoles = [*self.consoles, *self.chardevs.values()]
        stdio = next((each for each, kind in zip(consoles, kinds, strict=True) if kind == "stdio"), None)
        if stdio is None or self.terminal is not None or not os.isatty(0):
            return
        from pyvmm.backends.terminal import Terminal

        commands = {ord("x"): self._quit, ord("p"): self._pause, ord("b"): self._break, ord("c"): self._monitor}
        self.terminal = Terminal(0, commands)
        stdio.filter = self.terminal.filter
        self._stdio = stdio

    def _quit(self) -> None:
        if self.monitor is not None and self.monitor.attached:
            from pyvmm.cli.monitor import end

            end(self)
        elif self.machine is not None:
            self.machine.stop()

    def _pause(self) -> None:
        if self.machine is not None:
            self.machine.toggle_pause()
            say("[paused]" if self.machine.paused else "[running]")

    def _break(self) -> None:
        port = next((index for index, serial in enumerate(self.config.serials) if serial.kind == "stdio"), None)
        if self.machine is not None and port is not None:  # a virtio console has no break
            self.machine.devices[f"serial{port}"].receive_break()

    def _monitor(self) -> None:
        if self._at_terminal is None:
            from pyvmm.cli.monitor import AtTerminal

            self._at_terminal = AtTerminal(self, self._stdio)
        self._at_terminal.enter()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT and self._at_terminal is not None and self._at_terminal.open:
            self._at_terminal.interrupt()
            return
        self._signal = self._signal or number
        if self.machine is not None:
            self.machine.stop(number)

    def close(self) -> None:
        """Gives the terminal back, makes sure that the disks have what was written, closes everything. May be called twice."""
        while self.closing:
            self.closing.pop()()
        if self.terminal is not None:
            self.terminal.restore()
            self.terminal = None
        for each in (*self.consoles, *self.chardevs.values(), *([self.debugcon] if self.debugcon else [])):
            each.close()
        self.consoles, self.chardevs, self.debugcon = [], {}, None
        while self.netdevs:  # hub ports before what is behind the hub
            self.netdevs.popitem()[1].close()
        while self.drives:
            drive = self.drives.popitem()[1]
            try:
                drive.flush()
            except OSError as error:
                say(f"pyvmm: warning: {drive.name}: {error.strerror}: what the guest wrote last may be lost; check the host's disk")
            try:
                drive.close()
            except OSError:
                pass  # the descriptor is gone all the same


def crash_report(machine: Machine, reason: StopReason) -> str:
    """Several lines on why a run ended as CRASH; "" when that is no vCPU's doing. The machine is not closed yet."""
    if reason.vcpu is None:
        return ""
    try:
        from pyvmm.exits import decode
        from pyvmm.observe.crash import report

        vcpu = machine.vcpus[reason.vcpu]
        return report(vcpu, machine.memory, decode(vcpu.page))
    except Exception as error:  # a report that fails must not hide the crash
        return vmm_error(error).detail


def tell(reason: StopReason) -> None:
    """One line on stderr for an end the user did not ask for; the report when there is one."""
    if reason.report:
        say_lines(reason.report.rstrip("\n") + "\n")
    if reason.kind == events.TIMEOUT:
        say(f"pyvmm: timeout: {reason.detail}")
    elif reason.kind in (events.KVM_ERROR, events.VMM_ERROR):
        say(f"pyvmm: {reason.detail}")
    elif reason.kind == events.CRASH and not reason.report:
        say(f"pyvmm: the guest crashed: {reason.detail}")


def _unclaimed(machine: Machine) -> str:
    lines = []
    for bus in (machine.ports, machine.mmio):
        for (address, size, is_write), count in sorted((bus.unclaimed or {}).items()):
            lines.append(f"pyvmm: unclaimed {bus.space} {'write' if is_write else 'read'} {address:#x} size {size}: {count}\n")
    return "".join(lines)
