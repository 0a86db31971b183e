"""QEMU's machine protocol, as far as clients need it to get along, with every debugger command behind ``human-monitor-command`` and
``debug``. Requests and replies are JSON objects, one a line (QEMU docs/interop/qmp-spec).

    {"QMP": {"version": ..., "capabilities": []}}                                     the greeting
    {"execute": "qmp_capabilities"}                         {"return": {}}            first of all
    {"execute": "query-status", "id": 1}                    {"return": {"running": true, ...}, "id": 1}
    {"execute": "debug", "arguments": {"command": "s"}}     {"return": {"text": "...", "data": {...}}}
    {"execute": "nonsense"}                                 {"error": {"class": "CommandNotFound", "desc": "..."}}
"""

from __future__ import annotations

import json
from time import time_ns

import pyvmm
from pyvmm.errors import PyvmmError
from pyvmm.observe.debug.command import CommandError, Reply
from pyvmm.observe.debug.plain import jsonable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.observe.debug.monitor import Monitor

LONGEST = 1 << 20  # bytes of a request
GENERIC, NOT_FOUND = "GenericError", "CommandNotFound"


class QmpError(Exception):
    """A request that cannot be answered.

    Args:
        kind: QMP's error class.
    """

    def __init__(self, message: str, kind: str = GENERIC) -> None:
        super().__init__(message)
        self.kind = kind


class Qmp:
    """One client's conversation: lines in, lines out.

    Args:
        monitor: what answers.
        send: sends one line; from any thread.
    """

    def __init__(self, monitor: Monitor, send: Callable[[bytes], None]) -> None:
        self._monitor = monitor
        self._send = send
        self._negotiated = False
        self.leave = False

    def greet(self) -> None:
        """What a client hears first."""
        numbers = [int(each) for each in pyvmm.__version__.split(".")[:3] if each.isdigit()]
        version = dict(zip(("major", "minor", "micro"), [*numbers, 0, 0, 0][:3], strict=True))
        self._write({"QMP": {"version": {"qemu": version, "package": "pyvmm"}, "capabilities": []}})

    def event(self, name: str, data: dict[str, Any], reply: Reply | None = None) -> None:
        """Tells the client of something that nobody asked for."""
        if not self._negotiated:
            return
        if reply is not None:
            data = {**data, "text": reply.text, "stop": jsonable(reply.data)}
        seconds, rest = divmod(time_ns(), 1_000_000_000)
        self._write({"event": name, "data": data, "timestamp": {"seconds": seconds, "microseconds": rest // 1000}})

    def line(self, line: bytes) -> None:
        """Answers one request. Never raises."""
        if not line.strip():
            return
        request: Any = None
        try:
            try:
                request = json.loads(line)
            except (ValueError, RecursionError):
                raise QmpError("this is no JSON object on one line") from None
            answer: dict[str, Any] = {"return": self._answer(request)}
        except QmpError as error:
            answer = {"error": {"class": error.kind, "desc": str(error)}}
        except PyvmmError as error:
            answer = {"error": {"class": GENERIC, "desc": str(error)}}
        if isinstance(request, dict) and "id" in request:
            answer["id"] = request["id"]
        self._write(answer)

    def _write(self, message: dict[str, Any]) -> None:
        self._send(json.dumps(message).encode() + b"\r\n")

    def _answer(self, request: Any) -> Any:
        if not isinstance(request, dict) or not isinstance(request.get("execute"), str):
            raise QmpError("give an object with the member 'execute'")
        name, arguments = request["execute"], request.get("arguments", {})
        unknown = request.keys() - {"execute", "arguments", "id"}
        if unknown:
            raise QmpError(f"'{min(unknown)[:40]}' is not understood beside execute, arguments and id")
        if not isinstance(arguments, dict):
            raise QmpError("'arguments' must be an object")
        if not self._negotiated and name != "qmp_capabilities":
            raise QmpError("Expecting capabilities negotiation with 'qmp_capabilities'", NOT_FOUND)
        if name not in COMMANDS:
            raise QmpError(f"The command {name[:60]} has not been found", NOT_FOUND)
        wanted, run = COMMANDS[name]
        for each in wanted:
            if each not in arguments:
                raise QmpError(f"Parameter '{each}' is missing")
        return run(self, arguments)

    # --- commands ------------------------------------------------------------------------------------------------------
    def _capabilities(self, arguments: dict[str, Any]) -> Any:
        self._negotiated = True
        return {}

    def _status(self, arguments: dict[str, Any]) -> Any:
        status = self._monitor.status
        return {"running": status == "running", "singlestep": False, "status": status}

    def _word(self, arguments: dict[str, Any], word: str) -> Any:
        reply = self._monitor.execute(word)
        if reply.error:
            raise QmpError(reply.text)
        self.leave = reply.leave
        return {}

    def _human(self, arguments: dict[str, Any]) -> Any:
        reply = self._monitor.execute(self._text(arguments, "command-line"))
        self.leave = reply.leave
        return reply.text + "\r\n" * bool(reply.text)

    def _debug(self, arguments: dict[str, Any]) -> Any:
        reply = self._monitor.execute(self._text(arguments, "command"))
        if reply.error:
            raise QmpError(reply.text)
        self.leave = reply.leave
        return {"text": reply.text, "data": jsonable(reply.data)}

    @staticmethod
    def _text(arguments: dict[str, Any], name: str) -> str:
        if not isinstance(arguments[name], str) or "\n" in arguments[name]:
            raise QmpError(f"'{name}' must be a text of one line")
        return str(arguments[name])

    def _link(self, arguments: dict[str, Any]) -> Any:
        up = arguments["up"]
        if not isinstance(up, bool):
            raise QmpError("'up' must be true or false")
        self._monitor.present().set_link(self._text(arguments, "name"), up)
        return {}

    def _powerdown(self, arguments: dict[str, Any]) -> Any:
        self._monitor.power_down()
        return {}

    def _cpus(self, arguments: dict[str, Any]) -> Any:
        machine = self._monitor.present()
        return [{"cpu-index": index, "qom-path": f"/machine/vcpu[{index}]", "target": "x86_64"} for index in range(len(machine.vcpus))]

    def _name(self, arguments: dict[str, Any]) -> Any:
        try:
            return {"name": self._monitor.present().config.boot.kernel.rpartition("/")[2]}
        except CommandError:
            return {}

    def _version(self, arguments: dict[str, Any]) -> Any:
        numbers = [int(each) for each in pyvmm.__version__.split(".")[:3] if each.isdigit()]
        return {"qemu": dict(zip(("major", "minor", "micro"), [*numbers, 0, 0, 0][:3], strict=True)), "package": "pyvmm"}

    def _list(self, arguments: dict[str, Any]) -> Any:
        return [{"name": name} for name in COMMANDS]


# name -> (arguments that must be there, what answers)
COMMANDS: dict[str, tuple[tuple[str, ...], Callable[[Qmp, dict[str, Any]], Any]]] = {
    "qmp_capabilities": ((), Qmp._capabilities),
    "query-status": ((), Qmp._status),
    "stop": ((), lambda qmp, arguments: qmp._word(arguments, "stop")),
    "cont": ((), lambda qmp, arguments: qmp._word(arguments, "continue")),
    "quit": ((), lambda qmp, arguments: qmp._word(arguments, "quit")),
    "human-monitor-command": (("command-line",), Qmp._human),
    "debug": (("command",), Qmp._debug),
    "set_link": (("name", "up"), Qmp._link),
    "system_powerdown": ((), Qmp._powerdown),
    "query-cpus-fast": ((), Qmp._cpus),
    "query-kvm": ((), lambda qmp, arguments: {"enabled": True, "present": True}),
    "query-name": ((), Qmp._name),
    "query-version": ((), Qmp._version),
    "query-commands": ((), Qmp._list),
}
