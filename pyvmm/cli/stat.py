"""``pyvmm stat``: runs a guest, then says what the kernel counted and what reached user space."""

from __future__ import annotations

import json

from pyvmm import status
from pyvmm.backends.stderr import say_lines
from pyvmm.cli import own
from pyvmm.cli.options import Options
from pyvmm.cli.run import Session, prepare, tell
from pyvmm.errors import ConfigError
from pyvmm.observe.stats import text
from pyvmm.observe.stats.collect import Collector

HELP = """\
usage: pyvmm stat [OPTIONS] GUEST [OPTIONS OF `pyvmm run`]

  --sort KEY   {sorts} (default time)
  --all        counters that are 0 as well
  --json       as JSON (docs/observing.md names the fields)
  -o FILE      there instead of stderr
"""


def command(arguments: list[str]) -> int:
    """Runs the guest to its end; returns its exit status."""
    given, rest = own.take(arguments, ("json", "all"), ("o", "sort"))
    sort = own.choice(given, "sort", text.SORTS, "time")
    options = Options(rest)
    if options.config is None:
        print(HELP.format(sorts=", ".join(text.SORTS)), end="")
        return status.OK
    collector = Collector()
    session = Session(options.config, options.debugcon)
    prepare(session, options)
    session.observers.append(collector.attach)  # the last is outermost: its times include what tracing costs
    try:
        reason = session.run(options.timeout, options.paused, options.load)
    finally:
        session.close()
    tell(reason)
    summary = collector.summary().replace(ended=f"{reason.kind}{f', {reason.detail}' if reason.detail else ''}")
    name = options.guest.name if options.guest is not None else options.config.boot.kernel
    if "json" in given:
        shown = json.dumps({"guest": name, **summary.plain()}, indent=1) + "\n"
    else:
        shown = "\n" + text.render(summary, name, sort, everything="all" in given)
    write(given["o"][-1] if "o" in given else "", shown)
    return status.of(reason)


def write(path: str, shown: str) -> None:
    """To a file, or to stderr for "". ConfigError when it cannot be written."""
    if not path:
        say_lines(shown)
        return
    try:
        with open(path, "w") as file:
            file.write(shown)
    except OSError as error:
        raise ConfigError(f"-o {path}: {error.strerror}") from None
