"""Options of a command that takes all of ``pyvmm run``'s as well: found wherever they stand, the rest is left for ``Options``."""

from __future__ import annotations

from pyvmm.cli.options import WITH_VALUE
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def take(arguments: list[str], flags: Collection[str], values: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Sorts a command line.

    Args:
        arguments: without the command's name.
        flags, values: the command's own options without dashes; each may be written with one dash or two, a value as ``-o X`` or ``-o=X``.

    Returns:
        ({option: its values, "" for a flag}, what is left).

    Raises:
        ConfigError: a value is missing.
    """
    given: dict[str, list[str]] = {}
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or argument == "-" or name not in (*flags, *values) or (name in flags and equals):
            left.append(argument)
            if argument.startswith("-") and name in WITH_VALUE and not equals:
                left += [each for each in (next(rest, None),) if each is not None]
            continue
        if name in values and not equals:
            try:
                value = next(rest)
            except StopIteration:
                raise ConfigError(f"{argument}: a value must follow") from None
        given.setdefault(name, []).append(value)
    return given, left


def sourced(arguments: Iterable[str], values: Collection[str]) -> list[str]:
    """``-x FILE`` as ``-ex "source FILE"``, so that one list has both in their order.

    Args:
        values: other options that take a value.

    Raises:
        ConfigError: the file is missing.
    """
    found: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "x":
            value = value if equals else next(rest, "")
            if not value:
                raise ConfigError(f"{argument}: a file of commands must follow")
            found += ["-ex", f"source {value}"]
            continue
        found.append(argument)
        if argument.startswith("-") and not equals and name in ("ex", *values):
            found += [each for each in (next(rest, None),) if each is not None]
    return found


def choice(given: dict[str, list[str]], name: str, choices: Collection[str], default: str) -> str:
    """The last value of an option that has one of a few. ConfigError otherwise."""
    value = given.get(name, [default])[-1]
    if value not in choices:
        raise ConfigError(f"--{name} {value}: give one of {', '.join(choices)}")
    return value


def number(given: dict[str, list[str]], name: str, default: float, low: float, high: float) -> float:
    """The last value of an option as a number. ConfigError when it is none, or out of range."""
    text = given.get(name, [str(default)])[-1]
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ConfigError(f"{'-' * min(len(name), 2)}{name} {text}: give a number from {low:g} to {high:g}")
    return value
