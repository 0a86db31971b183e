"""The machine as firmware would leave it: interrupt vectors of the PICs, and what Multiboot 3.2 promises beyond."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.boot.cpu import real_mode
from pyvmm.boot.detect import plan as make_plan
from pyvmm.config import BootConfig, Config, DeviceConfig, SerialConfig
from pyvmm.kvm.vm import Vm
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.support import images, vm

pytestmark = pytest.mark.kvm

TESTDEV = DeviceConfig(name="pc-testdev")


@pytest.mark.parametrize(("line", "vector"), [(3, 0x0B), (13, 0x75)])
def test_isa_interrupts_have_the_vectors_of_a_pc_at(tmp_path: Path, line: int, vector: int) -> None:
    handler = 0x7C40
    # xor ax,ax; mov ds,ax; mov ss,ax; mov sp,0x7000; mov word [4*vector],handler; mov [4*vector+2],ax
    code = bytes.fromhex("31c0 8ed8 8ed0 bc0070") + b"\xc7\x06" + (4 * vector).to_bytes(2, "little") + handler.to_bytes(2, "little")
    code += b"\xa3" + (4 * vector + 2).to_bytes(2, "little")
    # mov dx,0x2000+line; mov al,1; out dx,al; dec ax; out dx,al; sti; hlt; jmp back to hlt
    code += b"\xba" + bytes([line, 0x20]) + bytes.fromhex("b001 ee 48 ee fb f4 ebfd")
    code = code.ljust(handler - 0x7C00, b"\0") + b"\xb0" + bytes([vector]) + bytes.fromhex("baf400 ee ebfe")  # al=vector; out 0xf4,al
    with vm.flat(code, tmp_path, fmt="flat16", devices=(vm.DEBUG_EXIT, TESTDEV)) as (machine, _):
        reason = vm.run(machine, 20)
        assert (reason.kind, reason.value) == (events.DEBUG_EXIT, vector)


@pytest.mark.parametrize(("options", "kind"), [((), events.DEBUG_EXIT), ((("pit", "off"),), events.TIMEOUT)])
def test_the_timer_ticks_for_a_multiboot_guest_in_real_mode(tmp_path: Path, options: tuple[tuple[str, str], ...], kind: str) -> None:
    """Two ticks, so the first was acknowledged. Without a PIT nothing wakes the guest."""
    image = tmp_path / "guest.mb"
    image.write_bytes(images.multiboot_raw(0x1_0000, bytes.fromhex("fb f4 f4 b021 baf400 ee ebfe")))  # sti; hlt; hlt; al=0x21; out 0xf4,al
    config = Config(
        boot=BootConfig(kernel=str(image)), memory=16 * MIB, serials=(SerialConfig(),), devices=(vm.DEBUG_EXIT,), machine=options
    )
    plan = make_plan(config)
    plan.state = real_mode(plan.entry, rsp=0x7000)
    with Machine(config, [vm.Collector()], plan) as machine:
        assert vm.run(machine, 20 if kind == events.DEBUG_EXIT else 0.5).kind == kind


@pytest.mark.parametrize("reinject", [True, False])
def test_lost_ticks_are_discarded_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reinject: bool) -> None:
    """KVM_REINJECT_CONTROL, which KVM starts with set; nothing reads it back."""
    asked: list[bool] = []
    control = Vm.set_pit_reinject

    def spy(self: Vm, value: bool) -> None:
        asked.append(value)
        control(self, value)

    monkeypatch.setattr(Vm, "set_pit_reinject", spy)
    with vm.flat(vm.POWER_OFF, tmp_path, pit_reinject=reinject) as (machine, _):
        assert vm.run(machine).kind == events.POWEROFF
        during = list(asked)  # the close of a VM takes it back
    assert during == ([] if reinject else [False])
