"""What keys held at which moment: pages of memory and blocks of disks at each checkpoint, kept once for as long as they stay the same."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Versions:
    """A dict in time. Moments are numbers that only ascend; each key has a value from the moment it was put on.

    Args:
        missing: what a key holds that was never put.
        gone: called with each value that nobody can ask for any more.

    Attributes:
        count: values kept.
    """

    def __init__(self, missing: Any, gone: Callable[[Any], None] | None = None) -> None:
        self._missing = missing
        self._gone = gone
        self._times: dict[int, list[int]] = {}  # key -> moments at which it changed, ascending
        self._values: dict[int, list[Any]] = {}  # and what it became
        self._moments: list[int] = []  # those with changes, ascending
        self._changes: dict[int, set[int]] = {}  # moment -> keys
        self.count = 0

    def at(self, key: int, moment: int) -> Any:
        """What a key held."""
        index = bisect_right(self._times.get(key, ()), moment)
        return self._values[key][index - 1] if index else self._missing

    def latest(self, key: int) -> Any:
        """What it holds since its last change."""
        values = self._values.get(key)
        return values[-1] if values else self._missing

    def put(self, moment: int, changes: dict[int, Any]) -> None:
        """Keys have changed between the last moment and this one; or once more at the last one."""
        if not changes:
            return
        if moment not in self._changes:
            self._moments.append(moment)
        known = self._changes.setdefault(moment, set())
        for key, value in changes.items():
            if key in known:
                self._drop(key, len(self._times[key]) - 1)
            self._times.setdefault(key, []).append(moment)
            self._values.setdefault(key, []).append(value)
        known.update(changes)
        self.count += len(changes)

    def between(self, one: int, other: int) -> set[int]:
        """Keys that may hold something else at one moment than at the other."""
        low, high = bisect_right(self._moments, min(one, other)), bisect_right(self._moments, max(one, other))
        return set().union(*(self._changes[moment] for moment in self._moments[low:high]))

    def all(self, moment: int) -> dict[int, Any]:
        """Everything that was put at or before a moment."""
        return {key: self.at(key, moment) for key, times in self._times.items() if times[0] <= moment}

    def merge(self, moment: int, following: int) -> None:
        """Nobody asks for ``moment`` any more; the next that somebody asks for is ``following``."""
        keys = self._changes.pop(moment, None)
        if keys is None:
            return
        at = bisect_left(self._moments, moment)
        del self._moments[at]
        if following not in self._changes:
            self._moments.insert(at, following)
        later = self._changes.setdefault(following, set())
        for key in keys:
            if key in later:
                self._drop(key, bisect_left(self._times[key], moment))
            else:
                later.add(key)
                self._times[key][bisect_left(self._times[key], moment)] = following

    def forget_after(self, moment: int) -> None:
        """What came later did not happen."""
        while self._moments and self._moments[-1] > moment:
            for key in self._changes.pop(self._moments.pop()):
                self._drop(key, len(self._times[key]) - 1)

    def _drop(self, key: int, index: int) -> None:
        times, values = self._times[key], self._values[key]
        del times[index]
        value = values.pop(index)
        self.count -= 1
        if not times:
            del self._times[key], self._values[key]
        if self._gone is not None:
            self._gone(value)
