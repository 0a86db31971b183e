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


def _aligned(data: bytes) -> bytes:
    return data.ljust(len(data) + 7 & -8, b"\0")


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
