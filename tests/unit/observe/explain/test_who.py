"""The instruction behind an exit, at rip or before it."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack_into
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm import exits
from pyvmm.exits import Exit
from pyvmm.kvm import uapi
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.observe.explain.who import Site, locate
from tests.support.exit_pages import io, mmio, page

pytest.importorskip("capstone")
CODE = 0x1000


def _segment() -> Any:
    return SimpleNamespace(base=0, limit=0xFFFF_FFFF, db=1, l=0, dpl=0)


SREGS = SimpleNamespace(
    cr0=1, cr3=0, cr4=0, efer=0, cs=_segment(), ds=_segment(), es=_segment(), ss=_segment(), fs=_segment(), gs=_segment()
)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory(MIB)
    yield made
    made.close()


def find(memory: GuestMemory, exit: Exit, code: str, at: int, **rest: Any) -> Site:
    """Looks with 32-bit code in memory and rip ``at`` bytes behind its start."""
    memory.write(CODE, bytes.fromhex(code))
    options = {name: rest.pop(name) for name in ("settled", "emulated") if name in rest}
    regs = SimpleNamespace(**{"rip": CODE + at, "rdi": 0, "rsi": 0, "rax": 0, "rbx": 0, **rest})
    return locate(exit, regs, SREGS, memory, **options)


def text(site: Site) -> tuple[str, bool]:
    assert site.instruction is not None
    return site.instruction.text, site.behind


def test_out_at_rip_on_hardware_and_behind_it_in_software(memory: GuestMemory) -> None:
    code = "66baf803 b041 ee 90"  # mov dx, 0x3f8; mov al, 'A'; out dx, al; nop
    assert text(find(memory, io(0x3F8, b"A"), code, 6)) == ("out dx, al", False)
    assert text(find(memory, io(0x3F8, b"A"), code, 7, emulated=True)) == ("out dx, al", True)
    assert text(find(memory, io(0x3F8, b"A"), code, 7, settled=True)) == ("out dx, al", True)


def test_two_outs_in_a_row(memory: GuestMemory) -> None:
    site = find(memory, io(0x3F8, b"A"), "ee ee", 1)
    assert site.instruction is not None and (site.instruction.address, site.behind) == (CODE + 1, False)
    site = find(memory, io(0x3F8, b"A"), "ee ee", 1, emulated=True)
    assert site.instruction is not None and (site.instruction.address, site.behind) == (CODE, True)


def test_in_waits_at_rip_until_it_is_settled(memory: GuestMemory) -> None:
    assert text(find(memory, io(0x3FD), "ec 90", 0, emulated=True)) == ("in al, dx", False)
    assert text(find(memory, io(0x3FD), "ec 90", 1, settled=True)) == ("in al, dx", True)


def test_width_and_port_must_fit(memory: GuestMemory) -> None:
    assert find(memory, io(0x70, b"A"), "e6 71", 0).instruction is None
    assert text(find(memory, io(0x71, b"A"), "e6 71", 0)) == ("out 0x71, al", False)
    assert text(find(memory, io(0x71, b"AB", 2), "90 66ef 90", 3, emulated=True)) == ("out dx, ax", True)


def test_mmio_writes_are_behind_rip(memory: GuestMemory) -> None:
    code = "8907 895c2404"  # mov [edi], eax; mov [esp+4], ebx
    assert text(find(memory, mmio(0xC000_0000, b"abcd"), code, 2, rdi=0xC000_0000)) == ("mov dword ptr [edi], eax", True)


def test_mmio_reads_wait_at_rip(memory: GuestMemory) -> None:
    assert text(find(memory, mmio(0xC000_0004), "8b4304", 0, rbx=0xC000_0000)) == ("mov eax, dword ptr [ebx + 4]", False)


def test_a_repeated_string_store_stays_at_rip_until_its_end(memory: GuestMemory) -> None:
    exit = mmio(0xC000_0000, b"a")
    code = "8807 f3a4 90"  # mov [edi], al; rep movsb
    assert text(find(memory, exit, code, 2, rdi=0xC000_0001)) == ("rep movsb byte ptr es:[edi], byte ptr [esi]", False)
    assert text(find(memory, exit, code, 4, rdi=0xC000_0001)) == ("rep movsb byte ptr es:[edi], byte ptr [esi]", True)


def test_hlt_is_behind(memory: GuestMemory) -> None:
    assert text(find(memory, exits.decode(memoryview(page(uapi.KVM_EXIT_HLT))), "f4 90", 1)) == ("hlt", True)


def test_other_exits_are_at_rip(memory: GuestMemory) -> None:
    assert text(find(memory, exits.decode(memoryview(page(uapi.KVM_EXIT_SHUTDOWN))), "0f0b", 0)) == ("ud2", False)


def test_nothing_there(memory: GuestMemory) -> None:
    run = page(uapi.KVM_EXIT_IO)
    pack_into("<BBHIQ", run, 0x20, 1, 1, 0x3F8, 1, 0x1000)
    out = exits.decode(memoryview(run))
    assert find(memory, out, "90", 0x7FFF_0000).instruction is None
    assert find(memory, out, "90", -CODE).instruction is None
