"""The contract between a network card and the wire behind it, and what most wires share.

Everything runs with the machine lock held: the card's half on vCPU threads and the I/O loop, the wire's callbacks on the I/O
loop. ``send`` is called from the middle of a card's transmit walk, ``flush`` at its end, ``resume`` from a register write. Link changes
reach ``NetPeer`` from the I/O loop only; frames also from within ``send`` (a hub hands a frame of one card to another one) and
``flush`` (a network in this process answers at once, so that the guest finds the answer behind its doorbell), never from ``resume``.

A wire with more than one frame says so (``NetPeer.burst``): interrupts and the like wait until the guest has all of them.

Nothing buffers without bound. A card that is out of buffers refuses a frame; the wire then keeps that one, stops reading, and
whoever sends at the other end feels it, or loses frames in a buffer of the kernel's. A wire that is too slow drops and counts.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvmm.errors import ConfigError
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Protocol

    from pyvmm.config import NetConfig
    from pyvmm.ioloop import IoLoop, LoopTimer

    Frame = bytes | bytearray | memoryview

    class NetPeer(Protocol):
        """The card's half. A frame's memory is good during the call only."""

        def receive(self, frame: Frame, header: Frame | None = None) -> bool:
            """Takes one frame without FCS. False: no buffer now; the same frame comes again after ``resume``.

            ``header`` is a virtio_net_hdr of 12 bytes, from a wire with ``offload`` only.
            """

        def burst(self, on: bool) -> None:
            """More frames follow at once (True), or that was the last for now: the guest need not be told of each. Not nested."""

        def link_changed(self, up: bool) -> None:
            """The wire's carrier went or came."""

    class NetBackend(Protocol):
        """One ``-netdev``: a wire with a card at this end. Opened once, it outlives the guest's resets."""

        @property
        def name(self) -> str:
            """Its id."""

        @property
        def link(self) -> bool:
            """Carrier: somebody is at the other end."""

        @property
        def offload(self) -> bool:
            """Each frame comes, and may go, with a virtio_net_hdr of ``HEADER`` bytes."""

        @property
        def max_frame(self) -> int:
            """The longest frame it carries, bytes without FCS."""

        @property
        def counters(self) -> NetCounters:
            """What went through."""

        def attach(self, loop: IoLoop, nic: NetPeer) -> None:
            """Starts receiving for ``nic``, without any offload. Look at ``link`` after it: only changes are told."""

        def detach(self) -> None:
            """The card is gone (the guest was reset, the run is over); harmless without one."""

        def set_offload(self, flags: int) -> None:
            """What the card's driver takes in received frames: ``CSUM | TSO4 | TSO6 | ECN``. Without ``offload`` nothing happens."""

        def send(self, frame: Frame, header: Frame | None = None) -> None:
            """One frame without FCS. Copies what it must keep, never blocks; what the wire cannot take is dropped and counted."""

        def flush(self) -> None:
            """The card has sent what it had to send for now. What a network in this process answers itself comes before this returns."""

        def resume(self) -> None:
            """The card has buffers again. Cheap when nothing waits."""

        def close(self) -> None:
            """Gives back every descriptor. May be called twice."""


HEADER = 12  # bytes of a virtio_net_hdr with num_buffers (virtio 1.2, 5.1.6)
CSUM, TSO4, TSO6, ECN = 1, 2, 4, 8  # of set_offload; the kernel's TUN_F_* (linux/if_tun.h)
MIN_FRAME = 14  # an Ethernet header; less is nothing a card could have sent
MAX_FRAME = 65535 + 14 + 4  # the longest IP packet, an Ethernet header, a VLAN tag
BUDGET = 64  # frames delivered before the lock is given to others


class NetCounters(Record):
    """Frames since the start. ``dropped_tx``: the wire was slow or gone; ``dropped_rx``: no card, or no buffer and nothing to pause;
    ``malformed``: nothing a card could have sent; ``paused``: how often reading stopped for want of the guest's buffers."""

    sent: int = 0
    received: int = 0
    dropped_tx: int = 0
    dropped_rx: int = 0
    malformed: int = 0
    paused: int = 0


class Wire:
    """Base of all backends; by itself a cable that is not plugged in (a card without ``netdev=``)."""

    offload = False
    max_frame = MAX_FRAME

    def __init__(self, name: str) -> None:
        self.name = name
        self.link = False
        self.counters = NetCounters()
        self._loop: IoLoop | None = None
        self._nic: NetPeer | None = None

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        self.detach()
        self._loop, self._nic = loop, nic

    def detach(self) -> None:
        self._loop = self._nic = None

    def set_offload(self, flags: int) -> None:
        pass

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        self.counters.dropped_tx += 1

    def flush(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> None:
        self.detach()

    def _offer(self, frame: Frame, header: Frame | None = None) -> bool:
        """Hands the card one frame and counts. False: it must come again."""
        if len(frame) < MIN_FRAME:
            self.counters.malformed += 1
        elif self._nic is None:
            self.counters.dropped_rx += 1
        elif self._nic.receive(frame, header):
            self.counters.received += 1
        else:
            return False
        return True

    def _set_link(self, up: bool) -> None:
        if up != self.link:
            self.link = up
            if self._nic is not None:
                self._nic.link_changed(up)


class DescriptorWire(Wire):
    """A wire that is a descriptor to read. Subclasses fill in ``fd`` (-1: none now) and ``_pull``."""

    def __init__(self, name: str, fd: int = -1) -> None:
        super().__init__(name)
        self.fd = fd
        self._paused = False
        self._again: LoopTimer | None = None

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        super().attach(loop, nic)
        self._again = loop.make_timer(self._go_on)
        self._watch()
        self._later()  # what was read for the card before this one

    def detach(self) -> None:
        self._unwatch()
        self._paused = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        super().detach()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._later()

    def _pause(self) -> None:
        """The card has no buffer: reads no more until ``resume``."""
        if not self._paused:
            self._paused = True
            self.counters.paused += 1
            self._unwatch()

    def _later(self) -> None:
        """Calls ``_serve`` from the I/O loop, even if the descriptor has nothing new."""
        if self._again is not None:
            self._again.arm(monotonic_ns())

    def _go_on(self) -> None:
        if not self._paused:
            self._watch()
            self._serve()

    def _serve(self) -> None:
        nic = self._nic
        if nic is None:
            self._pull()
            return
        nic.burst(True)
        try:
            self._pull()
        finally:
            nic.burst(False)

    def _pull(self) -> None:
        """Reads and delivers at most ``BUDGET`` frames, first what an earlier call kept."""
        raise NotImplementedError

    def _watch(self) -> None:
        if self._loop is not None and self.fd >= 0:
            self._loop.remove_reader(self.fd)
            self._loop.add_reader(self.fd, self._serve)

    def _unwatch(self) -> None:
        if self._loop is not None and self.fd >= 0:
            self._loop.remove_reader(self.fd)


def complain(config: NetConfig, text: str) -> ConfigError:
    """The error for one netdev."""
    return ConfigError(f"-netdev {config.kind},id={config.id}: {text}")


def open_netdevs(configs: Iterable[NetConfig], plain: Collection[str] = ()) -> dict[str, NetBackend]:
    """Opens every backend of a machine, by id. Hub ports find each other here.

    Args:
        configs: which, checked by ``cli.nets``.
        plain: ids of those whose card takes no large frames whatever its driver is (an e1000).

    Raises:
        ConfigError: one of them cannot be had; those already open are closed again.
    """
    opened: dict[str, NetBackend] = {}
    hubs: dict[str, object] = {}
    try:
        for config in configs:
            opened[config.id] = open_netdev(config, hubs, opened, config.id not in plain)
    except BaseException:
        close_netdevs(opened)
        raise
    return opened


def close_netdevs(netdevs: dict[str, NetBackend]) -> None:
    """Closes all; those behind a hub after the hub's ports."""
    for each in reversed(netdevs.values()):
        each.close()


def open_netdev(
    config: NetConfig, hubs: dict[str, object] | None = None, others: dict[str, NetBackend] | None = None, large: bool = True
) -> NetBackend:
    """Opens one backend.

    Args:
        config: which, checked by ``cli.nets``.
        hubs, others: of ``open_netdevs``, which hub ports need.
        large: its card may take large frames.

    Raises:
        ConfigError: one line with the problem and what to do.
    """
    backend = _open(config, {} if hubs is None else hubs, others or {}, large)
    if not config.pcap:
        return backend
    from pyvmm.backends.net.pcap import PcapDump

    try:
        return PcapDump(backend, config.pcap, config.snaplen)
    except BaseException:
        backend.close()
        raise


def _open(config: NetConfig, hubs: dict[str, object], others: dict[str, NetBackend], large: bool) -> NetBackend:
    kind = config.kind
    if kind == "user":
        from pyvmm.backends.net.user import open_user

        return open_user(config, large)
    if kind == "tap":
        from pyvmm.backends.net.tap import open_tap

        return open_tap(config)
    if kind in ("stream", "socket"):
        from pyvmm.backends.net.stream import open_stream

        return open_stream(config)
    if kind == "hubport":
        from pyvmm.backends.net.hub import open_port

        return open_port(config, hubs, others)
    return Wire(config.id)
