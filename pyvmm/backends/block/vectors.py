"""Lists of views (iovecs), cut where a request must be split."""

from __future__ import annotations

IOV_MAX = 1024  # <linux/uio.h> UIO_MAXIOV: the most views one preadv or pwritev takes


def total(views: list[memoryview]) -> int:
    """Bytes in all."""
    return sum(map(len, views))


def cut(views: list[memoryview], start: int, length: int) -> list[memoryview]:
    """The bytes [start, start + length) of what the views are in sequence."""
    found = []
    for view in views:
        size = len(view)
        if start < size:
            part = view[start : start + length]
            found.append(part)
            length -= len(part)
            if not length:
                break
            start = 0
        else:
            start -= size
    return found
