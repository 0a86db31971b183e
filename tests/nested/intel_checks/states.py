"""Each state of the case table on a vCPU of its own: refused by KVM_SET_SREGS, refused at entry, or entered.

That a state was entered is shown by an OUT of its guest. A shutdown, say, would prove nothing: this host ends some
states in one that hardware refuses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from struct import unpack_from

from pyvmm.boot.cpu import CpuState, Segment, Table, memory_for
from pyvmm.errors import KvmError
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import Vcpu, run_ioctl
from pyvmm.layout import IDENTITY_MAP, MIB, PAGE, TSS
from pyvmm.memory import GuestMemory
from tests.nested.intel_checks.report import Check, Failed
from tests.support.entry_cases import ACCEPTED, EINVAL, ENTERED, REFUSED, STATES, Case, has_feature

PORT, VALUE = 0x42, 0x2A
# mov al, VALUE; out PORT, al; hlt: the same bytes in 16-, 32- and 64-bit code
CODE = bytes((0xB0, VALUE, 0xE6, PORT, 0xF4))
SIZE = 2 * MIB


class Bench:
    """One VM for all cases; a vCPU for each, so that no case inherits anything."""

    def __init__(self) -> None:
        self.kvm = Kvm()
        self.vm = self.kvm.create_vm()
        self.vm.set_identity_map_addr(IDENTITY_MAP)
        self.vm.set_tss_addr(TSS)
        self.memory = GuestMemory(SIZE)
        region = self.memory.regions[0]
        self.vm.set_memory_region(0, region.gpa, region.size, region.host_address)
        self.cpuid = self.kvm.supported_cpuid()
        self._vcpus = 0
        self._base = ""  # whose tables are in memory

    @contextmanager
    def vcpu(self) -> Iterator[Vcpu]:
        """A fresh vCPU. There is no local APIC, so each can run at once."""
        vcpu = self.vm.create_vcpu(self._vcpus)
        self._vcpus += 1
        try:
            vcpu.set_cpuid(self.cpuid)
            yield vcpu
        finally:
            vcpu.close()

    def outcome(self, vcpu: Vcpu, case: Case) -> str:
        """How the state ends: ENTERED, EINVAL, FAIL_ENTRY, or another exit in words."""
        if case.base != self._base:
            self._base = case.base
            self._write_tables(STATES[case.base]())
        state = case.state()
        linear = state.rip if state.cs.l else state.cs.base + state.rip
        if state.cr3:
            linear %= SIZE
        if linear + len(CODE) <= SIZE:
            self.memory.write(linear, CODE)
        return _try(vcpu, state)

    def _write_tables(self, valid: CpuState) -> None:
        for gpa, data in memory_for(valid):
            self.memory.write(gpa, data)
        if valid.cr3:
            # Every linear address, the upper half included, leads to the first 2 MiB: whatever RIP is, there is code.
            pointer, large = 0x7, 0x87  # present, writable, user
            for level in (1, 2):
                self.memory.write(valid.cr3 + (level - 1) * PAGE, (valid.cr3 + level * PAGE | pointer).to_bytes(8, "little") * 512)
            self.memory.write(valid.cr3 + 2 * PAGE, large.to_bytes(8, "little") * 512)


def _try(vcpu: Vcpu, state: CpuState) -> str:
    try:
        load(vcpu, state)
    except KvmError as error:
        if (error.ioctl, error.errno) == ("KVM_SET_SREGS", errno.EINVAL):
            return EINVAL
        raise
    if run_ioctl(vcpu.fd, uapi.KVM_RUN):
        raise Failed("KVM_RUN did not return 0")
    return _outcome_of(vcpu)


def _outcome_of(vcpu: Vcpu) -> str:
    reason = vcpu.words[structs.RUN_EXIT_REASON // 4]
    if reason == uapi.KVM_EXIT_IO:
        direction, size, port, count, offset = unpack_from("<BBHIQ", vcpu.page, structs.RUN_UNION)
        access = direction, size, port, count, vcpu.page[offset]
        return ENTERED if access == (1, 1, PORT, 1, VALUE) else f"KVM_EXIT_IO {access}"
    name = uapi.EXIT_NAMES.get(reason, f"exit {reason}")
    if reason == uapi.KVM_EXIT_FAIL_ENTRY:
        return f"{name} {vcpu.quads[structs.RUN_UNION // 8]:#x}"
    return name


def load(vcpu: Vcpu, state: CpuState) -> None:
    """KVM_SET_SREGS and KVM_SET_REGS of a state, without a look at it: poweron.set_boot_state would refuse half of these."""
    sregs, regs = vcpu.get_sregs(), structs.kvm_regs()
    for name, value in state:
        if isinstance(value, Segment | Table):
            for field, number in value:
                setattr(getattr(sregs, name), field, number)
        else:
            setattr(regs if hasattr(regs, name) else sregs, name, value)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


def _check(bench: Callable[[], Bench], case: Case) -> str:
    """Raises Failed unless the state ends as the table says; returns the known exception, if it is one."""
    expected, known = case.expected(), ""
    board = bench()
    if case.feature and not has_feature(board.cpuid, case.feature):
        expected, known = EINVAL, f"{EINVAL}, for this CPU has no {case.feature.upper()}"
    elif case.bochs:
        expected, known = case.bochs, f"{case.bochs} instead of {case.expected()}: {case.because}"
    with board.vcpu() as vcpu:
        found = board.outcome(vcpu, case)
    if found != expected:
        raise Failed(f"expected {expected}, got {found}")
    return known


def checks(bench: Callable[[], Bench]) -> list[Check]:
    """A check for each case; what must be refused first."""
    return [
        Check(name=f"{case.name()}: {case.rule or 'accepted'}", run=partial(_check, bench, case)) for case in (*REFUSED, *ACCEPTED)
    ]
