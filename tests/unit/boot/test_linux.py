"""bzImage and vmlinux (Documentation/arch/x86/boot.rst): placement, boot_params, limits."""

from __future__ import annotations

from struct import unpack

import pytest

from pyvmm import layout
from pyvmm.boot.bootparams import SETUP_HEADER, get
from pyvmm.boot.detect import plan
from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import GIB, MIB
from tests.support import images

MEMORY = 128 * MIB


@pytest.fixture
def boot(tmp_path):
    def run(data: bytes, **options):
        path = tmp_path / "vmlinuz"
        path.write_bytes(data)
        return plan(images.config(path, **options))

    return run


@pytest.fixture
def initrd(tmp_path):
    path = tmp_path / "initrd"
    path.write_bytes(b"I" * 5000)
    return path


def page(made):
    """boot_params as the kernel finds it through RSI."""
    return images.memory_of(made, made.state.rsi, 4096)


def test_the_64_bit_entry_is_512_bytes_into_the_kernel(boot):
    made = boot(images.bzimage())
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("linux", "long", 16 * MIB + 0x200)
    assert images.memory_of(made, 16 * MIB, 64) == images.HLT * 4


@pytest.mark.parametrize("fields", [{"xloadflags": 0}, {"version": 0x20B}], ids=["no flag", "protocol 2.11"])
def test_a_kernel_without_64_bit_entry_starts_in_protected_mode(boot, fields):
    made = boot(images.bzimage(**fields))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("linux32", "protected", 16 * MIB)


def test_linux32_takes_the_32_bit_entry(boot):
    made = boot(images.bzimage(), fmt="linux32")
    images.check_plan(made, MEMORY)
    state = made.state
    assert (made.mode, made.entry, state.rsi) == ("protected", 16 * MIB, layout.BOOT_PARAMS)
    assert (state.rbx, state.rbp, state.rdi) == (0, 0, 0)
    assert (state.cs.selector, state.ds.selector) == (0x10, 0x18)


def test_boot_params_carry_the_files_setup_header(boot):
    data = images.bzimage(pref_address=0x200_0000, cmdline_size=777)
    params = page(boot(data))
    assert params[:0x1F1].count(0) == 0x1F1 - 2  # all but acpi_rsdp_addr (0xe0000) and e820_entries
    for name in ("version", "boot_flag", "pref_address", "init_size", "cmdline_size", "kernel_alignment"):
        assert get(params, name) == get(data, name), name
    assert params[0x202:0x206] == b"HdrS"


def test_boot_params_name_loader_command_line_and_tables(boot):
    made = boot(images.bzimage(setup_data=0xDEAD, loadflags=0x43), cmdline="console=ttyS0 quiet")
    params = page(made)
    assert get(params, "type_of_loader") == 0xFF
    assert get(params, "loadflags") == 1
    assert get(params, "setup_data") == 0
    assert get(params, "code32_start") == 16 * MIB
    assert images.memory_of(made, get(params, "cmd_line_ptr"), 20) == b"console=ttyS0 quiet\0"
    (rsdp,) = unpack("<Q", params[0x70:0x78])
    assert images.memory_of(made, rsdp, 8) == b"RSD PTR "


def test_without_acpi_there_is_no_rsdp(boot):
    assert page(boot(images.bzimage(), acpi=False))[0x70:0x78] == bytes(8)


@pytest.mark.parametrize("memory", [64 * MIB, 3 * GIB, 5 * GIB])
def test_the_e820_map_is_the_machines(boot, memory):
    made = boot(images.bzimage(), memory=memory)
    images.check_plan(made, memory)
    params = page(made)
    entries = [unpack("<QQI", params[0x2D0 + 20 * n : 0x2E4 + 20 * n]) for n in range(params[0x1E8])]
    assert entries == layout.e820(memory)
    assert params[0x1EF] == 0  # sentinel


@pytest.mark.parametrize(
    "memory, limit, top",
    [(MEMORY, 0x7FFF_FFFF, MEMORY), (4 * GIB, 0x7FFF_FFFF, 2 * GIB), (4 * GIB, 0xFFFF_FFFF, 3 * GIB), (4 * GIB, 0, 0x3800_0000)],
)
def test_the_initrd_lies_as_high_as_allowed(boot, initrd, memory, limit, top):
    made = boot(images.bzimage(initrd_addr_max=limit), memory=memory, initrd=str(initrd))
    images.check_plan(made, memory)
    params = page(made)
    start, size = get(params, "ramdisk_image"), get(params, "ramdisk_size")
    assert (start, size) == (top - 8192, 5000)
    assert images.memory_of(made, start, 5001) == b"I" * 5000 + b"\0"


def test_the_initrd_spares_the_memory_the_kernel_starts_in(boot, initrd):
    fields = {"init_size": 16 * MIB}
    made = boot(images.bzimage(**fields), memory=32 * MIB + 8192, initrd=str(initrd))
    assert get(page(made), "ramdisk_image") == 32 * MIB
    with pytest.raises(ImageError, match="initrd of 5 KiB does not fit between the kernel's end at 0x2000000"):
        boot(images.bzimage(**fields), memory=32 * MIB + 4096, initrd=str(initrd))


def test_a_kernel_that_cannot_start_in_so_little_ram_is_refused(boot):
    with pytest.raises(ImageError, match="needs 18 MiB of RAM to start, the guest has 16 MiB: raise -m"):
        boot(images.bzimage(), memory=16 * MIB)


@pytest.mark.parametrize(
    "fields, load",
    [
        ({"relocatable_kernel": 0}, MIB),
        ({"pref_address": 0x123_4567}, 0x140_0000),
        ({"pref_address": 0}, 2 * MIB),
        ({"pref_address": 0, "kernel_alignment": 0}, MIB),
        ({"version": 0x209}, 2 * MIB),
        ({"version": 0x204}, MIB),
        ({"version": 0x202}, MIB),
    ],
)
def test_the_load_address_follows_the_header(boot, fields, load):
    made = boot(images.bzimage(**fields))
    images.check_plan(made, MEMORY)
    assert get(page(made), "code32_start") == load
    assert images.memory_of(made, load, 16) == images.HLT


def test_a_command_line_is_bounded_by_the_kernel(boot):
    assert boot(images.bzimage(cmdline_size=10), cmdline="x" * 10)
    with pytest.raises(ConfigError, match="has 11 bytes, but this guest takes at most 10"):
        boot(images.bzimage(cmdline_size=10), cmdline="x" * 11)
    with pytest.raises(ConfigError, match="at most 255"):
        boot(images.bzimage(version=0x205), cmdline="x" * 256)
    with pytest.raises(ConfigError, match="at most 65535"):
        boot(images.bzimage(cmdline_size=0xFFFF_FFFF), cmdline="x" * 65536)


@pytest.mark.parametrize(
    "data, text",
    [
        (images.bzimage(version=0x201), r"protocol 2.01 is too old"),
        (images.bzimage(loadflags=0), "zImage"),
        (images.bzimage(setup_sects=0), "truncated: the kernel should begin at file offset 0xa00"),
        (images.bzimage(payload=b"", setup_sects=255), "truncated: the kernel should begin"),
        (images.bzimage(jump=0xFFEB), "claims to end at 0x301"),
        (images.bzimage(kernel_alignment=0x30_0000), "no power of two"),
        (images.bzimage(kernel_alignment=1 << 31), "needs 2050 MiB of RAM"),
        (images.bzimage(pref_address=(1 << 64) - 1), "the file is damaged"),
        (images.bzimage(init_size=0xFFFF_FFFF), "the file is damaged"),
        (images.bzimage()[:0x220], "no \"HdrS\""),
        (images.bzimage()[:1024], "truncated: the kernel should begin"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_headers_are_refused_in_one_line(boot, data, text):
    with pytest.raises(ImageError, match=text) as caught:
        boot(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fmt", ["linux", "linux32"])
def test_a_format_can_be_asked_for_and_is_checked(boot, fmt):
    with pytest.raises(ImageError, match='no "HdrS"'):
        boot(images.boot_sector(), fmt=fmt)


def test_setup_header_offsets_are_those_of_the_kernel():
    """Spot checks against the table in boot.rst."""
    assert {name: SETUP_HEADER[name][0] for name in ("code32_start", "cmd_line_ptr", "xloadflags", "pref_address", "init_size")} == {
        "code32_start": 0x214,
        "cmd_line_ptr": 0x228,
        "xloadflags": 0x236,
        "pref_address": 0x258,
        "init_size": 0x260,
    }


# --- vmlinux -----------------------------------------------------------------------------------------------------------
def test_a_vmlinux_starts_in_long_mode_with_boot_params(boot, initrd):
    made = boot(images.vmlinux(), cmdline="quiet", initrd=str(initrd))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("vmlinux", "long", 16 * MIB)
    params = page(made)
    assert (get(params, "boot_flag"), params[0x202:0x206]) == (0xAA55, b"HdrS")
    assert get(params, "ramdisk_image") == MEMORY - 8192
    assert images.memory_of(made, get(params, "cmd_line_ptr"), 6) == b"quiet\0"
    assert params[0x1E8] == len(layout.e820(MEMORY))


def test_a_32_bit_vmlinux_starts_in_protected_mode_with_boot_params(boot, initrd):
    made = boot(images.vmlinux(bits=32), cmdline="quiet", initrd=str(initrd))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("vmlinux", "protected", 16 * MIB)
    assert made.state.rsi == layout.BOOT_PARAMS
    params = page(made)
    assert (get(params, "boot_flag"), params[0x202:0x206], get(params, "xloadflags")) == (0xAA55, b"HdrS", 0)
    assert get(params, "ramdisk_image") == MEMORY - 8192
    assert get(params, "initrd_addr_max") == 0x37FF_FFFF
    assert images.memory_of(made, get(params, "cmd_line_ptr"), 6) == b"quiet\0"


def test_a_vmlinux_command_line_is_bounded(boot):
    with pytest.raises(ConfigError, match="at most 2047"):
        boot(images.vmlinux(), cmdline="x" * 2048)
