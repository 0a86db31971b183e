"""The state of vCPUs and VMs as data; ``state`` takes it from KVM. Here, because a recording is read where there is no KVM."""

from __future__ import annotations

from pyvmm.record import Record


class VcpuState(Record):
    """A vCPU between two instructions.

    Fields:
        regs, xcrs, debugregs, events: struct kvm_regs, kvm_xcrs, kvm_debugregs, kvm_vcpu_events.
        sregs: struct kvm_sregs2 (with the PDPTRs of PAE paging) where the host has it, else kvm_sregs: the length tells.
        xsave: the XSAVE area in standard format.
        lapic: the local APIC's 1 KiB.
        msrs: number -> value.
        mp_state: KVM_MP_STATE_*.
        tsc_khz: rate of its TSC; for comparison, it is not put back.
    """

    regs: bytes
    sregs: bytes
    xsave: bytes
    xcrs: bytes
    msrs: dict[int, int]
    lapic: bytes
    events: bytes
    debugregs: bytes
    mp_state: int
    tsc_khz: int


class VmState(Record):
    """What the vCPUs share. GSI routing is constant.

    Fields:
        chips: 512 bytes each: both PICs, the I/O APIC.
        pit: struct kvm_pit_state2, b"" without a PIT.
        clock: kvmclock, nanoseconds.
        taken: the host's monotonic clock then, nanoseconds: the PIT counts from moments of it.
    """

    chips: tuple[bytes, ...]
    pit: bytes
    clock: int
    taken: int
