"""From the wire into the receive ring (SDM 3.2).

A frame for which there are no descriptors is refused (``receive`` returns False): the backend waits, and is told to go on
when the driver moves the tail. All that no driver can mend (receiver off, link down, not our address) is taken and dropped.

Checksums are looked at only when RXCSUM asks for it (Linux does not, unless told): a guest sums at the processor's speed, Python
does not. Else IXSM=1 says "not checked" (3.2.9).
"""

from __future__ import annotations

from pyvmm.devices.e1000.constants import (
    CTRL,
    CTRL_RFCE,
    CTRL_VME,
    FCS,
    FRAME_LIMIT,
    JUMBO_LIMIT,
    RCTL,
    RCTL_BSEX,
    RCTL_BSIZE_SHIFT,
    RCTL_EN,
    RCTL_LBM_SHIFT,
    RCTL_LPE,
    RCTL_RDMTS_SHIFT,
    RCTL_SBP,
    RCTL_SECRC,
    RDBAH,
    RDBAL,
    RDH,
    RDLEN,
    RDT,
    RXCSUM,
    RXCSUM_IPOFL,
    RXCSUM_TUOFL,
    RXDMT0,
    RXT0,
)
from pyvmm.devices.e1000.stats import MPC, RNBC, ROC, RUC, TOR, TPR, XOFFRXC, XONRXC
from pyvmm.errors import GuestFault
from pyvmm.net.frames import ETH_HEADER, MIN_FRAME, complete, transport_checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.e1000.filters import Filter
    from pyvmm.devices.e1000.stats import Stats
    from pyvmm.memory import GuestMemory
    from pyvmm.net.frames import Buffer

# Descriptor, second quadword: length 15:0, checksum 31:16, status 39:32, errors 47:40, special 63:48 (3.2.3)
_STATUS_SHIFT, _ERRORS_SHIFT, _SPECIAL_SHIFT = 32, 40, 48
DD, EOP, IXSM, VP, TCPCS, IPCS = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 6
TCPE, IPE = 1 << 5, 1 << 6

_SIZES = (2048, 1024, 512, 256)
_LARGE_SIZES = (2048, 16384, 8192, 4096)  # RCTL.BSEX=1; BSIZE 0 is reserved with it
_NO_FCS = bytes(FCS)  # space that SECRC=0 wants behind the frame; there was no wire to check a real one against


class Receiver:
    """The receive unit.

    Args:
        post: takes interrupt causes.

    Attributes:
        ring: descriptors as quadwords, None while the receiver has none in RAM.
        open: frames from the wire are looked at; ``looped``: those from the card's own transmitter.
        waiting: a frame was refused since buffers came last.
        resume: called when a refused frame may be offered again.
        look: called before a frame is refused: has the tail be what the driver wrote last, should that be on its way.
    """

    def __init__(
        self,
        regs: dict[int, int],
        memory: GuestMemory,
        filters: Filter,
        stats: Stats,
        post: Callable[[int], None],
    ) -> None:
        self.regs = regs
        self.memory = memory
        self.filters = filters
        self.stats = stats
        self.post = post
        self.resume: Callable[[], None] = lambda: None
        self.look: Callable[[], None] = lambda: None
        self.ring: memoryview | None = None
        self.open = self.looped = self.waiting = False
        self.size = 2048
        self.limit = FRAME_LIMIT
        self.fcs = _NO_FCS
        self.threshold_shift = 1
        self.strip = False

    def configure(self, dma: bool, link: bool, loopback: bool) -> None:
        """After a write to RCTL, CTRL, the ring's place, or a change of command register, link or loopback."""
        regs = self.regs
        rctl = regs[RCTL]
        on = bool(rctl & RCTL_EN) and dma
        loopback = loopback or bool(rctl >> RCTL_LBM_SHIFT & 3)
        self.open, self.looped = on and link and not loopback, on and loopback
        self.size = (_LARGE_SIZES if rctl & RCTL_BSEX else _SIZES)[rctl >> RCTL_BSIZE_SHIFT & 3]
        self.limit = JUMBO_LIMIT if rctl & (RCTL_LPE | RCTL_SBP) else FRAME_LIMIT
        self.fcs = b"" if rctl & RCTL_SECRC else _NO_FCS
        self.threshold_shift = 1 + min(rctl >> RCTL_RDMTS_SHIFT & 3, 2)
        self.strip = bool(regs[CTRL] & CTRL_VME)
        self.ring = None
        if on and regs[RDLEN]:
            try:
                self.ring = self.memory.view(regs[RDBAL] | regs[RDBAH] << 32, regs[RDLEN]).cast("Q")
            except GuestFault:
                pass  # no ring in RAM: no buffers
        self.retry()

    def retry(self) -> None:
        """A refused frame may be welcome now."""
        if self.waiting:
            self.waiting = False
            self.resume()

    def write_tail(self, value: int) -> None:
        """RDT: the driver has filled descriptors."""
        self.regs[RDT] = value & 0xFFFF
        if self.waiting:
            self.retry()

    # --- frames ------------------------------------------------------------------------------------------------------
    def receive(self, frame: Buffer, header: Buffer | None = None) -> bool:
        """One Ethernet frame without FCS from the wire (``NetPeer.receive``). False: no buffer, offer it again after ``resume``."""
        if not self.open:
            return True
        if header is not None and any(header[:2]):
            return self._receive_unfinished(frame, header)
        return self.take(frame if type(frame) is bytes else bytes(frame))

    def _receive_unfinished(self, frame: Buffer, header: Buffer) -> bool:
        """A frame somebody left to be summed or cut. When buffers end in the midst of one, the rest is lost, as on a busy wire."""
        for number, piece in enumerate(complete(frame, header)):
            if not self.take(bytes(piece)):
                if not number:
                    return False
                self.stats.counts[MPC] += 1
                return True
        return True

    def loop(self, frame: bytes | bytearray) -> None:
        """A frame of our own in loopback; lost when there is no buffer."""
        if self.looped and not self.take(bytes(frame)):
            self.stats.counts[MPC] += 1
            self.waiting = False  # nobody holds it

    def take(self, frame: bytes) -> bool:
        """Filter, then store. False: there are no descriptors for it now."""
        size = len(frame)
        if size < ETH_HEADER:
            self.stats.counts[RUC] += 1
            return True
        filters = self.filters
        if not filters.accepts(frame):
            self._missed(frame, size)
            return True
        if size > self.limit:
            self._missed(frame, size)
            self.stats.counts[ROC] += 1
            return True
        status, special = DD | EOP | IXSM, 0
        data = frame
        if self.strip and frame[12:14] == filters.vet and size >= 16:
            special, status = frame[14] << 8 | frame[15], DD | EOP | IXSM | VP
            data = frame[:12] + frame[16:]
        if len(data) < MIN_FRAME:
            data = data.ljust(MIN_FRAME, b"\0")
        data += self.fcs
        high = status << _STATUS_SHIFT | special << _SPECIAL_SHIFT
        if self.regs[RXCSUM] & (RXCSUM_TUOFL | RXCSUM_IPOFL):
            high = self._checked(frame, high)
        causes = self.store(data, high)
        if not causes:
            tail = self.regs[RDT]
            self.look()
            if self.regs[RDT] != tail:
                causes = self.store(data, high)
        if not causes:
            if not self.waiting:
                self.waiting = True
                self.stats.counts[RNBC] += 1
            return False
        if size < MIN_FRAME:
            size = MIN_FRAME
        self.stats.received(frame, size)
        self.post(causes)
        return True

    def _missed(self, frame: bytes, size: int) -> None:
        """Counts a frame that is not for the guest."""
        counts = self.stats.counts
        counts[TPR] += 1
        counts[TOR] += max(size, MIN_FRAME) + FCS
        if self.regs[CTRL] & CTRL_RFCE and self.filters.is_pause(frame):
            counts[XOFFRXC if any(frame[16:18]) else XONRXC] += 1

    def _checked(self, frame: bytes, high: int) -> int:
        """3.2.9: status and error bits for the checksums that RXCSUM asks for and this frame has."""
        rxcsum = self.regs[RXCSUM]
        ip, transport = transport_checks(frame)
        status = errors = 0
        if ip is not None and rxcsum & RXCSUM_IPOFL:
            status, errors = IPCS, 0 if ip else IPE
        if transport is not None and rxcsum & RXCSUM_TUOFL:
            status, errors = status | TCPCS, errors if transport else errors | TCPE
        if status:
            high = high & ~(IXSM << _STATUS_SHIFT) | status << _STATUS_SHIFT | errors << _ERRORS_SHIFT
        return high

    def store(self, data: bytes, high: int) -> int:
        """Puts a frame into as many descriptors as it needs; tracers replace this.

        Args:
            data: with FCS, if the guest wants one.
            high: status, errors and special field of its last descriptor.

        Returns:
            Interrupt causes; 0, nothing changed, when the descriptors do not suffice.
        """
        ring, regs = self.ring, self.regs
        if ring is None:
            return 0
        count, head, tail = len(ring) >> 1, regs[RDH], regs[RDT]
        if head == tail or head >= count or tail >= count:
            return 0
        address = ring[2 * head]
        size = len(data)
        if size <= self.size and address:
            try:
                self.memory.view(address, size)[:] = data
            except GuestFault:
                pass  # the buffer is not RAM: what is written there is lost
            ring[2 * head + 1] = size | high
            head += 1
        else:
            head = self._scatter(ring, data, high, count)
            if head < 0:
                return 0
        if head == count:
            head = 0
        regs[RDH] = head
        free = tail - head if tail >= head else tail - head + count
        return RXT0 | RXDMT0 if free <= count >> self.threshold_shift else RXT0

    def _scatter(self, ring: memoryview, data: bytes, high: int, count: int) -> int:
        """Several descriptors, or one with a null address, which is given back empty. Returns the new head, -1 for too few."""
        head, tail, left = self.regs[RDH], self.regs[RDT], len(data)
        used: list[tuple[int, int]] = []
        if left > (count - 1) * self.size:  # never: better lost than waited for
            self.stats.counts[ROC] += 1
            return head
        while left > 0:
            if head == tail:
                return -1
            address = ring[2 * head]
            used.append((head, address))
            left -= self.size if address else 0
            head = head + 1 if head + 1 < count else 0
        at, size = 0, self.size
        for index, address in used:
            if not address:
                ring[2 * index + 1] = DD << _STATUS_SHIFT
                continue
            part = data[at : at + size]
            at += size
            try:
                self.memory.view(address, len(part))[:] = part
            except GuestFault:
                pass
            ring[2 * index + 1] = len(part) | (high if at >= len(data) else DD << _STATUS_SHIFT)
        return head
