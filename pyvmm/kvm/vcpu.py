"""The third descriptor: a vCPU. Its registers, its shared page, and KVM_RUN.

All calls but ``kick`` belong to the thread that runs the vCPU, or to any thread while the vCPU is parked: an ioctl on a
vCPU descriptor blocks until KVM_RUN has returned.
"""

from __future__ import annotations

import mmap
import os
import sys
from errno import EAGAIN, EINTR
from struct import iter_unpack, pack

from pyvmm.kvm import structs, uapi
from pyvmm.kvm.ioctl import call, failure
from pyvmm.kvm.native import c_int, function, get_errno, u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.kvm.vm import Vm

_MSR_ENTRY = "<I4xQ"  # struct kvm_msr_entry: index, data
_MAX_MSRS = 255  # per ioctl: MAX_IO_MSRS of the kernel, exclusive


def _choose_run() -> Callable[[int, int], int]:
    """The cheapest ioctl(fd, request) that comes back on EINTR.

    fcntl.ioctl is the fastest call CPython has (0.35 us), but from 3.14 on it retries on EINTR (gh-132742), and a vCPU that
    cannot be kicked cannot be stopped. There the C library's ioctl (1.1 us) takes its place.
    """
    if sys.version_info < (3, 14):
        from fcntl import ioctl

        return ioctl
    return c_run()


def c_run() -> Callable[[int, int], int]:
    """KVM_RUN by the C library's ioctl: returns -1 on failure, errno beside it (``native.get_errno``)."""
    ioctl = function("ioctl")  # without argument types: faster

    def run(fd: int, request: int) -> int:
        result: int = ioctl(fd, request, 0)  # KVM_RUN wants 0; left out, it would be what the register happens to hold
        return result

    return run


run_ioctl = _choose_run()


class Vcpu:
    """One virtual CPU.

    Args:
        vm: its VM.
        index: vCPU id, also the initial APIC id.
        fd: the descriptor KVM_CREATE_VCPU returned; owned.

    Attributes:
        page: the shared mapping as bytes (kvm_run, PIO data from 0x1000, coalesced ring).
        words, quads: the same mapping as u32 and u64, for the hot path.
    """

    def __init__(self, vm: Vm, index: int, fd: int) -> None:
        self.vm = vm
        self.index = index
        self.fd = fd
        try:
            self._mapping = mmap.mmap(fd, vm.kvm.vcpu_mmap_size(), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(fd)
            raise
        self.page = memoryview(self._mapping)
        self.words = self.page.cast("I")
        self.quads = self.page.cast("Q")

    def close(self) -> None:
        """Closes the descriptor and the shared mapping. Not while KVM_RUN is on its way."""
        if self.fd >= 0:
            self.words.release()
            self.quads.release()
            self.page.release()
            self._mapping.close()
            os.close(self.fd)
            self.fd = -1

    # --- running -----------------------------------------------------------------------------------------------------
    def use_signal_mask(self, mask: int) -> None:
        """KVM_SET_SIGNAL_MASK: the thread's blocked signals while in KVM_RUN, as a 64-bit set (bit n-1 = signal n).

        A signal that is blocked outside and open inside ends KVM_RUN with EINTR and needs no handler.
        """
        call(self.fd, uapi.KVM_SET_SIGNAL_MASK, pack("<IQ", 8, mask))  # kvm_signal_mask: no padding before the set

    def settle(self) -> bool:
        """Completes a pending I/O, MMIO or hypercall without running the guest, so that registers are final.

        api.rst, KVM_RUN: state is consistent only after the next KVM_RUN; immediate_exit makes that one return at once.

        Returns:
            True when done. False when the same instruction goes on with another exit, which the page now holds: the second
            half of an access that crosses a page, or the write of a read-modify-write. Handle it as the run loop would and
            settle again.

        Raises:
            KvmError: KVM_RUN failed otherwise than by EINTR or EAGAIN.
        """
        self.page[structs.RUN_IMMEDIATE_EXIT] = 1
        try:
            errno = get_errno() if run_ioctl(self.fd, uapi.KVM_RUN) else 0
        except OSError as error:
            errno = error.errno or 0
        finally:
            self.page[structs.RUN_IMMEDIATE_EXIT] = 0
        if errno not in (0, EINTR, EAGAIN):
            raise failure(uapi.KVM_RUN, errno)
        return errno != 0

    # --- registers ---------------------------------------------------------------------------------------------------
    def _get(self, request: int, struct: Any) -> Any:
        call(self.fd, request, struct)
        return struct

    def get_regs(self) -> Any:
        """KVM_GET_REGS as a kvm_regs."""
        return self._get(uapi.KVM_GET_REGS, structs.kvm_regs())

    def set_regs(self, regs: Any) -> None:
        """KVM_SET_REGS."""
        call(self.fd, uapi.KVM_SET_REGS, regs)

    def get_sregs(self) -> Any:
        """KVM_GET_SREGS as a kvm_sregs: segments, control registers, EFER."""
        return self._get(uapi.KVM_GET_SREGS, structs.kvm_sregs())

    def set_sregs(self, sregs: Any) -> None:
        """KVM_SET_SREGS."""
        call(self.fd, uapi.KVM_SET_SREGS, sregs)

    def get_fpu(self) -> Any:
        """KVM_GET_FPU as a kvm_fpu. KVM leaves ``mxcsr`` out: it is at byte 24 of ``get_xsave``."""
        return self._get(uapi.KVM_GET_FPU, structs.kvm_fpu())

    def set_fpu(self, fpu: Any) -> None:
        """KVM_SET_FPU."""
        call(self.fd, uapi.KVM_SET_FPU, fpu)

    def get_debugregs(self) -> Any:
        """KVM_GET_DEBUGREGS as a kvm_debugregs."""
        return self._get(uapi.KVM_GET_DEBUGREGS, structs.kvm_debugregs())

    def set_debugregs(self, debugregs: Any) -> None:
        """KVM_SET_DEBUGREGS."""
        call(self.fd, uapi.KVM_SET_DEBUGREGS, debugregs)

    def get_events(self) -> Any:
        """KVM_GET_VCPU_EVENTS as a kvm_vcpu_events: pending exceptions, interrupts, NMI, SMI."""
        return self._get(uapi.KVM_GET_VCPU_EVENTS, structs.kvm_vcpu_events())

    def set_events(self, events: Any) -> None:
        """KVM_SET_VCPU_EVENTS."""
        call(self.fd, uapi.KVM_SET_VCPU_EVENTS, events)

    def get_xcrs(self) -> Any:
        """KVM_GET_XCRS as a kvm_xcrs."""
        return self._get(uapi.KVM_GET_XCRS, structs.kvm_xcrs())

    def set_xcrs(self, xcrs: Any) -> None:
        """KVM_SET_XCRS."""
        call(self.fd, uapi.KVM_SET_XCRS, xcrs)

    def get_xsave(self) -> bytearray:
        """KVM_GET_XSAVE2 where the host has it, else KVM_GET_XSAVE: the XSAVE area in standard format."""
        size = max(self.vm.check_extension(uapi.KVM_CAP_XSAVE2), 4096)
        area = bytearray(size)
        call(self.fd, uapi.KVM_GET_XSAVE2 if size > 4096 else uapi.KVM_GET_XSAVE, area)
        return area

    def set_xsave(self, area: bytearray) -> None:
        """KVM_SET_XSAVE with what ``get_xsave`` gave."""
        call(self.fd, uapi.KVM_SET_XSAVE, area)

    def get_lapic(self) -> bytearray:
        """KVM_GET_LAPIC: the 1 KiB register page."""
        page = bytearray(1024)
        call(self.fd, uapi.KVM_GET_LAPIC, page)
        return page

    def set_lapic(self, page: bytearray) -> None:
        """KVM_SET_LAPIC."""
        call(self.fd, uapi.KVM_SET_LAPIC, page)

    def get_mp_state(self) -> int:
        """KVM_GET_MP_STATE: one of KVM_MP_STATE_*."""
        return int(self._get(uapi.KVM_GET_MP_STATE, structs.kvm_mp_state()).mp_state)

    def set_mp_state(self, state: int) -> None:
        """KVM_SET_MP_STATE."""
        call(self.fd, uapi.KVM_SET_MP_STATE, structs.kvm_mp_state(mp_state=state))

    def get_msrs(self, indices: list[int]) -> dict[int, int]:
        """KVM_GET_MSRS: {index: value}. The kernel stops at the first it refuses; that one is left out and the rest asked again."""
        found: dict[int, int] = {}
        todo = list(indices)
        while todo:
            some = todo[:_MAX_MSRS]
            table = _msrs([(index, 0) for index in some])
            done = call(self.fd, uapi.KVM_GET_MSRS, table)
            found.update(iter_unpack(_MSR_ENTRY, memoryview(table)[8 : 8 + 16 * done]))
            todo = todo[done + (done < len(some)) :]
        return found

    def set_msrs(self, values: dict[int, int]) -> list[int]:
        """KVM_SET_MSRS. Returns the indices the kernel refused."""
        refused: list[int] = []
        todo = list(values.items())
        while todo:
            some = todo[:_MAX_MSRS]
            done = call(self.fd, uapi.KVM_SET_MSRS, _msrs(some))
            if done < len(some):
                refused.append(some[done][0])
                done += 1
            todo = todo[done:]
        return refused

    def set_cpuid(self, leaves: list[tuple[int, int, int, int, int, int, int]]) -> None:
        """KVM_SET_CPUID2 with [(function, index, flags, eax, ebx, ecx, edx)]; before the first KVM_RUN."""
        table = bytearray(pack("<I4x", len(leaves)))
        for leaf in leaves:
            table += pack("<7I12x", *leaf)  # kvm_cpuid_entry2
        call(self.fd, uapi.KVM_SET_CPUID2, table)

    # --- the rest ----------------------------------------------------------------------------------------------------
    def set_guest_debug(self, control: int, debugreg: tuple[int, ...] = ()) -> None:
        """KVM_SET_GUEST_DEBUG: single-step, breakpoints (``debugreg`` = DR0..DR7 image)."""
        request = structs.kvm_guest_debug(control=control)
        request.debugreg[: len(debugreg)] = debugreg
        call(self.fd, uapi.KVM_SET_GUEST_DEBUG, request)

    def translate(self, linear: int) -> int | None:
        """KVM_TRANSLATE: guest physical address of a linear one, None where nothing is mapped."""
        result = self._get(uapi.KVM_TRANSLATE, structs.kvm_translation(linear_address=linear))
        return int(result.physical_address) if result.valid else None

    def nmi(self) -> None:
        """KVM_NMI: a non-maskable interrupt."""
        call(self.fd, uapi.KVM_NMI)

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT: queues a vector; only without the in-kernel local APIC."""
        call(self.fd, uapi.KVM_INTERRUPT, structs.kvm_interrupt(irq=vector))

    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ."""
        return call(self.fd, uapi.KVM_GET_TSC_KHZ)

    def stats_fd(self) -> int:
        """KVM_GET_STATS_FD for the vCPU; the caller closes it."""
        return call(self.fd, uapi.KVM_GET_STATS_FD)


def _msrs(entries: list[tuple[int, int]]) -> bytearray:
    """struct kvm_msrs with its entries behind it."""
    return bytearray(pack("<I4x", len(entries)) + b"".join([pack(_MSR_ENTRY, *entry) for entry in entries]))


_pthread_kill = function("pthread_kill", u64, c_int)


def kick(thread_id: int, signal_number: int) -> None:
    """Ends KVM_RUN in another thread with EINTR. ``thread_id`` is a pthread id (threading.get_ident)."""
    _pthread_kill(thread_id, signal_number)
