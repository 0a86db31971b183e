"""The pool for what waits on disks: threads on demand, bounded, ended after their work."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from pyvmm import workers as module
from pyvmm.workers import Workers


def wait(event: threading.Event) -> None:
    assert event.wait(30)


def crashed(error: BaseException) -> None:
    raise AssertionError(error)


def test_no_thread_before_the_first_job() -> None:
    pool = Workers(crashed)
    assert not pool._threads
    pool.stop()
    pool.join(1)
    assert not pool.alive


def test_jobs_run_with_their_arguments_on_other_threads_with_signals_blocked() -> None:
    seen: list[tuple[int, int, bool]] = []
    done = threading.Event()

    def job(a: int, b: int) -> None:
        seen.append((a, b, signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        assert threading.get_ident() != main
        done.set()

    main = threading.get_ident()
    pool = Workers(crashed)
    pool.submit(job, 1, 2)
    wait(done)
    pool.stop()
    pool.join(30)
    assert seen == [(1, 2, True)]
    assert not pool.alive


def test_never_more_threads_than_the_limit_and_every_job_is_done() -> None:
    running, most, done = 0, 0, 0
    lock = threading.Lock()

    def job() -> None:
        nonlocal running, most, done
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
            done += 1

    pool = Workers(crashed, limit=3)
    for _ in range(60):
        pool.submit(job)
    pool.stop()  # what was submitted is still done
    pool.join(30)
    assert not pool.alive
    assert done == 60
    assert 1 < most <= 3


def test_a_free_thread_is_used_again() -> None:
    idents: set[int] = set()
    pool = Workers(crashed)
    for _ in range(20):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            idents.add(threading.get_ident())
            done.set()

        pool.submit(job)
        wait(done)
        time.sleep(0.002)  # until the thread has said that it is free
    pool.stop()
    pool.join(30)
    assert len(idents) <= 3


def test_a_crash_is_told_and_the_thread_goes_on() -> None:
    errors: list[BaseException] = []
    done = threading.Event()
    pool = Workers(errors.append, limit=1)
    pool.submit(lambda: [][0])
    pool.submit(done.set)
    wait(done)
    pool.stop()
    pool.join(30)
    assert [type(error) for error in errors] == [IndexError]


def test_without_threads_the_submitter_does_it_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, **_: object) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "Thread", Refused)
    seen: list[int] = []
    pool = Workers(crashed)
    pool.submit(seen.append, 1)
    pool.submit(seen.append, 2)
    assert seen == [1, 2]
    assert not pool.alive


def test_after_stop_the_submitter_does_it_himself() -> None:
    pool = Workers(crashed)
    pool.stop()
    seen: list[int] = []
    pool.submit(seen.append, 1)
    assert seen == [1]


def test_many_submitters_lose_no_job() -> None:
    pool = Workers(crashed, limit=4)
    done: list[int] = []

    def submit(start: int) -> None:
        for number in range(start, start + 500):
            pool.submit(done.append, number)

    submitters = [threading.Thread(target=submit, args=(1000 * each,)) for each in range(4)]
    for each in submitters:
        each.start()
    for each in submitters:
        each.join(30)
    pool.stop()
    pool.join(30)
    assert sorted(done) == sorted(number for start in range(0, 4000, 1000) for number in range(start, start + 500))


def test_a_job_that_hangs_is_seen() -> None:
    release, begun = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        release.wait(30)

    pool = Workers(crashed)
    pool.submit(job)
    wait(begun)
    pool.stop()
    pool.join(0.05)
    assert pool.alive
    release.set()
    pool.join(30)
    assert not pool.alive
