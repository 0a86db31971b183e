"""QEMU's KEY=VALUE lists."""

from __future__ import annotations

import pytest

from pyvmm.cli.grammar import choice, flag, identifier, pairs
from pyvmm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a=1", [("a", "1")]),
        ("a=1,b=2,a=3", [("a", "1"), ("b", "2"), ("a", "3")]),
        ("file=a,,b.img,c=d", [("file", "a,b.img"), ("c", "d")]),
        ("file=a,,,,b", [("file", "a,,b")]),
        ("file=a,,,b=c", [("file", "a,"), ("b", "c")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=", [("a", "")]),
    ],
)
def test_pairs(text: str, expected: list[tuple[str, str]]) -> None:
    assert pairs("drive", text) == expected


@pytest.mark.parametrize("text", ["a", "a=1,b", "a=1,", ",a=1", "=1", ","])
def test_what_is_no_pair(text: str) -> None:
    with pytest.raises(ConfigError, match="^-drive .*: write '.*' as KEY=VALUE$"):
        pairs("drive", text)


def test_identifiers() -> None:
    for name in ("a", "disk0", "a-b.c_d", "Z9"):
        assert identifier("drive", "", name) == name
    for name in ("", "0a", "-a", "a b", "a,b", "a/b", "é", "a\n", "a\0"):
        with pytest.raises(ConfigError, match="is no id: write letters"):
            identifier("drive", "", name)


def test_switches_and_choices() -> None:
    assert [flag("drive", "", "readonly", text) for text in ("on", "yes", "true", "off", "no", "false")] == [True] * 3 + [False] * 3
    with pytest.raises(ConfigError, match="write readonly=on or readonly=off"):
        flag("drive", "", "readonly", "1")
    with pytest.raises(ConfigError, match="if=ide is not supported: write if=virtio|none"):
        choice("drive", "", "if", "ide", ("virtio", "none"))
