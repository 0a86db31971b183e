"""``pyvmm inspect FILE``: what an image is, or why it cannot boot."""

from __future__ import annotations

import os

from pyvmm import catalogue, status
from pyvmm.errors import ConfigError


def command(arguments: list[str]) -> int:
    """Describes one image; a name from the catalogue does as well. Status 2 when it cannot boot."""
    if len(arguments) == 3 and arguments[0].lstrip("-") == "format":
        fmt, path = arguments[1], arguments[2]
    elif len(arguments) == 1:
        fmt, path = "auto", arguments[0]
    else:
        raise ConfigError("usage: pyvmm inspect [-format NAME] FILE")
    from pyvmm.boot.inspect import describe

    if "/" not in path and not os.path.exists(path):
        guest = catalogue.find(path)
        path, fmt = guest.file, guest.format if fmt == "auto" else fmt
    lines = describe(path, fmt)
    print("\n".join(lines))
    return status.USAGE if any(line.startswith("cannot boot") for line in lines) else status.OK
