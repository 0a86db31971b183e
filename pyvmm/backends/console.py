"""Where a serial port's bytes go: the terminal, a file, a pseudo-terminal, a UNIX socket, nowhere.

A console writes at once (a killed VMM has lost nothing but what KVM still coalesces) and reads only while the device has
room: what the guest does not take stays in the kernel's pipe, and the writer at the other end feels it.

A write may have to wait for a reader, with the machine lock held; it does so without blocking in the kernel, so that a
signal, Ctrl-A x or --timeout end the run although nobody reads (``IoLoop.given_up``).
"""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.backends.stderr import one_line, say
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


_READ = 256
_OFFER = 64  # bytes offered to the device at once; no FIFO is larger
_CHUNK = 4096  # what a descriptor that polls writable takes without blocking (PIPE_BUF)
_WAIT_MS = 100  # how often a write that must wait looks whether anybody still waits for it
_TYPED_AHEAD = 64 << 10


class Console:
    """Base: writes to ``out_fd``, reads from ``in_fd`` (-1: not at all).

    Attributes:
        filter: sees typed bytes before the guest does and returns what is left (the terminal's Ctrl-A keys). With a filter
            input is read even while the guest takes none, up to 64 KiB: the keys must work when the guest hangs.
    """

    def __init__(self, in_fd: int = -1, out_fd: int = -1) -> None:
        self.in_fd = in_fd
        self.out_fd = out_fd
        self.filter: Callable[[bytes], bytes] | None = None
        self._loop: IoLoop | None = None
        self._port: Port | None = None
        self._pending = bytearray()  # read, but not yet taken by the device
        self._watching = False
        self._always_readable = False  # a regular file, which cannot be polled
        self._lent: list[int] = []  # in_fd, while somebody else reads there
        self._may_block = False  # out_fd is in blocking mode: look before writing

    # --- output ------------------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Sends guest output. A reader that has gone away is not the guest's problem: bytes are dropped."""
        while data and self.out_fd >= 0:
            if self._may_block and not self._wait():
                return
            try:
                data = data[os.write(self.out_fd, data[:_CHUNK]) :]
            except BlockingIOError:
                if not self._wait():
                    return
            except OSError as error:
                self._lost(error)

    def _wait(self) -> bool:
        """Waits until ``out_fd`` takes bytes again. False: the run is being given up, drop them."""
        import select

        room = select.poll()
        room.register(self.out_fd, select.POLLOUT)
        while not room.poll(_WAIT_MS):
            if self._loop is not None and self._loop.given_up():
                return False
        return True

    def _lost(self, error: OSError) -> None:
        """Output has nowhere to go any more."""
        self.out_fd = -1
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            say(f"pyvmm: warning: guest output is lost from here on: {error.strerror}")

    # --- input -------------------------------------------------------------------------------------------------------
    def attach(self, loop: IoLoop, port: Port | None = None) -> None:
        """Starts feeding input to ``port`` from the I/O loop; without a port only output is served."""
        self._loop, self._port, self._watching = loop, port, False
        if port is not None:
            port.on_room = self._pump
            self._pump()

    def close(self) -> None:
        """Stops reading; subclasses close what they opened."""
        self._watch(False)

    def lend(self) -> None:
        """Somebody else reads where this console does, until ``take_back``. Machine lock held, as for the next two."""
        if not self._lent:
            self._watch(False)
            self._lent, self.in_fd = [self.in_fd], -1

    def take_back(self) -> None:
        """Reads again."""
        if self._lent:
            self.in_fd = self._lent.pop()
            self._pump()

    def feed(self, data: bytes) -> None:
        """Input that comes from elsewhere."""
        self._pending += data
        self._pump()

    def look(self) -> None:
        """Takes what is there, without waiting for the I/O loop to find it. Machine lock held; ``in_fd`` does not block."""
        if self._watching:
            self._readable()

    def _pump(self) -> None:
        """Gives the device what was read, and goes on reading if it took enough."""
        pending, port = self._pending, self._port
        if port is None:
            return
        while True:
            while pending:
                chunk = bytes(pending[:_OFFER])
                taken = port.receive(chunk)
                del pending[:taken]
                if taken < len(chunk):
                    break
            self._watch(self.in_fd >= 0 and len(pending) <= (_TYPED_AHEAD if self.filter else 0))
            if pending or self.in_fd < 0 or not self._always_readable:
                return
            self._read()

    def _watch(self, wanted: bool) -> None:
        loop = self._loop
        if loop is None or wanted == self._watching or self._always_readable:
            return
        if wanted:
            self._watching = loop.add_reader(self.in_fd, self._readable)
            self._always_readable = not self._watching
        else:
            self._watching = False
            loop.remove_reader(self.in_fd)

    def _readable(self) -> None:
        self._read()
        self._pump()

    def _read(self) -> None:
        try:
            data = os.read(self.in_fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        else:
            self._pending += self.filter(data) if self.filter else data

    def _hang_up(self) -> None:
        """End of input; the guest goes on without."""
        self._watch(False)
        self.in_fd = -1


class StdioConsole(Console):
    """``stdio``: this process's stdin and stdout.

    The non-blocking mode belongs to the open file, and stdout's is shared with the shell and everybody else who inherited
    it. So stdout is opened once more; where that is refused, writes look first (``_may_block``).
    """

    def __init__(self) -> None:
        super().__init__(0, 1)
        self._own = -1
        try:
            if stat.S_ISREG(os.fstat(1).st_mode):
                return  # never blocks, and a second opening would have a position of its own
            self._own = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            self.out_fd = self._own
        except OSError:
            self._may_block = True

    def close(self) -> None:
        super().close()
        self.out_fd = -1
        if self._own >= 0:
            os.close(self._own)
            self._own = -1


class FileConsole(Console):
    """``file:PATH``: output only, truncated at start as QEMU does."""

    def __init__(self, path: str, option: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._fd = os.open(path, flags | os.O_NONBLOCK, 0o644)  # a FIFO without a reader must not hang
        except (OSError, ValueError) as error:  # ValueError: NUL in the path
            reason = "no program reads from this FIFO" if getattr(error, "errno", 0) == errno.ENXIO else _reason(error)
            raise ConfigError(f"-{option} file:{path}: {reason}; name a file that can be written") from None
        super().__init__(out_fd=self._fd)

    def close(self) -> None:
        super().close()
        self.out_fd = -1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PtyConsole(Console):
    """``pty``: a pseudo-terminal whose name is told on stderr, as QEMU does."""

    def __init__(self, option: str) -> None:
        import termios

        try:
            master, slave = os.openpty()
        except OSError as error:
            raise ConfigError(f"-{option} pty: {_reason(error)}; is devpts mounted on /dev/pts?") from None
        attributes = termios.tcgetattr(slave)
        attributes[0] = attributes[1] = attributes[3] = 0  # raw: no translation, no echo
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.set_blocking(master, False)
        super().__init__(master, master)
        self._master, self._slave = master, slave  # the slave is held open, so that the master never hangs up
        self._nobody_reads = False
        self.name = os.ttyname(slave)
        say(f"char device redirected to {self.name}")

    def _wait(self) -> bool:
        """Whether somebody reads cannot be asked: who takes nothing for a moment counts as absent until he does."""
        import select

        if self._nobody_reads:
            return False
        room = select.poll()
        room.register(self.out_fd, select.POLLOUT)
        self._nobody_reads = not room.poll(_WAIT_MS)
        return not self._nobody_reads

    def write(self, data: bytes) -> None:
        """As the base, but what nobody reads and the terminal's buffer does not hold is dropped."""
        if self._nobody_reads:
            import select

            room = select.poll()
            room.register(self.out_fd, select.POLLOUT)
            self._nobody_reads = not room.poll(0)
        super().write(data)

    def close(self) -> None:
        super().close()
        self.in_fd = self.out_fd = -1
        if self._master >= 0:
            os.close(self._slave)
            os.close(self._master)
            self._master = -1


def make(config: SerialConfig, option: str = "serial") -> Console:
    """The console for one ``-serial`` (or ``-debugcon``).

    Raises:
        ConfigError: it cannot be opened; names path and reason.
    """
    if config.kind == "stdio":
        return StdioConsole()
    if config.kind == "file":
        return FileConsole(config.target, option)
    if config.kind == "pty":
        return PtyConsole(option)
    if config.kind == "unix":
        from pyvmm.backends.unix import UnixConsole

        return UnixConsole(config.target, option)
    return Console()


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or str(error))
