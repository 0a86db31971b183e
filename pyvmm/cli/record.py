"""``pyvmm record``: runs a guest and writes down every exit, for ``pyvmm replay``, ``pyvmm report`` and others."""

from __future__ import annotations

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.cli import own
from pyvmm.cli.options import Options
from pyvmm.cli.run import Session, prepare, tell
from pyvmm.errors import ConfigError
from pyvmm.observe.recording.extras import Extras
from pyvmm.observe.recording.recorder import Recorder

HELP = """\
usage: pyvmm record GUEST -o FILE [OPTIONS OF `pyvmm run`]

  -o FILE      the recording (default: the guest's name and .pvm); one that is there is overwritten
  -F HZ        note where each vCPU is, so many times a second (1 to 10000), for `pyvmm report`
  -e EVENTS    note these events as well: names and patterns, such as 'irq_*,virtio_*' (pyvmm list has them all)

`pyvmm replay FILE` opens it, on any machine with Python. docs/recording.md says what is in it.
"""


class Recorded(Session):
    """A run without Ctrl-A c: who goes back in time changes what has been recorded."""

    def _monitor(self) -> None:
        say("[no debugger while recording: pyvmm replay opens the recording]")


def command(arguments: list[str]) -> int:
    """Runs the guest to its end; returns its exit status."""
    given, rest = own.take("record", arguments, (), ("o", "e", "F"))
    options = Options(rest)
    if options.config is None:
        print(HELP, end="")
        return status.OK
    if any(drive.interface == "pflash" and not drive.readonly for drive in options.config.drives):
        raise ConfigError("-drive if=pflash: no recording of flash that can be written: give the firmware as -bios")
    name = options.guest.name if options.guest is not None else options.config.boot.kernel.rpartition("/")[2]
    path = given["o"][-1] if "o" in given else f"{name}.pvm"
    if not path:
        raise ConfigError("-o: name a file for the recording")
    hertz = own.number(given, "F", 0, 1, 10_000) if "F" in given else 0
    chosen = None
    if "e" in given:
        from pyvmm.observe.trace.events import Chosen

        chosen = Chosen(given["e"], "-e")
    if options.gdb or options.monitors:
        raise ConfigError(
            "a debugger could change what has been recorded: leave -gdb, -s, -monitor and -qmp out; pyvmm replay opens the recording"
        )
    recorder = Recorder(path, name, ["pyvmm", "record", *arguments])
    session = Recorded(options.config, options.debugcon)
    session.observers += [recorder.attach, Extras(recorder, hertz, chosen).attach]
    reason = None
    try:
        prepare(session, options)
        reason = session.run(options.timeout, options.paused, options.load)
    finally:
        session.close()
        recorder.close(reason)
    if recorder.failure is not None:
        raise recorder.failure
    tell(reason)
    say(f"pyvmm: {recorder.count} exits recorded in {path}, {recorder.written / 1e6:.1f} MB; to look at them: pyvmm replay {path}")
    return status.of(reason)
