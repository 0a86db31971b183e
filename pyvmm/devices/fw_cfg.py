"""QEMU's firmware configuration device (docs/specs/fw_cfg.rst): named byte strings for SeaBIOS, OVMF and test guests.

    +0  selector, 2 bytes, write     +1  data, 1 byte, read; the next byte at each read
    +4  DMA address, high half, big-endian     +8  low half; writing its last byte starts

Both ports overlap as they do in QEMU: a 16-bit write selects, an 8-bit read at +1 is data. Nothing can be written into
an item. What is past an item's end, or in an item that is not there, reads as zeros.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError, GuestFault
from pyvmm.layout import E820_RAM, MIB, ram_regions
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.memory import GuestMemory

SELECTOR, DATA, DMA = 0, 1, 4
LENGTH = 12

SIGNATURE_KEY, ID_KEY, RAM_SIZE_KEY, NOGRAPHIC_KEY, CPUS_KEY, MAX_CPUS_KEY, DIRECTORY_KEY = 0x00, 0x01, 0x03, 0x04, 0x05, 0x0F, 0x19
FIRST_FILE_KEY, LAST_FILE_KEY = 0x20, 0x3FFF
KEY_MASK = 0xBFFF  # bit 14 once asked for the write channel and selects nothing
ID_TRADITIONAL, ID_DMA = 0x1, 0x2
DMA_SIGNATURE = b"QEMU CFG"
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 0x01, 0x02, 0x04, 0x08, 0x10
NAME_MAX = 55  # and a NUL

ZERO_FILL_MAX = 16 * MIB  # how far past an item's end one DMA may read: it must not hold up the machine
_CHUNK = bytes(64 * 1024)


class FwCfgState(Record):
    """What a snapshot of the device holds.

    Fields:
        key: the selected item.
        offset: of the next byte in it.
        dma: the DMA address registers.
    """

    key: int = 0
    offset: int = 0
    dma: bytearray = bytearray(8)


class FwCfg:
    """The device: map it with length ``LENGTH`` and width 8.

    Args:
        memory: where DMA goes.
        cpus, max_cpus: what firmware is told.

    Attributes:
        selected: called with the key of an item that is selected, before anything of it is read; None for nobody.
    """

    registers = "pyvmm.devices.fw_cfg_regs:REGISTERS"

    def __init__(self, memory: GuestMemory, cpus: int, max_cpus: int | None = None) -> None:
        self.name = "fw_cfg"
        self.memory = memory
        self.state = FwCfgState()
        self.items: dict[int, bytes] = {}
        self.files: dict[str, int] = {}  # name -> key
        self.selected: Callable[[int], None] | None = None
        self.add_item(SIGNATURE_KEY, b"QEMU")
        self.add_item(ID_KEY, (ID_TRADITIONAL | ID_DMA).to_bytes(4, "little"))
        self.add_item(RAM_SIZE_KEY, memory.size.to_bytes(8, "little"))
        self.add_item(NOGRAPHIC_KEY, (1).to_bytes(2, "little"))
        self.add_item(CPUS_KEY, cpus.to_bytes(2, "little"))
        self.add_item(MAX_CPUS_KEY, (max_cpus or cpus).to_bytes(2, "little"))
        ram = (gpa.to_bytes(8, "little") + size.to_bytes(8, "little") for gpa, size in ram_regions(memory.size))
        self.add_file("etc/e820", b"".join(entry + E820_RAM.to_bytes(4, "little") for entry in ram))

    # --- the host's side ---------------------------------------------------------------------------------------------
    def add_item(self, key: int, data: bytes) -> None:
        """Sets what the guest reads under a numbered key."""
        self.items[key] = data

    def add_file(self, name: str, data: bytes) -> int:
        """Adds a named item, or replaces it; returns its key.

        Raises:
            ConfigError: the name does not fit into the directory, or the directory is full.
        """
        encoded = name.encode()
        key = self.files.get(name, FIRST_FILE_KEY + len(self.files))
        if not encoded or len(encoded) > NAME_MAX or b"\0" in encoded:
            raise ConfigError(f"fw_cfg file {name!r}: give a name of 1 to {NAME_MAX} bytes")
        if key > LAST_FILE_KEY:
            raise ConfigError(f"fw_cfg file {name!r}: no room for more files")
        self.files[name] = key
        self.add_item(key, data)
        directory = [len(self.files).to_bytes(4, "big")]
        for listed, at in self.files.items():
            entry = len(self.items[at]).to_bytes(4, "big") + at.to_bytes(2, "big") + bytes(2)
            directory.append(entry + listed.encode().ljust(NAME_MAX + 1, b"\0"))
        self.add_item(DIRECTORY_KEY, b"".join(directory))
        return key

    # --- the guest's side --------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return self._next_byte()
        if offset < DMA:
            return 0
        return int.from_bytes(DMA_SIGNATURE[offset - DMA : offset - DMA + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == SELECTOR:
            self._select(value & 0xFFFF)
        elif offset >= DMA:
            self._write_address(offset - DMA, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def reset(self) -> None:
        self.state = FwCfgState()

    def _select(self, key: int) -> None:
        self.state.key = key & KEY_MASK
        self.state.offset = 0
        if self.selected is not None:
            self.selected(self.state.key)

    def _next_byte(self) -> int:
        state = self.state
        item = self.items.get(state.key, b"")
        if state.offset >= len(item):
            return 0
        value = item[state.offset]
        state.offset += 1
        return value

    def _write_address(self, at: int, data: bytes) -> None:
        """The two halves are big-endian: the byte at the lowest port is the highest of the address."""
        state = self.state
        data = data[: 8 - at]
        state.dma[at : at + len(data)] = data
        if at + len(data) == 8:
            address = int.from_bytes(state.dma, "big")
            state.dma[:] = bytes(8)
            self._dma(address)

    def _dma(self, address: int) -> None:
        """Does what the structure at ``address`` asks; its control word then says 0, or error. An address outside RAM
        leaves no place to say anything."""
        try:
            structure = self.memory.view(address, 16)
        except GuestFault:
            return
        control, length = (int.from_bytes(structure[at : at + 4], "big") for at in (0, 4))
        target = int.from_bytes(structure[8:16], "big")
        if control & DMA_SELECT:
            self._select(control >> 16)
        if control & DMA_READ:
            done = self._dma_read(target, length)
        elif control & DMA_SKIP and not control & DMA_WRITE:
            self._advance(length)
            done = True
        else:
            done = not control & DMA_WRITE  # no item may be written
        structure[0:4] = (0 if done else DMA_ERROR).to_bytes(4, "big")

    def _dma_read(self, target: int, length: int) -> bool:
        state = self.state
        item = self.items.get(state.key, b"")
        data = item[state.offset : state.offset + length]
        if length - len(data) > ZERO_FILL_MAX:
            return False
        try:
            view = self.memory.view(target, length)
        except GuestFault:
            return False
        view[: len(data)] = data
        for at in range(len(data), length, len(_CHUNK)):
            rest = min(length - at, len(_CHUNK))
            view[at : at + rest] = _CHUNK[:rest]
        self._advance(length)
        return True

    def _advance(self, length: int) -> None:
        """Moves on, not past the end: the offset stays small whatever a guest skips."""
        state = self.state
        state.offset = max(state.offset, min(state.offset + length, len(self.items.get(state.key, b""))))
