"""gdb's registers and KVM's structures say the same."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyvmm.kvm import structs
from pyvmm.observe.gdb.cpu_state import abridged_tag, assign, collect, full_tag
from pyvmm.observe.gdb.registers import AMD64, NAMES
from pyvmm.observe.gdb.target import TargetError

ONE, ZERO, INFINITY = 0x3FFF_8000_0000_0000_0000, 0, 0x7FFF_8000_0000_0000_0000


def _fresh() -> tuple[Any, Any, bytearray]:
    return structs.kvm_regs(), structs.kvm_sregs(), bytearray(4096)


def test_every_register_has_a_value() -> None:
    values = collect(*_fresh(), 5)
    assert set(values) == set(NAMES) and values["k_gs_base"] == 5
    for each in AMD64.registers:
        assert 0 <= values[each.source] < 1 << each.bits


def test_what_is_set_is_read_back() -> None:
    rng = random.Random(3)
    values = {each.source: rng.getrandbits(each.bits) for each in AMD64.registers}
    values.update(cr0=0, eflags=0x246, fop=0x123, mxcsr=0x1F80, gdt_limit=0xFFFF, idt_limit=0x3FF, fctrl=0x37F, fstat=0x3800, ftag=0xFFFF)
    for name in ("ldt", "tr"):
        del values[name]
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "fiseg", "foseg"):
        values[name] &= 0xFFFF
    structures = _fresh()
    order = sorted(values, key=lambda name: name.endswith("_base"))  # a selector moves its base in real mode
    assert assign({name: values[name] for name in order}, *structures) == {"regs", "sregs", "xsave"}
    after = collect(*structures, values["k_gs_base"])
    assert {name: after[name] for name in values} == values


@pytest.mark.parametrize(
    ("name", "which"), [("rsp", "regs"), ("eflags", "regs"), ("cr3", "sregs"), ("gs_base", "sregs"), ("xmm15", "xsave"), ("st7", "xsave")]
)
def test_only_what_changes_is_named(name: str, which: str) -> None:
    assert assign({name: 1}, *_fresh()) == {which}


def test_places_in_the_area() -> None:
    xsave = bytearray(4096)
    assign({"st1": ONE, "ftag": 0x3FFF}, *_fresh()[:2], xsave)
    assert xsave[48:58] == ONE.to_bytes(10, "little") and xsave[4] == 0x80 and xsave[512] == 1
    assign({"xmm1": 7, "mxcsr": 0x1F80}, *_fresh()[:2], xsave)
    assert xsave[176] == 7 and xsave[24:28] == b"\x80\x1f\0\0" and xsave[512] == 3


def test_no_structure_has_the_kernels_gs() -> None:
    assert assign({"k_gs_base": 1}, *_fresh()) == set()


def test_flags_keep_their_reserved_bits() -> None:
    regs, sregs, xsave = _fresh()
    assign({"eflags": 0xFFFF_FFFF}, regs, sregs, xsave)
    assert regs.rflags == 0x3F_7FD7
    assign({"eflags": 0}, regs, sregs, xsave)
    assert regs.rflags == 2


def test_selectors() -> None:
    regs, sregs, xsave = structs.kvm_regs(), structs.kvm_sregs(), bytearray(4096)
    assign({"ds": 0x1234}, regs, sregs, xsave)
    assert (sregs.ds.selector, sregs.ds.base) == (0x1234, 0x12340)
    sregs.cr0 = 1
    assign({"ds": 0x1234}, regs, sregs, xsave)
    with pytest.raises(TargetError, match="ds: a selector alone"):
        assign({"ds": 0x10}, regs, sregs, xsave)
    regs.rflags = 1 << 17
    assign({"ds": 0x10}, regs, sregs, xsave)
    assert sregs.ds.base == 0x100


@pytest.mark.parametrize("name", ["tr", "ldt", "nobody"])
def test_what_cannot_be_set(name: str) -> None:
    with pytest.raises(TargetError, match=f"{name} cannot be set"):
        assign({name: 1}, *_fresh())


def test_tags() -> None:
    assert full_tag(0, 0, [0] * 8) == 0xFFFF
    assert full_tag(0xFF, 0, [0] * 8) == 0x5555
    # after fld1: st0 is physical register 7
    assert full_tag(0x80, 7 << 11, [ONE, *[0] * 7]) == 0x3FFF
    # after fldz; fld1 ... st0 is 6 (one), st1 is 7 (zero)
    assert full_tag(0xC0, 6 << 11, [ONE, ZERO, *[0] * 6]) == 0x4FFF
    for special in (INFINITY, 1, 0x3FFF_0000_0000_0000_0001):
        assert full_tag(1, 0, [special, *[0] * 7]) == 0xFFFE
    for tag in (0, 0xFFFF, 0x3FFF, 0x4FFF, 0xAAAA):
        assert full_tag(abridged_tag(tag), 0, [0] * 8) & 0xFFFF == sum((3 if tag >> 2 * n & 3 == 3 else 1) << 2 * n for n in range(8))
