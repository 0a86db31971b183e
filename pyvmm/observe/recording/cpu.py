"""One vCPU's exits on their way into a recording: what is taken before user space answers, and what behind it.

This is in the way of every exit. So what the run page holds is taken by slices that are made once, and the most frequent exit, one
access to a port, is asked for first.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvmm.exits import freeze
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.state import SyncRegs
from pyvmm.observe.recording import format
from pyvmm.runloop import Observer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.recording.recorder import Run

_RIP = structs.RUN_SYNC_REGS // 8 + 16
_REASON, _IO, _IO_COUNT = structs.RUN_EXIT_REASON // 4, structs.RUN_IO_DIRECTION // 4, structs.RUN_IO_COUNT // 4
_IO_DATA = structs.RUN_IO_DATA_OFFSET // 4
_MMIO_DATA = structs.RUN_MMIO_DATA
_DIRECTION, _SIZE = structs.RUN_IO_DIRECTION, structs.RUN_IO_SIZE
_HEAD = structs.RUN_UNION + 0x10  # what ``exits.freeze`` keeps of a port access, before its data
_DATA = 0x1000  # where KVM puts them, as far as anybody has seen
_KVM_EXIT_IO = uapi.KVM_EXIT_IO


class Cpu:
    """One vCPU's observer.

    Attributes:
        regs, system: kvm_regs; kvm_sregs and kvm_vcpu_events; behind its last exit.
        is_new: the recording has not got ``system``.
        busy: between ``before`` and the end of ``after``, its registers not final.
        frozen, rip, came: the exit that is being answered: the page, where, when.
        left: when it went back into the guest.
        words: its run page.
    """

    def __init__(self, run: Run, index: int) -> None:
        self.index = index
        self.vcpu = vcpu = run.machine.vcpus[index]
        self.words = vcpu.words
        self._page, self._quads = vcpu.page, vcpu.quads
        self.regs = bytes(vcpu.get_regs())
        self.system = bytes(vcpu.get_sregs()) + bytes(vcpu.get_events())
        self.is_new = True
        self.busy = False
        self.frozen = b""
        self.rip = self.came = 0
        self.left = monotonic_ns()
        self._run = run
        self._alone = len(run.machine.vcpus) == 1
        self._loop = run.machine.runloops[index]
        self._nested = False  # inside ``after``: an instruction goes on with another exit
        self._goes_on = False
        self._data: Callable[[], bytes] | None = None  # gives the data of the exit that is being answered, when it is one port access

    def watch(self) -> Callable[[], None]:
        """Sees exits from now on, until what it returns is called. KvmError: this KVM does not leave registers in the run page."""
        self._sync = SyncRegs(self.vcpu)
        slices = [self._page[:_HEAD], *(self._page[_DATA : _DATA + size] for size in (1, 2, 4))]
        self._head = slices[0].tobytes
        self._by_size = {len(each): each.tobytes for each in slices[1:]}
        forget = self._loop.observe(Observer(self.before, self.after))

        def undo() -> None:
            forget()
            self._sync.close()
            for each in slices:
                each.release()

        return undo

    def before(self, reason: int) -> None:
        """See ``Observer``."""
        self.came = monotonic_ns()
        self.rip = self._quads[_RIP]
        words = self.words
        if reason == _KVM_EXIT_IO and words[_IO_COUNT] == 1 and words[_IO_DATA] == _DATA:
            self._data = data = self._by_size.get(words[_IO] >> 8 & 0xFF)
        else:
            self._data = data = None
        self.frozen = freeze(self._page) if data is None else self._head() + data()
        self.busy = True
        if not self._alone and not self._nested:
            self._run.enter()

    def after(self, reason: int) -> None:
        """Likewise. What the same instruction does next is answered in here: ``settle`` leaves it in the page, and nobody would."""
        took = monotonic_ns() - self.came
        data, sync = self._data, self._sync
        answer = self._answer(reason) if data is None else b"" if self._page[_DIRECTION] else data()
        if sync.settle():
            self.busy = False
            self._run.add(self, reason, answer, sync.regs(), sync.system(), 0, took)
        else:
            self._goes_on = True
            self._run.add(self, reason, answer, sync.regs(), sync.system(), format.INSIDE, took)
            if not self._nested:
                self._go_on()
        if not self._nested:
            self.left = monotonic_ns()
            if not self._alone:
                self._run.leave()

    def _go_on(self) -> None:
        self._nested = True
        while self._goes_on:
            self._goes_on = False
            self._loop.exits[self.words[_REASON]]()
        self._nested = False

    def _answer(self, reason: int) -> bytes:
        """What user space has put into the page."""
        page, words = self._page, self.words
        if reason == uapi.KVM_EXIT_IO:
            if page[_DIRECTION]:
                return b""
            start = words[_IO_DATA]
            return bytes(page[start : start + page[_SIZE] * words[_IO_COUNT]])
        if reason == uapi.KVM_EXIT_MMIO and not page[structs.RUN_MMIO_IS_WRITE]:
            return bytes(page[_MMIO_DATA : _MMIO_DATA + min(words[structs.RUN_MMIO_LEN // 4], 8)])
        return b""

    def give_up(self) -> None:
        """Nobody will answer the exit it made last: registers are those at it."""
        self.regs, self.system, self.busy = self._sync.regs(), self._sync.system(), False
