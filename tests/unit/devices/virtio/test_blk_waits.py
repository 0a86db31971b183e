"""When requests are taken for such as wait for the host's disk."""

from __future__ import annotations

import time

import pytest

from pyvmm.devices.virtio import blk_waits as module
from pyvmm.devices.virtio.blk_waits import Waits

LIMIT = 50_000


class Clocks:
    """Both clocks, and how often the costly one was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.thread = 10**12
        self.asked = self.sleeps = 0
        monkeypatch.setattr(module, "monotonic_ns", lambda: self.wall)
        monkeypatch.setattr(module, "thread_time_ns", self._own)
        monkeypatch.setattr(module, "sleeps", lambda: self.sleeps)

    def _own(self) -> int:
        self.asked += 1
        return self.thread

    def request(self, waits: Waits, waiting: int, computing: int = 0, length: int = 0, count: int = 1, sleeps: bool = True) -> None:
        begun = waits.begin()
        self.sleeps += sleeps
        self.wall += waiting + computing
        self.thread += computing
        waits.end(begun, length, count)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_quick_ones_cost_no_system_call(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    for _ in range(100):
        clocks.request(waits, 1000, 20_000)
    assert not waits.long
    assert not clocks.asked


def test_a_disk_is_found_out_by_its_second_request(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    clocks.request(waits, 5_000_000)
    assert not waits.long, "one stall"
    clocks.request(waits, 5_000_000)
    assert waits.long
    for _ in range(100):
        clocks.request(waits, 5_000_000)
        assert waits.long


def test_copying_is_not_waiting(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    for _ in range(100):
        clocks.request(waits, 1000, 3_000_000)
        assert not waits.long


def test_what_computing_takes_is_found_out_once(clocks: Clocks) -> None:
    """On a host that needs longer than the limit for each request, not every one of them costs a system call."""
    waits = Waits(LIMIT)
    for _ in range(100):
        clocks.request(waits, 1000, 60_000, 4096)
        clocks.request(waits, 1000, 15_000_000, 1 << 20)
    assert not waits.long
    assert clocks.asked == 2 * module._EXACT
    for _ in range(module._EXACT + 3):
        clocks.request(waits, 5_000_000, 60_000, 4096)
    assert waits.long, "a disk is found out all the same"


def test_who_must_leave_its_processor_to_others_waits_for_no_disk(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    for _ in range(100):
        clocks.request(waits, 20_000_000, 60_000, 4096, sleeps=False)
        assert not waits.long
    asked = clocks.asked
    for _ in range(400):
        clocks.request(waits, 20_000_000, 60_000, 4096, sleeps=False)
    assert clocks.asked - asked <= 6 * 2 * module._EXACT, "and it is asked ever more seldom"
    for _ in range(module._TRUST + 3):
        clocks.request(waits, 5_000_000, 60_000, 4096)
    assert waits.long, "until there is a disk to wait for"
    waits.average = 0
    asked = clocks.asked
    for _ in range(2 * module._EXACT):
        clocks.request(waits, 5_000_000)
    assert clocks.asked > asked + 2 * module._EXACT, "then there is no such trust any more"


def test_sleeping_is_told_from_losing_the_processor() -> None:
    before = module.sleeps()
    time.sleep(0.001)
    slept = module.sleeps()
    assert slept > before


def test_a_row_is_judged_by_its_mean(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    for _ in range(20):
        clocks.request(waits, 16 * 40_000, 0, 16 * 4096, 16)
    assert not clocks.asked and not waits.long
    for _ in range(2):
        clocks.request(waits, 16 * 600_000, 0, 16 * 4096, 16)
    assert waits.long
    assert waits.average == 600_000 >> 3


def test_one_that_lost_its_processor_for_once_says_nothing(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    for _ in range(20):
        clocks.request(waits, 4_000_000)
        for _ in range(3):
            clocks.request(waits, 1000)
        assert not waits.long


def test_a_quick_answer_ends_it(clocks: Clocks) -> None:
    waits = Waits(LIMIT)
    for _ in range(30):
        clocks.request(waits, 5_000_000)
    clocks.request(waits, 1000)
    assert not waits.long


def test_unknown_is_long(clocks: Clocks) -> None:
    waits = Waits(LIMIT, known=False)
    assert waits.long
    clocks.request(waits, 1000)
    assert not waits.long


def test_two_threads_at_the_end_of_an_exact_spell(clocks: Clocks) -> None:
    """Both have begun with the thread's clock, one request was left: it is not asked for ever."""
    waits = Waits(LIMIT)
    clocks.request(waits, 5_000_000)
    while waits._exact > 1:
        clocks.request(waits, 1000)
    both = waits.begin(), waits.begin()
    for begun in both:
        waits.end(begun)
    clocks.asked = 0
    clocks.request(waits, 1000)
    assert not clocks.asked
