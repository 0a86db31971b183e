"""The words of a packet. Python's own int() and bytes.fromhex() take signs, spaces and underscores; the protocol does not."""

from __future__ import annotations

import re

_NUMBER = re.compile(rb"[0-9a-fA-F]{1,16}")
_THREAD = re.compile(rb"(?:p(?:-1|[0-9a-fA-F]{1,8})(?:\.|$))?(-1|[0-9a-fA-F]{1,8})?")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})*")


class Malformed(Exception):
    """The packet is not what the protocol says."""


def number(text: bytes) -> int:
    """A hexadecimal number below 1 << 64."""
    if not _NUMBER.fullmatch(text):
        raise Malformed
    return int(text, 16)


def numbers(text: bytes) -> tuple[int, int]:
    """``address,length``."""
    first, comma, second = text.partition(b",")
    if not comma:
        raise Malformed
    return number(first), number(second)


def thread(text: bytes) -> int:
    """A thread id: vCPU number + 1; 0 = any, -1 = all. With a process (``p1.2``) or without."""
    match = _THREAD.fullmatch(text)
    if not match or not text:
        raise Malformed
    return -1 if match[1] in (None, b"-1") else int(match[1], 16)


def unhex(text: bytes) -> bytes:
    """Two digits per byte."""
    if not _HEX.fullmatch(text):
        raise Malformed
    return bytes.fromhex(text.decode())
