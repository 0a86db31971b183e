"""A vCPU's exits as the debugger sees them, on the vCPU's thread: numbered, written down, compared with the breakpoints at exits."""

from __future__ import annotations

from time import monotonic_ns

from pyvmm.errors import KvmError
from pyvmm.exits import freeze
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.state import SyncRegs
from pyvmm.runloop import Observer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.debug.control import Control
    from pyvmm.runloop import Handler

_PIECES = 1 << 16  # exits that one instruction may need to be complete (REP INS into device memory)
_RIP = structs.RUN_SYNC_REGS // 8 + 16  # of kvm_regs, in the run page, as 64-bit words


class ExitWatch(Observer):
    """Around the handlers of one vCPU while a debugger is attached.

    Args:
        control: told of each exit that is done.
        index: the vCPU's.
    """

    def __init__(self, control: Control, index: int) -> None:
        super().__init__()
        self.control = control
        self.index = index
        self.vcpu = control.machine.vcpus[index]
        self._settling = False
        self._sync: SyncRegs | None = None
        self._detach: Callable[[], None] | None = None

    def attach(self) -> None:
        """From now on. The vCPU is parked."""
        try:
            self._sync = SyncRegs(self.vcpu)
        except KvmError:
            self._sync = None  # registers are asked for instead
        self._detach = self.control.machine.runloops[self.index].observe(self)

    def detach(self) -> None:
        """No more. The vCPU is parked, or its thread has ended."""
        if self._detach is not None:
            self._detach()
            self._detach = None
        if self._sync is not None:
            self._sync.close()
            self._sync = None

    def rip(self) -> int:
        """At this exit, as KVM has it before the access is complete."""
        return int(self.vcpu.quads[_RIP] if self._sync is not None else self.vcpu.get_regs().rip)

    def settle(self) -> bool:
        """Completes the access; further exits of the same instruction are answered on the way. False: that is on its way already."""
        if self._settling:
            return False
        self._settling = True
        try:
            exits = self.control.machine.runloops[self.index].exits
            for _ in range(_PIECES):
                if self.vcpu.settle():
                    break
                exits[self.vcpu.words[structs.RUN_EXIT_REASON // 4]]()
        finally:
            self._settling = False
        return True

    def around(self, reason: int, handler: Handler) -> Handler:
        control, index, page = self.control, self.index, self.vcpu.page
        if reason == uapi.KVM_EXIT_DEBUG:
            return lambda: control.debug_exit(index)

        def handle() -> None:
            if control.taken(index, reason):
                return  # the debugger's own doing, no exit of the guest's
            if not control.recording:
                handler()
                control.exit_done(index)
                return
            frozen, time, rip = freeze(page), monotonic_ns(), self.rip()
            handler()
            control.exit_done(index, frozen, time, rip, answer(page))

        return handle


def answer(page: memoryview) -> bytes:
    """What user space gave the guest at a read, from the run page; b"" for any other exit."""
    reason = page[structs.RUN_EXIT_REASON]
    if reason == uapi.KVM_EXIT_IO and not page[structs.RUN_IO_DIRECTION]:
        start = int.from_bytes(page[structs.RUN_IO_DATA_OFFSET : structs.RUN_IO_DATA_OFFSET + 8], "little")
        count = int.from_bytes(page[structs.RUN_IO_COUNT : structs.RUN_IO_COUNT + 4], "little")
        return bytes(page[start : start + page[structs.RUN_IO_SIZE] * count])
    if reason == uapi.KVM_EXIT_MMIO and not page[structs.RUN_MMIO_IS_WRITE]:
        return bytes(page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + min(page[structs.RUN_MMIO_LEN], 8)])
    return b""
