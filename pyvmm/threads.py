"""The little of ``threading`` that a machine needs, on ``_thread`` itself.

A start of pyvmm with ``import threading`` (collections, functools, operator behind it) takes 104 million instructions by
valgrind's count, with these two classes 93. They behave as their namesakes do.
"""

from __future__ import annotations

from _thread import RLock, allocate_lock, get_ident, start_new_thread

from pyvmm.csignal import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Condition", "Lock", "Thread", "block_signals", "get_ident"]

Lock = allocate_lock
_SIGNALS = (*range(1, 32), *range(34, 65))  # 32 and 33 are the C library's own


def block_signals() -> None:
    """First thing in a thread: signals are the main thread's business."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


class Thread:
    """A daemon thread: the process does not wait for it at its end. ``target`` must not raise."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...] = ()) -> None:
        self._target = target
        self._args = args
        self._running = allocate_lock()  # held while the thread lives, for ``join``
        self._alive = False  # not told from the lock, which whoever joins holds for a moment

    def start(self) -> None:
        """Starts it; once."""
        self._running.acquire()
        self._alive = True
        try:
            start_new_thread(self._run, ())
        except BaseException:
            self._alive = False
            self._running.release()
            raise

    def _run(self) -> None:
        try:
            self._target(*self._args)
        finally:
            self._alive = False
            self._running.release()

    def join(self, timeout: float = -1) -> None:
        """Waits for its end, at most ``timeout`` seconds."""
        if self._running.acquire(timeout=timeout):
            self._running.release()

    def is_alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._alive


class Condition:
    """A re-entrant lock (``with``) and a wait for somebody to change what it protects."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._waiting: list[Any] = []  # a held lock for each waiter; releasing it wakes him

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float = -1) -> None:
        """Gives the lock up, however often it is held, until notified, or for so many seconds."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiting.append(waiter)
        state = self._lock._release_save()  # type: ignore[attr-defined]  # as threading.Condition does
        notified = False
        try:
            notified = waiter.acquire(True, timeout)
        finally:
            self._lock._acquire_restore(state)  # type: ignore[attr-defined]
            if not notified and waiter in self._waiting:
                self._waiting.remove(waiter)

    def wait_for(self, predicate: Callable[[], object], every: float = -1) -> None:
        """Waits until ``predicate()`` is true; it is asked with the lock held.

        Args:
            every: seconds after which it is asked again unasked for. For the main thread, which a signal's handler may have
                something to say to: a signal just before the wait wakes nobody, and a handler's ``notify_all`` finds nobody waiting
                when it comes between the question and the wait.
        """
        while not predicate():
            self.wait(every)

    def notify_all(self) -> None:
        """Wakes every waiter; with the lock held."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.release()
