"""Causes, mask, level, moderation; the interrupt half of `ethtool -t`."""

from __future__ import annotations

import copy

import pytest

from pyvmm.devices.e1000 import constants as c
from tests.support.e1000_driver import LINUX_INTERRUPTS, Driver, Rig, frame

US = 1000


def rig_open() -> tuple[Rig, Driver]:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    rig.read(c.ICR)
    return rig, driver


def test_causes_latch_without_being_enabled_and_reading_clears() -> None:
    rig, driver = rig_open()
    driver.send(frame(bytes(60)))
    rig.card.receive(frame(bytes(60)))
    assert rig.line.changes == []
    assert rig.read(c.ICR) == c.TXDW | c.TXQE | c.RXT0
    assert rig.read(c.ICR) == 0


def test_enabling_finds_what_came_before() -> None:
    rig, _ = rig_open()
    rig.card.receive(frame(bytes(60)))
    rig.write(c.IMS, c.TXDW)
    assert rig.line.level == 0
    rig.write(c.IMS, c.RXT0)
    assert rig.line.level == 1
    assert rig.read(c.IMS) == c.TXDW | c.RXT0


def test_line_falls_by_icr_read_write_or_mask() -> None:
    rig, _ = rig_open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.write(c.ICS, c.LSC | c.TXDW)
    assert rig.line.level == 1
    rig.write(c.ICR, c.LSC)
    assert rig.line.level == 1
    rig.write(c.ICR, c.TXDW)
    assert rig.line.level == 0
    rig.write(c.ICS, c.LSC)
    rig.write(c.IMC, 0xFFFF_FFFF)
    assert rig.line.level == 0
    rig.write(c.IMS, c.LSC)
    assert rig.line.level == 1
    rig.read(c.ICR)
    assert rig.line.level == 0


@pytest.mark.parametrize("bit", range(10))
def test_interrupt_self_test_of_a_driver(bit: int) -> None:
    rig, _ = rig_open()
    mask = 1 << bit
    rig.write(c.IMC, 0xFFFF_FFFF)
    rig.write(c.ICS, mask)
    assert rig.line.edges == 0
    rig.write(c.IMS, mask)
    rig.write(c.ICS, mask)
    assert rig.line.level == 1
    assert rig.read(c.ICR) & mask
    rig.write(c.IMC, ~mask & 0x7FFF)
    rig.write(c.ICS, ~mask & 0x7FFF)
    assert rig.line.level == 0


def test_handler_as_linux_does() -> None:
    rig, driver = rig_open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.card.receive(frame(bytes(60)))
    assert rig.line.level == 1
    assert rig.read(c.ICR) & c.RXT0
    rig.write(c.IMC, 0xFFFF_FFFF)
    rig.card.receive(frame(bytes(61)))
    assert rig.line.level == 0
    assert len(driver.frames()) == 2
    rig.write(c.IMS, LINUX_INTERRUPTS)
    assert rig.line.level == 1, "the second frame's cause is still there"
    assert rig.read(c.ICR) & c.RXT0


def test_moderation_delays_and_loses_nothing() -> None:
    rig, _ = rig_open()
    rig.write(c.ITR, 1000)  # 256 us
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.card.receive(frame(bytes(60)))
    assert rig.line.edges == 1
    rig.read(c.ICR)
    rig.time.advance(100 * US)
    for _ in range(5):
        rig.card.receive(frame(bytes(60)))
    assert rig.line.level == 0
    assert rig.time.armed == 1
    rig.time.advance(155 * US)
    assert rig.line.level == 0
    assert rig.time.advance(1 * US) == 1
    assert rig.line.level == 1
    assert rig.read(c.ICR) & c.RXT0
    rig.time.advance(300 * US)
    rig.card.receive(frame(bytes(60)))
    assert rig.line.level == 1, "long enough ago: at once"


def test_moderation_ends_when_the_driver_says_so() -> None:
    rig, _ = rig_open()
    rig.write(c.ITR, 0xFFFF_FFFF)
    assert rig.read(c.ITR) == 0xFFFF
    rig.write(c.IMS, LINUX_INTERRUPTS)
    for _ in range(2):
        rig.write(c.ICS, c.LSC)
        rig.read(c.ICR)
    rig.write(c.ICS, c.LSC)
    assert rig.line.level == 0
    assert rig.time.timers and max(timer.deadline or 0 for timer in rig.time.timers) <= rig.time.now + 17_000 * US
    rig.write(c.ITR, 0)
    assert rig.line.level == 1
    assert rig.time.armed == 0


def test_causes_read_meanwhile_raise_nothing_later() -> None:
    rig, _ = rig_open()
    rig.write(c.ITR, 1000)
    rig.write(c.IMS, LINUX_INTERRUPTS)
    for _ in range(2):
        rig.write(c.ICS, c.LSC)
        rig.read(c.ICR)
    rig.time.advance(1000 * US)
    assert rig.line.edges == 1
    assert rig.line.level == 0


def test_reset_forgets_a_delayed_interrupt() -> None:
    rig, driver = rig_open()
    rig.write(c.ITR, 1000)
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.write(c.ICS, c.LSC)
    rig.read(c.ICR)
    rig.write(c.ICS, c.LSC)
    driver.reset()
    assert rig.time.armed == 0
    rig.write(c.IMS, LINUX_INTERRUPTS)
    assert rig.line.level == 0


def test_moderation_has_a_shortest_distance_and_can_be_off() -> None:
    rig, _ = rig_open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    for number in range(3):
        rig.write(c.ICS, c.LSC)
        assert rig.line.edges == number + 1, "off"
        rig.read(c.ICR)
    rig.write(c.ITR, 1)
    for _ in range(2):
        rig.write(c.ICS, c.LSC)
        rig.read(c.ICR)
    rig.write(c.ICS, c.LSC)
    rig.time.advance(127 * US)
    assert rig.line.level == 0
    rig.time.advance(1 * US)
    assert rig.line.level == 1


def served(rig: Rig, microseconds: int) -> None:
    """What a driver does of an interrupt, and how long it takes for that."""
    rig.read(c.ICR)
    rig.write(c.IMC, 0xFFFF_FFFF)
    rig.time.advance(microseconds * US)
    rig.write(c.IMS, LINUX_INTERRUPTS)


def test_a_frame_does_not_wait_for_a_slow_driver() -> None:
    rig, _ = rig_open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.write(c.ITR, 1)
    for _ in range(3):
        rig.card.receive(frame(bytes(60)))
        assert rig.line.level == 1
        served(rig, 2000)


@pytest.mark.parametrize(("took", "late"), [(10, 128), (32, 128), (1000, 4000), (3000, 12_000), (9_000, 16_000), (2_000_000, 16_000)])
def test_what_may_be_late_is_later_for_a_slow_driver(took: int, late: int) -> None:
    rig, driver = rig_late()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.write(c.ITR, 1)
    rig.card.receive(frame(bytes(60)))
    served(rig, took)
    rig.time.advance(5_000_000 * US)
    driver.send(frame(bytes(60)), late=True)
    rig.time.advance((late - 1) * US)
    assert rig.line.level == 0
    rig.time.advance(2 * US)
    assert rig.line.level == 1
    served(rig, 10)
    driver.send(frame(bytes(60)), late=True)
    rig.time.advance(129 * US)
    assert rig.line.level == 1, "as it is now counts, not as it was"


def test_a_reset_forgets_how_slow_a_driver_was() -> None:
    rig, driver = rig_late()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.write(c.ITR, 1)
    rig.card.receive(frame(bytes(60)))
    served(rig, 2000)
    rig.write(c.CTRL, c.CTRL_RST)
    assert (rig.card.mac.interrupts.service, rig.card.mac.interrupts.served) == (0, True)


def test_a_burst_of_frames_interrupts_behind_the_last() -> None:
    rig, _ = rig_open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.card.burst(True)
    for _ in range(3):
        rig.card.receive(frame(bytes(60)))
        assert rig.line.level == 0
    rig.card.burst(False)
    assert rig.line.level == 1
    assert rig.read(c.ICR) == c.RXT0
    rig.card.burst(True)
    rig.card.burst(False)
    assert rig.line.level == 0


def rig_late(tidv: int = 8, tadv: int = 32) -> tuple[Rig, Driver]:
    rig, driver = rig_open()
    rig.write(c.TIDV, tidv)
    rig.write(c.TADV, tadv)
    rig.write(c.IMS, LINUX_INTERRUPTS)
    return rig, driver


def test_transmit_interrupts_come_late_and_together() -> None:
    rig, driver = rig_late()
    for _ in range(3):
        driver.send(frame(bytes(60)), late=True)
        rig.time.advance(20 * US)
    assert rig.line.level == 0
    rig.time.advance(200 * US)
    assert rig.line.changes == [1]
    assert rig.read(c.ICR) & c.TXDW
    rig.time.advance(10_000 * US)
    assert rig.line.changes == [1, 0]


@pytest.mark.parametrize(("tidv", "tadv", "microseconds"), [(8, 32, 128), (1000, 0, 1024), (1000, 500, 512), (8, 60000, 128)])
def test_how_late(tidv: int, tadv: int, microseconds: int) -> None:
    rig, driver = rig_late(tidv, tadv)
    driver.send(frame(bytes(60)), late=True)
    rig.time.advance((microseconds - 1) * US)
    assert rig.line.level == 0
    rig.time.advance(2 * US)
    assert rig.line.level == 1


def test_who_wants_no_delay_has_none() -> None:
    rig, driver = rig_late(0, 0)
    driver.send(frame(bytes(60)), late=True)
    assert rig.line.level == 1
    rig, driver = rig_late()
    driver.send(frame(bytes(60)))
    assert rig.line.level == 1


def test_a_late_cause_goes_with_the_next_interrupt_and_with_a_look() -> None:
    rig, driver = rig_late()
    driver.send(frame(bytes(60)), late=True)
    rig.card.receive(frame(bytes(60)))
    assert rig.read(c.ICR) == c.TXDW | c.TXQE | c.RXT0
    rig.time.advance(10_000 * US)
    assert rig.line.changes == [1, 0], "and not a second time"
    driver.send(frame(bytes(60)), late=True)
    assert rig.read(c.ICR) & c.TXDW, "a driver may poll"
    driver.send(frame(bytes(60)), late=True)
    rig.write(c.ICR, c.TXDW)
    rig.time.advance(10_000 * US)
    assert rig.line.changes == [1, 0]


def test_fpd_ends_the_delay() -> None:
    rig, driver = rig_late(60000, 0)
    driver.send(frame(bytes(60)), late=True)
    rig.write(c.TIDV, 60000 | c.TIDV_FPD)
    assert rig.line.level == 1
    assert rig.read(c.TIDV) == 60000


def test_late_causes_and_resets() -> None:
    rig, driver = rig_late()
    driver.send(frame(bytes(60)), late=True)
    kept = copy.deepcopy(rig.card.mac.state)
    assert kept.late == c.TXDW
    rig.card.mac.state = kept
    rig.card.mac.restored()
    assert rig.line.level == 1, "a snapshot forgets the timer, not the cause"
    rig.read(c.ICR)
    driver.send(frame(bytes(60)), late=True)
    rig.write(c.CTRL, rig.read(c.CTRL) | c.CTRL_RST)
    rig.time.advance(10_000 * US)
    assert rig.read(c.ICR) & c.TXDW == 0


def test_what_the_wire_answers_at_once_is_in_the_same_interrupt() -> None:
    rig, driver = rig_open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.card.mac.transmitter.flush = lambda: rig.card.receive(frame(bytes(60)))
    driver.send(frame(bytes(60)))
    assert rig.line.changes == [1]
    assert rig.read(c.ICR) == c.TXDW | c.TXQE | c.RXT0
