"""``pyvmm guests``: the catalogue as a table."""

from __future__ import annotations

from pyvmm import catalogue, status
from pyvmm.errors import ConfigError


def command(arguments: list[str]) -> int:
    """Lists every guest: name, format, what it teaches."""
    if arguments:
        raise ConfigError(f"pyvmm guests takes no arguments, not '{arguments[0]}'")
    for guest in catalogue.load().values():
        print(f"{guest.name:<16} {guest.format:<10} {guest.teaches}")
    return status.OK
