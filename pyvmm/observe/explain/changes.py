"""What an exit changed: two sets of device states, compared field by field."""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.explain.layout import States

_MOST = 200  # of one exit; a reset touches everything


class Change(Record):
    """One field: ``path`` is "lcr" or "queues[0].size"; old and new are None where there was, or is, nothing."""

    device: str
    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.device}.{self.path}: {_value(self.old)} -> {_value(self.new)}"


def changes(before: States, after: States) -> list[Change]:
    """What is different, devices in their order; at most 200."""
    found: list[Change] = []
    seen: list[tuple[Any, Any]] = []  # a transport shows its core's state under two names
    for device in {**before, **after}:
        old, new = before.get(device, {}), after.get(device, {})
        if old == new or (old, new) in seen:
            continue
        seen.append((old, new))
        _compare(device, "", old, new, found)
    return found[:_MOST]


def _compare(device: str, path: str, old: Any, new: Any, found: list[Change]) -> None:
    if len(found) >= _MOST or old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            name = f"[{key:#x}]" if isinstance(key, int) else f".{key}" if path else str(key)
            _compare(device, path + name, old.get(key), new.get(key), found)
    elif isinstance(old, (list, bytes)) and isinstance(new, (list, bytes)) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            at = f"[{index:#x}]" if isinstance(old, bytes) else f"[{index}]"
            _compare(device, path + at, *pair, found)
    else:
        found.append(Change(device=device, path=path, old=old, new=new))


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, bytes):
        return f"{value[:16].hex(' ') or 'empty'}{' ...' if len(value) > 16 else ''}"
    if isinstance(value, list):
        shown = ", ".join(_value(each) for each in value[:8])
        return f"[{shown}{', ...' if len(value) > 8 else ''}]"
    return str(value)
