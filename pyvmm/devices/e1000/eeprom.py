"""The 64-word EEPROM and its two ways in: EERD, a word a read, and EECD, by whose pins a driver speaks Microwire (SDM 5).

Linux reads all 64 words by pins at probe, some 10,000 register accesses: ``write_eecd`` only looks for edges.

Microwire (93C46): with CS high, each rising edge of SK takes one bit of DI: start bit 1, two bits of opcode, six of
address. After READ each rising edge gives one bit of data, most significant first, word after word.
"""

from __future__ import annotations

from pyvmm.record import Record

WORDS = 64
CHECKSUM_AT, CHECKSUM = 0x3F, 0xBABA  # all words add up to this

SK, CS, DI, DO, REQ, GNT, PRESENT = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 7, 1 << 8
_DRIVEN = SK | CS | DI | 3 << 4 | REQ  # what a driver writes; 5:4 would enable writes to a flash

EERD_START, EERD_DONE = 1 << 0, 1 << 4

_COMMAND_BITS = 9  # start, opcode, address
_WRITE_BITS = 16
_EXTENDED, _WRITE, _READ, _ERASE = 0, 1, 2, 3  # opcodes
_DISABLE, _WRITE_ALL, _ERASE_ALL, _ENABLE = 0, 1, 2, 3  # of the extended opcode: address bits 5:4


class EepromState(Record):
    """What a snapshot holds of the EEPROM.

    Fields:
        words: contents, 16 bits each.
        pins: what the driver drove last.
        out: level of DO.
        shift, count: bits taken since CS rose, and how many.
        reading: number of the next bit to give out, -1 when not reading.
        writable: the "erase/write enable" latch.
    """

    words: list[int] = [0] * WORDS
    pins: int = 0
    out: int = 1
    shift: int = 0
    count: int = 0
    reading: int = -1
    writable: bool = False


def image(mac: bytes, device: int, subsystem: tuple[int, int]) -> list[int]:
    """Contents as a factory would leave them (SDM 5.6): address, ids, defaults, checksum.

    Args:
        mac: 6 bytes.
        device: PCI device id; the vendor is Intel.
        subsystem: (vendor id, id).
    """
    words = [0] * WORDS
    words[0:3] = [mac[at] | mac[at + 1] << 8 for at in (0, 2, 4)]
    words[0x0A] = 0x6400  # initialization control 1: ids from here
    words[0x0B], words[0x0C], words[0x0D], words[0x0E] = subsystem[1], subsystem[0], device, 0x8086
    words[0x0F] = 0x3040  # initialization control 2: pause both ways, auto-negotiation
    words[CHECKSUM_AT] = CHECKSUM - sum(words) & 0xFFFF
    return words


class Eeprom:
    """The chip and its two registers."""

    def __init__(self, words: list[int]) -> None:
        self.state = EepromState(words=words)

    def read_eecd(self) -> int:
        """13.4.3. A request for the bus is granted at once."""
        state = self.state
        pins = state.pins
        return pins | PRESENT | (DO if state.out else 0) | (GNT if pins & REQ else 0)

    def write_eecd(self, value: int) -> None:
        state = self.state
        before = state.pins
        state.pins = value & _DRIVEN
        if value & CS:
            if not before & CS:
                state.shift = state.count = 0
                state.reading = -1
                state.out = 1  # ready: programming takes no time
            if value & SK and not before & SK:
                at = state.reading
                if at >= 0:
                    state.out = state.words[at >> 4] >> (15 - (at & 15)) & 1
                    state.reading = at + 1 & 16 * WORDS - 1
                elif state.count or value & DI:  # zeros before the start bit do not count
                    self._take(1 if value & DI else 0)
        elif before & CS and state.count == _COMMAND_BITS + _WRITE_BITS:
            self._program()

    def _take(self, bit: int) -> None:
        state = self.state
        if state.count >= _COMMAND_BITS + _WRITE_BITS:
            return
        state.shift = state.shift << 1 | bit
        state.count += 1
        if state.count != _COMMAND_BITS:
            return
        opcode, address = state.shift >> 6 & 3, state.shift & WORDS - 1
        if opcode == _READ:
            state.reading = address << 4
            state.out = 0  # the bit before the first of data
        elif opcode == _ERASE:
            self._store(address, address + 1, 0xFFFF)
        elif opcode == _EXTENDED:
            kind = address >> 4
            if kind in (_ENABLE, _DISABLE):
                state.writable = kind == _ENABLE
            elif kind == _ERASE_ALL:
                self._store(0, WORDS, 0xFFFF)

    def _program(self) -> None:
        """CS falls after command and data."""
        state = self.state
        opcode, address, data = state.shift >> 22 & 3, state.shift >> 16 & WORDS - 1, state.shift & 0xFFFF
        state.count = 0
        if opcode == _WRITE:
            self._store(address, address + 1, data)
        elif opcode == _EXTENDED and address >> 4 == _WRITE_ALL:
            self._store(0, WORDS, data)

    def _store(self, start: int, end: int, data: int) -> None:
        if self.state.writable:
            self.state.words[start:end] = [data] * (end - start)

    def eerd(self, value: int) -> int:
        """13.4.4: what EERD reads after ``value`` was written; done at once. Addresses behind the end read as all ones."""
        if not value & EERD_START:
            return 0
        address = value >> 8 & 0xFF
        data = self.state.words[address] if address < WORDS else 0xFFFF
        return data << 16 | address << 8 | EERD_DONE

    def reset(self) -> None:
        """The pins; what is written stays, without power too."""
        self.state = EepromState(words=self.state.words)
