"""Causes, mask, and the level of INTA (SDM 3.4.3, 13.4.17-13.4.21): high while ICR and IMS have a bit in common.

Causes are latched whether they are enabled or not: drivers poll ICR. ITR keeps a minimum distance between two rising
edges; what comes earlier waits for a timer, of which at most one is armed.

A cause that the driver lets come late (3.2.7.2: descriptors with IDE) waits in ``late`` for a timer, for the next interrupt, or until
ICR is read: an interrupt costs a driver five accesses, so that a card with nothing but such causes would be all interrupts.

The delays that drivers ask for are meant for a processor that serves an interrupt in a few microseconds. Where each access is an exit and
the processor itself perhaps emulated, a late cause would be there as soon as the one before is served. So the card also looks how long
that takes, from the line's rise until IMS is written, and lets a late cause wait for ``BREATH`` such times. A frame that was received waits
for none of this: who answers pings would be the slower for it.
"""

from __future__ import annotations

from pyvmm.devices.e1000.constants import CAUSES, ICR, IMS, ITR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.device import Clock, MakeTimer

ITR_UNIT = 256  # nanoseconds (13.4.18); 16 bits of them are 16.8 ms at most
MIN_GAP = 500 * ITR_UNIT  # with moderation on there are at most 7813 interrupts a second, whatever ITR says (13.4.18)
BREATH, LONGEST = 4, 16_000_000  # the second in nanoseconds, how much this adds up to at most: about what ITR could ask for


class Interrupts:
    """The interrupt half of the register file.

    Args:
        regs: the register file.
        set_line: drives INTA, 0 or 1.

    Attributes:
        level: what INTA is.
        last: when it rose last while there was a moderation, nanoseconds.
        service: how long the driver took for an interrupt last, nanoseconds.
        late: causes that have come and are not in ICR yet.
        held: a burst of frames is being received: the line rises behind it.
    """

    def __init__(self, regs: dict[int, int], set_line: Callable[[int], None], make_timer: MakeTimer, clock: Clock) -> None:
        self.regs = regs
        self.set_line = set_line
        self.clock = clock
        self.timer = make_timer(self._expired)
        self.late_timer = make_timer(self._late_expired)
        self.waiting = self.held = self.late_armed = False
        self.served = True  # the driver has enabled interrupts since ``last``
        self.level = 0
        self.last = self.service = 0
        self.late = 0

    def post(self, causes: int) -> None:
        """Something happened."""
        regs = self.regs
        regs[ICR] = pending = regs[ICR] | causes
        if not self.level and not self.held and pending & regs[IMS]:
            self.update()

    def post_late(self, causes: int, delay: int) -> None:
        """Something happened that the driver need not know for so many nanoseconds. It may know sooner."""
        if self.level:
            self.regs[ICR] |= causes
            return
        self.late |= causes
        if not self.late_armed:  # a timer that is set for what came before is left as it is
            self.late_armed = True
            self.late_timer.arm(self.clock() + max(delay, MIN_GAP, min(BREATH * self.service, LONGEST)))

    def hold(self, on: bool) -> None:
        """A burst of frames comes (True), or has come."""
        self.held = on
        if not on and not self.level:
            self.update()

    def update(self) -> None:
        """Brings the line to what ICR and IMS say, or sees to it that this happens as soon as ITR allows."""
        regs = self.regs
        if not regs[ICR] & regs[IMS]:
            if self.level:
                self.drive(0)
        elif not self.level:
            if regs[ITR]:
                gap = max(regs[ITR] * ITR_UNIT, MIN_GAP)
                if self.waiting:
                    return
                now = self.clock()
                if now < self.last + gap:
                    self.waiting = True
                    self.timer.arm(self.last + gap)
                    return
                self.last = now
                self.served = False
            regs[ICR] |= self.late
            self.late = 0
            self.drive(1)

    def drive(self, level: int) -> None:
        """Sets the line; tracers replace this."""
        self.level = level
        self.set_line(level)

    def _expired(self) -> None:
        self.waiting = False
        self.update()

    def _late_expired(self) -> None:
        self.late_armed = False
        causes, self.late = self.late, 0
        if causes:
            self.post(causes)

    # --- registers ---------------------------------------------------------------------------------------------------
    def read_icr(self) -> int:
        """Reading clears (13.4.17)."""
        regs = self.regs
        value = regs[ICR] | self.late
        regs[ICR] = self.late = 0
        if self.level:
            self.drive(0)
        return value

    def write_icr(self, value: int) -> None:
        """Writing 1 clears."""
        self.regs[ICR] &= ~value
        self.late &= ~value
        self.update()

    def write_ics(self, value: int) -> None:
        """Sets causes by hand (13.4.19)."""
        self.post(value & CAUSES)

    def write_ims(self, value: int) -> None:
        """Enables; a cause that came while it was masked interrupts now (13.4.20)."""
        regs = self.regs
        regs[IMS] |= value & CAUSES
        if not self.served:
            self.served = True
            self.service = self.clock() - self.last
        if regs[ICR] and not self.level:  # more bits in the mask never end an interrupt
            self.update()

    def write_imc(self, value: int) -> None:
        """Disables (13.4.21)."""
        self.regs[IMS] &= ~value
        if self.level:
            self.update()

    def write_itr(self, value: int) -> None:
        """A new distance holds from the last interrupt on."""
        self.regs[ITR] = value & 0xFFFF
        self.restored()

    def restored(self) -> None:
        """After a change of the registers from outside: timer and line anew."""
        self.timer.cancel()
        self.waiting = False
        self.update()

    def reset(self) -> None:
        """After the registers were reset: line low."""
        self.last = self.late = self.service = 0
        self.served = True
        self.late_timer.cancel()
        self.late_armed = False
        self.restored()
