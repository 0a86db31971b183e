"""Monitors on UNIX sockets: one thread per socket and one per client; text lines for ``-monitor``, JSON lines for ``-qmp``."""

from __future__ import annotations

import os
import socket

from pyvmm.backends.unix import remove_stale
from pyvmm.errors import ConfigError
from pyvmm.observe.debug.qmp import LONGEST, Qmp
from pyvmm.threads import Lock, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.command import Reply
    from pyvmm.observe.debug.monitor import Monitor

_CLIENTS = 16
_PROMPT = b"(pyvmm) "
_PATIENCE = 10.0  # seconds that a client may take to read; then it is cut off


class Listener:
    """``-monitor unix:PATH,server=on,wait=off`` and ``-qmp``.

    Args:
        path: of the socket; one that nobody listens on any more is replaced.
        json: QMP rather than text.
        server: listen; else connect to somebody who does.
        wait: for the first client, before the machine is made.

    Raises:
        ConfigError: there can be no socket there.
    """

    def __init__(self, monitor: Monitor, path: str, json: bool, server: bool, wait: bool) -> None:
        self._monitor, self._json, self._path = monitor, json, ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._lock = Lock()
        self._clients: set[Client] = set()
        option = "qmp" if json else "monitor"
        try:
            if not server:
                self._socket.connect(path)
                self._serve(self._socket)
                return
            remove_stale(path)
            self._socket.bind(path)
            self._path = path
            self._socket.listen(_CLIENTS)
            if wait:
                from pyvmm.backends.stderr import say

                say(f"waiting for a connection on {path}")
                self._serve(self._socket.accept()[0])
        except (OSError, ValueError) as error:
            self.close()
            hint = "name a path where a socket can be made" if server else "is the server running? server=on listens instead"
            raise ConfigError(f"-{option} unix:{path}: {getattr(error, 'strerror', None) or error}; {hint}") from None
        self._thread = Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        block_signals()
        while True:
            try:
                client = self._socket.accept()[0]
            except OSError:
                return  # closed
            if len(self._clients) >= _CLIENTS:
                client.close()
                continue
            self._serve(client)

    def _serve(self, connection: socket.socket) -> None:
        client = Client(self, self._monitor, connection, self._json)
        with self._lock:
            self._clients.add(client)
        Thread(target=client.run).start()

    def gone(self, client: Client) -> None:
        """A client has left."""
        with self._lock:
            self._clients.discard(client)

    def close(self) -> None:
        """Cuts everybody off; the socket's file goes."""
        if self._path:
            try:
                os.unlink(self._path)
            except OSError:
                pass
            self._path = ""
        for end in (self._socket, *(each.connection for each in self._clients)):
            try:
                end.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in accept or recv
            except OSError:
                pass
            end.close()


class Client:
    """One connection."""

    def __init__(self, listener: Listener, monitor: Monitor, connection: socket.socket, json: bool) -> None:
        self.connection = connection
        self._listener, self._monitor = listener, monitor
        self._sending = Lock()
        self._qmp = Qmp(monitor, self.send) if json else None
        connection.settimeout(None)

    def send(self, data: bytes) -> None:
        """From any thread; a client that does not read is cut off."""
        with self._sending:
            try:
                self.connection.settimeout(_PATIENCE)
                self.connection.sendall(data)
                self.connection.settimeout(None)
            except OSError:
                self._shut()

    def _shut(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def run(self) -> None:
        """On a thread of its own, until it leaves."""
        block_signals()
        self._monitor.on_event.append(self._event)
        try:
            self._converse()
        except OSError:
            pass  # gone
        finally:
            self._monitor.on_event.remove(self._event)
            self._listener.gone(self)
            self.connection.close()

    def _converse(self) -> None:
        if self._qmp is not None:
            self._qmp.greet()
        else:
            self.send(b"pyvmm monitor: help lists the commands\n" + _PROMPT)
        pending = b""
        while True:
            data = self.connection.recv(65536)
            if not data:
                return
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                if not self._line(line):
                    return
            if len(pending) > LONGEST:
                self.send(b"the line is too long\n")
                return

    def _line(self, line: bytes) -> bool:
        """Answers one line; whether to go on."""
        if self._qmp is not None:
            self._qmp.line(line)
            return not self._qmp.leave
        reply = self._monitor.execute(line.decode(errors="replace"))
        self.send((reply.text + "\n" if reply.text else "").encode() + (b"" if reply.leave else _PROMPT))
        return not reply.leave

    def _event(self, name: str, data: dict[str, Any], reply: Reply | None) -> None:
        if self._qmp is not None:
            self._qmp.event(name, data, reply)
        elif reply is not None:
            self.send(f"\n{reply.text}\n".encode() + _PROMPT)
