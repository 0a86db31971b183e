"""Internet checksums and TCP segmentation over Ethernet frames: pure functions, shared by NICs and backends.

A frame is what is on the wire without its FCS. Nothing here trusts what a guest says about its frame: offsets that do
not fit give "not done" (False, an empty list), never an exception.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_SEGMENTS = 2048  # of one frame: 64 KiB in pieces of 32 bytes; no sane stack sends smaller ones
ETH_HEADER, IPV4_HEADER, IPV6_HEADER, TCP_HEADER, UDP_HEADER = 14, 20, 40, 20, 8
ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, ETHERTYPE_QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
PROTOCOL_TCP, PROTOCOL_UDP = 6, 17
TCP_FIN, TCP_PSH, TCP_CWR = 0x01, 0x08, 0x80
_DONT_FRAGMENT, _MORE_FRAGMENTS = 0x4000, 0x2000  # of IPv4's flags and fragment offset
MIN_FRAME = 60  # IEEE 802.3 3.2.8: shorter frames are padded; without FCS

# struct virtio_net_hdr_mrg_rxbuf (virtio 1.2, 5.1.6): flags, type, header length, MSS, start of checksum, its field, buffers
OFFLOAD_HEADER = struct.Struct("<BBHHHHH")
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80

_LOW_6144, _LOW_3072 = (1 << 6144) - 1, (1 << 3072) - 1
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_TWO_U16 = struct.Struct(">HH")


def ones_sum(data: Buffer) -> int:
    """The ones' complement sum of 16-bit big-endian words, 0 <= sum < 0xFFFF (RFC 1071). An odd last byte gets a zero behind it.

    Words of a number in base 2**16 add up modulo 2**16 - 1: one conversion and one division, both in C.
    """
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) & 1 else number) % 0xFFFF


def _folded(number: int) -> int:
    """The same number modulo 2**16 - 1 in fewer bits: additions are quicker than the division."""
    bits = number.bit_length()
    while bits > 12288:
        bits = (bits >> 1) + 15 & ~15
        number = (number >> bits) + (number & (1 << bits) - 1)
    number = (number >> 6144) + (number & _LOW_6144)
    return (number >> 3072) + (number & _LOW_3072)


def checksum(data: Buffer, initial: int = 0) -> int:
    """The internet checksum of ``data``, with ``initial`` added to the sum: 1..0xFFFF.

    Never 0: 0xFFFF stands for the same number, and UDP takes 0 for "none" (RFC 768).
    """
    return 0xFFFF - (ones_sum(data) + initial) % 0xFFFF


def put_checksum(frame: bytearray, start: int, at: int, end: int | None = None) -> bool:
    """Stores the checksum over ``frame[start:end]`` at ``at``; what stands in the field before (a seed) is part of the sum.

    Returns:
        False, nothing changed, when range or field leave the frame.
    """
    size = len(frame)
    if end is None or end > size:
        end = size
    if start >= end or at + 2 > size:
        return False
    number = int.from_bytes(frame[start:end] if start or end < size else frame, "big")
    if end - start & 1:
        number <<= 8
    if end - start > 1024:
        number = _folded(number)
    _U16.pack_into(frame, at, 0xFFFF - number % 0xFFFF)
    return True


def pseudo_sum(frame: Buffer, network: int, protocol: int, length: int) -> int | None:
    """The sum over the pseudo header (RFC 9293 3.1, RFC 8200 8.1) of an IPv4 or IPv6 header at ``network``; None: neither is there."""
    version = frame[network] >> 4 if network < len(frame) else 0
    if version == 4 and network + IPV4_HEADER <= len(frame):
        return ones_sum(frame[network + 12 : network + 20]) + protocol + length
    if version == 6 and network + IPV6_HEADER <= len(frame):
        return ones_sum(frame[network + 8 : network + 40]) + protocol + length
    return None


def network_offset(frame: Buffer) -> tuple[int, int]:
    """(offset behind Ethernet header and VLAN tags, ethertype); (0, 0) for a frame that ends before."""
    at = 12
    for _ in range(3):
        if at + 2 > len(frame):
            return 0, 0
        kind = frame[at] << 8 | frame[at + 1]
        if kind not in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
            return at + 2, kind
        at += 4
    return 0, 0


def transport_checks(frame: Buffer) -> tuple[bool | None, bool | None]:
    """Whether (the IPv4 header's, the TCP or UDP) checksum of a frame is right; None: there is none to check.

    Fragments, IPv6 extension headers, UDP without a checksum and frames shorter than they say count as "none".
    """
    network, kind = network_offset(frame)
    size = len(frame)
    if kind == ETHERTYPE_IPV4 and network + IPV4_HEADER <= size and frame[network] >> 4 == 4:
        transport = network + 4 * (frame[network] & 0xF)
        end = network + (frame[network + 2] << 8 | frame[network + 3])
        if not network + IPV4_HEADER <= transport <= end <= size:
            return None, None
        header = ones_sum(frame[network:transport]) == 0
        if (frame[network + 6] << 8 | frame[network + 7]) & 0x3FFF:
            return header, None
        return header, _transport_check(frame, network, transport, end, frame[network + 9])
    if kind == ETHERTYPE_IPV6 and network + IPV6_HEADER <= size and frame[network] >> 4 == 6:
        transport = network + IPV6_HEADER
        end = transport + (frame[network + 4] << 8 | frame[network + 5])
        if end <= size:
            return None, _transport_check(frame, network, transport, end, frame[network + 6])
    return None, None


def _transport_check(frame: Buffer, network: int, transport: int, end: int, protocol: int) -> bool | None:
    if protocol == PROTOCOL_TCP:
        if end - transport < TCP_HEADER:
            return None
    elif protocol == PROTOCOL_UDP:
        if end - transport < UDP_HEADER or not frame[transport + 6] | frame[transport + 7]:
            return None
    else:
        return None
    pseudo = pseudo_sum(frame, network, protocol, end - transport)
    return None if pseudo is None else (ones_sum(frame[transport:end]) + pseudo) % 0xFFFF == 0


def segment(
    frame: bytearray, mss: int, header: int, network: int, transport: int, ipv4: bool, tcp: bool, seed_at: int | None = None
) -> list[bytearray]:
    """Cuts a large TCP (or UDP) frame into frames of at most ``mss`` bytes of payload, each with headers of its own.

    Lengths, IPv4 identification, TCP sequence numbers and flags (FIN and PSH on the last one, CWR on the first one only) are brought up to
    date. Checksums are the caller's: ``put_checksum``, with the IPv4 field still as it was in ``frame``.

    Args:
        mss: payload bytes a frame.
        header: bytes of Ethernet, IP and TCP header, copied to the front of each.
        network, transport: where the IP and the TCP or UDP header start.
        ipv4: else IPv6.
        tcp: else UDP.
        seed_at: where the sum of a pseudo header without its length stands; each frame's length is added to it. None: leave it.

    Returns:
        The frames; none when MSS is 0, headers do not fit into ``header`` bytes, there is no payload, or there were more than MAX_SEGMENTS.
    """
    size = len(frame) - header
    network_end = network + (IPV4_HEADER if ipv4 else IPV6_HEADER)
    transport_end = transport + (TCP_HEADER if tcp else UDP_HEADER)
    if mss <= 0 or size <= 0 or size > mss * MAX_SEGMENTS or network_end > transport or transport_end > header:
        return []
    if seed_at is not None and seed_at + 2 > header:
        return []
    head = frame[:header]
    identification = _U16.unpack_from(head, network + 4)[0] if ipv4 else 0
    sequence = _U32.unpack_from(head, transport + 4)[0] if tcp else 0
    seed = _U16.unpack_from(head, seed_at)[0] if seed_at is not None else 0
    flags = head[transport + 13] if tcp else 0
    pieces = []
    for start in range(0, size, mss):
        piece = head + frame[header + start : header + start + mss]
        length = len(piece)
        if ipv4:
            _TWO_U16.pack_into(piece, network + 2, length - network & 0xFFFF, identification & 0xFFFF)
            identification += 1
        else:
            _U16.pack_into(piece, network + 4, length - network_end & 0xFFFF)
        if tcp:
            _U32.pack_into(piece, transport + 4, sequence + start & 0xFFFF_FFFF)
            if start:
                piece[transport + 13] = flags & ~TCP_CWR if start + mss >= size else flags & ~(TCP_FIN | TCP_PSH | TCP_CWR)
            elif mss < size:
                piece[transport + 13] = flags & ~(TCP_FIN | TCP_PSH)
        else:
            _U16.pack_into(piece, transport + 4, length - transport & 0xFFFF)
        if seed_at is not None:
            _U16.pack_into(piece, seed_at, (seed + length - transport) % 0xFFFF)
        pieces.append(piece)
    return pieces


def complete(frame: Buffer, header: Buffer | None) -> list[bytes | bytearray]:
    """The frames that a frame with an offload header (virtio 1.2, 5.1.6.2) stands for, as they go over a wire: cut and summed.

    Returns:
        None of them when header and frame contradict each other: such a frame is dropped.
    """
    if header is None or len(header) < 10 or not header[0] & NEEDS_CSUM and not header[1]:
        return [bytes(frame)]
    flags, kind, _, mss, start, field = struct.unpack_from("<BBHHHH", header)
    data = bytearray(frame)
    at = start + field
    kind &= ~GSO_ECN
    if kind == GSO_NONE:
        return [data] if put_checksum(data, start, at) else []
    if kind not in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) or not flags & NEEDS_CSUM:
        return []
    network, ethertype = network_offset(data)
    ipv4, tcp = ethertype == ETHERTYPE_IPV4, kind != GSO_UDP_L4
    if not network or start <= network or ethertype not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6) or start + 14 > len(data):
        return []
    length = start + (4 * (data[start + 12] >> 4) if tcp else UDP_HEADER)
    pseudo = pseudo_sum(data, network, PROTOCOL_TCP if tcp else PROTOCOL_UDP, 0)
    if pseudo is None or at + 2 > len(data):
        return []
    _U16.pack_into(data, at, pseudo % 0xFFFF)
    pieces = segment(data, mss, length, network, start, ipv4, tcp, at)
    done: list[bytes | bytearray] = []
    for piece in pieces:
        if ipv4:
            _U16.pack_into(piece, network + 10, 0)
            put_checksum(piece, network, network + 10, start)
        put_checksum(piece, start, at)
        done.append(piece)
    return done


def fragment(frame: bytes, mtu: int) -> list[bytes]:
    """An IPv4 frame without VLAN tag in fragments for an interface with that MTU (RFC 791 3.2); any other frame as it is.

    Returns:
        None of them when it may not be cut (DF), or its headers are longer than the MTU.
    """
    size, network = len(frame), ETH_HEADER
    if size < network + IPV4_HEADER or frame[12:14] != b"\x08\x00" or frame[network] >> 4 != 4:
        return [frame]
    header = 4 * (frame[network] & 0xF)
    total, _, place = struct.unpack_from(">HHH", frame, network + 2)
    if total <= mtu:
        return [frame]
    step = mtu - header & ~7
    if place & _DONT_FRAGMENT or header < IPV4_HEADER or step <= 0 or network + total > size:
        return []
    payload = frame[network + header : network + total]
    pieces = []
    for at in range(0, len(payload), step):
        part = payload[at : at + step]
        head = bytearray(frame[: network + header])
        more = _MORE_FRAGMENTS if at + step < len(payload) else place & _MORE_FRAGMENTS
        _U16.pack_into(head, network + 2, header + len(part))
        _U16.pack_into(head, network + 6, more | (place & 0x1FFF) + (at >> 3))
        _U16.pack_into(head, network + 10, 0)
        put_checksum(head, network, network + 10)
        pieces.append(bytes(head) + part)
    return pieces
