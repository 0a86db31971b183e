"""``-drive if=pflash``, as QEMU spells it."""

from __future__ import annotations

import pytest

from pyvmm.cli.options import Options
from pyvmm.errors import ConfigError

CODE = "if=pflash,format=raw,unit=0,readonly=on,file=CODE.fd"


def test_the_firmware_is_in_unit_0() -> None:
    config = Options(["-drive", "if=pflash,format=raw,unit=1,file=VARS.fd", "-drive", CODE, "-drive", "file=disk,format=raw"]).config
    assert config is not None
    assert (config.boot.kernel, config.boot.fmt) == ("CODE.fd", "bios")
    assert [(each.interface, each.unit, each.readonly) for each in config.drives] == [
        ("pflash", 1, False), ("pflash", 0, True), ("virtio", 0, False),
    ]  # fmt: skip
    assert [device.name for device in config.devices] == ["virtio-blk-pci"]


def test_units_are_counted_where_they_are_not_given() -> None:
    config = Options(["-drive", "if=pflash,format=raw,file=a", "-drive", "if=pflash,format=raw,file=b", "-boot", "menu=on"]).config
    assert config is not None
    assert [(each.file, each.unit) for each in config.drives] == [("a", 0), ("b", 1)]
    assert config.boot.menu


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-drive", "if=pflash,format=raw,unit=1,file=v"], "there is no unit 0"),
        (["-drive", CODE, "-drive", "if=pflash,format=raw,unit=1,readonly=on,file=v"], "variables must be written: write snapshot=on"),
        (["-drive", CODE, "-drive", CODE], "another drive is unit 0"),
        (["-drive", "if=pflash,format=raw,unit=2,file=v"], "there are two flash chips"),
        (["-drive", "if=pflash,format=scratch,size=1M"], "flash has an image"),
        (["-drive", CODE, "-bios", "x"], "-bios and -drive if=pflash: give one of the two"),
        (["-drive", CODE, "-kernel", "x"], "-bios and -kernel: give one of the two"),
        (["-drive", "file=d,format=raw,unit=1", "-kernel", "x"], "unit= goes with if=pflash"),
        (["-pflash", "OVMF.fd"], "-pflash: not supported: write -drive if=pflash,format=raw,unit=0,file=FILE"),
    ],
)
def test_what_makes_no_sense(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Options(arguments)


def test_a_disk_called_pflash_is_a_disk() -> None:
    config = Options(["-kernel", "x", "-drive", "file=pflash.img,format=raw"]).config
    assert config is not None
    assert (config.boot.kernel, config.drives[0].interface) == ("x", "virtio")
