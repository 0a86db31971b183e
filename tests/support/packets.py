"""IPv4, IPv6, TCP and UDP packets built and checked bit by bit, with nothing of ``pyvmm.net``."""

from __future__ import annotations

import struct

MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("020000000001")


def reference_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _tcp(payload: bytes, sequence: int, flags: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 1234, 80, sequence, 42, 5 << 4, flags, 1000, 0, 0) + payload


def _ipv4(body: bytes, protocol: int, identification: int, checksums: bool, at: int) -> bytes:
    addresses = bytes([10, 0, 2, 15, 10, 0, 2, 2])
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), identification, 0x4000, 64, protocol, 0) + addresses
    if checksums:
        total = reference_checksum(addresses + struct.pack(">BBH", 0, protocol, len(body)) + body)
        body = body[:at] + struct.pack(">H", total or 0xFFFF) + body[at + 2 :]
        header = header[:10] + struct.pack(">H", reference_checksum(header)) + header[12:]
    return MAC + PEER + b"\x08\x00" + header + body


def ipv4_tcp(payload: bytes, sequence: int = 7, flags: int = 0x18, identification: int = 3, checksums: bool = True) -> bytes:
    """An Ethernet frame: IPv4, TCP without options."""
    return _ipv4(_tcp(payload, sequence, flags), 6, identification, checksums, 16)


def udp(payload: bytes, checksums: bool = True) -> bytes:
    """An Ethernet frame: IPv4, UDP."""
    return _ipv4(struct.pack(">HHHH", 1, 2, 8 + len(payload), 0) + payload, 17, 3, checksums, 6)


def ipv6_tcp(payload: bytes, sequence: int = 7, flags: int = 0x18, identification: int = 3, checksums: bool = True) -> bytes:
    """An Ethernet frame: IPv6, TCP without options."""
    addresses = bytes(range(1, 33))
    body = _tcp(payload, sequence, flags)
    if checksums:
        total = reference_checksum(addresses + struct.pack(">II", len(body), 6) + body)
        body = body[:16] + struct.pack(">H", total) + body[18:]
    return MAC + PEER + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body), 6, 64) + addresses + body


def valid(frame: bytes) -> bool:
    """Whether lengths fit and every checksum is right, of TCP or UDP in IPv4 or IPv6, behind VLAN tags."""
    at = 12
    while frame[at : at + 2] == b"\x81\0":
        at += 4
    packet = frame[at + 2 :]
    if packet[0] >> 4 == 4:
        length = struct.unpack_from(">H", packet, 2)[0]
        if length > len(packet) or reference_checksum(packet[:20]):
            return False
        addresses, body, protocol = packet[12:20], packet[20:length], packet[9]
        pseudo = addresses + struct.pack(">BBH", 0, protocol, len(body))
    else:
        length = 40 + struct.unpack_from(">H", packet, 4)[0]
        if length > len(packet):
            return False
        addresses, body, protocol = packet[8:40], packet[40:length], packet[6]
        pseudo = addresses + struct.pack(">II", len(body), protocol)
    return reference_checksum(pseudo + body) == 0
