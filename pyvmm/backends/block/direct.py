"""O_DIRECT: past the host's page cache, in whole blocks at aligned addresses; what does not fit goes through a buffer that does."""

from __future__ import annotations

import errno
import mmap
import os

from pyvmm.backends.block.ranges import RangeLock
from pyvmm.backends.block.raw import RawFile
from pyvmm.backends.block.vectors import cut, lengths, total
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.scatter import Views

_BUFFER = 1 << 20
_KEPT = 4  # idle buffers; more exist only while more threads use one
_LARGEST = 64 << 10


def alignment(fd: int, where: str, size: int) -> int:
    """The smallest power of two, 512 or more, that this file takes as offset, length and address of direct I/O.

    Found by trying, as there is no call for it before Linux 6.1's statx(STATX_DIOALIGN).

    Raises:
        ConfigError: none fits, or the last block would reach behind the end of the file.
    """
    with mmap.mmap(-1, 2 * _LARGEST) as buffer, memoryview(buffer) as view:
        block = 512
        while block <= _LARGEST:
            with view[block : 2 * block] as part:
                try:
                    os.preadv(fd, [part], 0)
                    break
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
            block *= 2
        else:
            raise ConfigError(f"{where}: its file system takes no direct I/O in blocks of up to {_LARGEST}: use cache=writeback")
    if size % block:
        raise ConfigError(f"{where}: {size} bytes are no multiple of {block}, the block of direct I/O here: use cache=writeback")
    return block


class DirectFile(RawFile):
    """See ``backend.BlockBackend``; ``block_size`` is what direct I/O needs.

    Where it is more than a sector, a write of less reads the block, changes and writes it: meanwhile nobody else writes there.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ranges = RangeLock() if self.block_size > 512 else None
        self._buffers: list[mmap.mmap] = []

    def _fits(self, offset: int, views: Views) -> bool:
        """Whether the kernel may take it as it is. Addresses are left for it to refuse."""
        mask = self.block_size - 1
        return not offset & mask and not any(map(mask.__and__, lengths(views)))

    def read(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        if self._fits(offset, views):
            try:
                super().read(offset, views)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        length = total(views)
        self._check(offset, length)
        self._through_buffer(offset, views, length, writing=False)

    def try_read(self, offset: int, views: Views) -> bool:
        """Never: there is no cache to find anything in."""
        return False

    def write(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        length = total(views)
        self._check_write(offset, length)
        if length:
            self._alone(offset, length, self._write, offset, views, length)

    def _free(self, offset: int, length: int) -> None:
        self._alone(offset, length, super()._free, offset, length)

    def _clear(self, offset: int, length: int, unmap: bool) -> bool:
        return bool(self._alone(offset, length, super()._clear, offset, length, unmap))

    def _alone(self, offset: int, length: int, call: Callable[..., object], *arguments: object) -> object:
        """Changes these bytes while nobody else changes the blocks they are in."""
        if self._ranges is None:
            return call(*arguments)
        first, last = offset // self.block_size, (offset + length - 1) // self.block_size
        self._ranges.acquire(first, last)
        try:
            return call(*arguments)
        finally:
            self._ranges.release(first, last)

    def _write(self, offset: int, views: Views, length: int) -> None:
        if self._fits(offset, views):
            try:
                super().write(offset, views)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        self._through_buffer(offset, views, length, writing=True)

    def _through_buffer(self, offset: int, views: Views, length: int, writing: bool) -> None:
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = mmap.mmap(-1, _BUFFER)
        with memoryview(buffer) as view:
            done = 0
            while done < length:
                skip = (offset + done) % self.block_size
                part = min(length - done, _BUFFER - skip)
                start, span = offset + done - skip, -(-(skip + part) // self.block_size) * self.block_size
                pieces = cut(views, done, part)
                if not writing:
                    super().read(start, [view[:span]])
                    _copy(view[skip:], pieces, out=True)
                else:
                    if skip:
                        super().read(start, [view[: self.block_size]])
                    if (skip + part) % self.block_size and (span > self.block_size or not skip):
                        super().read(start + span - self.block_size, [view[span - self.block_size : span]])
                    _copy(view[skip:], pieces, out=False)
                    super().write(start, [view[:span]])
                done += part
        if len(self._buffers) < _KEPT:
            self._buffers.append(buffer)
        else:
            buffer.close()


def _copy(flat: memoryview, pieces: list[memoryview], out: bool) -> None:
    at = 0
    for piece in pieces:
        end = at + len(piece)
        if out:
            piece[:] = flat[at:end]
        else:
            flat[at:end] = piece
        at = end
