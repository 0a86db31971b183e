"""virtio-blk: a disk over a block backend. Sections are those of the Virtio specification 1.2.

    doorbell (ioeventfd) -> the disk's I/O thread: serve
      plain requests that need not wait   -> blk_quick.py    on the I/O thread, one after the other without further ado
    what they leave -> pop, parse
      read from the page cache (try_read) -> push            on the I/O thread, without a thread switch
      what waits for the host, alone      -> execute, push   on the I/O thread: two switches would cost more than they win
      what waits for the host, in company -> workers         so that a deep queue keeps the host's disk busy
    -> one interrupt for a batch

Nothing is copied: views of guest memory go to preadv and pwritev. No machine lock anywhere below ``serve``; a queue's own lock
orders completions.

What survives a crash (5.2.6.2): a FLUSH is acknowledged after fdatasync, begun after every write acknowledged before it. A driver that
cannot flush, or has switched the write cache off, has each write flushed before it is acknowledged.

A host's error is the guest's I/O error, and a line on stderr now and then; the guest lives on.
"""

from __future__ import annotations

import errno
from time import monotonic_ns, sleep

from pyvmm.backends.block.raw import RawFile
from pyvmm.backends.stderr import say
from pyvmm.devices.virtio import blk_config
from pyvmm.devices.virtio.blk_config import F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_WRITE_ZEROES, WRITEBACK, BlkOptions
from pyvmm.devices.virtio.blk_quick import Quick
from pyvmm.devices.virtio.blk_request import (
    DISCARD,
    DONE,
    FLUSH,
    GET_ID,
    ID_LENGTH,
    IN,
    IOERR,
    NAMES,
    OK,
    OUT,
    WRITE_ZEROES,
    Disk,
    Request,
    parse,
    usual,
)
from pyvmm.devices.virtio.blk_waits import Waits
from pyvmm.devices.virtio.device import VirtioDevice, read_bytes
from pyvmm.record import Record
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.devices.virtio.device import Loop
    from pyvmm.devices.virtio.queue import VirtQueue
    from pyvmm.scatter import Views

    Submit = Callable[..., None]

_BATCH = 16  # completions per interrupt while more requests wait
_TURN = 256  # requests of one queue before the others get their turn
_SLOW_NS = 100_000  # writes and flushes that lately waited longer than this wait for the host's disk
_QUICK_NS = 50_000  # reads that wait less wait for no disk, where the host's file system cannot say so itself (tmpfs, 9p)
_DEEP = 32  # requests handed to workers after one was found waiting behind another
_QUIET_NS = 10 * 10**9  # between two messages about the same kind of error
_POLL = 0.0005  # seconds


class BlkState(Record):
    """Fields: writeback: the configuration space's byte, 1 while the write cache is on."""

    writeback: int


class _Lane:
    """A queue in use, and what is in flight of it.

    Attributes:
        stopped: take nothing more, and begin nothing that was taken.
        in_flight: requests that workers have; counted with the queue's lock held.
        deep: how many requests more go to workers although nothing else is in flight.
        whole: the queue takes tables whole, so that plain requests may be answered in a row.
        quick: who does that; None for want of a raw file.
    """

    __slots__ = ("queue", "stopped", "in_flight", "deep", "whole", "quick")

    def __init__(self, queue: VirtQueue) -> None:
        self.whole = queue.take_whole()
        self.queue = queue
        self.quick: Quick | None = None
        self.stopped = False
        self.in_flight = 0
        self.deep = 0


class VirtioBlk(VirtioDevice):
    """A disk.

    Args:
        name: for messages.
        loop: the disk's own I/O thread.
        submit: hands a call to a pool of workers (``Workers.submit``).
        backend: where the bytes are; closed by its owner.
        options: see BlkOptions; checked by the caller.
    """

    device_id = 2
    pci_class = 0x010000
    registers = "pyvmm.devices.virtio.blk_regs:REGISTERS"

    def __init__(self, name: str, loop: Loop, submit: Submit, backend: BlockBackend, options: BlkOptions | None = None) -> None:
        options = options or BlkOptions()
        self.queue_sizes = (options.queue_size,) * options.queues
        super().__init__(name, loop)
        self.backend = backend
        self._submit = submit
        self._write_cache = backend.write_cache if options.write_cache is None else options.write_cache
        self.state = BlkState(writeback=int(self._write_cache))
        self._id = options.serial.encode("utf-8", "replace")[:ID_LENGTH].ljust(ID_LENGTH, b"\0")
        self.disk = Disk(backend.size, options.logical, backend.readonly)
        self.features = blk_config.features(options, backend)
        blk_config.set_limits(self.disk, self.features, backend.discard)
        self._config = blk_config.space(options, self.disk)
        self._lanes: list[_Lane | None] = [None] * options.queues
        self._reads, self._writes = Waits(_QUICK_NS), Waits(_SLOW_NS)
        self._flushes = Waits(_SLOW_NS, known=False)
        self._knows_cache = False  # try_read has succeeded: where it does not, the host would wait
        self._told: dict[tuple[str, int], list[int]] = {}  # (operation, errno) -> [when last told, how many since]
        self._told_lock = Lock()

    # --- registers and life: machine lock held ----------------------------------------------------------------------
    def read_config(self, offset: int, size: int) -> int:
        self._config[WRITEBACK] = self.state.writeback
        return read_bytes(self._config, offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        if self.negotiated & F_CONFIG_WCE and offset <= WRITEBACK < offset + size:
            self.state.writeback = value >> 8 * (WRITEBACK - offset) & 1
            self._set_write_through()

    def _set_write_through(self) -> None:
        """5.2.6.2: when a write that is acknowledged must also be durable."""
        cached = bool(self.negotiated & F_FLUSH) and self._write_cache
        if self.negotiated & F_CONFIG_WCE:
            cached = bool(self.state.writeback)
        self.disk.through = not cached and self.backend.write_cache

    def start(self, queues: list[VirtQueue | None], features: int) -> None:
        super().start(queues, features)
        if features & F_CONFIG_WCE and not features & F_FLUSH:
            self.state.writeback = 0  # 5.2.5.2
        self.disk.discard = bool(features & F_DISCARD)
        self.disk.write_zeroes = bool(features & F_WRITE_ZEROES)
        self._set_write_through()
        self._lanes = [None if queue is None else _Lane(queue) for queue in queues]

    def queue_started(self, index: int, queue: VirtQueue) -> None:
        super().queue_started(index, queue)
        self._lanes[index] = _Lane(queue)

    def stop(self, index: int | None) -> None:
        for lane in self._chosen(index):
            lane.stopped = True

    def idle(self, index: int | None) -> bool:
        return not any(lane.in_flight for lane in self._chosen(index))

    def wait_idle(self, index: int | None, timeout: float) -> bool:
        end = monotonic_ns() + int(timeout * 1e9)
        while not self.idle(index):
            if monotonic_ns() >= end:
                return False
            sleep(_POLL)
        return True

    def reset(self) -> None:
        self.negotiated = 0
        self.state.writeback = int(self._write_cache)
        self._lanes = [None] * len(self.queue_sizes)

    def _chosen(self, index: int | None) -> list[_Lane]:
        lanes = self._lanes if index is None else [self._lanes[index]]
        return [lane for lane in lanes if lane is not None]

    # --- on the disk's I/O thread -----------------------------------------------------------------------------------
    def serve(self, index: int) -> None:
        lane = self._lanes[index]
        if lane is None or lane.stopped:
            return
        queue = lane.queue
        pop, push, lock, available = queue.pop, queue.push, queue.lock, queue.parts()[1]
        backend, disk, reads = self.backend, self.disk, self._reads
        quick = lane.quick
        if quick is None or quick.backend is not backend:  # it is new, or somebody listens
            quick = None
            if lane.whole and type(backend) is RawFile:
                quick = Quick(queue, disk, backend, reads, self._writes, self._flushes)
            lane.quick = quick
        queue.disable_kicks()
        waiting: Request | None = None  # taken, would wait for the host; what comes next decides who executes it
        alone = False  # the request before was executed here, for want of company
        served = unsignalled = 0
        while not lane.stopped:
            tried = False
            if available[1] == queue.last_avail:
                request = None
            else:
                if quick is not None and waiting is None and not alone and not lane.in_flight:
                    done = quick.answer(lane, _BATCH - unsignalled)
                    if done:
                        served += done
                        unsignalled += done
                        if unsignalled >= _BATCH:
                            unsignalled = 0
                            self._signal(lane, index)
                        if served >= _TURN:
                            self.signals.kick(index)
                            break
                        if not quick.refused:
                            continue
                    tried, quick.refused = quick.refused, False
                    self._knows_cache |= quick.cached
                request = usual(queue, disk)
                if request is None and (chain := pop()) is not None:
                    request = parse(chain, disk)
            if request is None:
                if unsignalled:
                    unsignalled = 0
                    self._signal(lane, index)
                    if waiting is None:
                        continue  # with one CPU for both, the driver has run meanwhile: its next request needs no doorbell
                if waiting is not None:
                    if waiting.kind not in (IN, OUT) or lane.in_flight or lane.deep:
                        self._hand_over(lane, index, waiting)
                    else:
                        self._complete(queue, waiting, self._execute(lane, waiting))
                        self._signal(lane, index)
                        alone = True
                    waiting = None
                    continue
                if not queue.enable_kicks():
                    return
                queue.disable_kicks()
                alone = False
                continue
            if alone:
                alone = False
                lane.deep = _DEEP  # this one has waited for the one before
            kind = request.kind
            verdict = request.verdict
            if kind == IN:
                try:
                    if not tried and backend.try_read(request.offset, request.views):
                        written = request.written
                        self._knows_cache = True
                    elif self._knows_cache or reads.long:
                        verdict = -1
                    elif reads.watched:
                        begun = reads.begin()
                        backend.read(request.offset, request.views)
                        reads.end(begun, request.length)
                        written = request.written
                    else:
                        start = monotonic_ns()
                        backend.read(request.offset, request.views)
                        if monotonic_ns() - start >= _QUICK_NS:
                            reads.end((start, -1, 0), request.length)
                        written = request.written
                except OSError as error:
                    self._report(IN, error, request)
                    verdict, written = IOERR, request.failed
            elif kind == DONE:
                written = request.failed
            elif kind == OUT and not self._writes.long or kind == FLUSH and not self._flushes.long or kind == GET_ID:
                verdict = self._execute(lane, request)
                written = request.written if verdict == OK else request.failed
            else:
                verdict = -1
            if verdict >= 0:
                request.status[0] = verdict
                if lane.in_flight:
                    with lock:
                        push(request.head, written)
                else:
                    push(request.head, written)
                unsignalled += 1
                if unsignalled >= _BATCH:
                    unsignalled = 0
                    self._signal(lane, index)
            else:
                if waiting is not None:
                    self._hand_over(lane, index, waiting)
                waiting = request
            served += 1
            if served >= _TURN:
                if waiting is not None:
                    self._hand_over(lane, index, waiting)
                self.signals.kick(index)
                break
        if unsignalled:
            self._signal(lane, index)

    def _signal(self, lane: _Lane, index: int) -> None:
        queue = lane.queue
        if lane.in_flight:
            with queue.lock:
                wanted = queue.should_signal()
        else:  # only this thread sends requests to others: nobody else completes one now
            wanted = queue.should_signal()
        if wanted:
            self.signals.queue(index)

    def _hand_over(self, lane: _Lane, index: int, request: Request) -> None:
        """Has a worker execute it."""
        if lane.deep:
            lane.deep -= 1
        with lane.queue.lock:
            lane.in_flight += 1
        self._submit(self._work, lane, index, request)

    # --- on any thread ----------------------------------------------------------------------------------------------
    def _work(self, lane: _Lane, index: int, request: Request) -> None:
        queue = lane.queue
        if not lane.stopped:
            verdict = self._execute(lane, request)
            self._complete(queue, request, verdict)
            self._signal(lane, index)
        with queue.lock:
            lane.in_flight -= 1  # last: from here on the ring may be gone

    def _complete(self, queue: VirtQueue, request: Request, verdict: int) -> None:
        request.status[0] = verdict
        with queue.lock:
            queue.push(request.head, request.written if verdict == OK else request.failed)

    def _execute(self, lane: _Lane, request: Request) -> int:
        """Does what the request says, waiting for the host. Returns the status byte."""
        backend, kind = self.backend, request.kind
        try:
            if kind == IN:
                waits = self._reads
                begun = waits.begin()
                backend.read(request.offset, request.views)
                waits.end(begun, request.length)
            elif kind == OUT:
                waits = self._writes
                begun = waits.begin()
                backend.write(request.offset, request.views)
                if self.disk.through:
                    backend.flush()
                waits.end(begun, request.length)
            elif kind == FLUSH:
                waits = self._flushes
                begun = waits.begin()
                backend.flush()
                waits.end(begun)
            elif kind == GET_ID:
                _fill(request.views, self._id[: request.length])
            else:
                self._ranges(lane, request)
        except OSError as error:
            self._report(kind, error, request)
            return IOERR
        return OK

    def _ranges(self, lane: _Lane, request: Request) -> None:
        for offset, length, unmap in request.segments:
            if lane.stopped:
                return  # nobody will see the answer
            if not length:
                continue
            if request.kind == DISCARD:
                self.backend.discard_range(offset, length)
            else:
                self.backend.write_zeroes(offset, length, unmap)
        if self.disk.through and request.kind == WRITE_ZEROES:
            self.backend.flush()

    def _report(self, kind: int, error: OSError, request: Request) -> None:
        """One line for the user, the first time and then now and then: a guest may try for ever."""
        now = monotonic_ns()
        with self._told_lock:
            seen = self._told.setdefault((NAMES[kind], error.errno or 0), [0, 0])
            seen[1] += 1
            if seen[0] and now - seen[0] < _QUIET_NS:
                return
            count, seen[0], seen[1] = seen[1], now, 0
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        where = f" of {request.length} bytes at {request.offset:#x}" if kind in (IN, OUT) else ""
        more = f", {count} times since the last message" if count > 1 else ""
        text = f"{NAMES[kind]}{where} failed: {error.strerror or error} ({name}){more}; the guest sees an I/O error"
        say(f"pyvmm: warning: drive {self.backend.name}: {text}")


def _fill(views: Views, data: bytes) -> Any:
    """Copies ``data`` to the front of ``views``."""
    for view in views:
        part = data[: len(view)]
        view[: len(part)] = part
        data = data[len(part) :]
