"""snapshot=on: what the guest writes goes into a temporary file, the image stays as it is.

The disk is divided into clusters. A map has one byte for each: 0, the image holds it; 1, the temporary file does, at the same
offset. The map only ever goes from 0 to 1, after the cluster is complete, so a reader may look without a lock; a writer that
would make a cluster ours holds it in a RangeLock, or two that write different sectors of it would copy over each other.
"""

from __future__ import annotations

import errno
import mmap
import os

from pyvmm.backends.block.ranges import RangeLock
from pyvmm.backends.block.vectors import cut, total
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.backends.block.raw import RawFile
    from pyvmm.scatter import Views

_SMALLEST = 4096  # what most guests write at least, so that nothing is copied up
_LARGEST = 1 << 20
_MAP = 16 << 20  # clusters up to which the smallest size is taken


class Overlay:
    """See ``backend.BlockBackend``.

    Args:
        base: the image; closed with this object.
        top: the temporary file, as large as the image, all zeros, with ``discard``; closed with this object.
        discard: what the guest discards is freed.

    Raises:
        ConfigError: the disk is too large for a map.
    """

    def __init__(self, base: RawFile, top: RawFile, discard: bool = False) -> None:
        self.base = base
        self.top = top
        self.name = f"{base.name} (snapshot=on)"
        self.size = base.size
        self.readonly = False
        self.block_size = base.block_size
        self.write_cache = True
        self.discard = discard
        self.cluster = _SMALLEST
        while self.cluster < _LARGEST and self.size // self.cluster > _MAP:
            self.cluster *= 2
        try:
            self._map = mmap.mmap(-1, -(-self.size // self.cluster))  # its pages cost nothing until something is written there
        except (OSError, OverflowError):
            raise ConfigError(f"-drive file={base.name}: {self.size} bytes are too many for snapshot=on: leave it out") from None
        self._ranges = RangeLock()

    # --- reading -----------------------------------------------------------------------------------------------------
    def read(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        length = total(views)
        self._check(offset, length)
        for source, start, size in self._runs(offset, length):
            source.read(start, views if size == length else cut(views, start - offset, size))

    def try_read(self, offset: int, views: Views) -> bool:
        """See BlockBackend."""
        length = total(views)
        if offset < 0 or offset + length > self.size:
            return False
        return all(
            source.try_read(start, views if size == length else cut(views, start - offset, size))
            for source, start, size in self._runs(offset, length)
        )

    def _runs(self, offset: int, length: int) -> Iterator[tuple[RawFile, int, int]]:
        """(who has it, offset, bytes) for the pieces of a range, in order."""
        end = offset + length
        last = -(-end // self.cluster)
        while offset < end:
            index = offset // self.cluster
            ours = self._map[index]
            border = self._map.find(b"\0" if ours else b"\1", index + 1, last)
            stop = end if border < 0 else border * self.cluster
            yield (self.top if ours else self.base), offset, stop - offset
            offset = stop

    # --- writing -----------------------------------------------------------------------------------------------------
    def write(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        length = total(views)
        self._check(offset, length)
        if not length:
            return
        first, behind = offset // self.cluster, (offset + length - 1) // self.cluster + 1
        if self._map.find(b"\0", first, behind) < 0:
            self.top.write(offset, views)
            return
        self._ranges.acquire(first, behind - 1)
        try:
            before = b"" if self._map[first] else self._rest(first * self.cluster, offset)
            after = b"" if self._map[behind - 1] else self._rest(offset + length, min(behind * self.cluster, self.size))
            pieces = [memoryview(part) for part in (before, after)]
            self.top.write(offset - len(before), [pieces[0], *views, pieces[1]])
            self._map[first:behind] = b"\1" * (behind - first)
        finally:
            self._ranges.release(first, behind - 1)

    def _rest(self, start: int, end: int) -> bytes | bytearray:
        """What the image holds in [start, end): less than a cluster."""
        if start == end:
            return b""
        found = bytearray(end - start)
        self.base.read(start, [memoryview(found)])
        return found

    def flush(self) -> None:
        """Nothing: what is temporary need not outlive the host."""

    def discard_range(self, offset: int, length: int) -> None:
        """See BlockBackend: as far as whole clusters go."""
        self._check(offset, length)
        if self.discard:
            self._zero_clusters(-(-offset // self.cluster), (offset + length) // self.cluster)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """See BlockBackend. Whole clusters become holes of the temporary file, with ``unmap`` or not."""
        self._check(offset, length)
        end = offset + length
        first, behind = -(-offset // self.cluster), end // self.cluster
        if first >= behind:
            self._write_zeros(offset, end)
            return
        self._write_zeros(offset, first * self.cluster)
        self._zero_clusters(first, behind)
        self._write_zeros(behind * self.cluster, end)

    def _write_zeros(self, start: int, end: int) -> None:
        """Less than two clusters."""
        if start < end:
            self.write(start, [memoryview(bytes(end - start))])

    def _zero_clusters(self, first: int, behind: int) -> None:
        if first >= behind:
            return
        self._ranges.acquire(first, behind - 1)
        try:
            self.top.write_zeroes(first * self.cluster, (behind - first) * self.cluster, True)
            for start in range(first, behind, _MAP):  # a guest may name the whole disk: not all of it in one piece of memory
                stop = min(start + _MAP, behind)
                self._map[start:stop] = b"\1" * (stop - start)
        finally:
            self._ranges.release(first, behind - 1)

    # --- both --------------------------------------------------------------------------------------------------------
    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self) -> None:
        """See BlockBackend. May be called twice."""
        self.base.close()
        self.top.close()
        self._map.close()
