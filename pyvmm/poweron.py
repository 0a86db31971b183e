"""What firmware leaves behind in the kernel's half of a PC: interrupt wiring, a ticking timer, and a vCPU about to enter the guest."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.kvm import structs, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.kvm.vm import Vm

_LVT_LINT0, _LVT_LINT1 = 0x350, 0x360  # local APIC page (SDM Vol 3A, table 11-1)
_PIC_STATE_IRQ_BASE, _PIC_STATE_ELCR = 5, 14  # bytes of struct kvm_pic_state


def irqchip_routes() -> list[tuple[int, int, int]]:
    """GSI -> (chip, pin) as on a PC: 0 to 15 to both PICs and the I/O APIC, the PIT to I/O APIC pin 2 (as the MADT says)."""
    routes = []
    for pin in range(16):
        if pin != 2:  # the cascade
            chip = uapi.KVM_IRQCHIP_PIC_MASTER if pin < 8 else uapi.KVM_IRQCHIP_PIC_SLAVE
            routes.append((pin, chip, pin % 8))
    for gsi in range(24):
        if gsi != 2:
            routes.append((gsi, uapi.KVM_IRQCHIP_IOAPIC, 2 if gsi == layout.IRQ_PIT else gsi))
    return routes


def set_boot_state(vcpu: Vcpu, state: Any) -> None:
    """Puts a ``boot.cpu.CpuState`` into a vCPU, after checking it against the rules Intel enforces at entry.

    Raises:
        KvmError, or ConfigError naming the rule the state breaks.
    """
    from pyvmm.errors import ConfigError
    from pyvmm.kvm.entry_rules import violations

    broken = violations(state, state)
    if broken:
        raise ConfigError(f"invalid entry state: {broken[0].field}: {broken[0].text} ({broken[0].section})")
    sregs, regs = vcpu.get_sregs(), structs.kvm_regs()
    for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt", "gdt", "idt"):
        target = getattr(sregs, name)
        for field, value in getattr(state, name):
            setattr(target, field, value)
    for name in ("cr0", "cr2", "cr3", "cr4", "efer"):
        setattr(sregs, name, getattr(state, name))
    for name, _ in structs.kvm_regs._fields_:
        setattr(regs, name, getattr(state, name))
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


def wire_pics(vm: Vm) -> None:
    """The PICs as firmware leaves them: the PC/AT's vectors; SCI, PCI and virtio-mmio lines level-triggered (ELCR, PIIX 4.1.5)."""
    levels = sum(1 << irq for irq in (layout.IRQ_SCI, *layout.PCI_IRQS, *layout.VIRTIO_MMIO_IRQS))
    for chip, vector, elcr in (
        (uapi.KVM_IRQCHIP_PIC_MASTER, layout.PIC_MASTER_VECTOR, levels & 0xFF),
        (uapi.KVM_IRQCHIP_PIC_SLAVE, layout.PIC_SLAVE_VECTOR, levels >> 8),
    ):
        state = bytearray(vm.get_irqchip(chip))
        state[_PIC_STATE_IRQ_BASE] = vector
        state[_PIC_STATE_ELCR] |= elcr
        vm.set_irqchip(chip, bytes(state))


def start_timer(vm: Vm) -> None:
    """Channel 0 of the PIT as a BIOS leaves it: a rate generator with the longest period, 18.2 ticks a second."""
    state = vm.get_pit()
    channel = state.channels[0]
    channel.count, channel.mode, channel.rw_mode, channel.gate = 0x1_0000, 2, 3, 1
    vm.set_pit(state)


def wire_lapic(vcpu: Vcpu) -> None:
    """Local interrupt pins as firmware leaves them: LINT1 is NMI, LINT0 of the boot processor the PIC (MP specification 1.4, 3.6.2).

    Also, KVM computes its map of APIC ids while a vCPU is being created, before it counts as one: until an APIC
    register is written, IPIs to the vCPU that was created last go nowhere. This writes one.
    """
    page = vcpu.get_lapic()
    page[_LVT_LINT0 : _LVT_LINT0 + 4] = (0x1_0000 if vcpu.index else 0x700).to_bytes(4, "little")  # masked; ExtINT
    page[_LVT_LINT1 : _LVT_LINT1 + 4] = (0x400).to_bytes(4, "little")
    vcpu.set_lapic(page)
