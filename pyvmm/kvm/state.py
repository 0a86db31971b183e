"""All that KVM keeps of a vCPU and of a VM's interrupt controllers and clocks, as plain data: taken, put back, compared.

Kernel structures are kept as the bytes the kernel gave. Two things KVM does not let anybody take or put: a tick of the PIT that
waits to be reinjected, and nested guests' state (CPU models that offer VMX or SVM are not made here).

``get`` wants a settled vCPU (``Vcpu.settle``) that nobody runs. For every exit it is too dear (a dozen ioctls); ``SyncRegs`` has
KVM leave registers in the run page instead.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR, EINVAL, ENXIO
from time import monotonic_ns

from pyvmm.errors import KvmError
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.ioctl import call, failure
from pyvmm.kvm.native import function, get_errno
from pyvmm.kvm.vcpu_state import VcpuState, VmState

__all__ = ["SyncRegs", "VcpuState", "VmState", "get", "get_vm", "put", "put_vm"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.kvm.vm import Vm

_TSC, _TSC_DEADLINE = 0x10, 0x6E0
_WALL_CLOCKS = [0x11, 0x4B56_4D00]  # writing one of KVM's two has KVM write the time into guest memory
_REGS, _SREGS, _SREGS2, _XCRS, _DEBUGREGS, _EVENTS = 144, 312, 320, 392, 128, 64  # bytes of the structures (uapi)
_CHIPS = (uapi.KVM_IRQCHIP_PIC_MASTER, uapi.KVM_IRQCHIP_PIC_SLAVE, uapi.KVM_IRQCHIP_IOAPIC)
_HYPERV = range(0x4000_0000, 0x4000_0200)  # no CPUID of ours offers them; writing one has KVM set Hyper-V up for the guest
_FAR = 1 << 40  # TSC ticks: minutes; KVM takes a value within a second of the one it expects for "the same as the others'"

_ioctl = function("ioctl")
_readable: list[int] = []  # MSRs this host gives, in the kernel's order; found out at the first get
_refused: set[int] = set()  # and those of them it does not take back


def get(vcpu: Vcpu, before: VcpuState | None = None) -> VcpuState:
    """The whole state of a settled vCPU.

    Args:
        before: an earlier state of it: what is as it was then is shared, and what never changes not asked for again.

    Raises:
        KvmError
    """
    fd = vcpu.fd
    # MP_STATE first: asking for it is what has KVM act upon an INIT or SIPI that has come
    mp_state = vcpu.get_mp_state()
    has_sregs2 = _has_sregs2(vcpu.vm) if before is None else len(before.sregs) == _SREGS2
    state = VcpuState(
        mp_state=mp_state,
        regs=_take(fd, uapi.KVM_GET_REGS, _REGS),
        xsave=bytes(vcpu.get_xsave()),
        xcrs=_take(fd, uapi.KVM_GET_XCRS, _XCRS),
        sregs=_take(fd, uapi.KVM_GET_SREGS2, _SREGS2) if has_sregs2 else _take(fd, uapi.KVM_GET_SREGS, _SREGS),
        msrs=_get_msrs(vcpu),
        events=_take(fd, uapi.KVM_GET_VCPU_EVENTS, _EVENTS),
        lapic=bytes(vcpu.get_lapic()),
        debugregs=_take(fd, uapi.KVM_GET_DEBUGREGS, _DEBUGREGS),
        tsc_khz=_tsc_khz(vcpu) if before is None else before.tsc_khz,
    )
    if before is not None:
        for name, value in before:
            if getattr(state, name) == value:
                setattr(state, name, value)
    return state


def put(vcpu: Vcpu, state: VcpuState) -> None:
    """Gives a vCPU another state; its CPUID must be the one it had when the state was taken. VM and devices come first: what
    their lines do to the local APIC is overwritten here.

    The order is KVM's: SREGS hold the APIC base, which the APIC's registers follow; the APIC before the deadline of its timer;
    SET_REGS drops pending exceptions, so events come after it.

    Raises:
        KvmError: the kernel refuses a value.
    """
    fd = vcpu.fd
    call(fd, uapi.KVM_SET_SREGS2 if len(state.sregs) == _SREGS2 else uapi.KVM_SET_SREGS, state.sregs)
    call(fd, uapi.KVM_SET_XCRS, state.xcrs)
    vcpu.set_xsave(bytearray(state.xsave))
    call(fd, uapi.KVM_SET_LAPIC, state.lapic)
    _put_msrs(vcpu, state.msrs)
    call(fd, uapi.KVM_SET_REGS, state.regs)
    call(fd, uapi.KVM_SET_DEBUGREGS, state.debugregs)
    vcpu.set_mp_state(state.mp_state)
    call(fd, uapi.KVM_SET_VCPU_EVENTS, state.events)


def get_vm(vm: Vm) -> VmState:
    """The state of irqchips, PIT and kvmclock. Raises KvmError."""
    try:
        pit = bytes(vm.get_pit())
    except KvmError as error:
        if error.errno != ENXIO:
            raise
        pit = b""  # -machine pit=off
    return VmState(chips=tuple(vm.get_irqchip(chip) for chip in _CHIPS), pit=pit, clock=int(vm.get_clock().clock), taken=monotonic_ns())


def put_vm(vm: Vm, state: VmState) -> None:
    """Puts it back, after the devices have driven their lines: edges that makes are overwritten. Raises KvmError."""
    for chip, data in zip(_CHIPS, state.chips, strict=True):
        vm.set_irqchip(chip, data)
    if state.pit:
        pit = structs.kvm_pit_state2.from_buffer_copy(state.pit)
        for channel in pit.channels:
            channel.count_load_time += monotonic_ns() - state.taken
        vm.set_pit(pit)
    vm.set_clock(state.clock)


def _take(fd: int, request: int, size: int) -> bytes:
    area = bytearray(size)
    call(fd, request, area)
    return bytes(area)


def _has_sregs2(vm: Vm) -> bool:
    return bool(vm.check_extension(uapi.KVM_CAP_SREGS2))


def _tsc_khz(vcpu: Vcpu) -> int:
    try:
        return vcpu.tsc_khz()
    except KvmError:  # EIO: the host's TSC is not stable
        return 0


def _get_msrs(vcpu: Vcpu) -> dict[int, int]:
    if not _readable:
        _readable.extend(vcpu.get_msrs([index for index in vcpu.vm.kvm.msr_indices() if index not in _HYPERV]))
    return vcpu.get_msrs(_readable)


def _put_msrs(vcpu: Vcpu, values: dict[int, int]) -> None:
    last = {index: values[index] for index in (_TSC_DEADLINE,) if index in values}
    if _TSC in values and not vcpu.index:
        vcpu.set_msrs({_TSC: values[_TSC] + _FAR & (1 << 64) - 1})  # so that the value itself is taken as it stands; see _FAR
    same = {index: value for index, value in vcpu.get_msrs(_WALL_CLOCKS).items() if values.get(index) == value}
    rest = {index: value for index, value in values.items() if index not in _refused and index not in last and index not in same}
    _refused.update(vcpu.set_msrs(rest))
    if last:
        vcpu.set_msrs(last)


class SyncRegs:
    """Registers at every exit without an ioctl: KVM copies them into the run page (api.rst, KVM_CAP_SYNC_REGS).

    As any registers at an exit, they are those before the access is complete: RIP at the OUT or behind it, the target of an IN
    as it was. ``settled`` completes it first, which costs a KVM_RUN that comes back at once.

    Attributes:
        regs: called, gives kvm_regs as the last exit left them.
        system: likewise kvm_sregs and kvm_vcpu_events.

    Raises:
        KvmError: this KVM has no such facility.
    """

    LENGTH = _REGS + _SREGS + _EVENTS

    def __init__(self, vcpu: Vcpu) -> None:
        wanted = 7  # KVM_SYNC_X86_REGS, _SREGS, _EVENTS
        if vcpu.vm.check_extension(uapi.KVM_CAP_SYNC_REGS) & wanted != wanted:
            raise KvmError("KVM_CHECK_EXTENSION", EINVAL, "this KVM does not leave registers in the run page (KVM_CAP_SYNC_REGS)")
        self._valid = vcpu.quads[structs.RUN_VALID_REGS // 8 : structs.RUN_VALID_REGS // 8 + 1]
        self._area = vcpu.page[structs.RUN_SYNC_REGS : structs.RUN_SYNC_REGS + self.LENGTH]
        self._parts = self._area[:_REGS], self._area[_REGS:]
        self.regs, self.system = (part.tobytes for part in self._parts)
        self._page, self._fd = vcpu.page, vcpu.fd
        self._valid[0] = wanted

    def settle(self) -> bool:
        """``Vcpu.settle`` by the C library's ioctl, whose EINTR costs less than making an exception of it and dropping that."""
        page = self._page
        page[structs.RUN_IMMEDIATE_EXIT] = 1
        failed = _ioctl(self._fd, uapi.KVM_RUN, 0)
        page[structs.RUN_IMMEDIATE_EXIT] = 0
        if not failed:
            return False
        errno = get_errno()
        if errno != EINTR and errno != EAGAIN:
            raise failure(uapi.KVM_RUN, errno)
        return True

    def take(self) -> bytes:
        """A copy of what the last exit left: ``split`` makes structures of it."""
        return bytes(self._area)

    def settled(self) -> bytes | None:
        """The same with the pending access completed; None when that brings another exit, which must be handled first."""
        return bytes(self._area) if self.settle() else None

    def close(self) -> None:
        """KVM copies no more."""
        self._valid[0] = 0
        for view in (self._valid, self._area, *self._parts):
            view.release()

    @staticmethod
    def split(data: bytes) -> tuple[Any, Any, Any]:
        """``kvm_regs``, ``kvm_sregs``, ``kvm_vcpu_events`` of what ``take`` gave."""
        return (
            structs.kvm_regs.from_buffer_copy(data),
            structs.kvm_sregs.from_buffer_copy(data, _REGS),
            structs.kvm_vcpu_events.from_buffer_copy(data, _REGS + _SREGS),
        )
