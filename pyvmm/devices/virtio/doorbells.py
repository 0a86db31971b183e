"""Doorbells: one eventfd for each queue, which brings the driver's kick to the loop that serves the device.

The transport rings from an exit (``ring``), or KVM does without one: an ioeventfd at the address where the driver writes
(KVM_IOEVENTFD), which moves when the transport's registers move. Descriptors are made when a driver first starts a queue and
kept until ``close``: a number that was closed and given out again could ring for somebody else.
"""

from __future__ import annotations

import os
from functools import partial

from pyvmm.errors import PyvmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.virtio.device import Loop

    Place = tuple[int, int, int | None]  # address, length of the write (0: any), value that is written (None: any)
    Bind = Callable[[int, int, int, int | None, bool], None]
    """(eventfd, address, length, value, on): makes or undoes an ioeventfd. May raise PyvmmError."""


class Doorbells:
    """The doorbells of one device.

    Args:
        loop: calls ``rang(index)`` on its thread. With a true attribute ``edges`` it does so for each ring, and nobody has to read
            the descriptor for the next one: a system call less.
        rang: what a doorbell does.
        bind: makes ioeventfds; None: every kick is an exit.

    Attributes:
        eventfds: index of the queue -> descriptor.
        bound: index of the queue -> where KVM answers for it.
    """

    def __init__(self, loop: Loop, rang: Callable[[int], None], bind: Bind | None) -> None:
        self._loop = loop
        self._rang = rang
        self._bind = bind
        self._where: Callable[[int], Place] | None = None
        self.eventfds: dict[int, int] = {}
        self.bound: dict[int, Place] = {}

    def open(self, index: int) -> None:
        """Gets a queue's doorbell ready; harmless when it is. Raises OSError when the host has no descriptor left."""
        if index not in self.eventfds:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                edges = getattr(self._loop, "edges", False)
                self._loop.add_reader(fd, partial(self._rang, index) if edges else partial(self._answer, fd, index))
            except BaseException:
                os.close(fd)
                raise
            self.eventfds[index] = fd
            self._settle()

    def ring(self, index: int) -> None:
        """A kick; from any thread. Nothing for a queue that no driver has started yet."""
        fd = self.eventfds.get(index)
        if fd is not None:
            try:
                os.eventfd_write(fd, 1)
            except BlockingIOError:
                pass  # rung 2**64 - 2 times and never answered

    def _answer(self, fd: int, index: int) -> None:
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return
        self._rang(index)

    def place(self, where: Callable[[int], Place] | None) -> None:
        """The transport's registers are now here (None: nowhere): ioeventfds follow. Machine lock held."""
        self._where = where
        self._settle()

    def _settle(self) -> None:
        if self._bind is None:
            return
        for index, fd in self.eventfds.items():
            wanted = None if self._where is None else self._where(index)
            present = self.bound.get(index)
            if present == wanted:
                continue
            if present is not None:
                del self.bound[index]
                self._try(fd, present, False)
            if wanted is not None and self._try(fd, wanted, True):
                self.bound[index] = wanted

    def _try(self, fd: int, place: Place, on: bool) -> bool:
        """False when KVM will not (no room on its bus, another ioeventfd there): the kick then is an exit, with the same effect."""
        assert self._bind is not None
        try:
            self._bind(fd, *place, on)
        except PyvmmError:
            return False
        return True

    def close(self) -> None:
        """Gives everything back. The loop must be at rest: its thread has ended, or the machine lock is held."""
        self.place(None)
        for fd in self.eventfds.values():
            self._loop.remove_reader(fd)
            os.close(fd)
        self.eventfds.clear()
