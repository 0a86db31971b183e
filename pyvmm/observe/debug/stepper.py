"""One instruction of one vCPU, on its thread, with what KVMs do differently evened out.

KVM_GUESTDBG_SINGLESTEP is good for one KVM_RUN (some KVMs let the guest run free after the exit of an access), so it is asked for
before each. An instruction with an exit is over when the exit is complete: the KVM_RUN after it would execute the next one before it
reports a step. Interrupts wait (KVM_GUESTDBG_BLOCKIRQ), or a step would end in the timer's handler nearly always.
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
from pyvmm.observe.paging import linear_address, read_linear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine import Machine

_ALWAYS = uapi.KVM_GUESTDBG_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP
_PIECES = 1 << 16  # exits of one instruction
_HLT = b"\xf4"


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

    def step(self, before: Any, interrupts: bool = False) -> Any:
        """Executes one instruction, or one round of a REP.

        Args:
            before: kvm_regs now.
            interrupts: one that is pending may be taken first; then the instruction is the first of its handler.

        Returns:
            kvm_regs behind it, None when it was called off: nothing has been executed.
        """
        vcpu = self._vcpu
        if not self._run(interrupts):
            return None
        if vcpu.words[structs.RUN_EXIT_REASON // 4] != uapi.KVM_EXIT_DEBUG:
            self._exits[vcpu.words[structs.RUN_EXIT_REASON // 4]]()
            self._complete()
            return vcpu.get_regs()
        regs = vcpu.get_regs()
        if regs.rip == before.rip + 1 and vcpu.get_mp_state() == uapi.KVM_MP_STATE_RUNNABLE:
            sregs = vcpu.get_sregs()
            if read_linear(self._machine.memory, sregs, linear_address(sregs, sregs.cs, before.rip), 1) == _HLT:
                vcpu.set_mp_state(uapi.KVM_MP_STATE_HALTED)  # this KVM has swallowed it
        return regs

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
        """No more steps for now."""
        try:
            self._vcpu.set_guest_debug(0)
        except KvmError:
            pass
