"""virtio-rng: the host's random numbers (Virtio specification 1.2, 5.4). Lives on the main loop, machine lock held."""

from __future__ import annotations

import os

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import QueueError
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.device import Clock, MakeTimer
    from pyvmm.devices.virtio.device import Loop
    from pyvmm.scatter import Views

_MOST = 4096  # bytes for one request: a driver gets less than it has room for, never nothing (5.4.6.2)
_TURN = 64  # requests before the others on the loop get their turn


class RngState(Record):
    """What a snapshot holds of an entropy source.

    Fields:
        left: bytes until the present period ends; None without a limit.
        ends: when that is, by the clock; 0 while no period is under way.
    """

    left: int | None
    ends: int = 0


class VirtioRng(VirtioDevice):
    """An entropy source.

    Args:
        name: for messages.
        loop: the main loop.
        clock, make_timer: for the limit.
        limit: bytes in a period, None for no limit.
        period_ns: its length, from the first request on.
    """

    device_id = 4
    pci_class = 0x00FF00
    queue_sizes = (8,)

    def __init__(self, name: str, loop: Loop, clock: Clock, make_timer: MakeTimer, limit: int | None = None, period_ns: int = 0) -> None:
        super().__init__(name, loop)
        self.state = RngState(left=limit)
        self._limit = limit
        self._period_ns = period_ns
        self._clock = clock
        self._timer = make_timer(self._next_period)

    def serve(self, index: int) -> None:
        queue = self.queues[index]
        if queue is None:
            return
        queue.disable_kicks()
        try:
            for _ in range(_TURN):
                if self.state.left == 0:
                    return  # _next_period goes on
                chain = queue.pop()
                if chain is None:
                    if not queue.enable_kicks():
                        return
                    continue
                if chain.faulty:
                    raise QueueError(chain.faulty)
                queue.push(chain.head, self._fill(chain.writable))
            self.signals.kick(index)
        finally:
            if queue.should_signal():
                self.signals.queue(index)

    def _fill(self, views: Views) -> int:
        data = os.urandom(min(sum(map(len, views)), _MOST if self.state.left is None else min(self.state.left, _MOST)))
        written = 0
        for view in views:
            part = data[written : written + len(view)]
            view[: len(part)] = part
            written += len(part)
        if self.state.left is not None:
            self.state.left -= written
            if not self.state.ends:
                self.state.ends = self._clock() + self._period_ns
                self._timer.arm(self.state.ends)
        return written

    def restored(self) -> None:
        """After the state was assigned from outside: the timer follows."""
        if self.state.ends:
            self._timer.arm(self.state.ends)
        else:
            self._timer.cancel()

    def _next_period(self) -> None:
        self.state.ends = 0
        self.state.left = self._limit
        self.signals.serve(0)
