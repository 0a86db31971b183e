"""The one place where an ioctl is issued (KVM_RUN apart) and its failure put into words."""

from __future__ import annotations

import errno as E
from fcntl import ioctl as _ioctl

from pyvmm.errors import KvmError
from pyvmm.kvm.native import c_int, function, get_errno, u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What usually is behind an errno of one ioctl (Documentation/virt/kvm/api.rst and the kernel's own checks), and what to do.
_HINTS = {
    ("KVM_CREATE_VM", E.ENODEV): "KVM is there but no virtualisation extension: enable SVM/VMX in the firmware, or nested virtualisation "
    "on the outer host",
    ("KVM_CREATE_VM", E.ENOMEM): "the host is out of memory for a new VM",
    ("KVM_CREATE_VM", E.EINTR): "a signal arrived while the VM was being created; try again",
    ("KVM_CREATE_VM", E.EMFILE): "too many open files: raise `ulimit -n`",
    ("KVM_CREATE_VM", E.ENFILE): "the host's table of open files is full",
    ("KVM_CREATE_VM", E.EBUSY): "another hypervisor holds the virtualisation extension: stop it (VirtualBox, VMware)",
    ("KVM_CREATE_VM", E.EINVAL): "this KVM has no such type of VM",
    ("KVM_CREATE_VCPU", E.EINVAL): "vCPU id beyond KVM_CAP_MAX_VCPU_ID, or more vCPUs than KVM_CAP_MAX_VCPUS: lower -smp",
    ("KVM_CREATE_VCPU", E.EEXIST): "a vCPU with this id exists",
    ("KVM_CREATE_VCPU", E.EMFILE): "too many open files: raise `ulimit -n`, or lower -smp",
    ("KVM_CREATE_IRQCHIP", E.EEXIST): "the interrupt controllers exist already; create them once per VM",
    ("KVM_CREATE_IRQCHIP", E.EINVAL): "must come before the first vCPU",
    ("KVM_CREATE_PIT2", E.ENOENT): "needs KVM_CREATE_IRQCHIP first",
    ("KVM_CREATE_PIT2", E.EEXIST): "the PIT exists already; create it once per VM",
    ("KVM_GET_IRQCHIP", E.ENXIO): "needs KVM_CREATE_IRQCHIP first",
    ("KVM_SET_IRQCHIP", E.ENXIO): "needs KVM_CREATE_IRQCHIP first",
    ("KVM_IRQ_LINE", E.ENXIO): "needs KVM_CREATE_IRQCHIP first",
    ("KVM_GET_PIT2", E.ENXIO): "needs KVM_CREATE_PIT2 first",
    ("KVM_SET_PIT2", E.ENXIO): "needs KVM_CREATE_PIT2 first",
    ("KVM_REINJECT_CONTROL", E.ENXIO): "needs KVM_CREATE_PIT2 first",
    ("KVM_SET_TSS_ADDR", E.EINVAL): "the three pages must lie below 4 GiB",
    ("KVM_SET_TSS_ADDR", E.EEXIST): "the three pages overlap a memory slot",
    ("KVM_SET_IDENTITY_MAP_ADDR", E.EINVAL): "must come before the first vCPU",
    ("KVM_SET_BOOT_CPU_ID", E.EBUSY): "must come before the first vCPU",
    ("KVM_SET_USER_MEMORY_REGION", E.EEXIST): "the region overlaps another memory slot",
    ("KVM_SET_USER_MEMORY_REGION", E.EINVAL): "unaligned address or size, unknown flag, a slot number beyond KVM_CAP_NR_MEMSLOTS, or an "
    "existing slot changed its size (delete it first)",
    ("KVM_SET_USER_MEMORY_REGION", E.ENOMEM): "the host is out of memory for the slot's page tables: lower -m",
    ("KVM_GET_DIRTY_LOG", E.ENOENT): "the slot does not exist, or its writes are not logged (KVM_MEM_LOG_DIRTY_PAGES)",
    ("KVM_GET_DIRTY_LOG", E.ENXIO): "the dirty ring is in use; there is no bitmap beside it",
    ("KVM_CLEAR_DIRTY_LOG", E.EINVAL): "first_page and num_pages must be multiples of 64 (but for the end of the slot)",
    ("KVM_SET_SREGS", E.EINVAL): "the state breaks a rule KVM checks: PG without PE or PAE, LMA unlike LME and PG, reserved bits in CR0 "
    "or CR4, CR3 beyond the guest's physical addresses, L and D both set in CS",
    ("KVM_SET_MP_STATE", E.EINVAL): "states other than runnable need the in-kernel local APIC",
    (
        "KVM_SET_VCPU_EVENTS",
        E.EINVAL,
    ): "an event or flag this KVM does not take (exception above 31, NMI as an exception, SMM without support)",
    ("KVM_SET_DEBUGREGS", E.EINVAL): "flags must be 0, and DR6 and DR7 may use their low 32 bits only",
    ("KVM_SET_GUEST_DEBUG", E.EBUSY): "cannot inject #DB or #BP: another exception is pending",
    ("KVM_SET_XSAVE", E.EINVAL): "the XSAVE header names components this host or this guest's CPUID does not have",
    ("KVM_SET_XCRS", E.EINVAL): "XCR0 names components this host or this guest's CPUID does not have",
    (
        "KVM_SET_CPUID2",
        E.EINVAL,
    ): "CPUID must be set before the vCPU first runs and never change afterwards; linear address bits must be 48 or 57",
    ("KVM_SET_CPUID2", E.E2BIG): "more CPUID leaves than the kernel takes",
    ("KVM_GET_LAPIC", E.EINVAL): "needs the in-kernel local APIC",
    ("KVM_SET_LAPIC", E.EINVAL): "needs the in-kernel local APIC, and an APIC id that fits its mode",
    ("KVM_INTERRUPT", E.ENXIO): "the local APIC is in the kernel: use an interrupt line or KVM_SIGNAL_MSI",
    ("KVM_INTERRUPT", E.EEXIST): "an interrupt is queued already: wait for an interrupt window",
    ("KVM_SET_GSI_ROUTING", E.EINVAL): "a route names a pin or type the kernel does not have",
    ("KVM_SIGNAL_MSI", E.EINVAL): "needs the in-kernel local APIC",
    ("KVM_SIGNAL_MSI", E.EPERM): "no local APIC takes this message",
    ("KVM_IRQFD", E.EBUSY): "this eventfd already drives an interrupt",
    ("KVM_IRQFD", E.EINVAL): "needs the in-kernel interrupt controllers, and an eventfd",
    ("KVM_IOEVENTFD", E.EEXIST): "this doorbell (address, length, value) is registered already",
    ("KVM_IOEVENTFD", E.ENOSPC): "too many doorbells on this bus (the kernel takes 1000 devices per VM)",
    ("KVM_IOEVENTFD", E.ENOENT): "no such doorbell is registered",
    ("KVM_REGISTER_COALESCED_MMIO", E.ENOSPC): "too many coalesced zones on this bus (the kernel takes 1000 devices per VM)",
    ("KVM_GET_TSC_KHZ", E.EIO): "the host's TSC is not stable",
    ("KVM_RUN", E.EFAULT): "guest memory behind the access is not mapped in this process, or the host is out of memory",
    ("KVM_RUN", E.ENOEXEC): "the vCPU is not initialised",
    ("KVM_RUN", E.EINVAL): "the run page asks for what this KVM refuses (kvm_valid_regs, kvm_dirty_regs, cr8)",
    ("KVM_RUN", E.EAGAIN): "the processor has just got INIT or SIPI; run it again",
}
_GENERAL = {
    E.EACCES: "permission denied: join the group that owns /dev/kvm",
    E.EPERM: "not permitted: a sandbox, seccomp filter or locked-down kernel refuses it",
    E.EIO: "the VM was made by another process (after fork), or has been marked dead by the kernel",
    E.ENOTTY: "this kernel's KVM does not know the call",
    E.ENXIO: "this KVM lacks the facility",
    E.EBADF: "the descriptor is closed",
    E.ENOMEM: "the host is out of memory",
    E.EFAULT: "a pointer handed to the kernel is not mapped",
    E.EINTR: "a signal arrived; try again",
}


def failure(request: int, errno: int) -> KvmError:
    """The KvmError for a failed ioctl: its name, errno and what usually causes it."""
    from pyvmm.kvm.uapi import ioctl_name

    name = ioctl_name(request)
    return KvmError(name, errno, _HINTS.get((name, errno)) or _GENERAL.get(errno, ""))


def call(fd: int, request: int, argument: Any = 0) -> int:
    """Issues an ioctl with a ctypes structure (in and out), a writable buffer, or nothing.

    Returns:
        The kernel's non-negative result.

    Raises:
        KvmError: the call failed.
    """
    try:
        result: int = _ioctl(fd, request, argument)
    except OSError as error:
        raise failure(request, error.errno or 0) from None
    return result


def call_value(fd: int, request: int, value: int) -> int:
    """Issues an ioctl whose argument is a number up to 64 bits (fcntl.ioctl stops at 31)."""
    result: int = function("ioctl", c_int, u64, u64)(fd, request, value)
    if result < 0:
        raise failure(request, get_errno())
    return result
