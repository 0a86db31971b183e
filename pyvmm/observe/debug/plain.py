"""Replies' data as what JSON has: bytes as hexadecimal text, keys as text, records as objects."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def jsonable(value: Any) -> Any:
    """A copy that ``json.dumps`` takes."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {str(key): jsonable(each) for key, each in value.items()}
    if hasattr(value, "_fields"):
        return {name: jsonable(each) for name, each in value}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(each) for each in value]
    return str(value)
