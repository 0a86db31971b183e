"""Whole pages, as somebody has read them; and pages of rubbish, which must not end in a traceback."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from pyvmm import exits
from pyvmm.exits import Exit
from pyvmm.kvm import uapi
from pyvmm.observe.disasm import Instruction
from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.text import WIDTH, render
from pyvmm.observe.explain.who import Site
from tests.support import golden
from tests.support.exit_pages import BOARD, CONFIG, io, mmio, page

SEGMENT = SimpleNamespace(base=0, db=0, l=0, dpl=0)
REAL = SimpleNamespace(cr0=0x10, cr4=0, efer=0, cs=SEGMENT, ss=SEGMENT)
LONG = SimpleNamespace(cr0=0x8000_0011, cr4=0x20, efer=0x500, cs=SimpleNamespace(base=0, db=0, l=1, dpl=0), ss=SEGMENT)


def site(text: str, data: str, address: int, behind: bool = False) -> Site:
    mnemonic, _, operands = text.partition(" ")
    return Site(instruction=Instruction(address=address, data=bytes.fromhex(data), mnemonic=mnemonic, operands=operands), behind=behind)


def regs(rip: int) -> SimpleNamespace:
    return SimpleNamespace(rip=rip, rflags=2)


def test_out() -> None:
    state = {"serial0": {"lcr": 3}}
    told = explain(io(0x3F8, b"H"), BOARD, regs=regs(0x7C1C), sregs=REAL, site=site("out dx, al", "ee", 0x7C1C), before=state, after=state)
    assert told.line == "vCPU 0 wrote 0x48 'H' to COM1 THR (port 0x3f8; out dx, al at 0x7c1c)"
    golden.check("explain/page-out.txt", render(told))


def test_in() -> None:
    told = explain(io(0x3FD), BOARD, regs=regs(0x7C12), sregs=REAL, site=site("in al, dx", "ec", 0x7C12), answer=b"\x60")
    golden.check("explain/page-in.txt", render(told))


def test_a_repeated_instruction_is_over_when_its_count_is() -> None:
    out = explain(io(0x3F8, b"H"), BOARD, regs=regs(0x7C1C), sregs=REAL, site=site("rep outsb dx, byte ptr [si]", "f36e", 0x7C1C))
    into = explain(io(0x3FD), BOARD, regs=regs(0x7C1C), sregs=REAL, site=site("rep insb byte ptr es:[di], dx", "f36c", 0x7C1C))
    for told in (out, into):
        assert "if rcx has become 0" in " ".join(render(told).split())


def test_mmio_write() -> None:
    told = explain(
        mmio(0xC000_0014, b"\x0f"), BOARD, vcpu=1, regs=regs(0x10_096E), sregs=LONG,
        site=site("mov byte ptr [rbx + 0x14], 0xf", "c643140f", 0x10_096A, True),
        before={"blk0-core": {"status": 0xB}}, after={"blk0-core": {"status": 0xF}},
    )  # fmt: skip
    golden.check("explain/page-mmio-write.txt", render(told))


def test_pci_configuration() -> None:
    before = {"pci": {"address": 0x8000_0840}, "blk0-card": {"config": bytes(CONFIG)}}
    told = explain(
        io(0xCFC, size=4), BOARD, regs=regs(0x10_076C), sregs=LONG, site=site("in eax, dx", "ed", 0x10_076C),
        before=before, after=before, answer=bytes.fromhex("11 4c 01 80"),
    )  # fmt: skip
    golden.check("explain/page-pci.txt", render(told))


def test_triple_fault() -> None:
    told = explain(exits.decode(memoryview(page(uapi.KVM_EXIT_SHUTDOWN))), regs=regs(0x10_001C), sregs=LONG)
    assert told.line.endswith("(rip 0x10001c)")
    golden.check("explain/page-shutdown.txt", render(told))


def test_a_data_port_gives_way_to_what_it_shows() -> None:
    told = explain(io(0x71), BOARD, before={"rtc": {"index": 0x8B}}, answer=b"\x02")
    assert told.title == "vCPU 0 read 0x02 from rtc B: 24H"
    assert told.access is not None and [each.name for each in told.access.registers] == ["DATA", "B"]


def test_a_vcpu_that_was_reset_is_not_believed() -> None:
    fresh = SimpleNamespace(cr0=0x6000_0010, cr4=0, efer=0, cs=SimpleNamespace(base=0xFFFF_0000, db=0, l=0, dpl=0), ss=SEGMENT)
    told = explain(exits.decode(memoryview(page(uapi.KVM_EXIT_SHUTDOWN))), regs=regs(0xFFF0), sregs=fresh)
    assert told.line == told.title
    assert "its registers say nothing of the guest" in told.who


def test_msr() -> None:
    fields = {"error": 0, "reason": 4, "index": 0xC000_0080, "value": 0xD01}
    told = explain(Exit(name="KVM_EXIT_X86_WRMSR", number=uapi.KVM_EXIT_X86_WRMSR, fields=fields), sregs=LONG, regs=regs(0x1000))
    golden.check("explain/page-wrmsr.txt", render(told))


@pytest.mark.parametrize("seed", range(20))
def test_rubbish_is_explained_as_well(seed: int) -> None:
    """A recording may hold any page, and states that do not fit the devices' of today."""
    chance = random.Random(seed)
    ports = [window.base + offset for window in BOARD.ports for offset in range(window.length)]
    for _ in range(200):
        run = bytearray(chance.randbytes(0x300) + bytes(2 * 4096))
        number = chance.choice([*uapi.EXIT_NAMES, 2, 2, 6, 6, chance.getrandbits(32)])
        run[8:12] = number.to_bytes(4, "little")
        if number == 2:
            run[0x22:0x24] = chance.choice([*ports, chance.getrandbits(16)]).to_bytes(2, "little")
            run[0x24:0x28] = chance.choice([0, 1, 5]).to_bytes(4, "little")
            run[0x28:0x30] = (0x1000).to_bytes(8, "little")
        if number == 6:
            window = chance.choice(BOARD.mmio)
            run[0x20:0x28] = (window.base + chance.randrange(window.length)).to_bytes(8, "little")
            run[0x30:0x34] = chance.choice([0, 1, 2, 4, 8, 3, chance.getrandbits(32)]).to_bytes(4, "little")
        before = {
            "pci": {"address": 0x8000_0000 | chance.getrandbits(12)},
            "rtc": {"index": chance.getrandbits(8)},
            "serial0": {"lcr": chance.getrandbits(8)},
            "blk0-card": {"config": chance.randbytes(256)},
            "blk0-core": {"queue_select": chance.getrandbits(16), "device_feature_select": chance.getrandbits(32)},
        }
        told = explain(
            exits.decode(memoryview(run)), BOARD, before=before, after={}, answer=chance.choice([None, b"", chance.randbytes(8)])
        )
        assert max(map(len, render(told).split("\n"))) <= WIDTH + 20
