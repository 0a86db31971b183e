"""Proves that the KVM of this host works: three real-mode instructions, and what it says to a bad task register.

Needs nothing but the standard library, not even pyvmm: when a nested host fails, this tells whether it is the host.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_SET_IDENTITY_MAP_ADDR = 0x4008AE48
KVM_RUN = 0xAE80
KVM_GET_REGS, KVM_SET_REGS = 0x8090AE81, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84

EXIT_IO, EXIT_HLT, EXIT_FAIL_ENTRY = 2, 5, 9
INVALID_GUEST_STATE = 0x80000021

# struct kvm_regs: rip and rflags follow sixteen general registers. struct kvm_sregs: segments of 24 bytes, CS first,
# TR the seventh; in each the base, the limit, the selector, then bytes, of which `type` is the first.
RIP = 16 * 8
CS, TR = 0, 6 * 24
TYPE = 14
# struct kvm_run: the exit reason, then at 32 the union that depends on it.
EXIT_REASON, EXIT_UNION = 8, 32

ENTRY = 0x1000
PORT, VALUE = 0x42, 0x2A
# mov al, VALUE; out PORT, al; hlt
CODE = bytes((0xB0, VALUE, 0xE6, PORT, 0xF4))
BUSY_TSS, AVAILABLE_TSS = 11, 9
SECONDS = 60


class Vm:
    """One VM with one vCPU in real mode at ENTRY, where CODE is."""

    def __init__(self, kvm: int, tr_type: int) -> None:
        self._memory = mmap.mmap(-1, 0x4000)
        self._memory[ENTRY : ENTRY + len(CODE)] = CODE
        self._anchor = ctypes.c_char.from_buffer(self._memory)
        self._vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        # Intel needs both, below 4 GiB and away from RAM; the second before the first vCPU.
        fcntl.ioctl(self._vm, KVM_SET_TSS_ADDR, 0x0FFBD000)
        fcntl.ioctl(self._vm, KVM_SET_IDENTITY_MAP_ADDR, struct.pack("<Q", 0x0FFBC000))
        region = struct.pack("<IIQQQ", 0, 0, 0, len(self._memory), ctypes.addressof(self._anchor))
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, region)
        self._vcpu = fcntl.ioctl(self._vm, KVM_CREATE_VCPU, 0)
        self.run_page = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        sregs = bytearray(0x138)
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, sregs)
        struct.pack_into("<QIH", sregs, CS, 0, 0xFFFF, 0)  # base, limit, selector: an address is its offset
        sregs[TR + TYPE] = tr_type
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, sregs)
        regs = bytearray(0x90)
        struct.pack_into("<QQ", regs, RIP, ENTRY, 2)  # rip; rflags, whose bit 1 is always set
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, regs)

    def run(self) -> int:
        fcntl.ioctl(self._vcpu, KVM_RUN, 0)
        (reason,) = struct.unpack_from("<I", self.run_page, EXIT_REASON)
        return int(reason)

    def io(self) -> tuple[int, int, int, int, int]:
        """direction (1 is out), size, port, count, data of a KVM_EXIT_IO"""
        direction, size, port, count, offset = struct.unpack_from("<BBHIQ", self.run_page, EXIT_UNION)
        return direction, size, port, count, self.run_page[offset]

    def entry_failure(self) -> int:
        (reason,) = struct.unpack_from("<Q", self.run_page, EXIT_UNION)
        return int(reason)

    def close(self) -> None:
        self.run_page.close()
        os.close(self._vcpu)
        os.close(self._vm)


def kind() -> str:
    """The kernel module that does the work, as far as sysfs shows it."""
    modules = sorted(path.name for path in Path("/sys/module").glob("kvm_*"))
    return " ".join(modules) or "kvm of unknown kind"


def check_three_instructions(kvm: int) -> bool:
    vm = Vm(kvm, BUSY_TSS)
    began = time.monotonic()
    first = vm.run()
    microseconds = (time.monotonic() - began) * 1e6
    got = vm.io() if first == EXIT_IO else None
    second = vm.run() if got else None
    vm.close()
    good = got == (1, 1, PORT, 1, VALUE) and second == EXIT_HLT
    print(f"out {PORT:#x}; hlt: exit {first} {got}, then exit {second}, first after {microseconds:.0f} us", flush=True)
    return good


def check_bad_task_register(kvm: int, intel: bool) -> bool:
    """VMX refuses to enter a guest whose TR is not busy; the others do not look."""
    vm = Vm(kvm, AVAILABLE_TSS)
    reason = vm.run()
    failure = vm.entry_failure() if reason == EXIT_FAIL_ENTRY else 0
    vm.close()
    print(f"TR not busy: exit {reason}" + (f", entry failure {failure:#x}" if failure else ""), flush=True)
    return not intel or (reason == EXIT_FAIL_ENTRY and failure == INVALID_GUEST_STATE)


def main() -> int:
    signal.alarm(SECONDS)  # ends the process: a guest that never exits must not hang whoever asked
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    version = fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0)
    print(f"kvm kind: {kind()}; API version {version}; Linux {os.uname().release}", flush=True)
    good = version == 12
    good &= check_three_instructions(kvm)
    good &= check_bad_task_register(kvm, intel="kvm_intel" in kind())
    print("probe: OK" if good else "probe: FAILED", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
