"""A hostile guest at a whole board: every device that ``-device`` knows and all that every machine has, as they are wired, on a
real VM whose loops and threads run.

The other fuzzers know one device each; this one takes whatever is on the buses, so that a new device is in it from its first day.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pyvmm.devices
from pyvmm import events
from pyvmm.backends.net.backend import close_netdevs, open_netdevs
from pyvmm.bus import Bus
from pyvmm.cli.devices import DEVICES, NICS, with_default
from pyvmm.config import BootConfig, ChardevConfig, Config, DeviceConfig, DriveConfig, NetConfig, SerialConfig
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.kvm.test_uefi import volume
from tests.support import vm
from tests.support.disk import FakeDisk

pytestmark = pytest.mark.kvm
STEPS, SEEDS = 6000, 3
KINDS = ("plain", "debugcon", "uefi")
FLASH = 64 << 10
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x1000, 0xFFFF, 0x8000_0000, 0xFFFF_FFFF, (1 << 64) - 1)
LEGITIMATE = {events.POWEROFF, events.RESET, events.DEBUG_EXIT, events.WAKE}
COMMAND_ALL = 0x407  # a PCI function decodes ports and memory, is a bus master, sends no INTx


@contextmanager
def board(path: Path, kind: str) -> Iterator[Machine]:
    """Everything there is. A ``debugcon`` and pc-testdev want the same port; that board's virtio cards are transitional. With ``uefi``
    firmware there are other bridges, and flash."""
    devices, netdevs, drives = [], [], {}
    chips: list[DriveConfig] = []
    if kind == "uefi":
        image = volume(path, b"\xf4\xeb\xfd")  # hlt; jmp to it
        for unit, size in enumerate((image.stat().st_size, FLASH)):
            chips.append(DriveConfig(id=f"pflash{unit}", file="flash", interface="pflash", unit=unit, readonly=not unit))
            drives[chips[unit].id] = FakeDisk(size)
        boot = BootConfig(kernel=str(image), fmt="bios")
    else:
        image = path / "guest.bin"
        image.write_bytes(vm.HALT)
        boot = BootConfig(kernel=str(image), fmt="flat16")
    for number, name in enumerate(name for name in DEVICES if not (kind == "debugcon" and name == "pc-testdev")):
        options: tuple[tuple[str, str], ...] = ()
        if name in NICS:
            netdevs.append(NetConfig(id=f"net{number}", kind="hubport", options=(("hubid", "0"),)))
            options = (("netdev", f"net{number}"),)
        elif name.startswith("virtio-blk"):
            drives[f"disk{number}"] = FakeDisk()
            options = (("drive", f"disk{number}"),)
        elif name == "virtconsole":
            options = (("chardev", "console"),)
        device = DeviceConfig(name=name, options=options)
        devices.append(with_default(device, "disable-legacy", "off") if kind == "debugcon" else device)
    config = Config(
        boot=boot, memory=(64 if chips else 16) * MIB, drives=tuple(chips), serials=4 * (SerialConfig(kind="null"),),
        devices=tuple(devices), netdevs=tuple(netdevs), chardevs=(ChardevConfig(id="console", backend=SerialConfig(kind="null")),),
    )  # fmt: skip
    opened = open_netdevs(config.netdevs)
    try:
        consoles = [vm.Collector() for _ in config.serials]
        port = vm.Collector() if kind == "debugcon" else None
        with Machine(config, consoles, debugcon=port, drives=drives, netdevs=opened, chardevs={"console": vm.Collector()}) as machine:
            yield machine
    finally:
        close_netdevs(opened)


def classes() -> set[type[Any]]:
    """All of pyvmm.devices that is a ``Device``."""
    found: set[type[Any]] = set()
    for module in pkgutil.walk_packages(pyvmm.devices.__path__, "pyvmm.devices."):
        for _, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if each.__module__ == module.name and all(callable(getattr(each, name, None)) for name in ("read", "write", "reset")):
                found.add(each)
    return found


def on(machine: Machine) -> set[type[Any]]:
    """What is on the buses, or reached through it."""
    mapped = {type(mapping.device) for bus in (machine.ports, machine.mmio) for mapping in bus.mappings}
    return mapped | {type(each) for each in machine.devices.values()} | {type(each) for each in machine.pci.functions.values()}


def test_no_device_is_left_out(tmp_path: Path) -> None:
    there: set[type[Any]] = set()
    for kind in KINDS:
        with board(tmp_path, kind) as machine:
            there |= on(machine)
    # Behind others: 0xcf9 is the PCI bus's, the PHY the MAC's (MDIC).
    assert {each.__name__ for each in classes() - there} == {"ResetControl", "Phy"}


class Guest:
    """The dice, and what they do to a machine."""

    def __init__(self, machine: Machine, seed: int, kind: str) -> None:
        self.machine = machine
        self.rng = random.Random(f"board {seed} {kind}")
        self.touched: set[str] = set()

    def act(self) -> None:
        rng, machine = self.rng, self.machine
        kind = rng.random()
        if kind < 0.9:
            self.access(machine.ports if rng.random() < 0.5 or not machine.mmio.mappings else machine.mmio)
        elif kind < 0.96:  # a driver's first act; else no card decodes anything for long
            card = rng.choice(list(machine.pci.functions.values()))
            card.write_config(4, 2, rng.choice((COMMAND_ALL, 7, 0)) if rng.random() < 0.3 else 7)
        elif kind < 0.99:
            machine.memory.write(rng.randrange(MIB, 15 * MIB), rng.randbytes(64))
        else:
            rng.choice(list(machine.devices.values())).reset()

    def access(self, bus: Bus) -> None:
        rng = self.rng
        mapping = rng.choice(bus.mappings)
        size = rng.choice((1, 2, 4) if bus is self.machine.ports else (1, 2, 4, 8))
        address = mapping.base + rng.choice((rng.randrange(mapping.length), rng.randrange(min(mapping.length, 0x100)) & -size))
        address = max(address - rng.choice((0, 0, 0, 1, 3)), 0)  # now and then across the edge
        self.touched.add(type(mapping.device).__name__)
        if rng.random() < 0.5:
            value = bus.read(address, size)
            assert type(value) is int and 0 <= value < 1 << 8 * size, f"{mapping.device.name} at {address:#x}/{size}: {value!r}"
        else:
            value = rng.choice((rng.getrandbits(8 * size), rng.getrandbits(8), rng.choice(NUMBERS), rng.randrange(MIB, 15 * MIB) & -4096))
            bus.write(address, size, value & (1 << 8 * size) - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_anything_at_any_device(kind: str, tmp_path: Path) -> None:
    there: set[str] = set()
    touched: set[str] = set()
    for seed in range(SEEDS):
        with board(tmp_path, kind) as machine:
            there |= {type(mapping.device).__name__ for bus in (machine.ports, machine.mmio) for mapping in bus.mappings}
            machine.defer = lambda reason: reason.kind in LEGITIMATE  # the guest has ended itself; go on
            guest = Guest(machine, seed, kind)
            with vm.running(machine):
                for _ in range(STEPS):
                    with machine.lock:
                        guest.act()
                assert machine.reason is None, machine.reason
            assert machine.reason.kind == events.QUIT, machine.reason
            assert not machine.hung
        touched |= guest.touched
    assert there <= touched  # each seed alone may send a card's registers away for good
