"""Backward inside an interval between two exits, in which the same code runs many times: what is found is the latest before now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, WATCH, WRITE, Breakpoint
from pyvmm.observe.debug.live import Live
from pyvmm.observe.debug.subject import Moment
from tests.support.debugged import BASE, COUNTER
from tests.support.living import alive
from tests.support.vm import flat

pytestmark = pytest.mark.kvm

# flat32 at 1 MiB: inc dword [COUNTER]; mov eax, [COUNTER]; nop; test al, 7; jnz BASE; mov al, 'x'; out 0xe9, al; jmp BASE
EIGHT_ROUNDS = bytes.fromhex("ff0500002000 a100002000 90 a807 75f0 b078 e6e9 ebea")
NOP = BASE + 11


@contextmanager
def third_round_of_eight(path: Path) -> Iterator[Live]:
    """Behind exit 1, stopped by a breakpoint that is gone: as gdb has it, which takes its own out at each stop."""
    with flat(EIGHT_ROUNDS, path, coalesce=False) as (machine, _), alive(machine) as live:
        live.goto(Moment(exit=1))
        at = stop_at(live, NOP)
        for _ in range(3):
            assert live.run().hits == [at.number]
        live.breakpoints.remove(at.number)
        assert counter(live) == 11
        yield live


def stop_at(live: Live, address: int) -> Breakpoint:
    return live.breakpoints.add(Breakpoint(kind=ADDRESS, first=address, last=address))


def counter(live: Live) -> int:
    (value,) = live.memory.unpack("<I", COUNTER)
    return int(value)


def test_the_latest_hit_is_looked_for_before_now_and_not_behind(tmp_path: Path) -> None:
    with third_round_of_eight(tmp_path) as live:
        at = stop_at(live, BASE)
        for value in (10, 9, 8):
            stop = live.reverse_run()
            assert (stop.why, stop.hits, live.regs(0).rip, counter(live)) == (subject.BREAKPOINT, [at.number], BASE, value)
        assert live.reverse_run().at.exit == 0 and counter(live) == 7
        assert [each.number for each in live.breakpoints] == [at.number], "nothing is left of the search"


def test_from_between_two_steps(tmp_path: Path) -> None:
    with third_round_of_eight(tmp_path) as live:
        live.step_instructions(0, 3)
        assert live.regs(0).rip == BASE
        watched = live.breakpoints.add(Breakpoint(kind=WATCH, first=COUNTER, last=COUNTER + 3, direction=WRITE))
        stop = live.reverse_run()
        assert (stop.why, stop.hits, counter(live)) == (subject.BREAKPOINT, [watched.number], 11)


def test_a_breakpoint_where_one_stands_counts_for_earlier_rounds(tmp_path: Path) -> None:
    with third_round_of_eight(tmp_path) as live:
        at = stop_at(live, NOP)
        for value in (10, 9):
            stop = live.reverse_run()
            assert (stop.hits, live.regs(0).rip, counter(live)) == ([at.number], NOP, value)
