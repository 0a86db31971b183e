"""Conditions beside signals: nobody sleeps through one."""

from __future__ import annotations

import time
from _thread import start_new_thread

from pyvmm.threads import Condition


def test_who_is_notified_goes_on() -> None:
    condition, done = Condition(), []

    def tell() -> None:
        time.sleep(0.02)
        with condition:
            done.append(1)
            condition.notify_all()

    with condition:
        start_new_thread(tell, ())
        condition.wait_for(lambda: done)
    assert done == [1]


def test_what_was_said_between_question_and_wait_is_seen_later() -> None:
    """As a signal's handler does, on the thread that is about to wait: it holds the lock already, and finds nobody waiting."""
    condition, asked = Condition(), []

    def told() -> bool:
        asked.append(1)
        if len(asked) == 1:
            with condition:
                condition.notify_all()
        return len(asked) > 1

    with condition:
        condition.wait_for(told, every=0.01)
    assert len(asked) == 2


def test_who_waits_no_longer_is_forgotten() -> None:
    condition = Condition()
    with condition:
        for _ in range(3):
            condition.wait(0.001)
        assert condition._waiting == []
        condition.notify_all()
