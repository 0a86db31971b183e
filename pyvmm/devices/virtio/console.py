"""virtio-console: one port, Linux's hvc0 (Virtio specification 1.2, 5.3). Lives on the main loop, machine lock held.

Input goes as far as the driver has posted buffers; what it does not take stays with the console, and with the writer at the
other end. Output goes a share at a time, so that a driver with a gigabyte to say stops neither the loop nor the run's end.
"""

from __future__ import annotations

from pyvmm.devices.virtio.device import VirtioDevice, read_bytes
from pyvmm.devices.virtio.queue import QueueError
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.virtio.device import Loop
    from pyvmm.scatter import Views

F_SIZE, F_EMERG_WRITE = 1 << 0, 1 << 2  # 5.3.3
RX, TX = 0, 1  # 5.3.2: of port 0
EMERG_WR = 8  # offset in the configuration space
CONFIG_LENGTH = 12
_SHARE = 32 << 10  # bytes of output before the others on the loop get their turn
_TURN = 256  # requests, likewise


class ConsoleState(Record):
    """What a snapshot holds of a console port.

    Fields:
        columns, rows: of the terminal; 0 when nobody knows.
        printed: bytes of the driver's oldest request that are printed already.
    """

    columns: int = 0
    rows: int = 0
    printed: int = 0


class VirtioConsole(VirtioDevice):
    """A console port. Fits a backend as a serial port does (``receive``, ``on_room``).

    Args:
        name: for messages.
        loop: the main loop.
        output: takes what the guest prints.
        size: columns and rows of the terminal, None when there is none.

    Attributes:
        on_room: called when the driver has posted buffers for input.
    """

    device_id = 3
    pci_class = 0x078000
    features = F_EMERG_WRITE
    queue_sizes = (128, 128)
    registers = "pyvmm.devices.virtio.console_regs:REGISTERS"

    def __init__(self, name: str, loop: Loop, output: Callable[[bytes], object], size: tuple[int, int] | None = None) -> None:
        super().__init__(name, loop)
        self.output = output
        self.on_room: Callable[[], None] | None = None
        self.state = ConsoleState()
        if size is not None:
            self.state = ConsoleState(columns=size[0] & 0xFFFF, rows=size[1] & 0xFFFF)
            self.features = F_EMERG_WRITE | F_SIZE
        self._offered = b""  # input, while ``receive`` looks for buffers
        self._head = -1  # the chain whose output has begun
        self._views: list[memoryview] = []  # what is left of it

    # --- registers and life -----------------------------------------------------------------------------------------
    def read_config(self, offset: int, size: int) -> int:
        config = self.state.columns | self.state.rows << 16 | 1 << 32  # max_nr_ports: this one
        return read_bytes(config.to_bytes(CONFIG_LENGTH, "little"), offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        if offset == EMERG_WR:  # 5.3.4: at any time, before there is a queue
            self.output(bytes((value & 0xFF,)))

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size now."""
        self.state.columns, self.state.rows = columns & 0xFFFF, rows & 0xFFFF
        if self.features & F_SIZE:
            self.signals.config()

    def stop(self, index: int | None) -> None:
        if index != RX:
            self._head, self._views = -1, []
            self.state.printed = 0

    # --- on the loop -------------------------------------------------------------------------------------------------
    def serve(self, index: int) -> None:
        if index == TX:
            self._transmit()
        elif self._offered:
            self._fill()
        elif self.on_room is not None:
            self.on_room()

    def receive(self, data: bytes) -> int:
        """Takes what the posted buffers hold; returns how many bytes that was. ``on_room`` tells when it is worth another try."""
        self._offered = data
        self.signals.serve(RX)  # does nothing while there is no driver
        left, self._offered = self._offered, b""
        return len(data) - len(left)

    def _fill(self) -> None:
        queue = self.queues[RX]
        if queue is None:
            return
        try:
            while self._offered:
                chain = queue.pop()
                if chain is None:
                    if not queue.enable_kicks():
                        return
                    continue
                if chain.faulty:
                    raise QueueError(chain.faulty)
                data = self._offered[: chain.writable_length]
                self._offered = self._offered[len(data) :]
                written = 0
                for view in chain.writable:
                    part = data[written : written + len(view)]
                    view[: len(part)] = part
                    written += len(part)
                queue.push(chain.head, written)
        finally:
            if queue.should_signal():
                self.signals.queue(RX)

    def _transmit(self) -> None:
        queue = self.queues[TX]
        if queue is None:
            return
        queue.disable_kicks()
        share, turn = _SHARE, _TURN
        try:
            while share > 0 and turn > 0:
                if self._head < 0:
                    chain = queue.pop()
                    if chain is None:
                        if not queue.enable_kicks():
                            return
                        turn -= 1
                        continue
                    if chain.faulty:
                        raise QueueError(chain.faulty)
                    self._head, self._views = chain.head, _behind(chain.readable, self.state.printed)
                share -= self._print(share)
                if not self._views:
                    queue.push(self._head, 0)
                    self._head = -1
                    self.state.printed = 0
                    turn -= 1
            self.signals.kick(TX)
        finally:
            if queue.should_signal():
                self.signals.queue(TX)

    def _print(self, most: int) -> int:
        """Prints at most so many bytes of the present chain; returns how many."""
        data = bytearray()
        views = self._views
        while views and len(data) < most:
            view = views[0]
            room = most - len(data)
            data += view[:room]
            if len(view) > room:
                views[0] = view[room:]
            else:
                del views[0]
        if data:
            self.output(bytes(data))
            self.state.printed += len(data)
        return len(data)


def _behind(views: Views, count: int) -> list[memoryview]:
    """What comes after the first ``count`` bytes."""
    for number, view in enumerate(views):
        if count < len(view):
            return [view[count:], *list(views)[number + 1 :]]
        count -= len(view)
    return []
