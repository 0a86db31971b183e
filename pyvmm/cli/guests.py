"""``pyvmm guests``: the catalogue as a table."""

from __future__ import annotations

from pyvmm import catalogue, status
from pyvmm.cli import own
from pyvmm.errors import ConfigError

HELP = """\
usage: pyvmm guests

Lists the guests that come with pyvmm: name, image format, what each teaches. `pyvmm run NAME` boots one.
"""


def command(arguments: list[str]) -> int:
    """Lists every guest: name, format, what it teaches."""
    given, rest = own.take("guests", arguments, ("help", "h"), (), boots=False)
    if given:
        print(HELP, end="")
        return status.OK
    if rest:
        raise ConfigError(f"pyvmm guests takes no arguments, not '{rest[0]}': pyvmm run NAME boots one")
    for guest in catalogue.load().values():
        print(f"{guest.name:<16} {guest.format:<10} {guest.teaches}")
    return status.OK
