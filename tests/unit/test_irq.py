from __future__ import annotations

from pyvmm.irq import IrqLines


def test_a_line_reports_changes_only() -> None:
    driven: list[tuple[int, int]] = []
    line = IrqLines(lambda gsi, level: driven.append((gsi, level))).source(4)
    line.set(1)
    line.set(1)
    line.set(0)
    line.set(0)
    assert driven == [(4, 1), (4, 0)]


def test_a_pulse_is_an_edge() -> None:
    driven: list[tuple[int, int]] = []
    IrqLines(lambda gsi, level: driven.append((gsi, level))).source(8).pulse()
    assert driven == [(8, 1), (8, 0)]


def test_a_shared_line_is_high_while_any_source_is() -> None:
    driven: list[tuple[int, int]] = []
    lines = IrqLines(lambda gsi, level: driven.append((gsi, level)))
    com1, com3 = lines.source(4), lines.source(4)
    com1.set(1)
    com3.set(1)
    com1.set(0)
    assert driven == [(4, 1)]
    com3.set(0)
    assert driven == [(4, 1), (4, 0)]


def test_a_pulse_on_a_line_that_is_high_leaves_it_high() -> None:
    driven: list[tuple[int, int]] = []
    lines = IrqLines(lambda gsi, level: driven.append((gsi, level)))
    lines.source(10).set(1)
    lines.source(10).pulse()
    assert driven == [(10, 1)]
