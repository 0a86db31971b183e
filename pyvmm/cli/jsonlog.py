"""``--json-log FILE``: a run as lines of JSON, for programs that start guests. docs/guests-as-tests.md has the events.

Each line is an object with "event" and "time", seconds since the start. A line is written at once: who reads along sees a guest's
output as it comes, and a run that is killed has left what it did.
"""

from __future__ import annotations

import json
import os
import select
from time import monotonic, time

from pyvmm import __version__, status
from pyvmm.cli.run import Session
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.console import Console
    from pyvmm.cli.options import Options
    from pyvmm.events import StopReason
    from pyvmm.machine import Machine

_PATIENCE_MS = 1000
_CHUNK = 4096  # what a descriptor that polls writable takes without blocking (PIPE_BUF)
_LINE_MAX = 4096  # of output without a line end, that is told as it is


class JsonLog:
    """The file.

    Raises:
        ConfigError: it cannot be written to.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a FIFO without a reader must not hang
        if path == "-":  # elsewhere that is stdout; here the guest has it, and a file of this name is nobody's wish
            raise ConfigError("--json-log -: stdout is the guest's: name a file, or a descriptor such as /dev/fd/3")
        try:
            self._fd = os.open(path, flags, 0o644)
        except (OSError, ValueError) as error:  # ValueError: NUL in the path
            raise ConfigError(f"--json-log {path}: {getattr(error, 'strerror', None) or error}; name a file that can be written") from None
        self._start = monotonic()
        self._lock = Lock()
        self._behind = False  # the reader has missed something: nobody waits for him until he takes again
        self._cut = b""  # a line end that is missing

    def tell(self, event: str, **fields: Any) -> None:
        """Writes one line; from any thread. A reader that takes nothing for a second misses lines until he does; a full disk too."""
        line = json.dumps({"event": event, "time": round(monotonic() - self._start, 6), **fields}).encode() + b"\n"
        with self._lock:
            left = self._cut + line
            try:
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                while left and room.poll(0 if self._behind else _PATIENCE_MS):
                    left = left[os.write(self._fd, left[:_CHUNK]) :]
            except OSError:
                pass
            self._behind = bool(left)
            if len(left) < len(self._cut + line):
                self._cut = b"\n" if left else b""

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


class LoggedSession(Session):
    """A session that tells what happens to it.

    Args:
        options: of the command line.
    """

    def __init__(self, options: Options) -> None:
        assert options.config is not None
        config = options.config
        self.log = JsonLog(options.json_log)
        self._boots = 0
        self._tails: list[_Lines] = []
        self.log.tell(
            "start",
            pyvmm=__version__,
            pid=os.getpid(),
            unix_time=time(),
            kernel=config.boot.kernel,
            guest=options.guest.name if options.guest is not None else None,
            memory=config.memory,
            smp=config.smp,
            devices=[device.name for device in config.devices],
        )
        try:
            super().__init__(config, options.debugcon)
        except PyvmmError as error:
            self._error(error)
            raise
        for index, each in enumerate(self.consoles):
            self._tee(f"serial{index}", each)
        for name, each in self.chardevs.items():
            self._tee(name, each)

    def _tee(self, name: str, each: Console) -> None:
        lines = _Lines(name, self.log, each.write)
        self._tails.append(lines)
        each.write = lines.write  # type: ignore[method-assign]

    def run(self, timeout: float | None = None, paused: bool = False, load: str = "") -> StopReason:
        """As the base; its end, or what kept it from one, is the last line."""
        try:
            return super().run(timeout, paused, load)
        except PyvmmError as error:
            self._error(error)
            raise

    def serve(self, machine: Machine, timeout: float | None, paused: bool) -> StopReason:
        """As the base."""
        self._boots += 1
        self.log.tell("run", boot=self._boots, paused=paused, warnings=machine.warnings)
        machine.at_end.append(self._flush)
        reason = super().serve(machine, timeout, paused)
        if self.goes_on(reason):
            self.log.tell(reason.kind, detail=reason.detail)
        return reason

    def finished(self, reason: StopReason) -> None:
        """The last line."""
        self._flush()
        report = reason.report or None
        self.log.tell("end", reason=reason.kind, status=status.of(reason), detail=reason.detail, vcpu=reason.vcpu, report=report)
        self.log.close()

    def _error(self, error: PyvmmError) -> None:
        self.log.tell("error", message=str(error))
        self.log.close()

    def _flush(self) -> None:
        for lines in self._tails:
            lines.flush()


class _Lines:
    """A console's output, passed on and told line by line."""

    def __init__(self, name: str, log: JsonLog, write: Callable[[bytes], None]) -> None:
        self._name = name
        self._log = log
        self._write = write
        self._line = bytearray()

    def write(self, data: bytes) -> None:
        """Takes the place of ``Console.write``."""
        self._write(data)
        self._line += data
        if b"\n" in data or len(self._line) > _LINE_MAX:
            *lines, rest = bytes(self._line).split(b"\n")
            if len(rest) > _LINE_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._tell(line)
            self._line = bytearray(rest)

    def flush(self) -> None:
        """Tells what no line end has come for."""
        if self._line:
            self._tell(bytes(self._line))
            self._line.clear()

    def _tell(self, line: bytes) -> None:
        self._log.tell("output", console=self._name, text=line.rstrip(b"\r").decode("utf-8", "replace"))
