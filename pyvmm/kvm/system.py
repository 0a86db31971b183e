"""The first descriptor: /dev/kvm. What the host can do, and the way to a VM."""

from __future__ import annotations

import errno
import os
from struct import iter_unpack, pack_into, unpack_from

from pyvmm.errors import HostError, KvmError
from pyvmm.kvm import native, structs, uapi
from pyvmm.kvm.ioctl import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.kvm.vm import Vm

DEVICE = "/dev/kvm"

_OPEN_HINTS = {
    errno.ENOENT: "does not exist: load the module (modprobe kvm_intel or kvm_amd); in a virtual machine enable nested "
    "virtualisation on the outer host; in a container pass --device /dev/kvm",
    errno.EACCES: "permission denied: add yourself to the group that owns it (usually: sudo usermod -aG kvm $USER, then "
    "log in again), or add a udev rule that opens it",
    errno.EPERM: "not permitted: the container or sandbox does not let this device through (pass --device /dev/kvm)",
    errno.ENODEV: "the module is there but the CPU offers no virtualisation: enable SVM/VMX in the firmware or nested "
    "virtualisation on the outer host",
    errno.ENXIO: "no driver behind the device node: load the module (modprobe kvm_intel or kvm_amd)",
    errno.EBUSY: "another hypervisor holds the virtualisation extension: stop it (VirtualBox, VMware)",
}


class Kvm:
    """/dev/kvm, opened. Use as a context manager or call ``close``.

    Raises:
        HostError: it cannot be opened, or speaks another API than version 12; says why and what to do.
    """

    def __init__(self, path: str = "") -> None:
        path = path or DEVICE
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            hint = _OPEN_HINTS.get(error.errno or 0, error.strerror)
            raise HostError(f"{path}: {hint}") from None
        try:
            version = call(self.fd, uapi.KVM_GET_API_VERSION)
        except KvmError as error:
            self.close()
            raise HostError(f"{path} is not KVM: {error}") from None
        if version != uapi.API_VERSION:
            self.close()
            raise HostError(f"{path} speaks KVM API version {version}, not {uapi.API_VERSION}: use Linux 2.6.22 or newer")

    def __enter__(self) -> Kvm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptor; VMs made from it live on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION: 0 when missing, else 1 or a number with the capability's meaning."""
        return call(self.fd, uapi.KVM_CHECK_EXTENSION, capability)

    def vcpu_mmap_size(self) -> int:
        """Bytes of a vCPU's shared mapping: kvm_run, PIO data page, coalesced ring."""
        return call(self.fd, uapi.KVM_GET_VCPU_MMAP_SIZE)

    def supported_cpuid(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """KVM_GET_SUPPORTED_CPUID as [(function, index, flags, eax, ebx, ecx, edx)]."""
        count, size = 128, 40  # bytes of a kvm_cpuid_entry2: seven words and twelve bytes of padding
        while True:
            table = bytearray(8 + size * count)
            pack_into("<I", table, 0, count)
            try:
                call(self.fd, uapi.KVM_GET_SUPPORTED_CPUID, table)
            except KvmError as error:
                if error.errno != errno.E2BIG or count > 4096:
                    raise
                count *= 2
                continue
            (count,) = unpack_from("<I", table)
            return list(iter_unpack("<7I12x", memoryview(table)[8 : 8 + size * count]))

    def msr_indices(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST: the MSRs a snapshot saves."""
        count = 256
        while True:
            table: Any = structs.with_array(structs.kvm_msr_list, native.u32, count)(nmsrs=count)
            try:
                call(self.fd, uapi.KVM_GET_MSR_INDEX_LIST, table)
            except KvmError as error:
                if error.errno != errno.E2BIG or count > 65536:
                    raise
                count = table.nmsrs if table.nmsrs > count else count * 2
                continue
            return list(table.entries[: table.nmsrs])

    def create_vm(self) -> Vm:
        """The second descriptor. Interrupted calls (EINTR) are tried again: the kernel allocates much and may be signalled."""
        from pyvmm.kvm.vm import Vm

        for attempt in range(5):
            try:
                return Vm(self, call(self.fd, uapi.KVM_CREATE_VM))
            except KvmError as error:
                if error.errno != errno.EINTR or attempt == 4:
                    raise
        raise AssertionError("unreachable")
