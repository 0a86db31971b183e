"""A machine at rest: no vCPU in the guest, no access half done, no request in flight, no callback running.

Requests are completed, not dropped: a disk's answer that came while the machine was being stopped is in memory and ring. What the
driver rings for meanwhile is served afterwards.
"""

from __future__ import annotations

from time import monotonic

from pyvmm.errors import HostError
from pyvmm.kvm import structs
from pyvmm.runloop import Stop
from pyvmm.snapshot import parts
from pyvmm.threads import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import Machine

PATIENCE = 30.0  # seconds for the host's disks
_PIECES = 1 << 16  # exits that one instruction may need to be complete (REP INS into device memory); then it must wait


class Quiet:
    """``with Quiet(machine):`` keeps it at rest. Without the machine lock.

    A machine that was paused, or does not run, stays so; ``pause`` and ``resume`` meanwhile have their effect afterwards. They may be
    nested on one thread.

    Args:
        machine: whose.
        standing: the caller is a vCPU's thread that ``stand``s, its exit settled; any other thread but a vCPU's without this. Two such
            threads do not wait for one another: each counts as parked while it waits for its turn.

    Raises:
        HostError: the run is over, or a disk of the host does not answer.
    """

    def __init__(self, machine: Machine, standing: bool = False) -> None:
        self.machine = machine
        self._standing = standing
        self._inner = False

    def __enter__(self) -> Machine:
        machine, me = self.machine, get_ident()
        self._inner = machine.quiet == me
        if self._inner:
            return machine
        machine.resting.acquire()
        machine.hold(True)
        machine.lock.acquire()
        try:
            self._alive()
            self._settle()
            self._alive()  # what was completed may have ended it
            self._drain()
        except BaseException:
            self._release()
            raise
        machine.quiet = me
        return machine

    def __exit__(self, *_: object) -> None:
        if not self._inner:
            self.machine.quiet = 0
            self._release()

    def _alive(self) -> None:
        if self.machine.reason is not None:
            raise HostError("the run is over: there is nothing to take a snapshot of, or to put one into")

    def _settle(self) -> None:
        """Completes what each vCPU was doing when it left the guest. One that is parked or stands has nothing to complete, but a run
        loop that was stopped by its caller may have."""
        lock = self.machine.lock
        for vcpu, loop in zip(self.machine.vcpus, self.machine.runloops, strict=True):
            for _ in range(_PIECES):
                if self._standing or vcpu.settle():  # its threads only: KVM waits for all CPUs when another thread runs a vCPU
                    break
                lock.release()  # the handler takes it
                try:
                    loop.exits[vcpu.words[structs.RUN_EXIT_REASON // 4]]()
                except Stop:
                    return
                finally:
                    lock.acquire()
            if loop.drain is not None:
                loop.drain()

    def _drain(self) -> None:
        held = parts.cores(self.machine)
        for core in held:
            core.hold(True)
        end = monotonic() + PATIENCE
        for core in held:
            if not core.drained(max(end - monotonic(), 0)):
                raise HostError(f"{core.device.name}: the host's disk does not answer")

    def _release(self) -> None:
        machine = self.machine
        for core in parts.cores(machine):
            core.hold(False)
        machine.lock.release()
        machine.hold(False)
        machine.resting.release()
