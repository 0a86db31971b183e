"""A live machine that keeps no history: it can be looked at, changed and moved forward, at the price of a counter per exit."""

from __future__ import annotations

from pyvmm.errors import HostError, KvmError
from pyvmm.kvm import state as kvm_state
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import Breakpoints
from pyvmm.observe.debug.control import Control
from pyvmm.observe.debug.subject import Moment, Stop, SubjectError
from pyvmm.snapshot.capture import forget_shadows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from pyvmm.kvm.state import VcpuState, VmState
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.machine import Machine
    from pyvmm.observe.debug.subject import ExitRecord
    from pyvmm.observe.explain.explain import Explanation
    from pyvmm.observe.explain.layout import Layout, States
    from pyvmm.observe.paging import Memory

_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")


class Forward:
    """See the module, and ``subject.Subject`` for what is not said here.

    Args:
        machine: not running yet, or running; it is stopped.
        name: for the user.
        breakpoints: somebody's; else its own.

    Raises:
        SubjectError: the run is over, or another debugger is there.
    """

    live = True
    memory_note = ""

    def __init__(self, machine: Machine, name: str = "", breakpoints: Breakpoints | None = None) -> None:
        self.machine = machine
        self.name = name
        self.vcpus = len(machine.vcpus)
        self.breakpoints = Breakpoints() if breakpoints is None else breakpoints
        self.control = Control(machine, self.breakpoints)
        self.control.attach()

    def close(self) -> None:
        """Lets the machine go on, or end if the guest has ended."""
        self.control.detach()

    @property
    def stop(self) -> Stop:
        """Why it stands still."""
        return self.control.stop

    @property
    def running(self) -> bool:
        """Whether a move is on its way."""
        return self.control.running

    # --- where in time -----------------------------------------------------------------------------------------------
    @property
    def first(self) -> Moment:
        """See Subject: there is no going back."""
        return self.control.moment

    last = first

    # --- looking -----------------------------------------------------------------------------------------------------
    def regs(self, vcpu: int) -> Any:
        """See Subject."""
        return self._vcpu(vcpu).get_regs()

    def sregs(self, vcpu: int) -> Any:
        """See Subject."""
        return self._vcpu(vcpu).get_sregs()

    def vcpu_state(self, vcpu: int) -> VcpuState:
        """See Subject."""
        return kvm_state.get(self._vcpu(vcpu))

    def _vcpu(self, vcpu: int) -> Vcpu:
        if not 0 <= vcpu < self.vcpus:
            raise SubjectError(f"there is no vCPU {vcpu}; there {'are' if self.vcpus > 1 else 'is'} {self.vcpus}")
        if self.running:
            raise SubjectError("it is running: interrupt it first")
        if self.machine.reason is not None:
            raise SubjectError("the machine has ended")
        return self.machine.vcpus[vcpu]

    def vm_state(self) -> VmState:
        """See Subject."""
        self._vcpu(0)
        return kvm_state.get_vm(self.machine.vm)

    @property
    def memory(self) -> Memory:
        """See Subject."""
        return self.machine.memory

    @property
    def layout(self) -> Layout:
        """See Subject."""
        from pyvmm.observe.explain.layout import Layout

        with self.control.quiet():
            return Layout.of(self.machine)

    def devices(self) -> States:
        """See Subject."""
        from pyvmm.observe.explain.layout import states

        with self.control.quiet():
            return states(self.machine)

    def exit(self, number: int) -> ExitRecord:
        """See Subject."""
        self._no_history("exits are not kept")

    def explain(self, number: int) -> Explanation:
        """See Subject."""
        self._no_history("exits are not kept")

    def console(self, most: int = 4096) -> bytes:
        """See Subject; it is not kept either."""
        return b""

    # --- changing ----------------------------------------------------------------------------------------------------
    def set_regs(self, vcpu: int, values: dict[str, int]) -> None:
        """See Subject."""
        target = self._vcpu(vcpu)
        regs, sregs = target.get_regs(), target.get_sregs()
        for name, value in values.items():
            holder = sregs if name in _CONTROL else regs
            if not hasattr(holder, name):
                raise SubjectError(f"there is no register {name} to be set")
            setattr(holder, name, value)
        try:
            if any(name in _CONTROL for name in values):
                target.set_sregs(sregs)
            target.set_regs(regs)
        except KvmError as error:
            raise SubjectError(f"KVM refuses that: {error}") from None

    def change(self, vcpu: int, act: Callable[[Vcpu], None]) -> None:
        """Has ``act`` change a vCPU: what has no name in ``set_regs``, such as SSE registers."""
        try:
            act(self._vcpu(vcpu))
        except KvmError as error:
            raise SubjectError(f"KVM refuses that: {error}") from None

    def write(self, gpa: int, data: bytes) -> None:
        """See Subject."""
        self._vcpu(0)
        try:
            with self.control.quiet():
                self.machine.memory.write(gpa, data)
                forget_shadows(self.machine)
        except HostError as error:
            raise SubjectError(str(error)) from None

    # --- moving ------------------------------------------------------------------------------------------------------
    def step(self, count: int = 1) -> Stop:
        """See Subject."""
        return self.control.run(until=self.control.number + count)

    def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
        """See Subject."""
        self._vcpu(vcpu)
        return self.control.step_instructions(vcpu, count)

    def run(self, only: frozenset[int] = frozenset()) -> Stop:
        """See Subject."""
        return self.control.run(only=only)

    def goto(self, moment: Moment) -> Stop:
        """See Subject; forward only."""
        if moment.exit <= self.control.number or moment.steps:
            self._no_history("there is no way back")
        stop = self.control.run(until=moment.exit)
        return stop.replace(why=subject.ARRIVED) if stop.why == subject.EXIT else stop

    def back(self, count: int = 1) -> Stop:
        """See Subject."""
        self._no_history("there is no way back")

    def reverse_step(self, vcpu: int, count: int = 1) -> Stop:
        """See Subject."""
        self._no_history("there is no way back")

    def reverse_run(self) -> Stop:
        """See Subject."""
        self._no_history("there is no way back")

    def _no_history(self, text: str) -> NoReturn:
        raise SubjectError(f"{text}: this guest runs without history")

    def interrupt(self) -> None:
        """See Subject."""
        self.control.interrupt()


if TYPE_CHECKING:
    from pyvmm.observe.debug.subject import Subject

    _check: Callable[[Forward], Subject] = lambda each: each  # noqa: E731
