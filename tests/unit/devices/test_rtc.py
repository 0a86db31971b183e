"""The clock and CMOS memory. Register names as in the MC146818A data sheet; the Linux walks follow rtc-cmos.c and
rtc-mc146818-lib.c."""

from __future__ import annotations

import calendar
import random

import pytest

from pyvmm.devices import rtc
from pyvmm.devices.rtc import A, B, C, D, Rtc, RtcState
from tests.support.fakes import FakeLine, FakeTime

S = 1_000_000_000
MS = 1_000_000


def epoch(*moment: int) -> int:
    return calendar.timegm((*moment, 0, 0, 0))


NOON = epoch(2024, 2, 29, 13, 59, 58)  # a Thursday, a leap day


class Rig:
    def __init__(self, wall: int = NOON * S, memory: int = 0, cpus: int = 1) -> None:
        self.line = FakeLine()
        self.time = FakeTime(start=77 * S, wall=wall)
        self.alarms = 0
        self.rtc = Rtc(self.line, self.time.wall_clock, self.time.clock, self.time.make_timer, memory, cpus, self.alarm)

    def alarm(self) -> None:
        self.alarms += 1

    def i(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def o(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def time_registers(self) -> list[int]:
        return [self.i(index) for index in rtc.TIME_REGISTERS]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_time_in_bcd_24h(rig: Rig) -> None:
    assert rig.time_registers() == [0x58, 0x59, 0x13, 5, 0x29, 0x02, 0x24, 0x20]
    rig.time.advance(2 * S)
    assert rig.time_registers() == [0x00, 0x00, 0x14, 5, 0x29, 0x02, 0x24, 0x20]


def test_time_in_binary(rig: Rig) -> None:
    rig.o(B, 0x06)
    assert rig.time_registers() == [58, 59, 13, 5, 29, 2, 24, 20]


@pytest.mark.parametrize(("hour", "shown"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)])
def test_hours_in_12h(hour: int, shown: int) -> None:
    rig = Rig(epoch(2024, 1, 1, hour, 0, 0) * S)
    rig.o(B, 0x00)
    assert rig.i(rtc.HOURS) == shown
    rig.o(rtc.HOURS, shown)
    rig.o(B, 0x02)
    assert rig.i(rtc.HOURS) == hour // 10 << 4 | hour % 10


def test_register_d_says_valid_and_nothing_else(rig: Rig) -> None:
    """Linux' rtc_cmos takes any of bits 6:0 for a chip that is not there."""
    rig.o(D, 0x7F)
    assert rig.i(D) == 0x80


def test_uip_announces_the_update_and_does_not_stick(rig: Rig) -> None:
    seen = []
    for _ in range(4):
        seen.append(rig.i(A))
        rig.time.advance(S - 200_000)
        seen.append(rig.i(A))
        rig.time.advance(200_000)
    assert seen == [0x26, 0xA6] * 4


def test_uip_never_rises_while_the_time_is_held(rig: Rig) -> None:
    rig.o(B, 0x82)
    for _ in range(100):
        rig.time.advance(10 * MS)
        assert rig.i(A) == 0x26


def test_set_holds_the_time_for_writing(rig: Rig) -> None:
    rig.o(B, 0x82)
    rig.time.advance(30 * S)
    assert rig.i(rtc.SECONDS) == 0x58
    for index, value in zip(rtc.TIME_REGISTERS, [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19], strict=True):
        rig.o(index, value)
        assert rig.i(index) == value
    rig.o(B, 0x02)
    rig.time.advance(S)
    assert rig.time_registers() == [0x00, 0x00, 0x00, 7, 0x01, 0x01, 0x00, 0x20], "Saturday 2000-01-01"


def test_leaving_divider_reset_takes_half_a_second_to_the_first_update(rig: Rig) -> None:
    rig.time.advance(S // 4)
    rig.o(A, 0x76)
    rig.o(rtc.SECONDS, 0x10)
    rig.o(A, 0x26)
    rig.time.advance(499 * MS)
    assert rig.i(rtc.SECONDS) == 0x10
    rig.time.advance(1 * MS)
    assert rig.i(rtc.SECONDS) == 0x11


def test_writing_a_running_clock_moves_it(rig: Rig) -> None:
    rig.o(rtc.YEAR, 0x31)
    rig.o(rtc.MINUTES, 0x00)
    rig.time.advance(2 * S)
    assert rig.time_registers() == [0x00, 0x01, 0x13, 7, 0x01, 0x03, 0x31, 0x20], "2031 has no 29th of February"


def test_nonsense_rolls_over_and_stays_a_date(rig: Rig) -> None:
    rng = random.Random(1)
    for _ in range(300):
        rig.o(B, rng.choice((0x80, 0x82, 0x84, 0x86)))
        for index in rtc.TIME_REGISTERS:
            rig.o(index, rng.randrange(256))
        rig.o(B, 0x06)
        second, minute, hour, weekday, day, month, year, century = rig.time_registers()
        assert second < 60 and minute < 60 and hour < 24 and 1 <= weekday <= 7
        assert 1 <= day <= 31 and 1 <= month <= 12 and year < 100 and century < 100


def test_calendar_agrees_with_the_library_for_every_month() -> None:
    for year in (0, 1, 1899, 1900, 1970, 1999, 2000, 2024, 2100, 2400, 9999):
        for month in range(1, 13):
            if year:
                assert rtc._days_since_1970(year, month) * 86400 == epoch(year, month, 1, 0, 0, 0)
    assert rtc._days_since_1970(0, 3) - rtc._days_since_1970(0, 2) == 29


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_no_timer_runs_while_nobody_listens(rig: Rig) -> None:
    assert rig.time.armed == 0
    assert rig.time.advance(3600 * S) == 0
    rig.o(B, 0x12)
    assert (rig.line.level, rig.time.armed) == (1, 0), "an update has long been due: no need to wait for one"
    rig.i(C)
    assert rig.time.armed == 1
    rig.o(B, 0x02)
    assert rig.time.armed == 0


def test_update_interrupt_once_a_second_if_acknowledged(rig: Rig) -> None:
    rig.o(B, 0x12)
    rig.i(C)
    for _ in range(3):
        assert rig.time.advance(S - 1) in (0, 1)
        rig.time.advance(1)
        assert rig.line.level == 1
        assert rig.i(C) & 0xB0 == 0x90
        assert rig.line.level == 0
    assert rig.line.edges == 3


def test_unacknowledged_interrupts_do_not_keep_the_host_busy(rig: Rig) -> None:
    rig.o(A, 0x23)  # 8192 Hz
    rig.o(B, 0x72)
    assert rig.time.advance(3600 * S) == 1
    assert (rig.line.level, rig.line.edges) == (1, 1)


def test_set_clears_update_interrupt_enable(rig: Rig) -> None:
    rig.o(B, 0x92)
    assert rig.i(B) == 0x82


@pytest.mark.parametrize(("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (9, 128), (15, 2)])
def test_periodic_interrupt_rates(rig: Rig, rate: int, hertz: int) -> None:
    rig.o(A, 0x20 | rate)
    rig.o(B, 0x42)
    rig.i(C)
    step = S // 16384
    served = 0
    for _ in range(S // step + 1):
        rig.time.advance(step)
        if rig.line.level:
            served += 1
            assert rig.i(C) & 0xC0 == 0xC0
    assert served in (hertz, hertz + 1)


def test_the_line_goes_down_even_where_the_next_tick_is_due_while_register_c_is_read(rig: Rig) -> None:
    """Else the PIC, which takes this line's edges, never hears of it again (iPXE on a slow host)."""
    rig.o(B, 0x42)
    rig.time.advance(2 * MS)
    assert rig.line.level
    edges, clock, looks = rig.line.edges, rig.rtc.wall_clock, iter(range(1, 1000))
    rig.rtc.wall_clock = lambda: clock() + next(looks) * MS  # each look at the clock comes a period after the one before
    assert rig.i(C) & rtc.C_IRQF
    assert (rig.line.level, rig.line.edges) == (1, edges + 1)


def test_periodic_rate_zero_is_off(rig: Rig) -> None:
    rig.o(A, 0x20)
    rig.o(B, 0x42)
    assert rig.time.armed == 0
    rig.time.advance(10 * S)
    assert rig.i(C) & 0x40 == 0


def test_alarm_at_a_time_of_day(rig: Rig) -> None:
    for index, value in ((rtc.HOURS_ALARM, 0x14), (rtc.MINUTES_ALARM, 0x30), (rtc.SECONDS_ALARM, 0x05)):
        rig.o(index, value)
    rig.o(B, 0x22)
    wait = epoch(2024, 2, 29, 14, 30, 5) - NOON
    assert rig.time.advance((wait - 1) * S) == 0
    assert rig.line.level == 0
    assert rig.time.advance(S) == 1
    assert rig.line.level == 1
    assert rig.i(C) & 0xA0 == 0xA0
    rig.time.advance(86400 * S - 1)
    assert rig.line.level == 0
    rig.time.advance(1)
    assert rig.line.level == 1, "every day"


def test_alarm_wildcards(rig: Rig) -> None:
    rig.o(rtc.HOURS_ALARM, 0xC0)
    rig.o(rtc.MINUTES_ALARM, 0xFF)
    rig.o(rtc.SECONDS_ALARM, 0x30)
    rig.o(B, 0x22)
    at = []
    for _ in range(600):
        rig.time.advance(S)
        if rig.line.level:
            at.append(rig.i(rtc.SECONDS))
            rig.i(C)
    assert at == [0x30] * 10


def test_setting_the_clock_over_the_alarm_is_not_reaching_it(rig: Rig) -> None:
    for index, value in ((5, 0x14), (3, 0x30), (1, 0x00)):
        rig.o(index, value)
    rig.i(C)
    rig.o(rtc.HOURS, 0x15)
    assert rig.i(C) & 0x20 == 0


def test_alarm_in_12h_binary_means_afternoon(rig: Rig) -> None:
    rig.o(B, 0x04)
    for index, value in ((rtc.HOURS_ALARM, 0x80 | 2), (rtc.MINUTES_ALARM, 0), (rtc.SECONDS_ALARM, 0)):
        rig.o(index, value)
    rig.o(B, 0x24)
    rig.time.advance(2 * S)
    assert rig.line.level == 1


@pytest.mark.parametrize("value", [0x60, 0x5A, 0x99, 0xBF])
def test_an_impossible_alarm_never_comes_and_arms_nothing(rig: Rig, value: int) -> None:
    rig.o(rtc.SECONDS_ALARM, value)
    rig.o(rtc.MINUTES_ALARM, 0xFF)
    rig.o(rtc.HOURS_ALARM, 0xFF)
    rig.o(B, 0x22)
    assert rig.time.armed == 0
    rig.time.advance(86400 * S)
    assert rig.i(C) & 0x20 == 0


def test_flags_are_set_without_their_enables_and_raise_no_interrupt(rig: Rig) -> None:
    rig.i(C)
    for index in (rtc.HOURS_ALARM, rtc.MINUTES_ALARM, rtc.SECONDS_ALARM):
        rig.o(index, 0xFF)
    assert rig.i(C) == 0
    rig.time.advance(S)
    assert (rig.i(C), rig.i(C), rig.line.level) == (0x70, 0x00, 0)


def test_a_wall_clock_set_back_does_no_harm(rig: Rig) -> None:
    rig.o(B, 0x12)
    rig.i(C)
    rig.time.ahead -= 3600 * S
    assert rig.i(rtc.HOURS) == 0x12
    assert rig.i(C) == 0, "time that went backwards is no update"
    assert rig.time.advance(2 * S) <= 3
    assert rig.i(C) & 0x90 == 0x90, "at the latest one second after the host noticed"


# --- Linux -------------------------------------------------------------------------------------------------------------


def test_linux_rtc_cmos_probe_reads_sets_and_alarms(rig: Rig) -> None:
    # mc146818_does_rtc_work(): UIP must go away within a second
    assert any(not rig.i(A) & 0x80 for _ in range(2))
    # cmos_do_probe()
    assert rig.i(D) & 0x7F == 0
    rig.o(A, 0x26)
    control = rig.i(B) & ~0x70
    rig.o(B, control)
    rig.i(C)
    assert control & 0x02, "24 hours"
    assert not control & 0x04, "BCD"
    # mc146818_set_time(2030-07-04 05:06:07)
    rig.o(B, control | 0x80)
    freq = rig.i(A)
    rig.o(A, freq | 0x70)
    for index, value in ((9, 0x30), (8, 0x07), (7, 0x04), (4, 0x05), (2, 0x06), (0, 0x07), (0x32, 0x20)):
        rig.o(index, value)
    rig.o(B, control)
    rig.o(A, freq)
    assert [rig.i(index) for index in (0x32, 9, 8, 7, 4, 2, 0)] == [0x20, 0x30, 0x07, 0x04, 0x05, 0x06, 0x07]
    # cmos_set_alarm(+3 s)
    for index, value in ((5, 0x05), (3, 0x06), (1, 0x10)):
        rig.o(index, value)
    rig.o(B, rig.i(B) | 0x20)
    rig.i(C)
    rig.time.advance(2 * S)
    assert rig.line.level == 0
    rig.time.advance(S)
    assert rig.line.level == 1
    # cmos_interrupt()
    assert rig.i(C) & ((rig.i(B) & 0x70) | 0x80) == 0xA0
    rig.o(B, rig.i(B) & ~0x20)
    assert (rig.line.level, rig.time.armed) == (0, 0)


# --- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mib", "kib_above_1m", "above_16m", "above_4g"),
    [(1, 0, 0, 0), (64, 63 * 1024, 48 * 16, 0), (512, 0xFFFF, 496 * 16, 0), (5 * 1024, 0xFFFF, (3072 - 16) * 16, 2048 * 16)],
)
def test_memory_sizes(mib: int, kib_above_1m: int, above_16m: int, above_4g: int) -> None:
    rig = Rig(memory=mib << 20, cpus=3)

    def number(index: int, length: int) -> int:
        return sum(rig.i(index + at) << 8 * at for at in range(length))

    assert number(0x15, 2) == 640
    assert (number(0x17, 2), number(0x30, 2)) == (kib_above_1m, kib_above_1m)
    assert (number(0x34, 2), number(0x5B, 3)) == (above_16m, above_4g)
    assert rig.i(0x5F) == 2
    assert rig.i(0x2E) << 8 | rig.i(0x2F) == sum(rig.i(index) for index in range(0x10, 0x2E))


def test_nvram_keeps_what_is_written_over_a_reset(rig: Rig) -> None:
    for index in set(range(0x0E, 0x80)) - {0x32}:
        rig.o(index, index ^ 0x5A)
    rig.rtc.reset()
    assert all(rig.i(index) == index ^ 0x5A for index in set(range(0x0E, 0x80)) - {0x32})


def test_reset_ends_interrupts_but_not_time(rig: Rig) -> None:
    rig.o(rtc.YEAR, 0x40)
    rig.o(B, 0x72)
    rig.time.advance(S)
    assert rig.line.level == 1
    rig.rtc.reset()
    assert (rig.line.level, rig.time.armed, rig.i(B), rig.i(rtc.YEAR)) == (0, 0, 0x02, 0x40)


def test_restored_rearms_and_delivers_what_came_due() -> None:
    rig = Rig()
    for index, value in ((5, 0xFF), (3, 0xFF), (1, 0x30)):
        rig.o(index, value)
    rig.o(B, 0x22)
    other = Rig(wall=(NOON + 3600) * S)
    other.rtc.state = RtcState(**dict(rig.rtc.state))
    other.rtc.restored()
    assert other.line.level == 1
    again = Rig()
    again.rtc.state = RtcState(**dict(rig.rtc.state))
    again.rtc.restored()
    assert (again.line.level, again.time.armed) == (0, 1)


def test_index_is_write_only_and_masks_the_nmi_bit(rig: Rig) -> None:
    assert rig.rtc.read(0, 1) == 0xFF
    rig.rtc.write(0, 1, 0x80 | D)
    assert rig.rtc.read(1, 1) == 0x80


def test_an_alarm_with_its_interrupt_on_is_told_to_the_power_management(rig: Rig) -> None:
    """ACPI 6.5, 4.8.3.1.1: RTC_STS. Once for each alarm, whether or not the guest read register C."""
    for register in (rtc.SECONDS_ALARM, rtc.MINUTES_ALARM, rtc.HOURS_ALARM):
        rig.o(register, rtc.ANY)
    rig.time.advance(3 * S)
    assert rig.alarms == 0
    rig.i(C)
    rig.o(B, 0x22)
    rig.time.advance(S)
    assert (rig.alarms, rig.line.level) == (1, 1)
    rig.time.advance(3 * S)
    assert rig.alarms == 1
    rig.i(C)
    rig.time.advance(S)
    assert rig.alarms == 2
