"""``pyvmm check``: examines the host and says what to do."""

from __future__ import annotations

from pyvmm import status
from pyvmm.errors import ConfigError


def command(arguments: list[str]) -> int:
    """Prints the findings; status 0 when guests can run, else 2."""
    flags = {argument.removeprefix("--").removeprefix("-") if argument.startswith("-") else "" for argument in arguments}
    if flags - {"json", "no-probe"}:
        raise ConfigError("usage: pyvmm check [--json] [--no-probe]")
    from pyvmm import hostcheck

    findings = hostcheck.examine(probe="no-probe" not in flags)
    print(hostcheck.render_json(findings) if "json" in flags else hostcheck.render(findings))
    return status.OK if hostcheck.usable(findings) else status.USAGE
