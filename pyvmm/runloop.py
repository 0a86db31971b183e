"""The run loop: KVM_RUN, one table look-up by exit reason, one device call.

    guest: out 0x3f8, al
      -> KVM_RUN returns, exit_reason = KVM_EXIT_IO        (run page, u32 at byte 8)
      -> exits[reason]()                                   (this file)
      -> ports[u64 at byte 0x20]()                         direction, size, port and count are one word: one dict look-up
      -> Serial.write(0, 1, al)

Handlers are closures over one vCPU's page: no object is made, nothing is parsed, nobody is asked whether he wants to
observe. Whoever observes swaps entries of ``exits`` or of the buses' mappings and puts them back (``pyvmm.events``).
"""

from __future__ import annotations

from struct import Struct

from pyvmm.errors import UnhandledExit
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.ioctl import failure
from pyvmm.kvm.native import get_errno
from pyvmm.kvm.vcpu import run_ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.bus import Bus, Read, Write
    from pyvmm.kvm.vcpu import Vcpu

    Handler = Callable[[], None]
    Hook = Callable[[int], None]  # (exit reason)

_CACHE_MAX = 4096  # a guest can name 65,536 ports in 6 ways, and 2**64 addresses; real ones use a few dozen
_BY_SIZE = {1: Struct("<B"), 2: Struct("<H"), 4: Struct("<I"), 8: Struct("<Q")}


class Stop(Exception):
    """Leaves the loop for good: a handler or an observer has decided. Carries nothing; the machine holds the reason."""


class Observer:
    """Sees the exits of one vCPU, on its thread: before user space has answered and after. For ``RunLoop.observe``.

    Args:
        before: called with the exit reason, the run page as KVM left it; the machine lock is not held. None: not asked.
        after: called when the exit is handled (the vCPU not yet back in KVM_RUN: see ``Vcpu.settle``); not when the handler raised.
        instead: exit reason -> what to do in place of its handler.
    """

    def __init__(self, before: Hook | None = None, after: Hook | None = None, instead: dict[int, Handler] | None = None) -> None:
        self.before = before
        self.after = after
        self.instead = instead or {}

    def around(self, reason: int, handler: Handler) -> Handler:
        """A handler with the hooks around it; nothing is asked at an exit that could be asked here."""
        before, after = self.before, self.after
        handler = self.instead.get(reason, handler)

        def both() -> None:
            before(reason)  # type: ignore[misc]
            handler()
            after(reason)  # type: ignore[misc]

        def only_before() -> None:
            before(reason)  # type: ignore[misc]
            handler()

        def only_after() -> None:
            handler()
            after(reason)  # type: ignore[misc]

        if before is not None and after is not None:
            return both
        return only_before if before is not None else only_after if after is not None else handler


class RunLoop:
    """Drives one vCPU on the calling thread.

    Args:
        vcpu: the descriptor and its page.
        ports, mmio: the machine's buses.
        lock: the machine lock; held around every device call.
        interrupted: called when KVM_RUN was kicked; returns True to leave the loop.
        unhandled: called with the exit reason for exits without a handler; usually raises Stop.

    Attributes:
        exits: exit reason -> handler. Observers swap entries, by ``observe``.
        retries: how often KVM_RUN came back with EAGAIN.
        drain: empties the coalesced ring before a device sees a later access; None while no zone is registered.
        patient: (a device's read, offset) -> who makes a handler for it (loop, cells, index of the answer): what waits cannot change that.
    """

    def __init__(
        self, vcpu: Vcpu, ports: Bus, mmio: Bus, lock: Any, interrupted: Callable[[], bool], unhandled: Callable[[int], None]
    ) -> None:
        self.vcpu = vcpu
        self.ports = ports
        self.mmio = mmio
        self.lock = lock
        self.interrupted = interrupted
        self.unhandled = unhandled
        self.handlers: dict[int, Handler] = {}  # what ``exits`` has while nobody observes
        self.exits: dict[int, Handler] = _Exits(self)
        self._observers: list[Observer] = []
        self.retries = 0
        self.drain: Callable[[], None] | None = None
        self.patient: dict[tuple[Any, int], Callable[[RunLoop, memoryview, int], Handler]] = {}
        port_handlers = _PortHandlers(self)
        ports.on_change.append(port_handlers.clear)
        mmio_handlers = _MmioHandlers(self)
        mmio.on_change.append(mmio_handlers.clear)
        quads = vcpu.quads
        self.handlers[uapi.KVM_EXIT_IO] = lambda: port_handlers[quads[4]]()
        self.handlers[uapi.KVM_EXIT_MMIO] = lambda: mmio_handlers[quads[4], quads[6]]()
        self.handlers[uapi.KVM_EXIT_INTR] = lambda: None
        self.exits.update(self.handlers)

    def look(self) -> None:
        """Drains, if there is a zone."""
        if self.drain is not None:
            self.drain()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Has every exit pass an observer until the returned function is called. From any thread; the last to come is outermost.

        An exit on its way is seen to its end by who saw it begin.
        """
        self._observers.append(observer)
        self._wire()

        def detach() -> None:
            self._observers.remove(observer)
            self._wire()

        return detach

    def _wire(self) -> None:
        for reason in list(self.exits):
            self.exits[reason] = self.wired(reason)

    def wired(self, reason: int) -> Handler:
        """The handler of an exit reason inside what its observers make of it."""
        handler = self.handlers.get(reason)
        if handler is None:
            handler = self.handlers[reason] = self._unhandled(reason)
        for observer in self._observers:
            handler = observer.around(reason, handler)
        return handler

    def _unhandled(self, reason: int) -> Handler:
        def handler() -> None:
            self.unhandled(reason)

        return handler

    def run(self) -> None:
        """Runs the vCPU until a handler raises Stop or ``interrupted`` says so.

        Raises:
            KvmError: KVM_RUN failed otherwise than by EINTR or EAGAIN.
            PyvmmError, and whatever else a handler raises.
        """
        ioctl, fd, request = run_ioctl, self.vcpu.fd, uapi.KVM_RUN
        exits, words = self.exits, self.vcpu.words
        while True:
            try:
                while True:
                    if ioctl(fd, request):  # ctypes variant only: fcntl raises
                        raise OSError(get_errno(), "KVM_RUN")
                    exits[words[2]]()
            except Stop:
                return
            except OSError as error:
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise  # a device's or backend's error, not KVM_RUN's
                if isinstance(error, InterruptedError):
                    if self.interrupted():
                        return
                elif isinstance(error, BlockingIOError):  # EAGAIN: the processor got INIT or SIPI; run it again
                    self.retries += 1
                else:
                    raise failure(request, error.errno or 0) from None


class _Exits(dict):  # type: ignore[type-arg]
    """Exit reason -> handler, with a handler for every reason there is or will be."""

    def __init__(self, loop: RunLoop) -> None:
        self._loop = loop

    def __missing__(self, reason: int) -> Handler:
        handler = self[reason] = self._loop.wired(reason)
        return handler


class _PortHandlers(dict):  # type: ignore[type-arg]
    """(direction | size << 8 | port << 16 | count << 32) -> what to do, resolved on the first access, dropped when the bus changes."""

    def __init__(self, loop: RunLoop) -> None:
        self._loop = loop

    def __missing__(self, key: int) -> Handler:
        direction, size, port, count = key & 0xFF, key >> 8 & 0xFF, key >> 16 & 0xFFFF, key >> 32
        if size not in (1, 2, 4):
            raise UnhandledExit(f"KVM_EXIT_IO of {size} bytes at port {port:#x}")
        make = _port_out if direction else _port_in
        with self._loop.lock:  # the bus changes under the lock: what is found here cannot be outdated when it is stored
            if len(self) >= _CACHE_MAX:
                self.clear()
            handler = self[key] = make(self._loop, port, size, count)
        return handler


# In the handlers below every bytecode counts: the lock's two methods cost a third of what ``with`` costs, an item of the page a third of
# what Struct does. On the way to such an item, the place of the data is looked up once: io.data_offset is the same for every exit (one page
# of the run page is for that, KVM_PIO_PAGE_OFFSET), and so is mmio.data.
def _cell(vcpu: Vcpu, size: int, at: int) -> tuple[memoryview, int] | None:
    """Where ``size`` bytes at ``at`` are one item of the page, and which; None when they are none."""
    cells = {1: vcpu.page, 4: vcpu.words, 8: vcpu.quads}.get(size)
    return None if cells is None or at % size else (cells, at // size)


def _port_in(loop: RunLoop, port: int, size: int, count: int) -> Handler:
    acquire, release = loop.lock.acquire, loop.lock.release
    offset, read, _ = loop.ports.find(port, size)
    at = loop.vcpu.words[10]
    cell = _cell(loop.vcpu, size, at)
    if count != 1 or cell is None:
        return _in_pieces(loop, offset, size, range(at, at + count * size, size), read)
    cells, index = cell
    patient = loop.patient.get((read, offset))
    if patient is not None:
        return patient(loop, cells, index)

    def handler() -> None:
        acquire()
        try:
            if loop.drain is not None:
                loop.drain()
            cells[index] = read(offset, size)
        finally:
            release()

    return handler


def _in_pieces(loop: RunLoop, offset: int, size: int, places: range, read: Read) -> Handler:
    """String input (KVM batches up to a page), and what is not one item of the page."""
    page, lock, pack_into = loop.vcpu.page, loop.lock, _BY_SIZE[size].pack_into

    def handler() -> None:
        with lock:
            if loop.drain is not None:
                loop.drain()
            for at in places:
                pack_into(page, at, read(offset, size))

    return handler


def _port_out(loop: RunLoop, port: int, size: int, count: int) -> Handler:
    acquire, release = loop.lock.acquire, loop.lock.release
    offset, _, write = loop.ports.find(port, size)
    at = loop.vcpu.words[10]
    cell = _cell(loop.vcpu, size, at)
    if count != 1 or cell is None:
        return _out_pieces(loop, offset, size, range(at, at + count * size, size), write)
    cells, index = cell

    def handler() -> None:
        acquire()
        try:
            if loop.drain is not None:
                loop.drain()
            write(offset, size, cells[index])
        finally:
            release()

    return handler


def _out_pieces(loop: RunLoop, offset: int, size: int, places: range, write: Write) -> Handler:
    page, lock, unpack_from = loop.vcpu.page, loop.lock, _BY_SIZE[size].unpack_from

    def handler() -> None:
        with lock:
            if loop.drain is not None:
                loop.drain()
            for at in places:
                write(offset, size, unpack_from(page, at)[0])

    return handler


class _MmioHandlers(dict):  # type: ignore[type-arg]
    """(address, size | direction << 32) -> what to do: as for ports. Asking the bus each time cost 0.5 us more an exit."""

    def __init__(self, loop: RunLoop) -> None:
        self._loop = loop

    def __missing__(self, key: tuple[int, int]) -> Handler:
        address, size, is_write = key[0], key[1] & 0xFFFF_FFFF, key[1] >> 32 & 0xFF  # above: the structure's padding
        make = _mmio_write if is_write else _mmio_read
        if size not in _BY_SIZE:  # a 16-byte or page-crossing store arrives in odd pieces
            make = _mmio_odd
        with self._loop.lock:
            if len(self) >= _CACHE_MAX:
                self.clear()
            handler = self[key] = make(self._loop, address, size)
        return handler


def _mmio_read(loop: RunLoop, address: int, size: int) -> Handler:
    acquire, release = loop.lock.acquire, loop.lock.release
    offset, read, _ = loop.mmio.find(address, size)
    cell = _cell(loop.vcpu, size, structs.RUN_MMIO_DATA)
    if cell is None:
        return _in_pieces(loop, offset, size, range(structs.RUN_MMIO_DATA, structs.RUN_MMIO_DATA + 1), read)
    cells, index = cell

    def handler() -> None:
        acquire()
        try:
            if loop.drain is not None:
                loop.drain()
            cells[index] = read(offset, size)
        finally:
            release()

    return handler


def _mmio_write(loop: RunLoop, address: int, size: int) -> Handler:
    acquire, release = loop.lock.acquire, loop.lock.release
    offset, _, write = loop.mmio.find(address, size)
    cell = _cell(loop.vcpu, size, structs.RUN_MMIO_DATA)
    if cell is None:
        return _out_pieces(loop, offset, size, range(structs.RUN_MMIO_DATA, structs.RUN_MMIO_DATA + 1), write)
    cells, index = cell

    def handler() -> None:
        acquire()
        try:
            if loop.drain is not None:
                loop.drain()
            write(offset, size, cells[index])
        finally:
            release()

    return handler


def _mmio_odd(loop: RunLoop, address: int, size: int) -> Handler:
    """An MMIO access of 3, 5, 6 or 7 bytes, as a page crossing may leave: byte by byte."""
    page, lock, data, mmio = loop.vcpu.page, loop.lock, structs.RUN_MMIO_DATA, loop.mmio
    if not 0 < size <= 8:
        raise UnhandledExit(f"KVM_EXIT_MMIO of {size} bytes at {address:#x}")

    def handler() -> None:
        with lock:
            if loop.drain is not None:
                loop.drain()
            for at in range(size):
                if page[structs.RUN_MMIO_IS_WRITE]:
                    mmio.write(address + at, 1, page[data + at])
                else:
                    page[data + at] = mmio.read(address + at, 1)

    return handler
