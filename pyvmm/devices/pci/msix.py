"""MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages in a BAR of its own, masks, and the pending bits.

A vector's message is prepared when the guest writes it, so sending one is a look-up and an ioctl. What may not be sent
now (vector or function masked, bus master off) is remembered in the pending bits and sent when it may.
"""

from __future__ import annotations

from pyvmm.devices.pci.function import COMMAND
from pyvmm.record import Record
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.pci.function import PciFunction
    from pyvmm.irq import MakeMsi, SendMsi

CAP_ID = 0x11
ENABLE, FUNCTION_MASK = 1 << 15, 1 << 14  # message control
ENTRY = 16  # address, upper address, data, vector control
DATA, CONTROL = 8, 12
VECTOR_MASK = 1
MAX_VECTORS = 2048
_WRITABLE = bytes([0xFC, 0xFF, 0xFF, 0xFF, *[0xFF] * 8, VECTOR_MASK, 0, 0, 0])


class MsiXState(Record):
    """Table and pending bits; the capability's bits are in the function's configuration space.

    Fields:
        table: 16 bytes for each vector.
        pending: bit n is vector n's.
    """

    table: bytearray
    pending: int = 0


class MsiX:
    """The MSI-X capability of a function, and the device behind the BAR with its table and pending bits.

    Args:
        function: whose; gets a capability and a BAR.
        vectors: 1 to 2048.
        make_msi: turns (address, data) into the function that sends the message.
        bar_index: which BAR.

    Attributes:
        enabled: whether the guest has switched MSI-X on; the function's pin is silent then.
        on_enable: called after ``enabled`` changed, machine lock held.
    """

    registers = "pyvmm.devices.pci.msix_regs:ENTRY"

    def __init__(self, function: PciFunction, vectors: int, make_msi: MakeMsi, bar_index: int = 1) -> None:
        if not 0 < vectors <= MAX_VECTORS:
            raise ValueError(f"{function.name}: {vectors} MSI-X vectors; 1 to {MAX_VECTORS} are possible")
        self.name = f"{function.name}-msix"
        self.function = function
        self.vectors = vectors
        self.make_msi = make_msi
        self.enabled = False
        self.on_enable: Callable[[], None] | None = None
        self.state = MsiXState(table=_empty(vectors))
        self._open = False  # neither disabled nor masked as a whole, and bus master
        self._lock = Lock()  # pending bits and messages: trigger() comes from any thread
        self._messages: list[SendMsi | None] = [None] * vectors  # as made from the table; None: make it when needed
        self._ready: list[SendMsi | None] = [None] * vectors  # what trigger() calls; None: may not be sent now
        self._table_length = ENTRY * vectors
        self.pba = 0x800 if vectors <= 128 else -(-self._table_length // 0x1000) * 0x1000
        size = 0x1000
        while size < self.pba + vectors // 8 + 8:
            size *= 2
        function.add_bar(bar_index, size, self)
        body = (vectors - 1).to_bytes(2, "little") + bar_index.to_bytes(4, "little") + (self.pba | bar_index).to_bytes(4, "little")
        self.offset = function.add_capability(CAP_ID, body, (ENABLE | FUNCTION_MASK).to_bytes(2, "little"))
        function.watch(self.offset + 2, 2, self._configured)
        function.watch(COMMAND, 1, self._configured)
        function.at_reset.append(self.reset)

    # --- sending -----------------------------------------------------------------------------------------------------
    def trigger(self, vector: int) -> None:
        """Sends a vector's message, now or when it may be sent. Any thread; a vector that does not exist sends nothing."""
        if vector < self.vectors:
            with self._lock:  # held while sending: once a guest has masked a vector, nothing of it comes any more
                send = self._ready[vector]
                if send is not None:
                    send()
                elif self.enabled:
                    self.state.pending |= 1 << vector

    def forget(self) -> None:
        """Drops what is pending: the device was reset."""
        with self._lock:
            self.state.pending = 0

    def _configured(self) -> None:
        """Message control or the command register was written."""
        config = self.function.state.config
        control = config[self.offset + 2] | config[self.offset + 3] << 8
        enabled = bool(control & ENABLE)
        opened = enabled and not control & FUNCTION_MASK and self.function.bus_master
        changed, self.enabled = enabled != self.enabled, enabled
        if opened != self._open:
            self._open = opened
            for vector in range(self.vectors):
                self._refresh(vector)
        if changed:
            self.function.use_messages(enabled)
            if self.on_enable is not None:
                self.on_enable()

    def _refresh(self, vector: int) -> None:
        """After anything a vector's sending depends on has changed: sends what was pending if it may be sent now."""
        table, at = self.state.table, ENTRY * vector
        with self._lock:
            if not self._open or table[at + CONTROL] & VECTOR_MASK:
                self._ready[vector] = None
                return
            send = self._messages[vector]
            if send is None:
                address, data = int.from_bytes(table[at : at + DATA], "little"), int.from_bytes(table[at + DATA : at + CONTROL], "little")
                send = self._messages[vector] = self.make_msi(address, data)
            self._ready[vector] = send
            if self.state.pending >> vector & 1:
                self.state.pending &= ~(1 << vector)
                send()

    # --- the BAR -----------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        end = offset + size
        if end <= self._table_length:
            return int.from_bytes(self.state.table[offset:end], "little")
        if offset >= self.pba:
            return self.state.pending >> 8 * (offset - self.pba) & (1 << 8 * size) - 1
        if size > 1 and offset < self._table_length or end > self.pba:  # over the end of one of the two
            return sum(self.read(offset + at, 1) << 8 * at for at in range(size))
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        table, end = self.state.table, min(offset + size, self._table_length)
        if offset >= end:
            return
        with self._lock:
            for at in range(offset, end):
                table[at] = value & _WRITABLE[at % ENTRY]
                value >>= 8
            touched = range(offset // ENTRY, (end - 1) // ENTRY + 1)
            for vector in touched:
                if offset < ENTRY * vector + CONTROL:
                    self._messages[vector] = None
        for vector in touched:
            self._refresh(vector)

    def reset(self) -> None:
        """Power-on state of table and pending bits; the capability is the function's, whose reset calls this."""
        with self._lock:
            self.state = MsiXState(table=_empty(self.vectors))
        self.restored()

    def restored(self) -> None:
        """After ``state`` was assigned from outside."""
        self._messages = [None] * self.vectors
        self._configured()
        for vector in range(self.vectors):
            self._refresh(vector)


def _empty(vectors: int) -> bytearray:
    return bytearray((b"\0" * CONTROL + b"\1\0\0\0") * vectors)  # masked, each of them
