"""The socket side: addresses, one client at a time, hanging up, a client that does not read."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.errors import ConfigError
from pyvmm.observe.gdb import framing
from pyvmm.observe.gdb.server import Address, GdbServer, parse_address
from tests.support.gdb_target import FakeTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp::1234", "tcp:127.0.0.1:1234"),
        ("tcp:0.0.0.0:0", "tcp:0.0.0.0:0"),
        ("tcp:[::1]:65535", "tcp:[::1]:65535"),
        ("tcp::1234,server=on,wait=off", "tcp:127.0.0.1:1234"),
        ("tcp::1234,server,nowait", "tcp:127.0.0.1:1234"),
        ("unix:/run/a:b", "unix:/run/a:b"),
        ("unix:x,server=on", "unix:x"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "1234", "tcp", "tcp:1234", "tcp::", "tcp::x", "tcp::65536", "tcp::-1", "unix:", "udp::1", "tcp::1,what", "unix:\0"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="write tcp::1234"):
        parse_address(text)


@pytest.fixture
def fake() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def server(fake: FakeTarget, tmp_path: Path) -> Iterator[GdbServer]:
    made = GdbServer(fake, Address(path=str(tmp_path / "gdb")))
    made.start()
    yield made
    made.close()
    assert made.failure is None


def _connect(server: GdbServer) -> socket.socket:
    family = socket.AF_UNIX if server.address.path else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect(server.address.path or (server.address.host, server.address.port))
    return client


def _ask(client: socket.socket, payload: bytes) -> bytes:
    client.sendall(framing.frame(payload))
    data = b""
    while data.count(b"#") < 1 or len(data.partition(b"#")[2]) < 2:
        piece = client.recv(4096)
        assert piece, "hung up"
        data += piece
    return framing.expand(data[data.index(b"$") + 1 : data.index(b"#")])


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_tcp(fake: FakeTarget) -> None:
    server = GdbServer(fake, parse_address("tcp::0"))
    server.start()
    assert server.address.port and server.address.for_gdb == f"127.0.0.1:{server.address.port}"
    with _connect(server) as client:
        assert _ask(client, b"qC") == b"QC1"
    _wait(lambda: "detach" in fake.log)
    server.close()


def test_one_after_another_and_not_two_at_once(server: GdbServer, fake: FakeTarget) -> None:
    for _ in range(3):
        with _connect(server) as client:
            assert _ask(client, b"qC") == b"QC1"
            with _connect(server) as second:
                assert second.recv(10) == b""
            assert _ask(client, b"qAttached") == b"1"
        _wait(lambda: not fake.attached)
    assert fake.log == ["attach", "detach"] * 3


def test_calling_again_at_once(server: GdbServer, fake: FakeTarget) -> None:
    client = _connect(server)
    for _ in range(50):
        client.sendall(framing.frame(b"g"))
        client.close()
        client = _connect(server)
        assert _ask(client, b"qC") == b"QC1"
    client.close()


def test_hanging_up_while_the_guest_runs(server: GdbServer, fake: FakeTarget) -> None:
    with _connect(server) as client:
        client.sendall(framing.frame(b"vCont;c"))
        assert fake.running.wait(5)
    _wait(lambda: not fake.attached)


def test_closing_while_the_guest_runs(server: GdbServer, fake: FakeTarget) -> None:
    with _connect(server) as client:
        client.sendall(framing.frame(b"vCont;c"))
        assert fake.running.wait(5)
        server.close()
        assert not fake.attached
        while client.recv(100):
            pass
    server.close()
    assert not Path(server.address.path).exists()


def test_control_c_gets_through_steps_without_end(server: GdbServer) -> None:
    with _connect(server) as client:
        client.sendall(framing.frame(b"QStartNoAckMode"))
        client.sendall(framing.frame(b"vCont;r0,ffff:1"))
        time.sleep(0.05)
        client.sendall(b"\x03")
        data = b""
        while b"$T02" not in data:
            piece = client.recv(4096)
            assert piece
            data += piece


def test_kill_hangs_up(server: GdbServer, fake: FakeTarget) -> None:
    with _connect(server) as client:
        client.sendall(framing.frame(b"k"))
        while client.recv(100):
            pass
    assert fake.killed


def test_a_client_that_does_not_read(server: GdbServer) -> None:
    with _connect(server) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            for _ in range(1_000_000):
                client.sendall(framing.frame(b"m0,2000") * 50)
        assert len(server._outgoing) < 1 << 20
    _wait(lambda: server._client is None)
    with _connect(server) as client:
        assert _ask(client, b"qC") == b"QC1"


def test_who_is_told(fake: FakeTarget, tmp_path: Path) -> None:
    told: list[bool] = []
    server = GdbServer(fake, Address(path=str(tmp_path / "gdb")), connected=told.append)
    server.start()
    with _connect(server) as client:
        _ask(client, b"qC")
    _wait(lambda: told == [True, False])
    server.close()
    server.post(lambda: None)


def test_a_port_in_use(fake: FakeTarget, tmp_path: Path) -> None:
    first = GdbServer(fake, parse_address("tcp::0"))
    with pytest.raises(ConfigError, match=r"^-gdb tcp:127.0.0.1:\d+: Address already in use; choose"):
        GdbServer(fake, first.address)
    first.close()
    with pytest.raises(ConfigError, match="No such file"):
        GdbServer(fake, Address(path=str(tmp_path / "no" / "such")))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="in use"):
        GdbServer(fake, Address(path=str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(ConfigError):
        GdbServer(fake, Address(path="x" * 200))
