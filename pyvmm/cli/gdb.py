"""``-gdb ADDRESS`` and ``-s`` on any run: the server that gdb's ``target remote`` connects to."""

from __future__ import annotations

import threading

from pyvmm import status
from pyvmm.backends.stderr import say
from pyvmm.errors import ConfigError
from pyvmm.observe.debug.gdbtarget import GdbTarget
from pyvmm.observe.debug.holder import RunHolder
from pyvmm.observe.gdb.server import GdbServer, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.run import Session

_TELL_SECONDS = 2.0  # for gdb to be told how the guest has ended


def attach(session: Session, text: str, paused: bool) -> None:
    """Has gdb see a session's machines.

    Args:
        text: of -gdb: ``tcp:[HOST]:PORT`` or ``unix:PATH``, with ``,history=on`` behind for reverse execution.
        paused: -S: the guest waits for gdb.

    Raises:
        ConfigError: no such address, or it is taken.
    """
    words = text.split(",")
    history = [word.removeprefix("history=") for word in words if word.startswith("history=")]
    if any(word not in ("on", "off") for word in history):
        raise ConfigError(f"-gdb {text}: write history=on or history=off")
    address = parse_address(",".join(word for word in words if not word.startswith("history=")))
    config = session.config
    if session.seal is not None:
        raise ConfigError("-gdb and -sandbox, -runas or -chroot: a debugger needs what they give up: leave one of them out")
    if history[-1:] == ["on"]:
        session.config = config = config.replace(coalesce=False)  # each write to the console is an exit to stop at
    holder = RunHolder(config.smp, history[-1:] == ["on"], name=config.boot.kernel)
    target = GdbTarget(holder, status.of)
    server = GdbServer(target, address)
    session.observers.append(holder.begin)
    session.leavers.append(holder.end)

    def close() -> None:
        holder.over()
        target.wait(_TELL_SECONDS)
        told = threading.Event()
        server.post(lambda: server.post(told.set))  # behind the stop that says so, and a turn in which it is sent
        told.wait(_TELL_SECONDS)
        server.close()

    session.closing.append(close)
    server.start()
    if paused:
        say(f"pyvmm: waiting for gdb: target remote {server.address.for_gdb}")
