"""The log of exits: what it forgets, where machines were at rest, and what makes an exit another one."""

from __future__ import annotations

from struct import pack_into

import pytest

from pyvmm.kvm import structs, uapi
from pyvmm.observe.debug.exitlog import ExitLog, difference
from pyvmm.observe.debug.subject import ExitRecord


def frozen(port: int = 0x3F8, data: bytes = b"x", out: bool = True, offset: int = 0x1000) -> bytes:
    """Port I/O as ``exits.freeze`` keeps it."""
    page = bytearray(structs.RUN_UNION + 0x10)
    pack_into("<I", page, structs.RUN_EXIT_REASON, uapi.KVM_EXIT_IO)
    pack_into("<BBHIQ", page, structs.RUN_UNION, int(out), len(data), port, 1, offset)
    return bytes(page) + data


def record(number: int, **fields: object) -> ExitRecord:
    return ExitRecord(**{"number": number, "vcpu": 0, "time": 0, "frozen": frozen(), **fields})  # type: ignore[arg-type]


def test_exits_are_found_by_number() -> None:
    log = ExitLog(1 << 20)
    assert log.get(1) is None and log.first == 1 and not list(log.backward(5))
    for number in range(1, 6):
        log.add([record(number)])
    assert [found.number for found in log.backward(3)] == [3, 2, 1]
    assert [log.get(number) is not None for number in (0, 1, 5, 6)] == [False, True, True, False]
    log.forget_after(2)
    assert log.get(3) is None and log.get(2) is not None
    log.add([record(3)])
    assert log.rest_behind(3) == 3


def test_an_instruction_with_several_exits_is_rested_behind_the_last() -> None:
    log = ExitLog(1 << 20)
    log.add([record(1)])
    log.add([record(2), record(3), record(4)])
    log.add([record(5)])
    assert [log.rest_before(number) for number in range(6)] == [0, 1, 1, 1, 4, 5]
    assert [log.rest_behind(number) for number in range(7)] == [0, 1, 4, 4, 4, 5, 5]
    log.forget_after(0)
    assert log.rest_behind(9) == 0


def test_the_oldest_go() -> None:
    log = ExitLog(100_000)
    for number in range(1, 10_000):
        log.add([record(number)])
        assert log.size <= log.limit
    assert log.first > 9000
    assert log.get(log.first - 1) is None
    assert len(list(log.backward(9999))) == 9999 - log.first + 1
    log.forget_after(0)
    assert log.size == 0


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"vcpu": 1}, "vCPU 0's, this time it is vCPU 1's"),
        ({"frozen": frozen(port=0x3F9)}, "out to port 0x3f8, 1 byte: 0x78; this time: out to port 0x3f9"),
        ({"frozen": frozen(data=b"y")}, "this time: out to port 0x3f8, 1 byte: 0x79"),
        ({"frozen": frozen(out=False)}, "this time: in from port 0x3f8"),
        ({"rip": 5}, "came at 0x0, this time at 0x5"),
        ({"answer": b"\1"}, "was answered , this time 01"),
        ({"time": 7}, ""),
        ({"frozen": frozen(offset=0x1001)}, ""),
    ],
)
def test_what_is_different(again: dict[str, object], said: str) -> None:
    text = difference(record(3), record(3, **again))
    assert said in text
    assert bool(text) == bool(said)
    assert "\n" not in text


def test_what_the_page_held_before_a_read_is_nobody_s_affair() -> None:
    one, other = (record(1, frozen=frozen(out=False, data=data), answer=b"z") for data in (b"a", b"b"))
    assert not difference(one, other)
