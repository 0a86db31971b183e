"""``pyvmm report``: what a recording says, as text, as a page, for Perfetto, for flame graphs."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.cli import own  # fmt: skip
from pyvmm.errors import ConfigError
from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.report import model, names
from pyvmm.observe.report.model import Filter, Story
from pyvmm.observe.stats.text import SORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from pyvmm.observe.report.hot import Name

HELP = """\
usage: pyvmm report FILE [OPTIONS]      FILE is of `pyvmm record`

what comes out
  --text [-o FILE]    tables (the default): where the guest was, what the kernel counted, exits by place
  --html FILE         a page: timeline, each exit explained, console; it needs nothing but a browser
  --chrome FILE       for https://ui.perfetto.dev or chrome://tracing
  --folded FILE       stacks for flame graphs; - for stdout, as for the others
tables
  --sort KEY          {sorts} (default time)
  --top COUNT         rows of each table (default 20; 0: all)
  --addresses         the hottest addresses of each function
  --symbols FILE      ELF file or System.map (default: the recorded kernel's own table, if the guest is a Linux with one)
only a part
  --vcpu N, --reason NAME (io, mmio, ...), --device NAME (as in the table), --from MS, --to MS
"""
_OUTPUTS = ("html", "chrome", "folded")


def command(arguments: list[str]) -> int:
    """Reads a recording; returns an exit status."""
    values = (*_OUTPUTS, "o", "sort", "top", "symbols", "vcpu", "reason", "device", "from", "to")
    given, rest = own.take("report", arguments, ("text", "addresses", "help", "h"), values, boots=False)
    if "help" in given or "h" in given:
        print(HELP.format(sorts=", ".join(SORTS)), end="")
        return status.OK
    if len(rest) != 1:
        raise ConfigError(f"name one recording{', not ' + ' '.join(rest) if rest else ''}: pyvmm report FILE")
    sort, most = own.choice(given, "sort", SORTS, "time"), int(own.number(given, "top", 20, 0, 1e6))
    wanted = Filter(
        vcpu=int(own.number(given, "vcpu", -1, -1, 4096)),
        reason=given.get("reason", [""])[-1],
        device=given.get("device", [""])[-1],
        begin=int(own.number(given, "from", 0, 0, 1e12) * 1e6),
        end=int(own.number(given, "to", 0, 0, 1e12) * 1e6) if "to" in given else -1,
    )
    if 0 <= wanted.end < wanted.begin:
        raise ConfigError(f"--from {given['from'][-1]} --to {given['to'][-1]}: nothing is between the two: give the smaller one first")
    with Recording.open(rest[0]) as recording:
        if wanted.vcpu >= recording.header.vcpus:
            raise ConfigError(f"--vcpu {wanted.vcpu}: the recorded machine has vCPUs 0 to {recording.header.vcpus - 1}")
        story = model.load(recording, wanted)
        for option, name, known in (("--reason", wanted.reason, story.reasons), ("--device", wanted.device, story.devices)):
            if name and name not in known:
                raise ConfigError(f"{option} {name}: not in this recording; there are: {', '.join(sorted(known)) or 'none'}")
        name_of = names.choose(given["symbols"][-1] if "symbols" in given else "", recording)
        if recording.note:
            say(f"pyvmm: {recording.note}")
        for kind in _OUTPUTS:
            for path in given.get(kind, []):
                _write(path, f"--{kind}", kind, story, name_of)
        if "text" in given or "o" in given or not given.keys() & set(_OUTPUTS):
            from pyvmm.observe.report import text

            shown = text.render(story, name_of, sort, most, "addresses" in given)
            _to(given["o"][-1] if "o" in given else "-", "-o", lambda file: file.write(shown))
    return status.OK


def _write(path: str, option: str, kind: str, story: Story, name: Name) -> None:
    if kind == "html":
        from pyvmm.observe.report import html

        page = html.page(story, name)
        _to(path, option, lambda file: file.write(page))
    elif kind == "chrome":
        from pyvmm.observe.report import chrome

        _to(path, option, lambda file: chrome.write(story, name, file))
    else:
        from pyvmm.observe.report import text

        stacks = text.folded(story, name)
        _to(path, option, lambda file: file.write(stacks))


def _to(path: str, option: str, write: Callable[[TextIO], object]) -> None:
    """To a file, or to stdout for "-"."""
    if path == "-":
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file: the page says so, whatever the terminal's language
        write(sys.stdout)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            write(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None
