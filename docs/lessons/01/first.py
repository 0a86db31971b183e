#!/usr/bin/env python3
"""A virtual machine in one page: three descriptors, one page of memory, five bytes of guest. Needs Python and /dev/kvm."""

import ctypes
import fcntl
import mmap
import os
import struct

KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xAE01, 0xAE04  # <linux/kvm.h>: _IO(KVMIO, 1), _IO(KVMIO, 4), ...
KVM_CREATE_VCPU, KVM_RUN = 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
KVM_EXIT_IO, KVM_EXIT_HLT = 2, 5

CODE = bytes([
    0xB0, ord("A"),  # mov al, 'A'
    0xE6, 0xE9,      # out 0xe9, al
    0xF4,            # hlt
])  # fmt: skip

# 1. The system: /dev/kvm answers questions and makes machines.
kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
# 2. The machine: memory, and what all processors share.
vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
# 3. A processor: registers, and KVM_RUN.
vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
print(f"three descriptors: kvm {kvm}, vm {vm}, vcpu {vcpu}")

# The guest's memory is ours: page 1 of its physical memory is this page of our process.
memory = mmap.mmap(-1, 4096)
memory[: len(CODE)] = CODE
where = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, 0x1000, 4096, where))

# A processor starts at 0xfffffff0, where a PC has its firmware. Ours starts at 0:0x1000: the code segment has base 0.
sregs = bytearray(312)
fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)  # cs.base, cs.limit, cs.selector
fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("=18Q", *[0] * 16, 0x1000, 2))  # rip and rflags come last; bit 1 is always set

# The page that the kernel and we share tells why KVM_RUN came back.
run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
while True:
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    (reason,) = struct.unpack_from("=I", run, 8)
    if reason == KVM_EXIT_IO:
        direction, size, port, count, offset = struct.unpack_from("=BBHIQ", run, 32)
        print(f"exit: KVM_EXIT_IO, {'out' if direction else 'in'} port {port:#x}, {size} byte: {run[offset : offset + 1]}")
    elif reason == KVM_EXIT_HLT:
        print("exit: KVM_EXIT_HLT, the guest sleeps and nobody will wake it: done")
        break
    else:
        raise SystemExit(f"exit: reason {reason}, which we do not know")
