"""An access to a device's range as events: which registers it touched, and their values in words."""

from __future__ import annotations

from pyvmm.observe.explain.layout import Window
from pyvmm.observe.explain.registers import character, fields, find, part
from pyvmm.observe.trace.events import register_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Window", "lines"]


def lines(window: Window, offset: int, size: int, value: int, is_write: bool, state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(event, text) for each register; an access where there is none is one event as well.

    Args:
        window: of the device.
        offset, size, value, is_write: the access, relative to the range.
        state: of the device before it.
    """
    for start, table in reversed(window.tables):  # what lies inside comes last, and has gaps
        if start <= offset:
            yield from of_table(table, offset - start, size, value, is_write, state)
            return


def of_table(table: str, offset: int, size: int, value: int, is_write: bool, state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for one register table."""
    found = find(table, offset, size, is_write, state)
    if not found:
        yield register_event(table, "", is_write), f"+{offset:#x}/{size} = {value:#x}"
    for each in found:
        bits = part(each, value, size)
        words = [f"{each.name}={bits:0{2 * min(each.register.size, size)}x}", character(each, bits)]
        words += [f"{field.name}={field.value:x}" if field.wide else field.name for field in fields(each, bits, size, state)]
        yield register_event(each.table, each.register.name, is_write), " ".join(filter(None, words))
