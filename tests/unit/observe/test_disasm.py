"""Capstone, wrapped."""

from __future__ import annotations

import pytest

from pyvmm.observe import disasm

pytest.importorskip("capstone")


def test_lengths_end_where_nothing_decodes() -> None:
    assert disasm.lengths(bytes.fromhex("66baf803 b041 ee 0fff"), 32)[:3] == [4, 2, 1]
    assert disasm.lengths(bytes.fromhex("baf803 ee"), 16) == [3, 1]
    assert disasm.lengths(b"\x06", 64) == []


def test_lengths_are_those_of_decode() -> None:
    code = bytes.fromhex("c643140f 8b4304 f3a4 f4")
    assert disasm.lengths(code, 64) == [len(each.data) for each in disasm.decode(code, 0, 64)]
