"""The interrupt controllers that live in the kernel, and the timer: struct kvm_pic_state, kvm_ioapic_state, kvm_lapic_state,
kvm_pit_state2 as lines. Meanings: Intel 8259A and 82093AA data sheets, SDM volume 3A 11.4.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.kvm.state import VmState
    from pyvmm.observe.debug.style import Style

_PIC = ("last_irr", "irr", "imr", "isr", "priority_add", "irq_base", "read_reg_select", "poll", "special_mask", "init_state", "auto_eoi",
        "rotate_on_auto_eoi", "special_fully_nested_mode", "init4", "elcr", "elcr_mask")  # fmt: skip
_DELIVERY = {0: "fixed", 1: "lowest priority", 2: "SMI", 4: "NMI", 5: "INIT", 6: "SIPI", 7: "ExtINT"}
_PINS = 24
_PIT_INPUT = 1_193_182  # Hz
_LVT = {0x320: "timer", 0x330: "thermal", 0x340: "performance", 0x350: "LINT0", 0x360: "LINT1", 0x370: "error"}
_TIMER_MODES = {0: "one-shot", 1: "periodic", 2: "TSC deadline"}


def _numbers(mask: int) -> str:
    return " ".join(str(bit) for bit in range(mask.bit_length()) if mask >> bit & 1) or "-"


def pics(state: VmState) -> list[dict[str, int]]:
    """Both PICs' registers by the kernel's names."""
    return [dict(zip(_PIC, data[: len(_PIC)], strict=True)) for data in state.chips[:2]]


def ioapic(state: VmState) -> tuple[dict[str, int], list[int]]:
    """(registers, redirection table)."""
    data = state.chips[2]
    base, select, identity, irr, _ = struct.unpack_from("<QIIII", data)
    return {"base": base, "ioregsel": select, "id": identity, "irr": irr}, list(struct.unpack_from(f"<{_PINS}Q", data, 24))


def irqchip(state: VmState, style: Style) -> tuple[list[str], dict[str, Any]]:
    """(lines, data) of the PICs and the I/O APIC."""
    lines = []
    for name, first, pic in zip(("PIC 1", "PIC 2"), (0, 8), pics(state), strict=True):
        lines.append(f"{style.name(name)}  vectors {pic['irq_base']:#04x}-{pic['irq_base'] + 7:#04x}, lines {first} to {first + 7}")
        for label, key in (("requested", "irr"), ("in service", "isr"), ("masked", "imr"), ("level-triggered", "elcr")):
            lines.append(f"       {label:<16} {_numbers(pic[key] << first)}")
    registers, table = ioapic(state)
    lines.append(f"{style.name('I/O APIC')} at {registers['base']:#x}, id {registers['id']}, requested {_numbers(registers['irr'])}")
    open_pins = [(pin, entry) for pin, entry in enumerate(table) if not entry >> 16 & 1]
    lines += [f"       pin {pin:<2} {redirection(entry)}" for pin, entry in open_pins]
    masked = [str(pin) for pin, entry in enumerate(table) if entry >> 16 & 1]
    lines.append(f"       masked: {' '.join(masked) or '-'}" if len(masked) < _PINS else "       all pins are masked")
    return lines, {"pics": pics(state), "ioapic": registers | {"redirection": table}}


def redirection(entry: int) -> str:
    """One entry of the redirection table in words (82093AA 3.2.4)."""
    delivery = _DELIVERY.get(entry >> 8 & 7, "reserved")
    to = f"{'logical' if entry >> 11 & 1 else 'APIC'} {entry >> 56:#x}"
    trigger = f"{'level' if entry >> 15 & 1 else 'edge'}, active {'low' if entry >> 13 & 1 else 'high'}"
    pending = [text for bit, text in ((12, "being sent"), (14, "waits for EOI")) if entry >> bit & 1]
    return f"vector {entry & 0xFF:#04x} to {to}, {delivery}, {trigger}{''.join(f', {each}' for each in pending)}"


def pit(state: VmState, style: Style) -> list[str]:
    """The three counters (struct kvm_pit_channel_state: count at 0, mode at 13, gate at 15 of 24 bytes)."""
    if not state.pit:
        return ["there is no PIT (-machine pit=off)"]
    lines = []
    for number, used in enumerate(("interrupt line 0", "memory refresh, once", "speaker")):
        count, *_ = struct.unpack_from("<I", state.pit, 24 * number)
        mode, gate = state.pit[24 * number + 13], state.pit[24 * number + 15]
        if mode == 0xFF:
            lines.append(f"{style.name(f'counter {number}')}  not programmed: {used}")
            continue
        rate = f"{_PIT_INPUT / count:.1f} Hz" if count else "not started"
        lines.append(f"{style.name(f'counter {number}')}  mode {mode}, counts {count or 65536} ({rate}), gate {gate}: {used}")
    return lines


def lapic(data: bytes, style: Style) -> tuple[list[str], dict[str, int]]:
    """A local APIC's registers."""

    def register(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    def vectors(at: int) -> list[int]:
        return [32 * word + bit for word in range(8) for bit in range(32) if register(at + 16 * word) >> bit & 1]

    lines = [
        f"{style.name('id')} {register(0x20) >> 24}, version {register(0x30) & 0xFF:#x}, task priority {register(0x80):#x}, "
        f"{'on' if register(0xF0) & 0x100 else 'switched off'}, spurious vector {register(0xF0) & 0xFF:#x}"
    ]
    for label, at in (("requested", 0x200), ("in service", 0x100), ("level", 0x180)):
        lines.append(f"{style.name(f'{label:<11}')} {' '.join(f'{each:#x}' for each in vectors(at)) or '-'}")
    for at, name in _LVT.items():
        entry = register(at)
        mode = f", {_TIMER_MODES.get(entry >> 17 & 3, 'reserved')}" if name == "timer" else f", {_DELIVERY.get(entry >> 8 & 7, 'reserved')}"
        lines.append(f"{style.name(f'{name:<11}')} {'masked' if entry >> 16 & 1 else f'vector {entry & 0xFF:#x}{mode}'}")
    lines.append(f"{style.name('timer')}       counts {register(0x390)} of {register(0x380)}, divided by {_divider(register(0x3E0))}")
    return lines, {f"{at:#x}": register(at) for at in range(0x20, 0x400, 0x10)}


def _divider(value: int) -> int:
    """The divide configuration register (SDM volume 3A, figure 11-10)."""
    return 1 << ((value & 3 | value >> 1 & 4) + 1) % 8
