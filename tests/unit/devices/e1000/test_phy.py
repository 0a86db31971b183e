"""MDIC, link state, auto-negotiation, forced speeds."""

from __future__ import annotations

import pytest

from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000.phy import BMCR, BMCR_AUTONEG, BMCR_POWER_DOWN, BMCR_RESET, BMCR_RESTART, BMSR, PSSR
from tests.support.e1000_driver import Driver, Rig, frame


def test_identity_and_state_as_a_driver_finds_them() -> None:
    driver = Driver(Rig())
    assert (driver.phy(2) << 16 | driver.phy(3)) & ~0xF == 0x0141_0C20
    driver.phy(BMSR)
    assert driver.phy(BMSR) == 0x796D
    assert driver.phy(5) == 0x41E1
    assert driver.phy(10) == 0x3C00
    assert driver.phy(PSSR) == 0xAC00
    assert driver.read(c.STATUS) == 0x283


def test_other_addresses_answer_with_an_error() -> None:
    driver = Driver(Rig())
    for address in (0, 2, 31):
        assert driver.phy_read(2, address) >> 28 == 5


def test_access_may_interrupt() -> None:
    rig = Rig()
    rig.write(c.IMS, c.MDAC)
    rig.write(c.MDIC, 2 << 16 | 1 << 21 | 2 << 26 | 1 << 29)
    assert rig.line.level == 1
    assert rig.read(c.ICR) & c.MDAC


def test_read_only_registers_stay() -> None:
    driver = Driver(Rig())
    for number in (1, 2, 3, 5, 10, 15, 17):
        before = driver.phy(number) and driver.phy(number)
        driver.phy_write(number, 0x1234)
        assert driver.phy(number) == before


def test_cable_pulled_and_plugged() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    driver.phy(BMSR)
    rig.write(c.IMS, c.LSC)
    rig.card.set_link(False)
    assert rig.line.level == 1
    assert rig.read(c.ICR) & c.LSC
    assert not rig.read(c.STATUS) & c.STATUS_LU
    assert driver.phy(BMSR) & 0x24 == 0
    assert driver.phy(5) == driver.phy(10) == 0
    assert rig.card.receive(frame(bytes(50)))
    assert not driver.frames()
    driver.legacy(frame(bytes(50)))
    driver.ring()
    assert not rig.wire.sent
    rig.card.set_link(True)
    assert rig.read(c.ICR) & c.LSC
    assert rig.read(c.STATUS) & c.STATUS_LU
    assert driver.phy(BMSR) & 0x24 == 0x20, "the link bit latches low"
    assert driver.phy(BMSR) & 0x24 == 0x24
    rig.read(c.ICR)
    rig.card.set_link(True)
    assert rig.read(c.ICR) == 0


def test_link_needs_cable_and_wire() -> None:
    rig = Rig()
    rig.card.link_changed(False)
    assert not rig.read(c.STATUS) & c.STATUS_LU
    rig.card.set_link(False)
    rig.card.link_changed(True)
    assert not rig.read(c.STATUS) & c.STATUS_LU
    rig.card.set_link(True)
    assert rig.read(c.STATUS) & c.STATUS_LU


def test_renegotiation_is_done_at_once_and_told() -> None:
    rig = Rig()
    driver = Driver(rig)
    rig.read(c.ICR)
    driver.phy_write(BMCR, BMCR_AUTONEG | BMCR_RESTART | 0x140)
    assert driver.phy(BMCR) == 0x1140
    assert rig.read(c.ICR) == c.LSC
    driver.phy(BMSR)
    assert driver.phy(BMSR) & 0x24 == 0x24
    driver.phy_write(BMCR, driver.phy(BMCR) | BMCR_RESET)
    assert driver.phy(BMCR) == 0x1140


@pytest.mark.parametrize(
    ("anar", "gigabit", "speed", "full"),
    [(0x01E0, 0x300, 2, 1), (0x01E0, 0x100, 2, 0), (0x01E0, 0, 1, 1), (0x00A0, 0, 1, 0), (0x0040, 0, 0, 1), (0x0020, 0, 0, 0)],
)
def test_best_common_speed(anar: int, gigabit: int, speed: int, full: int) -> None:
    driver = Driver(Rig())
    driver.phy_write(4, anar | 1)
    driver.phy_write(9, gigabit)
    driver.phy_write(BMCR, BMCR_AUTONEG | BMCR_RESTART)
    status = driver.read(c.STATUS)
    assert (status >> 6 & 3, status & 1, status & 2) == (speed, full, 2)
    assert driver.phy(PSSR) >> 13 == speed << 1 | full


def test_nothing_in_common_is_no_link() -> None:
    driver = Driver(Rig())
    driver.phy_write(4, 1)
    driver.phy_write(9, 0)
    driver.phy_write(BMCR, BMCR_AUTONEG | BMCR_RESTART)
    assert not driver.read(c.STATUS) & c.STATUS_LU


@pytest.mark.parametrize(("bmcr", "speed"), [(0x0140, 2), (0x2100, 1), (0x0100, 0)])
def test_forced_speed(bmcr: int, speed: int) -> None:
    driver = Driver(Rig())
    driver.phy_write(BMCR, bmcr | BMCR_RESET)
    assert driver.phy(BMCR) == bmcr
    assert driver.read(c.STATUS) >> 6 & 3 == speed
    assert driver.phy(BMSR) & 0x20 == 0
    ctrl = driver.read(c.CTRL) & ~0x301
    driver.write(c.CTRL, ctrl | 1 << 8 | c.CTRL_FRCSPD | c.CTRL_FRCDPX)
    assert driver.read(c.STATUS) & 0xC3 == 0x42


def test_power_down_takes_the_link_down_and_a_hard_reset_brings_it_back() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.phy_write(20, 0xFFFF)
    driver.phy_write(BMCR, BMCR_AUTONEG | BMCR_POWER_DOWN)
    assert not driver.read(c.STATUS) & c.STATUS_LU
    rig.write(c.CTRL, rig.read(c.CTRL) | c.CTRL_PHY_RST)
    assert not rig.read(c.CTRL) & c.CTRL_PHY_RST
    assert driver.read(c.STATUS) & c.STATUS_LU
    assert driver.phy(20) == 0x0D60
    assert driver.phy(BMCR) == 0x1140


def test_attaching_takes_the_wires_state() -> None:
    rig = Rig()
    rig.wire.link = False
    rig.card.attach(None)  # type: ignore[arg-type]
    assert not rig.read(c.STATUS) & c.STATUS_LU
