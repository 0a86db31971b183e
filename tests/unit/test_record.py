from __future__ import annotations

import pytest

from pyvmm.record import FrozenRecord, Record


class Point(Record):
    x: int
    y: int = 2
    trail: list[int] = []


class Fixed(FrozenRecord):
    name: str
    size: int = 0


def test_defaults_and_keyword_construction() -> None:
    assert dict(Point(x=1)) == {"x": 1, "y": 2, "trail": []}


def test_mutable_defaults_are_not_shared() -> None:
    one, two = Point(x=1), Point(x=1)
    one.trail.append(9)
    assert two.trail == []


@pytest.mark.parametrize("values", [{}, {"x": 1, "z": 3}, {"z": 3}])
def test_unknown_and_missing_fields_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(**values)  # type: ignore[arg-type]


def test_equality_is_by_type_and_value() -> None:
    assert Point(x=1) == Point(x=1)
    assert Point(x=1) != Point(x=2)
    assert Fixed(name="a") != Point(x=1)


def test_replace_copies() -> None:
    old = Fixed(name="a", size=1)
    assert (old.replace(size=2), old.size) == (Fixed(name="a", size=2), 1)


def test_frozen_records_refuse_assignment_and_hash() -> None:
    with pytest.raises(AttributeError, match="read-only"):
        Fixed(name="a").size = 3  # type: ignore[misc]
    assert len({Fixed(name="a"), Fixed(name="a"), Fixed(name="b")}) == 2


def test_subclasses_inherit_fields_in_order() -> None:
    class Longer(Fixed):
        colour: str = "red"

    assert list(dict(Longer(name="a"))) == ["name", "size", "colour"]
