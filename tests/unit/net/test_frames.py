"""Checksums and segmentation against slow, independent ones."""

from __future__ import annotations

import random
import struct

import pytest

from pyvmm.net import frames
from tests.support.packets import ipv4_tcp, ipv6_tcp, reference_checksum, udp, valid

RNG = random.Random(4)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 20, 59, 60, 1499, 1500, 9000, 65535])
def test_checksum_is_that_of_rfc_1071(size: int) -> None:
    data = RNG.randbytes(size)
    expected = reference_checksum(data)
    assert frames.checksum(data) == (expected or 0xFFFF)
    assert frames.checksum(memoryview(data), 77) % 0xFFFF == reference_checksum(struct.pack(">H", 77) + data) % 0xFFFF


def test_checksum_never_is_zero() -> None:
    assert frames.checksum(b"\xff\xff") == 0xFFFF
    assert frames.checksum(b"\0\0") == 0xFFFF


@pytest.mark.parametrize(
    ("start", "at", "end", "fits"), [(0, 8, None, True), (4, 8, 9, True), (12, 0, None, False), (0, 11, None, False), (5, 0, 5, False)]
)
def test_put_checksum_stays_inside(start: int, at: int, end: int | None, fits: bool) -> None:
    frame = bytearray(RNG.randbytes(12))
    before = bytes(frame)
    assert frames.put_checksum(frame, start, at, end) is fits
    if fits:
        expected = reference_checksum(before[start : end or 12]) or 0xFFFF
        assert frame[at : at + 2] == expected.to_bytes(2, "big")
        assert frame[:at] + frame[at + 2 :] == before[:at] + before[at + 2 :]
    else:
        assert frame == before


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("size", "mss"), [(1, 1460), (1460, 1460), (1461, 1460), (10_000, 1448), (65_000, 536)])
def test_segments_are_what_the_stack_would_have_sent(version: int, size: int, mss: int) -> None:
    payload = RNG.randbytes(size)
    build = ipv4_tcp if version == 4 else ipv6_tcp
    network, transport = 14, 34 if version == 4 else 54
    large = bytearray(build(payload, sequence=0xFFFF_FF00, flags=0x19, identification=0xFFFE, checksums=False))
    pieces = frames.segment(large, mss, transport + 20, network, transport, version == 4, True)
    assert len(pieces) == -(-size // mss)
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        expected = build(
            payload[number * mss : (number + 1) * mss],
            sequence=0xFFFF_FF00 + number * mss & 0xFFFF_FFFF,
            flags=0x19 if last else 0x10,
            identification=0xFFFE + number & 0xFFFF,
            checksums=False,
        )
        assert piece == expected, number


def test_segments_of_udp_have_lengths_of_their_own() -> None:
    large = bytearray(udp(bytes(100), checksums=False))
    pieces = frames.segment(large, 40, 42, 14, 34, True, False)
    assert [struct.unpack_from(">H", piece, 38)[0] for piece in pieces] == [48, 48, 28]


@pytest.mark.parametrize(
    ("mss", "header", "network", "transport", "ipv4"),
    [(0, 54, 14, 34, True), (-1, 54, 14, 34, True), (100, 33, 14, 34, True), (100, 53, 14, 34, True), (100, 54, 14, 35, True),
     (100, 54, 14, 34, False), (100, 154, 14, 34, True), (100, 200, 14, 34, True), (100, 0, 0, 0, True), (1, 54, 14, 34, True)],
)  # fmt: skip
def test_segmentation_of_nonsense_is_nothing(mss: int, header: int, network: int, transport: int, ipv4: bool) -> None:
    frame = bytearray(154 if mss != 1 else 54 + frames.MAX_SEGMENTS + 1)
    assert frames.segment(frame, mss, header, network, transport, ipv4, True) == []


def test_seed_beyond_the_headers_is_nothing() -> None:
    assert frames.segment(bytearray(154), 50, 54, 14, 34, True, True, 53) == []


@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp, udp])
def test_checks_find_a_flipped_bit(build) -> None:  # type: ignore[no-untyped-def]
    frame = build(RNG.randbytes(101))
    assert valid(frame)
    ip, transport = frames.transport_checks(frame)
    assert transport is True
    assert ip is (None if build is ipv6_tcp else True)
    broken = bytearray(frame)
    broken[-1] ^= 1
    assert frames.transport_checks(broken)[1] is False
    if ip:
        broken[22] ^= 1
        assert frames.transport_checks(broken) == (False, False)


def test_checks_look_behind_vlan_tags_and_padding() -> None:
    frame = udp(b"x")
    assert frames.transport_checks(frame[:12] + b"\x81\0\0\5" + frame[12:] + bytes(20)) == (True, True)


def test_nothing_to_check() -> None:
    frame = bytearray(udp(b"payload"))
    fragment = bytearray(frame)
    fragment[20] |= 0x20
    assert frames.transport_checks(fragment)[1] is None
    unsummed = bytearray(frame)
    unsummed[40:42] = b"\0\0"
    assert frames.transport_checks(unsummed) == (True, None)
    for size in range(len(frame)):
        assert frames.transport_checks(frame[:size]) == (None, None)


def test_random_frames_check_and_complete_without_a_fault() -> None:
    rng = random.Random(9)
    for _ in range(3000):
        frame = bytearray(rng.choice((ipv4_tcp, ipv6_tcp, udp))(rng.randbytes(rng.randrange(80))))
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(len(frame))] = rng.getrandbits(8)
        frame = frame[: rng.randrange(len(frame) + 1)]
        frames.transport_checks(frame)
        header = struct.pack(
            "<BBHHHHH",
            rng.getrandbits(2),
            rng.choice((0, 1, 3, 4, 5, 0x81)),
            *(rng.choice((0, 14, 34, 16, rng.getrandbits(16))) for _ in range(5)),
        )
        assert len(frames.complete(frame, header)) <= frames.MAX_SEGMENTS


@pytest.mark.parametrize(("build", "kind", "start"), [(ipv4_tcp, 1, 34), (ipv6_tcp, 4, 54)])
@pytest.mark.parametrize("vlan", [False, True])
def test_complete_cuts_and_sums_what_a_guest_left(build, kind: int, start: int, vlan: bool) -> None:  # type: ignore[no-untyped-def]
    payload = RNG.randbytes(3000)
    large = build(payload, checksums=False)
    if vlan:
        large, start = large[:12] + b"\x81\0\0\7" + large[12:], start + 4
    pieces = frames.complete(large, struct.pack("<BBHHHHH", 1, kind, start + 20, 1400, start, 16, 0))
    assert len(pieces) == 3
    assert all(valid(bytes(piece)) for piece in pieces)
    assert b"".join(bytes(piece[start + 20 :]) for piece in pieces) == payload


def test_complete_sums_a_plain_frame_from_its_seed() -> None:
    whole = udp(b"hello", checksums=True)
    seed = frames.pseudo_sum(whole, 14, 17, 13)
    assert seed is not None
    left = whole[:40] + (seed % 0xFFFF).to_bytes(2, "big") + whole[42:]
    assert frames.complete(left, struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 6, 0)) == [whole]
    assert frames.complete(left, bytes(12)) == [left]
    assert frames.complete(left, None) == [left]
    assert frames.complete(left, struct.pack("<BBHHHHH", 1, 0, 0, 0, 340, 6, 0)) == []


def test_congestion_window_reduced_is_said_once() -> None:
    """RFC 3168 6.1.2: CWR stands on the first frame alone."""
    flags = [piece[47] for piece in frames.segment(bytearray(ipv4_tcp(bytes(3500), flags=0x99)), 1000, 54, 14, 34, True, True)]
    assert flags == [0x90, 0x10, 0x10, 0x19]
    (one,) = frames.segment(bytearray(ipv4_tcp(bytes(500), flags=0x99)), 1000, 54, 14, 34, True, True)
    assert one[47] == 0x99


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1026, 1460, 1461, 1514, 9000, 65535])
def test_long_frames_have_the_same_checksum(size: int) -> None:
    for content in (RNG.randbytes(size), b"\xff" * size, bytes(size)):
        frame = bytearray(content)
        assert frames.put_checksum(frame, 0, 16)
        assert int.from_bytes(frame[16:18], "big") == (reference_checksum(content) or 0xFFFF)
