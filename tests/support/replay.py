"""A machine stopped at chosen exits, and the whole of its state as a number: for tests of snapshots.

``Stops`` parks a one-vCPU guest behind every n-th exit without losing the run: the vCPU's thread asks for a pause and goes on
until KVM has completed the access.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvmm import catalogue
from pyvmm.backends.console import Console
from pyvmm.cli.options import Options
from pyvmm.config import Config
from pyvmm.kvm import uapi
from pyvmm.kvm.state import VcpuState
from pyvmm.machine import Machine
from pyvmm.snapshot.capture import Snapshot
from pyvmm.snapshot.plain import pack, plain
from tests.support.vm import Collector

# What goes on by itself: the time stamp counter and what follows it, APIC's and PIT's counters, the clocks
_CLOCK_MSRS = (0x10, 0x11, 0x12, 0xE7, 0xE8, 0x6E0, 0x4B56_4D00, 0x4B56_4D01)
_TIMER_COUNT = range(0x390, 0x394)
PATIENCE = 30  # seconds for the next exits; nested hosts are slow
CLOCKS = {"clock", "seen", "half_periods", "offset", "taken", "raised"}


def config(name: str, *options: str) -> Config:
    """A catalogue guest's configuration, its console not coalesced: that changes which exits there are."""
    return Options([name, *options]).config.replace(coalesce=False)  # type: ignore[union-attr]


class Stops:
    """Runs a machine exit by exit.

    Args:
        machine: with one vCPU, running (``running`` below) and paused.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.left = 0
        self.reached = threading.Event()
        loop = machine.runloops[0]
        for reason in (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO):
            loop.exits[reason] = self._counting(loop.exits[reason])

    def _counting(self, handler: Callable[[], None]) -> Callable[[], None]:
        def handle() -> None:
            handler()
            self.left -= 1
            if not self.left:
                self.machine.toggle_pause()
                self.reached.set()

        return handle

    def run(self, count: int) -> bool:
        """Lets the guest run to the end of its ``count``-th exit from here. False: its run ended before, or it makes no exits."""
        end = time.monotonic() + PATIENCE
        self.reached.clear()
        self.left = count
        self.machine.resume()
        while not self.reached.wait(0.02):
            if self.machine.reason is not None or time.monotonic() > end:
                return False
        return self.machine.reason is None


@contextmanager
def running(machine: Machine, timeout: float = 60) -> Iterator[None]:
    """The machine's run on another thread, paused before its first instruction."""
    machine.pause()
    thread = threading.Thread(target=machine.run, args=(timeout, True))
    thread.start()
    try:
        yield
    finally:
        machine.stop()
        thread.join(30)
        assert not thread.is_alive()


def digests(snapshot: Snapshot) -> dict[str, str]:
    """What a snapshot holds, each part as a number, without what no load can put back: the clocks."""
    parts: dict[str, bytes] = {}
    for index, vcpu in enumerate(snapshot.vcpus):
        for name, value in vcpu:
            parts[f"vcpu{index}.{name}"] = pack(_still(name, value))
    parts["chips"] = b"".join(snapshot.vm.chips)
    for name, state in snapshot.devices.items():
        moving = CLOCKS | {"flags"} if name == "rtc" else CLOCKS  # 1024 times a second
        parts[name] = pack({key: value for key, value in state.items() if key not in moving})
    for number, page in sorted(snapshot.memory.whole().items()):
        if page.strip(b"\0"):
            parts[f"page {number:#x}"] = page
    return {name: hashlib.blake2b(data, digest_size=8).hexdigest() for name, data in parts.items()}


def _still(name: str, value: object) -> object:
    if name == "msrs":
        assert isinstance(value, dict)
        return {index: each for index, each in value.items() if index not in _CLOCK_MSRS}
    if name == "lapic":
        assert isinstance(value, bytes)
        return bytes(each for at, each in enumerate(value) if at not in _TIMER_COUNT)
    if name == "xsave":
        assert isinstance(value, bytes)
        return value[:512] + value[520:]  # XSTATE_BV: whether a component that is as after reset is marked so, is the host's affair
    return plain(value)


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the parts that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def collectors(settings: Config) -> list[Console]:
    """Consoles for it."""
    return [Collector() for _ in settings.serials]


__all__ = ["Stops", "VcpuState", "catalogue", "collectors", "config", "differences", "digests", "running"]
