"""Large TCP frames between a guest and a TCP stack in this process: 16 KiB from it, 64 KiB to it, instead of 1500 bytes each.

Frames of the usual length would cost Python more than everything else. Outward no frame need be cut: the stack takes what IP can
carry. Inward the stack's interface has an MTU of 16 KiB, and a segment goes to the card with a virtio_net_hdr that says of how many
pieces of the guest's own MSS it stands for (RFC 9293 3.7.1); if the card's driver takes none of these (``set_offload``), it is cut here.
So the guest's stack sees what it asked for. Where the stack looks at the MSS of the guest's SYN (libslirp does not always), it reads a
multiple of it.

What is not TCP and longer than the guest's MTU is cut into IPv4 fragments here.
"""

from __future__ import annotations

import struct

from pyvmm.net.frames import (
    ETH_HEADER,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    OFFLOAD_HEADER,
    PROTOCOL_TCP,
    TCP_HEADER,
    complete,
    fragment,
    pseudo_sum,
    put_checksum,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.net.frames import Buffer


MTU = 1500
_PIECES = 11  # of the usual MSS in a segment inward: a guest's window of 64 KiB has four of them under way
LARGE = _PIECES * (MTU - 40)
STACK_MTU = LARGE + 60  # libslirp takes off IPv6's headers where it does not know yet which they will be
_IP_MAX = 65535
TSO4, TSO6 = 2, 4  # of NetBackend.set_offload
_LEAST_MSS = 64  # a hostile guest's MSS of 1 would have each segment cut into 16,000; other stacks have a bound too
_FLOWS = 4096  # connections whose MSS is known; a long-lived one that is forgotten gets the default below
_SYN_MAX = ETH_HEADER + 40 + 60  # a SYN has no data: IPv6 header, longest TCP header
_SYN_MIN, _PLAIN_IPV4 = ETH_HEADER + 40, 0x45  # what IPv4 begins with when it has no options: no look at the rest is needed then
_SYN, _MSS = 2, 2
_DEFAULT_MSS = {True: 536, False: 1220}  # IPv4, IPv6 without the option (RFC 9293 3.7.1)
_UDP = 17
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_HEADER = struct.Struct("<BBHHHH")  # of a virtio_net_hdr all but the number of buffers


class LargeFrames:
    """What stands between a card and the stack of one wire.

    Args:
        mtu: of the stack's interface: ``STACK_MTU``, or ``MTU`` for a card that takes no large frames: the stack cuts quicker.

    Attributes:
        flags: what the card's driver takes (``NetBackend.set_offload``).
    """

    def __init__(self, mtu: int = STACK_MTU) -> None:
        self.mtu = mtu
        self.flags = 0
        self._flows: dict[bytes, int] = {}  # both addresses and ports as in frames to the guest: its MSS
        self._least = ETH_HEADER + MTU  # frames to the guest that are longer need a look

    # --- to the stack ------------------------------------------------------------------------------------------------
    def outward(self, frame: Buffer, header: Buffer | None) -> list[bytes]:
        """The frames that the stack gets for one from the card; none when header and frame contradict each other."""
        if header is None or not header[0] and not header[1]:
            data = bytes(frame)
        else:
            whole = _whole(frame, header, self.mtu)
            if whole is None:
                return [bytes(piece) for piece in complete(frame, header)]
            data = bytes(whole)
        if _SYN_MIN <= len(data) <= _SYN_MAX and (data[14] != _PLAIN_IPV4 or data[47] & _SYN and data[23] == PROTOCOL_TCP):
            at = _tcp(data)
            if at and data[at + 13] & _SYN:
                data = self._opened(data, at)
        return [data]

    def _opened(self, frame: bytes, at: int) -> bytes:
        """A SYN of the guest's: remembers its MSS, and raises it if the card takes large frames."""
        ipv4 = frame[12:14] == _IPV4
        field = _mss_field(frame, at)
        mss = frame[field] << 8 | frame[field + 1] if field else 0
        if not mss:
            return frame
        mss = max(mss, _LEAST_MSS)
        source, target = (frame[26:30], frame[30:34]) if ipv4 else (frame[22:38], frame[38:54])
        key = target + source + frame[at + 2 : at + 4] + frame[at : at + 2]
        flows = self._flows
        flows.pop(key, None)
        if len(flows) >= _FLOWS:
            del flows[next(iter(flows))]
        flows[key] = mss
        self._least = min(self._least, at + TCP_HEADER + mss)
        return _with_mss(frame, at, field, LARGE // mss * mss) if mss < LARGE and self._takes(ipv4) else frame

    def _takes(self, ipv4: bool) -> bool:
        return bool(self.flags & (TSO4 if ipv4 else TSO6))

    # --- to the guest ------------------------------------------------------------------------------------------------
    def inward(self, frame: bytes) -> list[tuple[Buffer, bytes | None]]:
        """What the card gets for a frame of the stack's: frames with their virtio_net_hdr, if they need one."""
        size = len(frame)
        if size <= _SYN_MAX:
            if size >= _SYN_MIN and (frame[14] != _PLAIN_IPV4 or frame[47] & _SYN and frame[23] == PROTOCOL_TCP):
                at = _tcp(frame)
                if at and frame[at + 13] & _SYN:
                    field = _mss_field(frame, at)
                    if field:  # it tells the MTU of its interface, which is none of the guest's
                        frame = _with_mss(frame, at, field, MTU - (at - ETH_HEADER) - TCP_HEADER)
            return [(frame, None)]
        if size <= self._least:
            return [(frame, None)]
        at = _tcp(frame)
        if not at:
            return [(piece, None) for piece in fragment(frame, MTU)] if size > ETH_HEADER + MTU else [(frame, None)]
        ipv4 = frame[12:14] == _IPV4
        mss = self._flows.get((frame[26:34] if ipv4 else frame[22:54]) + frame[at : at + 4]) or _DEFAULT_MSS[ipv4]
        data = at + (frame[at + 12] >> 4) * 4
        if size - data <= mss:
            return [(frame, None)]
        whole = bytearray(frame)
        seed = pseudo_sum(whole, ETH_HEADER, PROTOCOL_TCP, size - at) or 0
        whole[at + 16 : at + 18] = (seed % 0xFFFF).to_bytes(2, "big")
        kind = GSO_TCPV4 if ipv4 else GSO_TCPV6
        header = OFFLOAD_HEADER.pack(NEEDS_CSUM, kind, data, mss, at, 16, 1)
        return [(whole, header)] if self._takes(ipv4) else [(piece, None) for piece in complete(whole, header)]


def _tcp(frame: Buffer) -> int:
    """Where the TCP header of an IPv4 or IPv6 frame without VLAN tag begins; 0: there is none, or not all of it."""
    kind = frame[12:14]
    if kind == _IPV4 and len(frame) >= ETH_HEADER + 40 and frame[23] == PROTOCOL_TCP and not (frame[20] << 8 | frame[21]) & 0x1FFF:
        at = ETH_HEADER + 4 * (frame[ETH_HEADER] & 15)
    elif kind == _IPV6 and len(frame) >= ETH_HEADER + 60 and frame[20] == PROTOCOL_TCP:
        at = ETH_HEADER + 40
    else:
        return 0
    return at if at >= ETH_HEADER + 20 and at + TCP_HEADER <= len(frame) else 0


def _mss_field(frame: bytes, at: int) -> int:
    """Where the value of a SYN's MSS option stands; 0: it has none."""
    option, end = at + TCP_HEADER, min(at + (frame[at + 12] >> 4) * 4, len(frame))
    while option + 3 < end and frame[option]:
        if frame[option] == _MSS:
            return option + 2
        option += 1 if frame[option] == 1 else max(frame[option + 1], 2)
    return 0


def _with_mss(frame: bytes, at: int, field: int, mss: int) -> bytes:
    """Another MSS; the checksum follows (RFC 1624), so that a wrong one stays wrong."""
    changed = bytearray(frame)
    struct.pack_into(">H", changed, field, mss)
    words = 1 + (field - at & 1)  # of the sum that the field lies in
    start = field - words + 1
    if start + 2 * words > len(frame):
        return frame
    before, after = (sum(struct.unpack_from(f">{words}H", data, start)) for data in (frame, changed))
    (old,) = struct.unpack_from(">H", frame, at + 16)
    struct.pack_into(">H", changed, at + 16, 0xFFFF - (0xFFFF - old - before + after) % 0xFFFF)
    return bytes(changed)


def _whole(frame: Buffer, header: Buffer, mtu: int) -> bytearray | None:
    """A frame with its checksum put in, not cut. None: the stack would not take it so, or it is nonsense."""
    flags, kind, _, _, start, field = _HEADER.unpack_from(header)
    if not flags & NEEDS_CSUM:
        return None
    data = bytearray(frame)
    if not kind and field == 6 and 34 <= start <= len(data) - 8 and data[23] == _UDP and data[12:14] == _IPV4:
        data[start + 6 : start + 8] = b"\0\0"  # "none" (RFC 768): it goes no farther than to the stack in this process
        return data
    kind &= ~GSO_ECN
    if kind != GSO_NONE:
        length = len(data) - ETH_HEADER
        ipv4 = kind == GSO_TCPV4
        if data[12:14] != (_IPV4 if ipv4 else _IPV6) or kind not in (GSO_TCPV4, GSO_TCPV6) or _tcp(data) != start or field != 16:
            return None
        if length > (_IP_MAX if ipv4 else mtu):  # libslirp holds IPv6 to its MTU
            return None
        if ipv4:
            struct.pack_into(">H", data, ETH_HEADER + 2, length)
            struct.pack_into(">H", data, ETH_HEADER + 10, 0)
            put_checksum(data, ETH_HEADER, ETH_HEADER + 10, start)
        else:
            struct.pack_into(">H", data, ETH_HEADER + 4, length - 40)
        seed = pseudo_sum(data, ETH_HEADER, PROTOCOL_TCP, len(data) - start) or 0
        struct.pack_into(">H", data, start + field, seed % 0xFFFF)
    return data if put_checksum(data, start, start + field) else None
