"""The run page, word by word."""

from __future__ import annotations

from struct import pack_into

from pyvmm import exits
from pyvmm.exits import Exit
from pyvmm.kvm import uapi
from pyvmm.observe.explain.members import _TEXTS, members
from tests.support.exit_pages import io, mmio, page


def told(exit: Exit, answer: bytes | None = None) -> list[str]:
    return [f"{each.offset:#x} {each.name} {each.value}" for each in members(exit, answer)]


def test_out() -> None:
    assert told(io(0x3F8, b"H")) == [
        "0x8 exit_reason 2 (KVM_EXIT_IO)",
        "0x20 io.direction 1 (KVM_EXIT_IO_OUT)",
        "0x21 io.size 1",
        "0x22 io.port 0x3f8",
        "0x24 io.count 1",
        "0x28 io.data_offset 0x1000",
        "0x1000 (data) 48",
    ]


def test_answers() -> None:
    assert told(io(0x3FD), b"\x60")[-1] == "0x1000 (data) 60"
    assert told(io(0x3FD))[-1] == "0x1000 (data) -"
    assert "0x28 mmio.data 54 6e 00 30" in told(mmio(0xC000_0004), bytes.fromhex("546e0030"))


def test_long_data_is_cut() -> None:
    assert told(io(0xE0, bytes(20)))[-1] == f"0x1000 (data) {'00 ' * 16}... (20 bytes)"


def test_debug_exits_in_words() -> None:
    run = page(uapi.KVM_EXIT_DEBUG)
    pack_into("<IIQQQ", run, 0x20, 1, 0, 0x1234, 0xFFFF_4FF1, 0x400)
    assert "0x30 debug.arch.dr6 0xffff4ff1 (DR0 hit, single step)" in told(exits.decode(memoryview(run)))


def test_emulation_failures_bring_their_instruction() -> None:
    run = page(uapi.KVM_EXIT_INTERNAL_ERROR)
    pack_into("<IIQB15s", run, 0x20, 1, 3, 1, 3, bytes.fromhex("0f01d0"))
    lines = told(exits.decode(memoryview(run)))
    assert "0x20 internal.suberror 1 (KVM_INTERNAL_ERROR_EMULATION)" in lines
    assert "0x31 emulation_failure.insn_bytes 0f 01 d0" in lines


def test_flags() -> None:
    run = page(uapi.KVM_EXIT_HLT)
    run[0x0E] = 1
    assert [each.text for each in members(exits.decode(memoryview(run)))] == ["", "in system management mode"]


def test_every_field_of_every_exit_has_words() -> None:
    fields = {(number, name) for number, layout in exits.LAYOUTS.items() for name, _, _ in layout}
    assert fields == set(_TEXTS)
