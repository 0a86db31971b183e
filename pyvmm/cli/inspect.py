"""``pyvmm inspect FILE``: what an image is, or why it cannot boot."""

from __future__ import annotations

import os

from pyvmm import catalogue, status
from pyvmm.cli import own
from pyvmm.errors import ConfigError

HELP = """\
usage: pyvmm inspect [-format NAME] FILE        FILE is an image, or a name from `pyvmm guests`

Says what an image is, by which rule, where it begins and in which mode, or why it cannot boot (status 2).

  -format NAME   take it for one of: {formats}
"""


def command(arguments: list[str]) -> int:
    """Describes one image; a name from the catalogue does as well. Status 2 when it cannot boot."""
    given, rest = own.take("inspect", arguments, ("help", "h"), ("format",), boots=False)
    if "help" in given or "h" in given:
        from pyvmm.boot.detect import FORMATS

        print(HELP.format(formats=", ".join(FORMATS)), end="")
        return status.OK
    if len(rest) != 1:
        raise ConfigError("name one image: usage: pyvmm inspect [-format NAME] FILE")
    path, fmt = rest[0], given.get("format", ["auto"])[-1]
    from pyvmm.boot.inspect import describe

    if "/" not in path and not os.path.exists(path):
        guest = catalogue.find(path)
        path, fmt = guest.file, guest.format if fmt == "auto" else fmt
    lines = describe(path, fmt)
    print("\n".join(lines))
    return status.USAGE if any(line.startswith("cannot boot") for line in lines) else status.OK
