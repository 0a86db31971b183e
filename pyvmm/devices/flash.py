"""NOR flash with the Intel basic command set (CFI algorithm 0001), one byte wide, as QEMU's pflash_cfi01 is on its PC.

Reading an address gives the byte in the array until a command is written, to any address; from then on it gives the status, the
identity or the CFI table, until 0xFF. So the array is memory for the guest in the first case and nobody's in the other: ``expose`` says
which. Only writes, and reads outside array mode, come here.

Where QEMU's differs from Intel's data sheets (28F008SA and its kin), it is followed, as OVMF goes by it: 0x50 leaves a status of 0x00
(without the ready bit) and array mode; a programmed byte is what was written, not the AND with what was there.

Whatever a guest writes: an operation ends inside the array, or in the two error bits of a wrong command sequence.
"""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 4096  # what an erase clears; OVMF counts on it
BUFFER = 2048  # at most in one buffered write, which must not cross a multiple

ARRAY, PROGRAM, PROGRAM_40, ERASE, CLEAR_STATUS, LOCK, STATUS, IDENTITY, QUERY = 0xFF, 0x10, 0x40, 0x20, 0x50, 0x60, 0x70, 0x90, 0x98
BUFFERED, CONFIRM, LOCK_CONFIRM, ARRAY_ALSO = 0xE8, 0xD0, 0x01, (0xFF, 0xF0, 0x00)  # AMD's reset command; QEMU takes 0x00 so as well

READY, ERASE_ERROR, PROGRAM_ERROR = 0x80, 0x20, 0x10


class FlashState(Record):
    """What it is in the middle of.

    Fields:
        command: what reads are answered by.
        cycle: how many writes of the command have come; 0: the next one is a command.
        status: the register.
        left: bytes a buffered write still expects.
        start: the first address of a buffered write; -1 while none has come.
        buffer: its bytes, as (address, value).
    """

    command: int = ARRAY
    cycle: int = 0
    status: int = 0
    left: int = 0
    start: int = -1
    buffer: list[tuple[int, int]] = []


class Flash:
    """One chip: map it with the array's length.

    Args:
        name: for messages.
        array: its contents, whole blocks; changed in place.
        store: writes bytes at an offset to where the contents are kept; OSError is a failed operation for the guest.
        expose: True: the guest reads the array as memory; False: reads come here.
    """

    registers = "pyvmm.devices.flash_regs:REGISTERS"

    def __init__(self, name: str, array: memoryview, store: Callable[[int, bytes], None], expose: Callable[[bool], None]) -> None:
        self.name = name
        self.array = array
        self._store = store
        self._expose = expose
        self._exposed = True
        self.state = FlashState(buffer=[])
        self._table = _query(len(array))

    # --- the guest's side --------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        command = self.state.command
        if command == ARRAY:
            return int.from_bytes(self.array[offset : offset + size], "little")
        if command == IDENTITY:
            return 0  # maker and device, as QEMU's PC has them; and no block is locked
        if command == QUERY:
            return self._table[offset & 0xFF] if offset & 0xFF < len(self._table) else 0
        return self.state.status

    def write(self, offset: int, size: int, value: int) -> None:
        state, byte = self.state, value & 0xFF
        if state.cycle == 0:
            self._begin(byte)
        elif state.command in (PROGRAM, PROGRAM_40):
            self._finish(self._put(offset, value.to_bytes(size, "little")), PROGRAM_ERROR)
        elif byte in ARRAY_ALSO[:2] and state.cycle == 1 and state.command != BUFFERED:
            self._to_array()
        elif state.command == ERASE:
            if byte == CONFIRM:
                self._finish(self._put(offset & -BLOCK, b"\xff" * BLOCK), ERASE_ERROR)
            else:
                self._wrong()
        elif state.command == LOCK:
            if byte in (CONFIRM, LOCK_CONFIRM):
                self._finish(True, 0)  # blocks have no lock
            else:
                self._wrong()
        else:
            self._buffered(offset, size, value)

    def reset(self) -> None:
        """Power-on: the array can be read; it keeps what it has."""
        self.state = FlashState(buffer=[])
        self._show(True)

    # --- commands ----------------------------------------------------------------------------------------------------
    def _begin(self, command: int) -> None:
        state = self.state
        if command == CLEAR_STATUS:
            state.status = 0
            self._to_array()
        elif command in ARRAY_ALSO:
            self._to_array()
        elif command in (PROGRAM, PROGRAM_40, ERASE, LOCK, BUFFERED):
            state.command, state.cycle = command, 1
            if command == BUFFERED:
                state.status |= READY  # the buffer is free
            self._show(False)
        elif command in (STATUS, IDENTITY, QUERY):
            state.command = command
            self._show(False)
        else:
            self._wrong()

    def _buffered(self, offset: int, size: int, value: int) -> None:
        """0xE8, then the number of bytes less one, the bytes, and a confirmation."""
        state = self.state
        if state.cycle == 1:
            if value >= BUFFER:
                self._wrong()
                return
            state.left, state.cycle, state.start = value + 1, 2, -1
            state.buffer.clear()
        elif state.cycle == 2:
            if state.start < 0:
                state.start = offset
            if offset // BUFFER != state.start // BUFFER or (offset + size - 1) // BUFFER != state.start // BUFFER or size > state.left:
                self._wrong()
                return
            state.buffer += [(offset + at, value >> 8 * at & 0xFF) for at in range(size)]
            state.left -= size
            state.cycle += not state.left
        elif value & 0xFF == CONFIRM:
            first = state.start & -BUFFER
            block = bytearray(self.array[first : first + BUFFER])
            for at, byte in state.buffer:
                block[at - first] = byte
            places = [at - first for at, _ in state.buffer]
            begin, end = min(places), max(places) + 1
            self._finish(self._put(first + begin, bytes(block[begin:end])), PROGRAM_ERROR)
        else:
            self._wrong()

    def _put(self, offset: int, data: bytes) -> bool:
        """Stores first: what the guest reads back is kept."""
        if offset + len(data) > len(self.array):
            return False
        try:
            self._store(offset, data)
        except OSError:
            return False
        self.array[offset : offset + len(data)] = data
        return True

    def _finish(self, done: bool, error: int) -> None:
        state = self.state
        state.status |= READY if done else READY | error
        state.cycle = 0  # reads give the status until the next command

    def _wrong(self) -> None:
        """A command there is not, or a wrong second half: both error bits, and the array."""
        self.state.status |= READY | ERASE_ERROR | PROGRAM_ERROR
        self._to_array()

    def _to_array(self) -> None:
        self.state.command, self.state.cycle = ARRAY, 0
        self._show(True)

    def _show(self, on: bool) -> None:
        if on != self._exposed:
            self._exposed = on
            self._expose(on)


def _query(size: int) -> bytes:
    """The CFI table (JEDEC JESD68.01): "QRY", command set 1, no alternative, voltages, times, and how the array is divided."""
    blocks = size // BLOCK - 1
    table = bytearray(0x31)
    table[0x10:0x17] = b"QRY" + bytes((1, 0, 0x31, 0))
    table[0x1B:0x1D] = b"\x45\x55"  # 4.5 to 5.5 V
    table[0x1F:0x27] = bytes((7, 7, 10, 0, 4, 4, 4, 0))  # typical and longest times, as powers of 2
    table[0x27] = (size - 1).bit_length()
    table[0x28:0x2A] = b"\2\0"  # bus width: 8 or 16
    table[0x2A] = BUFFER.bit_length() - 1
    table[0x2C] = 1  # one region: blocks less one, size of each in 256 bytes
    table[0x2D:0x31] = (blocks & 0xFFFF).to_bytes(2, "little") + (BLOCK >> 8).to_bytes(2, "little")
    return bytes(table)
