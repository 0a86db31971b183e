"""The file: a signature, then chunks one behind the other, each with its length and check sums. Nothing points forward or into another
chunk, so a file that was cut off is a shorter recording.

    8 bytes    "pyvmmrec"
    4          version, little-endian, as all numbers
    chunks     a head (``CHUNK``), its table, its body (zlib where that made it smaller)

Which chunks there are (``exit``: the number in the head; exit 0 is before the first instruction):

    HEAD  the first: plain data (snapshot/plain.py): what machine it is, see ``reader.Recording.header``
    EXIT  ``count`` exits from number ``exit`` on; the body is entries, see below
    PAGE  ``count`` pages of guest memory as they were behind ``exit``; the table has their numbers (gpa / 4096), 4 bytes each.
          With the flag SAME the body is one byte, of which all of them are full. With DIRECT the body has no check sum (its word is 0):
          whatever bytes are there are what the pages held
    KEYF  keyframe: plain data, the state behind ``exit``, for which the PAGE chunks since the last one hold all pages that changed
          (``count`` of them). Its fields are listed at ``Keyframe``
    END   plain data: how the run ended; the recording is complete
    other kinds are skipped by those who do not know them. Their body is plain data too: statistics and samples live there

An entry: ``ENTRY``, the frozen exit (``exits.freeze``), the answer, 144 bytes of kvm_regs behind the exit, and what its flags say, in this
order: SYSTEM kvm_sregs and kvm_vcpu_events (376 bytes; without it they are those of the vCPU's exit before); CHANGES, CONSOLE, PATCHES,
each a 4-byte length and that many bytes.

Nothing in here needs KVM, and no number from a file is believed before it is checked.
"""

from __future__ import annotations

import zlib
from struct import Struct, pack, unpack_from

from pyvmm.errors import ConfigError
from pyvmm.snapshot.plain import Misfit, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAGIC = b"pyvmmrec"
VERSION = 1
START = Struct("<8sI")
CHUNK = Struct("<4sHHIIIIQII")  # kind, flags, 0, table bytes, body bytes here, body bytes unpacked, CRC of the body, exit, count, check
_CHECKED = CHUNK.size - 4  # the last word is the CRC of what is before it in the head, and of the table
HEAD, EXIT, PAGE, KEYFRAME, END = b"HEAD", b"EXIT", b"PAGE", b"KEYF", b"END "
PACKED, FRESH, SAME, DIRECT = 1, 2, 4, 8  # flags of a chunk: zlib; a keyframe of another machine than before, whose memory starts as
# zeros (a reset); pages full of one byte; pages without a check sum

BODY_MAX = 16 << 20  # bytes of a body, unpacked
TABLE_MAX = 64 << 10
EXITS_MAX = 1 << 48  # more than a guest makes in a year

REGS, SYSTEM_SIZE = 144, 376
ENTRY = Struct("<HBBHHIQQQ")  # vCPU, flags, 0, bytes frozen, of the answer, ns it took, time ns, ns inside KVM_RUN, rip at the exit
SYSTEM, CHANGES, CONSOLE, PATCHES, INSIDE = 1, 2, 4, 8, 16  # INSIDE: the instruction is not complete, another exit of it follows
LENGTH = Struct("<I")
PATCH = Struct("<IHH")  # page number, first byte, how many follow


class Damaged(ConfigError):
    """Bytes that no recorder has written; the message says which part."""


class Entry:
    """One exit of a recording.

    Attributes:
        number: from 1.
        vcpu: whose.
        time: when it came, nanoseconds since the recording began.
        took: nanoseconds user space took to answer (at most 4.29 seconds are counted).
        inside: nanoseconds this vCPU was in KVM_RUN before it.
        frozen, answer, rip: as in ``debug.subject.ExitRecord``; ``exits.thaw(frozen)`` has the fields.
        regs: struct kvm_regs behind it.
        system: struct kvm_sregs and kvm_vcpu_events behind it; b"" when they are those of this vCPU's exit before.
        flags: INSIDE: registers are those in the middle of an instruction.
        console: what the first serial port sent since the exit before.
    """

    __slots__ = ("number", "vcpu", "flags", "took", "time", "inside", "rip", "frozen", "answer", "regs", "system", "console",
                 "changes_packed", "patches_packed")  # fmt: skip

    number: int
    vcpu: int
    flags: int
    took: int
    time: int
    inside: int
    rip: int
    frozen: bytes
    answer: bytes
    regs: bytes
    system: bytes
    console: bytes
    changes_packed: bytes
    patches_packed: bytes

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """Device state that this exit changed: name -> field -> new value. Under "" a new layout, when the guest moved a BAR."""
        return changes(self.changes_packed) if self.changes_packed else {}

    @property
    def patches(self) -> list[tuple[int, int, bytes]]:
        """Guest memory that changed since the exit before, where that is recorded: (page number, first byte in it, bytes)."""
        return list(patches(self.patches_packed))


def entries(body: bytes, first: int, count: int) -> Iterator[Entry]:
    """The exits in the body of an EXIT chunk. Raises Damaged."""
    at, end, size, head_at = 0, len(body), ENTRY.size, ENTRY.unpack_from
    for number in range(first, first + count):
        if at + size > end:
            raise Damaged("it has too few exits in a chunk")
        entry = Entry()
        entry.number = number
        entry.vcpu, flags, _, frozen, answer, entry.took, entry.time, entry.inside, entry.rip = head_at(body, at)
        entry.flags = flags
        at += size
        entry.frozen = body[at : (at := at + frozen)]
        entry.answer = body[at : (at := at + answer)]
        entry.regs = body[at : (at := at + REGS)]
        entry.system = body[at : (at := at + SYSTEM_SIZE)] if flags & SYSTEM else b""
        entry.changes_packed, at = _part(body, at) if flags & CHANGES else (b"", at)
        entry.console, at = _part(body, at) if flags & CONSOLE else (b"", at)
        entry.patches_packed, at = _part(body, at) if flags & PATCHES else (b"", at)
        if at > end:
            raise Damaged("an exit runs over the end of its chunk")
        yield entry


def _part(body: bytes, at: int) -> tuple[bytes, int]:
    if at + LENGTH.size > len(body):
        raise Damaged("an exit runs over the end of its chunk")
    (length,) = LENGTH.unpack_from(body, at)
    at += LENGTH.size
    return body[at : at + length], at + length


def changes(packed: bytes) -> dict[str, dict[str, Any]]:
    """Raises Damaged."""
    found = plain(packed)
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(each, dict) for name, each in found.items()):
        raise Damaged("the devices' changes are none")
    return found


def patches(packed: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Raises Damaged."""
    at = 0
    while at < len(packed):
        if at + PATCH.size > len(packed):
            raise Damaged("a change of memory is cut off")
        page, first, length = PATCH.unpack_from(packed, at)
        at += PATCH.size
        if first + length > 4096 or at + length > len(packed):
            raise Damaged("a change of memory runs over its page")
        yield page, first, packed[at : at + length]
        at += length


def plain(packed: bytes) -> Any:
    """Plain data of bytes. Raises Damaged."""
    try:
        return unpack(packed)
    except (Misfit, RecursionError) as error:
        raise Damaged(str(error)) from None


# --- chunks ---------------------------------------------------------------------------------------------------------------
class Chunk:
    """A chunk's head, and where it is in the file."""

    __slots__ = ("kind", "flags", "table", "stored", "size", "crc", "exit", "count", "at")

    def __init__(self, kind: bytes, flags: int, table: bytes, stored: int, size: int, crc: int, exit: int, count: int, at: int) -> None:
        self.kind = kind
        self.flags = flags
        self.table = table
        self.stored = stored
        self.size = size
        self.crc = crc
        self.exit = exit
        self.count = count
        self.at = at  # of the body


def chunk(kind: bytes, exit: int, count: int, body: bytes, table: bytes = b"", flags: int = 0, pack_it: bool = True) -> list[bytes]:
    """A chunk as the pieces to be written."""
    packed = zlib.compress(body, 1) if pack_it else body
    if len(packed) < len(body):
        flags |= PACKED
    else:
        packed = body
    head = CHUNK.pack(kind, flags, 0, len(table), len(packed), len(body), zlib.crc32(packed), exit, count, 0)[:_CHECKED]
    return [head, LENGTH.pack(zlib.crc32(table, zlib.crc32(head))), table, packed]


def direct_pages(exit: int, numbers: list[int]) -> bytes:
    """The head and table of a PAGE chunk whose pages follow as they are."""
    table, size = page_table(numbers), 4096 * len(numbers)
    head = CHUNK.pack(PAGE, DIRECT, 0, len(table), size, size, 0, exit, len(numbers), 0)[:_CHECKED]
    return head + LENGTH.pack(zlib.crc32(table, zlib.crc32(head))) + table


def page_table(numbers: list[int]) -> bytes:
    """The table of a PAGE chunk."""
    return pack(f"<{len(numbers)}I", *numbers)


def page_numbers(table: bytes) -> tuple[int, ...]:
    """What ``page_table`` was given."""
    return unpack_from(f"<{len(table) // 4}I", table)


def table_length(head: bytes) -> int | None:
    """Of the chunk with this head; None for bytes that are no head."""
    length: int = CHUNK.unpack(head)[3]
    return length if length <= TABLE_MAX else None


def parse(head: bytes, table: bytes, at: int) -> Chunk | None:
    """The head of a chunk whose body is at ``at``; None when it is damaged."""
    kind, flags, _, _, stored, size, crc, exit, count, check = CHUNK.unpack(head)
    if zlib.crc32(table, zlib.crc32(head[:_CHECKED])) != check or size > BODY_MAX or exit + count > EXITS_MAX:
        return None
    if stored > size or not flags & PACKED and stored != size:
        return None
    if flags & DIRECT and (kind != PAGE or flags & (PACKED | SAME)):
        return None
    return Chunk(kind, flags, table, stored, size, crc, exit, count, at)


def body_of(chunk: Chunk, stored: bytes) -> bytes:
    """The body, unpacked; no more memory is used than the head said. Raises Damaged."""
    if len(stored) != chunk.stored or not chunk.flags & DIRECT and zlib.crc32(stored) != chunk.crc:
        raise Damaged(f"the part about exit {chunk.exit} is damaged (its check sum is wrong)")
    if not chunk.flags & PACKED:
        return stored
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(stored, chunk.size) if chunk.size else b""
    except zlib.error as error:
        raise Damaged(f"the part about exit {chunk.exit} is damaged ({error})") from None
    if len(body) != chunk.size:
        raise Damaged(f"the part about exit {chunk.exit} is damaged (it is too short)")
    return body
