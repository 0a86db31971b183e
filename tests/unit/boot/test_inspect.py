"""``pyvmm inspect``: what an image is, or why it cannot boot."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyvmm.boot.inspect import describe
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import MIB
from tests.support import images


@pytest.mark.parametrize(
    "data, expected",
    [
        (images.boot_sector(), ["512 bytes", "flat16", "boot sector", "0x7c00 in real mode"]),
        (images.multiboot_raw(flags=1), ["multiboot", "0x100020 in protected mode", "page-aligned modules, address fields", "bss to"]),
        (images.elf(64, [(MIB, images.HLT, 16)], entry=MIB), ["ELF64", "0x100000 in long mode", "LOAD", "rwx"]),
        (images.pvh(), ["pvh", "0x1000004 in protected mode", "NOTE"]),
        (images.bzimage(), ["linux", "0x1000200 in long mode", "protocol 2.15", "pref_address", "0x1000000", "command line 2047 bytes"]),
        (images.vmlinux(), ["vmlinux", "0x1000000 in long mode"]),
    ],
)
def test_an_image_is_described(tmp_path, data, expected):
    (tmp_path / "image").write_bytes(data)
    text = "\n".join(describe(str(tmp_path / "image")))
    for word in expected:
        assert word in text
    assert "cannot boot" not in text


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"\x1f\x8b", "is gzip-compressed"),
        (images.bzimage(version=0x100), "boot protocol 1.00 is too old"),
        (images.bzimage(pref_address=1 << 40), "the file is damaged"),
        (images.elf(64, [(0, images.HLT, 16)], entry=MIB), "is in no loaded segment"),
    ],
)
def test_what_cannot_boot_is_described_with_the_reason(tmp_path, data, reason):
    (tmp_path / "image").write_bytes(data)
    lines = describe(str(tmp_path / "image"))
    assert lines[-1].startswith("cannot boot: ")
    assert reason in lines[-1]
    assert all("\n" not in line for line in lines)


def test_the_format_can_be_given(tmp_path):
    (tmp_path / "image").write_bytes(images.HLT)
    assert "in long mode" in "\n".join(describe(str(tmp_path / "image"), "flat64"))
    with pytest.raises(ConfigError, match="no image format"):
        describe(str(tmp_path / "image"), "flat128")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        describe(str(tmp_path / "missing"))


@pytest.mark.parametrize("data", [images.boot_sector(), images.multiboot_elf()])
def test_planning_a_small_guest_imports_nothing_slow(tmp_path, data):
    """Start-up counts: these modules would double it."""
    (tmp_path / "image").write_bytes(data)
    program = (
        "import sys; from pyvmm.config import BootConfig, Config; from pyvmm.boot.detect import plan\n"
        "plan(Config(boot=BootConfig(kernel=sys.argv[1])))\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-S", "-c", program, str(tmp_path / "image")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"dataclasses", "typing", "enum", "re", "pathlib", "construct", "functools", "collections", "inspect"}
    assert not loaded & {"pyvmm.boot.linux", "pyvmm.boot.pvh", "pyvmm.boot.vmlinux", "pyvmm.boot.inspect"}
