"""pyvmm/observe/debug/monitor.py, qmp.py and sockets.py, with a machine that is none and the fake guest in time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.errors import ConfigError
from pyvmm.observe.debug import live
from pyvmm.observe.debug.command import Reply
from pyvmm.observe.debug.monitor import Monitor
from pyvmm.observe.debug.qmp import COMMANDS, Qmp
from pyvmm.observe.debug.sockets import Listener
from tests.support.fake_subject import FakeSubject


class FakeMachine:
    """What a monitor asks of a machine."""

    def __init__(self) -> None:
        self.paused = False
        self.stopped = False
        self.at_end: list[Any] = []
        self.vcpus = [SimpleNamespace(words=[0, 0, 10])]
        self.config = SimpleNamespace(boot=SimpleNamespace(kernel="/somewhere/hello.bin"))
        self.links: list[tuple[str, bool]] = []
        self.lock = Lock()
        self.presses: list[bool] = []  # whether the machine lock was held
        self.devices = {"acpi-pm": SimpleNamespace(press_power_button=lambda: self.presses.append(self.lock.locked()))}

    def resume(self) -> None:
        self.paused = False

    def toggle_pause(self) -> None:
        self.paused = not self.paused

    def stop(self) -> None:
        self.stopped = True

    def set_link(self, name: str, up: bool) -> None:
        if name != "net0":
            raise ConfigError(f"no card is called {name}")
        self.links.append((name, up))


class FakeLive(FakeSubject):
    """Live's constructor."""

    made: list[FakeLive] = []

    def __init__(self, machine: Any, name: str = "", limit: int = 0, breakpoints: Any = None) -> None:
        super().__init__()
        self.machine = machine
        self.breakpoints = breakpoints
        self.closed = False
        FakeLive.made.append(self)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    FakeLive.made = []
    monkeypatch.setattr(live, "Live", FakeLive)
    found = Monitor()
    found.attach(FakeMachine())  # type: ignore[arg-type]
    return found


def do(monitor: Monitor, *lines: str) -> Reply:
    for line in lines:
        reply = monitor.execute(line)
        assert not reply.error, reply.text
    return reply


def wait_for(monitor: Monitor, status: str) -> None:
    end = time.monotonic() + 20
    while monitor.status != status:
        assert time.monotonic() < end, monitor.status
        time.sleep(0.01)


# --- monitor.py ------------------------------------------------------------------------------------------------------
def test_help_attaches_nothing(monitor: Monitor) -> None:
    do(monitor, "help", "info status", "show")
    assert not FakeLive.made


def test_a_look_stops_the_guest_for_a_moment_and_leaves_nothing(monitor: Monitor) -> None:
    assert "rip" in do(monitor, "info registers").text
    assert [each.closed for each in FakeLive.made] == [True]
    assert monitor.status == "running" and not monitor.attached


def test_stop_look_step_back_go_on(monitor: Monitor) -> None:
    do(monitor, "stop")
    assert monitor.status == "paused"
    do(monitor, "info registers", "s", "s", "bs")
    assert FakeLive.made[0].log == ["step 1", "step 1", "back 1"]
    do(monitor, "cont")
    assert monitor.status == "running" and FakeLive.made[0].closed


def test_moving_leaves_it_stopped(monitor: Monitor) -> None:
    do(monitor, "s")
    assert monitor.status == "paused" and monitor.attached


def test_with_a_breakpoint_cont_waits_for_it(monitor: Monitor) -> None:
    told: list[tuple[str, Reply | None]] = []
    monitor.on_event.append(lambda name, data, reply: told.append((name, reply)))
    do(monitor, "stop", "b serial0.THR", "cont")
    wait_for(monitor, "debug")
    assert told[-1][0] == "STOP" and told[-1][1] is not None and "Breakpoint 1 (serial0.THR)" in told[-1][1].text
    assert [name for name, _ in told] == ["STOP", "RESUME", "STOP"]


def test_a_breakpoint_survives_going_on_and_stays_armed(monitor: Monitor) -> None:
    do(monitor, "b serial0.THR")
    wait_for(monitor, "debug")
    do(monitor, "delete", "cont")
    assert monitor.status == "running" and FakeLive.made[-1].closed


def test_the_end_is_let_happen(monitor: Monitor) -> None:
    do(monitor, "b 0x1", "cont")
    end = time.monotonic() + 20
    while not FakeLive.made[0].closed:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_quit_ends_the_machine_where_it_stands(monitor: Monitor) -> None:
    machine: Any = monitor.machine
    do(monitor, "s")
    assert do(monitor, "quit").leave
    assert machine.stopped and machine.paused and FakeLive.made[0].closed


def test_a_machine_that_has_ended_is_a_line(monitor: Monitor) -> None:
    monitor._ended()
    for line in ("info registers", "s", "stop", "cont"):
        assert monitor.execute(line).text == "the guest has ended"
    assert monitor.status == "shutdown"


def test_whoever_ends_it_otherwise_leaves_nobody_behind(monitor: Monitor) -> None:
    do(monitor, "stop")
    monitor.leave(monitor.machine)  # type: ignore[arg-type]
    assert FakeLive.made[0].closed and not monitor.attached


def test_paused_by_the_user_becomes_stopped_by_the_debugger(monitor: Monitor) -> None:
    machine: Any = monitor.machine
    machine.paused = True
    assert monitor.status == "paused"
    machine.vcpus[0].words[2] = 0
    assert monitor.status == "prelaunch"
    do(monitor, "info registers")
    assert not machine.paused and monitor.status == "paused"
    do(monitor, "cont")
    assert monitor.status == "running"


def test_completion_leaves_it_as_it_was(monitor: Monitor) -> None:
    assert monitor.complete("b serial0.T", "serial0.T") == ["serial0.THR"]
    assert monitor.status == "running" and FakeLive.made[0].closed


def test_breakpoints_outlive_a_reset(monitor: Monitor) -> None:
    do(monitor, "stop", "b serial0.THR")
    monitor.attach(FakeMachine())  # type: ignore[arg-type]
    wait_for(monitor, "debug")
    assert len(FakeLive.made) == 2 and FakeLive.made[1].stop.hits == [1]


@pytest.mark.parametrize("line", ["nonsense", "step x", "info nothing", "break nowhere", "c 5 5", "x/9999999z"])
def test_mistakes_are_lines(monitor: Monitor, line: str) -> None:
    reply = monitor.execute(line)
    assert reply.error or line.startswith("c ")
    assert "\n" not in reply.text


# --- qmp.py ----------------------------------------------------------------------------------------------------------
class Talk:
    def __init__(self, monitor: Monitor) -> None:
        self.heard: list[dict[str, Any]] = []
        self.qmp = Qmp(monitor, lambda data: self.heard.append(json.loads(data)))

    def ask(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        self.qmp.line(json.dumps({"execute": name, "arguments": arguments, "id": 7}).encode())
        return self.heard[-1]


@pytest.fixture
def talk(monitor: Monitor) -> Talk:
    found = Talk(monitor)
    found.qmp.greet()
    assert found.ask("qmp_capabilities") == {"return": {}, "id": 7}
    return found


def test_greeting_and_negotiation(monitor: Monitor) -> None:
    talk = Talk(monitor)
    talk.qmp.greet()
    assert talk.heard[0]["QMP"]["capabilities"] == [] and talk.heard[0]["QMP"]["version"]["package"] == "pyvmm"
    assert talk.ask("query-status")["error"]["class"] == "CommandNotFound"
    talk.ask("qmp_capabilities")
    assert talk.ask("query-status")["return"] == {"running": True, "singlestep": False, "status": "running"}


def test_stop_and_cont(talk: Talk) -> None:
    assert talk.ask("stop")["return"] == {}
    assert talk.ask("query-status")["return"]["status"] == "paused"
    assert talk.ask("cont")["return"] == {}
    assert talk.ask("query-status")["return"]["running"]


def test_every_debugger_command(talk: Talk) -> None:
    assert "rip 00007c00" in talk.ask("human-monitor-command", **{"command-line": "info registers"})["return"]
    assert talk.ask("human-monitor-command", **{"command-line": "nonsense"})["return"].startswith("no command 'nonsense'")
    answer = talk.ask("debug", command="step")["return"]
    assert answer["data"]["exit"] == 1 and "COM1 LSR" in answer["text"]
    assert "nonsense" in talk.ask("debug", command="nonsense")["error"]["desc"]


def test_others(talk: Talk) -> None:
    assert talk.ask("query-kvm")["return"] == {"enabled": True, "present": True}
    assert talk.ask("query-name")["return"] == {"name": "hello.bin"}
    assert len(talk.ask("query-cpus-fast")["return"]) == 1
    assert {"name": "debug"} in talk.ask("query-commands")["return"]
    assert talk.ask("set_link", name="net0", up=False)["return"] == {}
    assert "no card" in talk.ask("set_link", name="net7", up=False)["error"]["desc"]
    assert not talk.qmp.leave
    talk.ask("quit")
    assert talk.qmp.leave


def test_the_power_button(talk: Talk, monitor: Monitor) -> None:
    told: list[str] = []
    monitor.on_event.append(lambda name, data, reply: told.append(name))
    assert talk.ask("system_powerdown")["return"] == {}
    assert "power button" in talk.ask("human-monitor-command", **{"command-line": "system_powerdown"})["return"]
    assert monitor.machine is not None
    assert monitor.machine.presses == [True, True]  # type: ignore[attr-defined]
    assert told == ["POWERDOWN", "POWERDOWN"]
    assert not FakeLive.made  # nothing was attached for it


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'{"execute": 5}',
        b'{"arguments": {}}',
        b'{"execute": "stop", "arguments": 5}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"execute": "debug"}',
        b'{"execute": "debug", "arguments": {"command": 5}}',
        b'{"execute": "debug", "arguments": {"command": "a\\nb"}}',
        b'{"execute": "set_link", "arguments": {"name": 1, "up": true}}',
        b'{"execute": "set_link", "arguments": {"name": "net0", "up": 3}}',
        b'{"execute": "stop", "nonsense": 1}',
        b'{"execute": "human-monitor-command", "arguments": {}}',
    ],
)
def test_malformed_requests_are_answered(talk: Talk, line: bytes) -> None:
    before = len(talk.heard)
    talk.qmp.line(line)
    assert len(talk.heard) == before + 1
    error = talk.heard[-1]["error"]
    assert error["class"] in ("GenericError", "CommandNotFound") and error["desc"]


def test_every_command_is_described_by_its_table() -> None:
    assert all(callable(run) and isinstance(wanted, tuple) for wanted, run in COMMANDS.values())


# --- sockets.py ------------------------------------------------------------------------------------------------------
@pytest.fixture
def listener(monitor: Monitor, tmp_path: Path) -> Iterator[Listener]:
    found = Listener(monitor, str(tmp_path / "s"), json=False, server=True, wait=False)
    yield found
    found.close()


def _read(connection: socket.socket, text: bytes) -> bytes:
    connection.settimeout(20)
    got = b""
    while text not in got:
        more = connection.recv(65536)
        assert more, got
        got += more
    return got


def test_text_lines_on_a_socket(listener: Listener, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        assert b"help lists" in _read(client, b"(pyvmm) ")
        client.sendall(b"print 5\nnonsense\n")
        assert b"$1 = 0x5\n(pyvmm) no command 'nonsense'" in _read(client, b"lists them\n(pyvmm) ")
        client.sendall(b"quit\n")
        client.settimeout(20)
        assert client.recv(100) == b""


def test_two_clients_and_one_that_vanishes(listener: Listener, tmp_path: Path) -> None:
    first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    for each in (first, second):
        each.connect(str(tmp_path / "s"))
        _read(each, b"(pyvmm) ")
    first.close()
    second.sendall(b"print 1\n")
    _read(second, b"$1 = 0x1\n(pyvmm) ")
    second.close()


def test_a_line_without_end_is_cut_off(listener: Listener, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        _read(client, b"(pyvmm) ")
        try:
            for _ in range(40):
                client.sendall(b"x" * 65536)
        except OSError:
            pass  # cut off already


def test_json_on_a_socket_and_the_file_goes(monitor: Monitor, tmp_path: Path) -> None:
    listener = Listener(monitor, str(tmp_path / "q"), json=True, server=True, wait=False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "q"))
        _read(client, b"\r\n")
        client.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n')
        assert b'"status": "running"' in _read(client, b"running")
        listener.close()
        client.settimeout(20)
        while client.recv(4096):
            pass
    assert not (tmp_path / "q").exists()


def test_a_path_where_no_socket_can_be_is_one_line(monitor: Monitor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-qmp unix:/nowhere/s: No such file"):
        Listener(monitor, "/nowhere/s", json=True, server=True, wait=False)
    with pytest.raises(ConfigError, match="is the server running"):
        Listener(monitor, str(tmp_path / "nobody"), json=False, server=False, wait=False)
