"""libslirp by ctypes: a TCP/IP stack in this process that turns the guest's connections into sockets.

The library owns no thread and no event loop. It is told of the guest's frames (``slirp_input``), names the descriptors it waits
for (``slirp_pollfds_fill``) and is told which are ready (``slirp_pollfds_poll``). Those descriptors live in an epoll of their
own, which is one reader of the I/O loop: nothing is polled while nothing happens. A frame of the guest's may change them; an
eventfd in the same epoll has them asked for again, once for a whole batch.

Called with the GIL held (PyDLL): no call blocks, and giving the GIL up and waiting for it again would cost more. Callbacks only
note what they are told, so that neither a card nor the loop is entered from within the library (a frame's answers
reach the card right after it); one that raises has the
exception raised again when the library has returned.
"""

from __future__ import annotations

import ctypes
import os
import select
from time import monotonic_ns

from pyvmm.backends.net import slirp_abi as abi
from pyvmm.backends.net.backend import BUDGET, MAX_FRAME, MIN_FRAME, Wire, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.net.backend import Frame, NetPeer
    from pyvmm.backends.net.user import UserNetwork
    from pyvmm.config import NetConfig
    from pyvmm.ioloop import IoLoop, LoopTimer

QUEUE = 512  # frames for the guest; libslirp has few under way, the guest's TCP windows bound them
AT_ONCE = 8  # of them while the guest's vCPU waits for its doorbell; the I/O loop has the rest
_IDLE_MS = 1000  # pollfds_fill's answer when nothing is due: wait for ever
_FOR_EVER = 0xFFFF_FFFF
_FLOWS = 4096  # sockets of the guest's at most; half of what `ulimit -n` allows if that is less

_EVENTS = ((1, select.EPOLLIN), (2, select.EPOLLOUT), (4, select.EPOLLPRI), (8, select.EPOLLERR), (16, select.EPOLLHUP))
_TO_EPOLL = [sum(theirs for ours, theirs in _EVENTS if mask & ours) for mask in range(32)]  # SLIRP_POLL_* in libslirp.h
_FROM_EPOLL = [sum(ours for ours, theirs in _EVENTS if mask & theirs) for mask in range(32)]


class _Alarm:
    """A timer of the library's; ``due`` is None while it is not set."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.due: int | None = None  # nanoseconds


class SlirpWire(Wire):
    """One network with its NAT.

    Raises:
        ConfigError: libslirp refuses it, or a port of the host's cannot be had.
    """

    def __init__(self, config: NetConfig, options: UserNetwork, library: abi.Library) -> None:
        super().__init__(config.id)
        self.link = True
        self._library = library
        self._failure: BaseException | None = None
        self._queue: list[bytes] = []  # for the guest
        self._wanted: list[tuple[int, int]] = []  # (descriptor, SLIRP_POLL_*) since the last fill
        self._watched: dict[int, int] = {}  # descriptor: epoll events
        self._ready: dict[int, int] = {}
        self._flows: set[int] = set()
        self._most_flows = min(_FLOWS, os.sysconf("SC_OPEN_MAX") // 2)
        self._alarms: dict[int, _Alarm] = {}
        self._paused = self._asked = self._delivering = False
        self._timer: LoopTimer | None = None
        self._epoll = select.epoll()
        self._ask = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._ask, select.EPOLLIN)
        self._add_poll = abi.AddPoll(self._guard(self._on_add_poll, -1))  # these live as long as C may call them
        self._get_events = abi.GetEvents(self._guard(self._on_get_events, 0))
        self._callbacks = self._make_callbacks()
        self._slirp: int | None = None
        try:
            self._slirp = library.new(ctypes.byref(abi.configure(options, library.version)), ctypes.byref(self._callbacks), None)
            self._check()
            if not self._slirp:
                raise complain(config, "libslirp refuses these options")
            for each in options.forwards:
                outside, inside = abi.packed(each.host), abi.packed(each.guest)
                if library.forward(self._slirp, each.udp, outside, each.host_port, inside, each.guest_port):
                    reason = os.strerror(ctypes.get_errno()) if ctypes.get_errno() else "cannot listen there"
                    raise complain(config, f"hostfwd={each.text}: {reason}; choose another port of the host's")
            self._check()
        except BaseException:
            self.close()
            raise

    # --- the card's calls --------------------------------------------------------------------------------------------
    def attach(self, loop: IoLoop, nic: NetPeer) -> None:
        super().attach(loop, nic)
        self._timer = loop.make_timer(self._serve)
        self._paused = False
        loop.add_reader(self._epoll.fileno(), self._serve)
        self._timer.arm(monotonic_ns())

    def detach(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.counters.dropped_rx += len(self._queue)
        self._queue.clear()
        super().detach()

    def close(self) -> None:
        super().close()
        slirp, self._slirp = self._slirp, None
        if slirp:
            self._library.cleanup(slirp)
        if self._ask >= 0:
            os.close(self._ask)
            self._ask = -1
            self._epoll.close()

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        data = frame if isinstance(frame, bytes) else bytes(frame)
        if self._slirp is None or not MIN_FRAME <= len(data) <= MAX_FRAME or len(self._flows) >= self._most_flows and _opens(data):
            self.counters.dropped_tx += 1
            return
        self.counters.sent += 1
        self._library.input(self._slirp, data, len(data))
        self._check()
        if not self._asked:
            self._asked = True
            os.eventfd_write(self._ask, 1)
        if self._queue and not self._paused and not self._delivering:  # the network answered at once: so does the wire
            self._deliver(AT_ONCE)

    def resume(self) -> None:
        if self._paused and self._loop is not None and self._timer is not None:
            self._paused = False
            self._loop.add_reader(self._epoll.fileno(), self._serve)
            self._timer.arm(monotonic_ns())

    # --- the I/O loop's ----------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        if self._paused or self._slirp is None or not self._deliver():
            return
        self._ready = dict(self._epoll.poll(0))
        if self._ask in self._ready:
            self._asked = False
            os.eventfd_read(self._ask)
        now = monotonic_ns()
        for alarm in list(self._alarms.values()):
            if alarm.due is not None and alarm.due <= now:
                alarm.due = None
                alarm.call()
        self._library.poll(self._slirp, 0, self._get_events, None)
        self._check()
        if self._deliver():
            self._fill()

    def _deliver(self, most: int = BUDGET) -> bool:
        """Hands frames to the card. False: not all, so let the sockets wait; it goes on by ``resume`` or the timer."""
        queue, done = self._queue, 0
        count = min(len(queue), most)
        self._delivering = True
        try:
            while done < count:
                if not self._offer(queue[done]):
                    self._pause()
                    return False
                done += 1
        finally:
            self._delivering = False
            del queue[:done]
        if queue and self._timer is not None:
            self._timer.arm(monotonic_ns())
        return not queue

    def _pause(self) -> None:
        self._paused = True
        self.counters.paused += 1
        if self._loop is not None and self._timer is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._timer.cancel()

    def _fill(self) -> None:
        """Asks which descriptors and which moment to wait for."""
        self._wanted.clear()
        timeout = ctypes.c_uint32(_FOR_EVER)
        self._library.fill(self._slirp, ctypes.byref(timeout), self._add_poll, None)
        self._check()
        wanted: dict[int, int] = {}
        for fd, events in self._wanted:
            wanted[fd] = wanted.get(fd, 0) | _TO_EPOLL[events & 31]
        if wanted != self._watched:
            for fd in self._watched.keys() - wanted.keys():
                self._forget(fd)
            for fd, mask in wanted.items():
                if self._watched.get(fd) != mask:
                    self._watch(fd, mask)
            self._watched = wanted
        due = [alarm.due for alarm in self._alarms.values() if alarm.due is not None]
        if timeout.value < _IDLE_MS:
            due.append(monotonic_ns() + timeout.value * 1_000_000)
        if self._timer is not None:
            if due:
                self._timer.arm(min(due))
            else:
                self._timer.cancel()

    def _watch(self, fd: int, mask: int) -> None:
        if fd in self._watched:
            try:
                self._epoll.modify(fd, mask)
                return
            except FileNotFoundError:
                pass  # another socket by the same number
        self._epoll.register(fd, mask)

    def _forget(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed already, which takes it out

    # --- the library's calls -----------------------------------------------------------------------------------------
    def _guard(self, function: Callable[..., Any], failed: Any) -> Callable[..., Any]:
        """``function`` for C to call: what it raises waits for ``_check``."""

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:
                self._failure = self._failure or error
                return failed

        return call

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _make_callbacks(self) -> abi.Callbacks:
        guard = self._guard
        return abi.Callbacks(
            abi.SendPacket(guard(self._on_packet, 0)),
            abi.GuestError(guard(self._ignore, None)),
            abi.Clock(guard(lambda _opaque: monotonic_ns(), 0)),
            abi.TimerNew(guard(self._on_timer_new, None)),
            abi.TimerFree(guard(lambda timer, _opaque: self._alarms.pop(timer, None), None)),
            abi.TimerMod(guard(self._on_timer_mod, None)),
            abi.PollFd(guard(lambda fd, _opaque: self._flows.add(fd), None)),
            abi.PollFd(guard(self._on_unregister, None)),
            abi.Notify(guard(self._ignore, None)),  # the loop asks again after each input anyway
            abi.InitCompleted(guard(self._ignore, None)),
            abi.TimerNewOpaque(guard(self._on_timer_new_opaque, None)),
        )

    def _ignore(self, *_arguments: object) -> None:
        pass

    def _on_packet(self, data: int, length: int, _opaque: object) -> int:
        if len(self._queue) < QUEUE:
            self._queue.append(ctypes.string_at(data, length))
        else:
            self.counters.dropped_rx += 1
        return length  # less counts as an error of ours

    def _on_timer_new(self, function: int, opaque: int | None, _opaque: object) -> int:
        call = abi.Timer(function)
        return self._new_alarm(lambda: call(opaque))

    def _on_timer_new_opaque(self, identifier: int, opaque: int | None, _opaque: object) -> int:
        return self._new_alarm(lambda: self._library.handle_timer(self._slirp, identifier, opaque))

    def _new_alarm(self, call: Callable[[], None]) -> int:
        handle = len(self._alarms) + 1
        while handle in self._alarms:
            handle += 1
        self._alarms[handle] = _Alarm(call)
        return handle

    def _on_timer_mod(self, timer: int, expire_ms: int, _opaque: object) -> None:
        if timer in self._alarms:
            self._alarms[timer].due = expire_ms * 1_000_000

    def _on_unregister(self, fd: int, _opaque: object) -> None:
        self._flows.discard(fd)
        self._forget(fd)

    def _on_add_poll(self, fd: int, events: int, _opaque: object) -> int:
        self._wanted.append((fd, events))
        return len(self._wanted) - 1

    def _on_get_events(self, index: int, _opaque: object) -> int:
        fd, asked = self._wanted[index] if 0 <= index < len(self._wanted) else (-1, 0)
        ready = self._ready.get(fd, 0)
        return _FROM_EPOLL[ready & 31] & (asked | 24)  # errors and hang-ups come unasked


def _opens(frame: bytes) -> bool:
    """Whether a frame may make libslirp open a socket: IP that is not TCP, or TCP with SYN and without ACK."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) > 34:
        protocol, transport = frame[23], 14 + 4 * (frame[14] & 15)
    elif kind == b"\x86\xdd" and len(frame) > 54:
        protocol, transport = frame[20], 54
    else:
        return False
    return protocol != 6 or frame[transport + 13 : transport + 14] == b"" or frame[transport + 13] & 0x12 == 0x02
