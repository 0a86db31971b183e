"""What ``pyvmm top`` shows between two looks."""

from __future__ import annotations

import pytest

from pyvmm.observe.stats import screen
from pyvmm.observe.stats.summary import Row, Summary


def _row(count: int, total: int, address: int = 0x3F8) -> Row:
    return Row(reason="io", access="out", address=address, size=1, device="COM1", register="THR", count=count, total=total, p99=total)


BEFORE = Summary(rows=[_row(100, 1_000_000)], wall=1_000_000_000, kernel=[{"exits": 1000, "halt_wait_ns": 0}])
NOW = Summary(
    rows=[_row(300, 2_000_000), _row(7, 50_000_000, 0x80)], wall=3_000_000_000, kernel=[{"exits": 5000, "halt_wait_ns": 1_000_000_000}]
)


def test_rates_are_of_the_time_between() -> None:
    lines = screen.frame(BEFORE, NOW, "hello", "count", 0, ["not shown"])
    assert lines[0] == "hello: 3,000.00 ms; 307 exits to user space, 104/s"
    assert "2,000 exits/s, asleep  50.0 %" in lines[1]
    assert [line.split()[0] for line in lines[4:]] == ["100", "4"]
    assert "   5.0" in lines[4]  # microseconds of the new ones: 1 ms for 200
    assert len(lines) == 6


@pytest.mark.parametrize(("sort", "first"), [("time", "0x80"), ("count", "0x3f8"), ("all", "0x80")])
def test_sorting(sort: str, first: str) -> None:
    assert first in screen.frame(BEFORE, NOW, "hello", sort, 0, [])[4]


@pytest.mark.parametrize("height", [5, 8, 12, 24, 60])
@pytest.mark.parametrize("rows", [0, 1, 50])
def test_a_screen_is_full_and_no_more(height: int, rows: int) -> None:
    now = Summary(rows=[_row(1, 1, address) for address in range(rows)], wall=10, kernel=[{"exits": 1}])
    lines = screen.frame(None, now, "hello", "time", height, [f"line {number}" for number in range(40)], "q quit")
    assert len(lines) <= height
    if height >= 12:
        assert len(lines) == height
        assert lines[-1] == "line 39"
        assert lines[0].endswith("q quit")
