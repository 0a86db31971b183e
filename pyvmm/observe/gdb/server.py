"""Where gdb connects: a TCP or UNIX socket with a thread of its own, because stopping a machine waits for its vCPUs.

One gdb at a time; another one is turned away. The protocol gives whoever connects full control, so a port without a host is
open to this computer only (QEMU opens it to the network).
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from time import sleep

from pyvmm.backends.unix import remove_stale
from pyvmm.errors import ConfigError
from pyvmm.observe.gdb.registers import AMD64
from pyvmm.observe.gdb.session import Session
from pyvmm.record import FrozenRecord
from pyvmm.threads import Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.gdb.registers import Description
    from pyvmm.observe.gdb.target import Target

_READ_SIZE = 4096
_CROWDED = 0x1_0000  # bytes to send
_JOIN_SECONDS = 2
_PATIENCE = 0.1  # seconds


class Address(FrozenRecord):
    """``unix:PATH`` when there is a path, else ``tcp:HOST:PORT``."""

    path: str = ""
    host: str = "127.0.0.1"
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"tcp:{host}:{self.port}"

    @property
    def for_gdb(self) -> str:
        """What to write after ``target remote``."""
        return self.path or str(self).removeprefix("tcp:")


def parse_address(text: str, option: str = "-gdb") -> Address:
    """``tcp:[HOST]:PORT``, ``tcp::PORT``, ``unix:PATH``, with QEMU's ``,server=on,wait=off`` allowed behind.

    Raises:
        ConfigError: it is something else.
    """
    place, *options = text.split(",")
    kind, colon, rest = place.partition(":")
    if all(each in ("server", "server=on", "wait=off", "nowait", "nodelay", "nodelay=on") for each in options):
        if kind == "unix" and rest and "\0" not in rest:
            return Address(path=rest)
        host, colon, port = rest.rpartition(":")
        if kind == "tcp" and colon and port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536:
            return Address(host=host.strip("[]") or "127.0.0.1", port=int(port))
    raise ConfigError(f"{option} {text}: write tcp::1234, tcp:HOST:PORT or unix:PATH")


class GdbServer:
    """Listens from construction on; serves from ``start`` to ``close``.

    Args:
        debugged: what gdb sees.
        address: where; port 0 has the host choose one.
        description: the registers gdb is told of.
        connected: told True when a gdb comes and False when it goes, on the server's thread.

    Raises:
        ConfigError: the socket cannot be made.

    Attributes:
        address: where it listens, with the port chosen.
        failure: a bug that ended the thread, or None.
    """

    def __init__(
        self,
        debugged: Target,
        address: Address,
        description: Description = AMD64,
        connected: Callable[[bool], None] | None = None,
    ) -> None:
        self._target = debugged
        self._description = description
        self._connected = connected
        self._path = ""
        self._socket = self._listen(address)
        self.address = address if address.path else address.replace(port=self._socket.getsockname()[1])
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._posted: deque[Callable[[], None]] = deque()
        self._client: socket.socket | None = None
        self._session: Session | None = None
        self._outgoing = bytearray()
        self._closing = False
        self.failure: BaseException | None = None
        self._thread = Thread(target=self._serve)

    def _listen(self, address: Address) -> socket.socket:
        listener = None
        try:
            if address.path:
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                remove_stale(address.path)
                listener.bind(address.path)
                self._path = address.path
            else:
                family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
                listener = socket.socket(family, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
            listener.listen(1)
            listener.setblocking(False)
        except (OSError, UnicodeError, ValueError) as error:
            if listener is not None:
                listener.close()
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"-gdb {address}: {reason}; choose another port or path") from None
        return listener

    def start(self) -> None:
        """Lets gdb in."""
        self._thread.start()

    def close(self) -> None:
        """Hangs up and stops listening. From any thread but the server's; waits for it 2 s at most."""
        self._closing = True
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join(_JOIN_SECONDS)
            if self._thread.is_alive():
                return  # it waits for the machine; what it uses must stay
        if self._wake >= 0:
            wake, self._wake = self._wake, -1
            os.close(wake)
            self._socket.close()
            if self._path:
                try:
                    os.unlink(self._path)
                except FileNotFoundError:
                    pass

    def post(self, act: Callable[[], None]) -> None:
        """Has ``act`` called on the server's thread; from any thread, even after ``close``."""
        self._posted.append(act)
        wake = self._wake
        if wake >= 0:
            os.eventfd_write(wake, 1)

    # --- the thread --------------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        block_signals()
        try:
            while not self._closing:
                self._turn()
        except Exception as error:  # the guest goes on without gdb
            self.failure = error
        finally:
            self._hang_up()

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        client = self._client
        if client is not None:  # a client that does not read its answers is not listened to
            poll.register(client, select.POLLOUT if self._outgoing else select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        for _ in range(len(self._posted)):  # before new packets: a stop that came first is told first. Not "while": a step may post
            self._posted.popleft()()
        if client is not None and client is self._client and client.fileno() in ready:
            self._exchange(client)
        self._flush()
        if self._socket.fileno() in ready:  # last: a gdb that hangs up and calls again is not turned away for its old call
            self._accept()
        while self._session is not None and self._session.pending and not self._outgoing:
            self._session.work()
            self._finish_if_over()
            self._flush()

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone again
        except OSError:
            sleep(_PATIENCE)  # no descriptor is free: it stays readable
            return
        if self._client is not None:
            client.close()
            return
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # gdb's computer may be gone without a word
        if not self._path:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._session = Session(self._target, self._outgoing.extend, self.post, self._description, lambda: len(self._outgoing) > _CROWDED)
        if self._connected is not None:
            self._connected(True)
        self._session.open()

    def _exchange(self, client: socket.socket) -> None:
        if self._outgoing:
            return  # flushed next
        try:
            data = client.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        session = self._session
        if not data or session is None:
            self._hang_up()
            return
        session.feed(data)
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._session is not None and self._session.over:
            self._flush()
            self._hang_up()

    def _flush(self) -> None:
        client = self._client
        if client is None or not self._outgoing:
            return
        try:
            sent = client.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError:
            self._hang_up()
            return
        del self._outgoing[:sent]

    def _hang_up(self) -> None:
        client, session = self._client, self._session
        self._client = self._session = None
        self._outgoing = bytearray()
        if client is not None:
            client.close()
        if session is not None:
            session.close()
            if self._connected is not None:
                self._connected(False)
