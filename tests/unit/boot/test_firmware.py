"""Firmware in place of a guest: where it stands, the state it starts in, and what its files make of the ACPI tables."""

from __future__ import annotations

from struct import pack_into, unpack_from

import pytest

from pyvmm import layout
from pyvmm.boot import firmware
from pyvmm.boot.detect import plan
from pyvmm.boot.image import Image
from pyvmm.boot.plan import BootPlan
from pyvmm.config import BootConfig, Config, DeviceConfig
from pyvmm.errors import ConfigError, ImageError
from pyvmm.kvm.entry_rules import violations
from pyvmm.layout import GIB, KIB, MIB

BIOS = Config(boot=BootConfig(kernel="x", fmt="bios"))


def rom(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


def made(data: bytes, config: Config = BIOS) -> BootPlan:
    return firmware.plan(Image("x", data), config, "")


@pytest.mark.parametrize("size", [64 * KIB, 128 * KIB, 256 * KIB])
def test_it_stands_below_4_gib_and_below_1_mib(size: int) -> None:
    found = made(rom(size))
    assert bytes(found.rom) == rom(size)
    assert [(gpa, bytes(data)) for gpa, data in found.writes] == [(MIB - size, rom(size))]


def test_the_reset_vector() -> None:
    state = made(rom(64 * KIB)).state
    assert (state.cs.base, state.cs.selector, state.rip) == (0xFFFF_0000, 0xF000, 0xFFF0)
    assert not state.cr0 & 1
    assert not violations(state, state)


@pytest.mark.parametrize("size", [256, 64 * KIB + 256, 256 * KIB + 256, 9 * MIB])
def test_what_is_no_firmware(size: int) -> None:
    with pytest.raises(ImageError, match="^x: .*multiple of 64 KiB"):
        made(rom(size))


@pytest.mark.parametrize("option", [{"initrd": "a"}, {"cmdline": "a"}, {"address": 0}, {"entry": 0}])
def test_options_of_other_formats(option: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="do not go with firmware"):
        made(rom(64 * KIB), BIOS.replace(boot=BIOS.boot.replace(**option)))


def test_it_needs_memory() -> None:
    with pytest.raises(ConfigError, match="-m at least 4M"):
        made(rom(64 * KIB), BIOS.replace(memory=3 * MIB))


def test_none_of_our_tables_are_in_its_way(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "bios"
    file.write_bytes(rom(64 * KIB))
    found = plan(BIOS.replace(boot=BootConfig(kernel=str(file), fmt="bios")))
    assert len(found.writes) == 1


# --- files --------------------------------------------------------------------------------------------------------------
def load(files: dict[str, bytes], places: dict[str, int]) -> bytearray:
    """Memory as etc/table-loader's commands leave it, each file at the place named here."""
    memory = bytearray(2 * MIB)
    allocated: dict[str, int] = {}
    script = files["etc/table-loader"]
    assert len(script) % 128 == 0

    def name(at: int) -> str:
        text = script[at : at + 56]
        assert text[-1] == 0
        return text.rstrip(b"\0").decode()

    for at in range(0, len(script), 128):
        (command,) = unpack_from("<I", script, at)
        file = name(at + 4)
        if command == 1:
            align, zone = unpack_from("<IB", script, at + 60)
            assert file not in allocated and places[file] % align == 0
            assert zone == (2 if file == "etc/acpi/rsdp" else 1)
            allocated[file] = places[file]
            memory[places[file] : places[file] + len(files[file])] = files[file]
        elif command == 2:
            offset, size = unpack_from("<IB", script, at + 116)
            assert offset + size <= len(files[file])
            where = allocated[file] + offset
            value = int.from_bytes(memory[where : where + size], "little") + allocated[name(at + 60)]
            memory[where : where + size] = value.to_bytes(size, "little")
        else:
            assert command == 3
            offset, start, length = unpack_from("<III", script, at + 60)
            assert max(offset + 1, start + length) <= len(files[file])
            assert not files[file][offset]  # OVMF takes it for that
            total = sum(memory[allocated[file] + start : allocated[file] + start + length])
            pack_into("<B", memory, allocated[file] + offset, memory[allocated[file] + offset] - total & 0xFF)
    return memory


@pytest.mark.parametrize("config", [BIOS, BIOS.replace(smp=4, memory=6 * GIB, devices=(DeviceConfig(name="virtio-rng-device"),))])
def test_the_tables_are_whole_wherever_the_firmware_puts_them(config: Config) -> None:
    tables, rsdp = 0x10_0040, 0xF_5A50
    memory = load(firmware.files(config), {"etc/acpi/tables": tables, "etc/acpi/rsdp": rsdp})

    def table(at: int, signature: bytes) -> bytes:
        (length,) = unpack_from("<I", memory, at + 4)
        found = bytes(memory[at : at + length])
        assert found[:4] == signature
        assert sum(found) & 0xFF == 0
        return found

    assert memory[rsdp : rsdp + 8] == b"RSD PTR "
    assert sum(memory[rsdp : rsdp + 20]) & 0xFF == sum(memory[rsdp : rsdp + 36]) & 0xFF == 0
    (rsdt_at,), (xsdt_at,) = unpack_from("<I", memory, rsdp + 16), unpack_from("<Q", memory, rsdp + 24)
    listed = unpack_from("<2I", table(rsdt_at, b"RSDT"), 36)
    assert unpack_from("<2Q", table(xsdt_at, b"XSDT"), 36) == listed
    fadt = table(listed[0], b"FACP")
    table(listed[1], b"APIC")
    facs_at, dsdt_at = unpack_from("<II", fadt, 36)
    assert unpack_from("<QQ", fadt, 132) == (0, dsdt_at)
    assert memory[facs_at : facs_at + 4] == b"FACS"
    assert facs_at % 64 == 0
    assert b"_PRT" in table(dsdt_at, b"DSDT")


def test_the_window_for_cards_goes_as_far_as_firmware_puts_them() -> None:
    """SeaBIOS fills it from 0xFEC00000 downwards."""
    for config, end in ((BIOS, layout.IOAPIC), (BIOS.replace(boot=BootConfig(kernel="x")), layout.PCI_MEMORY_END)):
        tables = firmware.files(config)["etc/acpi/tables"]
        window = (layout.PCI_MEMORY).to_bytes(4, "little") + (end - 1).to_bytes(4, "little")
        assert window in tables


def test_without_acpi_there_are_no_tables() -> None:
    assert set(firmware.files(BIOS.replace(acpi=False))) == {"etc/e820"}


def test_memory_is_told_with_kvms_pages_apart() -> None:
    data = firmware.files(BIOS.replace(memory=4 * GIB))["etc/e820"]
    entries = [unpack_from("<QQI", data, at) for at in range(0, len(data), 20)]
    assert entries == [(0, 3 * GIB, 1), (4 * GIB, GIB, 1), (layout.IDENTITY_MAP, 0x4000, 2)]


def test_what_it_tries_first_and_whether_it_asks() -> None:
    assert firmware.cmos(BIOS) == {0x3D: 0, 0x38: 0}
    for order, first, third in (("c", 0x02, 0), ("nc", 0x24, 0), ("dcna", 0x23, 0x40)):
        config = BIOS.replace(boot=BIOS.boot.replace(order=order, menu=True))
        assert firmware.cmos(config) == {0x3D: first, 0x38: third}
        assert firmware.items(config)[0x0E] == b"\1\0"
    assert firmware.items(BIOS)[0x0E] == b"\0\0"


# --- cards ----------------------------------------------------------------------------------------------------------------
def test_bootindex_is_the_order_of_booting() -> None:
    def card(name: str, index: str) -> DeviceConfig:
        return DeviceConfig(name=name, options=(("bootindex", index),) if index else ())

    cards = [(card("virtio-blk-pci", "7"), 3), (card("e1000", "0"), 0x1F), (card("virtio-blk-pci", ""), 5), (card("virtio-rng-pci", ""), 6)]
    assert firmware.files(BIOS, cards)["bootorder"] == b"/pci@i0cf8/ethernet@1f\n/pci@i0cf8/scsi@3\n\0"
    assert "bootorder" not in firmware.files(BIOS, cards[2:])
    for bad in ("7", "-1", "x"):
        with pytest.raises(ConfigError, match="bootindex"):
            firmware.files(BIOS, [*cards, (card("e1000", bad), 9)])


def test_an_option_rom_goes_by_the_cards_id(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def files(data: bytes, name: str = "e1000", *options: tuple[str, str]) -> dict[str, bytes]:
        file = tmp_path / "rom"
        file.write_bytes(data)
        return firmware.files(BIOS, [(DeviceConfig(name=name, options=(("romfile", str(file)), *options)), 1)])

    good = b"\x55\xaa".ljust(1024, b"x")
    assert files(good)["pci8086,100e.rom"] == good
    assert files(good, "virtio-net-pci")["pci1af4,1041.rom"] == good
    for name, number in (("virtio-net-pci", "1000"), ("virtio-blk-pci", "1001")):
        assert files(good, name, ("disable-legacy", "off"))[f"pci1af4,{number}.rom"] == good
    for bad in (b"\x55\xab".ljust(1024, b"x"), b"\x55\xaa".ljust(1000, b"x"), b"\x55\xaa".ljust(129 * KIB, b"x")):
        with pytest.raises(ImageError, match="no option ROM"):
            files(bad)
    with pytest.raises(ImageError, match="cannot use option ROM .*empty"):
        files(b"")
    assert not any("rom" in name for name in firmware.files(BIOS, [(DeviceConfig(name="e1000", options=(("romfile", ""),)), 1)]))
