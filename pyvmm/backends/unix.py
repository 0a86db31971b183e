"""A serial port on a UNIX socket: listening for one client at a time, or connecting to a server."""

from __future__ import annotations

import os
import socket
import stat

from pyvmm.backends.console import Console
from pyvmm.backends.stderr import say
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.ioloop import IoLoop


class UnixConsole(Console):
    """``unix:PATH,server=on,wait=off`` listens (one client after another); ``unix:PATH`` connects."""

    def __init__(self, target: str, option: str = "serial") -> None:
        super().__init__()
        path, server, wait = parse(target, option)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._client: socket.socket | None = None
        self._path = ""  # of a server, once the socket file is ours
        try:
            if server:
                remove_stale(path)
                self._socket.bind(path)
                self._path = path
                self._socket.listen(1)
                if wait:
                    say(f"waiting for a connection on {path}")
                    self._take(self._socket.accept()[0])
            else:
                self._socket.connect(path)
                self._take(self._socket)
        except (OSError, ValueError) as error:  # ValueError: NUL in the path
            self.close()
            hint = "name a path where a socket can be made" if server else "is the server running? server=on listens instead"
            raise ConfigError(f"-{option} unix:{path}: {getattr(error, 'strerror', None) or error}; {hint}") from None
        except BaseException:
            self.close()
            raise

    def attach(self, loop: IoLoop, port: object = None) -> None:
        super().attach(loop, port)  # type: ignore[arg-type]
        self._socket.setblocking(False)  # after the constructor has waited: a client that is gone again must not hold up the machine
        if self._path and self._client is None:
            loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        super().close()
        self.in_fd = self.out_fd = -1
        if self._path:
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            try:
                os.unlink(self._path)
            except OSError:
                pass  # somebody was faster
            self._path = ""
        if self._client is not None:
            self._client.close()
        self._socket.close()

    def _accept(self) -> None:
        assert self._loop is not None
        try:
            client = self._socket.accept()[0]
        except OSError:
            return  # gone again before we looked
        self._loop.remove_reader(self._socket.fileno())
        self._take(client)
        self._pump()

    def _take(self, client: socket.socket) -> None:
        self._client = client
        client.setblocking(False)
        self.in_fd = self.out_fd = client.fileno()

    def _lost(self, error: OSError) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        super()._hang_up()
        self.out_fd = -1
        if self._path and self._loop is not None and self._client is not None:
            self._client.close()
            self._client = None
            self._loop.add_reader(self._socket.fileno(), self._accept)


def parse(target: str, option: str) -> tuple[str, bool, bool]:
    """(path, whether to listen, whether to wait for a client), in QEMU's old spelling or its new one."""
    path, *options = target.split(",")
    flags = {"server": "off", "wait": "on"}
    for each in options:
        name, _, value = {"nowait": "wait=off"}.get(each, each).partition("=")
        value = value or "on"
        if name not in flags or value not in ("on", "off"):
            raise ConfigError(f"-{option} unix:{target}: '{each}' is not known: write unix:PATH[,server=on|off][,wait=on|off]")
        flags[name] = value
    if not path:
        raise ConfigError(f"-{option} unix:{target}: a path is missing: write unix:PATH[,server=on|off][,wait=on|off]")
    return path, flags["server"] == "on", flags["wait"] == "on"


def remove_stale(path: str) -> None:
    """Removes a socket nobody listens on any more; whatever else stands there is not ours to delete."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path):
            os.unlink(path)
