"""The register file: which handler an offset has, and what a reset does.

Three dicts from offset to what answers: ``_reads`` and ``_writes`` hold bound handlers, ``regs`` the values of registers
that just remember, under the masks of ``constants.PLAIN``. What is in none of them reads 0 and takes no writes. Registers
are dwords (SDM 13.2.1): a narrower read gives its part of the dword, side effects included; a narrower write is ignored.
"""

from __future__ import annotations

from pyvmm.devices.e1000.constants import (
    ADDRESSES,
    CTRL,
    CTRL_DUP,
    CTRL_EXT,
    CTRL_EXT_EE_RST,
    CTRL_FD,
    CTRL_FRCDPX,
    CTRL_FRCSPD,
    CTRL_PHY_RST,
    CTRL_RST,
    CTRL_SPEED_SHIFT,
    EECD,
    EERD,
    FCAH,
    FCAL,
    FCT,
    ICR,
    ICS,
    IMC,
    IMS,
    ITR,
    LSC,
    MDAC,
    MDIC,
    PBA,
    PLAIN,
    RA,
    RAH_VALID,
    RCTL,
    RDBAH,
    RDBAL,
    RDH,
    RDLEN,
    RDT,
    STATUS,
    STATUS_ASDV_SHIFT,
    STATUS_FD,
    STATUS_LU,
    STATUS_SPEED_SHIFT,
    TCTL,
    TDBAH,
    TDBAL,
    TDLEN,
    TDT,
    TIDV,
    TIDV_FPD,
    VET,
)
from pyvmm.devices.e1000.eeprom import Eeprom
from pyvmm.devices.e1000.filters import Filter
from pyvmm.devices.e1000.interrupts import Interrupts
from pyvmm.devices.e1000.phy import INTERRUPT, Phy
from pyvmm.devices.e1000.receive import Receiver
from pyvmm.devices.e1000.stats import Stats
from pyvmm.devices.e1000.transmit import Transmitter
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.device import Clock, MakeTimer
    from pyvmm.devices.e1000.eeprom import EepromState
    from pyvmm.devices.e1000.phy import PhyState
    from pyvmm.devices.e1000.transmit import TransmitState
    from pyvmm.memory import GuestMemory

_MASKS = {offset: mask for offset, (_, mask) in PLAIN.items() if mask}  # the others are read-only
_PACKET_BUFFER = 64  # KiB for both directions (13.4.16)


class MacState(Record):
    """What a snapshot holds of the controller.

    Fields:
        regs: values by offset.
        counts: statistics by offset.
        eeprom, phy, transmit: of these parts.
        raised: when the interrupt line rose last, for ITR.
        dma: the PCI function may access memory.
        level: of the interrupt line.
        late: causes that wait for their delay.
    """

    regs: dict[int, int]
    counts: dict[int, int]
    eeprom: EepromState
    phy: PhyState
    transmit: TransmitState
    raised: int = 0
    dma: bool = False
    level: int = 0
    late: int = 0


class Mac:
    """The controller behind BAR 0.

    Args:
        name: of the card.
        words: contents of its EEPROM.
        set_line: drives INTA, 0 or 1.
        send: takes a frame for the wire and its offload header or None; flush: that was all for now.
        hand_over: ``send`` takes offload headers.
    """

    registers = "pyvmm.devices.e1000.regs:REGISTERS"

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        words: list[int],
        set_line: Callable[[int], None],
        send: Callable[[bytearray, bytes | None], None],
        flush: Callable[[], None],
        make_timer: MakeTimer,
        clock: Clock,
        hand_over: bool = False,
    ) -> None:
        self.name = name
        self.regs = regs = {offset: reset for offset, (reset, _) in PLAIN.items()}
        regs[ICR] = 0
        self.wire = send
        self.dma = False
        self.eeprom = Eeprom(words)
        self.interrupts = Interrupts(regs, set_line, make_timer, clock)
        self.stats = Stats()
        self.filters = Filter(regs)
        self.receiver = Receiver(regs, memory, self.filters, self.stats, self.interrupts.post)
        self.transmitter = Transmitter(regs, memory, self.stats, self.interrupts, self._emit, flush, hand_over, make_timer, clock)
        self.phy = Phy(self._phy_changed)
        self._reads = self._read_handlers()
        self._writes = self._write_handlers()
        self.reset()

    def _read_handlers(self) -> dict[int, Callable[[], int]]:
        stats = self.stats

        def counter(offset: int) -> Callable[[], int]:
            return lambda: stats.read(offset)

        handlers = {offset: counter(offset) for offset in stats.offsets()}
        handlers[EECD] = self.eeprom.read_eecd
        handlers[ICR] = self.interrupts.read_icr
        handlers[CTRL_DUP] = lambda: self.regs[CTRL]
        return handlers

    def _write_handlers(self) -> dict[int, Callable[[int], None]]:
        def then(offset: int, mask: int, follow: Callable[[], None]) -> Callable[[int], None]:
            regs = self.regs

            def write(value: int) -> None:
                regs[offset] = value & mask
                follow()

            return write

        handlers: dict[int, Callable[[int], None]] = {
            CTRL: self._write_ctrl,
            CTRL_DUP: self._write_ctrl,
            EECD: self.eeprom.write_eecd,
            EERD: self._write_eerd,
            CTRL_EXT: self._write_ctrl_ext,
            MDIC: self._write_mdic,
            PBA: self._write_pba,
            ICR: self.interrupts.write_icr,
            ITR: self.interrupts.write_itr,
            ICS: self.interrupts.write_ics,
            IMS: self.interrupts.write_ims,
            IMC: self.interrupts.write_imc,
            RDT: self.receiver.write_tail,
            TDT: self.transmitter.write_tail,
            TIDV: self._write_tidv,
        }
        for offset in (FCAL, FCAH, FCT, VET, *range(RA, RA + 8 * ADDRESSES, 4)):
            handlers[offset] = then(offset, PLAIN[offset][1], self.filters.configure)
        for offset in (RDBAL, RDBAH, RDLEN):
            handlers[offset] = then(offset, PLAIN[offset][1], self.configure_receiver)
        for offset in (TCTL, TDBAL, TDBAH, TDLEN):
            handlers[offset] = then(offset, PLAIN[offset][1], self.configure_transmitter)
        handlers[RCTL] = then(RCTL, PLAIN[RCTL][1], self._rctl_written)
        handlers[RDH] = then(RDH, PLAIN[RDH][1], self.receiver.retry)
        return handlers

    # --- access ------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if size == 4:
            handler = self._reads.get(offset)
            return handler() if handler is not None else self.regs.get(offset, 0)
        at = offset & 3
        if size > 4 or at + size > 4:
            return 0
        return self.read(offset - at, 4) >> 8 * at & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 4:
            return
        handler = self._writes.get(offset)
        if handler is not None:
            handler(value)
        else:
            mask = _MASKS.get(offset)
            if mask is not None:
                self.regs[offset] = value & mask

    # --- registers with consequences ---------------------------------------------------------------------------------
    def _write_ctrl(self, value: int) -> None:
        """13.4.1. RST and PHY_RST clear themselves."""
        if value & CTRL_PHY_RST:
            self.phy.reset()
        if value & CTRL_RST:
            self.reset_mac()
            return
        self.regs[CTRL] = value & PLAIN[CTRL][1]
        self._update_status()
        self.configure_receiver()

    def _write_eerd(self, value: int) -> None:
        self.regs[EERD] = self.eeprom.eerd(value)

    def _write_ctrl_ext(self, value: int) -> None:
        self.regs[CTRL_EXT] = value & PLAIN[CTRL_EXT][1]
        if value & CTRL_EXT_EE_RST:
            self._load_address()

    def _write_mdic(self, value: int) -> None:
        self.regs[MDIC] = self.phy.mdic(value)
        if value & INTERRUPT:
            self.interrupts.post(MDAC)

    def _write_tidv(self, value: int) -> None:
        """13.4.41. FPD: what waits for this timer is told now."""
        self.regs[TIDV] = value & PLAIN[TIDV][1]
        if value & TIDV_FPD and self.interrupts.late:
            self.interrupts.post(self.interrupts.late)

    def _write_pba(self, value: int) -> None:
        """13.4.16: what the receiver does not get is the transmitter's."""
        received = value & 0xFFFF
        self.regs[PBA] = max(_PACKET_BUFFER - received, 0) << 16 | received

    def _rctl_written(self) -> None:
        self.filters.configure()
        self.configure_receiver()

    # --- consequences ------------------------------------------------------------------------------------------------
    def configure_receiver(self) -> None:
        """Tells the receiver how things stand."""
        self.receiver.configure(self.dma, self.phy.state.link, self.phy.loopback)

    def configure_transmitter(self) -> None:
        """Tells the transmitter how things stand."""
        self.transmitter.configure(self.dma)

    def set_dma(self, on: bool) -> None:
        """The PCI command register's bus master bit."""
        if on != self.dma:
            self.dma = on
            self.configure_receiver()
            self.configure_transmitter()

    def _emit(self, frame: bytearray, header: bytes | None) -> None:
        receiver = self.receiver
        if receiver.looped or self.phy.loopback:
            for piece in _looped(frame, header):
                receiver.loop(piece)
        elif self.phy.state.link:
            self.wire(frame, header)

    def _phy_changed(self, interrupted: bool) -> None:
        self._update_status()
        self.configure_receiver()
        if interrupted:
            self.interrupts.post(LSC)

    def _update_status(self) -> None:
        """13.4.2: link, speed and duplex as forced by CTRL or told by the PHY."""
        ctrl, phy = self.regs[CTRL], self.phy.state
        speed = min(ctrl >> CTRL_SPEED_SHIFT & 3, 2) if ctrl & CTRL_FRCSPD else phy.speed
        full = bool(ctrl & CTRL_FD) if ctrl & CTRL_FRCDPX else phy.full
        status = speed << STATUS_SPEED_SHIFT | phy.speed << STATUS_ASDV_SHIFT
        self.regs[STATUS] = status | (STATUS_FD if full else 0) | (STATUS_LU if phy.link else 0)

    def _load_address(self) -> None:
        """The EEPROM's first three words go to the first receive address (5.6)."""
        low, middle, high = self.eeprom.state.words[:3]
        self.regs[RA], self.regs[RA + 4] = low | middle << 16, high | RAH_VALID
        self.filters.configure()

    # --- life --------------------------------------------------------------------------------------------------------
    def reset_mac(self) -> None:
        """CTRL.RST (13.4.1): everything but PCI configuration, PHY and the contents of the EEPROM."""
        regs = self.regs
        for offset, (value, _) in PLAIN.items():
            regs[offset] = value
        regs[ICR] = 0
        self.stats.reset()
        self.eeprom.reset()
        self.transmitter.reset()
        self._load_address()
        self._update_status()
        self.configure_receiver()
        self.interrupts.reset()

    def reset(self) -> None:
        """Power-on. The EEPROM keeps its contents."""
        self.reset_mac()
        self.phy.power_on()
        self.regs[ICR] = 0  # the link came up before anybody looked
        self.interrupts.update()

    @property
    def state(self) -> MacState:
        """A snapshot's worth; parts of it are the live ones."""
        self.stats.settle()
        return MacState(
            regs=self.regs,
            counts=self.stats.counts,
            eeprom=self.eeprom.state,
            phy=self.phy.state,
            transmit=self.transmitter.state,
            raised=self.interrupts.last,
            dma=self.dma,
            level=self.interrupts.level,
            late=self.interrupts.late,
        )

    @state.setter
    def state(self, state: MacState) -> None:
        self.regs.clear()
        self.regs.update(state.regs)
        self.stats.reset()
        self.stats.counts.update(state.counts)
        self.eeprom.state, self.phy.state, self.transmitter.state = state.eeprom, state.phy, state.transmit
        self.interrupts.last, self.interrupts.level, self.interrupts.late = state.raised, state.level, state.late
        self.dma = state.dma

    def lasting(self) -> list[tuple[int, int]]:
        """(gpa, length) of guest memory that is written without a fresh ``memory.view``: the rings."""
        regs = self.regs
        rings = ((self.receiver.ring, RDBAL, RDBAH), (self.transmitter.ring, TDBAL, TDBAH))
        return [(regs[low] | regs[high] << 32, ring.nbytes) for ring, low, high in rings if ring is not None]

    def restored(self) -> None:
        """After ``state`` was assigned: filter, rings, line and timers follow. A transmit ring goes on at its head."""
        self.filters.configure()
        self.phy.set_carrier(self.phy.carrier)  # the cable may not be where it was; configures the receiver as well
        self.interrupts.drive(self.interrupts.level)
        self.regs[ICR] |= self.interrupts.late  # its timer is not set: told now
        self.interrupts.late = 0
        self.interrupts.restored()
        self.configure_transmitter()


def _looped(frame: bytearray, header: bytes | None) -> list[bytes | bytearray]:
    if header is None:
        return [frame]
    from pyvmm.net.frames import complete

    return complete(frame, header)
