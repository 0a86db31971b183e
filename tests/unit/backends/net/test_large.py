"""Large TCP frames between a card and a stack in this process: MSS of a SYN, segments inward, whole frames outward, fragments."""

from __future__ import annotations

import random
import struct

import pytest

from pyvmm.backends.net.large import LARGE, STACK_MTU, LargeFrames
from pyvmm.net.frames import NEEDS_CSUM, OFFLOAD_HEADER, complete
from tests.support.net_driver import header, seeded
from tests.support.packets import MAC, PEER, ipv4_tcp, ipv6_tcp, reference_checksum, udp, valid

RNG = random.Random(5)
TSO = 2 | 4
SYN, ACK = 2, 16


def with_options(frame: bytes, options: bytes) -> bytes:
    """A TCP frame of the helpers with options, lengths and checksums brought up to date."""
    v6 = frame[12:14] == b"\x86\xdd"
    ip = frame[14 : 54 if v6 else 34]
    tcp = bytearray(frame[14 + len(ip) :][:20] + options)
    tcp[12] = (len(tcp) // 4) << 4
    tcp[16:18] = b"\0\0"
    if v6:
        ip = ip[:4] + struct.pack(">H", len(tcp)) + ip[6:]
        pseudo = ip[8:40] + struct.pack(">II", len(tcp), 6)
    else:
        ip = ip[:2] + struct.pack(">H", 20 + len(tcp)) + ip[4:10] + b"\0\0" + ip[12:]
        ip = ip[:10] + struct.pack(">H", reference_checksum(ip)) + ip[12:]
        pseudo = ip[12:20] + struct.pack(">BBH", 0, 6, len(tcp))
    tcp[16:18] = struct.pack(">H", reference_checksum(pseudo + bytes(tcp)))
    return frame[:14] + ip + bytes(tcp)


def syn(mss: int | None, build=ipv4_tcp, before: bytes = b"", flags: int = SYN) -> bytes:  # type: ignore[no-untyped-def]
    options = before + (struct.pack(">BBH", 2, 4, mss) if mss is not None else b"")
    return with_options(build(b"", flags=flags), options + bytes(-len(options) % 4))


def back(frame: bytes, payload: bytes) -> bytes:
    """A frame of the stack's to the one who sent ``frame``."""
    v6 = frame[12:14] == b"\x86\xdd"
    answer = (ipv6_tcp if v6 else ipv4_tcp)(payload)
    at, size = (22, 16) if v6 else (26, 4)
    answer = answer[:at] + frame[at + size : at + 2 * size] + frame[at : at + size] + answer[at + 2 * size :]
    port = at + 2 * size
    return answer[:port] + frame[port + 2 : port + 4] + frame[port : port + 2] + answer[port + 4 :]


def mss_of(frame: bytes) -> int:
    at = frame.index(b"\x02\x04", 54)
    return int.from_bytes(frame[at + 2 : at + 4], "big")


@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp])
@pytest.mark.parametrize("before", [b"", b"\1", b"\1\1", b"\x08\x0a" + bytes(8), b"\x04\x02\x01"])
def test_a_syn_asks_the_stack_for_large_segments(build, before: bytes) -> None:  # type: ignore[no-untyped-def]
    large = LargeFrames()
    large.flags = TSO
    (frame,) = large.outward(syn(1440, build, before), None)
    assert mss_of(frame) == 1440 * (LARGE // 1440) and valid(frame)
    wrong = bytearray(syn(1440, build, before))
    wrong[-1] ^= 1
    assert not valid(large.outward(bytes(wrong), None)[0]), "a wrong checksum stays wrong"


@pytest.mark.parametrize("flags", [0, TSO])
@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp])
def test_a_tiny_mss_does_not_cut_a_segment_into_thousands(build, flags: int) -> None:  # type: ignore[no-untyped-def]
    large = LargeFrames()
    large.flags = flags
    large.outward(syn(1, build), None)
    pieces = large.inward(back(build(b""), bytes(LARGE)))
    assert len(pieces) <= LARGE / 64 + 1
    sizes = [OFFLOAD_HEADER.unpack(about)[3] for _, about in pieces if about is not None]
    assert sizes == ([64] if flags else [])


def test_a_syn_of_a_card_that_takes_no_large_frames_is_left_alone() -> None:
    large = LargeFrames()
    assert large.outward(syn(1460), None) == [syn(1460)]
    large.flags = 4
    assert large.outward(syn(1460), None) == [syn(1460)]
    large.flags = TSO
    assert large.outward(syn(None), None) == [syn(None)]
    assert large.outward(syn(9000 * 3), None) == [syn(9000 * 3)]
    assert large.outward(syn(1460, flags=ACK), None) == [syn(1460, flags=ACK)]


@pytest.mark.parametrize(("build", "mss"), [(ipv4_tcp, 1460), (ipv6_tcp, 1440)])
def test_the_stacks_own_mtu_is_not_told(build, mss: int) -> None:  # type: ignore[no-untyped-def]
    ((frame, offload),) = LargeFrames().inward(syn(STACK_MTU - 60, build, flags=SYN | ACK))
    assert mss_of(bytes(frame)) == mss and valid(bytes(frame)) and offload is None


@pytest.mark.parametrize(("build", "mss"), [(ipv4_tcp, 1460), (ipv4_tcp, 1000), (ipv6_tcp, 1440), (ipv4_tcp, 8000)])
@pytest.mark.parametrize("takes", [True, False])
def test_a_segment_comes_in_pieces_of_the_guests_mss(build, mss: int, takes: bool) -> None:  # type: ignore[no-untyped-def]
    large = LargeFrames()
    large.flags = TSO if takes else 0
    opened = syn(mss, build)
    large.outward(opened, None)
    payload = RNG.randbytes(LARGE)
    got = large.inward(back(opened, payload))
    if takes:
        ((whole, offload),) = got
        assert offload is not None and OFFLOAD_HEADER.unpack(offload)[:4:3] == (NEEDS_CSUM, mss)
        pieces = [bytes(piece) for piece in complete(whole, offload)]
    else:
        assert all(offload is None for _, offload in got)
        pieces = [bytes(piece) for piece, _ in got]
    head = 74 if build is ipv6_tcp else 54
    assert all(valid(piece) and len(piece) - head <= mss for piece in pieces)
    assert b"".join(piece[head:] for piece in pieces) == payload
    assert large.inward(back(opened, payload[:mss])) == [(back(opened, payload[:mss]), None)]


def test_a_guest_without_the_option_gets_the_default() -> None:
    large = LargeFrames()
    large.outward(syn(None), None)
    pieces = large.inward(ipv4_tcp(bytes(2000)))
    assert [len(piece) - 54 for piece, _ in pieces] == [536, 536, 536, 392]


def test_connections_are_not_remembered_without_end() -> None:
    large = LargeFrames()
    frame = syn(1460)
    for port in range(5000):
        large.outward(frame[:34] + port.to_bytes(2, "big") + frame[36:], None)
    assert len(large._flows) == 4096


@pytest.mark.parametrize(("build", "kind"), [(ipv4_tcp, 1), (ipv6_tcp, 4)])
def test_what_the_card_leaves_to_the_wire_is_summed_and_not_cut(build, kind: int) -> None:  # type: ignore[no-untyped-def]
    at = 70 if kind == 4 else 50
    for size in (100, 15000):
        packet = build(RNG.randbytes(size))
        (frame,) = LargeFrames().outward(seeded(packet, at), header(1, kind if size > 1460 else 0, at + 4, 1448, at - 16, 16))
        assert frame == packet
    payload = RNG.randbytes(64000)
    pieces = LargeFrames().outward(seeded(build(payload), at), header(1, kind, at + 4, 1448, at - 16, 16))
    assert all(valid(piece) for piece in pieces) and b"".join(piece[at + 4 :] for piece in pieces) == payload
    assert len(pieces) == (1 if kind == 1 else 45), "libslirp takes IPv6 up to its MTU only"


def test_a_datagrams_checksum_is_left_out() -> None:
    packet = udp(RNG.randbytes(1000))
    (frame,) = LargeFrames().outward(packet, header(1, 0, 0, 0, 34, 6))
    assert frame == packet[:40] + b"\0\0" + packet[42:]


def test_a_datagram_that_ends_early_is_no_datagram() -> None:
    packet = udp(bytes(20))
    for size in range(14, 42):
        assert LargeFrames().outward(packet[:size], header(1, 0, 0, 0, 34, 6)) == []


def test_a_header_that_contradicts_its_frame_sends_nothing() -> None:
    packet = ipv4_tcp(bytes(3000))
    for wrong in ((0, 1, 54, 1448, 34, 16), (1, 3, 54, 1448, 34, 16), (1, 0, 0, 0, 5000, 16), (1, 1, 54, 0, 36, 16)):
        assert LargeFrames().outward(packet, header(*wrong)) == []


def test_a_long_datagram_comes_in_fragments() -> None:
    frame = bytearray(udp(RNG.randbytes(5000)))
    frame[20] = 0  # the helper's packets may not be fragmented
    frame[24:26] = b"\0\0"
    frame[24:26] = struct.pack(">H", reference_checksum(bytes(frame[14:34])))
    pieces = [bytes(piece) for piece, offload in LargeFrames().inward(bytes(frame)) if offload is None]
    assert [len(piece) for piece in pieces] == [1514, 1514, 1514, 5008 - 3 * 1480 + 34]
    assert all(reference_checksum(piece[14:34]) == 0 for piece in pieces)
    places = [struct.unpack_from(">H", piece, 20)[0] for piece in pieces]
    assert places == [0x2000, 0x2000 | 185, 0x2000 | 370, 555]
    assert b"".join(piece[34:] for piece in pieces) == frame[34:]
    assert LargeFrames().inward(udp(bytes(5000))) == [], "one that may not be cut cannot come"


@pytest.mark.parametrize("seed", range(4))
def test_noise_in_both_directions(seed: int) -> None:
    chance = random.Random(seed)
    large = LargeFrames()
    kinds = (syn(1460), syn(1440, ipv6_tcp, b"\1"), ipv4_tcp(bytes(3000)), ipv6_tcp(bytes(3000)), udp(bytes(2000)), MAC + PEER)
    for _ in range(500):
        large.flags = chance.choice((0, TSO))
        frame = bytearray(chance.choice(kinds))
        for _ in range(chance.randrange(6)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        del frame[chance.choice((len(frame), chance.randrange(14, 80))) :]
        if len(frame) < 14:
            frame += bytes(14)
        plausible = header(1, chance.choice((0, 1, 4)), 54, 1000, 34, 16)
        sent = large.outward(bytes(frame), chance.choice((None, chance.randbytes(12), plausible)))
        assert all(type(piece) is bytes for piece in sent)
        assert sum(len(piece) for piece, _ in large.inward(bytes(frame))) <= 10 * len(frame) + 100
