"""Locks on images, the same bytes as QEMU's: neither of us opens for writing what the other uses.

They are "open file description" locks (man 2 fcntl): they belong to the descriptor, so two drives of one process see each other,
and the kernel drops them however the process ends. Every lock is a shared one; who holds what is asked with F_OFD_GETLK. Byte
100 + n says "I do n", byte 200 + n says "nobody else may do n", n being a bit of QEMU's block permissions; of them a guest's
disk needs 0 (read what others guarantee to be consistent) and 1 (write).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from pyvmm.errors import ConfigError

_USES, _FORBIDS = 100, 200
_READ, _WRITE = 0, 1
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, len, pid
# What a file system without such locks says (network and FUSE file systems): then there are none, as in QEMU's locking=auto.
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def take(fd: int, where: str, readonly: bool) -> None:
    """Locks an image for as long as ``fd`` is open: others may read it (``readonly``), or use it not at all.

    Raises:
        ConfigError: another program, or another drive of this one, uses it in a way that does not go with ours.
    """
    try:
        for byte in [_USES + _READ, _FORBIDS + _WRITE, *([] if readonly else [_USES + _WRITE])]:
            _set(fd, where, byte)
        written = _is_held(fd, _USES + _WRITE)
        refused = _is_held(fd, _FORBIDS + _READ) or not readonly and _is_held(fd, _FORBIDS + _WRITE)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        raise
    if written or refused:
        doing = "writes to it" if written else "uses it"
        # Two that only read go together; two readers and a writer do not, as in QEMU.
        fix = "open it with readonly=on in both" if not readonly else "wait for its end"
        raise ConfigError(f"{where}: it is locked: another program, or another -drive, {doing}: stop that one, or {fix}")


def _set(fd: int, where: str, byte: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        # Somebody holds the byte for himself alone. That is not QEMU, but it is a lock all the same.
        raise ConfigError(f"{where}: it is locked by another program: stop that one, or add locking=off") from None


def _is_held(fd: int, byte: int) -> bool:
    """Whether somebody else holds any lock on ``byte``."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
