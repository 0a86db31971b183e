"""Coalesced port I/O for a polled UART: the kernel queues bytes for THR, user space takes them in batches.

A guest that prints by polling costs two exits a byte: IN from LSR, OUT to THR. LSR is constant here (transmission is instant), but
only a device may say so; the OUT however has no answer and can wait in KVM's coalesced ring (api.rst, 4.116), which
halves the exits, and with the FIFO on (Linux writes 16 bytes per LSR poll) leaves one of seventeen.

What must hold, and how:

* Order. Any exit drains the ring before a device sees it (``RunLoop.drain``).
* Interrupts. With IER.THRI on, each byte raises an interrupt, which needs an exit: the zone goes before that write to IER returns.
* Nothing stays unseen. While the zone is registered a timer drains it every TICK; after IDLE_TICKS without a byte the zone is
  taken away and the timer with it. No zone, no timer: an idle guest costs nothing.
* One ring serves the whole VM, so only one port uses it: the console.
* A guest that rarely prints never pays for it: the zone comes after STREAK polled bytes in a row.
"""

from __future__ import annotations

from struct import Struct
from time import monotonic_ns

from pyvmm.kvm import structs, uapi
from pyvmm.layout import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.bus import Mapping
    from pyvmm.devices.serial import Serial
    from pyvmm.machine import Machine

STREAK = 64
TICK_NS = 20_000_000
IDLE_TICKS = 10
_ENTRY = Struct("<QII8s")  # struct kvm_coalesced_mmio: phys_addr, len, pio, data


class CoalescedSerial:
    """Watches one serial port's writes and has its THR coalesced while that pays.

    Args:
        machine: for its VM, run loops and timer.
        mapping: the port's mapping; its ``write`` is replaced.
        serial: the device behind it.
    """

    def __init__(self, machine: Machine, mapping: Mapping, serial: Serial) -> None:
        self.machine = machine
        self.mapping = mapping
        self.serial = serial
        self.on = False
        self.batches = 0  # how often the ring was found with something in it: exits that did not happen, seen from here
        self._streak = 0
        self._idle = 0
        self._timer = machine.loop.make_timer(self._tick)
        self._write = mapping.write
        mapping.write = self.write

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

    def start(self) -> None:
        """Registers the zone."""
        machine = self.machine
        if not machine.vm.check_extension(uapi.KVM_CAP_COALESCED_PIO):  # Linux before 4.20
            self._streak = -(1 << 62)
            return
        ring = machine.vm.check_extension(uapi.KVM_CAP_COALESCED_MMIO) * PAGE
        machine.vm.coalesce(self.mapping.base, 1, pio=True)
        self._page = machine.vcpus[0].page[ring : ring + PAGE]  # the ring is the VM's: every vCPU's mapping shows the same page
        self._indices = self._page.cast("I")
        self.on = True
        self._idle = 0
        for loop in machine.runloops:
            loop.drain = self.drain
        self._timer.arm(monotonic_ns() + TICK_NS)

    def stop(self) -> None:
        """Takes the zone away, then whatever was still queued."""
        if not self.on:
            return
        self._timer.cancel()
        self.machine.vm.coalesce(self.mapping.base, 1, pio=True, on=False)
        self.drain()
        self.on = False  # not sooner: a tapped port sends the drained bytes through ``write``, which must not start anew
        for loop in self.machine.runloops:
            loop.drain = None
        self._indices.release()
        self._page.release()

    def drain(self) -> None:
        """Hands queued bytes to the device, in order. With the machine lock held."""
        indices = self._indices
        first, last = indices[0], indices[1]
        if first == last:
            return
        self._idle = 0
        self.batches += 1
        entries = structs.COALESCED_RING_MAX
        data = bytearray()
        while first != last:
            data.append(_ENTRY.unpack_from(self._page, 8 + first * _ENTRY.size)[3][0])
            first = (first + 1) % entries
        indices[0] = first
        if self.mapping.write == self.write:
            self.serial.write_thr_batch(bytes(data))
        else:  # somebody taps the port and wants to see each byte
            for byte in data:
                self.mapping.write(0, 1, byte)

    def _tick(self) -> None:
        self.drain()
        self._idle += 1
        if self._idle > IDLE_TICKS:
            self.stop()
        else:
            self._timer.arm(monotonic_ns() + TICK_NS)
