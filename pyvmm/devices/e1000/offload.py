"""What is done to a frame between transmit ring and wire: checksums, TCP segmentation (SDM 3.4, 3.5; context in 3.3.6)."""

from __future__ import annotations

from pyvmm.net.frames import GSO_TCPV4, GSO_TCPV6, MAX_SEGMENTS, NEEDS_CSUM, OFFLOAD_HEADER, put_checksum, segment

IXSM, TXSM = 1 << 0, 1 << 1  # POPTS of a data descriptor: insert IP, TCP or UDP checksum
_TCP, _IPV4 = 1 << 24, 1 << 25  # TUCMD


class Context:
    """A context descriptor, decoded from its two quadwords.

    Attributes:
        ip_start, ip_field, ip_end: which bytes the IP checksum covers and where it stands; ends are exclusive, None is the frame's.
        start, field, end: the same for TCP or UDP.
        tcp: else UDP; ipv4: else IPv6.
        header: bytes of all headers; mss: payload bytes a segment.
        checksum: the offload header for a TCP or UDP checksum that is left to others; None: it cannot be said so.
    """

    __slots__ = ("ip_start", "ip_field", "ip_end", "start", "field", "end", "tcp", "ipv4", "header", "mss", "checksum")

    def __init__(self, low: int, high: int) -> None:
        ip_end, end = low >> 16 & 0xFFFF, low >> 48
        self.ip_start = low & 0xFF
        self.ip_field = low >> 8 & 0xFF
        self.ip_end = ip_end + 1 if ip_end else None
        self.start = low >> 32 & 0xFF
        self.field = low >> 40 & 0xFF
        self.end = end + 1 if end else None
        self.tcp = bool(high & _TCP)
        self.ipv4 = bool(high & _IPV4)
        self.header = high >> 40 & 0xFF
        self.mss = high >> 48
        say = self.end is None and self.start <= self.field
        self.checksum = OFFLOAD_HEADER.pack(NEEDS_CSUM, 0, 0, 0, self.start, self.field - self.start, 0) if say else None


def insert_checksums(frame: bytearray, options: int, at: Context) -> None:
    """POPTS on a frame that is sent as it is; what does not fit is left out."""
    if options & IXSM:
        put_checksum(frame, at.ip_start, at.ip_field, at.ip_end)
    if options & TXSM:
        put_checksum(frame, at.start, at.field, at.end)


def segments(frame: bytearray, options: int, at: Context) -> list[bytearray]:
    """The frames that a TSO frame stands for, finished; none when its context is nonsense (see ``frames.segment``)."""
    seed_at = at.field if options & TXSM else None
    pieces = segment(frame, at.mss, at.header, at.ip_start, at.start, at.ipv4, at.tcp, seed_at)
    for piece in pieces:
        insert_checksums(piece, options, at)
    return pieces


def hand_over(frame: bytearray, options: int, at: Context, tso: bool, moved: int) -> bytes | None:
    """For a backend that takes offload headers: the header that leaves TCP checksum and segmentation to it.

    Args:
        tso: segmentation was asked for.
        moved: bytes that will be inserted in front of the IP header (a VLAN tag).

    Returns:
        None when there is nothing to leave, or no way to say it; else ``frame`` is prepared accordingly.
    """
    size = len(frame)
    if not options & TXSM or at.checksum is None or at.field > size - 2:
        return None
    kind = mss = header = 0
    if tso:
        payload = size - at.header
        whole = segment_fits(frame, at)
        if not whole or not at.tcp or payload <= at.mss or size > 0xFFFF:
            return None
        kind, mss, header = (GSO_TCPV4 if at.ipv4 else GSO_TCPV6), at.mss, at.header + moved
        if at.ipv4:
            frame[at.ip_start + 2 : at.ip_start + 4] = (size - at.ip_start).to_bytes(2, "big")
        else:
            frame[at.ip_start + 4 : at.ip_start + 6] = (size - at.ip_start - 40).to_bytes(2, "big")
        seed = int.from_bytes(frame[at.field : at.field + 2], "big") + size - at.start
        frame[at.field : at.field + 2] = (seed % 0xFFFF).to_bytes(2, "big")
    if options & IXSM:
        put_checksum(frame, at.ip_start, at.ip_field, at.ip_end)
    if not kind and not moved:
        return at.checksum
    return OFFLOAD_HEADER.pack(NEEDS_CSUM, kind, header, mss, at.start + moved, at.field - at.start, 0)


def segment_fits(frame: bytearray, at: Context) -> bool:
    """Whether the headers lie where the context says, and there is an MSS."""
    network_end = at.ip_start + (20 if at.ipv4 else 40)
    payload = len(frame) - at.header
    return 0 < payload <= at.mss * MAX_SEGMENTS and network_end <= at.start and at.start + 20 <= at.header and at.field + 2 <= at.header
