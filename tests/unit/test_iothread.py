"""A device's own I/O thread: starts with the first reader, ends when told, tells of a crash."""

from __future__ import annotations

import os
import signal
import threading
import time
from _thread import _count
from collections.abc import Iterator

import pytest

from pyvmm import iothread as module
from pyvmm.errors import HostError
from pyvmm.iothread import IoThread
from tests.support.process import descriptors


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def thread(errors: list[BaseException]) -> Iterator[IoThread]:
    thread = IoThread(errors.append)
    yield thread
    thread.stop()
    thread.join(30)
    assert not thread.alive
    thread.close()


@pytest.fixture
def doorbell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def test_no_thread_before_the_first_reader(thread: IoThread) -> None:
    assert not thread.alive


def test_a_reader_is_served_on_another_thread_with_signals_blocked(thread: IoThread, doorbell: int, errors: list[BaseException]) -> None:
    served = threading.Event()
    seen: list[tuple[bool, bool]] = []

    def callback() -> None:
        os.eventfd_read(doorbell)
        seen.append((threading.get_ident() != main, signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        served.set()

    main = threading.get_ident()
    assert thread.add_reader(doorbell, callback)
    for _ in range(3):
        served.clear()
        os.eventfd_write(doorbell, 1)
        assert served.wait(30)
    assert seen == [(True, True)] * 3
    assert not errors


def test_each_ring_is_an_event_though_nobody_reads_it(thread: IoThread, doorbell: int) -> None:
    """What Doorbells rely on; and one that rang before it was watched is not lost."""
    served = threading.Event()
    calls: list[int] = []
    os.eventfd_write(doorbell, 1)

    def callback() -> None:
        calls.append(1)
        served.set()

    thread.add_reader(doorbell, callback)
    for count in range(1, 5):
        assert served.wait(30)
        served.clear()
        assert len(calls) == count
        os.eventfd_write(doorbell, 1)
    assert served.wait(30)
    time.sleep(0.02)
    assert len(calls) == 5, "and is one event only"


def test_a_removed_reader_is_silent(thread: IoThread, doorbell: int) -> None:
    seen: list[int] = []
    thread.add_reader(doorbell, lambda: seen.append(os.eventfd_read(doorbell)))
    thread.remove_reader(doorbell)
    thread.remove_reader(doorbell)
    os.eventfd_write(doorbell, 1)
    time.sleep(0.02)
    assert not seen


def test_a_crash_ends_the_thread_and_is_told(thread: IoThread, doorbell: int, errors: list[BaseException]) -> None:
    told = threading.Event()
    thread._crashed = lambda error: (errors.append(error), told.set())  # type: ignore[assignment, func-returns-value]
    thread.add_reader(doorbell, lambda: [][0])
    os.eventfd_write(doorbell, 1)
    assert told.wait(30)
    thread.join(30)
    assert [type(error) for error in errors] == [IndexError]
    assert not thread.alive


def test_stop_waits_for_the_callback_it_is_in(thread: IoThread, doorbell: int) -> None:
    release, begun = threading.Event(), threading.Event()

    def callback() -> None:
        os.eventfd_read(doorbell)
        begun.set()
        release.wait(30)

    thread.add_reader(doorbell, callback)
    os.eventfd_write(doorbell, 1)
    assert begun.wait(30)
    thread.stop()
    thread.join(0.05)
    assert thread.alive  # what Machine.hung looks at
    release.set()
    thread.join(30)
    assert not thread.alive


def test_a_host_without_threads_is_told_once_per_try(monkeypatch: pytest.MonkeyPatch, doorbell: int, errors: list[BaseException]) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.Thread, "start", refuse)
    thread = IoThread(errors.append)
    assert thread.add_reader(doorbell, lambda: None)
    assert [type(error) for error in errors] == [HostError]
    assert not thread.alive
    thread.stop()
    thread.join(1)
    thread.close()


def test_start_and_stop_leave_no_descriptor_and_no_thread(doorbell: int) -> None:
    before, threads = descriptors(), _count()
    for _ in range(50):
        thread = IoThread(lambda error: None)
        thread.add_reader(doorbell, lambda: None)
        thread.stop()
        thread.join(30)
        assert not thread.alive
        thread.close()
    deadline = time.monotonic() + 30
    while _count() > threads and time.monotonic() < deadline:
        time.sleep(0.001)
    assert _count() <= threads  # fewer when an earlier test's has ended
    assert descriptors() == before
