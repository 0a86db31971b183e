"""Which format an image is taken for, and files that are none."""

from __future__ import annotations

import os

import pytest

from pyvmm.boot import detect
from pyvmm.boot.image import Image, encode_cmdline, open_image
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import MIB
from tests.support import images

PVH_NOTE = images.note(b"Xen\0", 18, b"\0\0\x10\0")
BOTH = images.elf(64, [(MIB, images.multiboot_header(), 64)], entry=MIB, notes=PVH_NOTE)


@pytest.mark.parametrize(
    "data, fmt, rule",
    [
        (images.bzimage(), "linux", "HdrS"),
        (images.multiboot_raw(), "multiboot", "file offset 0x0"),
        (images.multiboot_elf(), "multiboot", "Multiboot 1 header at file offset"),
        (images.pvh(), "pvh", "PHYS32_ENTRY"),
        (images.vmlinux(), "vmlinux", "ELF64 with a note that names Linux"),
        (images.vmlinux(bits=32), "vmlinux", "ELF32 with a note that names Linux"),
        (images.elf(64, [(MIB, images.HLT, 16)], entry=MIB, notes=images.note(b"Xen\0", 6, b"linux\0")), "vmlinux", "names Linux"),
        (images.elf(32, [(MIB, images.HLT, 16)], entry=MIB), "elf", "ELF32"),
        (images.elf(64, [(MIB, images.HLT, 16)], entry=MIB), "elf", "ELF64"),
        (images.boot_sector(), "flat16", "0x55 0xaa"),
        # the stronger sign wins
        (images.bzimage(images.multiboot_header() + images.HLT * 64), "linux", "HdrS"),
        (images.boot_sector(images.multiboot_raw()), "multiboot", "Multiboot"),
        (BOTH, "multiboot", "Multiboot"),
        (images.boot_sector(b"HdrS"), "flat16", "boot sector"),
    ],
)
def test_formats_are_recognised(data, fmt, rule):
    found, why = detect.recognise(Image("x", data))
    assert found == fmt
    assert rule in why
    assert "\n" not in why


@pytest.mark.parametrize(
    "data, text",
    [
        (b"\x1f\x8b" + bytes(600), "gzip-compressed"),
        (b"070701" + bytes(600), "cpio archive"),
        (b"MZ" + bytes(600), "PE"),
        (b"QFI\xfb" + bytes(600), "qcow2"),
        (bytes(0x8001) + b"CD001" + bytes(600), "CD image"),
        (b"\xd6\x50\x52\xe8" + bytes(600), "Multiboot 2"),
        (b"\xeb\xfe", "not recognised"),
        (b"\x7fELF", "truncated ELF header"),
    ],
)
def test_what_is_no_kernel_is_told_apart(data, text):
    with pytest.raises(ImageError, match=text):
        detect.recognise(Image("x", data))


@pytest.mark.parametrize("fmt", [name for name in detect.FORMATS if name != "auto"])
def test_a_given_format_is_not_questioned_by_detection(fmt):
    assert detect.recognise(Image("x", b"?"), fmt) == (fmt, f"--format {fmt}")


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        open_image(str(tmp_path / "missing"))
    with pytest.raises(ImageError, match="is a directory"):
        open_image(str(tmp_path))
    (tmp_path / "empty").touch()
    with pytest.raises(ImageError, match="empty"):
        open_image(str(tmp_path / "empty"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(str(tmp_path / "fifo"))
    with pytest.raises(ImageError, match="not a regular file"):
        open_image("/dev/zero")
    with pytest.raises(ImageError, match="null (byte|character)"):
        open_image("a\0b")
    with pytest.raises(ImageError, match="name a file"):
        open_image("")
    with pytest.raises(ImageError, match="too long"):
        open_image("x" * 5000)


def test_an_unreadable_file(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    user = os.geteuid()
    if not user:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(ImageError, match="secret: Permission denied"):
            open_image(str(tmp_path / "secret"))
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1])
def test_small_files_are_read_large_ones_mapped_alike(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    image = open_image(str(tmp_path / "file"))
    assert len(image) == size
    assert image.data == content[:size]
    assert image.data.readonly


def test_a_path_with_control_characters_stays_on_one_line(tmp_path):
    (tmp_path / "a\nb").write_bytes(b"?")
    with pytest.raises(ImageError) as caught:
        detect.plan(images.config(tmp_path / "a\nb"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, data", [("", b"\0"), ("a=ü", "a=ü\0".encode()), ("\udcff", b"\xff\0")])
def test_command_lines_keep_their_bytes(text, data):
    assert encode_cmdline(text) == data


def test_a_command_line_that_has_no_bytes():
    with pytest.raises(ConfigError, match="cannot be encoded"):
        encode_cmdline("\ud800")


@pytest.mark.parametrize(
    "changes, text",
    [({"memory": MIB - 4096}, "at least 1M"), ({"smp": 0}, "-smp 1 to 255"), ({"smp": 256}, "-smp 1 to 255")],
)
def test_impossible_machines_are_refused(tmp_path, changes, text):
    (tmp_path / "image").write_bytes(images.boot_sector())
    with pytest.raises(ConfigError, match=text):
        detect.plan(images.config(tmp_path / "image", **changes))
