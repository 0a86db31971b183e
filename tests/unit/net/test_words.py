"""Frames in words."""

from __future__ import annotations

import struct

import pytest

from pyvmm.net.words import checks, contents, offload, summary
from tests.support.packets import MAC, PEER, ipv4_tcp, ipv6_tcp, udp

ARP = struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, PEER, bytes((10, 0, 2, 2)), bytes(6), bytes((10, 0, 2, 15)))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (udp(b"x"), "IPv4 10.0.2.15 > 10.0.2.2 UDP 1 > 2"),
        (ipv4_tcp(b"x"), "IPv4 10.0.2.15 > 10.0.2.2 TCP 1234 > 80"),
        (ipv6_tcp(b"x"), "IPv6 102:304:506:708:90a:b0c:d0e:f10 > 1112:1314:1516:1718:191a:1b1c:1d1e:1f20 TCP 1234 > 80"),
        (MAC + PEER + b"\x81\x00\x00\x07" + udp(b"x")[12:], "VLAN 7 IPv4 10.0.2.15 > 10.0.2.2 UDP 1 > 2"),
        (MAC + PEER + b"\x08\x06" + ARP, "ARP who has 10.0.2.15, tell 10.0.2.2"),
        (MAC + PEER + b"\x08\x06" + ARP[:7] + b"\x02" + ARP[8:], "ARP 10.0.2.2 is here"),
        (MAC + PEER + b"\x88\xb5" + bytes(50), ""),
    ],
    ids=range(7),
)
def test_contents(frame: bytes, words: str) -> None:
    assert contents(frame) == contents(memoryview(frame)) == words
    for length in range(len(frame)):
        assert isinstance(contents(frame[:length]), str), "a short one is no error"


def test_summary() -> None:
    assert summary(udp(b"x")) == "02:00:00:00:00:01 > 52:54:00:12:34:56 type 0800 43 bytes, IPv4 10.0.2.15 > 10.0.2.2 UDP 1 > 2"
    assert summary(b"") == " >  type 0000 0 bytes"


def test_checksums_and_offloads() -> None:
    assert checks(udp(b"x")) == "IP checksum right, TCP/UDP checksum right"
    assert checks(udp(b"x")[:-1] + b"y") == "IP checksum right, TCP/UDP checksum WRONG"
    assert checks(MAC + PEER + b"\x88\xb5") == "no checksum to look at"
    assert offload(bytes(12)) == "no work left"
    assert (
        offload(struct.pack("<BBHHHHH", 1, 0x81, 54, 1448, 34, 16, 0))
        == "checksum from 34 at 50, TCPv4 segments of 1448 behind 54 bytes of headers"
    )
    assert offload(b"\0\7") == "type 0x7 segments of 0 behind 0 bytes of headers"
