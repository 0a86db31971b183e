"""The ``pyvmm`` command: finds the subcommand and turns every error into one line and an exit status.

Each command lives in a module of its own that is imported only when asked for: start-up counts.
"""

from __future__ import annotations

import errno
import gc
import os
import sys

from pyvmm import status
from pyvmm.backends.stderr import say, say_lines
from pyvmm.cli import finder
from pyvmm.errors import ConfigError, HostError, ImageError, KvmError, PyvmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = """\
usage: pyvmm COMMAND [ARGUMENTS]

  run GUEST [OPTIONS]    boot a guest: a name from the catalogue, or an image file (pyvmm run -help lists the options)
  debug GUEST [OPTIONS]  walk through a guest exit by exit, forward and back
  stat GUEST [OPTIONS]   boot a guest, then say what the kernel counted and what reached user space
  top GUEST [OPTIONS]    boot a guest and watch its exits, live
  list [PATTERN...]      the events that --trace knows
  record GUEST -o FILE   boot a guest and write down every exit
  replay FILE            look at a recording in the debugger, forward and backward, with KVM or without
  report FILE [OPTIONS]  what a recording says: tables, an HTML page, traces for Perfetto and flame graphs
  guests                 list the catalogue
  inspect FILE           say what an image is, by which rule, its entry point and mode
  check                  examine this host's KVM and say what to do
  bench [OPTIONS]        in a checkout: measure start-up, exits, consoles, disks and networks beside QEMU
  version, help [COMMAND]

Each command has a -help of its own.
"""

# Not a bug and nobody's argument: what a host may run out of anywhere (an import opens files too).
_SHORTAGES = {
    errno.ENOSPC: "cannot write to stdout: no space left on device; free some, or write elsewhere",
    errno.ENOMEM: "the host is out of memory: lower -m, or end other programs",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENFILE: "the host's table of open files is full: end other programs",
}


def main(arguments: list[str]) -> int:
    """Runs one command line (without the program name). Returns the exit status; never raises for a user's mistake."""
    command, *rest = arguments or ["help"]
    return guard(lambda: _dispatch(command, rest))


def guard(work: Callable[[], int]) -> int:
    """Calls ``work`` for its exit status; every error becomes one line on stderr and a status."""
    try:
        return work()
    except (ConfigError, ImageError, HostError) as error:
        return _complain(error, status.USAGE)
    except KvmError as error:
        return _complain(error, status.KVM)
    except PyvmmError as error:
        return _complain(error, status.VMM)
    except MemoryError:
        return _complain(_SHORTAGES[errno.ENOMEM], status.USAGE)
    except KeyboardInterrupt:
        return status.SIGNAL + 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `pyvmm guests | head`: nobody reads on, which is no error
        return status.SIGNAL + 13
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            return _complain(_SHORTAGES[error.errno], status.USAGE)
        # a bug in pyvmm: one line as well, the traceback on request
        from pyvmm.events import vmm_error

        reason = vmm_error(error)
        say_lines(reason.report)
        return _complain(reason.detail, status.VMM)


def _dispatch(command: str, rest: list[str]) -> int:
    if command == "run":
        from pyvmm.cli.run import command as run

        return run(rest)
    if command == "debug":
        from pyvmm.cli.debug import command as debug

        return debug(rest)
    if command == "guests":
        from pyvmm.cli.guests import command as guests

        return guests(rest)
    if command == "inspect":
        from pyvmm.cli.inspect import command as inspect

        return inspect(rest)
    if command == "check":
        from pyvmm.cli.check import command as check

        return check(rest)
    if command == "bench":
        from pyvmm.cli.bench import command as bench

        return bench(rest)
    if command == "top":
        from pyvmm.cli.top import command as top

        return top(rest)
    if command == "list":
        from pyvmm.cli.trace import command as list_events

        return list_events(rest)
    if command == "report":
        from pyvmm.cli.report import command as report

        return report(rest)
    if command == "replay":
        from pyvmm.cli.replay import command as replay

        return replay(rest)
    if command == "record":
        from pyvmm.cli.record import command as record

        return record(rest)
    if command == "stat":
        from pyvmm.cli.stat import command as stat

        return stat(rest)
    if command in ("version", "-version", "--version", "-V"):
        from pyvmm import __version__

        print(f"pyvmm {__version__}")
        return status.OK
    if command in ("help", "-h", "-help", "--help"):
        if command == "help" and rest:
            return _dispatch(rest[0], ["-help"])
        print(USAGE, end="")
        return status.OK
    from pyvmm.cli.hints import nearest

    known = "run, debug, stat, top, list, record, replay, report, guests, inspect, check, bench, version, help"
    near = nearest(command, known.split(", "))
    raise ConfigError(f"no command '{command}'{f' (did you mean {near}?)' if near else ''}: {known}")


def _complain(error: Exception | str, code: int) -> int:
    say(f"pyvmm: {error}")
    return code


def entry(command: Callable[[list[str]], int] = main) -> None:
    """Console entry point of ``command``. Leaves by os._exit: tearing the interpreter down costs more than booting a small guest."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:  # `pyvmm ... >&-`: else the next descriptor opened, /dev/kvm say, would become stdout
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - Python has made None of what was closed
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    finder.install()
    gc.disable()  # start-up makes no garbage: looking for it costs 4 % of its instructions; a machine that runs turns it on
    code = command(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        code = _complain(f"cannot write to stdout: {error.strerror}; write elsewhere", status.USAGE)
    os._exit(code)
