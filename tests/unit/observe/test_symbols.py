"""Symbols of ELF files (gABI chapter 4) and System.map, in both directions; broken files name nothing and break nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pyvmm.boot.image import Image
from pyvmm.errors import ImageError
from pyvmm.observe import symbols
from tests.support.symbolfile import ABSOLUTE, FILE, FUNCTION, GLOBAL, LABEL, LOCAL, OBJECT, TEXT, UNDEFINED, Entry, executable

ENTRIES: list[Entry] = [
    ("file.c", 0, 0, FILE, LOCAL, ABSOLUTE),
    ("label", 0x10_0000, 0, LABEL, GLOBAL, TEXT),
    ("main", 0x10_0000, 0x20, FUNCTION, GLOBAL, TEXT),
    ("local", 0x10_0020, 0, LABEL, LOCAL, TEXT),
    ("buffer", 0x10_0100, 0x40, OBJECT, GLOBAL, TEXT),
    ("SIZE", 0x10_0030, 0, LABEL, LOCAL, ABSOLUTE),
    ("extern", 0, 0, LABEL, GLOBAL, UNDEFINED),
]


def elf_file(wide: bool = True) -> bytes:
    """One segment of 0x200 bytes, linear 1 MiB, physical 2 MiB."""
    return executable(bytes(0x100), ENTRIES, wide=wide, linear=0x10_0000, physical=0x20_0000, memory=0x200)


@pytest.mark.parametrize("wide", [True, False])
def test_elf_both_ways(wide: bool) -> None:
    found = symbols.of_elf(Image("a.elf", elf_file(wide)))
    assert found.names() == ["SIZE", "buffer", "label", "local", "main"] and len(found) == 5
    assert found.find("main") == (0x10_0000, 0x20) and found.find("SIZE") == (0x10_0030, 0) and found.find("extern") is None
    assert found.nearest(0x10_0000) == ("main", 0), "a function rather than a label"
    assert found.nearest(0x10_001F) == ("main", 0x1F)
    assert found.nearest(0x10_00FF) == ("local", 0xDF), "SIZE is a number, no place"
    assert found.nearest(0x10_013F) == ("buffer", 0x3F) and found.nearest(0x10_0140) is None
    assert found.nearest(0xF_FFFF) is None
    assert found.physical(0x10_0010) == 0x20_0010 and found.physical(0x10_0200) is None


MAP = b"""0000000000000000 A fixed_percpu
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81001000 t local_thing
not a line
ffffffff81002000 T start_kernel [module]
ffffffff81004000 D data
zz T odd
"""


def test_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_bytes(MAP)
    found = symbols.load(str(path))
    assert found.find("start_kernel") == (0xFFFF_FFFF_8100_2000, 0) and found.source == str(path)
    assert found.nearest(0xFFFF_FFFF_8100_2004) == ("start_kernel", 4)
    assert found.nearest(0xFFFF_FFFF_8100_0001) == ("_text", 1) and found.nearest(5) is None
    assert found.physical(0xFFFF_FFFF_8100_2000) is None


def test_files_without_symbols(tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(b"\x90" * 600)
    with pytest.raises(ImageError, match="no symbols in it"):
        symbols.load(str(path))
    assert symbols.of_guest(str(path)) is None and symbols.of_guest(str(tmp_path / "none")) is None
    path.write_bytes(elf_file())
    assert symbols.of_guest(str(path)) is not None


def test_broken_files_are_errors_or_have_fewer_symbols() -> None:
    source = random.Random(5)
    for wide in (True, False):
        whole = elf_file(wide)
        for _ in range(3000):
            data = bytearray(whole)
            for _ in range(source.randrange(1, 8)):
                data[source.randrange(len(data))] = source.choice((0, 1, 0x7F, 0xFF, source.randrange(256)))
            del data[source.choice((len(data), source.randrange(len(data)))) :]
            try:
                found = symbols.of_elf(Image("a.elf", bytes(data)))
            except ImageError:
                continue
            found.nearest(0x10_0010)
