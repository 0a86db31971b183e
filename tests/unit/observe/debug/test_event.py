"""Which of the things that vCPUs found out at once are told now."""

from __future__ import annotations

from pyvmm.observe.debug import subject
from pyvmm.observe.debug.event import Event, one_at_a_time


def test_of_several_at_breakpoints_the_first_is_told_and_the_others_come_again() -> None:
    found = [Event(why="", vcpu=vcpu, hits=[hit], ahead=True) for vcpu, hit in ((2, 7), (0, 7), (2, 8), (1, 9))]
    assert one_at_a_time(found) == ([found[0], found[2]], {0, 1})


def test_what_cannot_come_again_is_told() -> None:
    written, exited = Event(why="", vcpu=1, hits=[3], address=0x1000), Event(why=subject.EXIT, vcpu=3, exit=9)
    ahead, other = Event(why="", vcpu=0, hits=[1], ahead=True), Event(why="", vcpu=1, hits=[1], ahead=True)
    assert one_at_a_time([written, ahead, exited, other]) == ([written, ahead, exited], {1})
    assert one_at_a_time([written, exited]) == ([written, exited], set())
