"""KVM's own breakpoints, where all of them work: the debugger engine chooses them, and they hit, in every mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pyvmm.config import BootConfig, Config
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from pyvmm.observe.debug import abilities, mechanisms, subject
from pyvmm.observe.debug.conditions import ADDRESS, WATCH, Breakpoint, Breakpoints
from pyvmm.observe.debug.control import Control
from pyvmm.record import FrozenRecord
from tests.nested.intel_checks.report import Check, Failed

FILE = Path("/tmp/guest")
SECONDS = 60.0


class Loop(FrozenRecord):
    """A guest that counts its rounds: inc [counter]; mov dx, 0x3f8; mov al, 'x'; out dx, al; nop; jmp back.

    Fields:
        fmt: of the image.
        code: its bytes.
        base, counter: where it and its counter are.
        offsets: of its instructions.
    """

    fmt: str
    code: bytes
    base: int
    counter: int
    offsets: tuple[int, ...]


LOOPS = {
    abilities.REAL: Loop(
        fmt="flat16", code=bytes.fromhex("ff060090 baf803 b078 ee 90 ebf3"), base=0x7C00, counter=0x9000, offsets=(0, 4, 7, 9, 10, 11)
    ),
    abilities.PROTECTED: Loop(
        fmt="flat32", code=bytes.fromhex("ff0500002000 66baf803 b078 ee 90 ebf0"), base=MIB, counter=2 * MIB, offsets=(0, 6, 10, 12, 13, 14)
    ),
    abilities.LONG: Loop(
        fmt="flat64",
        code=bytes.fromhex("ff042500002000 66baf803 b078 ee 90 ebef"),
        base=MIB,
        counter=2 * MIB,
        offsets=(0, 7, 11, 13, 14, 15),
    ),
}


@contextmanager
def controlled(loop: Loop) -> Iterator[Control]:
    """The loop, before its first instruction, in the debugger's hands."""
    FILE.write_bytes(loop.code)
    with Machine(Config(boot=BootConfig(kernel=str(FILE), fmt=loop.fmt), memory=4 * MIB, serials=(), devices=()), []) as machine:
        control = Control(machine, Breakpoints())
        control.attach()
        thread = threading.Thread(target=machine.run, args=(SECONDS,))
        thread.start()
        try:
            yield control
        finally:
            control.detach()
            machine.stop()
            thread.join()


def expect(what: str, found: object, wanted: object) -> None:
    """Raises Failed where they differ."""
    if found != wanted:
        raise Failed(f"{what}: {found!r}, not {wanted!r}")


def breakpoint_(mode: str, hardware: bool) -> str:
    """Three rounds to the third instruction and once over it."""
    loop = LOOPS[mode]
    with controlled(loop) as control:
        at = loop.base + loop.offsets[2]
        made = control.breakpoints.add(Breakpoint(kind=ADDRESS, first=at, last=at, hardware=hardware))
        for round_ in (1, 2, 3):
            stop = control.run()
            expect("stop", (stop.why, stop.hits, control.machine.vcpus[0].get_regs().rip), (subject.BREAKPOINT, [1], at))
            expect("exits", control.number, round_ - 1)
        expect("means", made.means, mechanisms.REGISTER if hardware else mechanisms.INT3)
        expect("code", control.machine.memory.read(loop.base, len(loop.code)), loop.code)
    return ""


def own_int3() -> str:
    """A guest's own INT3 reaches its handler, which counts, while a breakpoint on the NOP behind it is planted."""
    code = bytes.fromhex("c7060c00137c c7060e000000 bc0070 cc 90 ebfc ff060090 cf")
    with controlled(Loop(fmt="flat16", code=code, base=0x7C00, counter=0x9000, offsets=())) as control:
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x7C10, last=0x7C10))
        for round_ in (1, 2, 3):
            stop = control.run()
            expect("stop", (stop.why, control.machine.vcpus[0].get_regs().rip), (subject.BREAKPOINT, 0x7C10))
            expect("counter", control.machine.memory.unpack("<H", 0x9000), (round_,))
    return ""


def watchpoint(mode: str, direction: str) -> str:
    """Stops behind the instruction that writes."""
    loop = LOOPS[mode]
    with controlled(loop) as control:
        made = control.breakpoints.add(Breakpoint(kind=WATCH, first=loop.counter, last=loop.counter + 1, direction=direction))
        for round_ in (1, 2, 3):
            stop = control.run()
            behind = loop.base + loop.offsets[1]
            expect("stop", (stop.why, stop.hits, control.machine.vcpus[0].get_regs().rip), (subject.BREAKPOINT, [1], behind))
            expect("counter", control.machine.memory.unpack("<H", loop.counter), (round_,))
        expect("means", made.means, mechanisms.REGISTER)
    return ""


def steps(mode: str) -> str:
    """Two rounds, instruction by instruction."""
    loop = LOOPS[mode]
    with controlled(loop) as control:
        found = []
        for _ in range(2 * len(loop.offsets)):
            found.append(control.machine.vcpus[0].get_regs().rip - loop.base)
            control.step_instructions(0)
        expect("steps", found, [*loop.offsets, *loop.offsets])
        expect("exits", control.number, 2)
    return ""


def checks() -> list[Check]:
    """In every mode."""
    found = []
    for mode in LOOPS:
        found += [
            Check(name=f"debugger: software breakpoint, {mode} mode", run=partial(breakpoint_, mode, False)),
            Check(name=f"debugger: hardware breakpoint, {mode} mode", run=partial(breakpoint_, mode, True)),
            Check(name=f"debugger: write watchpoint, {mode} mode", run=partial(watchpoint, mode, "w")),
            Check(name=f"debugger: access watchpoint, {mode} mode", run=partial(watchpoint, mode, "")),
            Check(name=f"debugger: single steps, {mode} mode", run=partial(steps, mode)),
        ]
    return [*found, Check(name="debugger: a guest's own int3", run=own_int3)]
