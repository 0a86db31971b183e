"""A hostile guest at the PCI bus: any register, width and value at any time, with several functions and BARs of every kind.

Seeds are fixed. What must hold after every step: nothing raises, values fit their width, no BAR covers RAM, another
device, another BAR or what the kernel answers, every mapped BAR answers where its registers say, and nothing grows.
"""

from __future__ import annotations

import random

import pytest

from pyvmm import layout
from pyvmm.devices.pci.function import PHYSICAL_LIMIT, PciFunction
from pyvmm.devices.pci.host import HostBridge
from pyvmm.devices.pci.msix import MsiX
from pyvmm.devices.pci.testdev import PciTestdev
from pyvmm.layout import GIB, MIB
from tests.support.pci import CONFIG_ADDRESS, CONFIG_DATA, Messages, Scratch, World

STEPS = 3000
SEEDS = range(6)
RAM = ((0, layout.LOW_RAM_END), (4 * GIB, GIB))
FIXED = ((layout.VIRTIO_MMIO, 0x1000), (layout.TESTDEV_IOMEM, 0x1_0000))
FIXED_PORTS = ((0x3F8, 8), (0x600, 12), (0xC100, 16))
ADDRESSES = (0, 0x1000, layout.LOW_RAM_END - MIB, 0xD000_0000, layout.PCI_MEMORY, layout.VIRTIO_MMIO, layout.IOAPIC, layout.LAPIC,
             layout.TESTDEV_IOMEM, layout.IDENTITY_MAP, layout.TSS, 0xFFFF_F000, 0xFFFF_FFFF, 0x3F8, 0x600, 0xC000, 0xC100, 0xCF8,
             0xFFF0)  # fmt: skip
HIGH = (0, 0, 0, 1, 2, 4, 0xF_FFFF, 0x10_0000, 0xFFFF_FFFF)


class Hostile(World):
    """A bus with a card that has everything, three more that compete for places, and devices that do not move."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(RAM)
        self.rng = rng
        self.messages = Messages()
        self.msix: list[MsiX] = []
        self.bus.plug(HostBridge(), 0)
        for base, length in FIXED:
            self.mmio.add(base, length, Scratch("fixed"))
        for base, length in FIXED_PORTS:
            self.ports.add(base, length, Scratch("fixed"))
        for number in range(4):
            card = PciFunction(f"card{number}", 0x1AF4, 0x1042, 0x01_80_00, pin=number + 1)
            card.add_bar(0, 256, Scratch(), kind="io")
            self.msix.append(MsiX(card, (3, 200)[number % 2], self.messages))
            card.add_bar(2, 1 << rng.choice((4, 12, 16, 28)), Scratch())
            card.add_bar(4, 1 << rng.choice((4, 14, 30, 32)), Scratch(), kind="mem64", prefetch=True)
            self.bus.plug(card)
        self.bus.plug(PciTestdev(self.bind))
        self.doorbells: dict[tuple[int, bool], int] = {}
        self.bus.assign()
        self.bars = [bar for function in self.bus.functions.values() for bar in function.bars]
        for bar in self.bars:
            if bar.on_place is None:
                bar.on_place = lambda base, bar=bar: self.placed.__setitem__(id(bar), base)  # type: ignore[misc]
        self.placed: dict[int, int | None] = {}
        self.fixed = len(FIXED), len(FIXED_PORTS) + 1

    def bind(self, fd: int, address: int, length: int, match: int | None, ports: bool, on: bool) -> None:
        if on:
            assert (address, ports) not in self.doorbells
            self.doorbells[address, ports] = fd
        else:
            del self.doorbells[address, ports]

    def value(self, size: int) -> int:
        rng = self.rng
        window = layout.PCI_MEMORY + 0x1000 * rng.randrange(8)
        ports = 0xC000 + 0x100 * rng.randrange(8)
        odd = rng.choice(ADDRESSES), rng.choice(HIGH), rng.getrandbits(32), 0xFFFF_FFFF, 7, 0
        return rng.choice((window, ports, *odd)) & (1 << 8 * size) - 1

    def step(self) -> None:
        rng, size = self.rng, self.rng.choice((1, 2, 4, 4))
        action = rng.random()
        if action < 0.4:  # BARs and the command register, as a driver would
            slot, register = rng.randrange(8), rng.choice((4, 4, *range(0x10, 0x28, 4)))
            self.write(slot, register, rng.choice((7, 3, 2, 0x407)) if register == 4 and rng.random() < 0.8 else self.value(4))
        elif action < 0.7:  # anything at all through the ports
            port = rng.randrange(CONFIG_ADDRESS - 2, CONFIG_DATA + 6)
            value = self.value(size)
            if rng.random() < 0.3:
                bus = rng.getrandbits(8) if rng.random() < 0.1 else 0
                port, size, value = CONFIG_ADDRESS, 4, 0x8000_0000 | bus << 16 | rng.getrandbits(14)
            if rng.random() < 0.5:
                self.ports.write(port, size, value)
            else:
                assert 0 <= self.ports.read(port, size) < 1 << 8 * size
        elif action < 0.9:  # behind the BARs
            bar = rng.choice(self.bars)
            if bar.base is not None:
                space = self.ports if bar.kind == "io" else self.mmio
                width = rng.choice((1, 2, 4)) if bar.kind == "io" else rng.choice((1, 2, 4, 8))
                address = bar.base + rng.randrange(min(bar.size, 0x2000))
                if rng.random() < 0.6:
                    space.write(address, width, rng.getrandbits(8 * width))
                else:
                    assert 0 <= space.read(address, width) < 1 << 8 * width
        elif action < 0.99:
            function = rng.choice(list(self.bus.functions.values()))
            function.set_intx(rng.randrange(2))
            rng.choice(self.msix).trigger(rng.choice((0, 1, 2, 3, 199, 200, 0xFFFF)))
        else:
            self.bus.reset()
            if rng.random() < 0.8:
                self.bus.assign()

    def check(self) -> None:
        for bar in self.bars:
            if bar.base is not None:
                space = self.ports if bar.kind == "io" else self.mmio
                assert bar.mapping in space.mappings
                assert bar.base == bar.mapping.base == bar.asked
                assert bar.base % bar.size == 0
                reserved = layout.KERNEL_PORTS if bar.kind == "io" else (*layout.KERNEL_MEMORY, *RAM)
                assert not any(bar.base < base + length and base < bar.base + bar.size for base, length in reserved)
                assert bar.base + bar.size <= (0x1_0000 if bar.kind == "io" else PHYSICAL_LIMIT)
            else:
                assert bar.mapping not in self.mmio.mappings and bar.mapping not in self.ports.mappings
            assert self.placed.get(id(bar), bar.base) == bar.base
        for space, fixed in ((self.mmio, self.fixed[0]), (self.ports, self.fixed[1])):
            names = [mapping.device.name for mapping in space.mappings]
            assert names.count("fixed") + names.count("pci") == fixed
            assert all(one.end <= two.base for one, two in zip(space.mappings, space.mappings[1:], strict=False))
        for function in self.bus.functions.values():
            assert len(function.state.config) == 256
        for msix in self.msix:
            assert len(msix.state.table) == 16 * msix.vectors
            assert msix.state.pending < 1 << msix.vectors
        assert len(self.doorbells) <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_any_access_at_any_time_keeps_the_bus_in_order(seed: int) -> None:
    world = Hostile(random.Random(seed))
    mapped = 0
    for _ in range(STEPS):
        world.step()
        world.check()
        world.messages.sent.clear()
        mapped += sum(bar.base is not None for bar in world.bars)
    assert mapped > STEPS  # the guest did not just switch everything off


@pytest.mark.parametrize("seed", SEEDS)
def test_where_bars_are_depends_on_the_registers_alone(seed: int) -> None:
    """The same registers written at once into a new bus give the same map, whatever came before."""
    world = Hostile(random.Random(seed))
    for _ in range(STEPS // 10):
        for _ in range(10):
            world.step()
        twin = Hostile(random.Random(seed))
        for devfn, function in world.bus.functions.items():
            twin.bus.functions[devfn].state.config[:] = function.state.config
        next(iter(twin.bus.functions.values())).restored()
        assert [bar.base for bar in twin.bars] == [bar.base for bar in world.bars]
