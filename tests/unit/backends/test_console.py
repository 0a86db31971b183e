"""Consoles without a machine: bytes in and out, back-pressure, hang-ups, and writes nobody reads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic_ns

import pytest

from pyvmm.backends.console import Console, FileConsole, PtyConsole, StdioConsole, make
from pyvmm.config import SerialConfig
from pyvmm.errors import ConfigError
from pyvmm.ioloop import IoLoop


class Port:
    """A device with ``room`` for that many bytes."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.got = b""
        self.offers: list[int] = []
        self.on_room: Callable[[], None] | None = None
        self.until = 1 << 62  # calls ``stop`` when it has got that many
        self.stop: Callable[[], None] = lambda: None

    def receive(self, data: bytes) -> int:
        self.offers.append(len(data))
        taken = data[: self.room]
        self.room -= len(taken)
        self.got += taken
        if len(self.got) >= self.until:
            self.stop()
        return len(taken)

    def make_room(self, room: int) -> None:
        self.room = room
        assert self.on_room is not None
        self.on_room()


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    loop = IoLoop(threading.Lock())
    yield loop
    loop.close()


def turn(loop: IoLoop) -> None:
    """Serves what is ready now, then returns."""
    loop.make_timer(lambda: setattr(loop, "_stopped", True)).arm(monotonic_ns())
    loop.run()
    loop._stopped = False


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


def fill(fd: int) -> int:
    """Fills a pipe; returns how many bytes that took."""
    os.set_blocking(fd, False)
    count = 0
    try:
        while True:
            count += os.write(fd, b"\0" * 4096)
    except BlockingIOError:
        return count


# --- input --------------------------------------------------------------------------------------------------------------
def test_input_reaches_the_port(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, port = Console(pipe[0]), Port()
    console.attach(loop, port)
    for text in (b"a", b"bcd", bytes(range(256)) * 2):
        os.write(pipe[1], text)
        turn(loop)
        turn(loop)
        turn(loop)
    assert port.got == b"abcd" + bytes(range(256)) * 2


def test_back_pressure_reaches_the_writer(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, port = Console(pipe[0]), Port(room=1)
    console.attach(loop, port)
    total = fill(pipe[1])
    for _ in range(20):
        turn(loop)
    assert len(port.got) == 1
    taken = total - len(os.read(pipe[0], total))
    assert taken <= 512, "read ahead without a reason"


def test_everything_arrives_in_order_however_little_room_there_is(loop: IoLoop, pipe: tuple[int, int]) -> None:
    data = bytes(at * 7 & 0xFF for at in range(3000))
    console, port = Console(pipe[0]), Port(room=0)
    console.attach(loop, port)
    os.write(pipe[1], data)
    room = 1
    while len(port.got) < len(data):
        turn(loop)
        port.make_room(room)
        room = room % 40 + 1
    assert port.got == data
    assert max(port.offers) <= 64


def test_an_idle_port_is_not_offered_anything_twice(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, port = Console(pipe[0]), Port(room=0)
    console.attach(loop, port)
    os.write(pipe[1], b"x")
    for _ in range(10):
        turn(loop)
    assert port.offers == [1]


def test_end_of_input_is_not_the_guests_end(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, port = Console(pipe[0]), Port()
    console.attach(loop, port)
    os.write(pipe[1], b"last")
    os.close(pipe[1])
    turn(loop)
    turn(loop)
    assert (port.got, console.in_fd) == (b"last", -1)
    assert not loop._readers


def test_a_regular_file_is_read_as_the_port_takes_it(loop: IoLoop, tmp_path: Path) -> None:
    data = os.urandom(2000)
    (tmp_path / "input").write_bytes(data)
    with open(tmp_path / "input", "rb") as file:
        console, port = Console(file.fileno()), Port(room=3)
        console.attach(loop, port)
        assert port.got == data[:3]
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) <= 512
        while console.in_fd >= 0:
            port.make_room(17)
        assert port.got == data
        console.close()


@pytest.mark.parametrize("path", ["/dev/null", "/"])
def test_input_that_ends_at_once(loop: IoLoop, path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    console, port = Console(fd), Port()
    console.attach(loop, port)
    os.close(fd)
    assert (console.in_fd, port.got) == (-1, b"")


def test_a_reset_keeps_what_was_typed_and_not_yet_taken(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, first = Console(pipe[0]), Port(room=2)
    console.attach(loop, first)
    os.write(pipe[1], b"abcdef")
    turn(loop)
    loop.close()
    second, new_loop = Port(), IoLoop(threading.Lock())
    console.attach(new_loop, second)
    os.write(pipe[1], b"g")
    turn(new_loop)
    new_loop.close()
    assert (first.got, second.got) == (b"ab", b"cdefg")


# --- the terminal's keys ------------------------------------------------------------------------------------------------
def test_a_filter_sees_every_byte_first(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, port = Console(pipe[0]), Port()
    console.filter = lambda data: data.replace(b"!", b"")
    console.attach(loop, port)
    os.write(pipe[1], b"a!b!!c")
    turn(loop)
    assert port.got == b"abc"


def test_keys_work_while_the_guest_takes_nothing(loop: IoLoop, pipe: tuple[int, int]) -> None:
    keys = bytearray()

    def listen(data: bytes) -> bytes:
        keys.extend(data)
        return data

    console, port = Console(pipe[0]), Port(room=0)
    console.attach(loop, port)
    console.filter = listen
    for number in range(300):
        os.write(pipe[1], bytes([number & 0xFF]))
        turn(loop)
    assert len(keys) == 300
    while console._pending:
        port.make_room(7)
    assert port.got == bytes(keys)


def test_what_is_typed_ahead_is_bounded(loop: IoLoop, pipe: tuple[int, int]) -> None:
    console, port = Console(pipe[0]), Port(room=0)
    console.filter = lambda data: data
    console.attach(loop, port)
    os.set_blocking(pipe[1], False)
    for _ in range(2000):
        try:
            os.write(pipe[1], b"x" * 256)
        except BlockingIOError:
            break
        turn(loop)
    else:
        pytest.fail("took everything")
    assert len(console._pending) <= (64 << 10) + 256


# --- output -------------------------------------------------------------------------------------------------------------
def test_output_goes_out_at_once(pipe: tuple[int, int]) -> None:
    console = Console(out_fd=pipe[1])
    console.write(b"a")
    assert os.read(pipe[0], 10) == b"a"
    console.write(b"")
    console.write(b"bc")
    assert os.read(pipe[0], 10) == b"bc"


def test_a_console_without_output_swallows() -> None:
    make(SerialConfig(kind="null")).write(b"x")


def test_a_reader_that_has_gone_costs_nothing_but_the_bytes(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    console = Console(out_fd=pipe[1])
    console.write(b"x")
    assert console.out_fd == -1
    console.write(b"y")


@pytest.mark.parametrize("may_block", [False, True], ids=["non-blocking", "blocking"])
def test_a_slow_reader_gets_everything_in_order(pipe: tuple[int, int], may_block: bool) -> None:
    console = Console(out_fd=pipe[1])
    os.set_blocking(pipe[1], may_block)
    console._may_block = may_block
    data = os.urandom(300_000)
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(pipe[0], 10_000))

    thread = threading.Thread(target=read)
    thread.start()
    console.write(data)
    thread.join(60)
    assert got == data


@pytest.mark.parametrize("may_block", [False, True], ids=["non-blocking", "blocking"])
def test_a_write_nobody_reads_ends_when_the_run_is_given_up(loop: IoLoop, pipe: tuple[int, int], may_block: bool) -> None:
    fill(pipe[1])
    os.set_blocking(pipe[1], may_block)
    console = Console(out_fd=pipe[1])
    console._may_block = may_block
    console.attach(loop)
    threading.Timer(0.05, lambda: setattr(loop, "abandoned", True)).start()
    signal.alarm(60)  # a failure must not hang
    console.write(b"x" * 100_000)
    signal.alarm(0)


def test_a_write_nobody_reads_ends_at_the_deadline(loop: IoLoop, pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    console = Console(out_fd=pipe[1])
    console.attach(loop)
    loop.deadline = loop.make_timer(lambda: setattr(loop, "abandoned", True))
    loop.deadline.arm(monotonic_ns() + 50_000_000)
    signal.alarm(60)
    console.write(b"x")
    signal.alarm(0)
    assert loop.abandoned


def test_stdout_itself_stays_blocking(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    saved = os.dup(1)
    os.dup2(pipe[1], 1)
    try:
        console = StdioConsole()
        assert console.out_fd != 1 and not os.get_blocking(console.out_fd)
        assert os.get_blocking(1), "the shell and its other children share this open file"
        assert not os.get_inheritable(console.out_fd)
        console.write(b"through")
        console.close()
        console.close()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert os.read(pipe[0], 20) == b"through"


def test_stdout_that_cannot_be_opened_again_is_looked_at_first(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    ours, theirs = socket.socketpair()  # /proc/self/fd/N of a socket: ENXIO
    saved = os.dup(1)
    os.dup2(ours.fileno(), 1)
    try:
        console = StdioConsole()
        assert (console.out_fd, console._may_block) == (1, True)
        console.write(b"through")
        console.close()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert theirs.recv(20) == b"through"
    ours.close()
    theirs.close()


# --- file ---------------------------------------------------------------------------------------------------------------
def test_a_file_is_truncated_and_written_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "log\udcff"  # undecodable names are names too
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    path.write_bytes(b"old contents")
    console = make(SerialConfig(kind="file", target=str(path)))
    assert path.read_bytes() == b""
    console.write(b"a")
    assert path.read_bytes() == b"a"
    console.write(b"b")
    assert path.read_bytes() == b"ab"
    console.close()
    console.close()
    console.write(b"late")
    assert path.read_bytes() == b"ab"


def test_a_full_disk_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    console = FileConsole("/dev/full", "serial")
    console.write(b"x")
    console.write(b"y")
    assert capfd.readouterr().err == "pyvmm: warning: guest output is lost from here on: No space left on device\n"
    console.close()


def test_an_unwritable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"-serial file:{tmp_path}: Is a directory"):
        FileConsole(str(tmp_path), "serial")
    with pytest.raises(ConfigError, match="-debugcon file:.*: .*embedded null"):
        FileConsole("a\0b", "debugcon")


# --- pty ----------------------------------------------------------------------------------------------------------------
def test_a_pty_talks_both_ways_and_survives_its_users(loop: IoLoop, capfd: pytest.CaptureFixture[str]) -> None:
    console, port = PtyConsole("serial"), Port()
    assert capfd.readouterr().err == f"char device redirected to {console.name}\n"
    console.attach(loop, port)
    for name in (b"one", b"two"):
        user = os.open(console.name, os.O_RDWR | os.O_NOCTTY)
        console.write(b"\nto " + name)
        assert os.read(user, 100) == b"\nto " + name  # no \r added
        typed = b"from " + name + b"\r\x03"  # no \n made of \r, no signal
        os.write(user, typed)
        port.until, port.stop = len(port.got) + len(typed), loop.stop  # the kernel hands it over when it likes
        loop.run()
        loop._stopped = False
        assert port.got.endswith(typed)
        os.close(user)
    console.close()
    console.close()


def test_a_pty_nobody_reads_does_not_stop_the_guest_and_is_read_again_later(capfd: pytest.CaptureFixture[str]) -> None:
    console = PtyConsole("serial")
    signal.alarm(60)
    for _ in range(100):
        console.write(b"x" * 4096)
    signal.alarm(0)
    user = os.open(console.name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        while os.read(user, 65536):
            pass
    except BlockingIOError:
        pass
    console.write(b"here again")
    os.set_blocking(user, True)
    assert os.read(user, 100) == b"here again"
    os.close(user)
    console.close()


def test_a_pty_waits_for_a_reader_that_is_merely_slow() -> None:
    console = PtyConsole("serial")
    data = os.urandom(200_000)
    got = bytearray()
    user = os.open(console.name, os.O_RDWR | os.O_NOCTTY)

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(user, 4096))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    console.write(data)
    thread.join(60)
    assert bytes(got) == data
    os.close(user)
    console.close()
