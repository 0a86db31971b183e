"""pci-testdev: choosing tests, what their headers say, counting, and doorbells that follow the BAR."""

from __future__ import annotations

import os
from struct import unpack_from

import pytest

from pyvmm.devices.pci.testdev import PciTestdev
from tests.support.pci import BAR0, World


class Doorbells:
    """A fake KVM_IOEVENTFD: which are on, and a way to ring them."""

    def __init__(self) -> None:
        self.on: dict[tuple[int, bool], tuple[int, int | None]] = {}

    def __call__(self, fd: int, address: int, length: int, match: int | None, ports: bool, on: bool) -> None:
        assert length == 1
        if on:
            assert (address, ports) not in self.on
            self.on[address, ports] = fd, match
        else:
            assert self.on.pop((address, ports)) == (fd, match)


class Guest:
    def __init__(self, doorbells: Doorbells | None) -> None:
        self.world = World()
        self.card = PciTestdev(doorbells)
        self.world.bus.plug(self.card)
        self.world.bus.assign()
        self.spaces = (self.world.mmio, self.world.ports)

    def base(self, bar: int) -> int:
        base = self.card.bars[bar].base
        assert base is not None
        return base

    def choose(self, bar: int, number: int) -> tuple[int, int, int, int, bytes]:
        """Starts a test: (width, offset, data, count, name)."""
        space, base = self.spaces[bar], self.base(bar)
        space.write(base, 1, number)
        data = b"".join(space.read(base + at, 4).to_bytes(4, "little") for at in range(0, 48, 4))
        width, offset, value, count = unpack_from("<xBxxIII", data)
        return width, offset, value, count, data[16:].partition(b"\0")[0]

    def count(self, bar: int) -> int:
        return self.spaces[bar].read(self.base(bar) + 12, 4)


@pytest.mark.parametrize(("bar", "half", "kind"), [(0, 2048, b"mmio"), (1, 128, b"portio")])
def test_every_test_counts_its_writes(bar: int, half: int, kind: bytes) -> None:
    guest = Guest(None)
    for number, (name, data) in enumerate(((b"no-eventfd", 0xFA), (b"wildcard-eventfd", 0xCE), (b"datamatch-eventfd", 0xFA))):
        offset = half + 3 * bar + number
        assert guest.choose(bar, number) == (1, offset, data, 0, kind + b"-" + name)
        for _ in range(16):
            guest.spaces[bar].write(guest.base(bar) + offset, 1, data)
        guest.spaces[bar].write(guest.base(bar) + offset + 1, 1, data)
        assert guest.count(bar) == 16
        guest.spaces[bar].write(guest.base(bar) + offset, 1, 0x11)
        assert guest.count(bar) == (17 if number == 1 else 16)
    assert guest.choose(bar, 3) == (0, 0, 0, 0, b"")  # no such test: the guest stops scanning here


def test_doorbells_are_registered_counted_and_follow_the_bar() -> None:
    doorbells = Doorbells()
    guest = Guest(doorbells)
    _, offset, data, *_ = guest.choose(0, 2)
    ((where, (fd, match)),) = doorbells.on.items()
    assert where == (guest.base(0) + offset, False)
    assert match == data
    os.eventfd_write(fd, 5)
    assert guest.count(0) == 5
    os.eventfd_write(fd, 2)
    guest.world.write(1, BAR0, 0xD000_0000)
    assert list(doorbells.on) == [(0xD000_0000 + offset, False)]
    assert guest.count(0) == 7
    guest.world.write(1, 4, 0, size=2)
    assert not doorbells.on
    guest.world.write(1, 4, 3, size=2)
    assert list(doorbells.on) == [(0xD000_0000 + offset, False)]
    guest.choose(1, 1)
    assert [(ports, match) for (_, ports), (_, match) in doorbells.on.items()] == [(True, None)]
    guest.choose(1, 0)
    assert not doorbells.on
    guest.choose(1, 1)
    guest.world.bus.reset()
    assert not doorbells.on
    guest.card.close()
    guest.card.close()


def test_reading_the_other_bar_shows_the_running_test() -> None:
    guest = Guest(None)
    guest.choose(0, 1)
    assert guest.world.ports.read(guest.base(1), 1) == 1
    assert guest.world.ports.read(guest.base(1) + 0x70, 4) == 0
