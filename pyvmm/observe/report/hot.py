"""Where the guest spends its time: samples by function."""

from __future__ import annotations

from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvmm.observe.report.model import Sample

    Name = Callable[[int], str]
    """The function at an address, "" where none is known."""

_PAGE = 4096


class Spot(Record):
    """One function, or one address when nobody knows functions.

    Fields:
        name: "memset", "0xffffffff81000000" for the page of an address without a symbol.
        count: samples.
        share: of those awake, 0 to 1.
        user: at privilege level 3.
        addresses: address -> samples, the hottest first.
    """

    name: str
    count: int
    share: float
    user: bool
    addresses: dict[int, int]


def spots(samples: Iterable[Sample], name: Name) -> list[Spot]:
    """By number of samples, the most first; those asleep are left out."""
    found: dict[tuple[str, bool], dict[int, int]] = {}
    total = 0
    for sample in samples:
        if sample.asleep:
            continue
        total += 1
        shown = name(sample.rip) if not sample.user else ""
        addresses = found.setdefault((shown or f"{sample.rip & -_PAGE:#x}..", sample.user), {})
        addresses[sample.rip] = addresses.get(sample.rip, 0) + 1
    rows = [
        Spot(
            name=key[0],
            count=sum(each.values()),
            share=sum(each.values()) / total,
            user=key[1],
            addresses=dict(sorted(each.items(), key=lambda item: -item[1])),
        )
        for key, each in found.items()
    ]
    return sorted(rows, key=lambda spot: (-spot.count, spot.name))
