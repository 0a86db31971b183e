"""``-sandbox``, ``-runas``, ``-chroot`` and QEMU's newer ``-run-with``: from the command line to the call that closes the door."""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.sandbox import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyvmm.config import Config


def seal(given: Mapping[str, Sequence[str]], config: Config) -> Callable[[], None] | None:
    """What to call when everything is open; None when nothing is asked for. Raises ConfigError."""
    runas, chroot = given.get("runas", [""])[-1], given.get("chroot", [""])[-1]
    for text in given.get("run-with", ()):
        for option in text.split(","):
            key, equals, value = option.partition("=")
            if key not in ("user", "chroot") or not value:
                raise ConfigError(f"-run-with {option}: not known; there are user=USER and chroot=DIR")
            if key == "user":
                runas = value
            else:
                chroot = value
    sandbox = enter.parse(list(given.get("sandbox", ())), runas, chroot)
    if chroot and not config.no_reboot:
        raise ConfigError(f"-chroot {chroot}: after a reset the guest's image could not be opened again: add -no-reboot")
    return (lambda: enter.enter(config, sandbox)) if sandbox.wanted else None
