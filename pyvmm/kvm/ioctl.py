"""The one place where an ioctl is issued (KVM_RUN apart) and its failure put into words."""

from __future__ import annotations

import ctypes
import errno as E
from fcntl import ioctl as _ioctl

from pyvmm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)

_HINTS = {
    ("KVM_CREATE_VM", E.ENODEV): "KVM is there but no virtualisation extension: enable SVM/VMX in the firmware, or nested virtualisation on the outer host",
    ("KVM_CREATE_VM", E.ENOMEM): "the host is out of memory for a new VM",
    ("KVM_CREATE_VM", E.EINTR): "a signal arrived while the VM was being created; try again",
    ("KVM_CREATE_VM", E.EMFILE): "too many open files: raise `ulimit -n`",
    ("KVM_CREATE_VCPU", E.EINVAL): "vCPU id beyond KVM_CAP_MAX_VCPU_ID, or more vCPUs than KVM_CAP_MAX_VCPUS: lower -smp",
    ("KVM_CREATE_VCPU", E.EEXIST): "a vCPU with this id exists",
    ("KVM_CREATE_IRQCHIP", E.EEXIST): "the interrupt controllers exist already; create them once per VM",
    ("KVM_CREATE_IRQCHIP", E.EINVAL): "must come before the first vCPU",
    ("KVM_CREATE_PIT2", E.ENOENT): "needs KVM_CREATE_IRQCHIP first",
    ("KVM_SET_IDENTITY_MAP_ADDR", E.EINVAL): "must come before the first vCPU",
    ("KVM_SET_USER_MEMORY_REGION", E.EEXIST): "the region overlaps another memory slot",
    ("KVM_SET_USER_MEMORY_REGION", E.EINVAL): "unaligned address or size, or an existing slot changed its size (delete it first)",
    ("KVM_SET_USER_MEMORY_REGION", E.ENOMEM): "the host is out of memory for the slot's page tables: lower -m",
    ("KVM_SET_SREGS", E.EINVAL): "the state breaks a rule KVM checks: PG without PE or PAE, LMA unlike LME and PG, reserved bits in CR0 or CR4, L and D both set in CS",
    ("KVM_SET_CPUID2", E.EINVAL): "CPUID must be set before the vCPU first runs, and never change afterwards",
    ("KVM_SET_CPUID2", E.E2BIG): "more CPUID leaves than the kernel takes",
    ("KVM_SET_LAPIC", E.EINVAL): "needs the in-kernel local APIC",
    ("KVM_SET_GSI_ROUTING", E.EINVAL): "a route names a pin or type the kernel does not have",
    ("KVM_IRQFD", E.EBUSY): "this eventfd already drives an interrupt",
    ("KVM_IOEVENTFD", E.EEXIST): "this doorbell (address, length, value) is registered already",
    ("KVM_SET_TSC_KHZ", E.EINVAL): "this host cannot run the guest's TSC at another rate (KVM_CAP_TSC_CONTROL is 0)",
    ("KVM_RUN", E.EFAULT): "guest memory behind the access is not mapped in this process",
    ("KVM_RUN", E.ENOEXEC): "the vCPU is not initialised",
}
_GENERAL = {
    E.EACCES: "permission denied: join the group that owns /dev/kvm",
    E.EIO: "the VM was made by another process (after fork), or has been marked dead by the kernel",
    E.ENOTTY: "this kernel's KVM does not know the call",
    E.ENXIO: "this KVM lacks the facility",
    E.EBADF: "the descriptor is closed",
    E.ENOMEM: "the host is out of memory",
    E.EFAULT: "a pointer handed to the kernel is not mapped",
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
        return _ioctl(fd, request, argument)
    except OSError as error:
        raise failure(request, error.errno or 0) from None


def call_value(fd: int, request: int, value: int) -> int:
    """Issues an ioctl whose argument is a number up to 64 bits (fcntl.ioctl stops at 31)."""
    result: int = libc.ioctl(fd, request, value)
    if result < 0:
        raise failure(request, ctypes.get_errno())
    return result
