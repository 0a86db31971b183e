"""The driver's half of an 82540EM for tests: resets and reads its EEPROM as Linux does, keeps rings, sends and receives."""

from __future__ import annotations

import struct

from pyvmm.backends.net.backend import Wire
from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000 import eeprom as chip
from pyvmm.devices.e1000.card import E1000
from pyvmm.memory import GuestMemory
from tests.support.fakes import FakeLine, FakeTime

MIB = 1 << 20
MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("020000000001")
TX_RING, RX_RING, TX_BUFFERS, RX_BUFFERS = 0x10000, 0x20000, 1 * MIB, 4 * MIB
MEMORY = 8 * MIB
LINUX_INTERRUPTS = c.RXT0 | c.TXDW | c.RXDMT0 | c.RXSEQ | c.LSC


class FakeWire(Wire):
    """Takes what the card sends; counts ``resume``."""

    def __init__(self, offload: bool = False) -> None:
        super().__init__("net0")
        self.offload = offload
        self.link = True
        self.sent: list[bytes] = []
        self.headers: list[bytes | None] = []
        self.resumed = 0

    def send(self, frame: bytes | bytearray | memoryview, header: bytes | bytearray | memoryview | None = None) -> None:
        self.sent.append(bytes(frame))
        self.headers.append(None if header is None else bytes(header))

    def resume(self) -> None:
        self.resumed += 1


class Rig:
    """A card in a machine of nothing else: memory, time, interrupt line, wire; memory and I/O decoding and bus mastering on."""

    def __init__(self, offload: bool = False, memory: GuestMemory | None = None) -> None:
        self.memory = memory or GuestMemory(MEMORY)
        self.time = FakeTime(start=10**9)
        self.line = FakeLine()
        self.wire = FakeWire(offload)
        self.card = E1000("e1000-0", self.memory, self.wire, MAC, self.time.make_timer, self.time.clock)
        self.card.intx = self.line
        self.card.write_config(4, 2, 7)

    def read(self, offset: int) -> int:
        return self.card.mac.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.card.mac.write(offset, 4, value)


def frame(payload: bytes = b"", target: bytes = MAC, source: bytes = PEER, kind: int = 0x88B5) -> bytes:
    """An Ethernet frame without FCS; not padded."""
    return target + source + kind.to_bytes(2, "big") + payload


class Driver:
    """A driver bound to a Rig's card.

    Attributes:
        tx_count, rx_count: descriptors in the rings.
        rx_size: bytes of a receive buffer.
        fcs: bytes that the card adds to a received frame.
    """

    def __init__(self, rig: Rig, tx_count: int = 16, rx_count: int = 16) -> None:
        self.rig = rig
        self.read, self.write = rig.read, rig.write
        self.tx_count, self.rx_count = tx_count, rx_count
        self.rx_size = 2048
        self.fcs = 4
        self.tx_tail = self.rx_next = 0
        self.tx_buffer = TX_BUFFERS

    # --- bring-up ----------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """e1000_reset_hw for an 82540: CTRL.RST goes through the I/O window."""
        self.write(c.IMC, 0xFFFF_FFFF)
        self.write(c.RCTL, 0)
        self.write(c.TCTL, c.TCTL_PSP)
        self.rig.card.io.write(c.IOADDR, 4, c.CTRL)
        self.rig.card.io.write(c.IODATA, 4, self.read(c.CTRL) | c.CTRL_RST)
        self.write(c.MANC, self.read(c.MANC) & ~(1 << 13))
        self.write(c.IMC, 0xFFFF_FFFF)
        self.read(c.ICR)

    def open(self, rctl: int = c.RCTL_EN | c.RCTL_BAM, tctl: int = c.TCTL_EN | c.TCTL_PSP, rx_size: int = 2048) -> None:
        """Rings of empty descriptors, all receive buffers but one given to the card, both units on."""
        self.rx_size, self.fcs = rx_size, 0 if rctl & c.RCTL_SECRC else 4
        memory = self.rig.memory
        memory.write(TX_RING, bytes(16 * self.tx_count))
        for base, ring, count in ((c.TDBAL, TX_RING, self.tx_count), (c.RDBAL, RX_RING, self.rx_count)):
            self.write(base, ring & 0xFFFF_FFFF)
            self.write(base + 4, ring >> 32)
            self.write(base + 8, 16 * count)
            self.write(base + 0x10, 0)
            self.write(base + 0x18, 0)
        for index in range(self.rx_count):
            memory.write(RX_RING + 16 * index, struct.pack("<QQ", RX_BUFFERS + index * 0x4000, 0))
        self.tx_tail = self.rx_next = 0
        self.write(c.TCTL, tctl)
        self.write(c.RCTL, rctl)
        self.write(c.RDT, self.rx_count - 1)

    # --- EEPROM by pins ----------------------------------------------------------------------------------------------
    def _pins(self, value: int) -> None:
        self.write(c.EECD, value)

    def _clock_out(self, base: int, value: int, count: int) -> None:
        for bit in reversed(range(count)):
            pins = base | (chip.DI if value >> bit & 1 else 0)
            self._pins(pins)
            self._pins(pins | chip.SK)
            self._pins(pins)

    def eeprom_select(self) -> int:
        """Asks for the bus and raises CS; returns the pins to go on with."""
        self._pins(self.read(c.EECD) | chip.REQ)
        assert self.read(c.EECD) & chip.GNT
        base = chip.REQ
        self._pins(base)
        self._pins(base | chip.CS)
        return base | chip.CS

    def eeprom_release(self) -> None:
        """CS falls, the bus is given back."""
        self._pins(chip.REQ)
        self._pins(chip.REQ | chip.SK)
        self._pins(chip.REQ)
        self._pins(0)

    def eeprom_read(self, address: int, count: int = 1) -> list[int]:
        """Words by Microwire."""
        base = self.eeprom_select()
        self._clock_out(base, 0b110 << 6 | address, 9)
        words = []
        for _ in range(count):
            word = 0
            for _ in range(16):
                self._pins(base | chip.SK)
                word = word << 1 | (1 if self.read(c.EECD) & chip.DO else 0)
                self._pins(base)
            words.append(word)
        self.eeprom_release()
        return words

    def eeprom_command(self, value: int, count: int) -> None:
        """Any command, most significant bit first."""
        base = self.eeprom_select()
        self._clock_out(base, value, count)
        self._pins(base & ~chip.CS)
        self._pins(base)
        assert self.read(c.EECD) & chip.DO, "still busy"
        self.eeprom_release()

    # --- PHY ---------------------------------------------------------------------------------------------------------
    def phy_read(self, number: int, address: int = 1) -> int:
        """By MDIC; the value with READY and ERROR."""
        self.write(c.MDIC, number << 16 | address << 21 | 2 << 26)
        return self.read(c.MDIC) & ~0xFFF_0000

    def phy(self, number: int) -> int:
        """A PHY register's 16 bits."""
        value = self.phy_read(number)
        assert value & ~0xFFFF == 1 << 28
        return value & 0xFFFF

    def phy_write(self, number: int, value: int) -> None:
        """By MDIC."""
        self.write(c.MDIC, value | number << 16 | 1 << 21 | 1 << 26)
        assert self.read(c.MDIC) >> 28 & 5 == 1

    # --- transmit ----------------------------------------------------------------------------------------------------
    def put(self, low: int, high: int) -> int:
        """Writes a descriptor, without ringing; returns its index."""
        index = self.tx_tail
        self.rig.memory.write(TX_RING + 16 * index, struct.pack("<QQ", low, high))
        self.tx_tail = (index + 1) % self.tx_count
        return index

    def ring(self) -> None:
        """The doorbell."""
        self.write(c.TDT, self.tx_tail)

    def buffer(self, data: bytes) -> int:
        """Puts bytes somewhere; returns the address."""
        if self.tx_buffer + len(data) > RX_BUFFERS:
            self.tx_buffer = TX_BUFFERS
        address = self.tx_buffer
        self.rig.memory.write(address, data)
        self.tx_buffer += len(data) + 63 & ~63
        return address

    def legacy(self, data: bytes, flags: int = 0x0B, **fields: int) -> int:
        """A legacy descriptor: flags are EOP|IFCS|RS unless told; fields ``cso``, ``css``, ``special``."""
        high = len(data) | fields.get("cso", 0) << 16 | flags << 24 | fields.get("css", 0) << 40 | fields.get("special", 0) << 48
        return self.put(self.buffer(data), high)

    def context(
        self,
        ip: tuple[int, int, int] = (0, 0, 0),
        tcp: tuple[int, int, int] = (0, 0, 0),
        command: int = 0,
        header: int = 0,
        mss: int = 0,
        payload: int = 0,
    ) -> int:
        """A context descriptor; (start, field, end) for both checksums; ``command`` is TUCMD."""
        low = ip[0] | ip[1] << 8 | ip[2] << 16 | tcp[0] << 32 | tcp[1] << 40 | tcp[2] << 48
        return self.put(low, payload | command << 24 | 1 << 29 | header << 40 | mss << 48)

    def data(self, data: bytes, flags: int = 0x0B, options: int = 0, special: int = 0) -> int:
        """A data descriptor; flags are EOP|IFCS|RS unless told (TSE is 4, VLE 0x40)."""
        return self.put(self.buffer(data), len(data) | 1 << 20 | (flags | 0x20) << 24 | options << 40 | special << 48)

    def send(self, data: bytes, late: bool = False) -> bytes:
        """One frame, by a legacy descriptor; what the wire got. ``late``: with IDE."""
        before = len(self.rig.wire.sent)
        self.legacy(data, 0x8B if late else 0x0B)
        self.ring()
        assert len(self.rig.wire.sent) == before + 1
        return self.rig.wire.sent[-1]

    def done(self, index: int) -> bool:
        """Whether a transmit descriptor came back."""
        return bool(self.rig.memory.read(TX_RING + 16 * index + 12, 1)[0] & 1)

    # --- receive -----------------------------------------------------------------------------------------------------
    def collect(self, refill: bool = True) -> list[tuple[bytes, int, int, int]]:
        """Frames that have arrived: (bytes without FCS, status, errors, special) of the last descriptor each."""
        memory = self.rig.memory
        found, parts = [], b""
        while True:
            at = RX_RING + 16 * self.rx_next
            address, length, _, status, errors, special = struct.unpack("<QHHBBH", memory.read(at, 16))
            if not status & 1:
                break
            parts += memory.read(address, length)
            memory.write(at + 8, bytes(8))
            if status & 2:
                found.append((parts[: len(parts) - self.fcs], status, errors, special))
                parts = b""
            last, self.rx_next = self.rx_next, (self.rx_next + 1) % self.rx_count
            if refill:
                self.write(c.RDT, last)
        return found

    def frames(self, refill: bool = True) -> list[bytes]:
        """Frames that have arrived, bytes without FCS."""
        return [each[0] for each in self.collect(refill)]
