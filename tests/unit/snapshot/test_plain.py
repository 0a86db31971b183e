"""Records as plain data and back: round trips, shapes that do not fit, bytes that are no plain data."""

from __future__ import annotations

import os
import random

import pytest

from pyvmm.devices.e1000.transmit import TransmitState
from pyvmm.devices.rtc import RtcState
from pyvmm.devices.serial import SerialState
from pyvmm.devices.virtio.core import CoreState, QueueState
from pyvmm.devices.virtio.net_control import NetState
from pyvmm.devices.virtio.rng import RngState
from pyvmm.record import Record
from pyvmm.snapshot.plain import Misfit, fixed, freeze, pack, plain, shaped, thaw, unpack

CASES = int(os.environ.get("PYVMM_FUZZ", "20000"))
STATES = [
    SerialState(rx=[1, 0x41, 0x1041], ier=5, thr_pending=1),
    RtcState(ram=bytearray(range(128)), offset=-(10**18), seen=10**18),
    CoreState(queues=[QueueState(size=16), QueueState(size=8, enabled=1, desc=1 << 40)], driver_features=1 << 40, isr=1),
    NetState(mac=bytes(6), unicast=(b"\2" * 6, b"\4" * 6), vlans=1 << 4095, announce=True),
    RngState(left=None),
    TransmitState(frame=bytearray(b"abc"), plain=[1, 2]),
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_a_state_comes_back_as_it_was(state: Record) -> None:
    copy = shaped(state, unpack(pack(plain(state))))
    assert copy == state
    assert all(getattr(copy, name) is not value for name, value in state if isinstance(value, (list, bytearray)))


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_a_frozen_state_comes_back_and_shows_every_change(state: Record) -> None:
    frozen = freeze(state)
    assert thaw(frozen) == plain(state)
    copy = shaped(state, plain(state))
    assert freeze(copy) == frozen
    for name, value in list(copy):
        if type(value) in (int, bool):
            assert freeze(copy.replace(**{name: int(value) ^ 1})) != frozen
        elif isinstance(value, bytearray):
            assert freeze(copy.replace(**{name: value + b"x"})) != frozen
        elif isinstance(value, list) and value and isinstance(value[0], Record):
            value[-1].__dict__[value[-1]._fields[0]] ^= 1
            assert freeze(copy) != frozen
            value[-1].__dict__[value[-1]._fields[0]] ^= 1


@pytest.mark.parametrize("value", [None, True, False, 0, -1, 1 << 4200, b"", b"\0" * 99, "", "grün", [], {}, [[1], {1: {"a": [None]}}]])
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    assert unpack(pack(value)) == value
    assert type(unpack(pack(value))) is type(value)


def test_what_is_not_plain_cannot_be_packed() -> None:
    with pytest.raises(TypeError):
        pack([1.5])


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"i;", b"i", b"i1", b"i1.5;", b"i--1;", b"i 1;", b"i" + b"9" * 5000 + b";",
        b"b", b"b1:", b"b-1:", b"b99999999999999999999:",
        b"s1:\xff", b"[", b"[N", b"{", b"{N", b"{i1;}", b"{NN}", b"{b1:aN}", b"]", b"NN", b"[" * 100 + b"]" * 100, b"[" * 100_000,
    ],
)  # fmt: skip
def test_bytes_that_are_no_plain_data(data: bytes) -> None:
    with pytest.raises(Misfit):
        unpack(data)


def test_damaged_bytes_are_something_else_or_refused() -> None:
    generator = random.Random(5)
    good = [pack(plain(state)) for state in STATES]
    for _ in range(CASES):
        data = bytearray(generator.choice(good))
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(data))
            match generator.randrange(3):
                case 0:
                    data[at] = generator.choice(b"NTFibs[]{}0123456789:;\0\xff")
                case 1:
                    del data[at:]
                    data += b"]}"
                case 2:
                    data[at:at] = data[: generator.randint(0, 20)]
        try:
            value = unpack(bytes(data))
        except Misfit:
            continue
        for state in STATES:
            try:
                assert type(shaped(state, value)) is type(state)
            except Misfit:
                pass


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"ier": "1"}, "ier"),
        ({"ier": b"1"}, "ier"),
        ({"rx": 1}, "rx"),
        ({"rx": ["a"]}, "rx"),
        ({"rx": [None]}, "rx"),
        ({"more": 1}, "it"),
    ],
)
def test_another_shape_is_refused_by_name(change: dict[str, object], where: str) -> None:
    with pytest.raises(Misfit, match=where):
        shaped(SerialState(), {**plain(SerialState()), **change})


def test_records_in_lists_keep_their_number() -> None:
    state = CoreState(queues=[QueueState(size=16)])
    with pytest.raises(Misfit, match="queues"):
        shaped(state, {**plain(state), "queues": []})
    with pytest.raises(Misfit, match=r"queues\[0\]"):
        shaped(state, {**plain(state), "queues": [{}]})


def test_lengths_are_fixed_but_where_they_are_not() -> None:
    state = RtcState()
    with pytest.raises(Misfit, match="ram"):
        fixed(state, state.replace(ram=bytearray(5)), frozenset())
    fixed(state, state.replace(ram=bytearray(5)), frozenset(("ram",)))
    fixed(SerialState(), SerialState(rx=[1]), frozenset(("rx",)))
