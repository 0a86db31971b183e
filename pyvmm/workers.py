"""A few threads for what waits on the host's disks: started when a job finds nobody free, kept until the end of the run.

Jobs are bound methods with an argument, so that handing one over makes no closure. The thread that became free last gets the next job.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvmm.threads import Lock, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Job = tuple[Callable[..., None], tuple[Any, ...]]

LIMIT = 8  # threads: a disk's queue is hardly deeper, and Python runs one at a time between two system calls


class Workers:
    """A pool of at most ``limit`` threads; ``submit`` from any thread.

    Args:
        crashed: called, on the worker's thread, with what a job raised: a bug in pyvmm.
        limit: how many threads there may be.
    """

    def __init__(self, crashed: Callable[[BaseException], None], limit: int = LIMIT) -> None:
        self._crashed = crashed
        self._limit = limit
        self._lock = Lock()
        self._idle: list[_Worker] = []
        self._jobs: list[Job] = []  # waiting because everybody is busy; the submitters bound their number
        self._threads: list[Thread] = []
        self._stopping = False

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Has ``function(*arguments)`` called on a thread of the pool; on this one when the host gives none, or after ``stop``."""
        job = (function, arguments)
        if not self._hand_over(job):
            self._run(job)

    def _hand_over(self, job: Job) -> bool:
        with self._lock:
            if self._stopping:
                return False
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.ready.release()
                return True
            if len(self._threads) < self._limit:
                thread = Thread(target=self._serve, args=(_Worker(job),))
                try:
                    thread.start()
                    self._threads.append(thread)
                    return True
                except RuntimeError:  # "can't start new thread"
                    self._limit = len(self._threads)  # the host will not give more soon
            if self._threads:
                self._jobs.append(job)
            return bool(self._threads)

    def _serve(self, worker: _Worker) -> None:
        block_signals()
        while worker.job is not None:
            self._run(worker.job)
            with self._lock:
                if self._jobs:
                    worker.job = self._jobs.pop(0)
                    continue
                worker.job = None
                if self._stopping:
                    return
                self._idle.append(worker)
            worker.ready.acquire()

    def _run(self, job: Job) -> None:
        try:
            job[0](*job[1])
        except BaseException as error:  # nothing a guest does may show anybody a traceback
            self._crashed(error)

    def stop(self) -> None:
        """Ends every thread once it has nothing more to do; what was submitted before is still done."""
        with self._lock:
            self._stopping = True
            idle, self._idle = self._idle, []
            for worker in idle:
                worker.ready.release()

    def join(self, timeout: float) -> None:
        """Waits for the threads' end after ``stop``, at most ``timeout`` seconds in all."""
        end = monotonic_ns() + int(timeout * 1e9)
        for thread in self._threads:
            thread.join(max(end - monotonic_ns(), 0) / 1e9)

    @property
    def alive(self) -> bool:
        """Whether a thread has not ended yet."""
        return any(thread.is_alive() for thread in self._threads)


class _Worker:
    """What a thread is to do next: None, once it was woken, for nothing more."""

    __slots__ = ("job", "ready")

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.ready = Lock()
        self.ready.acquire()
