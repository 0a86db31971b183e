"""The meter on a made-up run page: what is counted where, and that percentiles are what they say."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyvmm.bus import Bus
from pyvmm.kvm import uapi
from pyvmm.observe.stats import meter
from pyvmm.observe.stats.meter import COUNT, KICKED, LEAST, MOST, OTHERS, TOTAL, Meter
from pyvmm.runloop import RunLoop, Stop
from pyvmm.threads import Lock
from tests.unit.test_runloop import FakeVcpu


def _loop() -> tuple[RunLoop, FakeVcpu]:
    vcpu = FakeVcpu()
    loop = RunLoop(vcpu, Bus("pio", 0x1_0000), Bus("mmio", 1 << 64), Lock(), lambda: True, _unhandled)  # type: ignore[arg-type]
    return loop, vcpu


def _unhandled(reason: int) -> None:
    raise Stop


def _exit(loop: RunLoop, vcpu: FakeVcpu) -> None:
    loop.exits[vcpu.words[2]]()


def test_each_place_has_a_cell() -> None:
    loop, vcpu = _loop()
    found = Meter()
    found.attach(loop)
    for _ in range(3):
        vcpu.io(1, 0x3F8, 1, b"x")
        _exit(loop, vcpu)
    vcpu.io(0, 0x3F8, 1)
    _exit(loop, vcpu)
    vcpu.mmio(0xFEB0_0000, 4, None)
    _exit(loop, vcpu)
    ports, memory = found.cells[uapi.KVM_EXIT_IO], found.cells[uapi.KVM_EXIT_MMIO]
    assert {where: cell[COUNT] for where, cell in ports.items()} == {1 | 1 << 8 | 0x3F8 << 16: 3, 1 << 8 | 0x3F8 << 16: 1}
    assert [(where, cell[COUNT]) for where, cell in memory.items()] == [((0xFEB0_0000, 4), 1)]
    for cell in ports.values():
        assert 0 < cell[LEAST] <= cell[TOTAL] // cell[COUNT] <= cell[MOST]
        assert sum(cell[meter.BUCKETS :]) == cell[COUNT]


def test_an_exit_that_ends_the_run_counts_and_so_does_a_kick() -> None:
    loop, vcpu = _loop()
    found = Meter()
    found.attach(loop)
    vcpu.words[2] = uapi.KVM_EXIT_SHUTDOWN
    with pytest.raises(Stop):
        _exit(loop, vcpu)
    assert loop.interrupted()
    assert {reason: [cell[COUNT] for cell in cells.values()] for reason, cells in found.cells.items() if cells} == {
        uapi.KVM_EXIT_SHUTDOWN: [1],
        KICKED: [1],
    }


def test_nothing_is_left_when_it_is_taken_away() -> None:
    loop, vcpu = _loop()
    before, interrupted = dict(loop.exits), loop.interrupted
    Meter().attach(loop)()
    assert dict(loop.exits) == before
    assert loop.interrupted is interrupted


def test_a_guest_that_names_many_addresses_does_not_fill_memory() -> None:
    loop, vcpu = _loop()
    found = Meter()
    found.attach(loop)
    for page in range(3000):
        vcpu.mmio(0x1_0000_0000 + 4096 * page, 4, b"")
        _exit(loop, vcpu)
    cells = found.cells[uapi.KVM_EXIT_MMIO]
    assert len(cells) == 1025
    assert cells[OTHERS][COUNT] == 3000 - 1024


@pytest.mark.parametrize("spent", [0, 1, 7, 8, 9, 100, 12345, 10**6, 10**9, 3600 * 10**9, (1 << 62) - 9])
def test_a_time_lies_in_its_bucket(spent: int) -> None:
    index = meter.bucket(spent)
    assert meter.BUCKETS <= index < len(meter.empty())
    assert spent <= meter.ceiling(index) <= max(spent * 9 / 8 + 2, spent + 2)
    assert meter.bucket(meter.ceiling(index)) == index
    assert meter.bucket(meter.ceiling(index) + 1) == index + 1


def test_the_closure_puts_times_where_bucket_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one for ports spells ``bucket`` out."""
    times = iter([0, 12345, 20000, 20003])
    monkeypatch.setattr(meter, "perf_counter_ns", lambda: next(times))
    loop, vcpu = _loop()
    found = Meter()
    found.attach(loop)
    for _ in range(2):
        vcpu.io(1, 0x80, 1, b"x")
        _exit(loop, vcpu)
    (cell,) = found.cells[uapi.KVM_EXIT_IO].values()
    assert cell[: meter.BUCKETS] == [2, 12348, 3, 12345]
    assert [index for index, count in enumerate(cell) if count and index >= meter.BUCKETS] == [meter.bucket(3), meter.bucket(12345)]


def test_percentiles_of_random_times() -> None:
    dice = random.Random(6)
    times = sorted(int(dice.lognormvariate(9, 1.5)) for _ in range(5000))
    cell = meter.empty()
    for spent in times:
        meter.note(cell, spent)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = times[max(int(share * len(times)) - 1, 0)]
        assert exact <= meter.percentile(cell, share) <= exact * 1.13 + 2, share
    assert meter.percentile(cell, 1.0) == times[-1]


def test_merging_is_as_if_one_had_seen_all() -> None:
    dice = random.Random(7)
    one, other, both = meter.empty(), meter.empty(), meter.empty()
    for number in range(200):
        spent = dice.randrange(1, 10**6)
        meter.note((one, other)[number % 2], spent)
        meter.note(both, spent)
    meter.merge(one, other)
    assert one == both


def test_an_empty_cell_changes_nothing() -> None:
    cell: list[Any] = meter.empty()
    meter.note(cell, 5)
    before = cell.copy()
    meter.merge(cell, meter.empty())
    assert cell == before
