"""Plain ELF files, and the ELF reader all the other formats use."""

from __future__ import annotations

from struct import pack_into

import pytest

from pyvmm.boot import elf
from pyvmm.boot.detect import plan
from pyvmm.boot.image import Image
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import MIB
from tests.support import images

MEMORY = 128 * MIB


@pytest.fixture
def boot(tmp_path):
    """Plans an image given as bytes."""

    def run(data: bytes, **options):
        path = tmp_path / "kernel.elf"
        path.write_bytes(data)
        return plan(images.config(path, **options))

    return run


@pytest.mark.parametrize("bits, mode", [(32, "protected"), (64, "long")])
def test_segments_go_to_their_physical_addresses(boot, bits, mode):
    made = boot(images.elf(bits, [(MIB, images.HLT, 16), (3 * MIB, b"data", 0x1000)], entry=MIB + 4))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == (f"elf{bits}", mode, MIB + 4)
    assert images.memory_of(made, MIB, 16) == images.HLT
    assert images.memory_of(made, 3 * MIB, 5) == b"data\0"
    assert made.zero == [(3 * MIB + 4, 0x1000 - 4)]


def test_a_virtual_entry_is_translated(boot):
    high = 0xFFFF_FFFF_8000_0000
    made = boot(images.elf(64, [(MIB, images.HLT, 16)], entry=high + MIB + 8, vaddr_offset=high))
    assert made.entry == MIB + 8


def test_a_physical_entry_of_a_file_linked_high_stands(boot):
    made = boot(images.elf(64, [(MIB, images.HLT, 16)], entry=MIB + 8, vaddr_offset=0xFFFF_FFFF_8000_0000))
    assert made.entry == MIB + 8


def test_elf32_for_x86_64_is_protected_mode(boot):
    """kvm-unit-tests and x32 tools make ELF32 files with machine 62."""
    assert boot(images.elf(32, [(MIB, images.HLT, 16)], entry=MIB, machine=62)).mode == "protected"


def test_bss_only_segments_are_cleared_not_written(boot):
    made = boot(images.elf(32, [(MIB, images.HLT, 16), (2 * MIB, b"", 64)], entry=MIB))
    images.check_plan(made, MEMORY)
    assert made.zero == [(2 * MIB, 64)]


def test_segments_above_four_gib_go_to_high_ram(boot):
    memory = 4 << 30
    made = boot(images.elf(64, [(MIB, images.HLT, 16), (1 << 32, b"high", 4)], entry=MIB), memory=memory)
    images.check_plan(made, memory)
    assert images.memory_of(made, 1 << 32, 4) == b"high"


GOOD = images.elf(64, [(MIB, images.HLT, 16)], entry=MIB)


def patched(offset: int, code: str, value: int, base: bytes = GOOD) -> bytes:
    data = bytearray(base)
    pack_into(code, data, offset, value)
    return bytes(data)


PHDR = 64
U64 = (1 << 64) - 1


@pytest.mark.parametrize(
    "data, text",
    [
        (GOOD[:40], "truncated ELF header"),
        (GOOD[:60], "truncated ELF header"),
        (GOOD[:100], "truncated: the ELF program headers end"),
        (GOOD[:-1], "truncated: ELF segment 0 ends"),
        (patched(4, "B", 3), "ELF class 3"),
        (patched(5, "B", 2), "byte order 2"),
        (patched(18, "<H", 0xB7), "machine 183"),
        (patched(18, "<H", 3), "ELF64 for machine 3"),
        (patched(16, "<H", 1), "a relocatable object"),
        (patched(16, "<H", 0xFF00), "of type 65280"),
        (patched(56, "<H", 0), "nothing to load"),
        (patched(56, "<H", 0xFFFF), "65535 program headers"),
        (patched(54, "<H", 8), "of 8 bytes"),
        (patched(32, "<Q", U64), "truncated: the ELF program headers"),
        (patched(PHDR, "<I", 0), "no PT_LOAD"),
        (patched(PHDR + 8, "<Q", U64), "truncated: ELF segment"),
        (patched(PHDR + 24, "<Q", U64), "outside the 128 MiB"),
        (patched(PHDR + 40, "<Q", U64), "outside the 128 MiB"),
        (patched(PHDR + 40, "<Q", 15), "more bytes in the file"),
        (patched(24, "<Q", MIB + 16), "is in no loaded segment"),
        (patched(24, "<Q", 1 << 32), "is above 0x100000000"),
        (images.elf(64, [(MIB, images.HLT, 16)], entry=MIB, extra=(3,)), "is a program for an operating system"),
        (images.elf(64, [(MIB, images.HLT, 16), (MIB + 8, images.HLT, 16)], entry=MIB), "overlaps ELF segment 1"),
        (images.elf(64, [(0x400, images.HLT, 0x20)], entry=0x400), "overlaps BIOS data"),
        (images.elf(64, [(0x8000, images.HLT, 0x4000)], entry=0x8000), "overlaps boot GDT, TSS or page tables"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files_are_refused_in_one_line(boot, data, text):
    with pytest.raises(ImageError, match=text) as caught:
        boot(data)
    assert "\n" not in str(caught.value)
    assert "kernel.elf" in str(caught.value)


def test_an_initrd_has_nowhere_to_go(boot):
    with pytest.raises(ConfigError, match="takes no initrd"):
        boot(GOOD, initrd="x")


def test_a_load_address_is_for_flat_images(boot):
    with pytest.raises(ConfigError, match="only for flat images"):
        boot(GOOD, address=0)


def test_notes_stop_at_the_first_malformed_one():
    good = images.note(b"GNU\0", 3, b"12345")
    image = Image("x", images.elf(64, [(MIB, images.HLT, 16)], entry=MIB, notes=good + b"\xff" * 12))
    assert list(elf.notes(image, elf.parse(image))) == [(b"GNU", 3, b"12345")]
