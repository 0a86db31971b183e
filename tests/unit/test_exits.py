"""Exits decoded from hand-made run pages."""

from __future__ import annotations

import random
from struct import pack_into

import pytest

from pyvmm import exits
from pyvmm.exits import Exit, decode, describe
from pyvmm.kvm import structs, uapi

PIO_DATA = 0x1000


def page(number: int, *fields: tuple[str, int, int], data: tuple[int, bytes] = (0x100, b"")) -> memoryview:
    """A run page with exit_reason and [(struct code, offset, value)]."""
    raw = bytearray(3 * 4096)
    pack_into("<I", raw, 8, number)
    for code, offset, value in fields:
        pack_into("<" + code, raw, offset, value)
    raw[data[0] : data[0] + len(data[1])] = data[1]
    return memoryview(raw)


def io(direction: int, size: int, port: int, count: int, data: bytes = b"") -> memoryview:
    fields = [("B", 0x20, direction), ("B", 0x21, size), ("H", 0x22, port), ("I", 0x24, count), ("Q", 0x28, PIO_DATA)]
    return page(uapi.KVM_EXIT_IO, *fields, data=(PIO_DATA, data))


def internal(suberror: int, *words: int) -> memoryview:
    fields = [("I", 0x20, suberror), ("I", 0x24, len(words)), *(("Q", 0x28 + 8 * at, word) for at, word in enumerate(words))]
    return page(uapi.KVM_EXIT_INTERNAL_ERROR, *fields)


def test_out_carries_its_data() -> None:
    found = decode(io(1, 1, 0x3F8, 1, b"A"))
    assert found.name == "KVM_EXIT_IO" and found.number == 2
    assert found.fields == {"direction": 1, "size": 1, "port": 0x3F8, "count": 1, "data_offset": PIO_DATA}
    assert found.data == b"A"
    assert describe(found) == "out to port 0x3f8, 1 byte: 0x41"


def test_string_io_is_all_there() -> None:
    found = decode(io(1, 2, 0x1F0, 3, b"\x11\x22\x33\x44\x55\x66\x77"))
    assert found.data == b"\x11\x22\x33\x44\x55\x66"
    assert describe(found) == "out to port 0x1f0, 2 bytes 3 times: 0x2211 0x4433 0x6655"
    assert describe(decode(io(0, 4, 0x1F0, 20))) == "in from port 0x1f0, 4 bytes 20 times"
    assert describe(decode(io(1, 1, 0x1F0, 20, bytes(20)))).endswith("0x00 0x00 ...")


def test_mmio() -> None:
    fields = [("Q", 0x20, 0xFEB0_0004), ("Q", 0x28, 0x1122_3344_5566_7788), ("I", 0x30, 4), ("B", 0x34, 1)]
    found = decode(page(uapi.KVM_EXIT_MMIO, *fields))
    assert found.fields == {"address": 0xFEB0_0004, "size": 4, "is_write": 1} and found.data == b"\x88\x77\x66\x55"
    assert describe(found) == "MMIO write of 4 bytes at 0xfeb00004: 0x55667788"
    assert describe(decode(page(uapi.KVM_EXIT_MMIO, ("Q", 0x20, 16), ("I", 0x30, 1)))) == "MMIO read of 1 byte at 0x10"


def test_a_value_outlives_the_page() -> None:
    raw = io(1, 1, 0x3F8, 1, b"A")
    found = decode(raw)
    raw[PIO_DATA] = 0
    raw[0x22] = 0
    assert found.data == b"A" and found.fields["port"] == 0x3F8


@pytest.mark.parametrize(
    ("dr6", "exception", "cause"),
    [
        (0xFFFF_4FF0, 1, "single step"),
        (0xFFFF_0FF1, 1, "debug register DR0"),
        (0xFFFF_0FF6, 1, "debug register DR1 DR2"),
        (0xFFFF_0FF0, 3, "breakpoint instruction"),
        (0xFFFF_0FF0, 1, "#DB debug"),
    ],
)
def test_debug_exits_say_why(dr6: int, exception: int, cause: str) -> None:
    found = decode(page(uapi.KVM_EXIT_DEBUG, ("I", 0x20, exception), ("Q", 0x28, 0x1001), ("Q", 0x30, dr6), ("Q", 0x38, 0x400)))
    assert found.fields == {"exception": exception, "pc": 0x1001, "dr6": dr6, "dr7": 0x400}
    assert f"at 0x1001: {cause}" in describe(found)


def test_emulation_failure_with_its_instruction() -> None:
    # api.rst, KVM_EXIT_INTERNAL_ERROR: flags bit 0, insn_size, insn_bytes
    code = bytes([0x48, 0x0F, 0xC7, 0x08]) + bytes(11)
    words = [1, int.from_bytes(bytes([4]) + code[:7], "little"), int.from_bytes(code[7:15], "little")]
    found = decode(internal(1, *words, 0xAAAA))
    assert found.data == code[:4] and found.fields["insn_size"] == 4
    assert "KVM_INTERNAL_ERROR_EMULATION" in describe(found) and "48 0f c7 08" in describe(found)


@pytest.mark.parametrize("words", [(0, 0x0F04, 0), (1,), (1, 0x0F04), ()])
def test_instruction_bytes_count_only_when_kvm_says_so(words: tuple[int, ...]) -> None:
    found = decode(internal(1, *words))
    assert found.data == b"" and "insn_size" not in found.fields and found.fields["data"] == words


def test_an_impossible_instruction_size_is_cut() -> None:
    assert len(decode(internal(1, 1, 0xFF, 0)).data) == 15


@pytest.mark.parametrize(
    ("suberror", "text"),
    [(2, "SIMUL_EX"), (3, "DELIVERY_EV"), (4, "UNEXPECTED_EXIT_REASON"), (77, "suberror 77")],
)
def test_other_internal_errors_show_their_data(suberror: int, text: str) -> None:
    found = decode(internal(suberror, 0x8000_0B0E, 0x31))
    assert found.fields["data"] == (0x8000_0B0E, 0x31)
    assert text in describe(found) and "0x80000b0e 0x31" in describe(found)


def test_ndata_beyond_the_array_is_cut() -> None:
    raw = internal(4, 1, 2)
    pack_into("<I", raw, 0x24, 4_000_000_000)
    assert decode(raw).fields["ndata"] == 16


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (0x8000_0021, "invalid guest state"),
        (0x8000_0022, "MSR"),
        (0x8000_0029, "machine check"),
        (0x8000_0055, "basic reason 85"),
        (7, "invalid control fields"),
        (99, "VM-instruction error 99"),
        (0xFFFF_FFFF, "VMRUN"),
        (0xFFFF_FFFF_FFFF_FFFF, "VMRUN"),
    ],
)
def test_entry_failures_are_told_apart(reason: int, text: str) -> None:
    found = decode(page(uapi.KVM_EXIT_FAIL_ENTRY, ("Q", 0x20, reason), ("I", 0x28, 3)))
    assert text in describe(found) and f"{reason:#x}" in describe(found) and "host CPU 3" in describe(found)


def test_system_events() -> None:
    found = decode(page(uapi.KVM_EXIT_SYSTEM_EVENT, ("I", 0x20, 3), ("I", 0x24, 1), ("Q", 0x28, 0xBAD)))
    assert found.fields == {"type": 3, "ndata": 1, "data": (0xBAD,)}
    assert describe(found) == "system event CRASH: the guest reports that it has crashed (0xbad)"
    assert "99" in describe(decode(page(uapi.KVM_EXIT_SYSTEM_EVENT, ("I", 0x20, 99))))


def test_msr_exits() -> None:
    fields = [("I", 0x28, 4), ("I", 0x2C, 0xC000_0080), ("Q", 0x30, 0xD01)]
    assert describe(decode(page(uapi.KVM_EXIT_X86_WRMSR, *fields))) == "wrmsr 0xc0000080 = 0xd01, left to user space (filtered)"
    assert describe(decode(page(uapi.KVM_EXIT_X86_RDMSR, *fields))) == "rdmsr 0xc0000080, left to user space (filtered)"


def test_hypercall_arguments() -> None:
    fields = [("Q", 0x20, 12), *(("Q", 0x28 + 8 * at, at + 1) for at in range(6))]
    found = decode(page(uapi.KVM_EXIT_HYPERCALL, *fields))
    assert found.fields["nr"] == 12 and found.fields["args"] == (1, 2, 3, 4, 5, 6)


def test_every_reason_has_a_name_and_a_sentence() -> None:
    for number in range(41):
        found = decode(page(number))
        assert found.number == number and found.name.startswith("KVM_EXIT_") and "?" not in found.name
        text = describe(found)
        assert text and "\n" not in text
        if number in uapi.EXIT_NAMES:
            assert "not expected" not in text, found.name


@pytest.mark.parametrize("number", [41, 99, 0xFFFF_FFFF])
def test_unknown_reasons_are_named_as_such(number: int) -> None:
    found = decode(page(number))
    assert found == Exit(name=f"KVM_EXIT_? ({number})", number=number, fields={}, data=b"", flags=0)
    assert describe(found) == f"KVM_EXIT_? ({number})"


def test_flags_say_smm() -> None:
    assert decode(page(uapi.KVM_EXIT_HLT, ("H", 0x0E, 1))).flags == 1


def test_exception_names() -> None:
    assert exits.exception_name(14) == "#PF page fault"
    assert exits.exception_name(8) == "#DF double fault"
    assert exits.exception_name(19) == "#XM SIMD error" and exits.exception_name(21) == "#CP control protection"
    assert exits.exception_name(0x80) == "vector 0x80"


@pytest.mark.parametrize("number", [*uapi.EXIT_NAMES, 99])
def test_frozen_exits_thaw_to_the_same(number: int) -> None:
    raw = bytearray(random.Random(number).randbytes(0x3000))
    pack_into("<I", raw, structs.RUN_EXIT_REASON, number)
    if number == uapi.KVM_EXIT_IO:
        pack_into("<BBHIQ", raw, structs.RUN_UNION, 1, 2, 0x3F8, 300, 0x1000)
    frozen = exits.freeze(memoryview(raw))
    expected = exits.decode(memoryview(raw))
    thawed = exits.thaw(frozen)
    if number == uapi.KVM_EXIT_IO:
        assert len(frozen) == 48 + 600
    assert thawed == expected


def test_thaw_takes_any_bytes() -> None:
    dice = random.Random(1)
    for length in (0, 1, 8, 9, 47, 48, 49, 100, 288, 5000):
        for _ in range(50):
            assert isinstance(exits.thaw(dice.randbytes(length)), exits.Exit)
            assert isinstance(exits.thaw(bytes(8) + b"\2\0\0\0" + dice.randbytes(length)), exits.Exit)
