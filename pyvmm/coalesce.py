"""Coalesced writes: KVM queues them in a ring, user space takes them in batches, and the guest does not leave KVM_RUN for each.

Good for writes that have no answer and no consequence the guest could wait for without an exit: the transmit register of a polled
UART (``CoalescedSerial``), registers of a card that just remember (``CoalescedRegisters``). A ring serves the whole VM (api.rst, 4.116).

What must hold, and how:

* Order. Any exit, of any vCPU, drains the ring before a device sees it (``RunLoop.drain``); so does the I/O loop before a wire or
  a timer calls a device (``IoLoop.drain``). No device can tell that a write has waited. One kind of exit only looks at the ring
  (``RunLoop.patient``): a read of LSR, whose answer no byte that waits can change. Handing over each byte as the guest polls for
  the next cost twice what the exit did. A guest that looks twice without writing waits for something else: what it wrote comes out.
  It is by far the most frequent exit of a kernel that boots, so it has a handler of its own (``CoalescedSerial.poll``).
* Nothing stays unseen where time matters: who has such writes arms a timer, which wakes the I/O loop.
* A guest that rarely writes never pays for it: a zone comes after STREAK such writes, as registering one waits for all vCPUs.
* No zone, no price: the loops do not even ask.
"""

from __future__ import annotations

from struct import Struct
from time import monotonic_ns

from pyvmm.devices.serial import LSR, LSR_EMPTY
from pyvmm.errors import KvmError
from pyvmm.kvm import structs, uapi
from pyvmm.layout import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyvmm.bus import Mapping
    from pyvmm.devices.pci.function import Bar
    from pyvmm.devices.serial import Serial
    from pyvmm.machine import Machine
    from pyvmm.runloop import Handler, RunLoop

STREAK = 64
TICK_NS = 20_000_000
IDLE_TICKS = 10
SHORTAGE_NS = 1_000_000
_NEVER = -(1 << 62)
_ENTRY = Struct("<QII8s")  # struct kvm_coalesced_mmio: phys_addr, len, pio, data
_PIO, _DATA = 12, 16  # where in it


class CoalescedRing:
    """The VM's ring and its zones.

    Args:
        machine: for its VM, run loops, I/O loop and MMIO bus.

    Attributes:
        users: who may have zones; ``stop`` stops them.
        forbidden: no zones at all, while somebody wants to see every write; ``stop`` those that are there.
        take_port: gets what was written to the one coalesced port.
        patient: see ``RunLoop``.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.users: list[CoalescedSerial | CoalescedRegisters] = []
        self.take_port: Callable[[bytes], None]
        self.forbidden = False
        self.patient: dict[tuple[Any, int], Callable[[RunLoop, memoryview, int], Handler]] = {}  # every run loop's, from the first zone on
        self.indices: memoryview | None = None  # first and last, likewise; until ``close``
        self._zones = 0
        self._draining = False

    def add(self, base: int, length: int, pio: bool) -> bool:
        """Registers a zone, machine lock held. False: this kernel cannot, or has no room."""
        vm = self.machine.vm
        if pio and not vm.check_extension(uapi.KVM_CAP_COALESCED_PIO):  # Linux before 4.20
            return False
        try:
            vm.coalesce(base, length, pio)
        except KvmError:
            return False
        self._zones += 1
        if self.indices is None:
            ring = vm.check_extension(uapi.KVM_CAP_COALESCED_MMIO) * PAGE
            self._page = self.machine.vcpus[0].page[ring : ring + PAGE]  # the VM's: every vCPU's mapping shows the same page
            self.indices = self._page.cast("I")
            self.machine.at_end.append(self.close)
        if self._zones == 1:
            self._tell(self.drain)
        return True

    def remove(self, base: int, length: int, pio: bool) -> None:
        """Takes a zone away, then what was still queued."""
        self.machine.vm.coalesce(base, length, pio, on=False)
        self.drain()
        self._zones -= 1
        if not self._zones:
            self._tell(None)

    def _tell(self, drain: Callable[[], None] | None) -> None:
        self.machine.loop.drain = drain
        for loop in self.machine.runloops:
            loop.drain = drain
            if loop.patient is not self.patient:
                loop.patient = self.patient
                self.machine.ports.refresh()  # it finds its handlers anew

    def drain(self) -> None:
        """Hands queued writes to their devices, in order. With the machine lock held."""
        indices = self.indices
        assert indices is not None
        first, last = indices[0], indices[1]
        if first == last or self._draining:
            return
        self._draining = True
        data = bytearray()
        try:
            while first != last:
                end = last if first < last else structs.COALESCED_RING_MAX
                entries = self._page[8 + first * _ENTRY.size : 8 + end * _ENTRY.size]
                first = end % structs.COALESCED_RING_MAX
                if 0 in entries[_PIO :: _ENTRY.size].tobytes():
                    self._one_by_one(entries, data)
                else:  # a console's bytes, thousands of them while a kernel boots
                    data += entries[_DATA :: _ENTRY.size].tobytes()
            if data:
                self.take_port(bytes(data))
        finally:
            indices[0] = first
            self._draining = False

    def _one_by_one(self, entries: memoryview, data: bytearray) -> None:
        """Hands over entries with MMIO among them, before each of those the port's bytes; what is left of these stays in ``data``."""
        for address, length, pio, value in _ENTRY.iter_unpack(entries):
            if pio:
                data.append(value[0])
                continue
            if data:
                self.take_port(bytes(data))
                data.clear()
            self.machine.mmio.write(address, length, int.from_bytes(value[:length], "little"))

    def stop(self) -> None:
        """No zones for now; they may come again while the guest runs."""
        for user in self.users:
            user.stop()

    def close(self) -> None:
        """The run is over: no zones, and nobody holds the vCPU's page any more."""
        self.stop()
        if self.indices is not None:
            self.indices.release()
            self._page.release()
            self.indices = None


class CoalescedSerial:
    """Watches one serial port's writes and has its THR coalesced while that pays: one port, the console.

    A guest that prints by polling costs two exits a byte: IN from LSR, OUT to THR. LSR is constant here (transmission is
    instant), but only a device may say so. The OUT however can wait, which halves the exits, and with the FIFO on (Linux
    writes 16 bytes per LSR poll) leaves one of seventeen. Bytes come out when the ring is full, at the next TICK, or as above.

    While the zone is registered a timer drains it every TICK; after IDLE_TICKS without a byte the zone goes, and the timer with it.
    With IER.THRI on, each byte raises an interrupt, which needs an exit: the zone goes before that write to IER returns.

    Args:
        mapping: the port's mapping; its ``write`` is replaced.
        serial: the device behind it.
    """

    def __init__(self, ring: CoalescedRing, mapping: Mapping, serial: Serial) -> None:
        self.ring = ring
        self.mapping = mapping
        self.serial = serial
        self.on = False
        self.batches = 0  # how often the ring was found with something in it: exits that did not happen, seen from here
        self._streak = 0
        self._idle = 0
        self._timer = ring.machine.loop.make_timer(self._tick)
        self._write = mapping.write
        mapping.write = self.write
        ring.take_port = self._take
        ring.patient[serial.read, LSR] = self.poll  # whoever taps the port reads by another function, and sees all in order
        ring.users.append(self)

    def write(self, offset: int, size: int, value: int) -> None:
        """Stands before ``Serial.write`` on the bus."""
        self._write(offset, size, value)
        if offset:
            self._streak = 0
            if self.on and not self.serial.polled:
                self.stop()
        else:
            self._streak += 1
            if self._streak >= STREAK and not self.on:
                self._streak = 0
                if self.serial.polled:
                    self.start()

    def poll(self, loop: RunLoop, cells: memoryview, index: int) -> Handler:
        """A run loop's handler for reads of LSR, the answer into an item of its page.

        While the guest prints, each finds one more byte in the ring and nothing else in LSR. Both can be seen without the machine lock: one
        word and one attribute, and LSR is EMPTY only where a read with the lock, a moment before or after, would find it so.
        """
        serial, lock, indices, seen = self.serial, loop.lock, self.ring.indices, -1
        assert indices is not None

        def handler() -> None:
            nonlocal seen
            last = indices[1]
            if last != seen and serial.state.lsr == LSR_EMPTY:
                seen = last
                cells[index] = LSR_EMPTY
                return
            with lock:
                loop.look()
                cells[index] = serial.read(LSR, 1)

        return handler

    def start(self) -> None:
        """Registers the zone."""
        if self.ring.forbidden:
            return
        if not self.ring.add(self.mapping.base, 1, True):
            self._streak = _NEVER
            return
        self.on = True
        self._idle = 0
        self._timer.arm(monotonic_ns() + TICK_NS)

    def stop(self) -> None:
        """Takes the zone away, then whatever was still queued."""
        if not self.on:
            return
        self._timer.cancel()
        self.ring.remove(self.mapping.base, 1, True)
        self.on = False  # not sooner: a tapped port sends the drained bytes through ``write``, which must not start anew

    def _take(self, data: bytes) -> None:
        self._idle = 0
        self.batches += 1
        if self.mapping.write == self.write:
            self.serial.write_thr_batch(data)
        else:  # somebody taps the port and wants to see each byte
            for byte in data:
                self.mapping.write(0, 1, byte)

    def _tick(self) -> None:
        self.ring.drain()
        self._idle += 1
        if self._idle > IDLE_TICKS:
            self.stop()
        else:
            self._timer.arm(monotonic_ns() + TICK_NS)


class CoalescedRegisters:
    """Registers of a network card whose writes may wait until the card is looked at, by a vCPU, its wire or its timer.

    The one such write that somebody may wait for is that of new receive buffers: a card that is about to refuse a frame calls ``look``,
    and while one is refused the ring is looked at every SHORTAGE_NS.

    Args:
        bar: the card's registers; the ``write`` of its mapping is replaced, its ``on_place`` taken.
        ranges: (offset, length) in it.
        short: whether a frame waits for buffers.
    """

    def __init__(self, ring: CoalescedRing, bar: Bar, ranges: Sequence[tuple[int, int]], short: Callable[[], bool]) -> None:
        self.ring = ring
        self.ranges = ranges
        self.short = short
        self.on = False
        self._offsets = frozenset(at for base, length in ranges for at in range(base, base + length, 4))
        self._bar = bar
        self._base = 0
        self._streak = 0
        self._timer = ring.machine.loop.make_timer(self._tick)
        self._write = bar.mapping.write
        bar.mapping.write = self.write
        bar.on_place = self._placed
        ring.users.append(self)

    def write(self, offset: int, size: int, value: int) -> None:
        """Stands before the card's ``write`` on the bus."""
        self._write(offset, size, value)
        if offset in self._offsets:
            self._streak += 1
            if self._streak == STREAK and self._bar.base is not None:
                self.start()

    def start(self) -> None:
        """Registers the zones."""
        if self.on or self._bar.base is None or self.ring.forbidden:
            self._streak = 0
            return
        self._base = self._bar.base
        added: list[tuple[int, int, bool]] = []
        for offset, length in self.ranges:
            if not self.ring.add(self._base + offset, length, False):
                for each in added:
                    self.ring.remove(*each)
                self._streak = _NEVER
                return
            added.append((self._base + offset, length, False))
        self.on = True
        self._timer.arm(monotonic_ns() + SHORTAGE_NS)

    def stop(self) -> None:
        """Takes the zones away, then whatever was still queued."""
        if not self.on:
            return
        self.on = False
        self._timer.cancel()
        for offset, length in self.ranges:
            self.ring.remove(self._base + offset, length, False)
        self._streak = 0

    def look(self) -> None:
        """The card is short of buffers: whether the driver has posted some meanwhile, and again in a moment."""
        if self.on:
            self.ring.drain()
            self._timer.arm(monotonic_ns() + SHORTAGE_NS)

    def _tick(self) -> None:
        self.ring.drain()
        if self.short():
            self._timer.arm(monotonic_ns() + SHORTAGE_NS)

    def _placed(self, base: int | None) -> None:
        if base is None:
            self.stop()
