"""Packets on the wire: ``$payload#checksum``, escapes, run lengths, acknowledgements (GDB manual, E.1 Overview).

Nothing here is believed: a buffer never grows past ``limit``, and bytes that make no sense are dropped.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PACKET_SIZE = 0x4000  # longest payload either way, announced as PacketSize

# What a Receiver yields besides payloads. (A payload is never one of these: it is told by the kind.)
PACKET, INTERRUPT, ACK, NAK, CORRUPT, TOO_LONG = range(6)

_SPECIAL = re.compile(rb"[#$}*]")
_RUN = re.compile(rb"([^#$+\-])\1{3,96}", re.DOTALL)
_FORBIDDEN = (ord("#"), ord("$"), ord("+"), ord("-"))  # a count that looks like one of these confuses readers


def checksum(payload: bytes) -> int:
    """Sum of the bytes on the wire, modulo 256."""
    return sum(payload) & 0xFF


def escape(data: bytes) -> bytes:
    """Binary data as part of a payload: each special byte becomes ``}`` and the byte with bit 5 flipped."""
    return _SPECIAL.sub(lambda found: bytes((0x7D, found[0][0] ^ 0x20)), data)


def unescape(payload: bytes) -> bytes:
    """Undoes ``escape``; a trailing lone ``}`` is dropped."""
    first, *rest = payload.split(b"}")
    data = bytearray(first)
    skip = False
    for at, piece in enumerate(rest):
        if skip:  # the byte that was escaped is itself a "}" on the wire
            data += piece
            skip = False
        elif piece:
            data.append(piece[0] ^ 0x20)
            data += piece[1:]
        elif at < len(rest) - 1:
            data.append(0x5D)
            skip = True
    return bytes(data)


def compress(payload: bytes) -> bytes:
    """Run-length encoding: ``x*c`` is x and c-29 more of it. For replies only: requests have a plain ``*``."""
    return _RUN.sub(_shorten, payload)


def _shorten(run: re.Match[bytes]) -> bytes:
    byte, extra, rest = run[1], len(run[0]) - 1, 0
    while extra + 29 in _FORBIDDEN:
        extra -= 1
        rest += 1
    return byte + b"*" + bytes((extra + 29,)) + byte * rest


def expand(payload: bytes) -> bytes:
    """Undoes ``compress``. For tests and clients.

    Raises:
        ValueError: a count without a byte, or below the least.
    """
    data = bytearray()
    at = 0
    while at < len(payload):
        if payload[at] != ord("*"):
            data.append(payload[at])
            at += 1
            continue
        if not data or at + 1 >= len(payload) or payload[at + 1] < 32:
            raise ValueError("a run length without a byte or a count")
        data += data[-1:] * (payload[at + 1] - 29)
        at += 2
    return bytes(data)


def frame(payload: bytes) -> bytes:
    """A payload (escaped already, if it needs that) as a packet."""
    return b"$%b#%02x" % (payload, checksum(payload))


class Receiver:
    """Cuts a stream of bytes into packets.

    Args:
        limit: longest payload; of a longer one nothing is kept.
    """

    def __init__(self, limit: int = PACKET_SIZE) -> None:
        self._limit = limit
        self._payload = bytearray()
        self._inside = False
        self._sum = b""  # checksum digits so far, once "#" has come
        self._closing = False
        self._long = False
        self.check = True  # off in no-ack mode: the transport is reliable then

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields (kind, payload); the payload is b"" for all but PACKET."""
        at = 0
        while at < len(data):
            if self._closing:
                self._sum += data[at : at + 1]
                at += 1
                if len(self._sum) == 2:
                    yield self._finish()
            elif self._inside:
                at = self._collect(data, at)
            else:
                byte = data[at]
                at += 1
                if byte == ord("$"):
                    self._inside = True
                elif byte == 0x03:
                    yield INTERRUPT, b""
                elif byte == ord("+"):
                    yield ACK, b""
                elif byte == ord("-"):
                    yield NAK, b""

    def _collect(self, data: bytes, at: int) -> int:
        end = data.find(b"#", at)
        piece = data[at : end if end >= 0 else len(data)]
        start = piece.rfind(b"$")
        if start >= 0:  # a "$" is always escaped inside: the packet before it broke off
            self._payload.clear()
            self._long = False
            piece = piece[start + 1 :]
        if len(self._payload) + len(piece) > self._limit:
            self._long = True
            self._payload.clear()
        elif not self._long:
            self._payload += piece
        if end < 0:
            return len(data)
        self._closing = True
        return end + 1

    def _finish(self) -> tuple[int, bytes]:
        payload, digits, long = bytes(self._payload), self._sum, self._long
        self._payload.clear()
        self._sum = b""
        self._inside = self._closing = self._long = False
        if long:
            return TOO_LONG, b""
        if self.check and digits.lower() != b"%02x" % checksum(payload):
            return CORRUPT, b""
        return PACKET, payload
