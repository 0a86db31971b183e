"""What debug registers can watch (SDM volume 3B, 18.2.5: 1, 2, 4 or 8 bytes, aligned)."""

from __future__ import annotations

import pytest

from pyvmm.observe.debug.mechanisms import aligned


@pytest.mark.parametrize(
    ("start", "end", "pieces"),
    [
        (0x1000, 0x1001, [(0x1000, 1)]),
        (0x1000, 0x1008, [(0x1000, 8)]),
        (0x1001, 0x1005, [(0x1001, 1), (0x1002, 2), (0x1004, 1)]),
        (0x1004, 0x1010, [(0x1004, 4), (0x1008, 8)]),
        (0x1000, 0x1003, [(0x1000, 2), (0x1002, 1)]),
        (0x1000, 0x1000, []),
    ],
)
def test_pieces_are_aligned_and_cover_the_range(start: int, end: int, pieces: list[tuple[int, int]]) -> None:
    assert list(aligned(start, end)) == pieces


def test_every_short_range() -> None:
    for start in range(0x1000, 0x1010):
        for length in range(1, 33):
            pieces = list(aligned(start, start + length))
            assert [at for at, size in pieces for at in range(at, at + size)] == list(range(start, start + length))
            assert all(size in (1, 2, 4, 8) and not at % size for at, size in pieces)
