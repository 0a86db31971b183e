"""pyvmm/observe/debug/views: page walks, chips, PCI, queues, from states made by hand."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pyvmm.kvm import structs
from pyvmm.observe.debug.command import CommandError
from pyvmm.observe.debug.session import Session
from pyvmm.observe.debug.style import PLAIN
from pyvmm.observe.debug.vectors import handler
from pyvmm.observe.debug.views import chips, cpu, machine
from pyvmm.observe.debug.views.pages import page_walk
from pyvmm.observe.explain.layout import Function, Layout, Window
from tests.support.fake_subject import FakeMemory, FakeSubject

pytest.importorskip("capstone")


class Paged(FakeSubject):
    """64-bit, four levels: 0x400000 is read-only 4 KiB at 0x9000, 0x600000 a large page, the rest is not there."""

    def __init__(self) -> None:
        super().__init__()
        for at, entry in (
            (0x1000, 0x2007), (0x2000, 0x3007), (0x3000 + 8 * 2, 0x4007), (0x4000, 1 << 63 | 0x9025), (0x3000 + 8 * 3, 0x600000 | 0xE3),
        ):  # fmt: skip
            self._memory[at : at + 8] = struct.pack("<Q", entry)

    def sregs(self, vcpu: int) -> Any:
        found = super().sregs(vcpu)
        found.cr0, found.cr3, found.cr4, found.efer, found.cs.l = 0x8001_0011, 0x1000, 0x20, 0xD00, 1
        found.idt.base, found.idt.limit = 0x9000, 0xFFF
        return found


def test_the_memory_map_tells_rom_from_ram() -> None:
    layout = Layout(ports=[], mmio=[], functions={}, ram=[(0, 3 << 30), (0xFFFC_0000, 0x4_0000), (1 << 32, 1 << 30)])
    lines, _ = machine.memory_map(layout, PLAIN)
    assert [line.split()[-1] for line in lines if line.endswith(("RAM", "ROM"))] == ["RAM", "ROM", "RAM"]


def test_a_walk_shows_every_level() -> None:
    lines, data = page_walk(Session(Paged()), 0x40_0123, PLAIN)
    text = "\n".join(lines)
    assert [each["table"] for each in data["levels"]] == ["PML4", "PDPT", "PD", "PT"]
    assert data["levels"][3]["bits"] == ["P", "US", "A", "NX"] and data["gpa"] == 0x9123
    assert "4 levels, from cr3 0x1000" in text and "a page of 4 KiB at 0x9000: user, accessed, no execution, read-only" in text
    assert lines[-1] == "=> guest physical 0x9123 (user and kernel, read only)"


def test_a_large_page_and_one_that_is_not_there() -> None:
    lines, data = page_walk(Session(Paged()), 0x60_0123, PLAIN)
    assert len(data["levels"]) == 3 and data["gpa"] == 0x60_0123 and "a page of 2 MiB" in "\n".join(lines) and "no RAM there" in lines[-1]
    lines, data = page_walk(Session(Paged()), 0x80_0000, PLAIN)
    assert data["gpa"] is None and lines[-1] == "=> page fault: it is not mapped: its PD entry is not present"
    lines, data = page_walk(Session(Paged()), 1 << 60, PLAIN)
    assert lines[-1] == "=> page fault: it is not canonical"


def test_a_handler_of_the_idt() -> None:
    subject = Paged()
    address = 0xFFFF_8000_1234_5678
    gate = address & 0xFFFF | 8 << 16 | 0x8E << 40 | (address >> 16 & 0xFFFF) << 48
    subject._memory[0x9000 + 14 * 16 : 0x9000 + 15 * 16] = struct.pack("<QQ", gate, address >> 32)
    subject._memory[0x3000 + 8 * 4 : 0x3000 + 8 * 5] = struct.pack("<Q", 0)
    session = Session(subject)
    # the table's linear address 0x9000 is not mapped here: say so, not nonsense
    with pytest.raises(CommandError, match="not mapped"):
        handler(session, 14)
    subject._memory[0x3000:0x3008] = struct.pack("<Q", 0xE3)  # 0 to 2 MiB
    assert handler(session, 14) == address
    with pytest.raises(CommandError, match="not present"):
        handler(session, 3)


def test_interrupt_controllers() -> None:
    pic = bytes((0, 1, 0xB8, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xF8))
    table = [1 << 16] * 24
    table[4] = 0x24 | 1 << 56
    ioapic = struct.pack("<QIIII", 0xFEC0_0000, 0, 0, 1 << 4, 0) + struct.pack("<24Q", *table)
    state: Any = type("State", (), {"chips": (pic.ljust(512, b"\0"), pic.ljust(512, b"\0"), ioapic.ljust(512, b"\0")), "pit": b""})()
    lines, data = chips.irqchip(state, PLAIN)
    text = "\n".join(lines)
    assert "PIC 1  vectors 0x20-0x27" in text and "masked           3 4 5 7" in text
    assert "pin 4  vector 0x24 to APIC 0x1, fixed, edge, active high" in text and "requested 4" in text
    assert data["ioapic"]["redirection"][4] == table[4]
    assert chips.pit(state, PLAIN) == ["there is no PIT (-machine pit=off)"]
    state.pit = b"".join(struct.pack("<I9xBxBq", count, mode, 1, 0) for count, mode in ((1193, 2), (0, 0xFF), (0, 0xFF))).ljust(112, b"\0")
    assert "mode 2, counts 1193 (1000.2 Hz), gate 1" in chips.pit(state, PLAIN)[0]


def test_a_local_apic() -> None:
    page = bytearray(0x400)
    for at, value in (
        (0x20, 3 << 24),
        (0x30, 0x14),
        (0xF0, 0x1FF),
        (0x320, 0x20 | 1 << 17),
        (0x380, 1000),
        (0x390, 7),
        (0x3E0, 0xB),
        (0x210, 2),
    ):
        page[at : at + 4] = value.to_bytes(4, "little")
    text = "\n".join(chips.lapic(bytes(page), PLAIN)[0])
    assert "id 3, version 0x14" in text and "requested   0x21" in text
    assert "vector 0x20, periodic" in text and "counts 7 of 1000, divided by 1" in text


def test_pci_functions() -> None:
    config = bytearray(256)
    config[4:8], config[0x34], config[0x3C:0x3E] = b"\x07\x00\x10\x00", 0x40, b"\x0b\x01"
    config[0x40:0x42], config[0x50:0x52] = b"\x11\x50", b"\x09\x00"
    layout = Layout(
        mmio=[Window(base=0xC000_0000, length=0x4000, device="disk-bar4", bar=("disk", 4))],
        functions={8: Function(name="disk", vendor=0x1AF4, device=0x1042, state="disk")},
    )
    lines, data = machine.pci(layout, {"disk": {"config": bytes(config)}}, PLAIN)
    text = "\n".join(lines)
    assert "00:01.0  1af4:1042  disk" in text and "BAR 4: memory 0xc0000000, 16 KiB" in text and "INTA, line 11" in text
    assert "MSI-X at 0x40, vendor specific at 0x50" in text and data[0]["vendor"] == 0x1AF4
    looped = bytes(config[:0x50]) + b"\x09\x40" + bytes(0xAE)
    assert len(machine.pci(layout, {"disk": {"config": looped}}, PLAIN)[0]) < 10, "a chain that loops ends"


def test_queues() -> None:
    memory = FakeMemory(bytearray(0x3000))
    memory.data[0x1002:0x1004], memory.data[0x2002:0x2004] = b"\x05\x00", b"\x03\x00"
    ring = {"size": 8, "enabled": 1, "desc": 0x800, "driver": 0x1000, "device": 0x2000}
    states = {"disk-core": {"queues": [ring, {**ring, "enabled": 0}, {**ring, "driver": 1 << 40}]}}
    lines, data = machine.queues(states, memory, PLAIN)
    assert "available 5, used 3: 2 not answered" in lines[1] and "not enabled" in lines[2] and "outside RAM" in lines[4]
    assert data[0]["avail_idx"] == 5


def test_registers_and_cpuid() -> None:
    regs, sregs = structs.kvm_regs(rax=1, rip=0x1000, rflags=0x246), structs.kvm_sregs(efer=0x500)
    sregs.cs.l = 1
    text = "\n".join(cpu.general(regs, sregs, set(), PLAIN))
    assert "r15 0000000000000000" in text and "rflags 00000246 PF ZF IF" in text
    vendor = struct.unpack("<4I", struct.pack("<I", 1) + b"Auth" + b"cAMD" + b"enti")
    lines = cpu.cpuid([(0, 0, 0, *vendor), (7, 0, 1, 0, 0, 0, 0)], PLAIN)
    assert lines[1].endswith("vendor, highest leaf: AuthenticAMD") and "  0  " in lines[2]
    assert cpu.msrs({0xC000_0082: 5}, PLAIN) == ["IA32_LSTAR (0xc0000082)  0000000000000005"]
