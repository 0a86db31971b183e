"""Back and forth in time: what a guest's state is at each of its exits, recorded and found again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyvmm import catalogue
from pyvmm.config import Config
from pyvmm.observe.debug import subject
from pyvmm.observe.debug.live import Live
from pyvmm.observe.debug.subject import Moment
from tests.support import features, replay
from tests.support.living import living

EXITS, BACK = 50, 10
PATIENCE = 4  # seconds for a guest that makes no more exits
# Timers go on while a machine stands still (checkpoint.py says which clocks): their interrupts wait in these parts
_WAITING = ("chips", "vcpu0.lapic", "vcpu1.lapic", "vcpu2.lapic", "vcpu3.lapic")
_TRIES = 20


def settings(name: str, *options: str) -> Config:
    for need in catalogue.find(name).kvm:
        if not features.have(need):
            pytest.skip(f"this KVM has no {need}")
    return replay.config(name, "-m", "16M", *options)


@contextmanager
def patient(live: Live) -> Iterator[None]:
    """Interrupts moves that do not end."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(PATIENCE):
            live.interrupt()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def differing(live: Live, number: int) -> list[str]:
    """Parts of the machine's state that are not as they were recorded behind an exit, at which it stands."""
    wanted = live.history.digests(number)
    for _ in range(_TRIES):
        found = replay.differences(wanted, live.history.digests())
        if not found or not set(found) <= set(_WAITING):
            break
        live.goto(Moment(exit=number))
    return found


def there_and_back(name: str) -> None:
    """Runs a guest of the catalogue for 50 exits, 10 back, 10 forward: at each of them the whole state is the recorded one."""
    with living(settings(name)) as live:
        with patient(live):
            live.step(EXITS)
        last = live.history.last
        kept = [number for number in range(last + 1) if live.history.has(number) and (number >= last - BACK or not number)]
        recorded = {number: live.history.digest(number) for number in kept}
        assert len(set(recorded.values())) == len(recorded), "two moments are told apart"
        live.back(BACK)
        assert live.at.exit < last or not last
        assert not differing(live, live.at.exit)
        while live.history.reliving:
            stop = live.step()
            assert stop.why in (subject.EXIT, subject.END, subject.CRASHED), stop
            assert not differing(live, live.at.exit), live.at
        assert live.at.exit == last
        assert {number: live.history.digest(number) for number in recorded} == recorded
        live.goto(Moment(exit=0))
        assert not differing(live, 0)
