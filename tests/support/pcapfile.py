"""Reads a pcap file and looks at every frame in it: lengths, checksums of IP, TCP, UDP and ICMP, the steps of DHCP."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.guestnet import checksum as slow_checksum

DHCP = {1: "discover", 2: "offer", 3: "request", 5: "ack", 6: "nak"}


@dataclass
class Seen:
    """What a file holds.

    Attributes:
        bad: one line per fault.
        dhcp: message types in order.
        kinds: frames per kind.
        longest: bytes of the longest frame.
    """

    frames: int = 0
    longest: int = 0
    bad: list[str] = field(default_factory=list)
    dhcp: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(time in ns, length on the wire, bytes) of each frame; ValueError for what is no pcap file."""
    data = path.read_bytes()
    magic, _, _, _, _, _, link = struct.unpack_from("<IHHiIII", data)
    if magic not in (0xA1B2_C3D4, 0xA1B2_3C4D) or link != 1:
        raise ValueError(f"{path}: magic {magic:#x}, link type {link}")
    unit, at = (1 if magic == 0xA1B2_3C4D else 1000), 24
    while at < len(data):
        seconds, fraction, kept, length = struct.unpack_from("<IIII", data, at)
        if at + 16 + kept > len(data):
            raise ValueError(f"{path}: cut off in a frame at {at}")
        yield seconds * 10**9 + fraction * unit, length, data[at + 16 : at + 16 + kept]
        at += 16 + kept


def checksum(data: bytes) -> int:
    """RFC 1071 over many bytes; 0 where a right checksum is inside."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + ((data[-1] << 8) if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def examine(path: Path, most: int = 20000) -> Seen:
    """Looks at the first ``most`` frames."""
    seen = Seen()
    before = 0
    for time, length, frame in frames(path):
        seen.frames += 1
        seen.longest = max(seen.longest, length)
        if seen.frames > most:
            continue
        if time < before:
            seen.bad.append(f"frame {seen.frames}: earlier than the one before")
        before = time
        fault = "shorter than a header" if len(frame) < 14 else _look(frame, seen) if len(frame) == length else ""
        if fault:
            seen.bad.append(f"frame {seen.frames}: {fault}: {frame[:80].hex()}")
    return seen


def _look(frame: bytes, seen: Seen) -> str:
    head = 18 if frame[12:14] == b"\x81\x00" else 14
    kind, body = frame[head - 2 : head], frame[head:]
    name = {b"\x08\x06": "arp", b"\x08\x00": "ipv4", b"\x86\xdd": "ipv6"}.get(kind, "other")
    if head == 18:
        seen.kinds["vlan"] = seen.kinds.get("vlan", 0) + 1
    fault = ""
    if name == "arp" and (len(body) < 28 or body[:6] != b"\0\1\x08\0\6\4"):
        fault = "malformed ARP"
    elif name == "ipv4":
        if len(body) < 20 or body[0] >> 4 != 4 or not 20 <= int.from_bytes(body[2:4], "big") <= len(body):
            return "malformed IPv4"
        start, end = (body[0] & 15) * 4, int.from_bytes(body[2:4], "big")
        if slow_checksum(body[:start]):
            return "IPv4's checksum"
        if int.from_bytes(body[6:8], "big") & 0x3FFF == 0:  # no fragment
            name, fault = _inner(body[9], body[12:20], body[start:end], seen)
    elif name == "ipv6":
        end = 40 + int.from_bytes(body[4:6], "big")
        if len(body) < 40 or len(body) < end:
            return "malformed IPv6"
        name, fault = _inner(body[6], body[8:40], body[40:end], seen)
    seen.kinds[name] = seen.kinds.get(name, 0) + 1
    return fault


def _inner(protocol: int, addresses: bytes, data: bytes, seen: Seen) -> tuple[str, str]:
    """(name, fault) of what is in an IP packet."""
    pseudo = addresses + struct.pack(">IHH", len(data), 0, protocol)
    if protocol == 1:
        return "icmp", "ICMP's checksum" if checksum(data) else ""
    if protocol == 58:
        return "icmp6", "ICMPv6's checksum" if checksum(pseudo + data) else ""
    if protocol == 6:
        return "tcp", "malformed TCP" if len(data) < 20 else "TCP's checksum" if checksum(pseudo + data) else ""
    if protocol == 17:
        if len(data) < 8 or int.from_bytes(data[4:6], "big") != len(data):
            return "udp", "malformed UDP"
        if {67, 68} == set(struct.unpack(">HH", data[:4])) and data[8 + 236 : 8 + 240] == b"\x63\x82\x53\x63":
            seen.dhcp.append(_dhcp(data[8 + 240 :]))
        return "udp", "UDP's checksum" if data[6:8] != b"\0\0" and checksum(pseudo + data) else ""
    return "other", ""


def _dhcp(options: bytes) -> str:
    at = 0
    while at + 2 < len(options) and options[at] != 255:
        if options[at] == 53:
            return DHCP.get(options[at + 2], str(options[at + 2]))
        at += 1 if options[at] == 0 else 2 + options[at + 1]
    return "none"
