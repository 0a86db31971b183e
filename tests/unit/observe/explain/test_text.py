"""Pages of 100 columns."""

from __future__ import annotations

from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.text import WIDTH, render, wrap
from tests.support.exit_pages import BOARD, io


def test_wrap() -> None:
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("one two three", 8, 2) == ["one two", "  three"]
    assert wrap("  a     b", 40) == ["  a     b"]
    assert wrap("x" * 50 + " y", 10) == ["x" * 50, "y"]
    assert wrap("x" * 50, 10) == ["x" * 50]
    assert wrap("", 10) == []


def test_no_line_is_too_long_and_none_ends_in_blanks() -> None:
    told = explain(io(0xCF8, (0x8000_0810).to_bytes(4, "little"), 4), BOARD, before={"pci": {"address": 0}}, after={"pci": {"address": 1}})
    lines = render(told).split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert not [line for line in lines if line != line.rstrip()]


def test_colour_only_when_asked_for() -> None:
    told = explain(io(0x3F8, b"H"), BOARD)
    assert "\033" not in render(told)
    assert render(told, colour=True).replace("\033[1m", "").replace("\033[2m", "").replace("\033[0m", "") == render(told)


def test_many_changes_are_counted() -> None:
    told = explain(io(0x3F8, b"H"), BOARD, before={"rtc": {"ram": bytes(30)}}, after={"rtc": {"ram": b"\1" * 30}})
    assert "and 18 more" in render(told)
