"""The PC's clock and CMOS memory (Motorola MC146818A behind ports 0x70 and 0x71).

Nothing ticks here: the time registers and the flags of register C are worked out when somebody looks. A host timer runs
only while the guest has enabled an interrupt that is not pending already, so an idle guest costs nothing, and a guest
that does not acknowledge is not hurried.
"""

from __future__ import annotations

from time import gmtime

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.device import Clock, MakeTimer
    from pyvmm.irq import IrqLine

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(6, 14)
CENTURY = 0x32  # FADT.CENTURY
TIME_REGISTERS = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)

A_UIP, A_DIVIDER_RESET, A_RATE = 0x80, 0x60, 0x0F
B_SET, B_PIE, B_AIE, B_UIE, B_SQWE, B_BINARY, B_24H = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
C_FLAGS = C_PF | C_AF | C_UF  # the same bits as their enables in B
D_VRT = 0x80
ANY = 0xC0  # an alarm register of at least this matches always
PM = 0x80

UIP_NS = 244_000  # how long UIP announces an update (t_BUC)
_NS = 1_000_000_000
_DAY = 86_400


class RtcState(Record):
    """What a snapshot of the clock holds.

    Fields:
        index: the register selected through port 0x70.
        ram: all 128 bytes. The time registers in it count only while the clock is stopped (``Rtc.stopped``).
        flags: PF, AF, UF of register C.
        offset: the guest's clock minus the wall clock, nanoseconds.
        seen: the guest's time up to which ``flags`` are worked out.
    """

    index: int = 0
    ram: bytearray = bytearray(128)
    flags: int = 0
    offset: int = 0
    seen: int = 0


class Rtc:
    """An MC146818A. Two ports, eight bits wide: map it at 0x70 with length 2 and width 1.

    Args:
        irq: IRQ 8. High until register C is read.
        wall_clock: nanoseconds since 1970, UTC; the guest's clock starts with it.
        clock, make_timer: for interrupts.
        alarm: told when the alarm comes while its interrupt is enabled: it can wake the machine.
        memory: bytes of RAM, as firmware would leave them here.
        cpus: number of processors, likewise.
    """

    registers = "pyvmm.devices.rtc_regs:REGISTERS"

    def __init__(
        self,
        irq: IrqLine,
        wall_clock: Callable[[], int],
        clock: Clock,
        make_timer: MakeTimer,
        memory: int = 0,
        cpus: int = 1,
        alarm: Callable[[], None] | None = None,
    ) -> None:
        self.name = "rtc"
        self.irq = irq
        self.wall_clock = wall_clock
        self.clock = clock
        self.timer = make_timer(self._update)
        self.alarm = alarm
        self.state = RtcState(ram=_firmware_settings(memory, cpus), seen=wall_clock())

    # --- the guest's side --------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if offset == 0:
            return 0xFF  # the index is write-only
        state = self.state
        index = state.index
        if index in TIME_REGISTERS:
            return state.ram[index] if self.stopped else self._time_registers()[index]
        if index == A:
            return state.ram[A] | self._update_in_progress()
        if index == C:
            return self._read_c()
        return state.ram[index]

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        state = self.state
        if offset == 0:
            state.index = value & 0x7F  # bit 7 masks NMIs, of which there are none
            return
        index = state.index
        if index in TIME_REGISTERS:
            self._write_time(index, value)
        elif index in (A, B):
            self._write_control(index, value)
        elif index not in (C, D):
            self._catch_up()  # whatever was due by the old alarm setting
            state.ram[index] = value
            if index <= HOURS_ALARM:
                self._update()

    def reset(self) -> None:
        """The RESET pin: interrupts off. Time, settings and memory are on the battery."""
        state = self.state
        state.index = 0
        state.ram[B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE)
        self._catch_up()
        state.flags = 0
        self._update()

    def restored(self) -> None:
        """After the state was assigned from outside: line and timer follow. What has come due by its clock comes now."""
        self._update()

    @property
    def stopped(self) -> bool:
        """Whether the time registers stand still and may be set: SET in B, or the divider held in reset by A."""
        ram = self.state.ram
        return bool(ram[B] & B_SET) or ram[A] & A_DIVIDER_RESET == A_DIVIDER_RESET

    # --- time --------------------------------------------------------------------------------------------------------
    def _now(self) -> int:
        return self.wall_clock() + self.state.offset

    def _time_registers(self) -> dict[int, int]:
        """Time as the registers show it, in the format B asks for."""
        moment = gmtime(self._now() // _NS)
        encode = self._encode
        return {
            SECONDS: encode(moment.tm_sec),
            MINUTES: encode(moment.tm_min),
            HOURS: self._encode_hour(moment.tm_hour),
            WEEKDAY: (moment.tm_wday + 1) % 7 + 1,  # 1 is Sunday
            DAY: encode(moment.tm_mday),
            MONTH: encode(moment.tm_mon),
            YEAR: encode(moment.tm_year % 100),
            CENTURY: encode(moment.tm_year // 100 % 100),
        }

    def _write_time(self, index: int, value: int) -> None:
        ram = self.state.ram
        if self.stopped:
            ram[index] = value
        else:
            self._latch_time()
            ram[index] = value
            self._set_time(self._now() % _NS)

    def _latch_time(self) -> None:
        ram = self.state.ram
        for index, value in self._time_registers().items():
            ram[index] = value

    def _set_time(self, fraction: int) -> None:
        """The clock goes on from what the registers hold, whatever nonsense that is: a 45th of the month rolls over.

        Args:
            fraction: nanoseconds into the second.
        """
        ram = self.state.ram
        decode = self._decode
        hour = ram[HOURS]
        hour = decode(hour) if ram[B] & B_24H else decode(hour & ~PM) % 12 + (12 if hour & PM else 0)
        year = decode(ram[CENTURY]) * 100 + decode(ram[YEAR])
        days = _days_since_1970(year, min(max(decode(ram[MONTH]), 1), 12)) + decode(ram[DAY]) - 1
        seconds = days * _DAY + hour * 3600 + decode(ram[MINUTES]) * 60 + decode(ram[SECONDS])
        now = seconds * _NS + fraction
        state = self.state
        state.offset = now - self.wall_clock()
        state.seen = now  # setting the clock passes over no alarm
        self._update()

    def _encode(self, value: int) -> int:
        return value if self.state.ram[B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.state.ram[B] & B_BINARY else (value >> 4) * 10 + (value & 0x0F)

    def _encode_hour(self, hour: int) -> int:
        if self.state.ram[B] & B_24H:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _update_in_progress(self) -> int:
        """UIP rises 244 us before the registers change, and the change itself takes no time here."""
        return A_UIP if not self.stopped and self._now() % _NS >= _NS - UIP_NS else 0

    # --- control -----------------------------------------------------------------------------------------------------
    def _write_control(self, index: int, value: int) -> None:
        state = self.state
        ram = state.ram
        self._catch_up()
        was_stopped = self.stopped
        was_in_reset = ram[A] & A_DIVIDER_RESET == A_DIVIDER_RESET
        before = self._time_registers() if not was_stopped else {}
        if index == A:
            ram[A] = value & ~A_UIP
        else:
            ram[B] = value & ~B_UIE if value & B_SET else value  # SET clears UIE
        if self.stopped and not was_stopped:
            for register, latched in before.items():
                ram[register] = latched
        elif was_stopped and not self.stopped:
            # The first update comes half a second after the divider leaves reset; SET alone does not touch the divider.
            self._set_time(_NS // 2 if was_in_reset else self._now() % _NS)
        self._update()

    # --- interrupts --------------------------------------------------------------------------------------------------
    def _read_c(self) -> int:
        """Reading takes all flags back and lowers the line."""
        self._catch_up()
        state = self.state
        value = state.flags
        if value & state.ram[B] & C_FLAGS:
            value |= C_IRQF
        state.flags = 0
        self.irq.set(False)  # now, even if the next interrupt is due by the time ``_update`` looks: the PIC waits for an edge
        self._update()
        return value

    def _catch_up(self) -> int:
        """Sets the flags for everything that has come due since the last time. Returns the guest's time."""
        state = self.state
        now = self._now()
        seen, state.seen = state.seen, now
        if now <= seen:
            return now  # the host's clock was set back
        scale = self._period()
        if scale and now * 32768 // scale != seen * 32768 // scale:
            state.flags |= C_PF
        second = seen // _NS
        if now // _NS != second and not self.stopped:
            state.flags |= C_UF
            if not state.flags & C_AF:
                alarm = self._next_alarm(second)
                if alarm is not None and alarm <= now // _NS:
                    state.flags |= C_AF
                    if state.ram[B] & B_AIE and self.alarm is not None:
                        self.alarm()
        return now

    def _period(self) -> int:
        """Period of the periodic interrupt, times 32768, in nanoseconds; 0 when it is off."""
        control = self.state.ram[A]
        rate = control & A_RATE
        if not rate or control & A_DIVIDER_RESET == A_DIVIDER_RESET:
            return 0
        return _NS << (rate + 6 if rate < 3 else rate - 1)

    def _next_alarm(self, second: int) -> int | None:
        """The first second after ``second`` at which all three alarm registers match, or None when they never do."""
        ram = self.state.ram
        sixty = range(60)
        seconds = [at for at in sixty if ram[SECONDS_ALARM] >= ANY or self._encode(at) == ram[SECONDS_ALARM]]
        minutes = [at for at in sixty if ram[MINUTES_ALARM] >= ANY or self._encode(at) == ram[MINUTES_ALARM]]
        hours = [at for at in range(24) if ram[HOURS_ALARM] >= ANY or self._encode_hour(at) == ram[HOURS_ALARM]]
        first = second + 1
        start = first - first % 3600  # of the hour
        for hour_start in range(start, start + 25 * 3600, 3600):
            if hour_start % _DAY // 3600 in hours:
                for minute in minutes:
                    for at in seconds:
                        if hour_start + minute * 60 + at >= first:
                            return hour_start + minute * 60 + at
        return None

    def _update(self) -> None:
        """Line and timer follow flags and enables."""
        now = self._catch_up()
        state = self.state
        control = state.ram[B]
        pending = state.flags & control & C_FLAGS
        self.irq.set(pending != 0)
        due: list[int] = []
        if not pending:
            scale = self._period()
            if control & B_PIE and scale:
                due.append(-(-(now * 32768 // scale + 1) * scale // 32768))
            if not self.stopped:
                if control & B_UIE:
                    due.append((now // _NS + 1) * _NS)
                if control & B_AIE:
                    alarm = self._next_alarm(now // _NS)
                    due += [] if alarm is None else [alarm * _NS]
        if due:
            self.timer.arm(self.clock() + min(due) - now)
        else:
            self.timer.cancel()


def _days_since_1970(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month of the Gregorian calendar, for any year."""
    year -= month < 3  # years that begin in March have their leap day at the end
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 - 719_468


def _firmware_settings(memory: int, cpus: int) -> bytearray:
    """The 128 bytes as a PC's firmware leaves them: clock running in BCD and 24 hours, memory sizes, check sum."""
    ram = bytearray(128)
    ram[A] = 0x26  # 32 kHz, periodic rate 1024 Hz
    ram[B] = B_24H
    ram[D] = D_VRT  # the rest 0: Linux takes bit 6 for a chip that does not answer
    ram[0x14] = 0x02  # equipment: a coprocessor, no floppy, no mouse
    kib = memory >> 10
    low = min(memory, 0xC000_0000)

    def put(index: int, value: int, length: int = 2) -> None:
        ram[index : index + length] = min(max(value, 0), (1 << 8 * length) - 1).to_bytes(length, "little")

    put(0x15, 640)
    put(0x17, kib - 1024)
    put(0x30, kib - 1024)
    put(0x34, (low >> 16) - 256)
    put(0x5B, memory - low >> 16, 3)
    put(0x5F, cpus - 1, 1)
    ram[0x2E:0x30] = sum(ram[0x10:0x2E]).to_bytes(2, "big")
    return ram
