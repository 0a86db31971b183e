"""From the transmit ring to the wire (SDM 3.3): legacy, context and data descriptors.

Work per doorbell is bounded: what a guest has queued beyond ``TURN`` goes on from a timer, so that others get the machine
lock in between. A frame being gathered never holds more than ``MAX_GATHER`` bytes; a longer one is dropped whole.
"""

from __future__ import annotations

from pyvmm.devices.e1000 import offload
from pyvmm.devices.e1000.constants import (
    CTRL,
    CTRL_VME,
    FCS,
    JUMBO_LIMIT,
    TADV,
    TCTL,
    TCTL_EN,
    TCTL_PSP,
    TDBAH,
    TDBAL,
    TDH,
    TDLEN,
    TDT,
    TIDV,
    TXDW,
    TXQE,
    VET,
)
from pyvmm.devices.e1000.stats import TSCTC, TSCTFC
from pyvmm.errors import GuestFault
from pyvmm.net.frames import MIN_FRAME, put_checksum
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.device import Clock, MakeTimer
    from pyvmm.devices.e1000.interrupts import Interrupts
    from pyvmm.devices.e1000.stats import Stats
    from pyvmm.memory import GuestMemory

# Descriptor, second quadword. Common to all kinds (3.3.3-3.3.7):
EOP, IFCS, IC, TSE, RS, DEXT, VLE, IDE, DD = 1 << 24, 1 << 25, 1 << 26, 1 << 26, 1 << 27, 1 << 29, 1 << 30, 1 << 31, 1 << 32
_KIND, _CONTEXT, _DATA = DEXT | 0xF << 20, DEXT, DEXT | 1 << 20  # with DEXT, DTYP in bits 23:20
_CONTEXT_KEY_SHIFT = 20  # PAYLEN below it changes from frame to frame and says nothing new

MAX_GATHER = 0x1_0000 + 256  # 64 KiB and its headers
TURN = 512  # units of work before the lock is given back: descriptors, frames, 2 KiB of data
_UNIT_SHIFT = 11
_DELAY_UNIT = 1024  # nanoseconds (13.4.41, 13.4.44)


class TransmitState(Record):
    """What a snapshot holds of the transmit unit.

    Fields:
        frame: bytes gathered so far of a frame whose last descriptor has not come.
        started: its first descriptor has.
        spoiled: it is too long or partly outside RAM: it will be dropped.
        options, tso: POPTS and TSE of its first data descriptor.
        plain, segmented: the last context descriptors without and with TSE, two quadwords each.
    """

    frame: bytearray = bytearray()
    started: bool = False
    spoiled: bool = False
    options: int = 0
    tso: bool = False
    plain: list[int] = [0, 0]
    segmented: list[int] = [0, 0]


class Transmitter:
    """The transmit unit.

    Args:
        interrupts: takes causes.
        emit: takes a finished frame and the offload header for it, or None.
        flush: called when there are no more frames for now.
        hand_over: the wire takes offload headers.

    Attributes:
        ring: descriptors as quadwords, None while the transmitter is off or has none in RAM.
    """

    def __init__(
        self,
        regs: dict[int, int],
        memory: GuestMemory,
        stats: Stats,
        interrupts: Interrupts,
        emit: Callable[[bytearray, bytes | None], None],
        flush: Callable[[], None],
        hand_over: bool,
        make_timer: MakeTimer,
        clock: Clock,
    ) -> None:
        self.regs = regs
        self.memory = memory
        self.stats = stats
        self.interrupts = interrupts
        self.emit = emit
        self.flush = flush
        self.hand_over = hand_over
        self.clock = clock
        self.timer = make_timer(self.run)
        self.state = TransmitState()
        self.ring: memoryview | None = None
        self.work = 0
        self._contexts = [(0, 0, offload.Context(0, 0))] * 2  # without and with TSE, behind the key it was decoded from

    def configure(self, dma: bool) -> None:
        """After a write to TCTL or the ring's place, or a change of the command register."""
        regs = self.regs
        self.ring = None
        if dma and regs[TCTL] & TCTL_EN and regs[TDLEN]:
            try:
                self.ring = self.memory.view(regs[TDBAL] | regs[TDBAH] << 32, regs[TDLEN]).cast("Q")
            except GuestFault:
                return  # no ring in RAM: nothing is sent
            self.run()

    def write_tail(self, value: int) -> None:
        """TDT: the doorbell."""
        self.regs[TDT] = value & 0xFFFF
        if self.ring is not None:
            self.run()

    def reset(self) -> None:
        """After the registers were reset."""
        self.timer.cancel()
        self.ring = None
        self.state = TransmitState()

    # --- ring --------------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Sends what is between head and tail, at most a turn's worth now."""
        ring, regs = self.ring, self.regs
        if ring is None:
            return
        head, tail, count = regs[TDH], regs[TDT], len(ring) >> 1
        if head == tail or head >= count or tail >= count:
            return
        self.work = TURN
        causes, late, step = 0, 0, self.step
        while head != tail:
            at = head + head
            high = ring[at + 1]
            step(head, ring[at], high)
            if high & RS:
                ring[at + 1] = high | DD
                if high & IDE:
                    late = TXDW
                else:
                    causes = TXDW
            head += 1
            if head == count:
                head = 0
            self.work = work = self.work - 1
            if work <= 0:
                break
        regs[TDH] = head
        if head == tail:
            causes |= TXQE
        else:
            self.timer.arm(self.clock())
        self.flush()  # what comes back at once is in the same interrupt
        if late:
            delay = self._delay()
            if delay:
                self.interrupts.post_late(late, delay)
            else:
                causes |= late
        if causes:
            self.interrupts.post(causes)

    def _delay(self) -> int:
        """How long TXDW may wait for descriptors with IDE (3.2.7.2), nanoseconds."""
        relative, absolute = self.regs[TIDV], self.regs[TADV]
        return _DELAY_UNIT * (min(relative, absolute) if relative and absolute else relative)

    def step(self, index: int, low: int, high: int) -> None:
        """One descriptor; tracers replace this."""
        state = self.state
        kind = high & _KIND
        if kind == _DATA:
            length = high & 0xF_FFFF
            if not state.started:
                state.started, state.options, state.tso = True, high >> 40 & 0xFF, bool(high & TSE)
        elif kind == _CONTEXT:
            if high & TSE:
                state.segmented = [low, high]
            else:
                state.plain = [low, high]
            return
        elif high & DEXT:  # a kind there is not
            return
        else:
            length = high & 0xFFFF
            if not state.started:
                state.started, state.options, state.tso = True, 0, False
        frame = state.frame
        if low and length:
            if len(frame) + length <= MAX_GATHER:
                try:
                    frame += self.memory.view(low, length)
                except GuestFault:
                    state.spoiled = True
            else:
                state.spoiled = True
        if high & EOP:
            spoiled, state.started, state.spoiled, state.frame = state.spoiled, False, False, bytearray()
            if frame and not spoiled:
                self.work -= len(frame) >> _UNIT_SHIFT
                self.finish(frame, high)

    # --- frames ------------------------------------------------------------------------------------------------------
    def finish(self, frame: bytearray, high: int) -> None:
        """A gathered frame; ``high`` is of its last descriptor."""
        regs, state = self.regs, self.state
        tag = b""
        if high & VLE and regs[CTRL] & CTRL_VME:
            tag = (regs[VET] << 16 | high >> 48).to_bytes(4, "big")
        if not high & IFCS and not state.tso:  # the driver has put an FCS behind it
            del frame[-FCS:]
        if state.options or state.tso:
            self._offloaded(frame, tag)
            return
        if high & IC and not high & DEXT:
            start, field = high >> 40 & 0xFF, high >> 16 & 0xFF
            if start < len(frame) and field < len(frame) - 1:
                put_checksum(frame, start, field)
        if len(frame) <= JUMBO_LIMIT:
            self.send(frame, tag)

    def _offloaded(self, frame: bytearray, tag: bytes) -> None:
        """A frame of data descriptors with work to do."""
        state = self.state
        options, tso = state.options, state.tso
        low, high = state.segmented if tso else state.plain
        known = self._contexts[tso]
        if known[0] != low or known[1] != high >> _CONTEXT_KEY_SHIFT:
            known = self._contexts[tso] = low, high >> _CONTEXT_KEY_SHIFT, offload.Context(low, high)
        context = known[2]
        header = None
        if self.hand_over and (tso or len(frame) <= JUMBO_LIMIT):
            header = offload.hand_over(frame, options, context, tso, len(tag))
        counts = self.stats.counts
        if header is not None:
            if tso:
                counts[TSCTC] += 1
            self.send(frame, tag, header)
        elif tso:
            pieces = offload.segments(frame, options, context)
            counts[TSCTC if pieces else TSCTFC] += 1
            self.work -= len(pieces)
            for piece in pieces:
                self.send(piece, tag)
        elif len(frame) <= JUMBO_LIMIT:
            offload.insert_checksums(frame, options, context)
            self.send(frame, tag)

    def send(self, frame: bytearray, tag: bytes, header: bytes | None = None) -> None:
        """A finished frame goes out; tracers replace this."""
        if tag:
            frame[12:12] = tag
        size = len(frame)
        if size < MIN_FRAME and self.regs[TCTL] & TCTL_PSP:
            frame += bytes(MIN_FRAME - size)
            size = MIN_FRAME
        self.stats.sent(frame, size)
        self.emit(frame, header)
