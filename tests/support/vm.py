"""Building machines inside a test: tiny guests as bytes, a console that collects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvmm.backends.console import Console
from pyvmm.config import BootConfig, Config, DeviceConfig, SerialConfig
from pyvmm.events import StopReason
from pyvmm.layout import MIB
from pyvmm.machine import Machine

DEBUG_EXIT = DeviceConfig(name="isa-debug-exit", options=(("iobase", "0xf4"), ("iosize", "4")))
POWER_OFF = bytes.fromhex("66ba0406 66b80020 66ef")  # flat32: mov dx,0x604; mov ax,0x2000; out dx,ax
HANG = b"\xeb\xfe"  # jmp .
HALT = b"\xf4\xeb\xfd"  # hlt; jmp back
TIMEOUT = 60.0  # no tiny guest takes this long anywhere; a test that reaches it has failed


class Collector(Console):
    """A console that keeps what the guest wrote and types what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.output = bytearray()

    def write(self, data: bytes) -> None:
        self.output += data


@contextmanager
def flat(
    code: bytes, path: Path, smp: int = 1, fmt: str = "flat32", wire: Callable[[Machine], None] | None = None, **config: object
) -> Iterator[tuple[Machine, Collector]]:
    """A machine with ``code`` as a flat guest at 1 MiB (16-bit: 0x7c00), not yet running, and its console."""
    image = path / "guest.bin"
    image.write_bytes(code)
    console = Collector()
    settings = Config(
        boot=BootConfig(kernel=str(image), fmt=fmt), memory=16 * MIB, smp=smp, serials=(SerialConfig(kind="null"),), devices=(DEBUG_EXIT,)
    )
    with Machine(settings.replace(**config), [console]) as machine:
        if wire is not None:
            wire(machine)
        yield machine, console


def run(machine: Machine, timeout: float = TIMEOUT) -> StopReason:
    """Runs to the end on this thread."""
    return machine.run(timeout)


@contextmanager
def running(machine: Machine, timeout: float = TIMEOUT) -> Iterator[threading.Thread]:
    """Runs the machine on another thread while the test acts on it; stops it at the end."""
    thread = threading.Thread(target=machine.run, args=(timeout,))
    thread.start()
    try:
        yield thread
    finally:
        machine.stop()
        thread.join(30)
        assert not thread.is_alive(), "Machine.run did not return after stop()"
