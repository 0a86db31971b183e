"""libslirp by ctypes: a TCP/IP stack in this process that turns the guest's connections into sockets.

The library owns no thread and no event loop. It is told of the guest's frames (``slirp_input``), names the descriptors it waits
for (``slirp_pollfds_fill``) and is told which are ready (``slirp_pollfds_poll``). Those descriptors live in an epoll of their
own, which is one reader of the I/O loop: nothing is polled while nothing happens. A frame of the guest's may change them: they
are asked for again when the card has sent what it had (``flush``), and what is ready then is served there and then.

Called with the GIL held (PyDLL): no call blocks, and giving the GIL up and waiting for it again would cost more. Callbacks only
note what they are told, so that neither a card nor the loop is entered from within the library; one that raises has the
exception raised again when the library has returned. Those that come with every packet are without that care: lists grow in them.

TCP frames may be large in both directions (large.py), so the card may leave checksums and cutting to this wire.
"""

from __future__ import annotations

import ctypes
import os
import select
from time import monotonic_ns

from pyvmm.backends.net import slirp_abi as abi
from pyvmm.backends.net.backend import BUDGET, MAX_FRAME, MIN_FRAME, Wire, complain
from pyvmm.backends.net.large import MTU, STACK_MTU, LargeFrames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.net.backend import Frame, NetPeer
    from pyvmm.backends.net.user import UserNetwork
    from pyvmm.config import NetConfig
    from pyvmm.ioloop import IoLoop, LoopTimer

QUEUE = 512  # frames for the guest; libslirp has few under way, the guest's TCP windows bound them
_IDLE_MS = 1000  # pollfds_fill's answer when nothing is due: wait for ever
_FOR_EVER = 0xFFFF_FFFF
_LOOK, _CALL = 1, 2  # what is waited for may be something else now; and the library may have something to do by itself
_CONCERNS = {1: 0, 6: _LOOK, 17: 0}  # by IP protocol
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

    Args:
        config, options: what it is like.
        library: libslirp.
        large: its card may take large frames: segments as long as that are made for it.

    Raises:
        ConfigError: libslirp refuses it, or a port of the host's cannot be had.
    """

    offload = True

    def __init__(self, config: NetConfig, options: UserNetwork, library: abi.Library, large: bool = True) -> None:
        super().__init__(config.id)
        self.link = True
        self._library = library
        self._input = library.input
        self._failure: BaseException | None = None
        self._large = LargeFrames(STACK_MTU if large else MTU)
        self._queue: list[tuple[Frame, bytes | None]] = []  # for the guest: frame, offload header
        self._wanted: dict[int, int] = {}  # descriptor: SLIRP_POLL_*, since the last fill
        self._watched: dict[int, int] = {}  # descriptor: epoll events
        self._ready: dict[int, int] = {}
        self._flows: set[int] = set()
        self._most_flows = min(_FLOWS, os.sysconf("SC_OPEN_MAX") // 2)
        self._alarms: dict[int, _Alarm] = {}
        self._paused = self._delivering = False
        self._asked = 0  # what a frame of the guest's may have changed: _LOOK, _CALL
        self._stale = True  # the epoll does not hold what was wanted last
        self._timer: LoopTimer | None = None
        self._timeout = ctypes.c_uint32()
        self._timeout_at = ctypes.byref(self._timeout)
        self._soonest: int | None = None  # when the first alarm is due
        self._epoll = select.epoll()
        self._add_poll = abi.AddPoll(self._on_add_poll)  # these live as long as C may call them
        self._get_events = abi.GetEvents(self._on_get_events)
        self._callbacks = self._make_callbacks()
        self._slirp: int | None = None
        try:
            settings = abi.configure(options, library.version, self._large.mtu)
            self._slirp = library.new(ctypes.byref(settings), ctypes.byref(self._callbacks), None)
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
        self._epoll.close()

    def set_offload(self, flags: int) -> None:
        self._large.flags = flags

    def send(self, frame: Frame, header: Frame | None = None) -> None:
        slirp, counters = self._slirp, self.counters
        if slirp is None or not MIN_FRAME <= len(frame) <= MAX_FRAME:
            counters.dropped_tx += 1
            return
        pieces = self._large.outward(frame, header)
        if not pieces or len(self._flows) >= self._most_flows and _opens(pieces[0]):
            counters.dropped_tx += 1
            return
        counters.sent += 1
        for data in pieces:
            self._input(slirp, data, len(data))
        if self._failure is not None:
            self._check()
        if self._asked < _CALL:
            asked = _concerns(pieces[0])
            if asked > self._asked:
                self._asked = asked

    def flush(self) -> None:
        if self._paused or self._delivering or self._loop is None:
            if self._delivering and self._asked and self._timer is not None:
                self._timer.arm(monotonic_ns())  # somebody answers what is being delivered (through a hub): behind it
            return
        if self._queue and not self._deliver():
            return
        asked, self._asked = self._asked, 0
        if asked:
            self._fill()
            self._poll(asked > _LOOK)

    def resume(self) -> None:
        if self._paused and self._loop is not None and self._timer is not None:
            self._paused = False
            self._loop.add_reader(self._epoll.fileno(), self._serve)
            self._timer.arm(monotonic_ns())

    # --- the I/O loop's ----------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        if self._paused or self._slirp is None or not self._deliver():
            return
        self._asked = 0
        self._poll(True)

    def _poll(self, due: bool) -> None:
        """Serves what is ready. ``due``: the library is called in any case: it may hold packets back, or one of its clocks has run out."""
        self._ready = dict(self._epoll.poll(0))
        if not due and not self._ready:
            return
        if self._soonest is not None and self._soonest <= monotonic_ns():
            self._ring()
        self._library.poll(self._slirp, 0, self._get_events, None)
        if self._failure is not None:
            self._check()
        if not self._queue or self._deliver():
            self._fill()

    def _ring(self) -> None:
        """Alarms whose time has come."""
        now = monotonic_ns()
        for alarm in list(self._alarms.values()):
            if alarm.due is not None and alarm.due <= now:
                alarm.due = None
                alarm.call()
        self._look_for_soonest()

    def _look_for_soonest(self) -> None:
        self._soonest = min((alarm.due for alarm in self._alarms.values() if alarm.due is not None), default=None)

    def _deliver(self) -> bool:
        """Hands frames to the card. False: not all, so let the sockets wait; it goes on by ``resume`` or the timer."""
        queue, nic = self._queue, self._nic
        if not queue:
            return True
        if nic is None:
            self.counters.dropped_rx += len(queue)
            queue.clear()
            return True
        done, several = 0, len(queue) > 1
        self._delivering = True
        if several:
            nic.burst(True)
        try:
            for frame, header in queue[:BUDGET]:
                if not nic.receive(frame, header):
                    self._pause()
                    return False
                done += 1
        finally:
            self.counters.received += done
            del queue[:done]
            if several:
                nic.burst(False)
            self._delivering = False
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
        before, self._wanted = self._wanted, {}
        self._timeout.value = _FOR_EVER
        self._library.fill(self._slirp, self._timeout_at, self._add_poll, None)
        if self._failure is not None:
            self._check()
        if self._stale or self._wanted != before:
            self._stale = False
            self._rewatch()
        due, timeout, timer = self._soonest, self._timeout.value, self._timer
        if timeout < _IDLE_MS:
            then = monotonic_ns() + timeout * 1_000_000
            due = then if due is None else min(due, then)
        if due is not None and timer is not None and (timer.due is None or due < timer.due):
            timer.arm(due)  # one that is set and comes too early costs less than setting it each time

    def _rewatch(self) -> None:
        """The epoll follows what is wanted."""
        wanted = {fd: _TO_EPOLL[events & 31] for fd, events in self._wanted.items()}
        for fd in self._watched.keys() - wanted.keys():
            self._forget(fd)
        for fd, mask in wanted.items():
            if self._watched.get(fd) != mask:
                self._watch(fd, mask)
        self._watched = wanted

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
            abi.SendPacket(self._on_packet),
            abi.GuestError(guard(self._ignore, None)),
            abi.Clock(monotonic_ns),
            abi.TimerNew(guard(self._on_timer_new, None)),
            abi.TimerFree(guard(self._on_timer_free, None)),
            abi.TimerMod(guard(self._on_timer_mod, None)),
            abi.PollFd(guard(self._on_register, None)),
            abi.PollFd(guard(self._on_unregister, None)),
            abi.Notify(guard(self._ignore, None)),  # it is asked again after each input that matters
            abi.InitCompleted(guard(self._ignore, None)),
            abi.TimerNewOpaque(guard(self._on_timer_new_opaque, None)),
        )

    def _ignore(self, *_arguments: object) -> None:
        pass

    def _on_packet(self, data: int, length: int, _opaque: object) -> int:
        queue = self._queue
        if len(queue) < QUEUE:
            queue += self._large.inward(ctypes.string_at(data, length))
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
            self._look_for_soonest()

    def _on_timer_free(self, timer: int, _opaque: object) -> None:
        self._alarms.pop(timer, None)
        self._look_for_soonest()

    def _on_register(self, fd: int, _opaque: object) -> None:
        self._flows.add(fd)
        self._forget(fd)  # another socket by the same number may have gone without a word
        self._asked, self._stale = max(self._asked, _LOOK), True

    def _on_unregister(self, fd: int, _opaque: object) -> None:
        self._flows.discard(fd)
        self._forget(fd)
        self._asked, self._stale = max(self._asked, _LOOK), True

    def _on_add_poll(self, fd: int, events: int, _opaque: object) -> int:
        self._wanted[fd] = events
        return fd  # its "index": it is asked for by this number

    def _on_get_events(self, fd: int, _opaque: object) -> int:
        ready = self._ready.get(fd, 0)
        return ready and _FROM_EPOLL[ready & 31] & (self._wanted.get(fd, 0) | 24)  # errors and hang-ups come unasked


def _concerns(frame: bytes) -> int:
    """What a frame of the guest's may have changed, beside sockets that came or went."""
    if len(frame) > 34 and frame[12:14] == b"\x08\x00" and not (frame[20] & 0x3F or frame[21]):
        return _CONCERNS.get(frame[23], _CALL)
    return _CALL  # ARP lets packets go that waited for it, a fragment starts a clock


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
