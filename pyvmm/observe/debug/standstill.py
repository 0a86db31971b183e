"""The vCPUs of a machine between a debugger's moves: parked, their exits complete, their threads at hand for single things.

A vCPU's thread parks where the run loop asks whether to go on (``RunLoop.interrupted``): KVM_RUN has come back with EINTR then, so a
pending access is complete. What needs KVM_RUN, such as a single step, is done on that very thread: KVM waits for all CPUs of the
host when a vCPU changes threads, and a signal for the debugger's thread would not be seen while it is in there.
"""

from __future__ import annotations

from pyvmm.observe.debug.subject import SubjectError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine import Machine

MISSED = 0.25  # seconds until a debugger on the main thread sees a signal that came just before it began to wait


class _Job:
    """Something for one vCPU's thread."""

    def __init__(self, index: int, act: Callable[[], Any]) -> None:
        self.index = index
        self.act = act
        self.begun = self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.act()
        except BaseException as error:  # the debugger's thread raises it
            self.error = error


class Standstill:
    """Stops and releases the vCPU threads of one machine.

    Args:
        machine: whose.

    Attributes:
        on: whether the vCPUs are to stand still.
        held: vCPUs that stand still while the others run.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.on = False
        self.held: frozenset[int] = frozenset()
        self._inner = [loop.interrupted for loop in machine.runloops]
        self._job: _Job | None = None

    def attach(self) -> None:
        """Stops them, if they run; returns when they are parked. Not from a vCPU's thread."""
        machine = self.machine
        machine.hold(True)
        for index, loop in enumerate(machine.runloops):
            loop.interrupted = lambda index=index: self._park(index)  # type: ignore[misc]
        self.stop()  # those that parked elsewhere come here
        machine.hold(False)
        self.wait()

    def detach(self) -> None:
        """Lets them go on as before."""
        for loop, inner in zip(self.machine.runloops, self._inner, strict=True):
            loop.interrupted = inner
        self.release()

    def stop(self) -> None:
        """Has them park; returns at once. From any thread, a vCPU's and a signal handler too."""
        with self.machine.parking:
            self.on = True
            self.kick()

    def kick(self) -> None:
        """Has whoever is in KVM_RUN come out of it and look."""
        self.machine.hold(True, wait=False)
        self.machine.hold(False)

    def wait(self) -> None:
        """Until all are parked, or the run is over. Not from a vCPU's thread."""
        self.machine.hold(True)
        self.machine.hold(False)

    def release(self, held: frozenset[int] = frozenset()) -> None:
        """Lets them go, but for those held: until the next ``release``."""
        with self.machine.parking:
            self.on, self.held = False, held
            self.machine.parking.notify_all()

    def do(self, index: int, act: Callable[[], Any], enough: Callable[[], object] = lambda: False) -> Any:
        """What ``act`` gives, called on the thread of a parked vCPU, with nobody else at the machine. From one thread at a time.

        Returns:
            None when ``enough`` became true before its turn came: the vCPU is parked elsewhere (the user's pause, S3).

        Raises:
            SubjectError: the run is over. And what ``act`` raises.
        """
        job = _Job(index, act)
        parking = self.machine.parking
        with parking:
            self._job = job
            parking.notify_all()
            parking.wait_for(lambda: job.done or not job.begun and (self.machine.reason is not None or enough()), MISSED)
            self._job = None
        if job.error is not None:
            raise job.error
        if not job.done and self.machine.reason is not None:
            raise SubjectError("the machine has ended")
        return job.result

    def _park(self, index: int) -> bool:
        """In place of the machine's answer to EINTR. Returns True when the run is over."""
        while not self._inner[index]():
            with self.machine.parking:
                if not self._stands(index):  # asked after the machine has forgotten earlier kicks: a later one ends the next KVM_RUN
                    return False
            self.machine.stand(True)
            try:
                while self._work(index):
                    pass
            finally:
                self.machine.stand(False)
        return True

    def _stands(self, index: int) -> bool:
        return self.on or index in self.held

    def _work(self, index: int) -> bool:
        """Waits for something to do and does it. Returns False when there is no more reason to stand."""
        machine = self.machine

        def wanted() -> bool:
            return self._job is not None and self._job.index == index and not self._job.begun

        with machine.parking:
            machine.parking.wait_for(lambda: not self._stands(index) or machine.reason is not None or wanted())
            job = self._job
            if machine.reason is not None or job is None or not wanted():
                return False
            job.begun = True
        with machine.resting:  # nobody may take this vCPU, though its thread stands, for one that rests
            job.run()
        with machine.parking:
            job.done = True
            machine.parking.notify_all()
        return True
