"""Runs an emulator that carries a nested KVM host: streams, watches, and ends it whatever happens.

Knows nothing of QEMU or Bochs: a command line, a stream with the status lines of `wire` on the emulator's
standard output, and optionally a file whose growth shows that the host inside is alive.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.nested.wire import StatusParser

# The host's own failures end the runner with this, as "docker run" and "env" have it: not the command's fault.
HOST_FAILED = 125
_POLL_SECONDS = 0.5


class Verdict(Enum):
    FINISHED = auto()  # the command ended; its status is known
    NO_BOOT = auto()  # the host never came to run the command
    DIED = auto()  # the emulator ended, or the host's kernel panicked
    LOCKED_UP = auto()  # no sign of life from the host
    TIMED_OUT = auto()  # the host lives, but the command did not end in time


@dataclass(frozen=True)
class Limits:
    """All in seconds. `silence` is how long the heartbeat file may stand still before the host counts as dead."""

    total: float
    boot: float
    silence: float


@dataclass(frozen=True)
class Outcome:
    verdict: Verdict
    status: int  # the command's, or HOST_FAILED
    boot_seconds: float  # 0 if it never booted
    total_seconds: float
    explanation: str
    noise: bytes  # what came on the stream before the command started

    @property
    def worth_another_try(self) -> bool:
        """Whether the host is to blame, in a way that does not usually repeat itself."""
        return self.verdict in (Verdict.LOCKED_UP, Verdict.NO_BOOT)


def run(
    command: Sequence[str],
    *,
    token: str,
    limits: Limits,
    sink: Callable[[bytes], None],
    stderr: Path,
    heartbeat: Path | None = None,
    panic_marks: Sequence[bytes] = (),
) -> Outcome:
    """Run `command` (an emulator) until its guest reported a status, died or ran out of time.

    The command's output goes to `sink` as it comes. `heartbeat` is the log of the host's console: it must grow, and
    one of `panic_marks` in it ends the run.
    """
    parser = StatusParser(token)
    began = time.monotonic()
    watch = _Watch(began, limits, heartbeat, panic_marks)
    booted = 0.0
    found: tuple[Verdict, str] | None = None
    with stderr.open("wb") as errors, _process_group(command, errors.fileno()) as process:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while found is None:
                if selector.select(_POLL_SECONDS):
                    data = os.read(process.stdout.fileno(), 65536)
                    _pass_on(parser.feed(data), sink)
                    if parser.started and not booted:
                        booted = time.monotonic() - began
                    if parser.status is not None:
                        found = Verdict.FINISHED, f"exit status {parser.status}"
                    elif not data:
                        status = process.wait(_POLL_SECONDS * 20)
                        found = watch.panic() or (Verdict.DIED, f"the emulator ended with status {status}")
                found = found or watch.check(time.monotonic(), parser.started)
        _pass_on(parser.finish(), sink)
    verdict, explanation = found
    return Outcome(
        verdict=verdict,
        status=HOST_FAILED if parser.status is None else parser.status,
        boot_seconds=booted,
        total_seconds=time.monotonic() - began,
        explanation=explanation,
        noise=bytes(parser.noise),
    )


class _Watch:
    """Decides when to give up waiting."""

    def __init__(self, began: float, limits: Limits, heartbeat: Path | None, panic_marks: Sequence[bytes]) -> None:
        self._began = began
        self._limits = limits
        self._heartbeat = heartbeat
        self._panic_marks = panic_marks
        self._grew = began
        self._size = 0

    def check(self, now: float, started: bool) -> tuple[Verdict, str] | None:
        limits = self._limits
        if self._heartbeat is not None and self._heartbeat.exists():
            size = self._heartbeat.stat().st_size
            if size != self._size:
                self._grew = now
                self._size = size
                if panic := self.panic():
                    return panic
            elif now - self._grew > limits.silence:
                return Verdict.LOCKED_UP, f"no sign of life from the host for {limits.silence:.0f} s"
        if not started and now - self._began > limits.boot:
            return Verdict.NO_BOOT, f"the host did not boot in {limits.boot:.0f} s"
        if now - self._began > limits.total:
            return Verdict.TIMED_OUT, f"timed out after {limits.total:.0f} s"
        return None

    def panic(self) -> tuple[Verdict, str] | None:
        """What the first line of the log (some tens of lines) with one of the marks says, if there is one."""
        lines = self._heartbeat.read_bytes().splitlines() if self._heartbeat is not None else []
        for line in lines:
            if any(mark in line for mark in self._panic_marks):
                verdict = Verdict.LOCKED_UP if b"lockup" in line else Verdict.DIED
                return verdict, line.decode(errors="replace").strip()
        return None


def _pass_on(data: bytes, sink: Callable[[bytes], None]) -> None:
    if data:
        sink(data)


@contextmanager
def _process_group(command: Sequence[str], errors: int) -> Iterator[subprocess.Popen[bytes]]:
    """The emulator in a group of its own, which is killed at the end however this process leaves.

    For an exception, Ctrl-C or (see `signals_raise`) a SIGTERM it is the `finally` that does it; for a SIGKILL it is
    the kernel, asked by setpriv to kill the emulator when its parent dies.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def signals_raise() -> None:
    """Make SIGTERM and SIGHUP unwind the stack like Ctrl-C does, for the clean-up above to happen."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
