"""Records: plain data with named fields, without the price of importing dataclasses.

``import dataclasses`` pulls in inspect, re and enum: 20-25 ms, half of what QEMU's microvm needs to boot a whole
guest. A VMM that is judged by its start-up cannot pay that, so the few things a record must do stand here: keyword
construction with defaults, equality, repr, conversion to and from plain dicts (snapshots), and freezing (Config).
Type checkers see a dataclass (PEP 681).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options):  # seen by type checkers only
        return lambda cls: cls


class _Fields:
    """What both kinds of record do; see Record."""

    _fields: ClassVar[tuple[str, ...]] = ()
    _names: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        own = [name for name in cls.__dict__.get("__annotations__", {}) if not name.startswith("_")]
        cls._fields = tuple(dict.fromkeys((*cls._fields, *own)))
        cls._names = frozenset(cls._fields)
        cls._defaults = {**cls._defaults, **{name: cls.__dict__[name] for name in own if name in cls.__dict__}}

    def __init__(self, **values: Any) -> None:
        fill = self.__dict__
        for name, default in self._defaults.items():
            fill[name] = default.copy() if isinstance(default, (list, dict, bytearray)) else default
        fill.update(values)
        if fill.keys() != self._names:
            unknown = [name for name in values if name not in self._fields]
            missing = [name for name in self._fields if name not in fill]
            raise TypeError(f"{type(self).__name__}: unknown fields {unknown}, missing fields {missing}")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yields (field name, value) in the order of declaration."""
        for name in self._fields:
            yield name, getattr(self, name)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        raise TypeError(f"{type(self).__name__} can change, so it has no hash")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self)})"

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})


@dataclass_transform(kw_only_default=True)
class Record(_Fields):
    """Mutable plain data: a device's ``state``, a boot plan, a decoded exit.

    Subclasses annotate fields, with a default value or without (then the argument is required). A default list, dict or
    bytearray is copied for each instance, so it is never shared.
    """


@dataclass_transform(kw_only_default=True, frozen_default=True)
class FrozenRecord(_Fields):
    """A record that refuses assignment after construction, and can be hashed."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is read-only; use replace()")

    def __hash__(self) -> int:
        return hash((type(self), tuple(value for _, value in self)))
