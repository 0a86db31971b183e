"""A command's own options: found wherever they stand. What is left are its words, and ``pyvmm run``'s options if it boots a guest."""

from __future__ import annotations

from pyvmm.cli.options import FLAGS, WITH_VALUE
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def take(
    command: str, arguments: list[str], flags: Collection[str], values: Collection[str], boots: bool = True
) -> tuple[dict[str, list[str]], list[str]]:
    """Sorts a command line.

    Args:
        command: its name.
        arguments: behind it.
        flags, values: the command's own options without dashes; each may be written with one dash or two, a value as ``-o X`` or ``-o=X``.
        boots: all options of ``pyvmm run`` may stand there, too; they are left for ``Options``.

    Returns:
        ({option: its values, "" for a flag}, what is left).

    Raises:
        ConfigError: there is no such option, or a value is missing.
    """
    others, foreign = (FLAGS, WITH_VALUE) if boots else ((), ())
    given: dict[str, list[str]] = {}
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or argument == "-" or name in others:
            left.append(argument)
            continue
        if name in foreign and name not in values:
            left += [argument, *([] if equals else [each for each in (next(rest, None),) if each is not None])]
            continue
        if name not in values and (name not in flags or equals):
            from pyvmm.cli.hints import unknown

            raise ConfigError(unknown(argument, (*flags, *values, *others, *foreign), command, next(rest, "") if boots else None))
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
        raise ConfigError(f"{'-' * min(len(name), 2)}{name} {text}: give a number from {low:.12g} to {high:.12g}")
    return value
