"""A region of RAM cut into slots around its read-only pages."""

from __future__ import annotations

import random

from pyvmm.kvm import uapi
from pyvmm.memory import Region
from pyvmm.observe.debug.readonly import split

HOST = 0x7000_0000
RO = uapi.KVM_MEM_READONLY


def region(pages: int, first: int = 0x100) -> Region:
    return Region(first * 4096, memoryview(bytearray(pages * 4096)), HOST)


def test_pieces_around_pages() -> None:
    whole = region(8)
    assert split(whole, set()) == [(0x10_0000, 0x8000, HOST, 0)]
    assert split(whole, {0x102, 0x103, 0x50, 0x200}) == [
        (0x10_0000, 0x2000, HOST, 0),
        (0x10_2000, 0x2000, HOST + 0x2000, RO),
        (0x10_4000, 0x4000, HOST + 0x4000, 0),
    ]
    assert split(whole, {0x100, 0x107}) == [
        (0x10_0000, 0x1000, HOST, RO),
        (0x10_1000, 0x6000, HOST + 0x1000, 0),
        (0x10_7000, 0x1000, HOST + 0x7000, RO),
    ]


def test_rom_stays_rom() -> None:
    rom = Region(0x100 * 4096, memoryview(bytearray(4 * 4096)), HOST, RO)
    assert {flags for *_, flags in split(rom, {0x101})} == {RO}


def test_every_page_is_in_one_piece_of_its_kind() -> None:
    source = random.Random(3)
    for _ in range(200):
        pages = {0x100 + at for at in range(16) if source.random() < 0.4}
        at = 0x10_0000
        for gpa, size, host, flags in split(region(16), pages):
            assert gpa == at and size and host == HOST + gpa - 0x10_0000
            assert {number in pages for number in range(gpa // 4096, (gpa + size) // 4096)} == {flags == RO}
            at += size
        assert at == 0x11_0000
