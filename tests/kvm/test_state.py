"""The kernel's half of a machine as plain data, and registers at exits without an ioctl."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import KvmError
from pyvmm.kvm import state, structs, uapi
from pyvmm.kvm.state import SyncRegs
from pyvmm.kvm.vcpu import run_ioctl
from pyvmm.machine import Machine
from tests.support import vm

pytestmark = pytest.mark.kvm

# flat32: mov eax,0x11; mov ebx,0x22; mov dx,0x80; out dx,al; in al,dx; inc ebx; out dx,al; jmp .
CODE = bytes.fromhex("b811000000 bb22000000 66ba8000 ee ec 43 ee ebfe")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with vm.flat(CODE, tmp_path) as (made, _):
        yield made


def exits(machine: Machine, count: int) -> None:
    """Runs to the ``count``-th exit and handles all but it."""
    loop = machine.runloops[0]
    for number in range(count):
        if number:
            loop.exits[uapi.KVM_EXIT_IO]()
        run_ioctl(loop.vcpu.fd, uapi.KVM_RUN)


def test_what_is_put_is_what_was_taken(machine: Machine) -> None:
    vcpu = machine.vcpus[0]
    exits(machine, 2)
    machine.runloops[0].exits[uapi.KVM_EXIT_IO]()
    assert vcpu.settle()
    before = state.get(vcpu)
    regs = vcpu.get_regs()
    regs.rbx = 0x1234
    vcpu.set_regs(regs)
    vcpu.set_debugregs(structs.kvm_debugregs(dr6=0xFFFF_0FF0, dr7=0x400))
    state.put(vcpu, before)
    after = state.get(vcpu)
    for name, value in before:
        if name == "msrs":
            assert {index: each for index, each in value.items() if index not in (0x10, 0xE7, 0xE8)} == {
                index: each for index, each in after.msrs.items() if index not in (0x10, 0xE7, 0xE8)
            }
        elif name == "xsave":
            assert value[:512] == after.xsave[:512]
        else:
            assert getattr(after, name) == value, name


def test_time_stamps_go_on_where_they_stood(machine: Machine) -> None:
    vcpu = machine.vcpus[0]
    before = state.get(vcpu)
    vcpu.set_msrs({0x10: before.msrs[0x10] + (1 << 40)})
    if vcpu.get_msrs([0x10])[0x10] < before.msrs[0x10] + (1 << 40):
        pytest.skip("this KVM's guests see the host's time stamp counter as it is")
    time.sleep(0.3)
    state.put(vcpu, before)
    after = state.get(vcpu)
    gone = after.msrs[0x10] - before.msrs[0x10]
    assert 0 <= gone < before.tsc_khz * 250, "not the 300 ms that have passed"


def test_the_vm_too(machine: Machine) -> None:
    before = state.get_vm(machine.vm)
    machine.lines.source(4).set(1)
    assert state.get_vm(machine.vm).chips != before.chips
    state.put_vm(machine.vm, before)
    after = state.get_vm(machine.vm)
    assert after.chips == before.chips
    assert 0 <= after.clock - before.clock < 10**9
    pits = [structs.kvm_pit_state2.from_buffer_copy(each.pit) for each in (before, after)]
    assert [channel.mode for channel in pits[0].channels] == [channel.mode for channel in pits[1].channels]


def test_a_machine_without_a_pit(tmp_path: Path) -> None:
    with vm.flat(CODE, tmp_path, machine=(("pit", "off"),)) as (made, _):
        taken = state.get_vm(made.vm)
        assert taken.pit == b""
        state.put_vm(made.vm, taken)


def test_registers_come_with_the_exit(machine: Machine) -> None:
    vcpu = machine.vcpus[0]
    sync = SyncRegs(vcpu)
    exits(machine, 1)
    regs, sregs, _ = SyncRegs.split(sync.take())
    assert (regs.rax, regs.rbx) == (0x11, 0x22)
    assert bytes(regs) == bytes(vcpu.get_regs())
    assert bytes(sregs) == bytes(vcpu.get_sregs())
    machine.runloops[0].exits[uapi.KVM_EXIT_IO]()
    exits(machine, 1)  # the IN
    machine.runloops[0].exits[uapi.KVM_EXIT_IO]()
    before, _, _ = SyncRegs.split(sync.take())
    settled = sync.settled()
    assert settled is not None
    regs, _, _ = SyncRegs.split(settled)
    assert regs.rax & 0xFF == 0x11, "what port 0x80 was written"
    assert regs.rip >= before.rip
    assert len(settled) == SyncRegs.LENGTH == 520
    sync.close()
    page = vcpu.page[structs.RUN_VALID_REGS : structs.RUN_VALID_REGS + 8]
    assert struct.unpack("<Q", page) == (0,)


def test_a_kvm_without_them_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.vm, "check_extension", lambda _: 1)
    with pytest.raises(KvmError, match="KVM_CAP_SYNC_REGS"):
        SyncRegs(machine.vcpus[0])
