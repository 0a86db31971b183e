"""A command's own options among those of ``pyvmm run``."""

from __future__ import annotations

import re

import pytest

from pyvmm.cli import hints, own
from pyvmm.cli.options import FLAGS, WITH_VALUE
from pyvmm.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "given", "rest"),
    [
        ("hello", {}, ["hello"]),
        ("--json hello -o x", {"json": [""], "o": ["x"]}, ["hello"]),
        ("hello -o=x -m 1G", {"o": ["x"]}, ["hello", "-m", "1G"]),
        ("-append -o hello", {}, ["-append", "-o", "hello"]),  # the value of run's option
        ("-append=x -o y", {"o": ["y"]}, ["-append=x"]),
        ("- --append", {}, ["-", "--append"]),
        ("-o a -o b", {"o": ["a", "b"]}, []),
    ],
)
def test_take(line: str, given: dict[str, list[str]], rest: list[str]) -> None:
    assert own.take("stat", line.split(), ("json",), ("o",)) == (given, rest)


@pytest.mark.parametrize(
    ("line", "boots", "message"),
    [
        ("hello --jsn", True, "unknown option --jsn (did you mean --json?): pyvmm stat -help and pyvmm run -help list what there is"),
        ("hello --json=yes", True, "unknown option --json=yes (did you mean --json?): "),
        ("hello -kernal x", True, "unknown option -kernal (did you mean -kernel?): pyvmm stat -help"),
        ("hello -zzz", True, "unknown option -zzz: pyvmm stat -help"),
        ("hello --", True, "unknown option --: pyvmm stat -help"),
        ("hello -daemonize", True, "-daemonize: not supported: write -serial file:FILE, and & behind the command"),
        ("hello -hda a,b", True, "-hda: there are no IDE disks: write -drive file=a,,b,format=raw,if=virtio "),
        ("FILE -m 64", False, "unknown option -m: pyvmm stat -help lists what there is"),
        ("FILE -kernel x", False, "unknown option -kernel: pyvmm stat -help"),
        ("FILE -hda x", False, "unknown option -hda: pyvmm stat -help"),
    ],
)
def test_an_option_that_there_is_not_is_named(line: str, boots: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        own.take("stat", line.split(), ("json",), ("o",), boots=boots)


def test_what_is_offered_for_qemus_options_is_there() -> None:
    for name in hints._INSTEAD:
        assert name not in FLAGS | WITH_VALUE
        for word in re.findall(r"(?<!\S)--?[a-zA-Z-]+", hints.instead(name, "").partition(": ")[2]):
            assert word.lstrip("-") in FLAGS | WITH_VALUE, f"-{name}: offers {word}"


def test_wrong_values_are_one_line() -> None:
    with pytest.raises(ConfigError, match="-o: a value must follow"):
        own.take("stat", ["-o"], (), ("o",))
    with pytest.raises(ConfigError, match="--sort size: give one of time, count"):
        own.choice({"sort": ["size"]}, "sort", ("time", "count"), "time")
    for text in ("x", "0", "1e9", "nan"):
        with pytest.raises(ConfigError, match="-F"):
            own.number({"F": [text]}, "F", 99, 1, 1000)
    assert own.number({}, "F", 99, 1, 1000) == 99
