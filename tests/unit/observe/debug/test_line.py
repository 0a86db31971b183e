"""A console in time: nothing is printed twice, the moment's console is the moment's, keys wait for the present."""

from __future__ import annotations

import random

import pytest

from pyvmm.observe.debug import line as lines
from pyvmm.observe.debug.line import Line


class Port:
    """A serial port: takes four bytes at most."""

    def __init__(self) -> None:
        self.screen = bytearray()
        self.output = self.show
        self.taken = bytearray()
        self.asked = 0
        self.on_room = self.room

    def show(self, data: bytes) -> None:
        self.screen += data

    def room(self) -> None:
        self.asked += 1

    def receive(self, data: bytes) -> int:
        self.taken += data[:4]
        return min(len(data), 4)


class Time:
    """Where the machine is."""

    def __init__(self) -> None:
        self.now = 0
        self.past = False


def made() -> tuple[Port, Time, Line]:
    port, time = Port(), Time()
    return port, time, Line(port, lambda: time.now, lambda: time.past)


def test_what_is_said_again_is_not_printed_again() -> None:
    port, _, line = made()
    port.output(b"hello ")
    port.output(b"world")
    line.position = 3
    assert line.tail(99) == b"hel"
    port.output(b"lo")
    port.output(b" world, again")
    assert port.screen == b"hello world, again"
    assert line.tail(5) == b"again"


def test_what_is_said_otherwise_is_printed_from_there() -> None:
    port, _, line = made()
    port.output(b"hello world")
    line.position = 6
    port.output(b"there")
    assert port.screen == b"hello worldthere"
    assert line.tail(99) == b"hello there"


def test_a_forgotten_future_is_printed_anew() -> None:
    port, _, line = made()
    port.output(b"abc")
    line.position = 1
    line.forget()
    port.output(b"bc")
    assert port.screen == b"abcbc"
    assert line.tail(99) == b"abc"


@pytest.mark.parametrize("seed", range(5))
def test_beside_a_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST", 50)
    generator = random.Random(seed)
    port, _, line = made()
    said = b""
    for _ in range(500):
        if generator.random() < 0.7:
            data = generator.randbytes(generator.randint(0, 5))
            port.output(data)
            said += data
        else:
            line.position = max(len(said) - generator.randint(0, 40), 0)
            said = said[: line.position]
        assert line.position == len(said)
        assert said.endswith(line.tail(10))
        assert len(line._said) <= 100


def test_keys_wait_for_the_present_and_are_pressed_again() -> None:
    port, time, line = made()
    time.now = 3
    assert port.receive(b"abcdef") == 4
    time.now = 9
    assert port.receive(b"gh") == 2
    time.past, time.now = True, 3
    assert port.receive(b"later") == 0
    port.taken.clear()
    line.replay()
    assert port.taken == b"abcd"
    time.now = 4
    line.replay()
    assert port.taken == b"abcd"
    line.offer()
    assert not port.asked
    time.past = False
    line.offer()
    line.offer()
    assert port.asked == 1
    assert port.receive(b"later") == 4


def test_a_closed_line_leaves_the_device_as_it_was() -> None:
    port, _, line = made()
    line.close()
    port.output(b"x")
    assert port.output == port.show
    assert port.receive(b"x") == 1
    assert "receive" not in vars(port)


def test_a_device_that_only_speaks() -> None:
    class Debug:
        def __init__(self) -> None:
            self.output = lambda data: None

    line = Line(Debug(), lambda: 0, lambda: True)
    line.replay()
    line.offer()
    line.close()
