"""A drive in time: what the guest writes stays in a layer over the drive, each state of a block for as long as somebody may go back to it.

The disk is divided into blocks. The layer knows of each block written since the start in which slot of a temporary file its present
state lies. ``take`` gives what has changed since the last time as {block: slot}; ``put`` makes other slots the present ones; ``free``
says that nobody goes back to a slot. The drive itself is not written until ``commit``.
"""

from __future__ import annotations

import errno
import os

from pyvmm.backends.block.temporary import nameless_file
from pyvmm.backends.block.vectors import total
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.scatter import Views

BLOCK = 4096
BASE = -1  # as a slot: the drive's own contents
ZEROS = -2  # as a slot: zeros, which need no place
MOST = 1 << 20  # blocks in the layer, 4 GiB: each costs 200 bytes of memory
_AT_ONCE = 256  # blocks in one request of ``commit``


class HistoryLayer:
    """See ``backend.BlockBackend``. Requests wait for one another here: nobody measures a disk under a debugger.

    A guest that has written MOST blocks gets ENOSPC for the next.

    Args:
        base: the drive; stays its owner's.

    Raises:
        ConfigError: there is no place for a temporary file.
    """

    def __init__(self, base: BlockBackend) -> None:
        self.base = base
        self.name = base.name
        self.size = base.size
        self.readonly = False
        self.block_size = base.block_size
        self.write_cache = base.write_cache
        self.discard = base.discard
        self._fd = nameless_file(f"history of drive {base.name}", 0)
        self._lock = Lock()
        self._slots: dict[int, int] = {}  # block -> slot, never BASE
        self._fresh: set[int] = set()  # blocks whose slot nobody has taken yet: it may be written in place
        self._changed: set[int] = set()  # since ``take``
        self._free: list[int] = []
        self._end = 0  # slots in the file

    # --- time: no request is under way ---------------------------------------------------------------------------------
    def take(self) -> dict[int, int]:
        """Block -> slot for each block that has changed since the last call of this or ``put``. Those slots keep what they hold."""
        taken = {block: self._slots.get(block, BASE) for block in self._changed}
        self._changed.clear()
        self._fresh.clear()
        return taken

    @property
    def changed(self) -> set[int]:
        """Blocks that ``take`` would give."""
        return self._changed.copy()

    def put(self, slots: dict[int, int]) -> None:
        """Has blocks be what their slots hold. What is changed and not among them is lost track of: name it all."""
        for block in self._fresh:
            self.free([self._slots[block]])
        for block, slot in slots.items():
            if slot == BASE:
                self._slots.pop(block, None)
            else:
                self._slots[block] = slot
        self._changed.clear()
        self._fresh.clear()

    def renew(self, block: int) -> None:
        """Counts a block as changed: what it holds gets a slot of its own."""
        slot = self._slots.get(block, BASE)
        if slot >= 0 and block not in self._fresh:
            data = self.contents(slot)
            os.pwrite(self._fd, data, self._own(block) * BLOCK)
        self._changed.add(block)

    def free(self, slots: list[int]) -> None:
        """Nobody comes back to these."""
        self._free += [slot for slot in slots if slot >= 0]

    @property
    def slots(self) -> dict[int, int]:
        """Block -> slot, of those that are not as the drive has them."""
        return self._slots.copy()

    def contents(self, slot: int) -> bytes:
        """What a slot holds; b"" for the drive's own."""
        return b"" if slot == BASE else bytes(BLOCK) if slot == ZEROS else os.pread(self._fd, BLOCK, slot * BLOCK)

    def commit(self) -> None:
        """Writes the present state through to the drive; the layer is empty then, and all slots are void. Raises OSError."""
        first, run = 0, list[bytes]()
        for block in sorted(self._slots):
            if run and (block != first + len(run) or len(run) == _AT_ONCE):
                self._through(first, run)
                run = []
            if not run:
                first = block
            run.append(self.contents(self._slots[block]))
        if run:
            self._through(first, run)
        self.base.flush()
        for each in (self._slots, self._fresh, self._changed, self._free):
            each.clear()
        self._end = 0
        os.ftruncate(self._fd, 0)

    def _through(self, first: int, blocks: list[bytes]) -> None:
        data = memoryview(bytearray(b"".join(blocks)))
        self.base.write(first * BLOCK, [data[: self.size - first * BLOCK]])

    # --- a disk --------------------------------------------------------------------------------------------------------
    def read(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        size = total(views)
        self._check(offset, size)
        with self._lock:
            if not any(block in self._slots for block, *_ in _pieces(offset, size)):
                self.base.read(offset, views)
                return
            for view in views:
                for block, start, length, at in _pieces(offset, len(view)):
                    slot, part = self._slots.get(block, BASE), view[at : at + length]
                    if slot == BASE:
                        self.base.read(block * BLOCK + start, [part])
                    else:
                        part[:] = self.contents(slot)[start : start + length]
                offset += len(view)

    def try_read(self, offset: int, views: Views) -> bool:
        """See BlockBackend: it may have to wait."""
        return False

    def write(self, offset: int, views: Views) -> None:
        """See BlockBackend."""
        self._check(offset, total(views))
        with self._lock:
            for view in views:
                for block, start, length, at in _pieces(offset, len(view)):
                    self._store(block, start, bytes(view[at : at + length]))
                offset += len(view)

    def _store(self, block: int, start: int, data: bytes) -> None:
        if len(data) < BLOCK:
            whole = bytearray(BLOCK)
            slot = self._slots.get(block, BASE)
            if slot != BASE:
                whole[:] = self.contents(slot)
            else:
                self.base.read(block * BLOCK, [memoryview(whole)[: self.size - block * BLOCK]])
            whole[start : start + len(data)] = data
            data = bytes(whole)
        os.pwrite(self._fd, data, self._own(block) * BLOCK)

    def _own(self, block: int) -> int:
        """A slot for a block that is to be written."""
        if block in self._fresh:
            return self._slots[block]
        self._note(block)
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._end
            self._end += 1
        self._slots[block] = slot
        self._fresh.add(block)
        return slot

    def _note(self, block: int) -> None:
        if block not in self._slots and len(self._slots) >= MOST:
            raise OSError(errno.ENOSPC, "the debugger's history of this drive is full")
        self._changed.add(block)

    def flush(self) -> None:
        """Nothing: what the guest has written reaches the drive with ``commit``."""

    def discard_range(self, offset: int, length: int) -> None:
        """See BlockBackend: "anything" may be what was there."""
        self._check(offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """See BlockBackend."""
        self._check(offset, length)
        with self._lock:
            for block, start, size, _ in _pieces(offset, length):
                if size < BLOCK:
                    self._store(block, start, bytes(size))
                    continue
                self._note(block)
                if block in self._fresh:
                    self._fresh.remove(block)
                    self.free([self._slots[block]])
                self._slots[block] = ZEROS

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self) -> None:
        """Ends the layer, not the drive; what was not committed is lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """(block, offset in it, bytes, offset in the range) of each block that a range touches."""
    at = 0
    while at < length:
        block, start = divmod(offset + at, BLOCK)
        size = min(BLOCK - start, length - at)
        yield block, start, size, at
        at += size
