"""Multiboot 1 (Specification 0.6.96): headers, information structure, modules."""

from __future__ import annotations

from struct import unpack

import pytest

from pyvmm import layout
from pyvmm.boot.detect import plan
from pyvmm.boot.multiboot import find_header, split_modules
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import MIB
from tests.support import images

MEMORY = 128 * MIB


@pytest.fixture
def boot(tmp_path):
    def run(data: bytes, **options):
        path = tmp_path / "kernel.mb"
        path.write_bytes(data)
        return plan(images.config(path, **options))

    return run


class Info:
    """The information structure as a guest reads it (section 3.3)."""

    def __init__(self, made):
        self.made = made
        words = unpack("<30I", images.memory_of(made, made.state.rbx, 120))
        self.flags, self.mem_lower, self.mem_upper, _, self.cmdline_at, self.mods_count, self.mods_addr = words[:7]
        self.mmap_length, self.mmap_addr = words[11:13]
        self.loader_at = words[16]

    def string(self, at):
        return images.memory_of(self.made, at, 65536).split(b"\0")[0]

    def modules(self):
        return [unpack("<4I", images.memory_of(self.made, self.mods_addr + 16 * n, 16)) for n in range(self.mods_count)]

    def memory_map(self):
        at, end = self.mmap_addr, self.mmap_addr + self.mmap_length
        while at < end:
            size, base, length, kind = unpack("<IQQI", images.memory_of(self.made, at, 24))
            yield base, length, kind
            at += size + 4


def test_a_raw_image_goes_where_its_address_fields_say(boot):
    made = boot(images.multiboot_raw(2 * MIB, bss=0x300))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("multiboot", "protected", 2 * MIB + 32)
    assert made.zero == [(2 * MIB + 48, 0x300)]
    assert images.memory_of(made, made.entry, 16) == images.HLT


def test_real_mode_vectors_return_and_acknowledge_the_pics(boot):
    """3.2: other machine state is as initialized by the BIOS. kvm-unit-tests' realmode takes interrupts in real mode."""
    made = boot(images.multiboot_raw())
    assert made.bios
    for vector in range(256):
        offset, segment = unpack("<HH", images.memory_of(made, 4 * vector, 4))
        handler = images.memory_of(made, (segment << 4) + offset, 16)
        handler = handler[: handler.index(b"\xcf")]  # iret
        assert (b"\xe6\x20" in handler) == (8 <= vector < 16 or 0x70 <= vector < 0x78), "out 0x20: end of interrupt"
        assert (b"\xe6\xa0" in handler) == (0x70 <= vector < 0x78)


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_image_starts_in_protected_mode(boot, bits):
    made = boot(images.multiboot_elf(bits))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("multiboot", "protected", MIB + 12)
    assert made.state.rax == 0x2BADB002
    assert (made.state.cs.selector, made.state.ds.selector, made.state.ss.selector) == (0x08, 0x10, 0x10)  # as GRUB


def test_zero_end_fields_mean_the_whole_file_and_no_bss(boot):
    made = boot(images.multiboot_header(0x10000, MIB, MIB, 0, 0, MIB + 32) + images.HLT)
    assert made.zero == []
    assert images.memory_of(made, MIB + 32, 16) == images.HLT


def test_the_header_may_lie_behind_the_load_address(boot):
    made = boot(b"\x90" * 64 + images.multiboot_header(0x10000, MIB + 64, MIB, 0, 0, MIB))
    assert made.entry == MIB
    assert images.memory_of(made, MIB, 64) == b"\x90" * 64


@pytest.mark.parametrize("memory, upper", [(MIB, 0), (2 * MIB, 1024), (MEMORY, 127 * 1024), (5 << 30, 0xBFF00000 >> 10)])
def test_memory_is_told_in_kib_and_as_a_map(boot, memory, upper):
    made = boot(images.multiboot_raw(0x1_0000), memory=memory)
    images.check_plan(made, memory)
    info = Info(made)
    assert info.flags & 0x245 == 0x245
    assert (info.mem_lower, info.mem_upper) == (639, upper)
    assert list(info.memory_map()) == layout.e820(memory)


def test_the_command_line_begins_with_the_program(boot):
    info = Info(boot(images.multiboot_raw(), cmdline="-a  b"))
    assert info.string(info.cmdline_at).endswith(b"kernel.mb -a  b")
    info = Info(boot(images.multiboot_raw()))
    assert info.string(info.cmdline_at).endswith(b"kernel.mb")
    assert info.string(info.loader_at) == b"pyvmm"


def test_modules_are_page_aligned_behind_the_image(boot, tmp_path):
    (tmp_path / "a").write_bytes(b"A" * 5000)
    (tmp_path / "b,c").write_bytes(b"B" * 10)
    made = boot(images.multiboot_raw(bss=0x12345), initrd=f"{tmp_path}/a one two,{tmp_path}/b,,c")
    images.check_plan(made, MEMORY)
    info = Info(made)
    assert info.flags & 8
    (start_a, end_a, string_a, _), (start_b, end_b, string_b, _) = info.modules()
    assert start_a % 4096 == start_b % 4096 == 0
    assert start_a >= MIB + 48 + 0x12345
    assert start_b >= end_a
    assert images.memory_of(made, start_a, end_a - start_a) == b"A" * 5000
    assert images.memory_of(made, start_b, end_b - start_b) == b"B" * 10
    assert info.string(string_a) == f"{tmp_path}/a one two".encode()
    assert info.string(string_b) == f"{tmp_path}/b,c".encode()


def test_a_list_of_modules_is_split_at_single_commas():
    assert split_modules("") == []
    assert split_modules("a,b c,,d") == ["a", "b c,d"]
    assert split_modules(",a,") == ["a"]


@pytest.mark.parametrize("offset, found", [(0, 0), (4, 4), (2, None), (8180, 8180), (8184, None), (8192, None)])
def test_the_header_is_searched_in_8_kib_at_multiples_of_4(offset, found):
    assert find_header(b"\0" * offset + images.multiboot_header() + b"\0" * 64) == found


def test_a_wrong_checksum_is_no_header():
    broken = bytearray(images.multiboot_header())
    broken[8] ^= 1
    assert find_header(bytes(broken) + images.multiboot_header()) == 12


def raw(*fields):
    return images.multiboot_header(0x10000, *fields) + images.HLT


@pytest.mark.parametrize(
    "data, text",
    [
        (images.multiboot_raw(flags=1 << 3), "requires features nobody defined"),
        (images.multiboot_raw(flags=1 << 15), "flags 0x8000"),
        (images.multiboot_header(3) + images.HLT, "no ELF file, and its header has no address fields"),
        (images.multiboot_header(0x10000, MIB), "cut off"),
        (raw(MIB, MIB + 4, 0, 0, MIB), "does not fit the header's place"),
        (raw(MIB + 4, MIB, 0, 0, MIB), "does not fit the header's place"),
        (raw(MIB, MIB, MIB - 1, 0, MIB), "is not inside the file"),
        (raw(MIB, MIB, MIB + 49, 0, MIB), "is not inside the file"),
        (raw(MIB, MIB, 0, MIB + 4, MIB), "bss_end_addr 0x100004 is below"),
        (raw(MIB, MIB, 0, 0, MIB + 48), "entry_addr 0x100030 is outside"),
        (raw(0xFFFF_FFF0, 0xFFFF_FFF0, 0, 0, 0xFFFF_FFF0), "outside the 128 MiB"),
        (raw(MIB, MIB, 0, 0xFFFF_FFFF, MIB), "bss at .* is outside the 128 MiB"),
        (raw(0x6000, 0x6000, 0, 0, 0x6000), "overlaps Multiboot information"),
        (raw(0x1_FFF8, 0x1_FFF8, 0, 0, 0x1_FFF8), "overlaps command line"),
        (raw(0x500, 0x500, 0, 0, 0x500), "overlaps boot GDT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_headers_are_refused_in_one_line(boot, data, text):
    with pytest.raises(ImageError, match=text) as caught:
        boot(data)
    assert "\n" not in str(caught.value)


def test_video_is_not_provided_but_no_reason_to_refuse(boot):
    made = boot(images.multiboot_raw(flags=4))
    assert any("video" in line for line in made.notes)
    assert Info(made).flags & (1 << 11 | 1 << 12) == 0


def test_modules_that_do_not_fit_are_refused(boot, tmp_path):
    (tmp_path / "big").write_bytes(bytes(2 * MIB))
    with pytest.raises(ImageError, match="module .*big.* outside the 2 MiB"):
        boot(images.multiboot_raw(), memory=2 * MIB, initrd=f"{tmp_path}/big")
    with pytest.raises(ImageError, match="cannot open module"):
        boot(images.multiboot_raw(), initrd=f"{tmp_path}/missing args")


def test_too_many_modules_are_refused(boot, tmp_path):
    (tmp_path / "m").write_bytes(b"m")
    with pytest.raises(ConfigError, match="too many Multiboot modules"):
        boot(images.multiboot_raw(), initrd=",".join([f"{tmp_path}/m"] * 300))
    with pytest.raises(ConfigError, match="too many Multiboot modules|at most"):
        boot(images.multiboot_raw(), initrd=f"{tmp_path}/m " + "x" * 65000, cmdline="y" * 60000)


def test_nul_bytes_in_strings_are_refused(boot):
    with pytest.raises(ConfigError, match="NUL"):
        boot(images.multiboot_raw(), cmdline="a\0")
    with pytest.raises(ConfigError, match="NUL"):
        boot(images.multiboot_raw(), initrd="a\0b")
