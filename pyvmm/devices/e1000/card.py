"""The PCI function 8086:100E: BAR 0 is memory (128 KiB), BAR 1 the I/O window, INTA; no capabilities.

To a backend it is a ``NetPeer``: ``receive`` and ``link_changed``. Whoever wires the machine calls ``attach``.
"""

from __future__ import annotations

from pyvmm.devices.e1000.constants import IO_SIZE, IOADDR, IODATA, MMIO_SIZE
from pyvmm.devices.e1000.eeprom import image
from pyvmm.devices.e1000.mac import Mac
from pyvmm.devices.pci.function import BUS_MASTER, PciFunction
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.backend import NetBackend
    from pyvmm.devices.device import Clock, MakeTimer
    from pyvmm.ioloop import IoLoop
    from pyvmm.memory import GuestMemory

VENDOR, DEVICE, CLASS_ETHERNET, REVISION = 0x8086, 0x100E, 0x020000, 3
SUBSYSTEM = (0x8086, 0x001E)  # PRO/1000 MT Desktop Adapter


class IoWindowState(Record):
    """What a snapshot holds of the I/O window: the register offset that was written last."""

    address: int = 0


class IoWindow:
    """BAR 1 (SDM 13.2.2): IOADDR chooses a register, IODATA reads or writes it; dwords only. Linux resets an 82540 through it."""

    registers = "pyvmm.devices.e1000.regs:IO_REGISTERS"

    def __init__(self, name: str, mac: Mac) -> None:
        self.name = name
        self.mac = mac
        self.state = IoWindowState()

    def read(self, offset: int, size: int) -> int:
        if size == 4:
            if offset == IOADDR:
                return self.state.address
            if offset == IODATA and self.state.address < MMIO_SIZE:
                return self.mac.read(self.state.address, 4)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 4:
            if offset == IOADDR:
                self.state.address = value
            elif offset == IODATA and self.state.address < MMIO_SIZE:
                self.mac.write(self.state.address, 4, value)

    def reset(self) -> None:
        self.state = IoWindowState()


class E1000(PciFunction):
    """An 82540EM.

    Args:
        name: for messages.
        memory: where its DMA goes.
        backend: the wire.
        mac: 6 bytes, a unicast address.
        make_timer, clock: for interrupt moderation and long transmit queues.
        subsystem: (vendor id, id).

    Attributes:
        cable: plugged in; the link is up when the backend's is, too.
        receive: ``NetPeer.receive``: a frame from the wire. False: no buffer, offer it again after ``backend.resume()``.
        burst: ``NetPeer.burst``.
    """

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        backend: NetBackend,
        mac: bytes,
        make_timer: MakeTimer,
        clock: Clock,
        subsystem: tuple[int, int] = SUBSYSTEM,
    ) -> None:
        super().__init__(name, VENDOR, DEVICE, CLASS_ETHERNET, REVISION, subsystem)
        self.backend = backend
        self.cable = True
        self.wire_up = backend.link
        words = image(mac, DEVICE, subsystem)
        self.mac = Mac(name, memory, words, self.set_intx, backend.send, backend.flush, make_timer, clock, backend.offload)
        self.mac.receiver.resume = backend.resume
        self.receive = self.mac.receiver.receive
        self.burst = self.mac.interrupts.hold
        self.io = IoWindow(f"{name}-io", self.mac)
        self.add_bar(0, MMIO_SIZE, self.mac, width=4)
        self.add_bar(1, IO_SIZE, self.io, kind="io", width=4)
        self.mac.phy.carrier = self.wire_up
        self.mac.reset()

    def attach(self, loop: IoLoop) -> None:
        """Connects card and backend: from now on frames come."""
        self.backend.attach(loop, self)
        self.link_changed(self.backend.link)

    def on_command(self, command: int) -> None:
        self.mac.set_dma(bool(command & BUS_MASTER))

    def set_link(self, up: bool) -> None:
        """Plugs the cable in or pulls it, machine lock held."""
        self.cable = up
        self._carrier()

    def link_changed(self, up: bool) -> None:
        """The other end of the wire came up or went down (``NetPeer``)."""
        self.wire_up = up
        self._carrier()

    def _carrier(self) -> None:
        up = self.cable and self.wire_up
        if up != self.mac.phy.carrier:
            self.mac.phy.set_carrier(up)

    def reset(self) -> None:
        self.mac.reset()
        self.io.reset()
        super().reset()
