"""fallocate(2), which Python has for growing files alone: holes and zeros without writing them."""

from __future__ import annotations

import errno
import os

from pyvmm.kvm import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# <linux/falloc.h>
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

# A file system, or a block device, that has no such operation: man 2 fallocate; EINVAL and ENODEV from some of them, ENOTTY from
# a device that knows no such ioctl.
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL, errno.ENOTTY)

_call: Any = None


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """As the C function, without the GIL; OSError carries its errno."""
    global _call
    if _call is None:
        _call = native.function("fallocate", native.c_int, native.c_int, native.s64, native.s64)
    while _call(fd, mode, offset, length):
        number = native.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
