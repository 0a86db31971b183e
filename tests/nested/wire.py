"""The status lines by which a nested host says, within its output, when the command began and how it ended.

A line is RS, "pyvmm:", a token, ":start" or ":exit N", LF. The token is made anew for each run, so that nothing a
command prints (this file, say) can be taken for it; RS (0x1E) is a byte that programs hardly ever print, so that
the parser rarely has to hold output back to see how it goes on.
"""

from __future__ import annotations

import re
import secrets


def new_token() -> str:
    return secrets.token_hex(8)


class StatusParser:
    """Cuts a byte stream into boot noise, the command's output, and its exit status."""

    def __init__(self, token: str) -> None:
        self._line = re.compile(rb"\x1epyvmm:" + token.encode() + rb":(start|exit (\d{1,3}))\r?\n")
        # The longest a line can get, to know when a held-back beginning turned out to be something else.
        self._longest = len(f"\x1epyvmm:{token}:exit 255\r\n")
        self._held = b""
        self.started = False
        self.status: int | None = None
        self.noise = bytearray()  # what came before the start: kept, for it may explain why none came

    def feed(self, data: bytes) -> bytes:
        """What of the command's output can be passed on after `data` arrived."""
        buffer = self._held + data
        out = bytearray()
        while match := self._line.search(buffer):
            self._take(buffer[: match.start()], out)
            if match[1] == b"start":
                self.started = True
            elif self.status is None:
                self.status = int(match[2])
            buffer = buffer[match.end() :]
        # An RS near the end may be the beginning of a line that is still on its way.
        begin = buffer.find(b"\x1e", max(0, len(buffer) - self._longest + 1))
        self._held = buffer[begin:] if begin >= 0 else b""
        self._take(buffer[: len(buffer) - len(self._held)], out)
        return bytes(out)

    def finish(self) -> bytes:
        """The stream ended: what was held back was output after all."""
        out = bytearray()
        self._take(self._held, out)
        self._held = b""
        return bytes(out)

    def _take(self, data: bytes, out: bytearray) -> None:
        if not self.started:
            self.noise += data
        elif self.status is None:
            out += data
        # What comes after the status is the host shutting down: nobody's output.
