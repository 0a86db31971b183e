"""Lists of views, cut."""

from __future__ import annotations

import random

from pyvmm.backends.block.vectors import cut, lengths, total
from tests.support.disk import scattered


def test_any_cut_is_the_same_as_of_the_bytes_in_one_piece() -> None:
    chance = random.Random(1)
    for _ in range(300):
        parts = [chance.randbytes(chance.choice((0, 1, 5, 100))) for _ in range(chance.randrange(6))]
        whole = b"".join(parts)
        views = [memoryview(part) for part in parts]
        start = chance.randint(0, len(whole))
        length = chance.randint(0, len(whole) - start)
        assert b"".join(cut(views, start, length)) == whole[start : start + length]
        assert total(views) == len(whole)
        assert lengths(views) == list(map(len, parts))


def test_the_same_of_what_the_kernel_takes() -> None:
    chance = random.Random(2)
    buffer = bytearray(chance.randbytes(300))
    for _ in range(300):
        pieces = [(chance.randrange(200), chance.choice((1, 5, 100))) for _ in range(chance.randrange(6))]
        views = scattered(buffer, pieces)
        whole = b"".join(views)
        start = chance.randint(0, len(whole))
        length = chance.randint(0, len(whole) - start)
        assert b"".join(cut(views, start, length)) == whole[start : start + length]
        assert total(views) == len(whole)
        assert lengths(views) == [length for _, length in pieces]


def test_nothing_is_copied() -> None:
    buffer = bytearray(8)
    views = [memoryview(buffer)[:4], memoryview(buffer)[4:]]
    for part in cut(views, 3, 2):
        part[:] = b"\1" * len(part)
    assert buffer == bytes([0, 0, 0, 1, 1, 0, 0, 0])
