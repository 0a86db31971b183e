"""``pyvmm record``: runs a guest and writes down every exit, for ``pyvmm replay``, ``pyvmm report`` and others."""

from __future__ import annotations

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.cli import own
from pyvmm.cli.options import Options
from pyvmm.cli.run import Session, tell
from pyvmm.errors import ConfigError
from pyvmm.observe.recording.recorder import Recorder

HELP = """\
usage: pyvmm record GUEST -o FILE [OPTIONS OF `pyvmm run`]

  -o FILE      the recording (default: the guest's name and .pvm); one that is there is overwritten

`pyvmm replay FILE` opens it, on any machine with Python. docs/recording.md says what is in it.
"""


def command(arguments: list[str]) -> int:
    """Runs the guest to its end; returns its exit status."""
    given, rest = own.take(arguments, (), ("o",))
    options = Options(rest)
    if options.config is None:
        print(HELP, end="")
        return status.OK
    name = options.guest.name if options.guest is not None else options.config.boot.kernel.rpartition("/")[2]
    path = given["o"][-1] if "o" in given else f"{name}.pvm"
    if not path:
        raise ConfigError("-o: name a file for the recording")
    recorder = Recorder(path, name, ["pyvmm", "record", *arguments])
    session = Session(options.config, options.debugcon)
    session.observers.append(recorder.attach)
    reason = None
    try:
        reason = session.run(options.timeout, options.paused, options.load)
    finally:
        session.close()
        recorder.close(reason)
    tell(reason)
    say(f"pyvmm: {recorder.count} exits recorded in {path}, {recorder.written / 1e6:.1f} MB; to look at them: pyvmm replay {path}")
    return status.of(reason)
