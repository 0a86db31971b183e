"""A device's own I/O thread: a loop beside the main one, for doorbells whose service may wait for the host.

Its callbacks run WITHOUT the machine lock and must never take it: a vCPU may hold that lock while it waits for this thread.
The thread starts with the first reader, so a disk whose driver never comes costs none.

Descriptors are watched for edges (man 7 epoll): each ring of a doorbell is an event, and nobody has to read the eventfd for the next one.
"""

from __future__ import annotations

import os
import select
import sys

from pyvmm.errors import HostError
from pyvmm.threads import Lock, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


# How long a vCPU that has left KVM_RUN waits for Python while another thread computes; CPython's default is 5 ms. Measured with a thread
# that never pauses beside a guest of back-to-back OUTs (two busy cores): 2,700-7,300 exits/s at 5 ms, 12,600-13,400 at 0.5 ms, no
# more at 0.2 ms; the thread lost nothing. One that serves reads from the page cache lets Python go in each preadv: 20,000 at either.
_SWITCH_SECONDS = 0.0005


class IoThread:
    """A loop on a thread of its own.

    Args:
        crashed: called with what a callback raised (a bug in pyvmm, the thread has ended then), or a HostError when the host
            gives no thread. From any thread.

    Attributes:
        edges: a callback need not read its descriptor: it is called again when something more comes.
    """

    edges = True

    def __init__(self, crashed: Callable[[BaseException], None]) -> None:
        self._crashed = crashed
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._readers: dict[int, Callable[[], None]] = {self._wake: lambda: None}
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopped = False
        self._starting = Lock()
        self._thread: Thread | None = None

    def add_reader(self, fd: int, callback: Callable[[], None]) -> bool:
        """Calls ``callback`` on this object's thread whenever something has come to ``fd``, perhaps once too often."""
        with self._starting:
            if self._thread is None:
                sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
                self._thread = Thread(target=self._run)
                try:
                    self._thread.start()
                except RuntimeError:  # "can't start new thread"
                    self._crashed(HostError("no thread for a disk's I/O: use fewer disks, or raise `ulimit -u` and `ulimit -v`"))
        self._readers[fd] = callback  # first: an edge comes once
        try:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        except BaseException:
            del self._readers[fd]
            raise
        return True

    def remove_reader(self, fd: int) -> None:
        """Stops watching. A callback that has begun on the other thread goes on: the caller closes ``fd`` when its device is idle."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _run(self) -> None:
        block_signals()
        wait, readers = self._epoll.poll, self._readers
        try:
            while not self._stopped:
                for fd, _ in wait():
                    callback = readers.get(fd)  # another one has removed it: nothing
                    if callback is not None:
                        callback()
        except BaseException as error:  # nothing a guest does may show anybody a traceback
            self._crashed(error)

    def stop(self) -> None:
        """Ends the thread after the callback it is in."""
        self._stopped = True
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def join(self, timeout: float) -> None:
        """Waits for its end after ``stop``, at most ``timeout`` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread has been started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Closes the loop's own descriptors; not while the thread is alive."""
        if not self._epoll.closed:
            self._readers.clear()
            self._epoll.close()
            wake, self._wake = self._wake, -1
            os.close(wake)
