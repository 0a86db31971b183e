"""A machine in the debugger's hands, for tests of the engine; and a guest whose every step is known."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvmm import catalogue
from pyvmm.machine import Machine
from pyvmm.observe.debug.conditions import Breakpoints
from pyvmm.observe.debug.control import Control
from tests.support import replay
from tests.support.vm import flat

# flat32 at 1 MiB: one exit a round, six instructions
COUNTER = 0x20_0000
BASE = 0x10_0000
ROUND = bytes.fromhex("ff0500002000 66baf803 b078 ee 90 ebf0")
INC, MOV_DX, MOV_AL, OUT, NOP, JMP = BASE, BASE + 6, BASE + 10, BASE + 12, BASE + 13, BASE + 14
INSTRUCTIONS = (INC, MOV_DX, MOV_AL, OUT, NOP, JMP)


@contextmanager
def controlled(machine: Machine, breakpoints: Breakpoints | None = None) -> Iterator[Control]:
    """Attached before the first instruction; the machine runs on another thread and is stopped at the end."""
    control = Control(machine, breakpoints if breakpoints is not None else Breakpoints())
    control.attach()
    thread = threading.Thread(target=machine.run, args=(60.0,))
    thread.start()
    try:
        yield control
    finally:
        control.detach()
        machine.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def rounds(path: Path, code: bytes = ROUND, **options: object) -> Iterator[Control]:
    """The guest above."""
    with flat(code, path, coalesce=False, **options) as (machine, _), controlled(machine) as control:  # type: ignore[arg-type]
        yield control


@contextmanager
def guest(name: str, *options: str) -> Iterator[Control]:
    """A guest of the catalogue."""
    settings = replay.config(name, "-m", "16M", *options)
    with Machine(settings, replay.collectors(settings)) as machine, controlled(machine) as control:
        yield control


def rip(control: Control, vcpu: int = 0) -> int:
    """Where a vCPU is."""
    return int(control.machine.vcpus[vcpu].get_regs().rip)


def counter(control: Control) -> int:
    """How many rounds have begun."""
    (value,) = control.machine.memory.unpack("<I", COUNTER)
    return int(value)


__all__ = ["catalogue"]
