"""ACPI fixed hardware (ACPI 6.5, 4.8.3): PM1a event and control blocks, PM timer, and the power button.

    +0  PM1a status, 2 bytes, write 1 to clear        +4  PM1a control, 2 bytes
    +2  PM1a enable, 2 bytes                          +8  PM timer, 4 bytes, 24 bits of them used

The machine is in ACPI mode for good: the FADT names no SMI command port, so SCI_EN is stuck at 1. The timer counts
24 bits (FADT flag TMR_VAL_EXT clear).

Sleep type 1 is S3, as on QEMU's PC, though the DSDT announces only S5: the vCPUs stop until an enabled event wakes the
machine, and whoever runs it builds the next one on the same memory (``pyvmm.boot.resume``).
"""

from __future__ import annotations

from pyvmm.events import POWEROFF, StopReason
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.device import Clock, MakeTimer
    from pyvmm.events import RequestStop
    from pyvmm.irq import IrqLine

STATUS, ENABLE, CONTROL, TIMER = 0, 2, 4, 8
LENGTH = 12

TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK = 0x0001, 0x0010, 0x0020, 0x0100, 0x0200, 0x0400, 0x8000
EVENTS = TMR | GBL | PWRBTN | SLPBTN | RTC  # what can be enabled
SCI_EN, BM_RLD, GBL_RLS, SLP_EN = 0x0001, 0x0002, 0x0004, 0x2000
SLP_TYP_SHIFT, SLP_TYP = 10, 0x1C00
SLP_TYP_S5 = 0  # what \_S5 in the DSDT says
SLP_TYP_S3 = 1

TIMER_HZ = 3_579_545
TIMER_MASK = (1 << 24) - 1
_CARRY_BIT = 23  # TMR_STS is set whenever the highest bit of the timer changes
_NS = 1_000_000_000


class AcpiPmState(Record):
    """What a snapshot of the PM block holds.

    Fields:
        status, enable, control: the registers.
        half_periods: how often bit 23 of the timer had changed when the status was last brought up to date.
        asleep: in S3.
    """

    status: int = 0
    enable: int = 0
    control: int = SCI_EN
    half_periods: int = 0
    asleep: bool = False


class AcpiPm:
    """The PM block: map it with length ``LENGTH`` and width 4.

    Args:
        sci: the system control interrupt, level-triggered.
        request_stop: for power-off.
        clock: drives the PM timer; it must go on, not start over, across a snapshot.
        make_timer: for the timer-carry event, armed only while the guest has enabled it.
        suspend, wake: S3 begins, and ends; None for a machine without S3.
    """

    registers = "pyvmm.devices.acpi_pm_regs:REGISTERS"

    def __init__(
        self,
        sci: IrqLine,
        request_stop: RequestStop,
        clock: Clock,
        make_timer: MakeTimer,
        suspend: Callable[[], None] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.name = "acpi-pm"
        self.sci = sci
        self.request_stop = request_stop
        self.clock = clock
        self.timer = make_timer(self._update)
        self.suspend = suspend
        self.wake = wake
        self.state = AcpiPmState()
        self.restored()

    def read(self, offset: int, size: int) -> int:
        if offset == TIMER:
            return (self.clock() * TIMER_HZ // _NS & TIMER_MASK) & (1 << 8 * size) - 1
        self._carry()
        state = self.state
        image = state.status | state.enable << 16 | state.control << 32
        if offset + size > TIMER:
            image |= (self.clock() * TIMER_HZ // _NS & TIMER_MASK) << 8 * TIMER
        return image >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self._carry()
        written = ((1 << 8 * size) - 1) << 8 * offset  # which bits of the block, as one number, this write reaches
        data = value << 8 * offset & written
        state = self.state
        state.status &= ~data & 0xFFFF
        enabled = written >> 8 * ENABLE & 0xFFFF
        state.enable = (state.enable & ~enabled | data >> 8 * ENABLE & enabled) & EVENTS
        controlled = written >> 8 * CONTROL & 0xFFFF
        if controlled:
            self._control(state.control & ~controlled | data >> 8 * CONTROL & controlled)
        self._update()

    def press_power_button(self) -> None:
        """The user asks the guest to shut down."""
        self.state.status |= PWRBTN
        self._update()

    def rtc_alarm(self) -> None:
        """The clock's alarm has come."""
        self.state.status |= RTC
        self._update()

    def woken(self, status: int) -> None:
        """The machine comes out of S3, where it had this status: WAK_STS says so (4.8.3.1.1)."""
        self.state.status = status & EVENTS | WAK

    def reset(self) -> None:
        self.state = AcpiPmState()
        self.restored()

    def restored(self) -> None:
        """After the state was assigned from outside: drives the line and the timer anew. A carry is not made up for."""
        self.state.half_periods = self._half_periods()
        self._update()

    def _control(self, value: int) -> None:
        """4.8.3.2.1. GBL_RLS and SLP_EN read as 0."""
        self.state.control = value & (SLP_TYP | BM_RLD) | SCI_EN
        if value & SLP_EN:
            sleep_type = (value & SLP_TYP) >> SLP_TYP_SHIFT
            if sleep_type == SLP_TYP_S5:
                self.request_stop(StopReason(kind=POWEROFF, detail="ACPI S5"))
            elif sleep_type == SLP_TYP_S3 and self.suspend is not None:
                self.state.asleep = True
                self.suspend()  # the caller's update wakes it when an enabled event is there already
            else:
                self.state.status |= WAK  # no such sleep state: awake again at once

    def _half_periods(self) -> int:
        return (self.clock() * TIMER_HZ // _NS) >> _CARRY_BIT

    def _carry(self) -> None:
        """TMR_STS is worked out when somebody looks; a timer is needed only to interrupt somebody who does not."""
        state = self.state
        half_periods = self._half_periods()
        if half_periods != state.half_periods:
            state.half_periods = half_periods
            state.status |= TMR

    def _update(self) -> None:
        self._carry()
        state = self.state
        self.sci.set(state.status & state.enable != 0)
        if state.asleep and state.status & state.enable and self.wake is not None:
            state.asleep = False
            self.wake()
        if state.enable & TMR and not state.status & TMR:
            ticks = (state.half_periods + 1) << _CARRY_BIT
            self.timer.arm(-(-ticks * _NS // TIMER_HZ))
        else:
            self.timer.cancel()
