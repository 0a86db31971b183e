"""Records as plain data and back, and plain data as bytes.

Plain data: None, bool, int, str, bytes, lists, and dicts whose keys are int or str. A device's state goes into a file that way, and
comes back only into the shape of a state the device has already: same fields, same kinds, same lengths where they are fixed.

As bytes each value begins with a letter: N, T, F; i<decimal>; b<length>:<bytes>; s<length>:<UTF-8>; [ values ]; { key value ... }.
"""

from __future__ import annotations

import marshal

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEPTH = 32  # of lists and dicts in one another; a machine's state has 6
_DIGITS = 1300  # a VLAN bitmap has 4096 bits; int() of more digits is slow


class Misfit(ValueError):
    """Bytes that are no plain data, or plain data that is not of the wanted shape; the message says where."""


def plain(value: Any) -> Any:
    """A deep copy as plain data. Tuples become lists, bytearrays bytes, records dicts."""
    if isinstance(value, Record):
        return {name: plain(each) for name, each in value}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return bytes(value) if isinstance(value, bytearray) else value


def freeze(value: Any) -> bytes:
    """What ``plain`` would make of it, as bytes to compare and to keep in this process: ten times quicker, as copying is done in C.
    Equal bytes mean equal states."""
    return marshal.dumps(_fields(value), 2)  # the last version without references: the same value is the same bytes


def thaw(data: bytes) -> Any:
    """Plain data again."""
    return plain(marshal.loads(data))  # of ``freeze``, in this process


def _fields(value: Any) -> Any:
    """Records as dicts, wherever marshal would meet one; nothing else is copied."""
    if isinstance(value, Record):
        return {name: each if type(each) in _PLAIN else _fields(each) for name, each in value.__dict__.items()}
    if isinstance(value, (list, tuple)):
        return [_fields(each) for each in value] if value and type(value[0]) not in _PLAIN else value
    if isinstance(value, dict):
        return {key: each if type(each) in _PLAIN else _fields(each) for key, each in value.items()}
    return value


_PLAIN = frozenset((int, bool, str, bytes, bytearray, type(None)))


def shaped(like: Any, value: Any, where: str = "") -> Any:
    """``value``, plain, as something of the shape of ``like``: records and dicts with the same names, lists of records with as many;
    other lists and bytes may have any length (see ``fixed``).

    Raises:
        Misfit
    """
    if isinstance(like, Record):
        _check(isinstance(value, dict) and value.keys() == dict(like).keys(), where)
        return type(like)(**{name: shaped(each, value[name], f"{where}.{name}") for name, each in like})
    if isinstance(like, dict):
        _check(isinstance(value, dict) and value.keys() == like.keys(), where)
        return {key: shaped(each, value[key], f"{where}[{key}]") for key, each in like.items()}
    if isinstance(like, (list, tuple)):
        _check(isinstance(value, list), where)
        if like and isinstance(like[0], Record):
            _check(len(value) == len(like), where)
            return [shaped(like[at], each, f"{where}[{at}]") for at, each in enumerate(value)]
        kinds = {type(each) for each in like} or {int, bytes}
        _check(all(type(each) in kinds for each in value), where)
        return type(like)(value)
    if isinstance(like, (bytes, bytearray)):
        _check(type(value) is bytes, where)
        return type(like)(value)
    numbers = (int, bool)  # a flag may be either
    _check(type(value) is type(like) or type(value) in numbers and type(like) in numbers, where)
    return value


def fixed(like: Any, value: Any, names: frozenset[str], where: str = "") -> None:
    """Raises Misfit when bytes or a list in ``value`` has another length than in ``like``, but for fields of these names."""
    if isinstance(like, Record):
        for name, each in like:
            if name not in names:
                fixed(each, getattr(value, name), names, f"{where}.{name}")
    elif isinstance(like, (list, tuple, bytes, bytearray)):
        _check(len(value) == len(like), where)
        if isinstance(like, (list, tuple)):
            for at, each in enumerate(like):
                fixed(each, value[at], names, f"{where}[{at}]")


def _check(good: bool, where: str) -> None:
    if not good:
        raise Misfit(f"{where.lstrip('.') or 'it'} is not what this machine has there")


def pack(value: Any) -> bytes:
    """Plain data as bytes."""
    parts: list[bytes] = []
    _pack(value, parts.append)
    return b"".join(parts)


def _pack(value: Any, put: Any) -> None:
    if value is None or value is True or value is False:
        put(b"N" if value is None else b"T" if value else b"F")
    elif type(value) is int:
        put(b"i%d;" % value)
    elif isinstance(value, bytes):
        put(b"b%d:" % len(value))
        put(value)
    elif type(value) is str:
        encoded = value.encode()
        put(b"s%d:" % len(encoded))
        put(encoded)
    elif isinstance(value, list):
        put(b"[")
        for each in value:
            _pack(each, put)
        put(b"]")
    elif isinstance(value, dict):
        put(b"{")
        for key, each in value.items():
            _pack(key, put)
            _pack(each, put)
        put(b"}")
    else:
        raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(data: bytes) -> Any:
    """What ``pack`` was given. Work and memory are bounded by the length of ``data``. Raises Misfit."""
    value, at = _unpack(data, 0, _DEPTH)
    if at != len(data):
        raise Misfit("there is more behind its end")
    return value


def _unpack(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    at += 1
    if kind in b"NTF" and kind:
        return {b"N": None, b"T": True, b"F": False}[kind], at
    if kind == b"i":
        end = data.find(b";", at, at + _DIGITS + 2)
        return _integer(data[at:end] if end >= 0 else b""), end + 1
    if kind in (b"b", b"s"):
        colon = data.find(b":", at, at + 20)
        length = _integer(data[at:colon] if colon >= 0 else b"")
        at = colon + 1
        if not 0 <= length <= len(data) - at:
            raise Misfit("it ends too early")
        if kind == b"b":
            return data[at : at + length], at + length
        try:
            return data[at : at + length].decode(), at + length
        except UnicodeDecodeError:
            raise Misfit("a text is not UTF-8") from None
    if kind not in (b"[", b"{") or not depth:
        raise Misfit("it is not in the format")
    end_mark = b"]" if kind == b"[" else b"}"
    values: list[Any] = []
    while data[at : at + 1] != end_mark:
        value, at = _unpack(data, at, depth - 1)
        values.append(value)
    if kind == b"[":
        return values, at + 1
    if len(values) & 1 or any(type(key) not in (int, str) for key in values[::2]):
        raise Misfit("it is not in the format")
    return dict(zip(values[::2], values[1::2], strict=True)), at + 1


def _integer(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > _DIGITS:
        raise Misfit("it is not in the format")
    return int(text)
