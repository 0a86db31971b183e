"""Repeated, paired samples: medians with spread, and ratios taken pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles

Measure = Callable[[], Mapping[str, float]]  # one sample: {quantity: value}


@dataclass
class Samples:
    """Values of one quantity for one contestant, in the order of the rounds."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.values)

    def spread(self, digits: int = 1) -> str:
        """``median (quartile - quartile, min)``"""
        if len(self.values) == 1:
            return f"{self.values[0]:.{digits}f}"
        low, _, high = quantiles(self.values, n=4)
        return f"{self.median:.{digits}f} ({low:.{digits}f} - {high:.{digits}f}, min {min(self.values):.{digits}f})"

    def over(self, other: Samples) -> Samples:
        """The ratio to ``other`` in each pair: what slowed both down cancels out."""
        return Samples([mine / its for mine, its in zip(self.values, other.values, strict=True)])


Results = dict[str, dict[str, Samples]]  # contestant -> quantity -> samples


def paired(contestants: Mapping[str, Measure], rounds: int, warm: bool = True) -> Results:
    """Runs A B C, A B C, ...: a busy moment of the host meets all alike. With ``warm`` a first round fills caches, uncounted."""
    results: Results = {name: {} for name in contestants}
    for number in range(rounds + warm):
        for name, measure in contestants.items():
            for quantity, value in measure().items():
                if number >= warm:
                    results[name].setdefault(quantity, Samples()).values.append(value)
    return results
