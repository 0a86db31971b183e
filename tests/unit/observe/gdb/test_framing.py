"""Packets on the wire: what is sent comes back, whatever the pieces; what is broken is told or dropped."""

from __future__ import annotations

import random

import pytest

from pyvmm.observe.gdb import framing
from pyvmm.observe.gdb.framing import ACK, CORRUPT, INTERRUPT, NAK, PACKET, TOO_LONG, Receiver


def test_a_packet_as_the_manual_has_it() -> None:
    assert framing.frame(b"OK") == b"$OK#9a"
    assert framing.frame(b"") == b"$#00"


@pytest.mark.parametrize("data", [b"", b"plain", b"#$}*", b"}", b"}}", b"a}b", b"\x03\x5d\x5d", b"}]}]", bytes(range(256)) * 3])
def test_escapes_come_back(data: bytes) -> None:
    escaped = framing.escape(data)
    assert not set(escaped) & set(b"#$*")
    assert framing.unescape(escaped) == data


def test_escapes_of_random_bytes_come_back() -> None:
    rng = random.Random(1)
    for _ in range(300):
        data = bytes(rng.choices(b"}]#$*\x03\x04\n az", k=rng.randrange(20)))
        assert framing.unescape(framing.escape(data)) == data


def test_an_escaped_brace_may_come_unescaped_twice() -> None:
    assert framing.unescape(b"}}x") == b"]x"  # 0x7d ^ 0x20: nobody sends this, but it has a meaning
    assert framing.unescape(b"}}}") == b"]"  # ... and a lone one at the end has none
    assert framing.unescape(b"ab}") == b"ab"


def test_run_lengths() -> None:
    assert framing.compress(b"0000") == b"0* "  # the manual's example: a space is 3 more
    assert framing.compress(b"000") == b"000"
    assert framing.expand(b"0* ") == b"0000"
    for count in range(1, 300):
        packed = framing.compress(b"a" * count + b"b")
        assert framing.expand(packed) == b"a" * count + b"b"
        assert not set(packed) & set(b"#$+-")
    assert framing.compress(b"####++++") == b"####++++"


@pytest.mark.parametrize("broken", [b"*a", b"a*", b"a*\x1c"])
def test_broken_run_lengths(broken: bytes) -> None:
    with pytest.raises(ValueError, match="run length"):
        framing.expand(broken)


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_a_stream_in_pieces(piece: int) -> None:
    stream = b"+$g#67\x03-junk$m0,10#2a$bad#00$" + b"x" * 40 + b"#ab$c#63"
    receiver = Receiver(limit=32)
    got = [each for at in range(0, len(stream), piece) for each in receiver.feed(stream[at : at + piece])]
    assert got == [
        *((ACK, b""), (PACKET, b"g"), (INTERRUPT, b""), (NAK, b""), (PACKET, b"m0,10"), (CORRUPT, b""), (TOO_LONG, b"")),
        (PACKET, b"c"),
    ]  # fmt: skip


def test_control_c_inside_a_packet_is_data() -> None:
    payload = b"X0,1:\x03"
    assert list(Receiver().feed(framing.frame(payload))) == [(PACKET, payload)]


def test_a_packet_that_broke_off() -> None:
    assert list(Receiver().feed(b"$m0,1$g#67")) == [(PACKET, b"g")]


def test_no_checksums_in_no_ack_mode() -> None:
    receiver = Receiver()
    receiver.check = False
    assert list(receiver.feed(b"$g#zz")) == [(PACKET, b"g")]


def test_nothing_grows_without_end() -> None:
    receiver = Receiver(limit=64)
    for _ in range(100):
        assert not list(receiver.feed(b"$" + b"y" * 1000))
    assert len(receiver._payload) <= 64
