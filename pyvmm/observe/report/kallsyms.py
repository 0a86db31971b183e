"""The names of a Linux kernel's functions, from the table it carries in its own memory (CONFIG_KALLSYMS): no file, and right under KASLR.

What scripts/kallsyms.c of Linux puts into .rodata, each part aligned to 8 bytes; newer kernels have the first two behind the rest:

    offsets[]        s32 for each symbol: from relative_base; negative where addresses of CPUs' areas are kept apart (PERCPU)
    relative_base    u64
    num_syms         u32
    names[]          for each symbol a length (two bytes when bit 7 is set, 7 bits each), then so many tokens; the first letter is the type
    markers[]        u32: where each 256th symbol begins in names
    (seqs_of_names[] 3 bytes for each symbol, in order of names: since Linux 6.2, and in its stable predecessors)
    token_table[]    256 strings, each ended by 0
    token_index[]    u16 for each token: where it begins in token_table

It is found by its digits: tokens 0x30 to 0x39 stand for themselves in all kernels but for chance. Everything else is then checked against
each other, and what does not fit is no table.
"""

from __future__ import annotations

from struct import unpack_from

from pyvmm.errors import PyvmmError
from pyvmm.observe.symbols import Symbol, Symbols

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.paging import Memory

_DIGITS = b"".join(bytes([0x30 + digit, 0]) for digit in range(10))
_STEP, _BEFORE, _AFTER = 4 << 20, 8 << 20, 4 << 20  # bytes: read at once; how far from the tokens the rest may begin, and end
_LEAST, _MOST = 1000, 1 << 20  # symbols: Debian's kernel has 150,000
_TYPES = frozenset("aAbBdDgGiInNpPrRsStTuUvVwW")  # of nm
_EVERY = 256


def find(memory: Memory, ram: list[list[int]]) -> Symbols | None:
    """Looks through guest memory; None where there is no such table, or a part of it is not there.

    Args:
        memory: of the guest.
        ram: [gpa, bytes] of each piece.
    """
    for gpa, size in ram:
        for start in range(gpa, gpa + size, _STEP):
            length = min(_STEP + len(_DIGITS), gpa + size - start)
            try:
                block = memory.read(start, length)
            except PyvmmError:
                continue
            at = block.find(_DIGITS)
            while at >= 0:
                found = _around(memory, gpa, gpa + size, start + at)
                if found is not None:
                    return found
                at = block.find(_DIGITS, at + 1)
    return None


def _around(memory: Memory, first: int, end: int, digits: int) -> Symbols | None:
    """The table whose token 0x30 is at ``digits``."""
    low = max(digits - _BEFORE, first) + 7 & -8
    try:
        data = memory.read(low, min(digits + _AFTER, end) - low)
    except PyvmmError:
        return None
    return parse(data, digits - low)


def parse(data: bytes, digits: int) -> Symbols | None:
    """The same in a piece of memory that begins on 8 bytes, with token 0x30 at ``digits``."""
    tokens = _tokens(data, digits)
    if tokens is None:
        return None
    words, table, behind = tokens
    for at, count in enumerate(memoryview(data[: table & -8]).cast("Q")):
        if _LEAST <= count <= _MOST:
            names = _names(data, 8 * at + 8, count, table, words)
            addresses = _addresses(data, 8 * at, count, behind) if names is not None else None
            if names is not None and addresses is not None:
                return Symbols(map(_symbol, names, addresses), source="the kernel's own table")
    return None


def _symbol(name: str, address: int) -> Symbol:
    kind = name[0]
    return Symbol(name=name[1:], address=address, rank=2 * (kind in "TtWw") + kind.isupper(), place=kind not in "aA")


def _tokens(data: bytes, digits: int) -> tuple[list[str], int, int] | None:
    """(the tokens, where token_table begins, where token_index ends)"""
    at = digits
    for _ in range(0x30):
        at = data.rfind(b"\0", max(at - 64, 0), at - 1) + 1  # the end of the token before
        if not at:
            return None
    words = data[at : at + 8192].split(b"\0", 256)[:256]
    index = at + sum(len(word) + 1 for word in words) + 7 & -8
    if len(words) < 256 or at % 8 or index + 512 > len(data):
        return None
    offset = 0
    for word, start in zip(words, unpack_from("<256H", data, index), strict=True):
        if start != offset:
            return None
        offset += len(word) + 1
    return [word.decode("latin-1") for word in words], at, index + 512


def _names(data: bytes, start: int, count: int, end: int, tokens: list[str]) -> list[str] | None:
    """All names with their types in front, when the markers behind them say the same."""
    at, found, markers = start, [], []
    for number in range(count):
        if number % _EVERY == 0:
            markers.append(at - start)
        length = data[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | data[at] << 7
            at += 1
        if not length or at + length >= end:
            return None
        name = "".join([tokens[each] for each in data[at : at + length]])
        if len(name) < 2 or name[0] not in _TYPES:
            return None
        found.append(name)
        at += length
    at = at + 7 & -8
    fits = at + 4 * len(markers) <= end and list(unpack_from(f"<{len(markers)}I", data, at)) == markers
    return found if fits else None


def _addresses(data: bytes, num_syms: int, count: int, behind: int) -> list[int] | None:
    """Before ``num_syms`` (until Linux 6.1), or behind the tokens."""
    for offsets, base in ((num_syms - 8 - (4 * count + 7 & -8), num_syms - 8), (behind, behind + (4 * count + 7 & -8))):
        if offsets < 0 or base + 8 > len(data):
            continue
        (relative,) = unpack_from("<Q", data, base)
        values = unpack_from(f"<{count}i", data, offsets)
        if relative >> 47 != 0x1FFFF:  # not in the kernel's half
            continue
        percpu = any(value < 0 for value in values)
        found = [relative - 1 - value if value < 0 else value if percpu else relative + value for value in values]
        texts = [address for address in found if address >> 47 == 0x1FFFF]
        if len(texts) > count // 2 and sum(map(int.__le__, texts, texts[1:])) > 0.9 * len(texts):  # they come sorted
            return found
    return None
