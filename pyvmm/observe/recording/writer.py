"""Writes a recording: packing and the disk are a thread's business, so that a vCPU only hands bytes over.

It packs pages of memory as long as that keeps up with the guest. Else they go in as they are.

Where this process may use one CPU only a thread would take the guest's own time. Nothing is packed there, and whoever has something
for a file (not a pipe: its reader may take his time) writes it himself, pages straight from guest memory.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import deque
from stat import S_ISREG
from time import thread_time_ns

from pyvmm.errors import ConfigError, HostError
from pyvmm.layout import PAGE as PAGE_SIZE
from pyvmm.observe.recording import format
from pyvmm.snapshot.plain import pack, plain
from pyvmm.threads import Condition, Thread, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import FileIO
    from typing import Any

    from pyvmm.observe.recording.contents import Header, Keyframe

BACKLOG_MAX = 64 << 20  # bytes that wait to be packed; whoever has more waits
_PACKED_BACKLOG = 16 << 20  # bytes that wait, beyond which pages are not packed
_SWITCH_SECONDS = 0.0005  # how long a vCPU waits for Python while the thread computes; iothread.py has the figures
_PAGES = 64  # to a chunk: what must be unpacked to see one
_DIRECT_PAGES = 256  # likewise, where each can be read alone
_TABLE = format.TABLE_MAX // 4
_IOV_MAX = 1024  # pieces to a writev (limits.h)
_JOIN_SECONDS = 120.0  # for the backlog, on a slow disk


class Writer:
    """A recording being written. ``put``, ``add``, ``keyframe`` may come from any thread; chunks are in the order of the calls.

    Args:
        path: the file; one that is there is overwritten.
        header: of the machine.
        failed: called once, with a HostError when the file can no longer be written (on the writer's thread, as a rule). What comes
            later is dropped.

    Attributes:
        direct: chunks are in the file when a call returns, once it is started.
        backlog: bytes that are not packed yet.
        written: bytes in the file.
        spent: nanoseconds of the guest's own CPU that the thread has used; 0 where there are others.

    Raises:
        ConfigError: the file cannot be opened for writing.
    """

    def __init__(self, path: str, header: Header, failed: Callable[[BaseException], None]) -> None:
        self.path = path
        self.backlog = 0
        self.written = self.spent = 0
        self._failed = failed
        self._error = False
        self._alone = one_cpu()
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self._state = Condition()
        self._closing = self._started = False
        self._thread = Thread(self._run)
        try:
            self._file: FileIO = open(path, "wb", buffering=0)  # noqa: SIM115  (closed by close)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot write the recording {path}: {getattr(error, 'strerror', None) or error}") from None
        self.direct = self._alone and S_ISREG(os.fstat(self._file.fileno()).st_mode)
        start = format.START.pack(format.MAGIC, format.VERSION)
        self._job(len(start), lambda: self._write([start]))
        self.put(format.HEAD, 0, 0, pack(plain(header)))

    def start(self) -> None:
        """Begins to write what has been put; not sooner than the guest runs: a sandbox wants no thread before."""
        if self._started:
            return
        self._started = True
        if self.direct:
            self._drain()
            return
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
        try:
            self._thread.start()
        except RuntimeError:  # "can't start new thread"
            self._give_up(HostError("no thread to write the recording: raise `ulimit -u` and `ulimit -v`"))

    def put(self, kind: bytes, exit: int, count: int, body: bytes) -> None:
        """A chunk; see format.py."""
        self._job(len(body), lambda: self._write(format.chunk(kind, exit, count, body, pack_it=not self._alone)))

    def add(self, kind: bytes, exit: int, data: Any) -> None:
        """A chunk of a kind of the caller's own, four letters, with plain data; ``exit``: behind which it belongs."""
        self.put(kind, exit, 0, pack(data))

    def keyframe(self, exit: int, state: Keyframe, pages: dict[int, bytes], fresh: bool = False) -> None:
        """A keyframe.

        Args:
            state: not to be changed any more.
            pages: those that have changed since the last one.
            fresh: see ``format.FRESH``.
        """

        def job() -> None:
            uniform, numbers = _sorted(pages)
            for value, some in uniform.items():
                for at in range(0, len(some), _TABLE):
                    table = format.page_table(some[at : at + _TABLE])
                    self._write(format.chunk(format.PAGE, exit, len(table) // 4, bytes([value]), table, format.SAME))
            for at in range(0, len(numbers), _PAGES):
                some = numbers[at : at + _PAGES]
                pack_it = not self._alone and self.backlog <= _PACKED_BACKLOG
                body = b"".join([pages[number] for number in some])
                self._write(format.chunk(format.PAGE, exit, len(some), body, format.page_table(some), pack_it=pack_it))
            self._write(_keyframe(exit, len(pages), state, fresh))

        self._job(PAGE_SIZE * len(pages), job)

    def keyframe_direct(
        self, exit: int, state: Keyframe, uniform: dict[int, list[int]], extents: list[tuple[int, memoryview]], fresh: bool = False
    ) -> None:
        """A keyframe, where the writer is ``direct``; nobody writes the memory meanwhile.

        Args:
            uniform: byte -> numbers of pages that are full of it, ascending.
            extents: (page number, memory from there on), in whole pages, ascending.
        """

        def job() -> None:
            pieces: list[bytes | memoryview] = []
            count = 0
            for value, some in uniform.items():
                count += len(some)
                for at in range(0, len(some), _TABLE):
                    table = format.page_table(some[at : at + _TABLE])
                    pieces += format.chunk(format.PAGE, exit, len(table) // 4, bytes([value]), table, format.SAME)
            numbers: list[int] = []
            views: list[memoryview] = []
            for number, view in extents:
                while view:
                    some_view = view[: (_DIRECT_PAGES - len(numbers)) * PAGE_SIZE]
                    more = len(some_view) // PAGE_SIZE
                    numbers.extend(range(number, number + more))
                    views.append(some_view)
                    number, view = number + more, view[len(some_view) :]
                    if len(numbers) == _DIRECT_PAGES:
                        pieces += [format.direct_pages(exit, numbers), *views]
                        count += len(numbers)
                        numbers, views = [], []
            if numbers:
                pieces += [format.direct_pages(exit, numbers), *views]
            self._write([*pieces, *_keyframe(exit, count + len(numbers), state, fresh)])

        self.start()
        self._job(0, job)

    def close(self, end: dict[str, Any] | None = None) -> None:
        """Writes what is left, and ``end`` (see ``Recording.end``) behind it; closes the file. Once."""
        self.start()
        if end is not None:
            self.put(format.END, 0, 0, pack(end))
        with self._state:
            self._closing = True
            self._state.notify_all()
        if self._started and not self.direct:
            self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():
            try:
                self._file.close()
            except OSError as error:  # what was still in the buffer
                self._give_up(error)

    # --- the thread --------------------------------------------------------------------------------------------------
    def wait_for_room(self) -> None:
        """Until less than BACKLOG_MAX bytes wait to be packed."""
        if self.backlog >= BACKLOG_MAX:
            self.start()
            with self._state:
                self._state.wait_for(lambda: self.backlog < BACKLOG_MAX or self._error)

    def _job(self, size: int, work: Callable[[], None]) -> None:
        self.wait_for_room()
        with self._state:
            if not self._error:
                self.backlog += size
                self._jobs.append((size, work))
                self._state.notify_all()
        if self.direct and self._started:
            self._drain()

    def _drain(self) -> None:
        """Does what is queued, on the caller's thread."""
        try:
            with self._state:
                while self._jobs:
                    size, work = self._jobs.popleft()
                    self.backlog -= size
                    work()
        except BaseException as error:
            self._give_up(error)  # without the lock: it ends the run
            if not isinstance(error, Exception):
                raise

    def _run(self) -> None:
        block_signals()
        while True:
            with self._state:
                self._state.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                size, work = self._jobs.popleft()
            try:
                work()
                if self._alone:
                    self.spent = thread_time_ns()
            except BaseException as error:
                self._give_up(error)
                return
            with self._state:
                self.backlog -= size
                self._state.notify_all()

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        file = self._file.fileno()
        for at in range(0, len(pieces), _IOV_MAX):
            some = pieces[at : at + _IOV_MAX]
            left = sum(map(len, some))
            while left:
                wrote = os.writev(file, some)
                if not wrote:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                self.written += wrote
                left -= wrote
                if left:  # a signal, or the disk is about to be full
                    some = _behind(some, wrote)

    def _give_up(self, error: BaseException) -> None:
        with self._state:
            told, self._error = self._error, True
            self._jobs.clear()
            self._state.notify_all()
        if told:
            return
        if isinstance(error, OSError | MemoryError):
            error = HostError(f"cannot write the recording {self.path}: {getattr(error, 'strerror', None) or 'the host is out of memory'}")
        self._failed(error)


def one_cpu() -> bool:
    """Whether this process may use only one CPU."""
    return len(os.sched_getaffinity(0)) == 1


def _keyframe(exit: int, pages: int, state: Keyframe, fresh: bool) -> list[bytes]:
    return format.chunk(format.KEYFRAME, exit, pages, pack(plain(state)), flags=format.FRESH if fresh else 0)


def _behind(pieces: Sequence[bytes | memoryview], length: int) -> list[bytes | memoryview]:
    """What is left of them behind the first ``length`` bytes."""
    rest: list[bytes | memoryview] = []
    for piece in pieces:
        if length < len(piece):
            rest.append(piece[length:] if length else piece)
        length = max(length - len(piece), 0)
    return rest


def _sorted(pages: dict[int, bytes]) -> tuple[dict[int, list[int]], list[int]]:
    """Byte -> numbers of pages that are full of it (a booting Linux makes many, poison as a rule); numbers of the others. Ascending."""
    uniform: dict[int, list[int]] = {}
    others = []
    for number in sorted(pages):
        page = pages[number]
        value = page[0]
        if value == page[1] == page[-1] and page == bytes((value,)) * PAGE_SIZE:
            uniform.setdefault(value, []).append(number)
        else:
            others.append(number)
    return uniform, others
