"""PVH: note, start info, entry state (xen/include/public/arch-x86/hvm/start_info.h, docs/misc/pvh)."""

from __future__ import annotations

from struct import pack, unpack

import pytest

from pyvmm import layout
from pyvmm.boot.detect import plan
from pyvmm.errors import ImageError
from pyvmm.layout import GIB, MIB
from tests.support import images

MEMORY = 128 * MIB


@pytest.fixture
def boot(tmp_path):
    def run(data: bytes, **options):
        path = tmp_path / "kernel.pvh"
        path.write_bytes(data)
        return plan(images.config(path, **options))

    return run


def start_info(made):
    names = ("magic", "version", "flags", "nr_modules", "modlist", "cmdline", "rsdp", "memmap", "entries", "reserved")
    return dict(zip(names, unpack("<IIIIQQQQII", images.memory_of(made, made.state.rbx, 56)), strict=True))


@pytest.mark.parametrize("bits", [32, 64])
def test_the_entry_is_the_notes(boot, bits):
    made = boot(images.pvh(bits))
    images.check_plan(made, MEMORY)
    assert (made.format, made.mode, made.entry) == ("pvh", "protected", 16 * MIB + 4)


def test_the_entry_state_is_as_the_abi_says(boot):
    state = boot(images.pvh()).state
    assert state.cr0 & ~0x10 == 1  # PE; ET is fixed
    assert (state.cr4, state.efer) == (0, 0)
    assert (state.cs.base, state.cs.limit, state.ds.base, state.ds.limit) == (0, 0xFFFF_FFFF, 0, 0xFFFF_FFFF)
    assert (state.tr.base, state.tr.limit, state.tr.type) == (0, 0x67, 11)
    assert (state.cs.selector, state.ss.selector) == (0x08, 0x10)  # the ABI leaves them open; as QEMU
    assert state.rflags & (1 << 17 | 1 << 9 | 1 << 8) == 0


@pytest.mark.parametrize("memory", [MEMORY, 5 * GIB])
def test_start_info_leads_to_map_tables_and_command_line(boot, memory):
    made = boot(images.pvh(), memory=memory, cmdline="a b")
    images.check_plan(made, memory)
    info = start_info(made)
    assert (info["magic"], info["version"], info["flags"], info["nr_modules"]) == (0x336EC578, 1, 0, 0)
    assert images.memory_of(made, info["cmdline"], 4) == b"a b\0"
    assert images.memory_of(made, info["rsdp"], 8) == b"RSD PTR "
    entries = [unpack("<QQII", images.memory_of(made, info["memmap"] + 24 * n, 24)) for n in range(info["entries"])]
    assert [entry[:3] for entry in entries] == layout.e820(memory)


def test_the_initrd_is_the_first_module(boot, tmp_path):
    (tmp_path / "initrd").write_bytes(b"I" * 100)
    made = boot(images.pvh(), initrd=f"{tmp_path}/initrd")
    images.check_plan(made, MEMORY)
    info = start_info(made)
    assert info["nr_modules"] == 1
    address, size, cmdline, reserved = unpack("<4Q", images.memory_of(made, info["modlist"], 32))
    assert (address, size, cmdline, reserved) == (MEMORY - 4096, 100, 0, 0)
    assert images.memory_of(made, address, 100) == b"I" * 100


def test_without_acpi_there_is_no_rsdp(boot):
    assert start_info(boot(images.pvh(), acpi=False))["rsdp"] == 0


@pytest.mark.parametrize("entry", [0, 16 * MIB + 0x2000, 1 << 32, (1 << 64) - 1])
def test_an_entry_outside_the_image_is_refused(boot, entry):
    with pytest.raises(ImageError, match="entry"):
        boot(images.pvh(entry=entry))


@pytest.mark.parametrize("note", [images.note(b"Xen\0", 17, b"1234"), images.note(b"Zen\0", 18, b"1234"), images.note(b"Xen\0", 18, b"12")])
def test_other_notes_make_no_pvh_image(boot, note):
    data = images.elf(64, [(MIB, images.HLT, 16)], entry=MIB, notes=note)
    assert boot(data).format == "elf64"
    with pytest.raises(ImageError, match="CONFIG_PVH"):
        boot(data, fmt="pvh")


def test_a_four_byte_entry_is_taken_too(boot):
    data = images.elf(32, [(MIB, images.HLT, 16)], entry=MIB, notes=images.note(b"Xen\0", 18, pack("<I", MIB + 4)))
    assert boot(data).entry == MIB + 4
