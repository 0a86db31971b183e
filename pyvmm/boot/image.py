"""Guest image files: opened once, never trusted, never copied more than needed."""

from __future__ import annotations

import mmap
import os
import stat

from pyvmm.errors import ConfigError, ImageError
from pyvmm.layout import BOOT_CMDLINE_MAX

READ_WHOLE = 1 << 20  # smaller files are read (a truncation by somebody else then cannot hurt), larger ones mapped
HEAD = 32 << 10  # where format recognition looks


class Image:
    """A file's bytes.

    Attributes:
        path: as the user gave it, escaped where it would break a message's one line.
        data: read-only memoryview of the whole file, never empty.
    """

    __slots__ = ("path", "data")

    def __init__(self, path: str, data: bytes | mmap.mmap) -> None:
        self.path = printable(path)
        self.data = memoryview(data).toreadonly()

    def __len__(self) -> int:
        return len(self.data)

    def head(self) -> bytes:
        """A copy of the first 32 KiB, where all magic numbers are."""
        return bytes(self.data[:HEAD])

    def error(self, text: str) -> ImageError:
        """An ImageError that names this file."""
        return ImageError(f"{self.path}: {text}")


def open_image(path: str, what: str = "guest image") -> Image:
    """Opens a file.

    Args:
        path: the file.
        what: "guest image", "initrd", ... for messages.

    Raises:
        ImageError: missing, unreadable, empty, or no regular file.
    """
    if not path:
        raise ImageError(f"no {what} given: name a file")
    try:
        # O_NONBLOCK: opening a FIFO nobody writes to must not hang
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"cannot open {what} {printable(path)}: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"cannot use {what} {printable(path)}: it is {kind}")
        if not status.st_size:
            raise ImageError(f"cannot use {what} {printable(path)}: the file is empty")
        if status.st_size >= READ_WHOLE:
            return Image(path, mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ))
        data = b""
        while len(data) < status.st_size and (part := os.read(descriptor, status.st_size - len(data))):
            data += part
        if not data:
            raise ImageError(f"cannot use {what} {printable(path)}: the file is empty")
        return Image(path, data)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {what} {printable(path)}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        os.close(descriptor)


def printable(path: str) -> str:
    """A path for a message: one line, no control characters."""
    return path if path.isprintable() else ascii(path)


def encode_cmdline(text: str, limit: int = BOOT_CMDLINE_MAX - 1) -> bytes:
    """A command line as the guest gets it, with its terminating NUL.

    Args:
        text: as given on the command line (undecodable bytes come back unchanged).
        limit: bytes the guest accepts, without the NUL.

    Raises:
        ConfigError: too long, not encodable, or an embedded NUL, which would cut it.
    """
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ConfigError(f"the guest's command line cannot be encoded: {error.reason}") from error
    if b"\0" in data:
        raise ConfigError("the guest's command line holds a NUL byte, where it would end: remove it")
    limit = min(limit, BOOT_CMDLINE_MAX - 1)
    if len(data) > limit:
        raise ConfigError(f"the guest's command line has {len(data)} bytes, but this guest takes at most {limit}: shorten -append")
    return data + b"\0"
