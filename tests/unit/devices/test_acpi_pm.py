"""The ACPI PM block. Sections: ACPI 6.5."""

from __future__ import annotations

import pytest

from pyvmm.devices.acpi_pm import CONTROL, ENABLE, PWRBTN, RTC, SCI_EN, STATUS, TIMER, TIMER_HZ, TMR, WAK, AcpiPm, AcpiPmState
from pyvmm.events import POWEROFF
from tests.support.fakes import FakeLine, FakeTime, StopSink

S = 1_000_000_000
HALF_PERIOD = (1 << 23) * S / TIMER_HZ  # between two changes of bit 23: 2.34 s


class Rig:
    def __init__(self, start: int = 0) -> None:
        self.line = FakeLine()
        self.stop = StopSink()
        self.time = FakeTime(start)
        self.pm = AcpiPm(self.line, self.stop, self.time.clock, self.time.make_timer)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_4_8_3_2_1_acpi_mode_is_stuck_on(rig: Rig) -> None:
    assert rig.pm.read(CONTROL, 2) == SCI_EN
    rig.pm.write(CONTROL, 2, 0)
    assert rig.pm.read(CONTROL, 2) == SCI_EN


def test_4_8_3_3_timer_counts_24_bits_at_3_579545_mhz(rig: Rig) -> None:
    rig.time.advance(S)
    assert rig.pm.read(TIMER, 4) == TIMER_HZ
    rig.time.advance(4 * S)
    assert rig.pm.read(TIMER, 4) == 5 * TIMER_HZ - (1 << 24)
    assert rig.pm.read(TIMER + 1, 1) == rig.pm.read(TIMER, 4) >> 8 & 0xFF
    assert rig.pm.read(TIMER + 3, 1) == 0


def test_4_8_3_2_1_s5_powers_off(rig: Rig) -> None:
    rig.pm.write(CONTROL, 2, SCI_EN)
    assert rig.stop.kinds == []
    rig.pm.write(CONTROL, 2, 0x2000)
    assert rig.stop.kinds == [POWEROFF]
    assert rig.pm.read(CONTROL, 2) == SCI_EN, "SLP_EN reads as 0"


def test_s5_by_a_byte_write_to_the_upper_half(rig: Rig) -> None:
    rig.pm.write(CONTROL + 1, 1, 0x20)
    assert rig.stop.kinds == [POWEROFF]


def test_other_sleep_types_wake_at_once(rig: Rig) -> None:
    rig.pm.write(CONTROL, 2, 0x2000 | 3 << 10)
    assert rig.stop.kinds == []
    assert rig.pm.read(STATUS, 2) == WAK
    assert rig.pm.read(CONTROL, 2) == 3 << 10 | SCI_EN


def test_s3_stops_the_machine_until_an_enabled_event() -> None:
    """kvm-unit-tests x86/s3.c; 16.3.2."""
    calls: list[str] = []
    time, line, stop = FakeTime(), FakeLine(), StopSink()
    pm = AcpiPm(line, stop, time.clock, time.make_timer, lambda: calls.append("suspend"), lambda: calls.append("wake"))
    pm.write(ENABLE, 2, RTC)
    pm.write(CONTROL, 2, 0x2000 | 1 << 10)
    assert calls == ["suspend"] and pm.read(STATUS, 2) & WAK == 0
    pm.press_power_button()
    assert calls == ["suspend"], "not enabled"
    pm.rtc_alarm()
    pm.rtc_alarm()
    assert calls == ["suspend", "wake"] and stop.kinds == []
    pm.reset()
    pm.woken(RTC | PWRBTN)
    assert pm.read(STATUS, 2) == WAK | RTC | PWRBTN


def test_s3_with_an_event_pending_wakes_at_once() -> None:
    calls: list[str] = []
    time = FakeTime()
    pm = AcpiPm(FakeLine(), StopSink(), time.clock, time.make_timer, lambda: calls.append("suspend"), lambda: calls.append("wake"))
    pm.write(ENABLE, 2, PWRBTN)
    pm.press_power_button()
    pm.write(CONTROL, 2, 0x2000 | 1 << 10)
    assert calls == ["suspend", "wake"]


def test_4_8_3_1_power_button_interrupts_while_enabled_and_is_cleared_by_writing_one(rig: Rig) -> None:
    rig.pm.press_power_button()
    assert (rig.line.level, rig.pm.read(STATUS, 2)) == (0, PWRBTN)
    rig.pm.write(ENABLE, 2, PWRBTN)
    assert rig.line.level == 1
    rig.pm.write(STATUS, 2, TMR)
    assert rig.line.level == 1, "another bit was cleared"
    rig.pm.write(STATUS, 2, PWRBTN)
    assert (rig.line.level, rig.pm.read(STATUS, 2)) == (0, 0)


def test_a_32_bit_access_covers_status_and_enable(rig: Rig) -> None:
    rig.pm.press_power_button()
    rig.pm.write(STATUS, 4, PWRBTN << 16)
    assert (rig.pm.read(STATUS, 4), rig.line.level) == (PWRBTN << 16 | PWRBTN, 1)
    rig.pm.write(STATUS + 1, 1, PWRBTN >> 8)
    assert rig.pm.read(STATUS, 4) == PWRBTN << 16


def test_enable_keeps_only_the_events_there_are(rig: Rig) -> None:
    rig.pm.write(ENABLE, 2, 0xFFFF)
    assert rig.pm.read(ENABLE, 2) == 0x0721


def test_timer_carry_is_noticed_without_a_host_timer(rig: Rig) -> None:
    rig.time.advance(int(HALF_PERIOD) - 1)
    assert rig.pm.read(STATUS, 2) == 0
    rig.time.advance(2)
    assert (rig.pm.read(STATUS, 2), rig.time.armed) == (TMR, 0)


def test_timer_carry_interrupts_only_while_enabled(rig: Rig) -> None:
    assert rig.time.advance(100 * S) == 0
    rig.pm.write(STATUS, 2, TMR)
    rig.pm.write(ENABLE, 2, TMR)
    assert (rig.line.level, rig.time.armed) == (0, 1)
    before = rig.pm.read(TIMER, 4) >> 23
    assert rig.time.advance(int(HALF_PERIOD) + 1) == 1
    assert (rig.line.level, rig.time.armed) == (1, 0), "not hurried while unacknowledged"
    assert rig.pm.read(TIMER, 4) >> 23 != before
    rig.pm.write(STATUS, 2, TMR)
    assert (rig.line.level, rig.time.armed) == (0, 1)


def test_restored_drives_the_line(rig: Rig) -> None:
    rig.pm.write(ENABLE, 2, PWRBTN)
    rig.pm.press_power_button()
    other = Rig(start=1000 * S)
    other.pm.state = AcpiPmState(**dict(rig.pm.state))
    other.pm.restored()
    assert (other.line.level, other.pm.read(STATUS, 2)) == (1, PWRBTN)


def test_reset_lowers_the_line(rig: Rig) -> None:
    rig.pm.write(ENABLE, 2, PWRBTN | TMR)
    rig.pm.press_power_button()
    rig.pm.reset()
    assert (rig.line.level, rig.time.armed, rig.pm.read(0, 8)) == (0, 0, SCI_EN << 32)
