"""A disk in memory for tests: slow, failing or blocked when told, with a log of what was asked."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pyvmm.kvm import native
from pyvmm.scatter import IOVEC, Scatter

if TYPE_CHECKING:
    from pyvmm.scatter import Views


def scattered(buffer: bytearray, pieces: Sequence[tuple[int, int]]) -> Scatter:
    """Pieces of a buffer, (start, length), as the kernel takes them. The buffer must keep its size as long as they are used."""
    base = native.address_of(buffer)
    iovecs = b"".join(IOVEC.pack(base + start, length) for start, length in pieces)
    return Scatter(memoryview(buffer), base, iovecs, sum(length for _, length in pieces))


class FakeDisk:
    """A BlockBackend (``pyvmm.backends.block.backend``).

    Attributes:
        data: the content.
        cached: whether ``try_read`` succeeds.
        log: (operation, offset, length) in the order of execution; try_read leaves ("try", ...).
        fail: operation -> errno that it raises from now on.
        gate: cleared: every operation but try_read waits; ``entered`` counts those that have come so far.
        before: called with the operation's name before it is executed.
    """

    def __init__(self, size: int = 1 << 20, *, readonly: bool = False, write_cache: bool = True, discard: bool = True) -> None:
        self.name = "fake.img"
        self.size = size
        self.readonly = readonly
        self.block_size = 512
        self.write_cache = write_cache
        self.discard = discard
        self.data = bytearray(size)
        self.cached = False
        self.log: list[tuple[str, int, int]] = []
        self.fail: dict[str, int] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.entered = 0
        self.threads: set[int] = set()
        self.before: Callable[[str], None] = lambda operation: None

    def _enter(self, operation: str, offset: int, length: int) -> None:
        self.threads.add(threading.get_ident())
        self.before(operation)
        self.entered += 1
        assert self.gate.wait(60)
        self.log.append((operation, offset, length))
        if operation in self.fail:
            raise OSError(self.fail[operation], os.strerror(self.fail[operation]))
        if not 0 <= offset <= offset + length <= self.size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _fill(self, offset: int, views: Views) -> None:
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def read(self, offset: int, views: Views) -> None:
        self._enter("read", offset, sum(map(len, views)))
        self._fill(offset, views)

    def try_read(self, offset: int, views: Views) -> bool:
        if self.cached:
            self.log.append(("try", offset, sum(map(len, views))))
            self._fill(offset, views)
        return self.cached

    def write(self, offset: int, views: Views) -> None:
        self._enter("write", offset, sum(map(len, views)))
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self._enter("flush", 0, 0)

    def discard_range(self, offset: int, length: int) -> None:
        self._enter("discard", offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self._enter("unmap" if unmap else "zero", offset, length)
        self.data[offset : offset + length] = bytes(length)

    def close(self) -> None:
        pass
