"""The other side of a guest's network, in the test: a neighbour on a stream wire, and TCP servers for what comes through `user`."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.support.guestnet import checksum

MAC = b"\x52\x54\x00\xaa\xbb\xcc"
GONE = 66  # last byte of the address that makes the neighbour leave: an ARP request for it is enough
AWAY = 3.0  # seconds until it is back
_STAYS = 15.0  # seconds at least: the asker repeats what nobody answered


class Neighbour:
    """Connects to a `stream` server of a VMM; answers ARP for every address but the asker's, and ICMP echo of any length, VLAN tags kept.

    Attributes:
        longest: bytes of the longest echo request, with its Ethernet header.
        tagged: how many requests had a VLAN tag.
        visits: connections so far.
        bad: what was wrong with frames that came.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._since = 0.0
        self.longest = self.tagged = self.echoes = self.visits = 0
        self.bad: list[str] = []

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(10)

    def _live(self) -> None:
        while not self._over.is_set():
            with socket.socket(socket.AF_UNIX) as wire:
                try:
                    wire.connect(str(self._path))
                except OSError:
                    time.sleep(0.1)
                    continue
                self.visits += 1
                self._since = time.monotonic()
                wire.settimeout(0.5)
                leaves = self._serve(wire)
            if leaves:
                self._over.wait(AWAY)

    def _serve(self, wire: socket.socket) -> bool:
        """True: it was asked to leave; False: the VMM left."""
        data = bytearray()
        while not self._over.is_set():
            while len(data) >= 4 and len(data) >= 4 + (length := int.from_bytes(data[:4], "big")):
                frame = bytes(data[4 : 4 + length])
                del data[: 4 + length]
                answer = self._answer(frame)
                if answer is None:
                    return True
                if answer:
                    wire.sendall(len(answer).to_bytes(4, "big") + answer)
            try:
                got = wire.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                return False
            if not got:
                return False
            data += got
        return False

    def _answer(self, frame: bytes) -> bytes | None:
        head = 18 if frame[12:14] == b"\x81\x00" else 14
        kind, body = frame[head - 2 : head], frame[head:]
        back = frame[6:12] + MAC + frame[12:head]
        if kind == b"\x08\x06":
            operation, mac, address, _, target = struct.unpack_from(">6xH6s4s6s4s", body)
            if operation != 1 or address == target or address == bytes(4):
                return b""
            if target[3] == GONE:
                return b"" if self.visits > 1 and time.monotonic() < self._since + _STAYS else None
            reply: bytes = back + struct.pack(">HHBBH", 1, 0x800, 6, 4, 2) + MAC + target + mac + address
            return reply.ljust(60, b"\0")
        if kind != b"\x08\x00" or body[9] != 1 or body[20] != 8:
            return b""
        length = int.from_bytes(body[2:4], "big")
        if checksum(body[:20]) or checksum(body[20:length]):
            self.bad.append(f"a checksum of a frame of {len(frame)} bytes")
        self.longest = max(self.longest, len(frame))
        self.echoes += 1
        self.tagged += head == 18
        icmp = b"\0\0\0\0" + body[24:length]
        icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
        reply = back + body[:12] + body[16:20] + body[12:16] + icmp
        return reply.ljust(60, b"\0")


class Server:
    """Two TCP servers: ``source`` sends ``size`` random bytes to who connects, ``sink`` keeps the sum of what comes.

    Attributes:
        sent: SHA-256 of what ``source`` sends.
        received: SHA-256 and length of each connection to ``sink``.
    """

    def __init__(self, size: int, address: str = "127.0.0.1") -> None:
        self._data = random.Random(size).randbytes(size)
        self.sent = hashlib.sha256(self._data).hexdigest()
        self.received: list[tuple[str, int]] = []
        self._listeners = [socket.create_server((address, 0)) for _ in range(2)]
        self.source, self.sink = (listener.getsockname()[1] for listener in self._listeners)

    def __enter__(self) -> Server:
        for listener, serve in zip(self._listeners, (self._send, self._receive), strict=True):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket, serve) -> None:  # type: ignore[no-untyped-def]
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(300)
                try:
                    serve(connection)
                except OSError:
                    pass  # the guest is gone: its side of the test tells

    def _send(self, connection: socket.socket) -> None:
        connection.sendall(self._data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    def _receive(self, connection: socket.socket) -> None:
        digest, length = hashlib.sha256(), 0
        while piece := connection.recv(1 << 18):
            digest.update(piece)
            length += len(piece)
        self.received.append((digest.hexdigest(), length))
