"""The registers' order is gdb's; the XML says the same."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from pyvmm.observe.gdb import target_xml
from pyvmm.observe.gdb.registers import AMD64, I386, I8086, NAMES, Description


def test_gdbs_numbers() -> None:
    numbers = {each.name: number for number, each in enumerate(AMD64.registers)}
    expected = {"rax": 0, "rbp": 6, "rsp": 7, "r15": 15, "rip": 16, "eflags": 17, "cs": 18, "gs": 23, "st0": 24, "fctrl": 32, "fop": 39}
    expected |= {"xmm0": 40, "xmm15": 55, "mxcsr": 56, "fs_base": 57, "gs_base": 58}
    assert {name: numbers[name] for name in expected} == expected
    assert sum(each.bits for each in AMD64.registers[:57]) // 8 == 536


def test_gdbs_numbers_in_32_bits() -> None:
    names = [each.name for each in I386.registers]
    assert names[:10] == ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags"]
    assert [each.source for each in I386.registers][8] == "rip"
    assert names.index("xmm0") == 32 and names.index("mxcsr") == 40
    assert {each.source for each in I386.registers} <= set(NAMES)


def test_a_wide_value_is_cut() -> None:
    assert I386.registers[0].encode(0x1_2345_6789) == bytes.fromhex("89674523")
    assert I386.registers[0].encode(None) == bytes(4)


@pytest.mark.parametrize("description", [AMD64, I386, I8086], ids=lambda each: each.architecture)
def test_the_document(description: Description) -> None:
    root = ET.fromstring(target_xml.document(description))
    assert root.findtext("architecture") == description.architecture
    regs = root.findall("feature/reg")
    assert [(reg.get("name"), int(reg.get("bitsize", "0"))) for reg in regs] == [(each.name, each.bits) for each in description.registers]
    own = {reg.get("type") for reg in regs} - {"int", "int32", "int64", "uint32", "uint64", "data_ptr", "code_ptr", "i387_ext"}
    for feature in root.findall("feature"):
        declared = {each.get("id") for each in feature if each.tag != "reg"}
        assert {reg.get("type") for reg in feature.findall("reg")} & own <= declared
    for flags in root.iter("flags"):
        bits = [int(field.get("start", "")) for field in flags]
        assert bits == sorted(set(bits)) and bits[-1] < 8 * int(flags.get("size", ""))


def test_control_registers_are_not_put_back_after_a_call() -> None:
    assert not [each.name for each in AMD64.registers if each.name.startswith("cr") and each.saved]
