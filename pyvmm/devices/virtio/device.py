"""What a virtio device is, whatever carries it. Sections are those of the Virtio specification 1.2.

A device knows queues, its configuration space and its ``signals``; registers, features that every device has, interrupts and
doorbells are the core's (core.py) and the transport's.

Two threads meet here. Registers are read and written, and the device started and stopped, with the machine lock held. ``serve``
runs on ``loop``: the main one holds the machine lock as well, the I/O thread of a disk does not, and must never take it. The core
never calls ``serve`` for a queue that is not running, and counts a running ``serve`` as work in flight: a device's own
``idle`` is only about what it has handed to others (workers), or kept.
"""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from pyvmm.devices.virtio.queue import VirtQueue

    class Loop(Protocol):
        """Where ``serve`` runs: an IoLoop, or a test's."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> bool:
            """Calls ``callback`` whenever ``fd`` is readable; from any thread."""

        def remove_reader(self, fd: int) -> None:
            """Stops watching; from any thread."""


class Signals:
    """What a device tells the driver. The core replaces these functions; before, nobody listens. None of them raises.

    Attributes:
        queue: (index) requests of this queue were given back and ``should_signal`` said yes. Any thread.
        config: () the configuration space has changed. Any thread.
        broken: (text) the driver broke the rules: NEEDS_RESET, and no ``serve`` until it resets. Any thread.
        serve: (index) calls ``serve(index)`` here and now if that queue is running, and reports a QueueError as broken. For what
            comes from elsewhere than the driver (console input); only on the thread of ``loop``.
        kick: (index) has ``serve(index)`` called again, as if the driver had rung: for a device that has done its share and lets
            others have their turn. Any thread.
    """

    __slots__ = ("queue", "config", "broken", "serve", "kick")

    def __init__(self) -> None:
        self.queue: Callable[[int], None] = lambda index: None
        self.config: Callable[[], None] = lambda: None
        self.broken: Callable[[str], None] = lambda text: None
        self.serve: Callable[[int], None] = lambda index: None
        self.kick: Callable[[int], None] = lambda index: None


class VirtioDevice:
    """Base of all virtio devices.

    Args:
        name: for messages, traces and snapshots.
        loop: where ``serve`` runs.

    Attributes:
        device_id: section 5.
        pci_class: 24 bits: class, subclass, programming interface.
        features: the device's own bits; the core adds those of rings and transport.
        queue_sizes: the most descriptors of each queue, powers of two.
        state: a Record with what a snapshot must hold beyond registers and rings.
        queues: what ``start`` has brought; None for a queue the driver does not use.
        negotiated: the features of this run.
    """

    device_id = 0
    pci_class = 0xFF0000
    features = 0
    queue_sizes: tuple[int, ...] = ()

    def __init__(self, name: str, loop: Loop) -> None:
        self.name = name
        self.loop = loop
        self.signals = Signals()
        self.state: Any = Record()
        self.queues: list[VirtQueue | None] = [None] * len(self.queue_sizes)
        self.negotiated = 0

    # --- machine lock held ------------------------------------------------------------------------------------------
    def read_config(self, offset: int, size: int) -> int:
        """Any offset, 1 to 8 bytes; what does not exist reads 0. See ``read_bytes``."""
        return 0

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Any offset, 1 to 8 bytes; what cannot be written is ignored."""

    def accepts(self, features: int) -> bool:
        """Whether a driver may choose these of the offered features: dependencies of the device's own ones (3.1.1)."""
        return True

    def start(self, queues: list[VirtQueue | None], features: int) -> None:
        """DRIVER_OK. ``serve`` follows for every queue, on ``loop``."""
        self.queues = queues
        self.negotiated = features

    def queue_started(self, index: int, queue: VirtQueue) -> None:
        """A queue was enabled (again) while the device runs (2.6.1)."""
        self.queues[index] = queue

    def stop(self, index: int | None) -> None:
        """Take nothing more from queue ``index`` (None: from all), give up what has not begun; must not block.

        ``serve`` may be running meanwhile, on another thread; it is not called again for these queues. Comes before every
        ``reset``, so also for a device that was not started.
        """

    def idle(self, index: int | None) -> bool:
        """After ``stop``: nothing is in flight any more: no ring or buffer is touched again, no signal given."""
        return True

    def wait_idle(self, index: int | None, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds for ``idle``; may return early with False."""
        return self.idle(index)

    def reset(self) -> None:
        """The driver's reset, after ``idle``: device-specific state as after power-on."""

    # --- on the loop's thread ---------------------------------------------------------------------------------------
    def serve(self, index: int) -> None:
        """The doorbell of queue ``index`` rang. May raise QueueError."""


def read_bytes(config: bytes | bytearray, offset: int, size: int) -> int:
    """``read_config`` of a configuration space held as bytes."""
    return int.from_bytes(config[offset : offset + size], "little")
