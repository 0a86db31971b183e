"""Vm.msi: a prepared KVM_SIGNAL_MSI reaches the vCPU; what no APIC takes is lost without a word."""

from __future__ import annotations

import pytest

from pyvmm.kvm.system import Kvm

pytestmark = pytest.mark.kvm
LAPIC_IRR = 0x200  # 8 registers of 32 bits, 16 bytes apart (SDM Vol 3A, table 11-1)
LAPIC_SPURIOUS, ENABLED = 0xF0, 0x1FF


def test_a_message_sets_its_vector_and_nonsense_is_lost() -> None:
    kvm = Kvm()
    vm = kvm.create_vm()
    try:
        vm.create_irqchip()
        vcpu = vm.create_vcpu(0)
        try:
            page = vcpu.get_lapic()
            page[LAPIC_SPURIOUS : LAPIC_SPURIOUS + 4] = ENABLED.to_bytes(4, "little")
            vcpu.set_lapic(page)
            vm.msi(0xFEE0_0000, 0x41)()
            vm.msi(0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF)()
            vm.msi(0x1234, 0)()
            page = vcpu.get_lapic()
            assert page[LAPIC_IRR + 0x20] == 1 << 1  # vector 0x41: bit 1 of the third register
        finally:
            vcpu.close()
    finally:
        vm.close()
        kvm.close()
