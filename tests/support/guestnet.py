"""A guest's network stack in a few lines: enough ARP, DHCP, ICMP, UDP and TCP to find out whether a wire leads anywhere.

It is a card (NetPeer) and answers on its own: ARP for its address, ICMP echo, and TCP connections to ``listen``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.backends.net.backend import NetBackend

MAC = b"\x52\x54\x00\x12\x34\x56"
BROADCAST = b"\xff" * 6
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16


def checksum(data: bytes) -> int:
    """RFC 1071, word by word: another way than the code under test."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + b"\0" * (len(data) & 1)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(text: str) -> bytes:
    """``10.0.2.2`` as 4 bytes."""
    return bytes(int(each) for each in text.split("."))


def ipv4(source: bytes, target: bytes, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet; UDP's and TCP's checksums are filled in."""
    if protocol in (6, 17):
        at = 16 if protocol == 6 else 6
        pseudo = source + target + struct.pack(">BBH", 0, protocol, len(payload))
        payload = payload[:at] + struct.pack(">H", checksum(pseudo + payload)) + payload[at + 2 :]
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, target)
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def udp(source: int, target: int, data: bytes) -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(data), 0) + data


def tcp(source: int, target: int, sequence: int, acknowledge: int, flags: int, data: bytes = b"", window: int = 60000) -> bytes:
    options = b"\x02\x04" + struct.pack(">H", 1460) if flags & _SYN else b""  # MSS
    offset = 5 + len(options) // 4 << 12
    head = struct.pack(">HHIIHHHH", source, target, sequence & 0xFFFF_FFFF, acknowledge & 0xFFFF_FFFF, offset | flags, window, 0, 0)
    return head + options + data


def dhcp(kind: int, transaction: int, options: bytes = b"", mac: bytes = MAC) -> bytes:
    """A DHCP message of a client (RFC 2131), without UDP."""
    head = struct.pack(">BBBBIHH4s4s4s4s16s192x", 1, 1, 6, 0, transaction, 0, 0x8000, b"", b"", b"", b"", mac)
    return head + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + options + b"\xff"


def _summed(frame: bytes) -> bytes:
    """A large TCP frame over IPv4 with the checksum that is left to the card: the field holds the pseudo header's sum."""
    return frame[:50] + struct.pack(">H", checksum(frame[34:])) + frame[52:]


class TcpConnection:
    """One connection of the guest's: in order, one segment at a time, as long as the wire loses none."""

    def __init__(self, guest: Guest, peer: bytes, port: int, local: int, passive: int | None = None) -> None:
        self._guest, self._peer, self._port, self._local = guest, peer, port, local
        self._next, self._expected = 1000, 0
        self.received = bytearray()
        self.established = self.closed = self.reset = False
        if passive is None:
            self._emit(_SYN)
        else:
            self._expected = passive + 1
            self._emit(_SYN | _ACK)
        self._next += 1

    def send(self, data: bytes) -> None:
        self._emit(_PSH | _ACK, data)
        self._next += len(data)

    def close(self) -> None:
        self._emit(_FIN | _ACK)
        self._next += 1

    def take(self, segment: bytes) -> None:
        _, _, sequence, _, flags = struct.unpack_from(">HHIIH", segment)
        data = segment[(flags >> 12) * 4 :]
        if flags & _RST:
            self.reset = self.closed = True
            return
        if flags & _SYN:
            self._expected = sequence + 1
            self._emit(_ACK)
        self.established = True
        if sequence == self._expected and (data or flags & _FIN):
            self.received += data
            self._expected += len(data) + (flags & _FIN)
            self.closed = bool(flags & _FIN)
            self._emit(_ACK)

    def _emit(self, flags: int, data: bytes = b"") -> None:
        segment = tcp(self._local, self._port, self._next, self._expected if flags & _ACK else 0, flags, data)
        self._guest.send_ip(self._peer, 6, segment)


class Guest:
    """The card, and what answers behind it.

    Attributes:
        room: buffers left, None for no end.
        frames: everything received.
    """

    def __init__(self, backend: NetBackend, address: str = "0.0.0.0", mac: bytes = MAC) -> None:
        self.backend = backend
        self.mac = mac
        self.address = ip(address)
        self.room: int | None = None
        self.frames: list[bytes] = []
        self.links: list[bool] = []
        self.neighbours: dict[bytes, bytes] = {}
        self.echoes: list[tuple[bytes, int, int, bytes]] = []  # ICMP echo replies: (from, id, sequence, data)
        self.datagrams: list[tuple[bytes, int, int, bytes]] = []  # (from, source port, port, data)
        self.dhcp: list[dict[int, bytes]] = []  # options of DHCP replies; 0: yiaddr
        self.connections: dict[tuple[bytes, int, int], TcpConnection] = {}
        self.listen: set[int] = set()

    # --- NetPeer -----------------------------------------------------------------------------------------------------
    def receive(self, frame: bytes | bytearray | memoryview, header: bytes | bytearray | memoryview | None = None) -> bool:
        if self.room == 0:
            return False
        if self.room is not None:
            self.room -= 1
        data = bytes(frame)
        self.frames.append(data)
        if header is not None and header[1]:
            data = _summed(data)
        if data[:6] in (self.mac, BROADCAST):
            if data[12:14] == b"\x08\x06":
                self._arp(data[14:])
            elif data[12:14] == b"\x08\x00":
                self._ip(data[14:])
        return True

    def burst(self, on: bool) -> None:
        pass

    def link_changed(self, up: bool) -> None:
        self.links.append(up)

    # --- out ---------------------------------------------------------------------------------------------------------
    def ask(self, address: str) -> None:
        """Sends an ARP request."""
        self._send_arp(1, BROADCAST, bytes(6), ip(address))

    def ping(self, address: str, sequence: int, data: bytes = b"abcdefgh") -> None:
        body = struct.pack(">BBHHH", 8, 0, 0, 77, sequence) + data
        self.send_ip(ip(address), 1, body[:2] + struct.pack(">H", checksum(body)) + body[4:])

    def send_udp(self, address: str, port: int, local: int, data: bytes) -> None:
        self.send_ip(ip(address), 17, udp(local, port, data))

    def discover(self) -> None:
        self.send_ip(b"\xff" * 4, 17, udp(68, 67, dhcp(1, 0x1234)))

    def request(self, address: bytes, server: bytes) -> None:
        self.send_ip(b"\xff" * 4, 17, udp(68, 67, dhcp(3, 0x1234, b"\x32\x04" + address + b"\x36\x04" + server)))

    def connect(self, address: str, port: int, local: int = 40000) -> TcpConnection:
        connection = TcpConnection(self, ip(address), port, local)
        self.connections[ip(address), port, local] = connection
        return connection

    def send_ip(self, target: bytes, protocol: int, payload: bytes) -> None:
        mac = self.neighbours.get(target, BROADCAST)
        self._send((mac + self.mac + b"\x08\x00" + ipv4(self.address, target, protocol, payload)).ljust(60, b"\0"))

    def _send_arp(self, operation: int, to: bytes, mac: bytes, address: bytes) -> None:
        body = struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, self.mac, self.address, mac, address)
        self._send((to + self.mac + b"\x08\x06" + body).ljust(60, b"\0"))

    def _send(self, frame: bytes) -> None:
        self.backend.send(frame)
        self.backend.flush()

    # --- in ----------------------------------------------------------------------------------------------------------
    def _arp(self, body: bytes) -> None:
        operation, mac, address, _, target = struct.unpack_from(">6xH6s4s6s4s", body)
        self.neighbours[address] = mac
        if operation == 1 and target == self.address:
            self._send_arp(2, mac, mac, address)

    def _ip(self, packet: bytes) -> None:
        length, protocol = struct.unpack_from(">2xH5xB", packet)
        source, target = packet[12:16], packet[16:20]
        header = (packet[0] & 15) * 4
        payload = packet[header:length]
        assert checksum(packet[:header]) == 0 and len(packet) >= length
        if protocol in (6, 17) and (protocol == 6 or payload[6:8] != b"\0\0"):
            assert checksum(source + target + struct.pack(">BBH", 0, protocol, len(payload)) + payload) == 0
        if protocol == 1:
            self._icmp(source, payload)
        elif protocol == 17:
            self._udp(source, payload)
        elif protocol == 6 and target == self.address:
            self._tcp(source, payload)

    def _icmp(self, source: bytes, message: bytes) -> None:
        kind, identifier, sequence = struct.unpack_from(">B3xHH", message)
        if kind == 0:
            self.echoes.append((source, identifier, sequence, message[8:]))
        elif kind == 8:
            body = b"\0\0\0\0" + message[4:]
            self.send_ip(source, 1, body[:2] + struct.pack(">H", checksum(body)) + body[4:])

    def _udp(self, source: bytes, datagram: bytes) -> None:
        sender, port = struct.unpack_from(">HH", datagram)
        if port != 68:
            self.datagrams.append((source, sender, port, datagram[8:]))
            return
        message, place = datagram[8:], 240
        options = {0: message[16:20]}
        while place < len(message) and message[place] != 255:
            if message[place] == 0:
                place += 1
                continue
            length = message[place + 1]
            options[message[place]] = message[place + 2 : place + 2 + length]
            place += 2 + length
        self.dhcp.append(options)

    def _tcp(self, source: bytes, segment: bytes) -> None:
        sender, port, sequence, _, flags = struct.unpack_from(">HHIIH", segment)
        connection = self.connections.get((source, sender, port))
        if connection is not None:
            connection.take(segment)
        elif flags & _SYN and port in self.listen:
            self.connections[source, sender, port] = TcpConnection(self, source, sender, port, sequence)
