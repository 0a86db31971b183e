"""A file or a block device as a disk: byte n of the disk is byte n of the file."""

from __future__ import annotations

import errno
import os
import struct
from fcntl import ioctl

from pyvmm.backends.block.fallocate import KEEP_SIZE, PUNCH_HOLE, UNSUPPORTED, ZERO_RANGE, fallocate
from pyvmm.backends.block.vectors import cut, total
from pyvmm.scatter import IOV_MAX, Scatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.scatter import Views

# <linux/fs.h>
_BLKDISCARD = 0x1277
_BLKZEROOUT = 0x127F
_RANGE = struct.Struct("=QQ")
_ZEROS = 1 << 20  # written at once where the host knows nothing better


class RawFile:
    """See ``backend.BlockBackend``. Goes through the host's page cache.

    Args:
        fd: open, closed with this object.
        name: for messages.
        size: bytes; what lies behind is never touched.
        flushes: False: ``flush`` does nothing (cache=unsafe, temporary files, read-only).
        is_device: fd is a block device.

    Attributes:
        nowait: RWF_NOWAIT means something here; True until the file system says that it cannot.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        size: int,
        *,
        readonly: bool = False,
        block_size: int = 512,
        write_cache: bool = True,
        flushes: bool = True,
        discard: bool = False,
        is_device: bool = False,
    ) -> None:
        self.fd = fd
        self.name = name
        self.size = size
        self.readonly = readonly
        self.block_size = block_size
        self.write_cache = write_cache
        self.discard = discard
        self._flushes = flushes
        self._is_device = is_device
        self.nowait = True
        self._can_punch = self._can_zero = True
        self._lost = False  # a flush has failed

    # --- reading -----------------------------------------------------------------------------------------------------
    def read(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        length = views.length if isinstance(views, Scatter) else sum(map(len, views))
        if offset < 0 or offset + length > self.size:
            self._check(offset, length)
        while length:
            if isinstance(views, Scatter):
                got = views.preadv(self.fd, offset)
            else:
                got = os.preadv(self.fd, views if len(views) <= IOV_MAX else views[:IOV_MAX], offset)
            if not got:  # somebody has truncated the file
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if got == length:
                return
            views = cut(views, got, length - got)
            length -= got
            offset += got

    def try_read(self, offset: int, views: Views) -> bool:
        """See BlockBackend: preadv2(RWF_NOWAIT), for pages the host has in its cache."""
        if not self.nowait or not 0 <= offset < self.size or len(views) > IOV_MAX:
            return False
        length = total(views)
        if offset + length > self.size:
            return False
        try:
            if isinstance(views, Scatter):
                return views.preadv(self.fd, offset, os.RWF_NOWAIT) == length
            return os.preadv(self.fd, views, offset, os.RWF_NOWAIT) == length
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                self.nowait = False
            return False

    # --- writing -----------------------------------------------------------------------------------------------------
    def write(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        length = total(views)
        self._check_write(offset, length)
        if not self._is_device and offset + length > os.lseek(self.fd, 0, os.SEEK_END):  # 0.3 us; nobody uses the file's position
            raise OSError(errno.EIO, os.strerror(errno.EIO))  # somebody has truncated the file: do not make it longer again
        while length:
            if isinstance(views, Scatter):
                put = views.pwritev(self.fd, offset)
            else:
                put = os.pwritev(self.fd, views if len(views) <= IOV_MAX else views[:IOV_MAX], offset)
            if put == length:
                return
            if not put:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            views = cut(views, put, length - put)
            length -= put
            offset += put

    def flush(self) -> None:
        """See BlockBackend. The kernel reports what it could not write once, then forgets the pages: this remembers."""
        if self._lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._flushes:
            try:
                os.fdatasync(self.fd)
            except OSError:
                self._lost = True
                raise

    def discard_range(self, offset: int, length: int) -> None:
        """See BlockBackend: a hole in the file, BLKDISCARD to a device."""
        self._check_write(offset, length)
        if self.discard and length:
            self._free(offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """See BlockBackend: as a hole, as the file system's zeros, or written."""
        self._check_write(offset, length)
        if not length:
            return
        if not self._clear(offset, length, unmap and self.discard):
            self._write_zeros(offset, length)
        elif not self.write_cache:  # O_DSYNC speaks of writes alone
            self.flush()

    def _free(self, offset: int, length: int) -> None:
        if self._is_device:
            self._attempt("_can_punch", ioctl, self.fd, _BLKDISCARD, _RANGE.pack(offset, length))
        else:
            self._punch(offset, length)

    def _clear(self, offset: int, length: int, unmap: bool) -> bool:
        """Zeros without writing them. False: this host has no such thing."""
        return (unmap and self._punch(offset, length)) or self._zero(offset, length)

    def _punch(self, offset: int, length: int) -> bool:
        """A hole, which reads as zeros, of a device too. False: this host has none."""
        return self._attempt("_can_punch", fallocate, self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)

    def _zero(self, offset: int, length: int) -> bool:
        if self._is_device:
            return self._attempt("_can_zero", ioctl, self.fd, _BLKZEROOUT, _RANGE.pack(offset, length))
        return self._attempt("_can_zero", fallocate, self.fd, ZERO_RANGE | KEEP_SIZE, offset, length)

    def _attempt(self, memory: str, call: Callable[..., object], *arguments: object) -> bool:
        """Whether the host did it. What it cannot at all is not tried again."""
        if not getattr(self, memory):
            return False
        try:
            call(*arguments)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            if error.errno != errno.EINVAL:  # that may be about this range: no whole sectors of a device
                setattr(self, memory, False)
            return False
        return True

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = memoryview(bytes(min(length, _ZEROS)))
        while length:
            part = zeros[: min(length, _ZEROS)]
            self.write(offset, [part])
            offset += len(part)
            length -= len(part)

    # --- both --------------------------------------------------------------------------------------------------------
    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _check_write(self, offset: int, length: int) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._check(offset, length)

    def close(self) -> None:
        """See BlockBackend. May be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
