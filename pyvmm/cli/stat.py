"""``pyvmm stat``: runs a guest, then says what the kernel counted and what reached user space."""

from __future__ import annotations

import json

from pyvmm import status
from pyvmm.backends.stderr import say_lines
from pyvmm.cli import own
from pyvmm.cli.options import Options
from pyvmm.cli.run import open_session, prepare, tell
from pyvmm.errors import ConfigError
from pyvmm.observe.stats import text
from pyvmm.observe.stats.collect import Collector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

HELP = """\
usage: pyvmm stat [OPTIONS] GUEST [OPTIONS OF `pyvmm run`]

  --sort KEY   {sorts} (default time)
  --all        counters that are 0 as well
  --json       as JSON (docs/observing.md names the fields)
  -o FILE      there instead of stderr
"""


def command(arguments: list[str]) -> int:
    """Runs the guest to its end; returns its exit status."""
    given, rest = own.take("stat", arguments, ("json", "all"), ("o", "sort"))
    sort = own.choice(given, "sort", text.SORTS, "time")
    options = Options(rest)
    if options.config is None:
        print(HELP.format(sorts=", ".join(text.SORTS)), end="")
        return status.OK
    output = opened(given["o"][-1] if "o" in given else "")
    collector = Collector()
    session = open_session(options)
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
    if output is None:
        say_lines(shown)
    else:
        try:
            with output:
                output.write(shown)
        except OSError as error:
            raise ConfigError(f"-o {output.name}: {error.strerror}: the counts are lost") from None
    return status.of(reason)


def opened(path: str) -> TextIO | None:
    """A file to write to, None for "". Before the run: a sandbox closes the door to it. ConfigError when it cannot be written."""
    try:
        return open(path, "w", encoding="utf-8") if path else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"-o {path}: {getattr(error, 'strerror', None) or error}") from None
