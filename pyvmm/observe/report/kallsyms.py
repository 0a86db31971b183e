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
_TOKEN = 64  # bytes: longer than any
_NEAR = 16 << 10  # bytes before and behind the digits in which all tokens lie
_LIMIT = 4 << 30  # kernels lie below
_HITS, _TABLES, _PATIENCE = 4096, 4, 4_000_000  # digits, tokens, names looked at: memory may be a guest's that wants to keep us busy


def find(memory: Memory, ram: list[list[int]]) -> Symbols | None:
    """Looks through guest memory; None where there is no such table, or a part of it is not there.

    Args:
        memory: of the guest.
        ram: [gpa, bytes] of each piece.
    """
    hits = tables = 0
    for gpa, size in ram:
        end = min(gpa + size, _LIMIT)
        for start in range(gpa, end, _STEP):
            block = _read(memory, start, min(start + _STEP + len(_DIGITS), end))
            at = block.find(_DIGITS)
            while at >= 0 and hits < _HITS and tables < _TABLES:
                hits += 1
                digits = start + at
                low = max(digits - _NEAR, gpa) + 7 & -8
                if _tokens(_read(memory, low, min(digits + _NEAR, end)), digits - low) is not None:
                    tables += 1
                    low = max(digits - _BEFORE, gpa) + 7 & -8
                    found = parse(_read(memory, low, min(digits + _AFTER, end)), digits - low)
                    if found is not None:
                        return found
                at = block.find(_DIGITS, at + 1)
    return None


def _read(memory: Memory, start: int, end: int) -> bytes:
    try:
        return memory.read(start, end - start)
    except PyvmmError:
        return b""


def parse(data: bytes, digits: int) -> Symbols | None:
    """The table in a piece of memory that begins on 8 bytes, with token 0x30 at ``digits``."""
    tokens = _tokens(data, digits)
    if tokens is None:
        return None
    words, table, behind = tokens
    patience = [_PATIENCE]
    for at, count in enumerate(memoryview(data[: table & -8]).cast("Q")):
        if _LEAST <= count <= _MOST:
            names = _names(data, 8 * at + 8, count, table, words, patience)
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
    for _ in range(0x2F):
        at = data.rfind(b"\0", max(at - _TOKEN, 0), at - 1) + 1  # the end of the token before
        if not at:
            return None
    for begin in range(at - 2 & -8, max(at - _TOKEN, -1), -8):  # the first one has no end of another before it
        words = data[begin : begin + 8192].split(b"\0", 256)[:256]
        index = begin + sum(len(word) + 1 for word in words) + 7 & -8
        if len(words) == 256 and index + 512 <= len(data) and _fits(words, unpack_from("<256H", data, index)):
            return [word.decode("latin-1") for word in words], begin, index + 512
    return None


def _fits(words: list[bytes], starts: tuple[int, ...]) -> bool:
    """Whether token_index says where the tokens are."""
    offset = 0
    for word, start in zip(words, starts, strict=True):
        if start != offset:
            return False
        offset += len(word) + 1
    return True


def _names(data: bytes, start: int, count: int, end: int, tokens: list[str], patience: list[int]) -> list[str] | None:
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
        patience[0] -= 1
        if not length or at + length >= end or patience[0] < 0:
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
