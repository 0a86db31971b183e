"""Locks on ranges of blocks, among threads."""

from __future__ import annotations

import random
import threading

from pyvmm.backends.block.ranges import RangeLock


def test_overlapping_ranges_exclude_each_other() -> None:
    lock = RangeLock()
    owners = [0] * 32
    wrong = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            first = chance.randrange(32)
            last = min(31, first + chance.randrange(4))
            lock.acquire(first, last)
            for block in range(first, last + 1):
                owners[block] += 1
            wrong.extend(block for block in range(first, last + 1) if owners[block] != 1)
            for block in range(first, last + 1):
                owners[block] -= 1
            lock.release(first, last)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong and not lock._held


def test_others_are_not_held_up() -> None:
    lock = RangeLock()
    lock.acquire(0, 3)
    lock.acquire(4, 4)  # would hang
    entered = threading.Event()
    thread = threading.Thread(target=lambda: (lock.acquire(3, 4), entered.set()))
    thread.start()
    lock.release(4, 4)
    assert not entered.wait(0.05)
    lock.release(0, 3)
    assert entered.wait(60)
    thread.join(60)
