"""``--trace PATTERN`` on any run, and ``pyvmm list``."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.cli import own
from pyvmm.errors import ConfigError
from pyvmm.observe.trace.events import Chosen, catalogue
from pyvmm.observe.trace.tracer import Tracer, line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.cli.run import Session

HELP = """\
usage: pyvmm list [PATTERN...]

Lists the events that --trace knows: all of them, or those whose names match a pattern, such as 'serial_*'.
"""


def attach(session: Session, texts: list[str]) -> None:
    """Has a session's machines traced.

    Args:
        texts: values of --trace: patterns separated by commas; ``file=PATH`` among them sends the lines there instead of to stderr,
            ``enable=PATTERN`` is QEMU's spelling of PATTERN.

    Raises:
        ConfigError: no such event, or the file cannot be written.
    """
    words = [word for text in texts for word in text.split(",")]
    files = [word.removeprefix("file=") for word in words if word.startswith("file=")]
    chosen = Chosen([word.removeprefix("enable=") for word in words if not word.startswith("file=")])
    write = _to_file(files[-1]) if files else say
    session.observers.append(Tracer(chosen, lambda *event: write(line(*event))).attach)


def _to_file(path: str) -> Callable[[str], None]:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--trace file={path}: {getattr(error, 'strerror', None) or error}") from None

    def write(text: str) -> None:
        try:
            os.write(fd, text.encode("utf-8", "backslashreplace") + b"\n")  # at once: whoever kills us has every line
        except OSError:
            pass  # the disk is full: the guest has done nothing wrong

    return write


def command(arguments: list[str]) -> int:
    """``pyvmm list``."""
    given, patterns = own.take("list", arguments, ("help", "h"), (), boots=False)
    if given:
        print(HELP, end="")
        return status.OK
    events = catalogue()
    found = {name: text for name, text in events.items() if not patterns or any(fnmatchcase(name, each) for each in patterns)}
    if not found:
        raise ConfigError(f"no event is called {' or '.join(patterns)}: pyvmm list without a pattern has all {len(events)}")
    width = max(map(len, found))
    for name, text in found.items():
        print(f"{name:<{width}}  {text}")
    return status.OK
