"""The engine with several vCPUs: each stop is told in the name of one, none is lost, and one can go while the others stand."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, WATCH, Breakpoint
from pyvmm.observe.debug.control import Control
from pyvmm.observe.debug.event import Event
from tests.support.debugged import COUNTER, INC, MOV_AL, counter, rip, rounds
from tests.support.process import wait_until

pytestmark = pytest.mark.kvm


def start_both(control: Control) -> None:
    """The second processor runs what the first does, without having been woken by it."""
    first, second = control.machine.vcpus
    second.set_sregs(first.get_sregs())
    second.set_regs(first.get_regs())
    second.set_mp_state(first.get_mp_state())


def test_two_processors_at_one_breakpoint(tmp_path: Path) -> None:
    with rounds(tmp_path, smp=2) as control:
        start_both(control)
        found = control.breakpoints.add(Breakpoint(kind=ADDRESS, first=MOV_AL, last=MOV_AL))
        seen = []
        for _ in range(30):
            stop = control.run()
            assert (stop.why, stop.hits, rip(control, stop.vcpu)) == (subject.BREAKPOINT, [1], MOV_AL)
            seen.append(stop.vcpu)
        assert {0, 1} == set(seen) and found.hits == 30
        found.vcpu = 1
        before = rip(control, 0), control.number
        for _ in range(5):
            stop = control.run()
            assert (stop.vcpu, rip(control, 1)) == (1, MOV_AL)
        assert control.number > before[1] + 4


def test_steps_move_one_processor(tmp_path: Path) -> None:
    with rounds(tmp_path, smp=2) as control:
        start_both(control)
        control.run(until=10)
        still = control.machine.vcpus[1].get_regs().rip
        for _ in range(12):
            assert control.step_instructions(0).why == subject.STEPPED
            assert rip(control, 1) == still


def test_one_processor_goes_on_while_the_other_is_held(tmp_path: Path) -> None:
    with rounds(tmp_path, smp=2) as control:
        start_both(control)
        control.run(until=10)
        still = bytes(control.machine.vcpus[1].get_regs())
        stop = control.run(until=control.number + 50, only=frozenset({0}))
        assert (stop.why, stop.vcpu) == (subject.EXIT, 0) and bytes(control.machine.vcpus[1].get_regs()) == still
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=MOV_AL, last=MOV_AL))
        for _ in range(3):
            stop = control.run(only=frozenset({0}))
            assert (stop.why, stop.vcpu, rip(control, 0)) == (subject.BREAKPOINT, 0, MOV_AL)
            assert bytes(control.machine.vcpus[1].get_regs()) == still
        seen = {control.run().vcpu for _ in range(20)}
        assert seen == {0, 1}


def test_two_processors_that_hit_at_once_are_told_of_one_after_the_other(tmp_path: Path) -> None:
    with rounds(tmp_path, smp=2) as control:
        start_both(control)
        found = control.breakpoints.add(Breakpoint(kind=ADDRESS, first=MOV_AL, last=MOV_AL))
        both = threading.Barrier(2, timeout=30)
        event = control.event

        def together(told: Event) -> None:
            both.wait()
            event(told)

        control.event = together  # type: ignore[method-assign]
        stop = control.run()
        control.event = event  # type: ignore[method-assign]
        number, still = control.number, bytes(control.machine.vcpus[1 - stop.vcpu].get_regs())
        assert (stop.why, rip(control, 0), rip(control, 1)) == (subject.BREAKPOINT, MOV_AL, MOV_AL) and found.hits == 1
        other = control.run(only=frozenset({1 - stop.vcpu}))
        assert (other.why, other.vcpu, other.hits) == (subject.BREAKPOINT, 1 - stop.vcpu, [1])
        assert control.number == number and bytes(control.machine.vcpus[other.vcpu].get_regs()) == still


def test_a_watchpoint_with_two_processors(tmp_path: Path) -> None:
    with rounds(tmp_path, smp=2) as control:
        start_both(control)
        control.breakpoints.add(Breakpoint(kind=WATCH, first=COUNTER, last=COUNTER + 3, direction="w"))
        values = []
        for _ in range(10):
            stop = control.run()
            assert stop.why == subject.BREAKPOINT and stop.address == COUNTER
            values.append(counter(control))
        assert values == sorted(set(values))


def test_history_and_breakpoints_with_two_processors(tmp_path: Path) -> None:
    with rounds(tmp_path, smp=2) as control:
        start_both(control)
        told: list[int] = []
        control.on_exits = lambda records: told.extend(record.number for record in records)
        control.breakpoints.add(Breakpoint(kind=ADDRESS, first=INC, last=INC, ignore=40))
        assert control.run().why == subject.BREAKPOINT
        wait_until(lambda: told[-1:] == [control.number], "word of the last exit", 30)  # who is about to tell counts as standing still
        assert told == list(range(1, control.number + 1)) and control.number >= 30
        assert control.run(until=control.number + 100).why in (subject.EXIT, subject.BREAKPOINT)
