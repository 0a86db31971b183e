"""A hub inside the machine: every frame of one port goes to all others. Ports are cards, or another netdev (``netdev=ID``).

A card that is out of buffers gets its frames later, up to ``QUEUE`` of them; the others do not wait for it.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvmm.backends.net.backend import BUDGET, Wire, complain
from pyvmm.net.frames import complete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.backend import Frame, NetBackend, NetPeer
    from pyvmm.config import NetConfig
    from pyvmm.ioloop import IoLoop, LoopTimer

QUEUE = 256  # frames


class Hub:
    """The ports of one ``hubid``."""

    def __init__(self) -> None:
        self.ports: list[HubPort] = []

    def forward(self, source: HubPort, frame: Frame) -> None:
        """Gives a frame of one port to all others."""
        for port in self.ports:
            if port is not source:
                port.deliver(frame)

    def flush(self, source: HubPort) -> None:
        """A card has sent what it had: netdevs behind the hub may answer."""
        for port in self.ports:
            if port is not source and isinstance(port, Uplink):
                port.answer()

    def attached(self, loop: IoLoop | None) -> None:
        """A card came, or went (None): netdevs behind the hub run as long as there is one."""
        if loop is None and any(port.has_card for port in self.ports):
            return
        for port in self.ports:
            if isinstance(port, Uplink):
                port.follow(loop)


class HubPort(Wire):
    """A port with a card."""

    def __init__(self, name: str, hub: Hub) -> None:
        super().__init__(name)
        self.link = True
        self._hub = hub
        self._queue: list[bytes] = []
        self._again: LoopTimer | None = None
        hub.ports.append(self)

    @property
    def has_card(self) -> bool:
        """Whether a card is attached."""
        return self._nic is not None

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        super().attach(loop, nic)
        self._again = loop.make_timer(self._drain)
        self._hub.attached(loop)

    def detach(self) -> None:
        self.counters.dropped_rx += len(self._queue)
        self._queue.clear()
        if self._again is not None:
            self._again.cancel()
            self._again = None
            super().detach()
            self._hub.attached(None)

    def close(self) -> None:
        super().close()
        if self in self._hub.ports:
            self._hub.ports.remove(self)

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        self.counters.sent += 1
        self._hub.forward(self, frame)

    def flush(self) -> None:
        self._hub.flush(self)

    def resume(self) -> None:
        if self._queue and self._again is not None:
            self._again.arm(monotonic_ns())

    def deliver(self, frame: Frame) -> None:
        """From the hub to this port."""
        if not self._queue and self._offer(frame if isinstance(frame, bytes) else memoryview(frame)):
            return
        if len(self._queue) >= QUEUE:
            self.counters.dropped_rx += 1
            return
        if not self._queue:
            self.counters.paused += 1
        self._queue.append(bytes(frame))

    def _drain(self) -> None:
        queue, done = self._queue, 0
        while done < min(len(queue), BUDGET) and self._offer(queue[done]):
            done += 1
        del queue[:done]
        if done == BUDGET:
            self.resume()


class Uplink(HubPort):
    """A port with another netdev: what is in the machine reaches the outside. Each card's frames go out without offload."""

    def __init__(self, name: str, hub: Hub, outside: NetBackend) -> None:
        super().__init__(name, hub)
        self._outside = outside
        self._running = self._burst = False

    def follow(self, loop: IoLoop | None) -> None:
        """Runs the netdev on ``loop``, or stops it."""
        if loop is None:
            self._outside.detach()
        elif not self._running:
            self._outside.attach(loop, self)
        self._running = loop is not None

    def close(self) -> None:
        self.follow(None)
        super().close()

    def deliver(self, frame: Frame) -> None:
        self._outside.send(frame)

    def answer(self) -> None:
        """What the netdev has to say to what was delivered."""
        self._outside.flush()

    def receive(self, frame: Frame, header: Frame | None = None) -> bool:
        """NetPeer: from outside to the machine's cards, finished: a hub knows nothing of offloads."""
        for piece in complete(frame, header):
            self._hub.forward(self, piece)
        if not self._burst:
            self._hub.flush(self)
        return True

    def burst(self, on: bool) -> None:
        """NetPeer: what was forwarded may be answered by another netdev of this hub."""
        self._burst = on
        if not on:
            self._hub.flush(self)

    def link_changed(self, up: bool) -> None:
        """NetPeer: a hub keeps its cards' carrier."""


def open_port(config: NetConfig, hubs: dict[str, object], others: dict[str, NetBackend]) -> HubPort:
    """``-netdev hubport,id=ID,hubid=N[,netdev=ID]``.

    Raises:
        ConfigError: the other netdev does not exist.
    """
    number = config.get("hubid", "0")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise complain(config, f"hubid={number}: give a number; ports with the same one are connected")
    hub = hubs.setdefault(str(int(number)), Hub())
    assert isinstance(hub, Hub)
    outside = config.get("netdev")
    if not outside:
        return HubPort(config.id, hub)
    if outside not in others:
        raise complain(config, f"netdev={outside}: no netdev before this one has that id")
    return Uplink(config.id, hub, others[outside])
