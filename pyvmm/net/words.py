"""A frame in words, for traces."""

from __future__ import annotations

from pyvmm.net.frames import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    OFFLOAD_HEADER,
    network_offset,
    transport_checks,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.net.frames import Buffer

_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_ARP = 0x0806


def summary(frame: Buffer) -> str:
    """Who sends what to whom: addresses, ethertype, length; and what is inside, if that is known."""
    target, source = (":".join(f"{byte:02x}" for byte in frame[at : at + 6]) for at in (0, 6))
    inside = contents(frame)
    return f"{source} > {target} type {int.from_bytes(frame[12:14], 'big'):04x} {len(frame)} bytes{', ' if inside else ''}{inside}"


def contents(frame: Buffer) -> str:
    """``IPv4 10.0.2.15 > 10.0.2.2 UDP 68 > 67``; "" for what is not known or too short."""
    at, kind = network_offset(frame)
    size = len(frame)
    tag = f"VLAN {(frame[14] & 0xF) << 8 | frame[15]} " if at >= 18 else ""
    if kind == _ARP and size >= at + 28:
        asked, asking = _dotted(frame[at + 24 : at + 28]), _dotted(frame[at + 14 : at + 18])
        return tag + (f"ARP who has {asked}, tell {asking}" if frame[at + 7] == 1 else f"ARP {asking} is here")
    if kind == ETHERTYPE_IPV4 and size >= at + 20:
        header = 4 * (frame[at] & 0xF)
        text = f"IPv4 {_dotted(frame[at + 12 : at + 16])} > {_dotted(frame[at + 16 : at + 20])} "
        fragment = (frame[at + 6] & 0x1F) << 8 | frame[at + 7]
        return tag + text + (f"fragment at {8 * fragment}" if fragment else _transport(frame, at + header, frame[at + 9]))
    if kind == ETHERTYPE_IPV6 and size >= at + 40:
        text = f"IPv6 {_colons(frame[at + 8 : at + 24])} > {_colons(frame[at + 24 : at + 40])} "
        return tag + text + _transport(frame, at + 40, frame[at + 6])
    return tag.rstrip()


def checks(frame: Buffer) -> str:
    """Whether the checksums inside are right, in words."""
    names = ("IP", "TCP/UDP")
    found = [
        f"{name} checksum {'right' if good else 'WRONG'}"
        for name, good in zip(names, transport_checks(frame), strict=True)
        if good is not None
    ]
    return ", ".join(found) or "no checksum to look at"


def offload(header: Buffer) -> str:
    """An offload header (virtio 1.2, 5.1.6) in words: what work it leaves."""
    flags, kind, length, mss, start, field, _ = OFFLOAD_HEADER.unpack(bytes(header[:12]).ljust(12, b"\0"))
    parts = []
    if flags & NEEDS_CSUM:
        parts.append(f"checksum from {start} at {start + field}")
    if kind:
        name = {GSO_TCPV4: "TCPv4", GSO_TCPV6: "TCPv6"}.get(kind & ~GSO_ECN, f"type {kind:#x}")
        parts.append(f"{name} segments of {mss} behind {length} bytes of headers")
    return ", ".join(parts) or "no work left"


def _transport(frame: Buffer, at: int, protocol: int) -> str:
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if name in ("TCP", "UDP") and len(frame) >= at + 4:
        return f"{name} {frame[at] << 8 | frame[at + 1]} > {frame[at + 2] << 8 | frame[at + 3]}"
    return name


def _dotted(address: Buffer) -> str:
    return ".".join(map(str, address))


def _colons(address: Buffer) -> str:
    return ":".join(f"{address[at] << 8 | address[at + 1]:x}" for at in range(0, 16, 2))
