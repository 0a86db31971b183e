"""gdb's registers of a real vCPU: read, written, read again; KVM takes what ``assign`` makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.observe.gdb.cpu_state import assign, collect
from pyvmm.observe.gdb.registers import NAMES
from tests.support.vm import HALT, flat

pytestmark = pytest.mark.kvm
KERNEL_GS_BASE = 0xC000_0102
VALUES = {
    "rax": 0x1122_3344_5566_7788, "rip": 0x10_0001, "eflags": 0x46, "rsp": 0x8000, "r15": 1, "cr2": 0x1234_5000, "fs_base": 0x5000,
    "xmm0": 1 << 127 | 5, "xmm15": 6, "mxcsr": 0x1FA0, "st0": 0x3FFF_8000_0000_0000_0000,
    "fctrl": 0x27F, "fstat": 0x3800, "ftag": 0x3FFF, "gdt_base": 0x6000, "gdt_limit": 0x2F, "k_gs_base": 0xFFFF_8000_0000_0000,
}  # fmt: skip


def test_a_vcpus_registers(tmp_path: Path) -> None:
    with flat(HALT, tmp_path) as (machine, _):
        vcpu = machine.vcpus[0]

        def read() -> dict[str, int]:
            return collect(vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_xsave(), vcpu.get_msrs([KERNEL_GS_BASE])[KERNEL_GS_BASE])

        before = read()
        assert set(before) == set(NAMES) and before["ftag"] == 0xFFFF and before["rip"] == 0x10_0000
        regs, sregs, xsave = vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_xsave()
        assert assign(VALUES, regs, sregs, xsave) == {"regs", "sregs", "xsave"}
        vcpu.set_sregs(sregs)
        vcpu.set_regs(regs)
        vcpu.set_xsave(xsave)
        vcpu.set_msrs({KERNEL_GS_BASE: VALUES["k_gs_base"]})
        assert read() == {**before, **VALUES}
