"""Disks that are gone after the run: an empty scratch disk, and the file that takes what a guest writes under snapshot=on."""

from __future__ import annotations

import errno
import os

from pyvmm.backends.block.raw import RawFile
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.block.overlay import Overlay
    from pyvmm.config import DriveConfig


def scratch(drive: DriveConfig) -> RawFile:
    """``format=scratch,size=SIZE``: zeros. Raises ConfigError."""
    fd = nameless_file(f"-drive format=scratch,size={drive.size}", drive.size)
    return RawFile(fd, f"scratch disk {drive.id}", drive.size, readonly=drive.readonly, flushes=False, discard=drive.discard == "unmap")


def overlay(drive: DriveConfig, base: RawFile) -> Overlay:
    """``snapshot=on`` over an image opened for reading. Raises ConfigError, and leaves ``base`` open then."""
    from pyvmm.backends.block.overlay import Overlay

    fd = nameless_file(f"-drive file={drive.file},snapshot=on", base.size)
    top = RawFile(fd, drive.file, base.size, flushes=False, discard=True)
    try:
        return Overlay(base, top, drive.discard == "unmap")
    except BaseException:
        top.close()
        raise


def nameless_file(where: str, size: int) -> int:
    """A file of zeros without a name, so that it is gone however the process ends. In TMPDIR, else in /var/tmp, as QEMU's:
    /tmp often is memory. Raises ConfigError, which begins with ``where``."""
    folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else "/tmp")
    try:
        fd = _nameless(folder)
        try:
            os.ftruncate(fd, size)
        except BaseException:
            os.close(fd)
            raise
    except (OSError, OverflowError, ValueError) as error:
        if getattr(error, "errno", errno.EFBIG) == errno.EFBIG:
            raise ConfigError(f"{where}: {size} bytes are too many for a file in {folder}: set TMPDIR to a folder that takes it") from None
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{where}: no temporary file in {folder}: {reason}: set TMPDIR to a folder that can be written") from None
    return fd


def _nameless(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # a file system, or a kernel, that cannot
            raise
    path = os.path.join(folder, f".pyvmm-{os.getpid()}-{os.urandom(8).hex()}")
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd
