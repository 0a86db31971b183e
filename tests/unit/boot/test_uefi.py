"""UEFI firmware in place of a guest: which files are taken for it, where it stands, and what its files say beside a BIOS's."""

from __future__ import annotations

from struct import unpack_from

import pytest

from pyvmm import layout
from pyvmm.boot import firmware, uefi
from pyvmm.boot.detect import recognise
from pyvmm.boot.image import Image
from pyvmm.boot.inspect import describe
from pyvmm.boot.plan import BootPlan
from pyvmm.config import BootConfig, Config, DeviceConfig
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.devices.pci.bus import PciBus
from pyvmm.devices.pci.function import PciFunction
from pyvmm.errors import ConfigError, ImageError
from pyvmm.kvm.entry_rules import violations
from pyvmm.layout import GIB, KIB, MIB
from pyvmm.memory import GuestMemory

UEFI = Config(boot=BootConfig(kernel="x", fmt="bios"), memory=256 * MIB)
RESET = b"\x90\x90\xe9".ljust(16, b"\0")


def rom(size: int, end: bytes = RESET) -> bytes:
    """Begins like a firmware volume, ends in a jump."""
    return (bytes(40) + b"_FVH").ljust(size - len(end), b"\xff") + end


def made(data: bytes, config: Config = UEFI) -> BootPlan:
    return firmware.plan(Image("x", data), config, "")


@pytest.mark.parametrize("size", [256 * KIB, 1920 * KIB, 0x37C000, 2 * MIB, 4 * MIB, 8 * MIB])
def test_it_stands_at_the_end_of_4_gib(size: int) -> None:
    """All of the sizes Debian's package has, and none has its last page over what KVM keeps for itself."""
    found = made(rom(size))
    assert (found.format, bytes(found.rom), found.writes) == ("uefi", rom(size), [])
    assert found.kernel_pages + 4 * layout.PAGE <= layout.HIGH_RAM - 8 * MIB
    assert found.notes == [f"ROM      {layout.HIGH_RAM - size:#x}..0x100000000"]


def test_the_reset_vector() -> None:
    state = made(rom(2 * MIB)).state
    assert (state.cs.base, state.cs.selector, state.rip) == (0xFFFF_0000, 0xF000, 0xFFF0)
    assert not state.cr0 & 1
    assert not violations(state, state)


@pytest.mark.parametrize("size", [2 * MIB + 512, 8 * MIB + 4 * KIB])
def test_sizes_that_it_has_not(size: int) -> None:
    with pytest.raises(ImageError, match="^x: .* no UEFI firmware: it has a multiple of 4 KiB, at most 8 MiB$"):
        made(rom(size))


def test_variables_alone_are_no_firmware() -> None:
    with pytest.raises(ImageError, match="variables and no code: give .*OVMF_CODE"):
        made(rom(528 * KIB, b"\xff" * 16))


def test_a_large_file_that_is_no_firmware_volume() -> None:
    """U-Boot's has no mark; what has nothing at the reset vector is none."""
    found = made(bytes(MIB - 16) + bytes(range(16)))
    assert (found.format, len(found.rom), found.entry) == (uefi.OTHER, MIB, 0xFFFF_FFF0)
    with pytest.raises(ImageError, match="nothing is at its end"):
        made(bytes(2 * MIB))
    with pytest.raises(ImageError, match="a BIOS has a multiple of 64 KiB, at most 256 KiB .*, other firmware at most 8 MiB"):
        made(bytes(range(16)) * (9 * MIB // 16))


def test_it_needs_memory_and_no_kernel() -> None:
    with pytest.raises(ConfigError, match="-m at least 64M"):
        made(rom(2 * MIB), UEFI.replace(memory=63 * MIB))
    with pytest.raises(ConfigError, match="do not go with firmware"):
        made(rom(2 * MIB), UEFI.replace(boot=UEFI.boot.replace(cmdline="quiet")))


def test_as_a_guest_it_is_told_where_it_belongs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ImageError, match="looks like a PC firmware: give it as -bios"):
        recognise(Image("x", rom(0x37C000)))
    file = tmp_path / "fd"
    file.write_bytes(rom(2 * MIB))
    assert describe(str(file), "bios")[-3:-1] == ["entry    0xfffffff0 in real mode", "ROM      0xffe00000..0x100000000"]


# --- the chip set it asks for --------------------------------------------------------------------------------------------
def test_the_registers_it_reads() -> None:
    """OvmfPkg, AcpiTimerLib: device id of 00:00.0; PMREGMISC.PMIOSE; PMBA; and the port to power off at is a constant there."""

    def no_line(line: int):  # type: ignore[no-untyped-def]
        raise AssertionError(line)

    bus = PciBus(None, None, None, no_line)  # type: ignore[arg-type]
    for function, slot, number in uefi.bridges():
        bus.plug(function, slot, number)

    def read(slot: int, number: int, register: int, size: int) -> int:
        bus.write(0, 4, 1 << 31 | slot << 11 | number << 8 | register & ~3)
        return bus.read(4 + (register & 3), size)

    def write(slot: int, number: int, register: int, size: int, value: int) -> None:
        bus.write(0, 4, 1 << 31 | slot << 11 | number << 8 | register & ~3)
        bus.write(4 + (register & 3), size, value)

    assert read(0, 0, 2, 2) == 0x1237
    assert read(1, 0, 0xB, 1) == 6  # a bridge
    assert read(1, 0, 0xA, 1) == 1  # to ISA
    assert read(1, 0, 0xE, 1) & 0x80  # with other functions beside it
    for _ in range(2):
        assert read(1, 3, 0x80, 1) == 1
        assert read(1, 3, 0x40, 4) == 0xB001
        write(1, 3, 0x40, 4, 0x0601)
        write(1, 3, 0x80, 1, 0)


def test_the_fadt_says_where_the_block_is() -> None:
    def ports(files: dict[str, bytes]) -> tuple[int, ...]:
        tables = files["etc/acpi/tables"]
        at = tables.index(b"FACP")
        return (*unpack_from("<I", tables, at + 56), *unpack_from("<I", tables, at + 64), *unpack_from("<I", tables, at + 76))

    assert ports(uefi.files(UEFI)) == (0xB000, 0xB004, 0xB008)
    assert ports(firmware.files(UEFI)) == (0x600, 0x604, 0x608)


def test_memory_is_told_with_kvms_pages_where_they_are() -> None:
    data = uefi.files(UEFI.replace(memory=4 * GIB))["etc/e820"]
    entries = [unpack_from("<QQI", data, at) for at in range(0, len(data), 20)]
    assert entries == [(0, 3 * GIB, 1), (4 * GIB, GIB, 1), (0xFEFF_C000, 0x4000, 2)]


def with_cards(memory: int, *addresses: int) -> tuple[FwCfg, dict[str, bytes]]:
    """fw_cfg of a machine whose cards have been put there, and its files before."""
    config = UEFI.replace(memory=memory)
    fw_cfg = FwCfg(GuestMemory(MIB), 1)
    bus = PciBus(None, None, None, None)  # type: ignore[arg-type]
    for at, address in enumerate(addresses):
        card = PciFunction(f"card{at}", 1, 1, 0, pin=0)
        card.add_bar(0, 16 * KIB, fw_cfg, "mem64")
        bus.functions[at << 3] = card
        card.state.config[0x10:0x18] = (address | 4).to_bytes(8, "little")
    files = uefi.files(config)
    for name, data in files.items():
        fw_cfg.add_file(name, data)
    uefi.follow(fw_cfg, bus, config)
    return fw_cfg, files


@pytest.mark.parametrize(
    ("memory", "addresses", "low", "high"),
    [
        (128 * MIB, (), 2 * GIB, (4 * GIB, 20 * GIB)),
        (2 * GIB, (0x8000_0000,), 2 * GIB, (4 * GIB, 20 * GIB)),
        (2 * GIB + MIB, (0xE0_0000_4000, 0xE0_0000_0000, 0xC000_0000), 3 * GIB, (0xE0_0000_0000, 0xE4_0000_0000)),
        (6 * GIB, (0xE0_0000_4000, 0xE4_4000_0000), 3 * GIB, (0xE0_0000_0000, 0xE4_8000_0000)),
        (GIB, ((1 << 64) - 0x4000,), 2 * GIB, ((1 << 64) - GIB, 1 << 64)),  # no firmware puts it there: a guest that wants to break us
        (GIB, (4 * GIB, (1 << 64) - 0x4000), 2 * GIB, (4 * GIB, 1 << 64)),
    ],
)
def test_the_dsdt_follows_where_cards_were_put(memory: int, addresses: tuple[int, ...], low: int, high: tuple[int, int]) -> None:
    """By the time the script is read; sizes in the directory hold."""
    fw_cfg, before = with_cards(memory, *addresses)
    key = fw_cfg.files["etc/table-loader"]
    assert fw_cfg.items[fw_cfg.files["etc/acpi/tables"]] == before["etc/acpi/tables"]
    fw_cfg.write(0, 2, key)
    tables = fw_cfg.items[fw_cfg.files["etc/acpi/tables"]]
    assert len(tables) == len(before["etc/acpi/tables"])
    assert fw_cfg.items[key] == before["etc/table-loader"]
    assert low.to_bytes(4, "little") + (layout.IOAPIC - 1).to_bytes(4, "little") in tables
    assert high[0].to_bytes(8, "little") + (high[1] - 1).to_bytes(8, "little") in tables
    at = tables.index(b"DSDT")
    assert sum(tables[at : at + unpack_from("<I", tables, at + 4)[0]]) & 0xFF == 0


def test_without_acpi_nothing_follows() -> None:
    fw_cfg = FwCfg(GuestMemory(MIB), 1)
    uefi.follow(fw_cfg, PciBus(None, None, None, None), UEFI.replace(acpi=False))  # type: ignore[arg-type]
    for key in (0, 0x19, 0x20):
        fw_cfg.write(0, 2, key)


def test_bootindex_names_devices_in_full() -> None:
    """OvmfPkg, QemuBootOrderLib translates whole paths."""

    def card(name: str, index: str) -> DeviceConfig:
        return DeviceConfig(name=name, options=(("bootindex", index),))

    cards = [(card("virtio-blk-pci", "7"), 3), (card("virtio-net-pci", "0"), 0x1F)]
    assert uefi.files(UEFI, cards)["bootorder"] == b"/pci@i0cf8/ethernet@1f/ethernet-phy@0\n/pci@i0cf8/scsi@3/disk@0,0\n\0"
    assert "bootorder" not in uefi.files(UEFI)


def test_option_roms_do_not_reach_it() -> None:
    cards = [(DeviceConfig(name="e1000", options=(("romfile", "efi-e1000.rom"),)), 2)]
    with pytest.raises(ConfigError, match="-device e1000,romfile=efi-e1000.rom: .* leave romfile= out"):
        uefi.files(UEFI, cards)
