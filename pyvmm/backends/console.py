"""Where a serial port's bytes go: the terminal, a file, a pseudo-terminal, a UNIX socket, nowhere.

A console writes at once (a killed VMM has lost nothing) and reads only while the device has room: what the guest does not
take stays in the kernel's pipe or terminal buffer, and the writer at the other end feels it.
"""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pyvmm.config import SerialConfig
    from pyvmm.ioloop import IoLoop

    class Port(Protocol):
        """The device behind a console (devices.serial.Serial)."""

        on_room: Callable[[], None] | None

        def receive(self, data: bytes) -> int:
            """Takes what fits and returns how many bytes that was."""


class Console:
    """Base: writes to ``out_fd``, reads from ``in_fd`` (-1: not at all).

    Attributes:
        filter: sees typed bytes before the guest does and returns what is left (the terminal's Ctrl-A keys).
    """

    def __init__(self, in_fd: int = -1, out_fd: int = -1) -> None:
        self.in_fd = in_fd
        self.out_fd = out_fd
        self.filter: Callable[[bytes], bytes] | None = None
        self._loop: IoLoop | None = None
        self._port: Port | None = None
        self._pending = b""  # read, but not yet taken by the device: at most one read's worth

    def write(self, data: bytes) -> None:
        """Sends guest output. A reader that has gone away is not the guest's problem: bytes are dropped."""
        while data and self.out_fd >= 0:
            try:
                data = data[os.write(self.out_fd, data) :]
            except BlockingIOError:
                os.sched_yield()  # a non-blocking terminal or pipe that is full: its reader needs the CPU more than we
            except OSError:
                self.out_fd = -1

    def attach(self, loop: IoLoop, port: Port) -> None:
        """Starts feeding input to ``port`` from the I/O loop."""
        self._loop, self._port = loop, port
        port.on_room = self._resume
        self._watch()

    def close(self) -> None:
        """Stops reading; subclasses close what they opened."""
        self._unwatch()

    def _watch(self) -> None:
        if self._loop is not None and self.in_fd >= 0 and not self._loop.add_reader(self.in_fd, self._readable):
            self._read_file()

    def _unwatch(self) -> None:
        if self._loop is not None and self.in_fd >= 0:
            self._loop.remove_reader(self.in_fd)

    def _readable(self) -> None:
        try:
            data = os.read(self.in_fd, 256)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        elif self.filter is not None:
            self._feed(self.filter(data))
        else:
            self._feed(data)

    def _hang_up(self) -> None:
        """End of input; the guest goes on without."""
        self._unwatch()
        self.in_fd = -1

    def _feed(self, data: bytes) -> None:
        assert self._port is not None
        taken = self._port.receive(data)
        self._pending = data[taken:]
        if self._pending:
            self._unwatch()

    def _resume(self) -> None:
        """The device has room again."""
        if self._pending:
            self._feed(self._pending)
            if not self._pending:
                self._watch()

    def _read_file(self) -> None:
        # A regular file on stdin cannot be polled: hand it over piece by piece, as the guest takes it.
        while not self._pending and self.in_fd >= 0:
            self._readable()


class FileConsole(Console):
    """``file:PATH``: output only, truncated at start as QEMU does."""

    def __init__(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"-serial file:{path}: {error.strerror}") from None
        super().__init__(out_fd=fd)
        self._fd = fd

    def close(self) -> None:
        super().close()
        self.out_fd = -1
        os.close(self._fd)


class PtyConsole(Console):
    """``pty``: a pseudo-terminal whose name is told on stderr, as QEMU does."""

    def __init__(self) -> None:
        import termios

        master, slave = os.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[0] = attributes[1] = attributes[3] = 0  # raw: no translation, no echo
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.set_blocking(master, False)
        super().__init__(master, master)
        self._slave = slave  # held open, so that the master does not hang up between two users
        self.name = os.ttyname(slave)
        os.write(2, f"char device redirected to {self.name}\n".encode())

    def write(self, data: bytes) -> None:
        """Nobody may be reading: what does not fit into the terminal's buffer is dropped."""
        try:
            os.write(self.out_fd, data)
        except OSError:
            pass

    def close(self) -> None:
        super().close()
        os.close(self._slave)
        os.close(self.out_fd)


class UnixConsole(Console):
    """``unix:PATH,server=on,wait=off`` listens (one client at a time); ``unix:PATH`` connects."""

    def __init__(self, target: str) -> None:
        import socket

        path, *options = target.split(",")
        flags = {name: value or "on" for name, _, value in (option.partition("=") for option in options)}
        unknown = set(flags) - {"server", "wait"}
        if unknown or not path:
            raise ConfigError(f"-serial unix:{target}: write unix:PATH[,server=on|off][,wait=on|off]")
        super().__init__()
        self._path = path if flags.get("server") == "on" else ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._client: socket.socket | None = None
        try:
            if self._path:
                if os.path.exists(path) and not _somebody_listens(path):
                    os.unlink(path)
                self._socket.bind(path)
                self._socket.listen(1)
                if flags.get("wait", "on") == "on":
                    os.write(2, f"waiting for a connection on {path}\n".encode())
                    self._take(self._socket.accept()[0])
            else:
                self._socket.connect(path)
                self._take(self._socket)
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"-serial unix:{path}: {error.strerror}") from None

    def attach(self, loop: IoLoop, port: Port) -> None:
        super().attach(loop, port)
        if self._path and self._client is None:
            loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        super().close()
        if self._path:
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            os.unlink(self._path)
        if self._client is not None:
            self._client.close()
        self._socket.close()

    def _accept(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._socket.fileno())
        self._take(self._socket.accept()[0])
        self._watch()

    def _take(self, client: object) -> None:
        self._client = client  # type: ignore[assignment]
        self.in_fd = self.out_fd = self._client.fileno()  # type: ignore[union-attr]

    def _hang_up(self) -> None:
        super()._hang_up()
        self.out_fd = -1
        if self._path and self._loop is not None:
            assert self._client is not None
            self._client.close()
            self._client = None
            self._loop.add_reader(self._socket.fileno(), self._accept)


def _somebody_listens(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def make(config: SerialConfig) -> Console:
    """The console for one ``-serial``.

    Raises:
        ConfigError: it cannot be opened; names path and reason.
    """
    if config.kind == "stdio":
        return Console(0, 1)
    if config.kind == "file":
        return FileConsole(config.target)
    if config.kind == "pty":
        return PtyConsole()
    if config.kind == "unix":
        return UnixConsole(config.target)
    return Console()
