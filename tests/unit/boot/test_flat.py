"""Flat images: where they go, how they start, what is refused."""

from __future__ import annotations

import pytest

from pyvmm import layout
from pyvmm.boot.detect import plan
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import KIB, MIB
from tests.support import images


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "code.bin"
    path.write_bytes(images.HLT)
    return path


@pytest.fixture
def sector(tmp_path):
    path = tmp_path / "sector.bin"
    path.write_bytes(images.boot_sector())
    return path


def test_a_boot_sector_starts_as_from_a_bios(sector):
    made = plan(images.config(sector, memory=MIB))
    images.check_plan(made, MIB)
    assert (made.format, made.mode, made.entry) == ("flat16", "real", 0x7C00)
    assert (made.state.cs.selector, made.state.rip, made.state.rsp, made.state.rdx & 0xFF) == (0, 0x7C00, 0x7C00, 0x80)
    assert images.memory_of(made, 0x7C00, 512) == images.boot_sector()


@pytest.mark.parametrize("fmt, mode", [("flat32", "protected"), ("flat64", "long")])
@pytest.mark.parametrize("memory, address", [(MIB, 64 * KIB), (MIB + 4 * KIB, MIB), (5 * 1024 * MIB, MIB)])
def test_flat_code_starts_at_its_default_address(code, fmt, mode, memory, address):
    made = plan(images.config(code, memory=memory, fmt=fmt))
    images.check_plan(made, memory)
    assert (made.mode, made.entry) == (mode, address)
    assert images.memory_of(made, address, 16) == images.HLT


@pytest.mark.parametrize("fmt", ["flat16", "flat32", "flat64"])
def test_a_given_address_and_entry_are_taken(code, fmt):
    made = plan(images.config(code, fmt=fmt, address=0x3_0000, entry=0x3_0004))
    images.check_plan(made, 128 * MIB)
    assert made.entry == 0x3_0004
    assert images.memory_of(made, 0x3_0000, 16) == images.HLT


def test_flat16_without_signature_must_be_asked_for(code):
    with pytest.raises(ImageError, match="--format flat16, flat32 or flat64"):
        plan(images.config(code))
    assert plan(images.config(code, fmt="flat16")).entry == layout.BOOT_SECTOR


def test_small_real_mode_code_may_start_at_address_zero(code):
    assert plan(images.config(code, fmt="flat16", address=0)).entry == 0


@pytest.mark.parametrize("fmt", ["flat32", "flat64"])
def test_a_command_line_is_passed_in_rsi(code, fmt):
    made = plan(images.config(code, fmt=fmt, cmdline="a=1"))
    images.check_plan(made, 128 * MIB)
    assert images.memory_of(made, made.state.rsi, 4) == b"a=1\0"
    assert plan(images.config(code, fmt=fmt)).state.rsi == 0


@pytest.mark.parametrize(
    "boot, error, text",
    [
        ({"fmt": "flat16", "address": MIB}, ConfigError, "not below 0x100000"),
        ({"fmt": "flat32", "address": -1}, ConfigError, "not below"),
        ({"fmt": "flat64", "address": 1 << 32}, ConfigError, "not below 0x100000000"),
        ({"fmt": "flat32", "address": 127 * MIB + 0xFFFF8}, ImageError, "outside the 128 MiB of guest RAM"),
        ({"fmt": "flat16", "address": 0xFFFF8}, ImageError, "do not fit below 1 MiB"),
        ({"fmt": "flat32", "entry": MIB + 16}, ConfigError, "entry 0x100010 is not inside the image"),
        ({"fmt": "flat16", "address": 0x400}, ImageError, "overlaps BIOS data"),
        ({"fmt": "flat32", "address": 0x500}, ImageError, "overlaps boot GDT"),
        ({"fmt": "flat64", "address": 0x9FF8}, ImageError, "page tables"),
        ({"fmt": "flat32", "address": 0xE0000}, ImageError, "ACPI tables"),
        ({"fmt": "flat32", "initrd": "x"}, ConfigError, "takes no initrd"),
        ({"fmt": "flat32", "cmdline": "a\0b"}, ConfigError, "NUL"),
        ({"fmt": "flat32", "cmdline": "x" * 65536}, ConfigError, "at most 65535"),
        ({"fmt": "flat31"}, ConfigError, "no image format 'flat31'"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(code, boot, error, text):
    with pytest.raises(error, match=text) as caught:
        plan(images.config(code, **boot))
    assert "\n" not in str(caught.value)


def test_a_disk_image_is_no_boot_sector(tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(images.boot_sector().ljust(2 * MIB, b"\0"))
    with pytest.raises(ImageError, match="needs a BIOS"):
        plan(images.config(disk))


def test_the_image_is_not_copied(tmp_path):
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(4 * MIB))
    made = plan(images.config(large, fmt="flat32"))
    data = dict(made.writes)[MIB]
    assert isinstance(data, memoryview)
    assert data.readonly
    assert len(data) == 4 * MIB
