"""The kernel's own symbol table, made as scripts/kallsyms.c of Linux makes it, in memory as a guest has it."""

from __future__ import annotations

import random
from struct import pack

import pytest

from pyvmm.errors import GuestFault
from pyvmm.observe.report import kallsyms

BASE = 0xFFFF_FFFF_8100_0000
COUNT = 3000
SIZE = 6 << 20
TABLE, PAGE_TABLE = (2 << 20) + 0x1004, 5 << 20


class Memory:
    """Guest memory from 0."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def contains(self, gpa: int, length: int) -> bool:
        return gpa + length <= len(self.data)

    def read(self, gpa: int, length: int) -> bytes:
        if not self.contains(gpa, length):
            raise GuestFault(gpa, length)
        return self.data[gpa : gpa + length]


def _aligned(data: bytes, to: int = 8) -> bytes:
    return data.ljust(-(-len(data) // to) * to, b"\0")


def _tokens() -> list[bytes]:
    """256 tokens; those of letters, digits, _ and . are themselves, as they are in every kernel."""
    own = b"".join(bytes([each]) for each in range(256) if chr(each).isascii() and (chr(each).isalnum() or chr(each) in "_."))
    return [bytes([each]) if bytes([each]) in own else b"t_%02x" % each for each in range(256)]


def table(newer: bool, sequences: bool, percpu: bool) -> tuple[bytes, list[tuple[str, int]]]:
    """(the bytes, what is in it)"""
    dice = random.Random(3)
    symbols, names, markers, offsets = [], b"", [], []
    address = BASE
    for number in range(COUNT):
        name = f"{dice.choice('tTdDr')}function_{number}" + "_x" * (70 if number == 7 else 0)
        encoded = name.encode()
        if number % 256 == 0:
            markers.append(len(names))
        length = len(encoded)
        names += (bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])) + encoded
        address += dice.randrange(16, 400)
        symbols.append((name[1:], address))
        offsets.append(-1 - (address - BASE) if percpu else address - BASE)
    tokens = b"".join(each + b"\0" for each in _tokens())
    index, at = b"", 0
    for each in _tokens():
        index += pack("<H", at)
        at += len(each) + 1
    places = _aligned(pack(f"<{COUNT}i", *offsets)) + pack("<Q", BASE)
    middle = _aligned(pack("<I", COUNT)) + _aligned(names) + _aligned(pack(f"<{len(markers)}I", *markers))
    if sequences:
        middle += _aligned(b"".join(number.to_bytes(3, "big") for number in range(COUNT)))
    middle += _aligned(tokens) + _aligned(index)
    return (middle + places if newer else places + middle), symbols


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("percpu", [False, True])
def test_every_layout(newer: bool, sequences: bool, percpu: bool) -> None:
    data, symbols = table(newer, sequences, percpu)
    dice = random.Random(4)
    memory = bytearray(dice.randbytes(SIZE))
    memory[1 << 20 : (1 << 20) + len(data)] = data
    found = kallsyms.find(Memory(bytes(memory)), [[0, SIZE]])
    assert found is not None
    assert len(found) == COUNT
    for name, address in symbols[::100]:
        assert found.find(name) == (address, 0)
        assert found.nearest(address + 3) == (name, 3)


def table_of_4(narrow: bool, newer: bool) -> tuple[bytes, list[tuple[str, int]]]:
    """All parts aligned to 4 bytes, and offsets from a base of 4 bytes (32-bit kernels), or from where each stands (Linux 7.0
    and later; addresses then are where the table begins and on). (the bytes, what is in it)"""
    base = 0xC100_0000
    dice = random.Random(5)
    named = [(f"{dice.choice('tTdDr')}function_{number}", 100 * number) for number in range(COUNT)]
    named[0], named[-1] = ("T_text", 0), ("Dlevel2_kernel_pgt", PAGE_TABLE - TABLE)
    names, markers = b"", []
    for number, (name, _) in enumerate(named):
        if number % 256 == 0:
            markers.append(len(names))
        names += bytes([len(name)]) + name.encode()
    tokens = b"".join(each + b"\0" for each in _tokens())
    index, at = b"", 0
    for each in _tokens():
        index += pack("<H", at)
        at += len(each) + 1
    places = pack(f"<{COUNT}I", *(place for _, place in named)) + pack("<I", base)
    middle = pack("<I", COUNT) + _aligned(names, 4) + pack(f"<{len(markers)}I", *markers) + _aligned(tokens, 4) + _aligned(index, 4)
    if narrow:
        return (middle + places if newer else places + middle), [(name[1:], base + place) for name, place in named]
    here = len(middle)
    offsets = [place - here - 4 * number for number, (_, place) in enumerate(named)]
    return middle + pack(f"<{COUNT}i", *offsets), [(name[1:], place) for name, place in named]


@pytest.mark.parametrize("newer", [False, True])
def test_a_32_bit_kernels(newer: bool) -> None:
    data, symbols = table_of_4(True, newer)
    memory = random.Random(4).randbytes((1 << 20) + 4) + data
    found = kallsyms.find(Memory(memory.ljust(SIZE, b"\0")), [[0, SIZE]])
    assert found is not None
    assert [found.find(name) for name, _ in symbols] == [(address, 0) for _, address in symbols]


@pytest.mark.parametrize("large", [False, True])
def test_offsets_from_themselves(large: bool) -> None:
    """Such a table tells where things are from one another. Where that is for the processor, the kernel's page tables say, in
    pages of 2 MiB or of 4 KiB."""
    data, symbols = table_of_4(False, True)
    memory = bytearray(random.Random(4).randbytes(SIZE))
    memory[TABLE : TABLE + len(data)] = data
    page = TABLE & -0x20_0000
    entries = [0] * 512
    entries[20] = page | 0x1E3 if large else PAGE_TABLE + 4096 | 0x063
    memory[PAGE_TABLE : PAGE_TABLE + 4096] = pack("<512Q", *entries)
    memory[PAGE_TABLE + 4096 : PAGE_TABLE + 8192] = pack("<512Q", *(page | number << 12 | 0x163 for number in range(512)))
    found = kallsyms.find(Memory(bytes(memory)), [[0, SIZE]])
    assert found is not None
    start = 0xFFFF_FFFF_8000_0000 + 20 * 0x20_0000 + TABLE % 0x20_0000
    assert [found.find(name) for name, _ in symbols] == [(start + place, 0) for _, place in symbols]
    memory[PAGE_TABLE : PAGE_TABLE + 4096] = bytes(4096)  # page tables that do not map it
    assert kallsyms.find(Memory(bytes(memory)), [[0, SIZE]]) is None


def test_memory_without_one() -> None:
    digits = b"".join(bytes([each, 0]) for each in range(256)) * 200
    for content in (bytes(SIZE), random.Random(1).randbytes(SIZE), digits.ljust(SIZE, b"\0")):
        assert kallsyms.find(Memory(content), [[0, SIZE]]) is None


def test_a_table_that_is_cut_off_or_changed_is_none_or_still_right() -> None:
    data, symbols = table(False, True, True)
    known = dict(symbols)
    dice = random.Random(9)
    for _ in range(60):
        changed = bytearray(data[: dice.randrange(len(data))] if dice.random() < 0.3 else data)
        for _ in range(3):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        found = kallsyms.find(Memory(bytes(changed).ljust(1 << 20, b"\0")), [[0, 1 << 20]])
        if found is not None:
            wrong = [name for name in found.names() if known.get(name) != (found.find(name) or (0, 0))[0]]
            assert len(wrong) <= 3


def test_more_memory_than_there_is() -> None:
    assert kallsyms.find(Memory(b""), [[0, 1 << 51]]) is None
