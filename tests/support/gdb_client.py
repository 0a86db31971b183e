"""gdb's half of the protocol, without gdb."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from pyvmm.observe.gdb import framing
from pyvmm.observe.gdb.registers import AMD64
from pyvmm.observe.gdb.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.gdb.registers import Description
    from pyvmm.observe.gdb.target import Target


class Client:
    """A session and the one that talks to it, on one thread."""

    def __init__(self, debugged: Target, description: Description = AMD64, open: bool = True, no_ack: bool = True) -> None:
        self.wire = bytearray()  # what the session has sent, unread
        self.posted: deque[Callable[[], None]] = deque()
        self.arrived = threading.Event()
        self.session = Session(debugged, self.wire.extend, self._post, description)
        self._receiver = framing.Receiver(limit=1 << 24)
        self._packets: deque[bytes] = deque()
        if open:
            self.session.open()
        if no_ack:
            assert self.ask(b"QStartNoAckMode") == b"OK"
            self._receiver.check = False

    def _post(self, act: Callable[[], None]) -> None:
        self.posted.append(act)
        self.arrived.set()

    def send(self, payload: bytes) -> None:
        """Sends a packet."""
        self.session.feed(framing.frame(payload))

    def ask(self, payload: bytes) -> bytes:
        """The one reply to a packet."""
        self.send(payload)
        replies = self.replies()
        assert len(replies) == 1, (payload, replies)
        return replies[0]

    def replies(self) -> list[bytes]:
        """All packets that have come, run lengths expanded."""
        data = bytes(self.wire)
        self.wire.clear()
        return [framing.expand(payload) for kind, payload in self._receiver.feed(data) if kind == framing.PACKET]

    def stop(self, seconds: float = 5) -> tuple[list[str], str]:
        """Waits for a resume's end: (text said meanwhile, the stop reply)."""
        end = time.monotonic() + seconds
        said: list[str] = []
        while time.monotonic() < end:
            self.pump()
            for reply in self.replies():
                if reply[:1] != b"O":
                    return said, reply.decode()
                said.append(bytes.fromhex(reply[1:].decode()).decode())
            self.arrived.wait(0.05)
        raise AssertionError("no stop reply")

    def monitor(self, command: str) -> str:
        """What a monitor command says; its answer is there at once."""
        self.send(b"qRcmd," + command.encode().hex().encode())
        self.pump()
        *said, ok = self.replies()
        assert ok == b"OK" and all(each[:1] == b"O" for each in said)
        return bytes.fromhex(b"".join(each[1:] for each in said).decode()).decode()

    def pump(self) -> None:
        """Does what was posted."""
        self.arrived.clear()
        for _ in range(len(self.posted)):
            self.posted.popleft()()
