"""A guest under the debugger's hands inside a test: a machine on a thread of its own, and Live over it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.net.backend import open_netdevs
from pyvmm.config import Config
from pyvmm.machine import Machine
from pyvmm.observe.debug.history import LIMIT
from pyvmm.observe.debug.live import Live
from tests.support import replay
from tests.support.vm import Collector

if TYPE_CHECKING:
    from pyvmm.backends.block.backend import BlockBackend


@contextmanager
def living(settings: Config, limit: int = LIMIT, timeout: float = 120, disk: BlockBackend | None = None) -> Iterator[Live]:
    """The machine has not executed anything yet; at the end it is stopped, and must stop. ``disk``: in place of disk0."""
    with ExitStack() as stack:
        drives = {drive.id: open_drive(drive) for drive in settings.drives}
        for drive in drives.values():
            stack.callback(drive.close)
        if disk is not None:
            drives["disk0"] = disk
        netdevs = open_netdevs(settings.netdevs) if settings.netdevs else {}
        for netdev in reversed(netdevs.values()):
            stack.callback(netdev.close)
        machine = stack.enter_context(Machine(settings, replay.collectors(settings), drives=drives, netdevs=netdevs))
        yield stack.enter_context(alive(machine, limit, timeout))


@contextmanager
def alive(machine: Machine, limit: int = LIMIT, timeout: float = 120) -> Iterator[Live]:
    """The same for a machine that is there."""
    live = Live(machine, limit=limit)
    thread = threading.Thread(target=machine.run, args=(timeout,))
    thread.start()
    try:
        yield live
    finally:
        if machine.reason is None:
            live.close()
        machine.stop()
        thread.join(30)
        assert not thread.is_alive()
        live.close()


def screen(live: Live) -> bytes:
    """All that the first serial port has printed."""
    console = live.history.lines[0].prints.__self__  # type: ignore[attr-defined]
    assert isinstance(console, Collector)
    return bytes(console.output)
