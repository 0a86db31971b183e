"""What all virtio transports share: status, feature negotiation, queues, reset. Sections: Virtio specification 1.2.

A transport (pci.py, mmio.py) turns register accesses into calls here, machine lock held, and interrupts into what its bus
has. A device's I/O thread comes in without that lock: through ``serve``, ``broken`` and the interrupts.

``lock`` is a leaf: it protects the bits that both sides change (status, interrupt status, generation, which queues are running).
Under it nothing is called but the interrupt line.

Reset at any moment (2.4.1, 2.6.1): queues stop running, the device is told to stop, and when nothing is in flight any more,
status reads 0. Waiting for that is bounded; a driver that comes too early reads the old status and asks again.
"""

from __future__ import annotations

from time import monotonic, sleep

from pyvmm.devices.virtio.doorbells import Doorbells
from pyvmm.devices.virtio.queue import QueueError, VirtQueue
from pyvmm.record import Record
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pyvmm.devices.virtio.device import VirtioDevice
    from pyvmm.devices.virtio.doorbells import Bind
    from pyvmm.memory import GuestMemory

    class Transport(Protocol):
        """What the core asks of its transport."""

        def notify(self, index: int | None) -> None:
            """Interrupts for queue ``index``, or for the configuration (None). Any thread."""

        def set_level(self, level: int) -> None:
            """Drives the interrupt pin. Any thread, ``lock`` held."""

        def device_reset(self) -> None:
            """The driver's reset is complete: forget what was pending. Machine lock held."""


ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80  # 2.1
DRIVER_BITS = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED

ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_RESET = 1 << 27, 1 << 28, 1 << 29, 1 << 32, 1 << 40  # 6, 6.3
FEATURES = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET

ISR_QUEUE, ISR_CONFIG = 1, 2  # 4.1.4.5, 4.2.2
NO_VECTOR = 0xFFFF
VENDOR = 0x1AF4

PATIENCE = 0.05  # seconds for what is in flight when a driver resets; the machine lock is held
PATIENCE_AGAIN = 0.005  # and each time it asks whether the reset is done


class QueueState(Record):
    """The registers of one queue, and where its rings are read and written next (valid after ``VirtioCore.save``)."""

    size: int
    enabled: int = 0
    desc: int = 0
    driver: int = 0
    device: int = 0
    vector: int = NO_VECTOR
    last_avail: int = 0
    next_used: int = 0


class CoreState(Record):
    """All registers of a virtio device but its own configuration.

    Fields:
        isr: ISR_* bits that the driver has not taken yet.
        queues: a QueueState for each queue.
    """

    queues: list[QueueState]
    status: int = 0
    device_feature_select: int = 0
    driver_feature_select: int = 0
    driver_features: int = 0
    queue_select: int = 0
    config_vector: int = NO_VECTOR
    config_generation: int = 0
    isr: int = 0


class VirtioCore:
    """The registers behind a transport.

    Args:
        device: what it carries.
        memory: guest RAM, where the rings are.
        transport: notify(), set_level(), device_reset().
        bind: makes ioeventfds (``doorbells``); None: every kick is an exit.
        transitional: a driver may do without VERSION_1 and FEATURES_OK (``legacy``).

    Attributes:
        offered, legacy_offered: the feature bits the driver may choose from; one without VERSION_1.
        queues: the rings of a running device; None where the driver has enabled none.
        paused: nothing is served for now (bus master is off); what is in flight completes.
        held: likewise (``hold``).
        trouble: why NEEDS_RESET was last set, "" if never.
    """

    def __init__(
        self, device: VirtioDevice, memory: GuestMemory, transport: Transport, bind: Bind | None = None, transitional: bool = False
    ) -> None:
        self.device = device
        self.transport = transport
        self.offered = device.features | FEATURES
        self.legacy_offered = (self.offered | ANY_LAYOUT) & 0xFFFF_FFFF if transitional else 0
        self.lock = Lock()
        self.doorbells = Doorbells(device.loop, self.serve, bind)
        self.paused = self.held = False
        self.trouble = ""
        count = len(device.queue_sizes)
        self.queues: list[VirtQueue | None] = [None] * count
        self.state = self._power_on()
        self._memory = memory
        self._running = [False] * count
        self._serving = [0] * count  # how many calls of device.serve are under way
        self._late = [False] * count  # doorbells that rang while the device was held
        self._resetting = False
        self._stopping: set[int] = set()  # queues whose reset is not complete
        signals = device.signals
        signals.queue = self._queue_interrupt
        signals.config = self._config_changed
        signals.broken = self.broken
        signals.kick = self.kick
        signals.serve = self.serve

    def _power_on(self) -> CoreState:
        return CoreState(queues=[QueueState(size=size) for size in self.device.queue_sizes])

    # --- status and features -----------------------------------------------------------------------------------------
    @property
    def resetting(self) -> bool:
        """A reset is not complete: of the registers only status means anything."""
        return self._resetting

    def read_status(self) -> int:
        """device_status; 0 once a reset is complete."""
        if self._resetting:
            self._finish_reset(PATIENCE_AGAIN)
        return self.state.status

    def write_status(self, value: int) -> None:
        """0 resets; other bits are only ever added (2.1.1)."""
        if self._resetting and not self._finish_reset(PATIENCE_AGAIN):
            return
        if not value:
            self.reset()
            return
        state = self.state
        new = value & DRIVER_BITS & ~state.status
        if new & FEATURES_OK and not self._acceptable(state.driver_features):
            new &= ~FEATURES_OK
        if new & DRIVER_OK and not (state.status | new) & FEATURES_OK and not self._legacy(state.driver_features):
            new &= ~DRIVER_OK  # 3.1.1: not without what step 5 has settled
        with self.lock:
            state.status |= new
        if new & DRIVER_OK:
            self._start()

    def _acceptable(self, features: int) -> bool:
        """2.2.2, 6.1: VERSION_1 (others do without FEATURES_OK), nothing that was not offered, dependencies met."""
        return bool(features & VERSION_1) and not features & ~self.offered and self.device.accepts(features)

    def _legacy(self, features: int) -> bool:
        """2.2.3: likewise, of a driver that has only ever heard of 32 bits."""
        return bool(self.legacy_offered) and not features & ~self.legacy_offered and self.device.accepts(features & ~ANY_LAYOUT)

    def device_features(self) -> int:
        """The 32 offered bits that device_feature_select chooses."""
        return self.offered >> 32 * self.state.device_feature_select & 0xFFFF_FFFF if self.state.device_feature_select < 2 else 0

    def driver_features(self) -> int:
        """The 32 chosen bits that driver_feature_select chooses."""
        return (
            self.state.driver_features >> 32 * self.state.driver_feature_select & 0xFFFF_FFFF if self.state.driver_feature_select < 2 else 0
        )

    def write_driver_features(self, value: int) -> None:
        """Sets these 32 bits, until FEATURES_OK."""
        state = self.state
        if state.driver_feature_select < 2 and not state.status & FEATURES_OK:
            shift = 32 * state.driver_feature_select
            state.driver_features = state.driver_features & ~(0xFFFF_FFFF << shift) | (value & 0xFFFF_FFFF) << shift

    # --- queues ------------------------------------------------------------------------------------------------------
    def selected(self) -> QueueState | None:
        """The registers of the queue that queue_select chooses; None: there is none."""
        state = self.state
        return state.queues[state.queue_select] if state.queue_select < len(state.queues) else None

    def configurable(self) -> QueueState | None:
        """The same, as long as they may be written: an enabled queue keeps what it has (4.1.4.3.2)."""
        queue = self.selected()
        return None if queue is None or queue.enabled or self._resetting else queue

    def size_max(self) -> int:
        """The largest size of the selected queue; 0: there is none."""
        index = self.state.queue_select
        return self.device.queue_sizes[index] if index < len(self.device.queue_sizes) else 0

    def set_size(self, value: int) -> None:
        """A smaller size for the selected queue; what cannot be is ignored."""
        queue = self.configurable()
        if queue is not None and 0 < value <= self.size_max() and not value & (value - 1):
            queue.size = value

    def enable_queue(self) -> None:
        """``queue_enable`` of the selected queue; one enabled after DRIVER_OK runs at once (2.6.1)."""
        queue = self.configurable()
        if queue is None:
            return
        queue.enabled = 1
        index = self.state.queue_select
        if self.state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK:
            ring = self._ring(index)
            if ring is not None:
                self.queues[index] = ring
                self.device.queue_started(index, ring)
                self._run([index])

    def reset_queue(self) -> None:
        """``queue_reset`` of the selected queue (2.6.1); ``queue_resetting`` tells when it is complete."""
        queue = self.selected()
        if queue is None or not queue.enabled or self._resetting:
            return
        index = self.state.queue_select
        with self.lock:
            self._running[index] = False
        self._stopping.add(index)
        self.device.stop(index)
        self._finish_queue_reset(index, PATIENCE)

    def queue_resetting(self) -> bool:
        """Whether the selected queue's reset is not complete."""
        index = self.state.queue_select
        if index in self._stopping:
            self._finish_queue_reset(index, PATIENCE_AGAIN)
        return index in self._stopping

    def _finish_queue_reset(self, index: int, timeout: float) -> None:
        if self._quiet(index, timeout):
            self._stopping.discard(index)
            self.queues[index] = self.device.queues[index] = None
            self.state.queues[index] = QueueState(size=self.device.queue_sizes[index])

    def _ring(self, index: int) -> VirtQueue | None:
        """The ring of an enabled queue; None, and the device is broken, when there cannot be one."""
        registers, features = self.state.queues[index], self.state.driver_features
        try:
            self.doorbells.open(index)
            return VirtQueue(
                self._memory,
                registers.size,
                registers.desc,
                registers.driver,
                registers.device,
                event_idx=bool(features & EVENT_IDX),
                indirect=bool(features & INDIRECT_DESC),
                last_avail=registers.last_avail,
                next_used=registers.next_used,
            )
        except QueueError as error:
            self.broken(f"queue {index}: {error}")
        except OSError as error:
            self.broken(f"queue {index}: the host has no eventfd left: {error.strerror}")
        return None

    # --- running -----------------------------------------------------------------------------------------------------
    def _start(self) -> None:
        rings: list[VirtQueue | None] = [None] * len(self.queues)
        enabled = [index for index, registers in enumerate(self.state.queues) if registers.enabled]
        for index in enabled:
            rings[index] = self._ring(index)
            if rings[index] is None:
                return
        self.queues = rings
        self.device.start(list(rings), self.state.driver_features)
        self._run(enabled)

    def _run(self, indices: list[int]) -> None:
        with self.lock:
            for index in indices:
                self._running[index] = not self.state.status & NEEDS_RESET  # its thread may just have found the ring broken
        for index in indices:
            self.doorbells.ring(index)  # kicks may have come before (3.1.1: drivers fill queues first)

    def kick(self, index: int) -> None:
        """The driver wrote to a doorbell that KVM does not answer (any index), or the device itself rings. Any thread."""
        if index < len(self._running) and self._running[index]:
            self.doorbells.ring(index)

    def serve(self, index: int) -> None:
        """A doorbell rang: lets the device look at its queue, on the thread of its loop."""
        with self.lock:
            if not self._running[index] or self.paused or self.held:
                self._late[index] = self._running[index]
                return
            self._serving[index] += 1
        try:
            self.device.serve(index)
        except QueueError as error:
            self.broken(f"queue {index}: {error}")
        finally:
            with self.lock:
                self._serving[index] -= 1

    def pause(self, on: bool) -> None:
        """Stops serving for a while, or goes on with all queues."""
        before, self.paused = self.paused, on
        if before and not on:
            self._ring_all()

    def hold(self, on: bool) -> None:
        """The same for whoever wants to look at the device, beside what the driver says; on go those queues whose doorbell rang."""
        with self.lock:
            self.held = on
            late = [] if on else [index for index, rang in enumerate(self._late) if rang]
        for index in late:
            self._late[index] = False
            self.kick(index)

    def _ring_all(self) -> None:
        for index, running in enumerate(self._running):
            if running:
                self.doorbells.ring(index)

    def drained(self, timeout: float) -> bool:
        """Held: waits until what was begun is done, resets included. False: not within ``timeout`` seconds."""
        if not self._quiet(None, timeout):
            return False
        if self._resetting:
            return self._finish_reset(0)
        for index in list(self._stopping):
            self._finish_queue_reset(index, 0)
        return True

    def broken(self, text: str) -> None:
        """The driver broke the rules: NEEDS_RESET (2.1.2). No queue is served until it resets. Any thread."""
        with self.lock:
            status = self.state.status
            if not status or status & NEEDS_RESET:
                return
            self.state.status = status | NEEDS_RESET
            self._running = [False] * len(self._running)
            self.trouble = text
        if status & DRIVER_OK:
            self.transport.notify(None)

    # --- reset -------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Begins a reset and, as a rule, completes it."""
        with self.lock:
            self._running = [False] * len(self._running)
        self._resetting = True
        self.device.stop(None)
        self._finish_reset(PATIENCE)

    def _finish_reset(self, timeout: float) -> bool:
        if not self._quiet(None, timeout):
            return False
        self._stopping.clear()
        self.queues = [None] * len(self.queues)
        self.device.reset()
        self.device.queues = [None] * len(self.queues)  # rings hold views of guest memory
        self.device.negotiated = 0
        fresh = self._power_on()
        with self.lock:
            fresh.config_generation = self.state.config_generation
            self.state = fresh
            self.transport.set_level(0)
        self.transport.device_reset()
        self._resetting = False
        return True

    def _quiet(self, index: int | None, timeout: float) -> bool:
        """Waits until nothing of this queue (None: of none) is in flight."""
        deadline = monotonic() + timeout
        serving = self._serving
        while True:
            if not (any(serving) if index is None else serving[index]):  # asked first: what serve() hands on is the device's
                if self.device.idle(index):
                    return True
                if self.device.wait_idle(index, max(deadline - monotonic(), 0)):
                    continue
            if monotonic() >= deadline:
                return False
            sleep(0.0002)

    # --- interrupts --------------------------------------------------------------------------------------------------
    def _queue_interrupt(self, index: int) -> None:
        if self.state.status & DRIVER_OK:
            self.transport.notify(index)

    def _config_changed(self) -> None:
        with self.lock:
            state = self.state
            state.config_generation = state.config_generation + 1 & 0xFF
        if state.status & DRIVER_OK:
            self.transport.notify(None)

    def raise_isr(self, bit: int) -> None:
        """Sets a bit of the interrupt status and the pin. Any thread."""
        with self.lock:
            if self.state.status & DRIVER_OK:
                self.state.isr |= bit
                self.transport.set_level(1)

    def clear_isr(self, bits: int) -> int:
        """Clears bits, the pin with the last of them; returns what was set before."""
        with self.lock:
            before = self.state.isr
            self.state.isr = before & ~bits
            self.transport.set_level(1 if self.state.isr else 0)
        return before

    # --- life --------------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Puts the rings' positions into ``state``; the device must be drained. A request it has begun all the same (a console's
        output) comes again: how far it got is in the device's own state."""
        for registers, ring in zip(self.state.queues, self.queues, strict=True):
            if ring is not None:
                registers.last_avail = registers.next_used = ring.next_used

    def lasting(self) -> list[tuple[int, int]]:
        """(gpa, length) of guest memory that is written without a fresh ``memory.view``: the used rings."""
        return [(self.state.queues[index].device, 6 + 8 * ring.size) for index, ring in enumerate(self.queues) if ring is not None]

    def track(self, on: bool) -> None:
        """Memory begins, or ends, to keep a record of what is written. Held and drained."""
        for ring in self.queues:
            if ring is not None:
                ring.track(on)

    def restored(self) -> None:
        """After ``state`` was assigned from outside, on a device that has not run since its reset: goes on where it stood."""
        with self.lock:
            self.transport.set_level(1 if self.state.isr else 0)
        if self.state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK:
            self._start()

    def close(self) -> None:
        """Gives the doorbells back, at the end of the run, when the loop is at rest."""
        self.doorbells.close()
