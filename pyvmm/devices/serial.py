"""A 16550A UART: what the guest calls COM1. Sections and tables are those of the National PC16550D data sheet.

Three liberties, all of them unobservable to a driver that follows the data sheet:

* A transmitted character leaves at once, so THR and the shift register are always empty (LSR.THRE and TEMT always 1). The
  *interrupt* "THR empty" still comes once for every write, as an edge.
* A receive time-out comes at once instead of after four character times: a single keystroke must not wait.
* Host data that does not fit into the receive FIFO is refused, not lost; the host offers it again (``on_room``). An
  overrun can only be had in loopback.

MCR.OUT2 does not gate the interrupt as it does on a PC: teaching kernels (xv6) leave it low, and QEMU lets them.
"""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.irq import IrqLine

RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)  # register offsets; with LCR.DLAB 0 is DLL, 1 is DLM

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 1, 2, 4, 8
IIR_NONE, IIR_MSR, IIR_THRE, IIR_RDA, IIR_RLS, IIR_CTI = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RX = 0x01, 0x02
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT, LSR_FIFO_ERROR = 0x01, 0x02, 0x10, 0x20, 0x40, 0x80
LSR_EMPTY = LSR_THRE | LSR_TEMT
LSR_INTERRUPT = 0x1E  # OE, PE, FE, BI
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80

FIFO_SIZE = 16
_TRIGGERS = (1, 4, 8, 14)
_BREAK = LSR_BI << 8  # how a break stands in the receive FIFO: its LSR bits above the character
_BYTE = [bytes((value,)) for value in range(256)]


class SerialState(Record):
    """What a snapshot of a UART holds.

    Fields:
        ier, fcr, lcr, mcr, scr, divisor: as written; fcr without its self-clearing bits.
        lsr: as the next read returns it.
        msr: as the next read returns it: deltas in 3:0, lines in 7:4.
        lines: the modem inputs at the connector, as MSR bits 7:4 (loopback hides them).
        rx: receive FIFO, oldest first: character, and its LSR error bits above.
        thr_pending: a "THR empty" interrupt waits to be reported.
        thr_acked: since IER.THRI was switched on, the guest has taken one such interrupt by reading IIR.
    """

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scr: int = 0
    divisor: int = 12  # 9600 baud
    lsr: int = LSR_EMPTY
    msr: int = MSR_DCD | MSR_DSR | MSR_CTS
    lines: int = MSR_DCD | MSR_DSR | MSR_CTS
    rx: list[int] = []  # a Record copies it for each instance
    thr_pending: int = 0
    thr_acked: int = 0


class Serial:
    """A 16550A. Eight ports, eight bits wide: map it with width 1; a wider access reaches the addressed register alone.

    Args:
        name: e.g. "serial0".
        irq: its interrupt line.
        output: takes what the guest transmits.

    Attributes:
        on_room: called when ``receive`` had to refuse data and the guest has emptied the FIFO since.
        polled: IER.THRI, LOOP and DLAB are 0: a write to THR now has no effect but output, so it may be delayed and
            batched until the next access to another register.
    """

    registers = "pyvmm.devices.serial_regs:REGISTERS"

    def __init__(self, name: str, irq: IrqLine, output: Callable[[bytes], None]) -> None:
        self.name = name
        self.irq = irq
        self.output = output
        self.on_room: Callable[[], None] | None = None
        self.state = SerialState()
        self.polled = True
        self._trigger = 1  # how many characters in the FIFO make "received data available"
        self._refused = False
        self.restored()

    # --- the guest's side --------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        """Table II. The first two branches are the hot ones: polling LSR, receiving."""
        state = self.state
        if offset == LSR:
            return self._read_lsr() if state.lsr & (LSR_INTERRUPT | LSR_FIFO_ERROR) else state.lsr
        if offset == RBR_THR:
            return state.divisor & 0xFF if state.lcr & LCR_DLAB else self._read_rbr()
        if offset == IIR_FCR:
            return self._read_iir()
        if offset == IER:
            return state.divisor >> 8 if state.lcr & LCR_DLAB else state.ier
        if offset == LCR:
            return state.lcr
        if offset == MCR:
            return state.mcr
        if offset == MSR:
            return self._read_msr()
        return state.scr

    def write(self, offset: int, size: int, value: int) -> None:
        """Table II. The first branch is the hot one: a polling driver's console output."""
        if offset == RBR_THR:
            if self.polled:  # no "THR empty" to keep: switching THRI on makes it pending anyhow
                self.output(_BYTE[value & 0xFF])
            else:
                self.write_thr_batch(_BYTE[value & 0xFF])
            return
        value &= 0xFF
        state = self.state
        if offset == IER:
            if state.lcr & LCR_DLAB:
                state.divisor = value << 8 | state.divisor & 0xFF
            else:
                self._write_ier(value & 0x0F)
        elif offset == IIR_FCR:
            self._write_fcr(value)
        elif offset == LCR:
            # 8.1. Word length, parity and stop bits do nothing: the far end always agrees. Nor does a break: SOUT is a pipe.
            state.lcr = value
            self._mode_changed()
        elif offset == MCR:
            state.mcr = value & 0x1F
            self._mode_changed()
            self._update_modem()
            self._offer_room()  # the guest may have left loopback
        elif offset == SCR:
            state.scr = value
        # LSR and MSR: writing is for factory tests (8.4) and ignored here

    def write_thr_batch(self, data: bytes) -> None:
        """Takes several writes to offset 0 at once, in order, with the same result as one by one."""
        if not data:
            return
        if self.polled:
            self.output(data)
            return
        state = self.state
        if state.lcr & LCR_DLAB:
            state.divisor = state.divisor & 0xFF00 | data[-1]
            return
        if state.mcr & MCR_LOOP:
            for character in data:
                self._push(character)
        else:
            self.output(data)
        # A write withdraws the interrupt "THR empty", an empty THR raises it anew: the line drops and rises, which is
        # what an edge-triggered controller waits for. A guest that acknowledges by reading IIR needs the edge only for
        # the first character of a burst, so it is spared two trips into the kernel for each of the others.
        if state.thr_pending and state.ier & IER_THRI and not state.thr_acked:
            state.thr_pending = 0
            self._update_irq()
        state.thr_pending = 1
        self._update_irq()

    def reset(self) -> None:
        """Table I. The lines at the connector stay what they are."""
        lines = self.state.lines
        self.state = SerialState(lines=lines, msr=lines)
        self.restored()
        self._offer_room()

    # --- the host's side ---------------------------------------------------------------------------------------------
    @property
    def room(self) -> int:
        """How many characters ``receive`` takes now. None in loopback: the input pin is disconnected then."""
        state = self.state
        if state.mcr & MCR_LOOP:
            return 0
        return (FIFO_SIZE if state.fcr & FCR_ENABLE else 1) - len(state.rx)

    def receive(self, data: bytes) -> int:
        """Characters arrive at the input pin. Returns how many were taken; the caller keeps the rest for ``on_room``."""
        taken = data[: self.room]
        self._refused = len(taken) < len(data)
        if taken:
            self.state.rx += taken
            self._front_changed()
            self._update_irq()
        return len(taken)

    def receive_break(self) -> bool:
        """A break arrives (the serial console's SysRq key). False when there is no room for it now."""
        if not self.room:
            return False
        self._push(_BREAK)
        self._update_irq()
        return True

    def set_lines(self, lines: int) -> None:
        """Sets the modem inputs CTS, DSR, RI, DCD at the connector (MSR_*)."""
        self.state.lines = lines & 0xF0
        self._update_modem()

    def restored(self) -> None:
        """After the state was assigned from outside: recomputes what follows from it. Input that was refused may come now."""
        self._mode_changed()
        self._set_trigger()
        self._update_irq()
        self._offer_room()

    # --- registers with side effects ---------------------------------------------------------------------------------
    def _read_lsr(self) -> int:
        """8.4: reading clears the error bits, and those of the character at the front of the FIFO."""
        state = self.state
        value = state.lsr
        state.lsr &= ~LSR_INTERRUPT
        if state.rx:
            state.rx[0] &= 0xFF
        self._front_changed()
        self._update_irq()
        return value

    def _read_rbr(self) -> int:
        state = self.state
        rx = state.rx
        if not rx:
            return 0
        value = rx.pop(0) & 0xFF
        self._front_changed()
        if 0 < len(rx) < self._trigger and state.ier & IER_RDI:
            # 8.11: a read ends the interrupt, and what is left below the trigger level brings the time-out: an edge.
            saved, state.ier = state.ier, state.ier & ~IER_RDI
            self._update_irq()
            state.ier = saved
        self._update_irq()
        self._offer_room()
        return value

    def _read_iir(self) -> int:
        """8.6: reading it takes back "THR empty", when that is what it reports. No register hides behind LCR here: an
        EFR of zero would make Linux see a 16650."""
        state = self.state
        source = self._source()
        if source == IIR_THRE:
            state.thr_pending = 0
            state.thr_acked = 1
            self._update_irq()
        return source | IIR_FIFO if state.fcr & FCR_ENABLE else source

    def _read_msr(self) -> int:
        state = self.state
        value = state.msr
        if value & 0x0F:
            state.msr = value & 0xF0
            self._update_irq()
        return value

    def _write_ier(self, value: int) -> None:
        """8.7. Switching THRI on while THR is empty (it is) makes the interrupt pending, even when it was taken before:
        Linux tests this at every open and falls back to a timer when it fails (UART_BUG_THRE)."""
        state = self.state
        if value & IER_THRI & ~state.ier:
            state.thr_pending = 1
            state.thr_acked = 0
        state.ier = value
        self._mode_changed()
        self._update_irq()

    def _write_fcr(self, value: int) -> None:
        """8.5. Bits 5:4 are not there (a 16750 would report them in IIR); 7:6 need bit 0."""
        state = self.state
        enable = value & FCR_ENABLE
        if value & FCR_CLEAR_RX or enable != state.fcr & FCR_ENABLE:
            state.rx.clear()
            self._front_changed()
        state.fcr = value & 0xC9 if enable else 0
        self._set_trigger()
        self._update_irq()
        self._offer_room()

    # --- what follows from the state ---------------------------------------------------------------------------------
    def _source(self) -> int:
        """The interrupt to report, by priority (8.6, table IV), or IIR_NONE."""
        state = self.state
        ier = state.ier
        if ier & IER_RLSI and state.lsr & LSR_INTERRUPT:
            return IIR_RLS
        if ier & IER_RDI and state.rx:
            return IIR_RDA if len(state.rx) >= self._trigger else IIR_CTI
        if ier & IER_THRI and state.thr_pending:
            return IIR_THRE
        if ier & IER_MSI and state.msr & 0x0F:
            return IIR_MSR
        return IIR_NONE

    def _update_irq(self) -> None:
        self.irq.set(self._source() != IIR_NONE)

    def _mode_changed(self) -> None:
        state = self.state
        self.polled = not (state.ier & IER_THRI or state.mcr & MCR_LOOP or state.lcr & LCR_DLAB)

    def _set_trigger(self) -> None:
        fcr = self.state.fcr
        self._trigger = _TRIGGERS[fcr >> 6 & 3] if fcr & FCR_ENABLE else 1

    def _push(self, entry: int) -> None:
        """A character (with its error bits) comes in from the shift register, room or not (8.4, OE)."""
        state = self.state
        if state.fcr & FCR_ENABLE:
            if len(state.rx) < FIFO_SIZE:
                state.rx.append(entry)
            else:
                state.lsr |= LSR_OE  # the FIFO keeps what it has, the newcomer is lost
        else:
            if state.rx:
                state.lsr |= LSR_OE  # without FIFO the newcomer wins
            state.rx[:] = (entry,)
        self._front_changed()

    def _front_changed(self) -> None:
        """LSR follows the FIFO: data ready, errors of the character at its front, any error in it (8.4)."""
        state = self.state
        rx = state.rx
        lsr = state.lsr & ~(LSR_DR | LSR_FIFO_ERROR)
        if rx:
            lsr |= LSR_DR | rx[0] >> 8
            if state.fcr & FCR_ENABLE and max(rx) > 0xFF:
                lsr |= LSR_FIFO_ERROR
        state.lsr = lsr

    def _update_modem(self) -> None:
        """8.9, and 8.8 for loopback: the four outputs of MCR take the place of the inputs."""
        state = self.state
        mcr = state.mcr
        if mcr & MCR_LOOP:
            lines = (mcr & MCR_RTS) << 3 | (mcr & MCR_DTR) << 5 | (mcr & MCR_OUT1) << 4 | (mcr & MCR_OUT2) << 4
        else:
            lines = state.lines
        changed = (lines ^ state.msr) & 0xF0
        if changed:
            if lines & MSR_RI:
                changed &= ~MSR_RI  # TERI: the trailing edge only
            state.msr = lines | state.msr & 0x0F | changed >> 4
            self._update_irq()

    def _offer_room(self) -> None:
        """Asks for refused data once the FIFO is empty, not at every character taken from it."""
        if self._refused and self.on_room is not None and not self.state.rx and self.room:
            self._refused = False
            self.on_room()
