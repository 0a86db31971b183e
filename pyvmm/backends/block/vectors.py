"""What a request's bytes lie in: views of memory, as a list or as a Scatter. Taken together, and cut where a request must be split."""

from __future__ import annotations

from pyvmm.scatter import Scatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.scatter import Views


def total(views: Views) -> int:
    """Bytes in all."""
    return views.length if isinstance(views, Scatter) else sum(map(len, views))


def lengths(views: Views) -> list[int]:
    """Bytes of each."""
    return views.lengths() if isinstance(views, Scatter) else list(map(len, views))


def cut(views: Views, start: int, length: int) -> list[memoryview]:
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
