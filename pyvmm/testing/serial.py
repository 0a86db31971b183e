"""A guest's console in a test: what was printed, waiting for more, typing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from threading import Lock

from pyvmm.backends.console import Console
from pyvmm.backends.stderr import one_line
from pyvmm.errors import PyvmmError

KEPT = 16 << 20  # bytes of output: a guest that prints for ever must not fill the host's memory
_WIDEST = 400  # characters of one line
_POLL = 0.005  # seconds between looks; nobody is woken per byte, which would slow the guest down


class GuestTimeout(AssertionError):
    """A guest did not do in time what the test waited for."""


class GuestEnded(AssertionError):
    """A guest's run was over before it did what the test waited for."""


class Serial(Console):
    """One console. ``expect`` goes forward: what it has found, and all before, is behind it.

    Args:
        label: what messages call it.
        ended: how the run ended, in words; "" while it goes on.

    Attributes:
        lock: the machine lock while there is a machine; set by who runs it.
    """

    def __init__(self, label: str, ended: Callable[[], str]) -> None:
        super().__init__()
        self.label = label
        self.lock: object = Lock()
        self._ended = ended
        self._output = bytearray()
        self._dropped = 0  # bytes that came before ``_output``
        self._at = 0  # where the next ``expect`` begins, counted from the first byte of all

    # --- the guest's side --------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Keeps guest output; of a flood the last ``KEPT`` bytes at least."""
        self._output += data
        if len(self._output) > 2 * KEPT:
            surplus = len(self._output) - KEPT
            self._dropped += surplus
            del self._output[:surplus]

    # --- the test's side ---------------------------------------------------------------------------------------------
    @property
    def output(self) -> bytes:
        """Everything printed so far."""
        return bytes(self._output)

    @property
    def text(self) -> str:
        """``output`` as text, one character a byte, line ends as newlines."""
        return self.output.decode("latin-1").replace("\r\n", "\n")

    def tail(self, lines: int = 20) -> str:
        """The last lines, to be shown: UTF-8, what could upset a terminal or a log escaped, none longer than a few lines of a terminal."""
        found = self.output.replace(b"\r\n", b"\n").removesuffix(b"\n").rsplit(b"\n", lines)[-lines:]
        shown = [line.decode("utf-8", "backslashreplace").replace("\t", "    ") for line in found]
        return "\n".join(one_line(line[:_WIDEST]) + (f"... ({len(line) - _WIDEST} more)" if line[_WIDEST:] else "") for line in shown)

    def expect(self, pattern: bytes | str, timeout: float = 10) -> re.Match[bytes]:
        """Waits until the guest has printed what a regular expression matches.

        Args:
            pattern: searched in what came after the last ``expect``; a ``str`` is taken as its UTF-8 bytes. ``.`` is no line end.
            timeout: seconds.

        Raises:
            GuestTimeout: it did not come in time; the guest runs on.
            GuestEnded: it cannot come any more.
        """
        __tracebackhide__ = True
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        end = time.monotonic() + timeout
        seen = -1
        while True:
            over, late = self._ended(), time.monotonic() >= end  # before looking: what came meanwhile counts
            start = max(self._at, self._dropped)
            if self._dropped + len(self._output) != seen:
                seen = self._dropped + len(self._output)
                match = wanted.search(bytes(self._output[start - self._dropped :]))
                if match is not None:
                    self._at = start + match.end()
                    return match
            if over:
                raise GuestEnded(f"{self.label}: {over} before {wanted.pattern!r} came")
            if late:
                raise GuestTimeout(f"{self.label}: {wanted.pattern!r} did not come within {timeout:g} s")
            time.sleep(_POLL)

    def send(self, data: bytes | str) -> None:
        """Types. What the guest does not take yet waits for it.

        Raises:
            GuestEnded: nobody is there any more.
        """
        __tracebackhide__ = True
        if over := self._ended():
            raise GuestEnded(f"{self.label}: {over}: nobody takes what is typed")
        with self.lock:  # type: ignore[attr-defined]
            self._pending += data.encode() if isinstance(data, str) else data
            try:
                self._pump()
            except PyvmmError as error:  # its machine went away between two lines
                raise GuestEnded(f"{self.label}: {error}") from None

    def skip(self) -> None:
        """Has the next ``expect`` look only at what comes from now on."""
        self._at = self._dropped + len(self._output)
