"""The firmware configuration device. Sections: QEMU docs/specs/fw_cfg.rst."""

from __future__ import annotations

import struct

import pytest

from pyvmm.devices.fw_cfg import DMA_READ, DMA_SELECT, DMA_SKIP, DMA_WRITE, ZERO_FILL_MAX, FwCfg, FwCfgState
from pyvmm.errors import ConfigError
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory

RAM = 4 * MIB


class Rig:
    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.device = FwCfg(memory, cpus=3, max_cpus=8)

    def select(self, key: int) -> None:
        self.device.write(0, 2, key)

    def take(self, length: int) -> bytes:
        return bytes(self.device.read(1, 1) for _ in range(length))

    def item(self, key: int, length: int) -> bytes:
        self.select(key)
        return self.take(length)

    def dma(self, control: int, length: int, target: int, at: int = 0x1000) -> int:
        """As SeaBIOS does it: the structure, then both halves of its address, big-endian. Returns the control word."""
        self.memory.write(at, struct.pack(">IIQ", control, length, target))
        self.device.write(4, 4, int.from_bytes((at >> 32).to_bytes(4, "big"), "little"))
        self.device.write(8, 4, int.from_bytes((at & 0xFFFF_FFFF).to_bytes(4, "big"), "little"))
        return int.from_bytes(self.memory.read(at, 4), "big")

    def directory(self) -> dict[str, tuple[int, int]]:
        (count,) = struct.unpack(">I", self.item(0x19, 4))
        files = {}
        for _ in range(count):
            size, key, reserved, name = struct.unpack(">IHH56s", self.take(64))
            assert reserved == 0
            files[name.rstrip(b"\0").decode()] = size, key
        return files


@pytest.fixture
def rig() -> Rig:
    return Rig(GuestMemory(RAM))


def test_signature_and_id_say_qemu_with_dma(rig: Rig) -> None:
    assert rig.item(0, 4) == b"QEMU"
    assert rig.item(1, 4) == b"\x03\0\0\0"
    dma = rig.device.read(4, 4).to_bytes(4, "little") + rig.device.read(8, 4).to_bytes(4, "little")
    assert dma == b"QEMU CFG"
    assert rig.device.read(4, 8).to_bytes(8, "little") == b"QEMU CFG"


def test_numbers_kvm_unit_tests_and_seabios_read(rig: Rig) -> None:
    assert struct.unpack("<Q", rig.item(3, 8)) == (RAM,)
    assert struct.unpack("<H", rig.item(5, 2)) == (3,)
    assert struct.unpack("<H", rig.item(0x0F, 2)) == (8,)
    assert rig.item(0x11, 8) == bytes(8), "kvm-unit-tests: no MAX_RAM"


def test_selecting_starts_over_and_the_end_reads_zero(rig: Rig) -> None:
    assert rig.item(0, 6) == b"QEMU\0\0"
    assert rig.item(0, 2) == b"QE"
    assert rig.item(0xFFFF, 4) == bytes(4)


def test_bit_14_of_the_selector_selects_nothing_else(rig: Rig) -> None:
    assert rig.item(0x4000, 4) == b"QEMU"


def test_file_directory(rig: Rig) -> None:
    key = rig.device.add_file("bootorder", b"/disk\0")
    assert rig.directory() == {"etc/e820": (20, 0x20), "bootorder": (6, key)}
    assert rig.item(key, 6) == b"/disk\0"
    assert rig.device.add_file("bootorder", b"") == key
    assert rig.directory()["bootorder"] == (0, key)


def test_e820_file_is_ram(rig: Rig) -> None:
    assert struct.unpack("<QQI", rig.item(0x20, 20)) == (0, RAM, 1)


@pytest.mark.parametrize("name", ["", "x" * 56, "a\0b"])
def test_impossible_file_names_are_refused(rig: Rig, name: str) -> None:
    with pytest.raises(ConfigError):
        rig.device.add_file(name, b"")
    assert list(rig.directory()) == ["etc/e820"]


def test_the_longest_file_name_fits(rig: Rig) -> None:
    rig.device.add_file("x" * 55, b"1")
    assert "x" * 55 in rig.directory()


# --- DMA interface -----------------------------------------------------------------------------------------------------


def test_dma_selects_and_reads_in_one_go_with_zeros_behind_the_end(rig: Rig) -> None:
    rig.memory.write(0x2000, b"\xff" * 16)
    assert rig.dma(0 << 16 | DMA_SELECT | DMA_READ, 8, 0x2000) == 0
    assert rig.memory.read(0x2000, 16) == b"QEMU\0\0\0\0" + b"\xff" * 8


def test_dma_goes_on_where_reading_stopped_and_skips(rig: Rig) -> None:
    key = rig.device.add_file("f", bytes(range(100)))
    assert rig.item(key, 3) == b"\0\1\2"
    assert rig.dma(DMA_SKIP, 7, 0) == 0
    assert rig.dma(DMA_READ, 5, 0x2000) == 0
    assert rig.memory.read(0x2000, 5) == bytes(range(10, 15))
    assert rig.take(1) == b"\x0f"


def test_dma_starts_with_the_last_byte_of_the_address(rig: Rig) -> None:
    rig.memory.write(0x1000, struct.pack(">IIQ", DMA_SELECT | DMA_READ, 4, 0x2000))
    for at, byte in enumerate((0x1000).to_bytes(8, "big")):
        assert rig.memory.read(0x2000, 4) == bytes(4)
        rig.device.write(4 + at, 1, byte)
    assert rig.memory.read(0x2000, 4) == b"QEMU"


def test_dma_address_in_one_64_bit_write(rig: Rig) -> None:
    rig.memory.write(0x1000, struct.pack(">IIQ", DMA_SELECT | DMA_READ, 4, 0x2000))
    rig.device.write(4, 8, int.from_bytes((0x1000).to_bytes(8, "big"), "little"))
    assert rig.memory.read(0x2000, 4) == b"QEMU"


@pytest.mark.parametrize(
    ("control", "length", "target"),
    [
        (DMA_WRITE, 4, 0x2000),
        (DMA_READ, 4, RAM),
        (DMA_READ, 2, RAM - 1),
        (DMA_READ, 4, (1 << 64) - 1),
        (DMA_READ, 0xFFFF_FFFF, 0),
        (DMA_READ, ZERO_FILL_MAX + 5, 0x2000),
    ],
)
def test_dma_refuses_with_the_error_bit_and_touches_nothing(rig: Rig, control: int, length: int, target: int) -> None:
    rig.memory.write(0x2000, b"\xff" * 4)
    rig.memory.write(RAM - 1, b"\xff")
    assert rig.dma(control, length, target) == 1
    assert rig.memory.read(0x2000, 4) == b"\xff" * 4
    assert rig.memory.read(RAM - 1, 1) == b"\xff"


@pytest.mark.parametrize("at", [RAM - 15, RAM, 0xFFFF_FFFF_FFFF_FFF0, (1 << 64) - 1])
def test_a_dma_structure_outside_ram_is_ignored(rig: Rig, at: int) -> None:
    rig.device.write(4, 8, int.from_bytes(at.to_bytes(8, "big"), "little"))
    assert rig.device.state == FwCfgState()


def test_dma_far_past_the_end_of_an_item_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling gigabytes with zeros would hold up the whole machine."""
    monkeypatch.setattr("pyvmm.devices.fw_cfg.ZERO_FILL_MAX", 64)
    assert rig.dma(DMA_SELECT | DMA_READ, 4 + 64, 0x2000) == 0
    assert rig.dma(DMA_SELECT | DMA_READ, 4 + 65, 0x2000) == 1


def test_dma_reads_the_whole_of_a_large_file(rig: Rig) -> None:
    data = bytes(range(256)) * 1000
    key = rig.device.add_file("large", data)
    assert rig.dma(key << 16 | DMA_SELECT | DMA_READ, len(data) + 70_000, 0x10_0000) == 0
    assert rig.memory.read(0x10_0000, len(data)) == data


def test_reset_deselects(rig: Rig) -> None:
    rig.item(5, 1)
    rig.device.write(4, 4, 0x1234)
    rig.device.reset()
    assert rig.device.state == FwCfgState()
    assert rig.take(4) == b"QEMU"
