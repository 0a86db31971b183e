"""Frames over a stream socket, as QEMU frames them: the length in 4 bytes, big-endian, then that many bytes.

``-netdev stream`` listens or connects at a UNIX socket or by TCP; ``-netdev socket,listen=|connect=|fd=`` is the older
spelling of the same. The other end may come and go; the card's link follows.

What cannot be sent at once waits in a queue of ``QUEUE`` bytes, and is dropped beyond that: whole frames only, or the other
end would lose its place.
"""

from __future__ import annotations

import os
import select
import socket
from time import monotonic_ns

from pyvmm.backends.net.address import Address, from_options, from_text, inherited
from pyvmm.backends.net.backend import BUDGET, DescriptorWire, complain
from pyvmm.backends.stderr import say
from pyvmm.backends.unix import remove_stale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.net.backend import Frame, NetPeer
    from pyvmm.config import NetConfig
    from pyvmm.ioloop import IoLoop, LoopTimer

LONGEST = 65536 + 4096  # bytes of a frame; QEMU hangs up on more as well
QUEUE = 1 << 20
_BUFFER = 256 << 10
_PATIENCE = 5.0  # seconds for the first connection of a client that will not try again


class Writable:
    """Calls back, once armed, whenever a descriptor takes bytes. The I/O loop knows readers only; an epoll of its own is one."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._epoll = select.epoll()
        self._loop: IoLoop | None = None
        self._fd = -1

    def arm(self, loop: IoLoop, fd: int) -> None:
        if self._loop is None:
            self._loop, self._fd = loop, fd
            self._epoll.register(fd, select.EPOLLOUT)
            loop.add_reader(self._epoll.fileno(), self._callback)

    def disarm(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.unregister(self._fd)
            self._loop = None

    def close(self) -> None:
        self.disarm()
        self._epoll.close()


class StreamWire(DescriptorWire):
    """Framing over a connected socket. By itself for one that was inherited, or shared with a child: when it ends, that was it."""

    max_frame = LONGEST

    def __init__(self, name: str, connection: socket.socket | None = None) -> None:
        super().__init__(name)
        self._connection: socket.socket | None = None
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0  # received and not yet delivered
        self._queue = bytearray()  # not yet sent; begins amidst a frame
        self._writable = Writable(self._flush)
        if connection is not None:
            self._take(connection)

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        super().attach(loop, nic)
        if self._queue:
            self._writable.arm(loop, self.fd)

    def detach(self) -> None:
        self._writable.disarm()
        super().detach()

    def close(self) -> None:
        super().close()
        self._drop()
        self._writable.close()

    # --- to the wire -------------------------------------------------------------------------------------------------
    def send(self, frame: Frame, header: Frame | None = None) -> None:
        length = len(frame)
        connection = self._connection
        if connection is None or not 0 < length <= LONGEST or len(self._queue) + length + 4 > QUEUE:
            self.counters.dropped_tx += 1
            return
        data = b"".join((length.to_bytes(4, "big"), frame))  # one copy costs less than the kernel's walk over two parts
        if not self._queue:
            try:
                data = data[connection.send(data) :]
            except BlockingIOError:
                pass
            except OSError:  # the other end is gone: reading tells, outside of the card's transmit walk
                self.counters.dropped_tx += 1
                return
        self.counters.sent += 1
        if data:
            self._queue += data
            if self._loop is not None:
                self._writable.arm(self._loop, self.fd)

    def _flush(self) -> None:
        try:
            if self._connection is not None and self._queue:
                del self._queue[: self._connection.send(self._queue)]
        except BlockingIOError:
            return
        except OSError:
            self._queue.clear()
        if not self._queue:
            self._writable.disarm()

    # --- from the wire -----------------------------------------------------------------------------------------------
    def _pull(self) -> None:
        connection = self._connection
        if connection is None or not self._deliver():
            return
        try:
            got = connection.recv_into(self._buffer[self._end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        if not got:
            self._lost("")
            return
        self._end += got
        self._deliver()

    def _deliver(self) -> bool:
        """Hands over whole frames. True: nothing but the beginning of one is left, and at the buffer's front."""
        buffer, start, end = self._buffer, self._start, self._end
        budget = BUDGET
        while end - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if length > LONGEST:
                self._lost(f"a frame of {length} bytes is announced: not QEMU's framing")
                return False
            if end - start - 4 < length:
                break
            if not budget:
                self._start = start
                self._later()
                return False
            budget -= 1
            if not self._offer(buffer[start + 4 : start + 4 + length]):
                self._start = start
                self._pause()
                return False
            start += 4 + length
        if start:
            buffer[: end - start] = buffer[start:end]
        self._start, self._end = 0, end - start
        return True

    # --- the other end -----------------------------------------------------------------------------------------------
    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self.fd = connection, connection.fileno()
        self._watch()
        self._set_link(True)

    def _lost(self, reason: str) -> None:
        """The connection is over; ``reason`` is told unless the other end just left."""
        self._drop()
        if reason:
            say(f"pyvmm: netdev {self.name}: {reason}; disconnected")
        self._set_link(False)

    def _drop(self) -> None:
        self._writable.disarm()
        self._unwatch()
        self.fd = -1
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._end > self._start:
            self.counters.malformed += 1  # cut off in the middle
        self._start = self._end = 0
        self._queue.clear()
        self._paused = False


class StreamServer(StreamWire):
    """Listens; one peer after another. A second one waits until the first has left.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, name: str, address: Address) -> None:
        super().__init__(name)
        self._path = ""
        self._listener = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            if address.path:
                remove_stale(address.path)
            else:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address.address)  # type: ignore[arg-type]
            self._path = address.path
            self._listener.listen(1)
            self._listener.setblocking(False)
        except BaseException:
            self.close()
            raise

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        super().attach(loop, nic)
        self._listen()

    def detach(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
        super().detach()

    def close(self) -> None:
        super().close()
        self._listener.close()
        if self._path:
            try:
                os.unlink(self._path)
            except OSError:
                pass  # somebody was faster
            self._path = ""

    def _listen(self) -> None:
        if self._loop is not None and self._connection is None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._loop is not None
        try:
            connection = self._listener.accept()[0]
        except OSError:
            return  # gone again before we looked
        self._loop.remove_reader(self._listener.fileno())
        self._take(connection)

    def _lost(self, reason: str) -> None:
        super()._lost(reason)
        self._listen()


class StreamClient(StreamWire):
    """Connects, and with ``reconnect`` tries again that many seconds after it was refused or lost the connection.

    Raises:
        OSError: no connection, and no ``reconnect``.
    """

    def __init__(self, name: str, address: Address, reconnect: float = 0) -> None:
        super().__init__(name)
        self._address = address
        self._reconnect = reconnect
        self._attempt: socket.socket | None = None
        self._connected = Writable(self._finish)
        self._retry: LoopTimer | None = None
        if not reconnect:
            attempt = socket.socket(address.family, socket.SOCK_STREAM)
            try:
                attempt.settimeout(_PATIENCE)
                attempt.connect(address.address)  # type: ignore[arg-type]
            except BaseException:
                attempt.close()
                self.close()
                raise
            self._take(attempt)

    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        super().attach(loop, nic)
        self._retry = loop.make_timer(self._try)
        if self._connection is None and self._reconnect:
            self._retry.arm(monotonic_ns())

    def detach(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._give_up()
        super().detach()

    def close(self) -> None:
        super().close()
        self._connected.close()

    def _try(self) -> None:
        loop = self._loop
        if loop is None or self._connection is not None or self._attempt is not None:
            return
        self._attempt = socket.socket(self._address.family, socket.SOCK_STREAM)
        self._attempt.setblocking(False)
        try:
            self._attempt.connect(self._address.address)  # type: ignore[arg-type]
        except BlockingIOError:
            if not self._address.path:  # else: the listener's backlog is full, and nothing will tell when there is room
                self._connected.arm(loop, self._attempt.fileno())
                return
            self._refused()
        except OSError:
            self._refused()
        else:
            self._finish()

    def _finish(self) -> None:
        attempt = self._attempt
        assert attempt is not None
        if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._refused()
            return
        self._connected.disarm()
        self._attempt = None
        self._take(attempt)

    def _refused(self) -> None:
        self._give_up()
        if self._retry is not None:
            self._retry.arm(monotonic_ns() + int(self._reconnect * 1e9))

    def _give_up(self) -> None:
        self._connected.disarm()
        if self._attempt is not None:
            self._attempt.close()
            self._attempt = None

    def _lost(self, reason: str) -> None:
        super()._lost(reason)
        if self._reconnect:
            self._refused()


def open_stream(config: NetConfig) -> StreamWire:
    """``-netdev stream`` and ``-netdev socket``.

    Raises:
        ConfigError: one line with the problem and what to do.
    """
    if config.kind == "socket":
        given = [key for key in ("listen", "connect", "fd") if config.get(key)]
        if len(given) != 1:
            raise complain(config, "give one of listen=[HOST]:PORT, connect=HOST:PORT, fd=N")
        if given[0] == "fd":
            return StreamWire(config.id, inherited(config, config.get("fd")))
        return _open(config, from_text(config, config.get(given[0])), given[0] == "listen", 0)
    server = config.flag("server", False)
    if config.get("addr.type") == "fd":
        return StreamWire(config.id, inherited(config, config.get("addr.str")))
    return _open(config, from_options(config), server, _reconnect(config, server))


def _open(config: NetConfig, address: Address, server: bool, reconnect: float) -> StreamWire:
    try:
        return StreamServer(config.id, address) if server else StreamClient(config.id, address, reconnect)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        hint = "name an address where a socket can listen"
        if not server:
            hint = "is the other end listening? server=on listens here, reconnect=1 waits for it"
        raise complain(config, f"{address.text}: {getattr(error, 'strerror', None) or error}; {hint}") from None


def _reconnect(config: NetConfig, server: bool) -> float:
    """Seconds; ``reconnect=`` or ``reconnect-ms=``."""
    for key, unit in (("reconnect", 1.0), ("reconnect-ms", 0.001)):
        text = config.get(key)
        if text:
            if not (text.isascii() and text.isdigit()) or len(text) > 9:
                raise complain(config, f"{key}={text}: give a number")
            if server and int(text):
                raise complain(config, f"{key}={text}: server=on waits for the other end anyway")
            return int(text) * unit
    return 0.0
