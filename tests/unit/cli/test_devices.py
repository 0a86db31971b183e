"""-device: names and options."""

from __future__ import annotations

import pytest

from pyvmm.cli.devices import DEVICES, parse_device
from pyvmm.cli.options import Options
from pyvmm.config import DeviceConfig
from pyvmm.errors import ConfigError


def test_every_device_takes_its_options_and_an_id() -> None:
    for name, keys in DEVICES.items():
        values = {"disable-modern": "off", "disable-legacy": "on", "bus": "pci.0"}
        options = [("id", "x"), *((key, values.get(key, "1")) for key in keys)]
        text = ",".join([name, *(f"{key}={value}" for key, value in options)])
        assert parse_device(text) == DeviceConfig(name=name, options=tuple(options))


def test_qemus_spellings() -> None:
    device = parse_device("driver=virtio-blk-pci,drive=d,serial=a,,b,bus=pcie.0,addr=0x3.0,disable-legacy=on,romfile=")
    assert (device.name, device.get("serial"), device.get("addr"), device.get("romfile", "x")) == ("virtio-blk-pci", "a,b", "0x3.0", "")


@pytest.mark.parametrize("name", ["virtio-blk", "virtio-blk-pci-non-transitional", "driver=virtio-blk"])
def test_other_names(name: str) -> None:
    assert parse_device(f"{name},drive=d") == DeviceConfig(name="virtio-blk-pci", options=(("drive", "d"),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("virtio-blk-ccw", "virtio-blk-ccw'?: not known; there are isa-debug-exit, .*virtio-blk-pci"),
        ("-non-transitional", "not known"),
        ("", "not known; there are"),
        ("virtio-blk-pci,nonsense=1", "virtio-blk-pci: option 'nonsense' is not known; there are: drive, serial, .*, addr"),
        ("pc-testdev,addr=3", "option 'addr' is not known"),
        ("virtio-blk-device,vectors=3", "option 'vectors' is not known"),
        ("virtio-blk-pci,drive", "write 'drive' as KEY=VALUE"),
        ("virtio-blk-pci,", "KEY=VALUE"),
        ("virtio-blk-pci,id=0", "'0' is no id"),
        ("virtio-blk-pci,drive=d,disable-modern=on", "disable-modern=on is not supported: write disable-modern=off"),
        ("virtio-rng-pci,bus=pci.1", "bus=pci.1 is not supported: write bus=pci.0"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^-device .*{said}"):
        parse_device(text)


def test_values() -> None:
    device = DeviceConfig(name="n", options=(("a", "on"), ("b", "0x10"), ("c", "4K"), ("d", "maybe"), ("e", "")))
    assert (device.flag("a", False), device.flag("x", True), device.flag("x", False)) == (True, True, False)
    assert (device.number("b", 0, 1, 99), device.number("c", 0, 0, 1 << 20), device.number("x", 7, 0, 9), device.number("e", 3, 0, 9)) == (
        16, 4096, 7, 3,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="-device n,d=maybe: write d=on or d=off"):
        device.flag("d", True)
    for key in ("b", "d"):
        with pytest.raises(ConfigError, match=f"-device n,{key}=.*: give a number from 1 to 2"):
            device.number(key, 1, 1, 2)


def test_a_default_for_virtio_cards_that_nobody_has_asked_otherwise() -> None:
    """-global virtio-pci.disable-legacy=off, for -drive and -nic too."""
    words = ["hello", "-drive", "format=scratch,size=1M", "-device", "virtio-rng-pci,disable-legacy=on", "-device", "virtio-rng-device"]
    for value, expected in (("off", {"virtio-blk-pci"}), ("on", set())):
        config = Options([*words, "-global", f"virtio-pci.disable-legacy={value}"]).config
        assert config is not None
        assert {device.name for device in config.devices if device.transitional} == expected
        assert {device.name for device in config.devices} == {"virtio-blk-pci", "virtio-rng-pci", "virtio-rng-device"}
    with pytest.raises(ConfigError, match=r"virtio-pci\.disable-legacy=on\|off"):
        Options([*words, "-global", "virtio-pci.disable-legacy=maybe"])
