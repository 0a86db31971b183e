"""Many pieces of guest memory as the kernel takes them: an array of ``struct iovec``, without a Python object for each piece.

Code passes pieces of guest memory around as lists of memoryviews. For a request of a mebibyte in pages that is 254 objects, which
cost three times what the host needs to copy the bytes. Who has the addresses anyway makes a Scatter of them: it goes to
preadv2 and pwritev2 as it is, and for everybody else it is a sequence of memoryviews, made when somebody looks.
"""

from __future__ import annotations

import errno
import os
import struct

from pyvmm.kvm import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Views: TypeAlias = "list[memoryview] | Scatter"

IOVEC = struct.Struct("<QQ")  # address, length; <bits/types/struct_iovec.h> on every host that has /dev/kvm for x86 guests
IOV_MAX = 1024  # <linux/uio.h> UIO_MAXIOV: the most pieces one preadv or pwritev takes


class Scatter:
    """Pieces of a memory.

    Args:
        memory: what they lie in; held, so that it stays mapped.
        base: host address of its first byte.
        iovecs: an IOVEC with the host address of each piece: up to IOV_MAX of them, wholly in ``memory``, none empty. Whoever makes it
            answers for that: the kernel looks no further.
        length: bytes in all pieces.
    """

    __slots__ = ("memory", "base", "iovecs", "length")

    def __init__(self, memory: memoryview, base: int, iovecs: bytes, length: int) -> None:
        self.memory = memory
        self.base = base
        self.iovecs = iovecs
        self.length = length

    # --- as a sequence of writable memoryviews -----------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.iovecs) >> 4

    def __getitem__(self, index: int) -> memoryview:
        count = len(self.iovecs) >> 4
        if index < 0:
            index += count
        if not 0 <= index < count:
            raise IndexError(index)
        address, length = IOVEC.unpack_from(self.iovecs, index << 4)
        start = address - self.base
        return self.memory[start : start + length]

    def __iter__(self) -> Iterator[memoryview]:
        memory, base = self.memory, self.base
        for address, length in IOVEC.iter_unpack(self.iovecs):
            start = address - base
            yield memory[start : start + length]

    def pop(self, index: int = -1) -> memoryview:
        """Takes the first (0) or last (-1) piece off, as ``list.pop``."""
        view = self[index]
        self.iovecs = self.iovecs[:-16] if index else self.iovecs[16:]
        self.length -= len(view)
        return view

    def lengths(self) -> list[int]:
        """Bytes of each piece."""
        return memoryview(self.iovecs).cast("Q")[1::2].tolist()

    # --- as the kernel takes it --------------------------------------------------------------------------------------
    def preadv(self, fd: int, offset: int, flags: int = 0) -> int:
        """``os.preadv`` into these pieces."""
        return self._call("preadv2", fd, offset, flags)

    def pwritev(self, fd: int, offset: int, flags: int = 0) -> int:
        """``os.pwritev`` of these pieces."""
        return self._call("pwritev2", fd, offset, flags)

    def _call(self, name: str, fd: int, offset: int, flags: int) -> int:
        call, iovecs = _calls[name], self.iovecs
        while True:
            done: int = call(fd, iovecs, len(iovecs) >> 4, offset, flags)  # an int: the kernel moves less than 2 GiB at once
            if done >= 0:
                return done
            number = native.get_errno()
            if number != errno.EINTR:  # PEP 475
                raise OSError(number, os.strerror(number))


_calls: dict[str, Callable[..., Any]] = {}  # the C library's, called without the GIL


def supported() -> bool:
    """Whether the C library has the two calls. Before that was asked, a Scatter must not be given to the kernel."""
    try:
        for name in ("preadv2", "pwritev2"):
            if name not in _calls:
                _calls[name] = native.function(name, native.c_int, native.c_char_p, native.c_int, native.s64, native.c_int)
    except (AttributeError, OSError):  # musl before 1.2.5
        return False
    return True
