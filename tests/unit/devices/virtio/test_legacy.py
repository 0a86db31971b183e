"""Transitional functions: the legacy interface beside the modern one. Sections: Virtio specification 1.2."""

from __future__ import annotations

import random

import pytest

from pyvmm.cli.devices import parse_device
from pyvmm.devices.virtio import net_features as f
from pyvmm.devices.virtio.core import ACKNOWLEDGE, ANY_LAYOUT, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VERSION_1
from pyvmm.devices.virtio.legacy_regs import REGISTERS
from pyvmm.devices.virtio.net import NetOptions
from tests.support.net_driver import NetRig, header, seeded
from tests.support.network import frame
from tests.support.packets import ipv4_tcp, udp, valid
from tests.support.ring import Ring
from tests.support.virtio import Echo, EchoRig, LegacyDriver, PciDriver


class Known(Echo):
    """Of a type that has a number for transitional functions."""

    device_id = 4


class Rig(EchoRig):
    """On a transitional function, with a legacy driver."""

    driver: LegacyDriver

    def __init__(self) -> None:
        super().__init__(16)
        self.device = Known(self.loop)
        self.driver = LegacyDriver(self.device, self.memory)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_4_1_2_identity(rig: Rig) -> None:
    get = rig.driver.get_config
    assert (get(0, 2), get(2, 2), get(8, 1)) == (0x1AF4, 0x1005, 0)
    assert (get(0x2C, 2), get(0x2E, 2), get(0x10, 4) & 3) == (0x1AF4, 4, 1)


def test_requests_are_served_and_interrupt_by_the_pin(rig: Rig) -> None:
    rig.driver.start({0: rig.ring})
    rig.echo()
    assert rig.driver.level == 1
    assert rig.driver.interrupts() == 1 and rig.driver.level == 0 == rig.driver.interrupts()
    assert rig.driver.status() == ACKNOWLEDGE | DRIVER | DRIVER_OK


def test_and_by_msi_x_whose_vectors_stand_before_the_configuration(rig: Rig) -> None:
    assert bytes(rig.driver.inp(0x14 + at, 1) for at in range(13)) == b"configuration"
    rig.driver.enable_msix()
    assert bytes(rig.driver.inp(0x18 + at, 1) for at in range(13)) == b"configuration"
    rig.driver.prepare({0: rig.ring})
    assert (rig.driver.inp(0x14, 2), rig.driver.inp(0x16, 2)) == (0xFFFF, 0xFFFF)
    rig.driver.out(0x16, 2, 1)
    rig.driver.out(0x14, 2, 77)
    assert (rig.driver.inp(0x14, 2), rig.driver.inp(0x16, 2)) == (0xFFFF, 1)
    rig.driver.set_status(7)
    rig.echo()
    assert rig.driver.messages.sent == [(0xFEE0_0000, 0x41)] and not rig.driver.level


def test_2_2_3_features_that_were_not_offered_are_not_taken(rig: Rig) -> None:
    offered = rig.driver.offered()
    assert offered == rig.device.features | ANY_LAYOUT | 1 << 28 | 1 << 29
    rig.driver.prepare({0: rig.ring}, 0xFFFF_FFFF)
    assert rig.driver.inp(4, 4) == offered
    rig.driver.set_status(7)
    rig.ring.event_idx = True
    rig.echo()


def test_3_1_2_queues_may_be_used_before_driver_ok(rig: Rig) -> None:
    rig.driver.prepare({0: rig.ring})
    rig.echo()
    assert rig.driver.interrupts() == 1
    rig.driver.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
    rig.echo()
    assert rig.device.log.count("start") == 1


def test_a_queue_is_taken_away_and_set_up_anew(rig: Rig) -> None:
    rig.driver.start({0: rig.ring})
    rig.echo()
    rig.driver.out(0x0E, 2, 0)
    rig.driver.out(0x08, 4, 0)
    assert rig.driver.inp(0x08, 4) == 0
    rig.echo(served=False)
    rig.ring.clear()
    rig.driver.setup(0, rig.ring)
    rig.echo()


def test_a_reset_and_no_such_queue(rig: Rig) -> None:
    rig.driver.start({0: rig.ring})
    rig.driver.set_status(0)
    assert (rig.driver.status(), rig.driver.inp(0x08, 4), rig.driver.inp(4, 4)) == (0, 0, 0)
    rig.driver.out(0x0E, 2, 7)
    rig.driver.out(0x08, 4, 16)
    assert (rig.driver.inp(0x08, 4), rig.driver.inp(0x0C, 2)) == (0, 0)
    rig.driver.kick(7)
    rig.driver.start({0: rig.ring})
    rig.echo()


@pytest.mark.parametrize("page", [0xFFFF_FFFF, 0x200, 0x1FF])
def test_a_ring_outside_ram_breaks_the_device(rig: Rig, page: int) -> None:
    rig.driver.prepare({0: rig.ring})
    rig.driver.out(0x08, 4, page)
    rig.driver.set_status(7)
    assert rig.driver.status() & NEEDS_RESET


def test_a_wide_access_belongs_to_the_register_it_begins_at(rig: Rig) -> None:
    """As from QEMU's: a doorbell of four bytes is no reset."""
    rig.driver.start({0: rig.ring})
    rig.ring.add(b"x", 2)
    rig.driver.out(0x10, 4, 0)
    rig.loop.run_pending()
    assert len(rig.ring.collect()) == 1 and rig.driver.status() & DRIVER_OK
    assert (rig.driver.inp(0x01, 1), rig.driver.inp(0x11, 2)) == (0xFF, 0xFFFF)


def test_a_modern_driver_finds_a_modern_function() -> None:
    rig = Rig()
    driver = PciDriver.__new__(PciDriver)
    driver.__dict__.update(rig.driver.__dict__)
    assert driver.offered() & VERSION_1
    driver.start({0: Ring(rig.memory, 16, 0x2_0000)})
    assert driver.status() == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK


def test_a_modern_function_takes_no_legacy_driver() -> None:
    rig = Rig()
    device = Known(rig.loop)
    driver = PciDriver(device, rig.memory)
    assert not driver.negotiate(1) & FEATURES_OK
    driver.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
    assert not driver.status() & DRIVER_OK


def test_any_access_is_defined() -> None:
    rng = random.Random(44)
    rig = Rig()
    for _ in range(3000):
        offset, size = rng.randrange(0x80), rng.choice((1, 2, 4))
        if rng.random() < 0.5:
            rig.driver.out(offset, size, rng.choice((0, 1, 7, 0x10, 0x1F0, 0xFFFF_FFFF, rng.randrange(1 << 32))) & (1 << 8 * size) - 1)
        else:
            assert 0 <= rig.driver.inp(offset, size) < 1 << 8 * size
        rig.loop.run_pending()
    rig.driver.set_status(0)
    rig.driver.start({0: rig.ring})
    rig.echo()


def test_the_table_is_what_is_there(rig: Rig) -> None:
    rig.driver.enable_msix()
    for register in REGISTERS:
        if "r" in register.access and not register.when:
            assert rig.driver.inp(register.offset, register.size) == register.reset, register.name


# --- 5.1.6.1: the network card's header -----------------------------------------------------------------------------------
def net(without: int) -> NetRig:
    rig = NetRig(options=NetOptions(without=f.CTRL_VQ | without, rx_size=64, tx_size=64), transport=LegacyDriver)
    rig.start()
    return rig


def test_a_header_of_ten_bytes_without_merged_buffers() -> None:
    rig = net(f.MRG_RXBUF)
    rig.post(3, 10, 1600)
    assert rig.device.receive(frame(1))
    chains = dict(rig.rx.chains)
    ((head, length),) = rig.rx.collect()
    got = rig.rx.written(chains[head][1])
    assert length == 10 + len(frame(1)) and got[: 10 + len(frame(1))] == bytes(10) + frame(1)
    rig.send(bytes(10), frame(2))
    assert rig.wire.sent == [frame(2)]
    packet = ipv4_tcp(b"d" * 5000)
    rig.send(header(1, 1, 54, 1460, 34, 16)[:10] + seeded(packet))
    assert len(rig.wire.sent) == 1 + 4 and all(valid(each) for each in rig.wire.sent[1:])
    rig.send(header(1, 0, 0, 0, 34, 6)[:10] + seeded(udp(b"x"), 40, 17))
    assert valid(rig.wire.sent[-1])


def test_of_twelve_with_them() -> None:
    rig = net(0)
    rig.post(8, 1600)
    assert rig.device.receive(frame(1))
    assert rig.received() == [(bytes(10) + b"\1\0", frame(1))]
    rig.send(bytes(12), frame(2))
    assert rig.wire.sent == [frame(2)]


def test_the_command_line() -> None:
    assert parse_device("virtio-blk-pci-transitional,drive=d").transitional
    assert parse_device("virtio-net-pci,disable-legacy=off").transitional
    assert not parse_device("virtio-net-pci-non-transitional").transitional
    assert not parse_device("virtio-rng-pci").transitional and not parse_device("virtio-rng-pci,disable-legacy=on").transitional
