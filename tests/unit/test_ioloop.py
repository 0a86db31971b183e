"""The I/O loop: readers, timers, waking, stopping, and the deadline that needs no lock."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import pytest

from pyvmm.ioloop import GuestClock, IoLoop

SOON = 5_000_000  # nanoseconds
NEVER = 3600 * 10**9


@pytest.fixture
def lock() -> threading.Lock:
    return threading.Lock()


@pytest.fixture
def loop(lock: threading.Lock) -> Iterator[IoLoop]:
    loop = IoLoop(lock)
    guard = threading.Timer(60, loop.stop)  # a test that fails must not hang
    guard.start()
    yield loop
    guard.cancel()
    loop.close()


def run(loop: IoLoop) -> None:
    start = time.monotonic()
    loop.run()
    assert time.monotonic() - start < 50, "only the guard has ended this"


# --- readers ------------------------------------------------------------------------------------------------------------
def test_a_readable_descriptor_calls_back_with_the_lock_held(loop: IoLoop, lock: threading.Lock) -> None:
    read, write = os.pipe()
    seen: list[tuple[bytes, bool]] = []

    def readable() -> None:
        seen.append((os.read(read, 10), lock.locked()))
        loop.stop()

    assert loop.add_reader(read, readable)
    os.write(write, b"x")
    run(loop)
    os.close(read)
    os.close(write)
    assert seen == [(b"x", True)]
    assert not lock.locked()


def test_hang_up_calls_back_too(loop: IoLoop) -> None:
    read, write = os.pipe()
    loop.add_reader(read, loop.stop)
    os.close(write)
    run(loop)
    os.close(read)


def test_a_regular_file_is_not_watched(loop: IoLoop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with open(tmp_path / "file") as file:
        assert not loop.add_reader(file.fileno(), loop.stop)
        loop.remove_reader(file.fileno())  # harmless


def test_a_number_given_to_another_reader_does_not_inherit_the_event(loop: IoLoop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    calls: list[str] = []

    def reader(own: int, other: int) -> None:  # the first one called gives the other's number to a pipe with nothing in it
        calls.append("old")
        loop.remove_reader(own)
        loop.remove_reader(other)
        os.dup2(empty[0], other)
        loop.add_reader(other, lambda: calls.append("new"))
        loop.stop()

    empty = os.pipe()
    for at in (0, 1):
        own, other = pipes[at][0], pipes[1 - at][0]
        loop.add_reader(own, lambda own=own, other=other: reader(own, other))  # type: ignore[misc]
        os.write(pipes[at][1], b"x")
    run(loop)
    for fd in (*pipes[0], *pipes[1], *empty):
        os.close(fd)
    assert calls == ["old"]


def test_a_removed_reader_is_not_called_even_when_its_event_is_there_already(loop: IoLoop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    calls: list[int] = []

    def reader(own: int, other: int) -> None:  # both are readable in one wait; the first called removes the other
        calls.append(own)
        loop.remove_reader(other)
        loop.stop()

    loop.add_reader(pipes[0][0], lambda: reader(pipes[0][0], pipes[1][0]))
    loop.add_reader(pipes[1][0], lambda: reader(pipes[1][0], pipes[0][0]))
    for _, write in pipes:
        os.write(write, b"x")
    run(loop)
    for pair in pipes:
        for fd in pair:
            os.close(fd)
    assert len(calls) == 1


def test_a_removed_reader_can_be_added_again(loop: IoLoop) -> None:
    read, write = os.pipe()
    os.write(write, b"x")
    for _ in range(3):
        assert loop.add_reader(read, loop.stop)
        loop.remove_reader(read)
        loop.remove_reader(read)
    loop.add_reader(read, loop.stop)
    run(loop)
    os.close(read)
    os.close(write)


def test_readers_may_outlive_the_loop(lock: threading.Lock) -> None:
    read, write = os.pipe()
    loop = IoLoop(lock)
    loop.add_reader(read, loop.stop)
    loop.close()
    loop.close()
    loop.remove_reader(read)
    loop.wake()
    loop.stop()
    os.close(read)
    os.close(write)


def test_a_callback_that_raises_leaves_the_lock_free(loop: IoLoop, lock: threading.Lock) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    loop.make_timer(broken).arm(0)
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert not lock.locked()


# --- timers -------------------------------------------------------------------------------------------------------------
def test_timers_fire_in_order_and_not_early(loop: IoLoop) -> None:
    start = monotonic_ns()
    fired: list[tuple[str, int]] = []
    for name, delay in (("c", 3 * SOON), ("a", SOON), ("b", 2 * SOON)):
        loop.make_timer(lambda name=name: fired.append((name, monotonic_ns() - start))).arm(start + delay)  # type: ignore[misc]
    loop.make_timer(loop.stop).arm(start + 4 * SOON)
    run(loop)
    assert [name for name, _ in fired] == ["a", "b", "c"]
    for (_, at), delay in zip(fired, (SOON, 2 * SOON, 3 * SOON), strict=True):
        assert at >= delay


def test_a_cancelled_timer_is_silent(loop: IoLoop) -> None:
    fired: list[int] = []
    timer = loop.make_timer(lambda: fired.append(1))
    timer.arm(monotonic_ns() + SOON)
    timer.cancel()
    assert timer.due is None
    loop.make_timer(loop.stop).arm(monotonic_ns() + 3 * SOON)
    run(loop)
    assert not fired


def test_rearming_moves_a_timer_and_it_fires_once(loop: IoLoop) -> None:
    fired: list[int] = []
    timer = loop.make_timer(lambda: fired.append(monotonic_ns()))
    start = monotonic_ns()
    timer.arm(start + SOON)
    timer.arm(start + 3 * SOON)
    loop.make_timer(loop.stop).arm(start + 6 * SOON)
    run(loop)
    assert len(fired) == 1 and fired[0] >= start + 3 * SOON
    assert timer.due is None


def test_a_timer_may_rearm_itself(loop: IoLoop) -> None:
    fired: list[int] = []

    def again() -> None:
        fired.append(1)
        if len(fired) == 5:
            loop.stop()
        else:
            timer.arm(monotonic_ns() + SOON // 5)

    timer = loop.make_timer(again)
    timer.arm(0)
    run(loop)
    assert len(fired) == 5


def test_an_earlier_timer_wakes_a_loop_that_sleeps_for_a_later_one(loop: IoLoop, lock: threading.Lock) -> None:
    loop.make_timer(loop.stop).arm(monotonic_ns() + NEVER)
    asleep = threading.Event()
    loop.make_timer(asleep.set).arm(0)

    def arm() -> None:
        asleep.wait(50)
        with lock:
            loop.make_timer(loop.stop).arm(monotonic_ns() + SOON)

    thread = threading.Thread(target=arm)
    thread.start()
    run(loop)
    thread.join()


def test_arming_without_end_does_not_grow_the_heap(loop: IoLoop) -> None:
    timers = [loop.make_timer(lambda: None) for _ in range(10)]
    for count in range(20_000):
        timers[count % 10].arm(monotonic_ns() + NEVER + count)
    assert len(loop._timers) <= 512
    live = sorted(timer.due or 0 for timer in timers)
    assert sorted(at for at, _, timer in loop._timers if timer.due == at) == live


# --- waking and stopping ------------------------------------------------------------------------------------------------
def test_stop_before_run(loop: IoLoop) -> None:
    loop.stop()
    run(loop)


def test_stop_from_another_thread(loop: IoLoop) -> None:
    threading.Timer(0.02, loop.stop).start()
    run(loop)


def test_stop_from_a_signal_handler(loop: IoLoop) -> None:
    before = signal.signal(signal.SIGUSR2, lambda *_: loop.stop())
    try:
        threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR2)).start()
        run(loop)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_idle_loop_does_not_wake_up(loop: IoLoop, lock: threading.Lock) -> None:
    class Counting:
        entered = 0

        def acquire(self, timeout: float) -> bool:
            Counting.entered += 1
            return lock.acquire(timeout=timeout)

        def release(self) -> None:
            lock.release()

    loop._lock = Counting()
    loop.make_timer(loop.stop).arm(monotonic_ns() + 300_000_000)
    run(loop)
    assert Counting.entered == 2  # the wake-up that arming was, and the timer


# --- somebody keeps the lock --------------------------------------------------------------------------------------------
def test_the_deadline_comes_although_the_lock_is_kept(loop: IoLoop, lock: threading.Lock) -> None:
    loop.deadline = loop.make_timer(loop.stop)
    loop.deadline.arm(monotonic_ns() + SOON)
    with lock:
        run(loop)
    assert loop.deadline.due is None


def test_stop_works_although_the_lock_is_kept(loop: IoLoop, lock: threading.Lock) -> None:
    loop.wake()
    with lock:
        threading.Timer(0.05, loop.stop).start()
        run(loop)


def test_work_goes_on_when_the_lock_comes_free_late(loop: IoLoop, lock: threading.Lock) -> None:
    loop.make_timer(loop.stop).arm(0)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()  # longer than the loop's patience
    run(loop)
    assert not lock.locked()


def test_given_up_when_abandoned_or_overdue(loop: IoLoop) -> None:
    def late() -> None:
        loop.abandoned = True

    assert not loop.given_up()
    loop.deadline = loop.make_timer(late)
    loop.deadline.arm(monotonic_ns() + NEVER)
    assert not loop.given_up()
    loop.deadline.arm(monotonic_ns())
    assert loop.given_up()


# --- the guest's clock ---------------------------------------------------------------------------------------------------


def test_the_guests_clock_goes_on_where_it_is_set(loop: IoLoop) -> None:
    clock = GuestClock(loop)
    assert abs(clock() - monotonic_ns()) < NEVER
    clock.set(1000)
    assert 1000 <= clock() < 1000 + NEVER
    before = clock()
    assert clock() >= before


@pytest.mark.parametrize("now", [0, 10**18])
def test_its_timers_take_its_time(loop: IoLoop, now: int) -> None:
    clock = GuestClock(loop)
    clock.set(now)
    early = clock.make_timer(lambda: pytest.fail("cancelled"))
    early.arm(clock())
    early.cancel()
    clock.make_timer(loop.stop).arm(clock() + SOON)
    began = monotonic_ns()
    run(loop)
    assert monotonic_ns() - began >= SOON


def test_a_timer_set_by_a_callback_does_not_wake_its_own_loop(loop: IoLoop) -> None:
    second = loop.make_timer(loop.stop)
    first = loop.make_timer(lambda: second.arm(monotonic_ns()))
    first.arm(monotonic_ns())
    run(loop)
    assert loop.turns == 2
