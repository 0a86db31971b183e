"""``pyvmm replay``: the debugger's prompt over a recording, on any machine with Python."""

from __future__ import annotations

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.cli import own
from pyvmm.errors import ConfigError
from pyvmm.observe import symbols
from pyvmm.observe.debug.prompt import Prompt
from pyvmm.observe.debug.session import Session
from pyvmm.observe.recording.player import Player
from pyvmm.observe.recording.reader import Recording

HELP = """\
usage: pyvmm replay FILE [OPTIONS]

  -ex COMMAND        carry out a debugger command; may be given again, and with -x in any order
  -x FILE            carry out the commands in a file
  --batch            then leave, with status 1 at the first command that fails
  --symbols FILE     an ELF file with symbols, or a System.map (default: the guest's own, if it is there)

FILE is what `pyvmm record` has written. The recording stands before its first exit; help lists the commands.
"""
FAILED = 1


def command(arguments: list[str]) -> int:
    """Opens the prompt; returns the exit status: 0, or in batch mode 1 when a command failed."""
    given, rest = own.take("replay", own.sourced(arguments, ("symbols",)), ("batch", "help", "h"), ("ex", "symbols"), boots=False)
    if "help" in given or "h" in given:
        print(HELP, end="")
        return status.OK
    if len(rest) != 1:
        raise ConfigError(f"pyvmm replay wants one recording{', not ' + ' '.join(rest) if rest else ''}: pyvmm replay FILE [-ex COMMAND]")
    with Recording.open(rest[0]) as recording:
        return _converse(recording, given.get("ex", []), "batch" in given, given.get("symbols", [""])[-1])


def _converse(recording: Recording, commands: list[str], batch: bool, symbol_file: str) -> int:
    player = Player(recording)
    session = Session(player, symbols.load(symbol_file) if symbol_file else _own_symbols(recording))
    prompt = Prompt(session, batch=batch)
    if recording.note:
        say(f"pyvmm: {recording.note}")
    if prompt.interactive:
        style, header = prompt.style, recording.header
        print(f"{style.title(header.name)}: {recording.count} exits of {recording.duration / 1e9:.2f} s, recorded on {header.host}.")
        print(f"{style.name('step')} (s) goes to the first exit, {style.name('goto N')} to any, {style.name('help')} lists the rest.")
        if not commands:
            prompt.show(prompt.session.stopped(style))
    prompt.run(commands)
    return FAILED if batch and prompt.failed else status.OK


def _own_symbols(recording: Recording) -> symbols.Symbols | None:
    """The guest's, when its image is on this machine, too."""
    boot = recording.header.config.get("boot")
    image = boot.get("kernel") if isinstance(boot, dict) else None
    return symbols.of_guest(image) if isinstance(image, str) else None
