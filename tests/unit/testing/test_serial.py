"""A guest's console in a test, without a guest."""

from __future__ import annotations

import threading
import time

import pytest

from pyvmm.testing import serial
from pyvmm.testing.serial import GuestEnded, GuestTimeout, Serial


class Life:
    """How the run ended; "" while it goes on."""

    end = ""

    def __call__(self) -> str:
        return self.end


class Port:
    """A device that takes a few bytes at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""
        self.on_room = None

    def receive(self, data: bytes) -> int:
        self.taken += data[: self.room]
        return min(len(data), self.room)


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.fixture
def console(life: Life) -> Serial:
    return Serial("guest", life)


def test_expect_goes_forward(console: Serial) -> None:
    console.write(b"one two one")
    assert console.expect(rb"o(n)e")[1] == b"n"
    assert console.expect("one").start() > 0
    with pytest.raises(GuestTimeout, match="guest: b'one' did not come within 0.02 s"):
        console.expect("one", timeout=0.02)
    console.write(b" one")
    console.expect("one")


def test_text_that_comes_in_pieces(console: Serial) -> None:
    console.write(b"log")
    timer = threading.Timer(0.05, console.write, (b"in: ",))
    timer.start()
    console.expect("login:", timeout=30)
    timer.join()


def test_what_is_there_is_found_although_time_is_over_or_the_guest(console: Serial, life: Life) -> None:
    console.write(b"done")
    life.end = "it ended"
    assert console.expect("do", timeout=0)
    assert console.expect("ne", timeout=-1)
    with pytest.raises(GuestEnded, match="guest: it ended before b'more' came"):
        console.expect("more", timeout=30)


def test_an_end_while_it_waits(console: Serial, life: Life) -> None:
    timer = threading.Timer(0.05, setattr, (life, "end", "it crashed"))
    timer.start()
    start = time.monotonic()
    with pytest.raises(GuestEnded, match="it crashed"):
        console.expect("x", timeout=60)
    assert time.monotonic() - start < 30
    timer.join()


def test_output_as_text(console: Serial) -> None:
    console.write(b"a\r\nb\xff\r\n\r\n")
    assert console.output == b"a\r\nb\xff\r\n\r\n"
    assert console.text == "a\nb\xff\n\n"
    assert console.tail(2) == "b\\xff\n"
    console.write(b"." * 500)
    assert console.tail(1) == "." * 400 + "... (100 more)"


def test_what_is_shown_is_utf8_and_cannot_upset_a_terminal(console: Serial) -> None:
    console.write("old\ngr\u00fc\u00df\tdich\n".encode() + b"\x1b[2J\x9b1m\xff\x00\x85\r50 %\r\n\xe2\x80\xa8")
    assert console.tail(3) == "gr\u00fc\u00df    dich\n\\x1b[2J\\x9b1m\\xff\\x00\\x85\\r50 %\n\\u2028"
    assert Serial("nothing", str).tail() == ""


def test_skip_leaves_what_was_printed_behind(console: Serial) -> None:
    console.write(b"old")
    console.skip()
    with pytest.raises(GuestTimeout):
        console.expect("old", timeout=0)


def test_a_flood_is_kept_within_bounds_and_found_in(console: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial, "KEPT", 100)
    console.write(b"first ")
    for number in range(100):
        console.write(b"%03d " % number)
    assert len(console.output) <= 200
    assert console.output.endswith(b"098 099 ")
    console.expect("050|08[0-9]")
    console.expect("099")
    console.write(b"." * 1000)
    console.expect(r"\.$")
    with pytest.raises(GuestTimeout):
        console.expect(r"\.", timeout=0)


def test_typing_waits_for_room(console: Serial, life: Life) -> None:
    port = Port(3)
    console.attach(None, port)  # type: ignore[arg-type]
    console.send("hello ")
    console.send(b"guest")
    assert port.taken == b"helhel"[:3] + b"lo "[:3]
    port.room = 64
    console._pump()
    assert port.taken == b"hello guest"
    life.end = "it ended"
    with pytest.raises(GuestEnded, match="nobody takes what is typed"):
        console.send("more")


def test_what_is_typed_before_there_is_a_device_reaches_it(console: Serial) -> None:
    console.send("early")
    port = Port(64)
    console.attach(None, port)  # type: ignore[arg-type]
    assert port.taken == b"early"
