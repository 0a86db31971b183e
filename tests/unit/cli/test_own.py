"""A command's own options among those of ``pyvmm run``."""

from __future__ import annotations

import pytest

from pyvmm.cli import own
from pyvmm.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "given", "rest"),
    [
        ("hello", {}, ["hello"]),
        ("--json hello -o x", {"json": [""], "o": ["x"]}, ["hello"]),
        ("hello -o=x -m 1G", {"o": ["x"]}, ["hello", "-m", "1G"]),
        ("-append -o hello", {}, ["-append", "-o", "hello"]),  # the value of run's option
        ("-append=x -o y", {"o": ["y"]}, ["-append=x"]),
        ("hello --json=yes", {}, ["hello", "--json=yes"]),  # run's parser will complain
        ("- --append", {}, ["-", "--append"]),
        ("-o a -o b", {"o": ["a", "b"]}, []),
    ],
)
def test_take(line: str, given: dict[str, list[str]], rest: list[str]) -> None:
    assert own.take(line.split(), ("json",), ("o",)) == (given, rest)


def test_wrong_values_are_one_line() -> None:
    with pytest.raises(ConfigError, match="-o: a value must follow"):
        own.take(["-o"], (), ("o",))
    with pytest.raises(ConfigError, match="--sort size: give one of time, count"):
        own.choice({"sort": ["size"]}, "sort", ("time", "count"), "time")
    for text in ("x", "0", "1e9", "nan"):
        with pytest.raises(ConfigError, match="-F"):
            own.number({"F": [text]}, "F", 99, 1, 1000)
    assert own.number({}, "F", 99, 1, 1000) == 99
