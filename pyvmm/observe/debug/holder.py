"""A running session's guest for gdb: nobody is at the machine until gdb comes, and gdb stays when the guest resets.

Three threads meet here: the session's (``begin`` and ``end`` around each machine's run, ``over`` behind all), the gdb server's (``take``,
``release``, ``kill``, ``monitor``), and the one that moves the guest for gdb (``following``).
"""

from __future__ import annotations

from time import monotonic, sleep

from pyvmm.errors import PyvmmError
from pyvmm.observe.debug.conditions import Breakpoints
from pyvmm.observe.debug.forward import Forward
from pyvmm.observe.gdb.target import TargetError
from pyvmm.threads import Condition, Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import Machine
    from pyvmm.observe.debug.live import Live
    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.subject import Stop

_BUILDING = 1.5  # seconds for a machine that is being built: gdb waits two for an answer
_PAUSE = 0.005
_PATIENCE = 5.0  # seconds for a move to see that the run is over


class RunHolder:
    """``gdbtarget.Holder`` for the machines of one session.

    Args:
        history: keep one, so that gdb can go backwards.
        limit: bytes for it.
        name: of the guest.
        vcpus: how many each machine has.
    """

    def __init__(self, vcpus: int, history: bool = False, limit: int = 256 << 20, name: str = "") -> None:
        if history:
            from pyvmm.observe.debug import live  # noqa: F401  # now: gdb gives up when an answer takes two seconds
        self.vcpus = vcpus
        self.reversible = history
        self._limit = limit
        self._name = name
        self._state = Condition()
        self._closing = Lock()
        self._machine: Machine | None = None
        self._subject: Live | Forward | None = None
        self._held = False  # gdb has taken the guest
        self._over = False
        self._breakpoints = Breakpoints()
        self._prompt: Session | None = None

    # --- the session's thread ----------------------------------------------------------------------------------------
    def begin(self, machine: Machine) -> None:
        """A machine is about to run."""
        with self._state:
            self._machine = machine
            if self._held:
                self._subject = self._open(machine)
            self._state.notify_all()

    def end(self, machine: Machine) -> None:
        """Its run is over, and the machine will be closed: nobody may be at it any more."""
        with self._state:
            found = self._subject
            if self._machine is machine:
                self._machine = self._subject = None
        if found is not None:
            end = monotonic() + _PATIENCE
            while found.running and monotonic() < end:
                sleep(0.001)
            self._detach(found)

    def over(self) -> None:
        """No machine comes any more."""
        with self._state:
            self._over = True
            self._state.notify_all()

    # --- gdb's threads -----------------------------------------------------------------------------------------------
    def take(self) -> Live | Forward:
        """See Holder. A gdb may come before the machine, or between two at a reset: it is waited for."""
        end = monotonic() + _BUILDING
        while self._machine is None and not self._over and monotonic() < end:
            sleep(_PAUSE)
        with self._state:
            if self._machine is None:
                raise TargetError("the guest has ended" if self._over else "there is no machine at this moment: try again")
            self._subject = self._open(self._machine)
            self._held = True
            return self._subject

    def _open(self, machine: Machine) -> Live | Forward:
        found: Live | Forward
        if self.reversible:
            from pyvmm.observe.debug.live import Live

            found = Live(machine, self._name, self._limit, self._breakpoints)
        else:
            found = Forward(machine, self._name, self._breakpoints)
        machine.resume()  # -S has waited for gdb
        self._prompt = None
        return found

    def release(self) -> None:
        """See Holder."""
        with self._state:
            found, self._subject, self._held = self._subject, None, False
        if found is not None:
            self._close(found)

    def kill(self) -> None:
        """See Holder. Let go before it is stopped, it would execute on until then; ``end`` parts with it."""
        with self._state:
            machine, self._held = self._machine, False
        if machine is not None:
            machine.stop()

    def following(self, stop: Stop) -> Live | Forward | None:
        """See Holder."""
        with self._state:
            found = self._subject
        if found is not None:
            self._close(found)
        with self._state:
            self._state.wait_for(lambda: self._over or self._subject not in (None, found))
            return self._subject if not self._over else None

    def _close(self, found: Live | Forward) -> None:
        with self._closing:
            try:
                found.close()
            except (PyvmmError, OSError) as problem:
                found.control.detach()
                if found.machine.reason is None:
                    raise TargetError(f"the guest goes on, but: {problem}") from None

    def _detach(self, found: Live | Forward) -> None:
        with self._closing:
            found.control.detach()

    def monitor(self, command: str) -> str:
        """See Holder: the debugger's commands."""
        from pyvmm.observe.debug.session import Session
        from pyvmm.observe.symbols import of_guest

        with self._state:
            found = self._subject
        if found is None:
            raise TargetError("there is no machine")
        if self._prompt is None:
            machine = found.machine
            self._prompt = Session(
                found,
                of_guest(machine.config.boot.kernel),
                save=lambda path: _save(machine, path),
                cpuid=lambda vcpu: machine.cpu.leaves(vcpu),
            )
        reply = self._prompt.execute(command)
        text = "gdb's own commands leave: kill ends the guest, detach lets it go on" if reply.leave else reply.text
        return text if text.endswith("\n") or not text else text + "\n"


def _save(machine: Machine, path: str) -> str:
    """Writes a snapshot; returns what there is to add."""
    from pyvmm.snapshot import file

    snapshot = machine.save()
    file.write(snapshot, path)
    return "".join(f"\n{note}" for note in snapshot.notes)
