"""virtio-net: a network card (Virtio specification 1.2, 5.1). Lives on the main loop, machine lock held.

Every frame has a header of 12 bytes in front (5.1.6), of 10 for some legacy drivers, that says what the sender has left to others:
one checksum, or cutting a large TCP frame. A wire that can do that (a tap) gets the header as it is; for others it is done here, with
``net.frames``.

Received frames go straight into the driver's buffers. When there are none the wire is refused its frame, and is told to offer
it again when the driver rings. Work per doorbell is bounded: what is beyond ``TURN`` comes after others had their turn.
"""

from __future__ import annotations

from pyvmm.devices.virtio import net_features as f
from pyvmm.devices.virtio.core import VERSION_1
from pyvmm.devices.virtio.device import VirtioDevice, read_bytes
from pyvmm.devices.virtio.net_buffers import HEADER, LARGE, LEGACY_HEADER, MERGE_MAX, merge, scatter, spread
from pyvmm.devices.virtio.net_control import COMMAND_MAX, STATUS_ANNOUNCE, STATUS_LINK_UP, Filter, NetState, execute
from pyvmm.devices.virtio.queue import QueueError
from pyvmm.net.frames import (
    DATA_VALID,
    ETH_HEADER,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    OFFLOAD_HEADER,
    complete,
    put_checksum,
)
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.backend import NetBackend
    from pyvmm.devices.virtio.device import Loop
    from pyvmm.devices.virtio.queue import Chain, VirtQueue
    from pyvmm.ioloop import IoLoop

    Frame = bytes | bytearray | memoryview

RX, TX, CONTROL = 0, 1, 2
MAX_FRAME = 65535 + ETH_HEADER + 8  # the longest IP packet behind two VLAN tags
TURN = 512  # units of work: requests, frames, 2 KiB of data
_UNIT_SHIFT = 11
_CONTROL_SIZE = 64
_PLAIN = OFFLOAD_HEADER.pack(0, GSO_NONE, 0, 0, 0, 0, 1)  # num_buffers is 1, whoever looks at it (5.1.6.4.1)
_HOST = {GSO_TCPV4: f.HOST_TSO4, GSO_TCPV6: f.HOST_TSO6}  # what a driver needs to send such frames
_GUEST = {GSO_TCPV4: f.GUEST_TSO4, GSO_TCPV6: f.GUEST_TSO6}  # and to receive them
_WIRE = ((f.GUEST_CSUM, 1), (f.GUEST_TSO4, 2), (f.GUEST_TSO6, 4), (f.GUEST_ECN, 8))  # of NetBackend.set_offload
_OFFLOADS = f.GUEST_CSUM | f.GUEST_TSO4 | f.GUEST_TSO6 | f.GUEST_ECN
_OK, _ERROR = 0, 1


class NetOptions(Record):
    """How the card is.

    Fields:
        without: feature bits it does not offer.
        mtu: what the driver is told, 0 for nothing.
        rx_size, tx_size: descriptors.
    """

    without: int = 0
    mtu: int = 0
    rx_size: int = 256
    tx_size: int = 256


class NetCounts(Record):
    """Frames since the start.

    Fields:
        received, sent: as the driver sees them: a large frame is one.
        filtered: not what the driver wants to see.
        rx_dropped: too long for a buffer, or nobody there to receive it; refused frames are the wire's to count.
        tx_dropped: broken offload header, impossible length, no cable.
    """

    received: int = 0
    sent: int = 0
    filtered: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class VirtioNet(VirtioDevice):
    """A network card; to its wire it is a ``NetPeer``.

    Args:
        name: for messages.
        loop: the main loop.
        backend: the wire.
        mac: 6 bytes, a unicast address.
        options: what the command line says.

    Attributes:
        cable: plugged in; the link is up when the wire's is, too.
        header_size: bytes in front of each frame (5.1.6.1): a legacy driver has no num_buffers where it does not merge buffers.
        counts: frames.
    """

    device_id = 1
    pci_class = 0x020000
    registers = "pyvmm.devices.virtio.net_regs:REGISTERS"

    def __init__(self, name: str, loop: Loop, backend: NetBackend, mac: bytes, options: NetOptions | None = None) -> None:
        options = options or NetOptions()
        features = f.SOFTWARE | (f.WIRE if backend.offload else 0) | (f.MTU if options.mtu else 0)
        self.features = f.consistent(features & ~options.without)
        sizes = (options.rx_size, options.tx_size)
        self.queue_sizes = (*sizes, _CONTROL_SIZE) if self.features & f.CTRL_VQ else sizes
        super().__init__(name, loop)
        self.backend = backend
        self.mac = mac
        self.mtu = options.mtu
        self.state = NetState(mac=mac)
        self.counts = NetCounts()
        self.cable = True
        self.wire_up = backend.link
        self.filter = Filter()
        self._mergeable = False
        self.header_size = HEADER
        self._kinds = frozenset[int]()  # of segmentation, that this driver may leave to us together with a checksum
        self._limit = MAX_FRAME
        self._waiting = False  # the wire was refused a frame
        self._burst = False  # more frames follow: they are told of together
        self._offered: Frame | None = None  # what ``receive`` has for ``serve``
        self._header: Frame = _PLAIN
        self._taken = True

    # --- the wire ----------------------------------------------------------------------------------------------------
    def attach(self, loop: IoLoop) -> None:
        """Connects card and wire: from now on frames come."""
        self.backend.attach(loop, self)
        self.link_changed(self.backend.link)

    @property
    def link(self) -> bool:
        """Whether the driver sees a carrier."""
        return self.cable and self.wire_up

    def set_link(self, up: bool) -> None:
        """Plugs the cable in or pulls it, machine lock held."""
        before, self.cable = self.link, up
        self._link_was(before)

    def link_changed(self, up: bool) -> None:
        """The other end of the wire came up or went down (``NetPeer``)."""
        before, self.wire_up = self.link, up
        self._link_was(before)

    def _link_was(self, before: bool) -> None:
        if before != self.link:
            self._retry()  # a frame that was refused is dropped now
            self.signals.config()

    def announce(self) -> None:
        """Asks the driver to make itself known to the network: it is somewhere else now."""
        if self.negotiated & f.GUEST_ANNOUNCE:
            self.state.announce = True
            self.signals.config()

    # --- registers and life ------------------------------------------------------------------------------------------
    def read_config(self, offset: int, size: int) -> int:
        state = self.state
        status = (STATUS_LINK_UP if self.link else 0) | (STATUS_ANNOUNCE if state.announce else 0)
        config = state.mac + (status | 1 << 16 | self.mtu << 32).to_bytes(6, "little")
        return read_bytes(config, offset, size)

    def accepts(self, features: int) -> bool:
        return not f.consistent(features) ^ features

    def start(self, queues: list[VirtQueue | None], features: int) -> None:
        super().start(queues, features)
        self._mergeable = bool(features & f.MRG_RXBUF)
        self.header_size = HEADER if features & (f.MRG_RXBUF | VERSION_1) else LEGACY_HEADER
        self._limit = self.mtu + ETH_HEADER + 4 if features & f.MTU else MAX_FRAME
        if self.state.offloads < 0:  # else they are from a snapshot
            self.state.offloads = features & _OFFLOADS
        self._kinds = _kinds(features)
        self._configure()
        ring = queues[RX]
        if ring is not None:
            ring.disable_kicks()

    def queue_started(self, index: int, queue: VirtQueue) -> None:
        super().queue_started(index, queue)
        if index == RX:
            queue.disable_kicks()

    def _configure(self) -> None:
        """After start, a command or a reset: filter and wire follow ``state``."""
        self.filter.configure(self.state, self.negotiated)
        offloads = self.state.offloads
        self.backend.set_offload(sum(flag for feature, flag in _WIRE if offloads > 0 and offloads & feature))

    def stop(self, index: int | None) -> None:
        if index is None or index == RX:
            self._retry()

    def reset(self) -> None:
        self.negotiated = 0
        self.state = NetState(mac=self.mac)
        self._configure()

    def _retry(self) -> None:
        if self._waiting:
            self._waiting = False
            self.backend.resume()

    # --- doorbells ---------------------------------------------------------------------------------------------------
    def serve(self, index: int) -> None:
        queue = self.queues[index]
        if queue is None:
            return
        if index == TX:
            self._transmit(queue)
        elif index == CONTROL:
            self._control(queue)
        elif self._offered is not None:
            self._taken = self._fill(queue, self._offered)
            self._offered = None
        elif self._waiting:
            queue.disable_kicks()
            self._retry()

    # --- receive -----------------------------------------------------------------------------------------------------
    def receive(self, frame: Frame, header: Frame | None = None) -> bool:
        """One frame from the wire (``NetPeer``). False: no buffer, it is welcome again after ``backend.resume``."""
        if not (self.cable and self.wire_up) or len(frame) < ETH_HEADER:
            self.counts.rx_dropped += 1
            return True
        if not self.filter.open and not self.filter.accepts(frame):
            self.counts.filtered += 1
            return True
        if header is not None and (header[0] or header[1]):
            return self._receive_unfinished(frame, header)
        if len(frame) > self._limit:
            self.counts.rx_dropped += 1
            return True
        return self._receive(frame, _PLAIN)

    def burst(self, on: bool) -> None:
        """See ``NetPeer``."""
        self._burst, queue = on, self.queues[RX]
        if not on and queue is not None and queue.should_signal():
            self.signals.queue(RX)

    def _receive(self, frame: Frame, header: Frame) -> bool:
        self._offered, self._header, self._taken = frame, header, True
        self.signals.serve(RX)  # from a hub on a vCPU's thread, too: the machine lock keeps them apart
        if self._offered is not None:  # nobody there, or the driver has just broken the ring
            self._offered = None
            self.counts.rx_dropped += 1
        elif not self._taken:
            self._waiting = True
        return self._taken

    def _receive_unfinished(self, frame: Frame, header: Frame) -> bool:
        """A frame with work left: the driver's, if it said so; else it is done here. One that ends the buffers is lost, as on a wire."""
        offloads = self.state.offloads
        flags, kind, length, mss, start, field, _ = OFFLOAD_HEADER.unpack(header)
        gso = kind & ~GSO_ECN
        ecn = not kind & GSO_ECN or offloads & f.GUEST_ECN
        if offloads & f.GUEST_CSUM and ecn and (gso == GSO_NONE or offloads & _GUEST.get(gso, 0)):
            return self._receive(frame, OFFLOAD_HEADER.pack(flags & (NEEDS_CSUM | DATA_VALID), kind, length, mss, start, field, 1))
        pieces = complete(frame, header)
        done = 0
        while done < len(pieces) and self._receive(pieces[done], _PLAIN):
            done += 1
        if pieces and not done:
            return False
        self.counts.rx_dropped += done < len(pieces) or not pieces
        return True

    def _fill(self, queue: VirtQueue, frame: Frame) -> bool:
        """Puts header and frame into the driver's buffers. False: there are too few."""
        size = len(frame)
        if self._mergeable and size > LARGE and spread(queue, self._header, frame):
            self._received(queue)
            return True
        chain = queue.pop()
        if chain is None:
            if not queue.enable_kicks():
                return False
            queue.disable_kicks()
            chain = queue.pop()
            if chain is None:
                return False  # it has taken them back
        head = self.header_size
        total = head + size
        if chain.faulty or chain.writable_length < head:
            raise QueueError(chain.faulty or f"a receive buffer of {chain.writable_length} bytes")
        if chain.writable_length >= total:
            view = chain.writable[0]
            if len(view) >= total:
                view[:head] = self._header[:head]
                view[head:total] = frame
            else:
                scatter(chain.writable, b"".join((self._header[:head], frame)))
            queue.push(chain.head, total)
        elif not self._mergeable:  # 5.1.6.3.1: such a driver's buffers hold what it wants to get
            queue.put_back(1)
            self.counts.rx_dropped += 1
            return True
        else:
            chains = self._gather(queue, chain, total)
            if not chains:
                return self._taken
            merge(queue, chains, self._header, frame)
        self._received(queue)
        return True

    def _received(self, queue: VirtQueue) -> None:
        self.counts.received += 1
        if not self._burst and queue.should_signal():
            self.signals.queue(RX)

    def _gather(self, queue: VirtQueue, chain: Chain, total: int) -> list[Chain]:
        """Chains for ``total`` bytes. None of them when there are too few: ``_taken`` tells whether more can come."""
        chains, room = [chain], chain.writable_length
        enough = min(queue.size, MERGE_MAX)
        while room < total and len(chains) < enough:
            more = queue.pop()
            if more is None:
                if queue.enable_kicks():
                    queue.disable_kicks()
                    more = queue.pop()
                if more is None:
                    self._taken = False
                    queue.put_back(len(chains))
                    return []
            if more.faulty or not more.writable:
                raise QueueError(more.faulty or "a receive buffer of 0 bytes")
            chains.append(more)
            room += more.writable_length
        if room < total:  # all it can ever have: waiting would be for good
            queue.put_back(len(chains))
            self.counts.rx_dropped += 1
            return []
        return chains

    # --- transmit ----------------------------------------------------------------------------------------------------
    def _transmit(self, queue: VirtQueue) -> None:
        queue.disable_kicks()
        work = TURN
        try:
            while work > 0:
                chain = queue.pop()
                if chain is None:
                    if not queue.enable_kicks():
                        return
                    queue.disable_kicks()
                    work -= 1
                    continue
                if chain.faulty:
                    raise QueueError(chain.faulty)
                work -= self.send(chain)
                queue.push(chain.head, 0)
            self.signals.kick(TX)
        finally:
            if queue.should_signal():
                self.signals.queue(TX)
            self.backend.flush()

    def send(self, chain: Chain) -> int:
        """One request; returns units of work."""
        head = self.header_size
        views, size = chain.readable, chain.readable_length - head
        if not ETH_HEADER <= size <= MAX_FRAME or not (self.cable and self.wire_up):
            self.counts.tx_dropped += 1
            return 1
        data = views[0] if len(views) == 1 else memoryview(b"".join(views))
        header, frame = bytes(data[:head]), bytes(data[head:])  # copied once: what the driver writes from here on changes nothing
        flags, kind = header[0], header[1]
        if not flags & NEEDS_CSUM and kind == GSO_NONE:
            self.backend.send(frame)
        elif not flags & NEEDS_CSUM or kind not in self._kinds or kind and header[4:6] == b"\0\0":  # no MSS
            self.counts.tx_dropped += 1
            return 1
        elif self.backend.offload:
            if flags != NEEDS_CSUM or header[10:] != b"\0\0":  # a short one, too, becomes a whole one
                header = bytes((NEEDS_CSUM,)) + header[1:10] + b"\0\0"
            self.backend.send(frame, header)
        elif kind == GSO_NONE:
            start, field = header[6] | header[7] << 8, header[8] | header[9] << 8
            work = bytearray(frame)
            if not put_checksum(work, start, start + field):
                self.counts.tx_dropped += 1
                return 1
            self.backend.send(work)
        else:
            return self._cut(frame, header.ljust(HEADER, b"\0"))
        self.counts.sent += 1
        return 1 + (size >> _UNIT_SHIFT)

    def _cut(self, frame: Frame, header: bytes) -> int:
        """A large TCP frame for a wire that takes none; returns units of work."""
        pieces = complete(frame, header)
        for piece in pieces:
            self.backend.send(piece)
        if pieces:
            self.counts.sent += 1
        else:
            self.counts.tx_dropped += 1
        return 1 + len(pieces) + (len(frame) >> _UNIT_SHIFT)

    # --- control -----------------------------------------------------------------------------------------------------
    def _control(self, queue: VirtQueue) -> None:
        try:
            for _ in range(_CONTROL_SIZE):
                chain = queue.pop()
                if chain is None:
                    if not queue.enable_kicks():
                        return
                    continue
                if chain.faulty or not chain.writable:
                    raise QueueError(chain.faulty or "a command without room for its answer")
                done = chain.readable_length <= COMMAND_MAX and self.command(b"".join(chain.readable))
                chain.writable[0][0] = _OK if done else _ERROR
                queue.push(chain.head, 1)
            self.signals.kick(CONTROL)
        finally:
            if queue.should_signal():
                self.signals.queue(CONTROL)

    def command(self, data: bytes) -> bool:
        """Executes one command."""
        done = execute(self.state, self.negotiated, data)
        if done:
            self._configure()
        return done


def _kinds(features: int) -> frozenset[int]:
    """5.1.6.2.2: what a driver with these features may write into gso_type of a frame whose checksum is left to us."""
    kinds = [GSO_NONE, *(kind for kind, feature in _HOST.items() if features & feature)] if features & f.CSUM else []
    return frozenset(kinds + [kind | GSO_ECN for kind in kinds if kind and features & f.HOST_ECN])
