"""The debugger's commands in a machine that runs: for Ctrl-A c, ``-monitor`` and ``-qmp``.

Nothing is attached before the first command that needs it. A command that only looks stops the guest for a moment; ``stop`` and the
moving commands leave it stopped; ``cont`` lets it go on, and without breakpoints the debugger leaves altogether: the guest then runs as
if nobody had looked, and what was kept of its past is forgotten.
"""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.kvm.structs import RUN_EXIT_REASON
from pyvmm.observe.debug.command import Command, CommandError, Reply, Table
from pyvmm.observe.debug.commands import COMMANDS
from pyvmm.observe.debug.completion import candidates
from pyvmm.observe.debug.conditions import Breakpoints
from pyvmm.observe.debug.session import Session
from pyvmm.observe.debug.style import PLAIN
from pyvmm.observe.debug.subject import CRASHED, END
from pyvmm.threads import Condition, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine import Machine
    from pyvmm.observe.debug.live import Live
    from pyvmm.observe.debug.session import Symbols
    from pyvmm.observe.debug.style import Style

_REASON = RUN_EXIT_REASON // 4
_INFO = Command(name="status", run=lambda session, line: Reply(), help="whether the guest runs")


class Monitor:
    """One for a process; machines come and go. All methods may be called from any thread but a vCPU's or the I/O loop's.

    Args:
        symbols: makes the guest's symbols, when somebody wants them.
        limit: bytes for a history while one is attached.

    Attributes:
        machine: the present one, None between two.
        type: gives bytes to the guest's console; None: there is no way.
        on_event: called with an event's name and data: STOP, RESUME, SHUTDOWN, and "" with a Reply to show when the guest has stopped.
    """

    def __init__(self, symbols: Callable[[], Symbols | None] = lambda: None, limit: int = 0) -> None:
        self.machine: Machine | None = None
        self.on_event: list[Callable[[str, dict[str, Any], Reply | None], None]] = []
        self._symbols, self._limit = symbols, limit
        self.type: Callable[[bytes], None] | None = None
        self._over = False
        self.breakpoints = Breakpoints()
        self._state = Condition()
        self._busy = False  # somebody's command is being carried out
        self._live: Live | None = None
        self._session: Session | None = None
        self._runner: Thread | None = None  # while ``cont`` waits for a breakpoint
        self.commands = Table((*COMMANDS.commands.values(), *_OWN))

    # --- machines come and go ------------------------------------------------------------------------------------------
    def attach(self, machine: Machine) -> None:
        """A machine is about to run; for ``cli.run.Session.observers``."""
        self.machine, self._live, self._runner, self._over = machine, None, None, False
        machine.at_end.append(self._ended)
        if self._session is not None:
            self._session.look = None
        if len(self.breakpoints):  # they outlive the guest's reset
            self.live()
            self._go()

    def leave(self, machine: Machine) -> None:
        """Its run is over: for ``cli.run.Session.leavers``. Nobody may be at it any more."""
        live, self._live, self._runner = self._live, None, None
        if live is None:
            return
        try:
            live.close()
        except (PyvmmError, OSError):  # it was ended behind the debugger's back
            live.control.on_exits = None
            live.control.detach()

    @property
    def attached(self) -> bool:
        """Whether the debugger has its hands on the machine: whoever ends it does so by ``end``."""
        return self._live is not None

    def _ended(self) -> None:
        """The run is over. Machine lock held."""
        self.machine, self._over = None, True
        self._tell("SHUTDOWN", {"guest": True})

    def _tell(self, name: str, data: dict[str, Any], reply: Reply | None = None) -> None:
        for each in list(self.on_event):
            each(name, data, reply)

    # --- commands ------------------------------------------------------------------------------------------------------
    def execute(self, line: str, style: Style = PLAIN) -> Reply:
        """Carries out one line; see the module. Never raises."""
        line = line.strip()
        if not line or line.startswith("#"):
            return Reply()
        try:
            command = self._find(line)
            if command.name in _OWN_NAMES:
                return _OWN_NAMES[command.name](self, line.partition(" ")[2].strip())
            with self._turn():
                return self._carry_out(command, line, style)
        except PyvmmError as error:
            return Reply(text=str(error), data={"error": str(error)}, error=True)

    def _find(self, line: str) -> Command:
        words = line.split()
        if len(words) == 2 and words[0] in ("info", "i") and len(words[1]) > 1 and "status".startswith(words[1]):
            return self.commands.find("status")
        return self.commands.find(words[0].partition("/")[0])

    def _carry_out(self, command: Command, line: str, style: Style) -> Reply:
        session = self.session()
        if not command.standing and command.group != "stopping":
            return session.execute(line, style)
        was_running = self._halt()
        reply = session.execute(line, style)
        if command.group == "moving" and not reply.error:
            if was_running:
                self._tell("STOP", {})
        elif was_running:
            self._go()
        return reply

    def session(self) -> Session:
        """The session, made at the first command. Attaches nothing. SubjectError: there is no machine."""
        if self._session is None:
            self._session = Session(_Lazy(self), self._symbols(), type_=self.type, save=self._save, cpuid=self._cpuid)
            self._session.from_boot = False
        return self._session

    def complete(self, line: str, word: str) -> list[str]:
        """What Tab offers; looking stops the guest for a moment."""
        try:
            with self._turn():
                was_running = self._halt()
                try:
                    return candidates(self.session(), line, word)
                finally:
                    if was_running:
                        self._go()
        except PyvmmError:
            return []

    def _save(self, path: str) -> str:
        from pyvmm.snapshot import file

        snapshot = self.present().save()
        file.write(snapshot, path)
        return "".join(f"\n{note}" for note in snapshot.notes)

    def _cpuid(self, vcpu: int) -> list[Any]:
        return self.present().cpu.leaves(vcpu)

    def present(self) -> Machine:
        """The machine. CommandError when there is none."""
        if self.machine is None:
            raise CommandError("the guest has ended" if self._over else "there is no machine yet")
        return self.machine

    def _turn(self) -> _Turn:
        """``with`` it: one command at a time."""
        return _Turn(self)

    # --- stopping and going on -----------------------------------------------------------------------------------------
    @property
    def status(self) -> str:
        """As QMP's query-status says it: "running", "prelaunch", "paused", "debug", "shutdown", "guest-panicked"."""
        machine, live = self.machine, self._live
        if machine is None:
            return "shutdown" if self._over else "prelaunch"
        if live is None:
            if not machine.paused:
                return "running"
            return "paused" if any(vcpu.words[_REASON] for vcpu in machine.vcpus) else "prelaunch"  # the page is zeros before KVM_RUN
        if live.running or self._runner is not None:
            return "running"
        return {CRASHED: "guest-panicked", END: "shutdown"}.get(live.stop.why, "debug" if live.stop.hits else "paused")

    def stop(self) -> bool:
        """Has the guest stand still. Returns whether it ran."""
        with self._turn():
            return self._halt()

    def go(self) -> None:
        """Has it go on."""
        with self._turn():
            self._go()

    def live(self) -> Live:
        """The debugger's hands on the machine; attaches them when they are not. SubjectError, CommandError: the run is over."""
        if self._live is None:
            from pyvmm.observe.debug.history import LIMIT
            from pyvmm.observe.debug.live import Live

            machine = self.present()
            self._live = Live(machine, limit=self._limit or LIMIT, breakpoints=self.breakpoints)
            if machine.paused:  # from here on it is the debugger who has it stand still
                machine.resume()
        return self._live

    def _halt(self) -> bool:
        """Returns whether it ran."""
        machine = self.present()
        if self._live is None:
            was_running = not machine.paused
            self.live()
            return was_running
        runner = self._runner
        if runner is None:
            return False
        self._runner = None  # whoever waits in it shows nothing
        self.session().interrupt()
        runner.join()
        return True

    def _go(self) -> None:
        machine, live = self.present(), self._live
        if live is None:
            if machine.paused:
                machine.resume()
            return
        if self._runner is not None:
            return
        if not len(self.breakpoints) and not self.session().hooks.on_exit:
            self._live = None
            try:
                live.close()
            except OSError as error:
                self._live = live
                raise CommandError(f"a drive could not be written: {error.strerror}; cont tries it again") from None
            return
        runner = self._runner = Thread(target=self._wait)
        runner.start()

    def _wait(self) -> None:
        """On a thread: until a breakpoint is hit, or somebody halts it."""
        block_signals()
        me, session = self._runner, self.session()
        reply = session.execute("continue")
        with self._state:
            if self._runner is not me or me is None:
                return  # halted: whoever did that knows
            self._runner = None
        live = self._live
        if live is not None and live.stop.why == END:
            self._live = None
            live.close()  # the machine ends as it would have
            return
        self._tell("STOP", {"reason": live.stop.why if live is not None else ""}, reply)

    def interrupt(self) -> None:
        """Ctrl-C: a command that moves ends."""
        if self._busy and self._live is not None:
            self._live.interrupt()

    def power_down(self) -> None:
        """Presses the machine's power button (ACPI 4.8.2.2.1), which a system that listens to takes as a wish to be shut down."""
        machine = self.present()
        button: Any = machine.devices["acpi-pm"]
        with machine.lock:
            button.press_power_button()
        self._tell("POWERDOWN", {})

    def end(self) -> None:
        """Ends the machine."""
        machine, live = self.machine, self._live
        if machine is None:
            return
        if live is not None:
            if self._runner is not None:
                self._halt()
            if not machine.paused:
                machine.toggle_pause()  # nothing of the guest runs any more
            self._live = None
            live.close()
        machine.stop()


class _Turn:
    """One command at a time, whoever sends it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def __enter__(self) -> None:
        monitor = self._monitor
        with monitor._state:
            monitor._state.wait_for(lambda: not monitor._busy)
            monitor._busy = True

    def __exit__(self, *_: object) -> None:
        monitor = self._monitor
        with monitor._state:
            monitor._busy = False
            monitor._state.notify_all()


class _Lazy:
    """A Subject that is attached when somebody asks it something; breakpoints outlive that."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.breakpoints = monitor.breakpoints

    def __getattr__(self, name: str) -> Any:
        return getattr(self._monitor.live(), name)


# --- commands of its own -------------------------------------------------------------------------------------------------
def _stop(monitor: Monitor, text: str) -> Reply:
    if monitor.stop():
        monitor._tell("STOP", {})
    return Reply(text="the guest stands still; cont lets it go on", data={"status": monitor.status})


def _cont(monitor: Monitor, text: str) -> Reply:
    monitor.present()
    monitor.go()
    monitor._tell("RESUME", {})
    return Reply(text="the guest runs", data={"status": monitor.status})


def _quit(monitor: Monitor, text: str) -> Reply:
    with monitor._turn():
        monitor.end()
    return Reply(leave=True)


def _status(monitor: Monitor, text: str) -> Reply:
    return Reply(text=f"VM status: {monitor.status}", data={"status": monitor.status})


def _powerdown(monitor: Monitor, text: str) -> Reply:
    monitor.power_down()
    return Reply(text="the power button was pressed: what follows is up to the guest", data={"status": monitor.status})


_OWN_NAMES: dict[str, Callable[[Monitor, str], Reply]] = {
    "stop": _stop,
    "continue": _cont,
    "quit": _quit,
    "status": _status,
    "system_powerdown": _powerdown,
}
_OWN = (
    Command(name="stop", group="moving", run=lambda session, line: Reply(), help="have the guest stand still"),
    _INFO,
    Command(
        name="system_powerdown",
        group="changing",
        run=lambda session, line: Reply(),
        help="press the power button (ACPI): a guest that listens shuts down",
    ),
)
