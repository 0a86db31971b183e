"""One guest in a test: a machine on threads of this process, with the options of ``pyvmm run``.

    test's thread                         "guest NAME" thread                      vCPU threads
    Vm(...)      ---- starts ---->        Session.run: boots, boots after resets   KVM_RUN
    serial.expect, memory, wait, ...      end of the run; holds the machine open
    close()      ---- lets go ---->       frees the machine

The machine stays open after its run until ``close``: memory and exits can be looked at when the guest is over.
"""

from __future__ import annotations

from threading import Event, Thread
from typing import Any

from pyvmm import events, status
from pyvmm.cli.options import Options
from pyvmm.cli.run import Session, crash_report
from pyvmm.config import Config, SerialConfig
from pyvmm.errors import ConfigError, HostError
from pyvmm.events import StopReason
from pyvmm.machine import JOIN_SECONDS, Machine
from pyvmm.memory import GuestMemory
from pyvmm.snapshot.capture import Snapshot
from pyvmm.testing.exits import Exits
from pyvmm.testing.serial import GuestEnded, GuestTimeout, Serial

_NULL = SerialConfig(kind="null")
_LINES = 20  # of the console in a report
_PATIENCE = 3 * JOIN_SECONDS  # seconds for a stopped run to be over: vCPU threads, then disks, then networks


class Vm:
    """A guest that runs.

    Args:
        arguments: of ``pyvmm run``. What they connect with stdio (the first serial port, if they say nothing) is ``serial``.
        label: what messages call it.
        timeout: seconds it may run in all, unless ``arguments`` have a ``--timeout``.
        watch: see every exit (``exits``); each takes some microseconds longer.
        coalesce: let the kernel batch the console's bytes, which then are no exits. Without ``watch`` it always does.
        restore: go on from there instead of booting; of a guest with the same arguments.

    Raises:
        PyvmmError: it cannot be started; one line says why.

    Attributes:
        serial: the console.
        serials: every serial port; those that ``arguments`` connect otherwise stay empty.
        exits: what ``watch`` saw.
        reason: why the run ended; None while it goes on.
    """

    def __init__(
        self,
        arguments: list[str],
        label: str = "guest",
        timeout: float = 60.0,
        watch: bool = True,
        coalesce: bool = False,
        restore: Snapshot | None = None,
    ) -> None:
        options = Options(arguments)
        if options.config is None:
            raise ValueError(f"{label}: -help boots nothing")
        for option, asked in (("-sandbox, -runas, -chroot", options.seal), ("--trace", options.trace), ("--json-log", options.json_log)):
            if asked:
                raise ConfigError(f"{label}: {option}: not in a test's own process; start `pyvmm run` for that")
        self.label = label
        self.exits = Exits(watch)
        self.reason: StopReason | None = None
        self.serials: list[Serial] = []
        self._options = options
        self._timeout = options.timeout or timeout
        self._machine: Machine | None = None
        self._error: BaseException | None = None
        config = options.config
        self._session = _Session(self, config.replace(coalesce=config.coalesce and (coalesce or not watch)), options.debugcon)
        self.serial = (self._session.typed or self.serials or [Serial(label, self.ended)])[0]
        try:
            self._start(restore)
        except BaseException:
            self.close()
            raise

    def _start(self, restore: Snapshot | None) -> None:
        self.reason = self._error = self._session.last = None
        self._restore = restore
        self._running, self._over, self._released = Event(), Event(), Event()
        self._thread = Thread(target=self._live, name=self.label, daemon=True)
        self._thread.start()
        self._running.wait()
        if self._error is not None:
            raise self._error

    # --- on the guest's thread ---------------------------------------------------------------------------------------
    def _live(self) -> None:
        try:
            self._session.run(self._timeout, self._options.paused, "" if self._restore else self._options.load)
        except BaseException as error:  # for the test's thread
            self._error = error
        finally:
            self._over.set()
            self._running.set()
            self._machine = None

    def begin(self, machine: Machine) -> None:
        """For the session: a machine is there, not yet running."""
        for console in self._session.typed:
            console.lock = machine.lock
        if self.exits.on:
            self.exits.watch(machine)
        if self._restore is not None:
            machine.load(self._restore)
            self._restore = None
        self._machine = machine
        self._running.set()

    def end(self, machine: Machine, reason: StopReason) -> StopReason:
        """For the session: the run is over for good. Returns when nobody needs the machine any more."""
        if reason.kind == events.TIMEOUT and self._session.last is None:
            reason = reason.replace(detail=f"no end after {self._timeout:g} s")
        if reason.kind == events.CRASH:
            reason = reason.replace(report=crash_report(machine, reason))
        self.reason = reason
        self._over.set()
        self._released.wait()
        return reason

    # --- the test's side ---------------------------------------------------------------------------------------------
    @property
    def machine(self) -> Machine:
        """The machine itself; a guest's reset makes a new one. GuestEnded: it is closed."""
        machine = self._machine
        if machine is None:
            raise GuestEnded(f"{self.label} is closed")
        return machine

    @property
    def memory(self) -> GuestMemory:
        """Guest memory by guest physical addresses (``read``, ``write``, ``unpack``), also after the end."""
        return self.machine.memory

    @property
    def exit_status(self) -> int | None:
        """What ``pyvmm run`` would end with (README); None while the guest runs."""
        return None if self.reason is None else status.of(self.reason)

    def ended(self) -> str:
        """How the run ended, in words; "" while it goes on."""
        if self.reason is not None:
            detail = f": {self.reason.detail}" if self.reason.detail else ""
            return f"the guest ended with status {self.exit_status} ({self.reason.kind}{detail})"
        if self._error is not None:
            return f"the run failed: {self._error}"
        return "it is closed" if self._over.is_set() else ""

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the guest to end. Returns ``exit_status``.

        Args:
            timeout: seconds from now, beside the time it may run in all.

        Raises:
            GuestTimeout: it did not, and was stopped. The rest of the test's guests run on.
        """
        __tracebackhide__ = True
        if not self._over.wait(timeout):
            self._give_up(StopReason(kind=events.TIMEOUT, detail=f"no end within {timeout:g} s"))
        if self._error is not None:
            raise self._error
        if self.reason is not None and self.reason.kind == events.TIMEOUT:
            raise GuestTimeout(f"{self.label}: {self.reason.detail}")
        found = self.exit_status
        if found is None:
            raise GuestEnded(f"{self.label} is closed")
        return found

    def stop(self) -> None:
        """Ends the guest, as SIGTERM ends ``pyvmm run``; nothing when it has ended. Memory and exits stay to be looked at."""
        if not self._over.is_set():
            self._give_up(StopReason(kind=events.QUIT, detail="stopped by the test"))

    def _give_up(self, reason: StopReason) -> None:
        while not self._over.is_set():  # a guest that resets may be between two machines
            if self._machine is not None:
                self._machine.loop.abandoned = True
                self._machine.request_stop(reason)
            self._session.last = reason
            if self._over.wait(0.02):
                return
            if self._machine is not None and self._machine.reason is not None and not self._over.wait(_PATIENCE):
                raise HostError(f"{self.label} cannot be stopped: {self._machine.stuck or 'its thread does not end'}")

    def pause(self) -> None:
        """Parks the vCPUs."""
        self.machine.pause()

    def resume(self) -> None:
        """Lets them go on; also what was started with -S."""
        self.machine.resume()

    def snapshot(self) -> Snapshot:
        """The guest's whole state now (docs/snapshots.md); it runs on. HostError: it has ended."""
        return self.machine.save()

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot of this guest, also when it has ended since. ``expect`` sees what is printed from here on."""
        if self._over.is_set():
            self._free()
            self.serial.skip()
            self._start(snapshot)
        else:
            with self.machine.quiesce() as machine:
                machine.load(snapshot)
                self.serial.skip()

    # --- the end -----------------------------------------------------------------------------------------------------
    def report(self) -> list[tuple[str, str]]:
        """What to show of a guest when a test has failed: [(title, text)]. Ends the guest."""
        ran = not self._over.is_set()
        self.stop()
        how = "it was still running, and was stopped" if ran else self.ended()
        if self.reason is not None and self.reason.report:
            how += "\n" + self.reason.report.rstrip("\n")
        shown = [(f"{self.label}: how it ended", how)]
        shown.append((f"{self.label}: the last lines of its console", self.serial.tail(_LINES) or "(nothing was printed)"))
        lines = self.exits.explained() if self._machine is not None else []
        if lines:
            shown.append((f"{self.label}: its last exits, of {self.exits.count()}", "\n".join(lines)))
        return shown

    def close(self) -> None:
        """Ends the guest and gives back threads, descriptors and memory. May be called twice.

        Raises:
            HostError: a thread of it does not end; what it holds stays.
        """
        if hasattr(self, "_thread"):
            self.stop()
            self._free()
        self._session.close()

    def _free(self) -> None:
        self._released.set()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            raise HostError(f"{self.label}: its thread does not end")

    def __repr__(self) -> str:
        return f"<{self.label}: {self.ended() or 'running'}>"

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Session(Session):
    """A session whose stdio is the test, and whose signals are the test runner's.

    Attributes:
        typed: consoles that are connected with stdio: the test's.
        last: why the run is to end as soon as there is a machine; None as a rule.
    """

    def __init__(self, vm: Vm, config: Config, debugcon: SerialConfig | None) -> None:
        self.vm = vm
        self.typed: list[Serial] = []
        self.last: StopReason | None = None
        serials = tuple(_NULL if each.kind == "stdio" else each for each in config.serials)
        chardevs = tuple(each.replace(backend=_NULL) if each.backend.kind == "stdio" else each for each in config.chardevs)
        shown = debugcon is not None and debugcon.kind == "stdio"
        super().__init__(config.replace(serials=serials, chardevs=chardevs), _NULL if shown else debugcon)
        for index, serial in enumerate(config.serials):
            port = Serial(f"{vm.label}'s serial{index}", vm.ended)
            vm.serials.append(port)
            if serial.kind == "stdio":
                self.consoles[index] = port
                self.typed.append(port)
        for chardev in config.chardevs:
            if chardev.backend.kind == "stdio":
                self.typed.append(Serial(f"{vm.label}'s {chardev.id}", vm.ended))
                self.chardevs[chardev.id] = self.typed[-1]
        if shown and self.debugcon is not None and self.typed:
            self.debugcon.write = self.typed[0].write  # type: ignore[method-assign]

    def catch_signals(self) -> None:
        """They are the test runner's."""

    def serve(self, machine: Machine, timeout: float | None, paused: bool) -> StopReason:
        """As the base, but a thread that hangs is no reason to end the process: ``Vm.stop`` tells of it."""
        self.vm.begin(machine)
        if self.last is not None:
            machine.request_stop(self.last)
        reason = machine.run(timeout, paused)
        if machine.disk_hung:
            self.drives.clear()  # a flush would wait for it as well
        return reason if self.goes_on(reason) else self.vm.end(machine, reason)


def arguments(words: tuple[Any, ...], options: dict[str, Any]) -> list[str]:
    """``guest("hello", smp=2, no_reboot=True, device=["a", "b"])`` as ``hello -smp 2 -no-reboot -device a -device b``."""
    found = [str(word) for word in words]
    for name, value in options.items():
        option = "-" + name.replace("_", "-")
        if value is True:
            found.append(option)
        elif value is not False and value is not None:
            for each in value if isinstance(value, (list, tuple)) else [value]:
                found += [option, str(each)]
    return found
