"""The UNIX-socket console: both ends, one client after another, and whose file it may delete."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import pytest

from pyvmm.backends.console import make
from pyvmm.backends.unix import UnixConsole
from pyvmm.config import SerialConfig
from pyvmm.errors import ConfigError
from pyvmm.ioloop import IoLoop
from tests.unit.backends.test_console import Port


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    loop = IoLoop(threading.Lock())
    yield loop
    loop.close()


def turn(loop: IoLoop, times: int = 3) -> None:
    for _ in range(times):
        loop.make_timer(lambda: setattr(loop, "_stopped", True)).arm(monotonic_ns())
        loop.run()
        loop._stopped = False


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(str(path))
    return client


def listening(path: Path, loop: IoLoop, port: Port) -> UnixConsole:
    console = UnixConsole(f"{path},server=on,wait=off")
    console.attach(loop, port)
    return console


def test_clients_come_and_go(loop: IoLoop, tmp_path: Path) -> None:
    path, port = tmp_path / "s", Port()
    console = listening(path, loop, port)
    console.write(b"to nobody")
    for text in (b"one", b"two", b"three"):
        client = connect(path)
        turn(loop)
        console.write(b"hi " + text)
        assert client.recv(100) == b"hi " + text
        client.sendall(text)
        turn(loop)
        assert port.got.endswith(text)
        client.close()
        turn(loop)
        console.write(b"to nobody")
    assert port.got == b"onetwothree"
    console.close()
    assert not path.exists()


def test_a_second_client_waits_for_the_first_to_go(loop: IoLoop, tmp_path: Path) -> None:
    path, port = tmp_path / "s", Port()
    console = listening(path, loop, port)
    first, second = connect(path), connect(path)
    second.sendall(b"second")
    turn(loop)
    assert port.got == b""
    first.sendall(b"first ")
    first.close()
    turn(loop, 6)
    assert port.got == b"first second"
    second.close()
    console.close()


def test_a_client_that_leaves_while_the_guest_reads_nothing_makes_room_for_the_next(loop: IoLoop, tmp_path: Path) -> None:
    path, port = tmp_path / "s", Port(room=0)
    console = listening(path, loop, port)
    first = connect(path)
    first.sendall(b"abc")
    turn(loop)
    first.close()
    console.write(b"x")
    console.write(b"y")  # one of them finds the client gone
    second = connect(path)
    second.sendall(b"def")
    turn(loop)
    console.write(b"for the second")
    assert second.recv(100) == b"for the second"
    port.make_room(100)
    turn(loop)
    assert port.got == b"abcdef"
    second.close()
    console.close()


def test_connecting_to_a_server(loop: IoLoop, tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()
    console, port = make(SerialConfig(kind="unix", target=str(tmp_path / "s"))), Port()
    peer, _ = server.accept()
    console.attach(loop, port)
    console.write(b"hello")
    assert peer.recv(10) == b"hello"
    peer.sendall(b"back")
    turn(loop)
    assert port.got == b"back"
    peer.close()
    turn(loop)
    console.write(b"x")
    console.write(b"y")
    console.close()
    console.close()
    server.close()
    assert (tmp_path / "s").exists(), "the server's file is not ours"


def test_waiting_for_the_first_client(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s"
    clients: list[socket.socket] = []

    def come() -> None:
        while not clients:
            try:
                clients.append(connect(path))
            except OSError:
                threading.Event().wait(0.01)

    thread = threading.Thread(target=come)
    thread.start()
    console = UnixConsole(f"{path},server=on")
    thread.join()
    console.write(b"first bytes")
    assert clients[0].recv(100) == b"first bytes"
    assert capfd.readouterr().err == f"waiting for a connection on {path}\n"
    console.close()
    clients[0].close()


def test_a_client_outlives_the_guests_reset(tmp_path: Path) -> None:
    path, first, second = tmp_path / "s", IoLoop(threading.Lock()), IoLoop(threading.Lock())
    before, after = Port(), Port()
    console = listening(path, first, before)
    client = connect(path)
    client.sendall(b"a")
    turn(first)
    first.close()
    console.attach(second, after)
    client.sendall(b"b")
    turn(second)
    console.write(b"still here")
    assert (before.got, after.got, client.recv(100)) == (b"a", b"b", b"still here")
    second.close()
    console.close()
    client.close()


@pytest.mark.parametrize("options", ["server,nowait", "server=on,wait=off", "server,wait=off", "nowait,server=on"])
def test_spellings(tmp_path: Path, options: str) -> None:
    UnixConsole(f"{tmp_path}/s,{options}").close()
    assert not (tmp_path / "s").exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    console = UnixConsole(f"{tmp_path}/s,server=on,wait=off")
    connect(tmp_path / "s").close()
    console.close()


@pytest.mark.parametrize("kind", ["file", "link", "folder", "live"])
def test_what_is_not_a_stale_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    live = socket.socket(socket.AF_UNIX)
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        live.bind(str(path))
        live.listen()
    with pytest.raises(ConfigError, match="in use"):
        UnixConsole(f"{path},server=on,wait=off")
    assert os.path.lexists(path)
    assert kind != "file" or path.read_text() == "precious"
    live.close()


def test_a_socket_file_that_somebody_removed_is_no_error(tmp_path: Path) -> None:
    console = UnixConsole(f"{tmp_path}/s,server=on,wait=off")
    (tmp_path / "s").unlink()
    console.close()


def test_a_client_that_does_not_read_is_waited_for_only_while_the_run_goes_on(loop: IoLoop, tmp_path: Path) -> None:
    console = listening(tmp_path / "s", loop, Port())
    client = connect(tmp_path / "s")
    turn(loop)
    loop.deadline = loop.make_timer(lambda: setattr(loop, "abandoned", True))
    loop.deadline.arm(monotonic_ns() + 50_000_000)
    console.write(bytes(4 << 20))
    assert loop.abandoned
    client.close()
    console.close()
