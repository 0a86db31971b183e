"""PCI on a real KVM: a guest finds and moves BARs, doorbells move along, and a PCI line reaches the PIC and the I/O APIC."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import events, layout
from pyvmm.config import DeviceConfig
from pyvmm.devices.pci.function import PciFunction
from pyvmm.kvm import uapi
from pyvmm.kvm.system import Kvm
from pyvmm.poweron import irqchip_routes
from tests.support import vm
from tests.support.pci import Scratch

pytestmark = pytest.mark.kvm
TESTDEV = DeviceConfig(name="pci-testdev")
RESULT = 0x20_0000


def config_address(slot: int, register: int) -> bytes:
    """flat32: mov eax,address; mov dx,0xcf8; out dx,eax; mov dx,0xcfc."""
    return b"\xb8" + (1 << 31 | slot << 11 | register).to_bytes(4, "little") + bytes.fromhex("66baf80c ef 66bafc0c")


def write_config(slot: int, register: int, value: int) -> bytes:
    return config_address(slot, register) + b"\xb8" + value.to_bytes(4, "little") + b"\xef"


def read_config(slot: int, register: int, to: int) -> bytes:
    return config_address(slot, register) + b"\xed\xa3" + to.to_bytes(4, "little")


def store(address: int, value: int) -> bytes:
    """flat32: mov dword [address],value."""
    return b"\xc7\x05" + address.to_bytes(4, "little") + value.to_bytes(4, "little")


def store_byte(address: int, value: int) -> bytes:
    return b"\xc6\x05" + address.to_bytes(4, "little") + bytes([value])


def copy(source: int, to: int) -> bytes:
    """flat32: mov eax,[source]; mov [to],eax."""
    return b"\xa1" + source.to_bytes(4, "little") + b"\xa3" + to.to_bytes(4, "little")


def test_a_guest_moves_a_bar_and_finds_the_device_there(tmp_path: Path) -> None:
    """The old place was used before, so the run loop has it in its cache."""
    device = Scratch()
    function = PciFunction("card", 0x1AF4, 0x1042, 0x01_80_00)
    bar = function.add_bar(0, 4096, device)
    old, new = layout.PCI_MEMORY_END - layout.PAGE, 0xD000_0000
    code = read_config(1, 0, RESULT) + read_config(1, 0x10, RESULT + 4) + store(old + 8, 0x1111_1111) + copy(old + 8, RESULT + 8)
    code += write_config(1, 0x10, 0xFFFF_FFFF) + read_config(1, 0x10, RESULT + 12)
    code += write_config(1, 0x10, new) + copy(new + 8, RESULT + 16) + store(new + 8, 0x2222_2222) + store(old + 8, 0x3333_3333)
    code += copy(old + 8, RESULT + 20) + copy(new + 8, RESULT + 24) + vm.POWER_OFF + vm.HANG

    def wire(machine: vm.Machine) -> None:
        machine.pci.plug(function)
        machine.pci.assign()

    with vm.flat(code, tmp_path, wire=wire) as (machine, _):
        assert bar.base == old
        assert vm.run(machine).kind == events.POWEROFF
        seen = [int.from_bytes(machine.memory.read(RESULT + at, 4), "little") for at in range(0, 28, 4)]
    assert seen == [0x1042_1AF4, old, 0x1111_1111, 0xFFFF_F000, 0x1111_1111, 0xFFFF_FFFF, 0x2222_2222]


@pytest.mark.parametrize(("number", "data"), [(0, 0xFA), (1, 0xCE), (2, 0xFA)])
def test_writes_to_the_test_device_count_with_and_without_a_doorbell(tmp_path: Path, number: int, data: int) -> None:
    """The BAR moves between the writes, and the doorbell with it; a doorbell costs no exit to user space."""
    old, new, at = layout.PCI_MEMORY_END - layout.PAGE, 0xD000_0000, 2048 + number
    code = store_byte(old, number) + store_byte(old + at, data) * 3 + write_config(1, 0x10, new) + store_byte(new + at, data) * 2
    code += store_byte(old + at, data) + copy(new + 12, RESULT) + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path, devices=(vm.DEBUG_EXIT, TESTDEV)) as (machine, _):
        writes: list[int] = []
        machine.mmio.tap(lambda access: writes.append(access.offset) if access.is_write and access.offset else None)
        assert vm.run(machine).kind == events.POWEROFF
        assert int.from_bytes(machine.memory.read(RESULT, 4), "little") == 5
        assert writes == ([at] * 5 if number == 0 else [])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_test_device_on_ports(tmp_path: Path, number: int) -> None:
    base, at, data = layout.PCI_IO, 128 + 3 + number, (0xFA, 0xCE, 0xFA)[number]

    def out(port: int, value: int) -> bytes:
        return b"\x66\xba" + port.to_bytes(2, "little") + bytes([0xB0, value, 0xEE])

    code = out(base, number) + out(base + at, data) * 16 + b"\x66\xba" + (base + 12).to_bytes(2, "little") + b"\xed\xa3"
    code += RESULT.to_bytes(4, "little") + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path, devices=(vm.DEBUG_EXIT, TESTDEV)) as (machine, _):
        assert vm.run(machine).kind == events.POWEROFF
        assert int.from_bytes(machine.memory.read(RESULT, 4), "little") == 16


@pytest.mark.parametrize("line", range(4))
def test_a_pci_line_reaches_its_pin_of_the_pics(tmp_path: Path, line: int) -> None:
    """In real mode, level-triggered: the handler runs again and again until the device lets go of the line."""
    irq = layout.PCI_IRQS[line]
    vector = layout.PIC_MASTER_VECTOR + irq if irq < 8 else layout.PIC_SLAVE_VECTOR + irq - 8
    handler = 0x7C60
    # xor ax,ax; mov ds,ax; mov ss,ax; mov sp,0x7000; mov word [4*vector],handler; mov [4*vector+2],ax; xor cx,cx
    code = bytes.fromhex("31c0 8ed8 8ed0 bc0070") + b"\xc7\x06" + (4 * vector).to_bytes(2, "little") + handler.to_bytes(2, "little")
    code += b"\xa3" + (4 * vector + 2).to_bytes(2, "little") + bytes.fromhex("31c9")
    # mov al,1; mov dx,0x4000; out dx,al (the line goes high); sti; hlt; jmp back to hlt
    code += bytes.fromhex("b001 ba0040 ee fb f4 ebfd")
    # handler: inc cx; EOI to both PICs; cmp cx,3; jb iret; xor al,al; mov dx,0x4000; out dx,al (low); mov al,vector; out 0xf4,al
    body = bytes.fromhex("41 b020 e6a0 e620 83f903 720c 30c0 ba0040 ee b0") + bytes([vector]) + bytes.fromhex("baf400 ee cf")
    code = code.ljust(handler - 0x7C00, b"\0") + body
    function = PciFunction("card", 1, 2, 3)

    class Lever(Scratch):
        def write(self, offset: int, size: int, value: int) -> None:
            function.set_intx(value)

    def wire(machine: vm.Machine) -> None:
        machine.pci.plug(function, 4 + line)
        machine.ports.add(0x4000, 1, Lever(), 1)

    with vm.flat(code, tmp_path, fmt="flat16", wire=wire) as (machine, _):
        reason = vm.run(machine, 20)
        assert (reason.kind, reason.value) == (events.DEBUG_EXIT, vector)


def test_a_pci_line_is_the_same_pin_of_both_controllers() -> None:
    """Seen in the controllers' own registers."""
    kvm = Kvm()
    machine = kvm.create_vm()
    try:
        machine.create_irqchip()
        machine.set_gsi_routing(irqchip_routes(), [])

        def requested() -> int:
            """Interrupt request registers of both PICs: byte 1 of struct kvm_pic_state (last_irr, irr, ...)."""
            master, slave = (machine.get_irqchip(chip) for chip in (uapi.KVM_IRQCHIP_PIC_MASTER, uapi.KVM_IRQCHIP_PIC_SLAVE))
            return (master[1] | slave[1] << 8) & ~(1 << 2)  # not the cascade

        def io_apic() -> int:
            """Which pins are high: irr of struct kvm_ioapic_state, behind base address, ioregsel and id."""
            return int.from_bytes(machine.get_irqchip(uapi.KVM_IRQCHIP_IOAPIC)[16:20], "little")

        for chip in (uapi.KVM_IRQCHIP_PIC_MASTER, uapi.KVM_IRQCHIP_PIC_SLAVE):
            state = bytearray(machine.get_irqchip(chip))
            state[14] = 0xF8 if chip == uapi.KVM_IRQCHIP_PIC_MASTER else 0xDE  # all that can be level-triggered are
            machine.set_irqchip(chip, bytes(state))
        for irq in layout.PCI_IRQS:
            machine.irq_line(irq, 1)
            assert (requested(), io_apic()) == (1 << irq, 1 << irq)
            machine.irq_line(irq, 0)
            assert (requested(), io_apic()) == (0, 0)
    finally:
        machine.close()
        kvm.close()
