"""``pyvmm check``: examines the host and says what to do."""

from __future__ import annotations

from pyvmm import status
from pyvmm.cli import own
from pyvmm.errors import ConfigError

HELP = """\
usage: pyvmm check [--json] [--no-probe]

Opens /dev/kvm, says what it can do, and what to do about what it cannot. Status 0: guests can run here; else 2.

  --json       for programs
  --no-probe   do not run the tiny guests that find out what capabilities do not tell
"""


def command(arguments: list[str]) -> int:
    """Prints the findings; status 0 when guests can run, else 2."""
    given, rest = own.take("check", arguments, ("json", "no-probe", "help", "h"), (), boots=False)
    if "help" in given or "h" in given:
        print(HELP, end="")
        return status.OK
    if rest:
        raise ConfigError(f"'{rest[0]}' is no option: usage: pyvmm check [--json] [--no-probe]")
    from pyvmm import hostcheck

    findings = hostcheck.examine(probe="no-probe" not in given)
    print(hostcheck.render_json(findings) if "json" in given else hostcheck.render(findings))
    return status.OK if hostcheck.usable(findings) else status.USAGE
