"""Reads a recording; needs neither KVM nor Linux.

    with Recording.open("s.pvm") as recording:
        recording.header                  # what machine it is: see ``Header``
        recording.count                   # exits; the last one's number
        for entry in recording.exits():   # ``format.Entry``: number, vcpu, time, took, inside, frozen, answer, regs, console, changes
            exits.thaw(entry.frozen)      #   the exit by its fields' names
        recording.entry(1234)             # one of them
        recording.state(1234)             # ``State``: registers, devices, console and memory behind it
        recording.others(b"SAMP")         # what others have put in: (exit, plain data)
        recording.end                     # how the run ended; None when the file was cut off

Opening walks from head to head without reading the bodies: some thousand small reads for 200 MB. A file that was cut off, or is damaged
in a head, ends behind the last chunk before; ``note`` says so. Damage in a body shows when that is asked for.
"""

from __future__ import annotations

from bisect import bisect_right

from pyvmm.errors import ConfigError
from pyvmm.layout import PAGE as PAGE_SIZE
from pyvmm.observe.recording import format
from pyvmm.observe.recording.contents import CONSOLE_KEPT, HEADER, KEYFRAME, Header, Keyframe, RecordedMemory, State
from pyvmm.observe.recording.format import Chunk, Damaged, Entry
from pyvmm.snapshot.plain import Misfit, shaped

__all__ = ["Header", "Keyframe", "Recording", "State"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO, Self

_CACHED = 24  # bodies kept
_CPUS_MAX = 4096
ZERO = bytes(PAGE_SIZE)


class Recording:
    """An open recording. Raises ConfigError (``Damaged`` is one) for what cannot be read; one thread at a time.

    Args:
        file: seekable, for reading; closed by ``close``.
        path: its name in messages.

    Attributes:
        header: see there.
        count: number of the last exit.
        note: "" or why there is not more, for the user.
        end: plain data of the END chunk: kind, detail, value and vcpu of the verdict, time; None without.
        bytes: length of the file as far as it was understood.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self.count = 0
        self.note = ""
        self.end: dict[str, Any] | None = None
        self.bytes = 0
        self._exits: list[Chunk] = []
        self._firsts: list[int] = []
        self._keyframes: list[Chunk] = []
        self._moments: list[int] = []  # exits of the keyframes
        self._others: list[Chunk] = []
        self._pages: list[Chunk] = []
        self._page_keyframes: list[int] = []  # which keyframe a PAGE chunk belongs to
        self._places: dict[int, list[int]] = {}  # page number -> PAGE chunks that have it, ascending
        self._bodies: dict[int, bytes] = {}  # where a chunk is -> its body; the oldest goes first
        self._parsed: tuple[int, list[Entry]] = (-1, [])
        self._last_state: tuple[int, State] | None = None
        try:
            self._scan()
        except OSError as error:
            raise ConfigError(f"cannot read the recording {path}: {error.strerror}") from None

    @classmethod
    def open(cls, path: str) -> Self:
        """Opens a file. ConfigError: it cannot be read, is no recording, of another version, or has nothing whole in it."""
        try:
            file = open(path, "rb")  # noqa: SIM115  (closed by close)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the recording {path}: {getattr(error, 'strerror', None) or error}") from None
        try:
            return cls(file, path)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening -----------------------------------------------------------------------------------------------------
    def _scan(self) -> None:
        start = self._file.read(format.START.size)
        if len(start) < format.START.size or not start.startswith(format.MAGIC):
            raise ConfigError(f"{self._path}: this is no recording of pyvmm")
        version = format.START.unpack(start)[1]
        if version != format.VERSION:
            raise ConfigError(
                f"{self._path}: a recording of version {version}, this pyvmm reads {format.VERSION}: use the pyvmm that made it"
            )
        end = self._file.seek(0, 2)
        at = format.START.size
        pages_since = 0
        while at < end:
            chunk = self._chunk(at, end)
            if chunk is None or not self._take(chunk, pages_since):
                break
            pages_since = pages_since + chunk.count if chunk.kind == format.PAGE else 0 if chunk.kind == format.KEYFRAME else pages_since
            at = chunk.at + chunk.stored
        self.bytes = at
        if not self._keyframes:
            raise ConfigError(f"{self._path}: the recording is cut off or damaged before its first exit")
        if at < end:
            self.note = f"{self._path} is cut off or damaged behind exit {self.count}: there is nothing to see after it"
        elif self.end is None:
            self.note = f"{self._path} has no end: its recorder was stopped; exit {self.count} is the last it has"

    def _chunk(self, at: int, end: int) -> Chunk | None:
        """The head at an offset, when the whole chunk is there."""
        self._file.seek(at)
        head = self._file.read(format.CHUNK.size)
        if len(head) < format.CHUNK.size:
            return None
        length = format.table_length(head)
        if length is None:
            return None
        table = self._file.read(length)
        chunk = format.parse(head, table, at + len(head) + length) if len(table) == length else None
        return chunk if chunk is not None and chunk.at + chunk.stored <= end else None

    def _take(self, chunk: Chunk, pages_since: int) -> bool:
        """Enters a chunk into the lists; False when it cannot follow what came before it."""
        kind, first = chunk.kind, chunk.at == format.START.size + format.CHUNK.size + len(chunk.table)
        if (kind == format.HEAD) != first:
            return False
        if kind == format.HEAD:
            self.header = self._shaped(HEADER, chunk)
            self._check_header()
        elif kind == format.EXIT:
            if not self._keyframes or chunk.exit != self.count + 1 or not 0 < chunk.count <= chunk.size // format.ENTRY.size:
                return False
            self._exits.append(chunk)
            self._firsts.append(chunk.exit)
            self.count += chunk.count
        elif kind == format.PAGE:
            size = 1 if chunk.flags & format.SAME else chunk.count * PAGE_SIZE
            if chunk.exit != self.count or 4 * chunk.count != len(chunk.table) or chunk.size != size:
                return False
            for number in format.page_numbers(chunk.table):
                self._places.setdefault(number, []).append(len(self._pages))
            self._pages.append(chunk)
            self._page_keyframes.append(len(self._keyframes))  # the one to come; none, where the file is cut off in between
        elif kind == format.KEYFRAME:
            if chunk.exit != self.count or chunk.count != pages_since:
                return False
            self._keyframes.append(chunk)
            self._moments.append(chunk.exit)
        elif kind == format.END:
            found = self._plain(chunk)
            if not isinstance(found, dict):
                return False
            self.end = found
        else:
            self._others.append(chunk)
        return True

    def _check_header(self) -> None:
        header = self.header
        good = 0 < header.vcpus <= _CPUS_MAX and all(
            type(piece) is list and len(piece) == 2 and all(type(each) is int and 0 <= each < 1 << 52 for each in piece)
            for piece in header.ram
        )
        if not good:
            raise self._damaged("its header describes no machine")

    # --- exits -------------------------------------------------------------------------------------------------------
    @property
    def duration(self) -> int:
        """Nanoseconds from the start to the last exit."""
        return self.entry(self.count).time if self.count else 0

    def exits(self, first: int = 1, last: int | None = None) -> Iterator[Entry]:
        """The exits ``first`` to ``last``, both included; None: to the end. Raises Damaged where a part is."""
        last = self.count if last is None else min(last, self.count)
        first = max(first, 1)
        at = bisect_right(self._firsts, first) - 1
        while first <= last:
            chunk = self._exits[at]
            yield from self._entries(chunk)[first - chunk.exit : last + 1 - chunk.exit]
            first, at = chunk.exit + chunk.count, at + 1

    def entry(self, number: int) -> Entry:
        """One exit. IndexError when there is none of this number; Damaged."""
        if not 1 <= number <= self.count:
            raise IndexError(number)
        chunk = self._exits[bisect_right(self._firsts, number) - 1]
        return self._entries(chunk)[number - chunk.exit]

    def others(self, kind: bytes) -> Iterator[tuple[int, Any]]:
        """Chunks of a kind that is none of format.py's: (exit behind which it was written, plain data). Damaged."""
        for chunk in self._others:
            if chunk.kind == kind:
                yield chunk.exit, self._plain(chunk)

    def _entries(self, chunk: Chunk) -> list[Entry]:
        if self._parsed[0] != chunk.exit:
            try:
                self._parsed = chunk.exit, list(format.entries(self._body(chunk), chunk.exit, chunk.count))
            except Damaged as error:
                raise self._damaged(str(error)) from None
        return self._parsed[1]

    # --- the machine at a moment ---------------------------------------------------------------------------------------
    @property
    def keyframes(self) -> list[int]:
        """Behind which exits there are keyframes."""
        return list(self._moments)

    def state(self, exit: int) -> State:
        """The machine behind an exit; 0: before the first. IndexError; Damaged."""
        if not 0 <= exit <= self.count:
            raise IndexError(exit)
        index = bisect_right(self._moments, exit) - 1
        if self._last_state is not None and self._last_state[0] == index and self._last_state[1].exit <= exit:
            state = self._last_state[1]
        else:
            state = self._start(index)
        if state.exit < exit:
            state = self._on(state, exit)
        self._last_state = index, state
        return state

    def _start(self, index: int) -> State:
        keyframe, exit = self.keyframe(index), self._moments[index]
        return State(
            exit=exit,
            time=keyframe.time,
            registers=keyframe.registers,
            devices=keyframe.devices,
            layout=keyframe.layout,
            console=keyframe.console,
            memory=RecordedMemory(self, index, exit),
            keyframe=keyframe,
            keyframe_exit=exit,
        )

    def _on(self, state: State, exit: int) -> State:
        """A state some exits later, before the next keyframe."""
        registers, devices, layout = list(state.registers), dict(state.devices), state.layout
        console = bytearray(state.console)
        written: list[tuple[int, int, bytes]] = []
        try:
            for entry in self.exits(state.exit + 1, exit):
                if entry.vcpu >= len(registers):
                    raise Damaged(f"exit {entry.number} is of a vCPU that is not there")
                registers[entry.vcpu] = entry.regs + (entry.system or registers[entry.vcpu][format.REGS :])
                console += entry.console
                for name, fields in entry.changes.items():
                    if name:
                        devices[name] = {**devices.get(name, {}), **fields}
                    else:
                        layout = fields
                if state.keyframe.exact:
                    written += entry.patches
        except Damaged as error:
            raise self._damaged(str(error)) from None
        return state.replace(
            exit=exit,
            time=entry.time,
            registers=registers,
            devices=devices,
            layout=layout,
            console=bytes(console[-CONSOLE_KEPT:]),
            memory=state.memory.on(exit, written) if state.keyframe.exact else state.memory,
        )

    def keyframe(self, index: int) -> Keyframe:
        """One of ``keyframes``. Damaged."""
        keyframe: Keyframe = self._shaped(KEYFRAME, self._keyframes[index])
        sizes = {len(each) for each in keyframe.registers}
        if len(keyframe.registers) != self.header.vcpus or not sizes <= {0, format.REGS + format.SYSTEM_SIZE}:
            raise self._damaged(f"the registers behind exit {self._moments[index]} are none")
        if not all(isinstance(each, dict) for each in keyframe.devices.values()):
            raise self._damaged(f"the devices behind exit {self._moments[index]} are none")
        return keyframe

    def page(self, number: int, keyframe: int) -> bytes:
        """A page of guest memory at a keyframe; zeros where nobody has written. Damaged."""
        base = self._base(keyframe)
        places = self._places.get(number, ())
        at = bisect_right(places, keyframe, key=self._page_keyframes.__getitem__) - 1
        if at < 0 or self._page_keyframes[places[at]] < base:
            return ZERO
        chunk = self._pages[places[at]]
        if chunk.flags & format.SAME:
            return self._body(chunk) * PAGE_SIZE
        start = format.page_numbers(chunk.table).index(number) * PAGE_SIZE
        if chunk.flags & format.DIRECT:
            return self._read(chunk.at + start, PAGE_SIZE)
        return self._body(chunk)[start : start + PAGE_SIZE]

    def _base(self, keyframe: int) -> int:
        """The first keyframe of the machine that ran then."""
        while keyframe and not self._keyframes[keyframe].flags & format.FRESH:
            keyframe -= 1
        return keyframe

    # --- bodies ------------------------------------------------------------------------------------------------------
    def _body(self, chunk: Chunk) -> bytes:
        body = self._bodies.get(chunk.at)
        if body is None:
            try:
                self._file.seek(chunk.at)
                body = format.body_of(chunk, self._file.read(chunk.stored))
            except (Damaged, OSError) as error:
                raise self._damaged(str(error)) from None
            if len(self._bodies) >= _CACHED:
                del self._bodies[next(iter(self._bodies))]
            self._bodies[chunk.at] = body
        return body

    def _read(self, at: int, length: int) -> bytes:
        """Bytes of the file that were there when it was opened."""
        try:
            self._file.seek(at)
            found = self._file.read(length)
        except OSError as error:
            raise self._damaged(str(error)) from None
        if len(found) != length:
            raise self._damaged("it has become shorter since it was opened")
        return found

    def _plain(self, chunk: Chunk) -> Any:
        try:
            return format.plain(self._body(chunk))
        except Damaged as error:
            raise self._damaged(str(error)) from None

    def _shaped(self, like: Any, chunk: Chunk) -> Any:
        """A record of the same kind and fields. Dicts in it may hold anything."""
        found = self._plain(chunk)
        names = {name for name, value in like if isinstance(value, dict)}
        try:
            if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in names):
                raise Misfit("it is not what a recording has there")
            free = {name: found.pop(name) for name in names}
            fixed = {name: shaped(value, found[name], name) for name, value in like if name not in names}
            if found.keys() != fixed.keys():
                raise Misfit("it has other fields than a recording has there")
        except (KeyError, Misfit) as error:
            raise self._damaged(f"the part about exit {chunk.exit}: {error}") from None
        return type(like)(**free, **fixed)

    def _damaged(self, text: str) -> Damaged:
        return Damaged(text if text.startswith(f"{self._path}: ") else f"{self._path}: {text}")
