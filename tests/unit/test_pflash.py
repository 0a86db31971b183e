"""Flash chips in a machine: where they stand, KVM's slots for them, and that the drive has what the guest has written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.backends.block.backend import open_drive
from pyvmm.bus import Bus
from pyvmm.cli import record
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError
from pyvmm.pflash import FIRST_SLOT, Chips, units
from pyvmm.snapshot import capture

KIB = 1024
CODE, VARS = 3568 * KIB, 528 * KIB  # as Debian's OVMF_CODE_4M.fd and OVMF_VARS_4M.fd


class World:
    """As much of a machine as chips need."""

    def __init__(self, *drives: DriveConfig) -> None:
        self.slots: dict[int, tuple[int, int]] = {}
        self.drives: dict[str, Any] = {drive.id: open_drive(drive) for drive in drives}
        self.machine: Any = SimpleNamespace(
            config=SimpleNamespace(drives=drives),
            drives=self.drives,
            mmio=Bus("mmio", 1 << 64),
            devices={},
            vm=SimpleNamespace(set_memory_region=self.set_memory_region),
        )

    def set_memory_region(self, slot: int, gpa: int, size: int, address: int, flags: int) -> None:
        assert flags == (2 if size else 0)
        self.slots[slot] = (gpa, size)


def drive(tmp_path: Any, unit: int, size: int, **options: Any) -> DriveConfig:
    file = tmp_path / f"unit{unit}"
    file.write_bytes(bytes(range(256)) * (size // 256))
    return DriveConfig(id=f"pflash{unit}", file=str(file), interface="pflash", unit=unit, **options)


def test_variables_stand_below_the_code(tmp_path: Any) -> None:
    code, variables = drive(tmp_path, 0, CODE, readonly=True), drive(tmp_path, 1, VARS)
    world = World(variables, code)
    assert units(world.machine.config.drives) == [code, variables]
    chips = Chips(world.machine)
    assert list(world.machine.devices) == ["pflash1"]  # the other is a ROM
    assert world.slots == {FIRST_SLOT + 1: (0xFFC0_0000, VARS)}
    chips.close()


def test_what_the_guest_writes_is_in_the_file(tmp_path: Any) -> None:
    world = World(drive(tmp_path, 0, 64 * KIB))
    chips = Chips(world.machine)
    base, bus = 0xFFFF_0000, world.machine.mmio
    assert bus.read(base + 5, 1) == 5
    bus.write(base + 5, 1, 0x10)
    assert world.slots == {FIRST_SLOT: (base, 0)}  # reads come to the chip
    bus.write(base + 5, 1, 0xAB)
    assert bus.read(base, 1) == 0x80
    assert (tmp_path / "unit0").read_bytes()[4:7] == b"\x04\xab\x06"
    bus.write(base + 4096, 1, 0x20)
    bus.write(base + 4096, 1, 0xD0)
    assert (tmp_path / "unit0").read_bytes()[4095:8193] == b"\xff" * 4097 + b"\0"
    bus.write(base, 1, 0xFF)
    assert world.slots == {FIRST_SLOT: (base, 64 * KIB)}
    assert (tmp_path / "unit0").stat().st_size == 64 * KIB
    chips.close()


def test_a_file_that_was_cut_off_is_not_made_longer(tmp_path: Any) -> None:
    world = World(drive(tmp_path, 0, 64 * KIB))
    chips = Chips(world.machine)
    with (tmp_path / "unit0").open("r+b") as file:
        file.truncate(4096)
    bus = world.machine.mmio
    bus.write(0xFFFF_8000, 1, 0x10)
    bus.write(0xFFFF_8000, 1, 1)
    assert bus.read(0xFFFF_8000, 1) == 0x90
    assert (tmp_path / "unit0").stat().st_size == 4096
    chips.close()


def test_under_snapshot_the_file_stays(tmp_path: Any) -> None:
    world = World(drive(tmp_path, 0, 64 * KIB, snapshot=True))
    chips = Chips(world.machine)
    bus = world.machine.mmio
    bus.write(0xFFFF_0000, 1, 0x10)
    bus.write(0xFFFF_0000, 1, 0x77)
    bus.write(0xFFFF_0000, 1, 0xFF)
    assert bus.read(0xFFFF_0000, 1) == 0x77
    assert (tmp_path / "unit0").read_bytes()[0] == 0
    chips.close()


def test_no_snapshot_of_what_it_would_not_hold() -> None:
    machine: Any = SimpleNamespace(devices={"pflash1": None})
    for call in (capture.save, lambda each: capture.load(each, None), lambda each: capture.track(each, True)):
        with pytest.raises(ConfigError, match="no snapshot or history of flash"):
            call(machine)
    with pytest.raises(ConfigError, match="no recording of flash"):
        record.command(["-drive", "if=pflash,format=raw,file=OVMF.fd"])


@pytest.mark.parametrize("sizes", [(512,), (8192 * KIB + 4096,), (8188 * KIB, 8 * KIB)])
def test_sizes_that_do_not_fit(tmp_path: Any, sizes: tuple[int, ...]) -> None:
    world = World(*(drive(tmp_path, unit, size) for unit, size in enumerate(sizes)))
    with pytest.raises(ConfigError, match=f"unit={len(sizes) - 1},file=.*: .* multiple of 4 KiB, all units together at most 8 MiB"):
        Chips(world.machine)
