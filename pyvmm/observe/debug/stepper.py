"""One instruction of one vCPU, on its thread, with what KVMs do differently evened out.

KVM_GUESTDBG_SINGLESTEP is good for one KVM_RUN (some KVMs let the guest run free after the exit of an access), so it is asked for
before each. An instruction with an exit is over when the exit is complete: the KVM_RUN after it would execute the next one before it
reports a step. Interrupts wait (KVM_GUESTDBG_BLOCKIRQ), or a step would end in the timer's handler nearly always. HLT is over at
once; the step behind it waits for an interrupt (KVM in software does not: to it HLT does nothing).
"""

from __future__ import annotations

from errno import EAGAIN, EINTR

from pyvmm.csignal import signal
from pyvmm.errors import KvmError
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.ioctl import failure
from pyvmm.kvm.native import get_errno
from pyvmm.kvm.vcpu import run_ioctl
from pyvmm.machine import KICK
from pyvmm.observe.debug.abilities import PROTECTED, able
from pyvmm.observe.paging import linear_address, read_linear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.machine import Machine

_ALWAYS = uapi.KVM_GUESTDBG_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP
_HLT = b"\xf4"
_INSIST = 16  # attempts
_PIECES = 1 << 16  # exits of one instruction


class Stepper:
    """Steps one vCPU. All calls on its thread (``Standstill.do``).

    Args:
        machine, index: whose.
        enough: whether somebody wants it to stop; asked when a signal has come.
    """

    def __init__(self, machine: Machine, index: int, enough: Callable[[], object]) -> None:
        self._machine = machine
        self._vcpu = machine.vcpus[index]
        self._exits = machine.runloops[index].exits
        self._enough = enough
        self._control = _ALWAYS | uapi.KVM_GUESTDBG_BLOCKIRQ

    def step(self, interrupts: bool = False) -> bool:
        """Executes one instruction, or one round of a REP.

        Args:
            interrupts: one that is pending may be taken first; then the instruction is the first of its handler.

        Returns:
            False when it was called off: nothing has been executed.
        """
        vcpu = self._vcpu
        if not able("halts in steps", (PROTECTED,)) and self._halt():
            return True
        if not (self._run(interrupts) if able("steps at once", (PROTECTED,)) else self._insist(interrupts)):
            return False
        if vcpu.words[structs.RUN_EXIT_REASON // 4] != uapi.KVM_EXIT_DEBUG:
            self._exits[vcpu.words[structs.RUN_EXIT_REASON // 4]]()
            self._complete()
        return True

    def _insist(self, interrupts: bool) -> bool:
        """Some nested hosts report a step before anything was executed: until something has changed (a jump to itself changes nothing)."""
        before = bytes(self._vcpu.get_regs())
        for _ in range(_INSIST):
            if not self._run(interrupts):
                return False
            if self._vcpu.words[structs.RUN_EXIT_REASON // 4] != uapi.KVM_EXIT_DEBUG or bytes(self._vcpu.get_regs()) != before:
                break
        return True

    def _halt(self) -> bool:
        """Carries out HLT, if that is what comes next: ring 0 only (SDM volume 2A, HLT)."""
        vcpu = self._vcpu
        if vcpu.get_mp_state() != uapi.KVM_MP_STATE_RUNNABLE:
            return False
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
        here = linear_address(sregs, sregs.cs, regs.rip)
        if sregs.ss.dpl or read_linear(self._machine.memory, sregs, here, 1) != _HLT:
            return False
        regs.rip += 1
        vcpu.set_regs(regs)
        vcpu.set_mp_state(uapi.KVM_MP_STATE_HALTED)
        return True

    def _run(self, interrupts: bool) -> bool:
        vcpu = self._vcpu
        while True:
            vcpu.set_guest_debug(_ALWAYS if interrupts else self._control)
            while signal.sigtimedwait((KICK,), 0) is not None:
                pass
            vcpu.page[structs.RUN_IMMEDIATE_EXIT] = 0
            if self._enough():  # whoever wants it from here on kicks again
                return False
            try:
                errno = get_errno() if run_ioctl(vcpu.fd, uapi.KVM_RUN) else 0
            except OSError as error:
                errno = error.errno or 0
            if not errno:
                return True
            if errno not in (EINTR, EAGAIN):
                raise failure(uapi.KVM_RUN, errno)

    def _complete(self) -> None:
        vcpu = self._vcpu
        for _ in range(_PIECES):
            if vcpu.settle():
                return
            reason = vcpu.words[structs.RUN_EXIT_REASON // 4]
            if reason == uapi.KVM_EXIT_DEBUG:
                return  # the step's own, as hardware reports it behind the access
            self._exits[reason]()

    def finish(self) -> None:
        """No more steps for now. Interrupts that had to wait are remembered: KVM does not look for them by itself, but after this."""
        try:
            self._vcpu.set_guest_debug(0)
            self._vcpu.set_events(self._vcpu.get_events())
        except KvmError:
            pass
