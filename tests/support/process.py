"""pyvmm as a process of its own: on pipes, or on a pseudo-terminal as a person sits at one. Nothing waits without a limit."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "pyvmm")
PATIENCE = 120.0  # seconds; a nested host may be a hundred times slower than bare metal
Process = subprocess.Popen[bytes]
# For a process that may not open files of its own: `tox -e coverage` has each write one with the lines it reached.
UNCOUNTED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def descriptors() -> list[str]:
    """What this process has open. What an earlier test has left to the garbage collector is closed first, not while somebody counts."""
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


@contextmanager
def started(*arguments: str, **options: Any) -> Iterator[Process]:
    """Starts ``pyvmm ARGUMENTS``; whatever happens, it is gone afterwards."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, **{**streams, **options})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def read_until(fd: int, text: bytes, patience: float = PATIENCE) -> bytes:
    """Reads until ``text`` has come (or EOF, an AssertionError); returns all that was read."""
    got = b""
    deadline = time.monotonic() + patience
    while text not in got:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([fd], [], [], left)[0], f"{text!r} did not come, only {got!r}"
        try:
            more = os.read(fd, 65536)
        except OSError:  # EIO: a terminal nobody has open any more
            more = b""
        assert more, f"ended without {text!r}: {got!r}"
        got += more
    return got


def wait_until(condition: Any, what: str, patience: float = PATIENCE) -> None:
    """For what no descriptor tells: asks again and again."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


class Screen:
    """pyvmm on a pseudo-terminal that is its controlling terminal.

    Attributes:
        shown: everything it wrote to the terminal so far.
    """

    def __init__(self, *arguments: str, stderr: int | None = None) -> None:
        self.master, self.slave = os.openpty()
        self.before = self.modes()
        self.shown = b""
        self.process: Process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave if stderr is None else stderr,
            start_new_session=True,
            preexec_fn=lambda: _control(0),
        )

    def modes(self) -> list[Any]:
        """The terminal's modes now."""
        return termios.tcgetattr(self.slave)

    @property
    def raw(self) -> bool:
        """Whether line editing, echo and signal keys are off."""
        return not self.modes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, data: bytes) -> None:
        """Keys."""
        while data:
            data = data[os.write(self.master, data) :]

    def expect(self, text: bytes) -> bytes:
        """Waits until ``text`` is shown (from the last expected text on); returns what came up to and with it."""
        at = self.shown.find(text)
        if at < 0:
            self.shown += read_until(self.master, text) if not self.shown else self._more(text)
            at = self.shown.find(text)
        found, self.shown = self.shown[: at + len(text)], self.shown[at + len(text) :]
        return found

    def _more(self, text: bytes) -> bytes:
        more = b""
        while text not in self.shown + more:
            assert select.select([self.master], [], [], PATIENCE)[0], f"{text!r} did not come, only {self.shown + more!r}"
            more += os.read(self.master, 65536)
        return more

    def signal(self, number: int) -> None:
        """To the process, not to its group."""
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Waits for the end, reading what is still shown; the status, negative for a signal."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end; shown: {self.shown!r}"
            if select.select([self.master], [], [], 0.02)[0]:
                self.shown += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0.05)[0]:
            self.shown += os.read(self.master, 65536)
        return self.process.returncode

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for fd in (self.master, self.slave):
            try:
                os.close(fd)
            except OSError:
                pass


def _control(fd: int) -> None:
    import fcntl

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
