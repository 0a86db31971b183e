"""Back and forth in time: the state at every exit is the one that was recorded, whatever the guest; and what is thinned out."""

from __future__ import annotations

import threading

import pytest

from pyvmm import catalogue
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.conditions import ADDRESS, Breakpoint
from pyvmm.observe.debug.subject import Moment
from tests.support.living import living
from tests.support.process import wait_until
from tests.support.timetravel import settings, there_and_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("name", list(catalogue.load()))
def test_back_and_forward_the_state_is_the_recorded_one(name: str) -> None:
    there_and_back(name)


# --- what is thinned out ---------------------------------------------------------------------------------------------
def test_a_long_run_stays_within_its_limit_and_goes_back_to_any_exit() -> None:
    limit = 1 << 19
    with living(settings("multiboot", "-machine", "pit=off")) as live:
        live.run()
        wanted = {number: live.history.digest(number) for number in range(live.history.last + 1)}
        assert live.history.size > limit
    with living(settings("multiboot", "-machine", "pit=off"), limit=limit) as live:
        live.run()
        assert live.history.size <= limit
        last = live.history.last
        assert last + 1 == len(wanted)
        thinned = [number for number in wanted if not live.history.has(number)]
        assert len(thinned) > last // 4
        assert live.history.has(0) and live.history.has(last)
        for number in (*thinned[:3], *thinned[-3:], 0, last):
            stop = live.goto(Moment(exit=number))
            assert stop.why in (subject.ARRIVED, subject.END), stop
            assert live.at == Moment(exit=number)
            if number < last:  # powering off, the guest has the ACPI timer looked at, which shows how long this run took
                assert live.history.digest() == wanted[number]
            if live.history.log.get(number) is not None:
                assert live.explain(number).line
        live.goto(Moment(exit=thinned[0]))
        assert live.back().at == Moment(exit=thinned[0] - 1)
        assert live.step().at == Moment(exit=thinned[0])


def test_the_smallest_history_keeps_the_first_and_the_last() -> None:
    with living(settings("hello"), limit=1) as live:
        assert live.run().why == subject.END
        assert live.history._numbers == [0, live.history.last]
        assert live.back(3).why == subject.ARRIVED
        assert live.run().why == subject.END


def test_a_thread_that_comes_late_to_tell_does_not_end_the_next_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """The debugger's thread has told of the last exit; the vCPU's, which counts as parked, gets its turn in the middle of the next move."""
    with living(settings("hello"), limit=1) as live:
        control, mover = live.control, threading.get_ident()
        late: list[bool] = []

        def tell(told: Callable[[], None] = control._tell) -> None:
            if threading.get_ident() != mover and control.ending is not None:
                wait_until(lambda: control._until is not None, "the next move", 30)
                late.append(True)
            told()

        monkeypatch.setattr(control, "_tell", tell)
        assert live.run().why == subject.END
        last = live.history.last
        assert live.back(3).why == subject.ARRIVED and live.at == Moment(exit=last - 3) and late


def test_another_way_is_noticed_and_told() -> None:
    with living(settings("hello"), limit=64 << 10) as live:
        live.step(40)
        assert not any(live.history.has(number) for number in (1, 2, 3))
        live.goto(Moment(exit=0))
        with live.machine.quiesce():  # behind the history's back
            sregs = live.sregs(0)
            live.machine.memory.write(sregs.cs.base + 0x7C00 + live.machine.memory.read(0x7C00, 512).index(b"Hello"), b"Jello")
        live.history.enough = -1
        live.breakpoints.add(Breakpoint(kind=ADDRESS, first=0x10, last=0x10))
        stop = live.run()
        assert stop.why == subject.DIVERGED
        assert "0x48" in stop.text and "0x4a" in stop.text and "this time" in stop.text
        assert live.at == Moment(exit=0)
        assert live.run().why != subject.DIVERGED  # it was put back as it was
