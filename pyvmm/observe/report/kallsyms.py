"""The names of a Linux kernel's functions, from the table it carries in its own memory (CONFIG_KALLSYMS): no file, and right under KASLR.

What scripts/kallsyms.c of Linux puts into .rodata, each part aligned to 8 bytes, or to 4 (32-bit kernels, and all of late); newer
kernels have the first two behind the rest:

    offsets[]        s32 for each symbol: from relative_base; negative where addresses of CPUs' areas are kept apart (PERCPU)
    relative_base    u64; u32 in 32-bit kernels; the newest have none, there each offset counts from where it stands
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
_WIDE, _NARROW = (47, 0x1FFFF), (30, 0)  # (bits, what is above them) of addresses in the kernel's half; of 32 bits, not in it
_TEXT_MAPPING = 0xFFFF_FFFF_8000_0000  # Documentation/arch/x86/x86_64/mm.rst
_FRAME = 0x000F_FFFF_FFFF_F000
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
                if any(_tokens(_read(memory, low, min(digits + _NEAR, end)), digits - low, align) for align in (8, 4)):
                    tables += 1
                    low = max(digits - _BEFORE, gpa) + 7 & -8
                    found = parse(_read(memory, low, min(digits + _AFTER, end)), digits - low)
                    shift = 0 if found is None or found[2] else _shift(memory, low, found[0], found[1])
                    if found is not None and shift is not None:
                        names, addresses, _ = found
                        symbols = (_symbol(name, address + shift) for name, address in zip(names, addresses, strict=True))
                        return Symbols(symbols, source="the kernel's own table")
                at = block.find(_DIGITS, at + 1)
    return None


def _read(memory: Memory, start: int, end: int) -> bytes:
    try:
        return memory.read(start, end - start)
    except PyvmmError:
        return b""


def parse(data: bytes, digits: int) -> tuple[list[str], list[int], bool] | None:
    """The table in a piece of memory that begins on 8 bytes, with token 0x30 at ``digits``: names with their types in front,
    addresses, and whether these are linear, not just places counted from where ``data`` begins."""
    for align in (8, 4):
        tokens = _tokens(data, digits, align)
        if tokens is None:
            continue
        words, table, behind = tokens
        patience = [_PATIENCE]
        for at, count in enumerate(memoryview(data[: table & -8]).cast("Q" if align == 8 else "I")):
            if _LEAST <= count <= _MOST and _marked(data, count, table, align):
                names = _names(data, align * (at + 1), count, table, words, patience, align)
                found = _addresses(data, align * at, count, behind, align) if names is not None else None
                if names is not None and found is not None:
                    return names, *found
    return None


def _marked(data: bytes, count: int, table: int, align: int) -> bool:
    """Whether the markers of so many names are where they would be: at 0, and at the 256th. Spares looking at names that are none."""
    length = 4 * -(-count // _EVERY) + align - 1 & -align
    for sequences in (0, 3 * count + align - 1 & -align):
        at = table - sequences - length
        if at >= 0 and data[at : at + 4] == bytes(4) and 2 * _EVERY < unpack_from("<I", data, at + 4)[0] < _EVERY << 9:
            return True
    return False


def _shift(memory: Memory, low: int, names: list[str], places: list[int]) -> int | None:
    """What to add to a place counted from ``low`` to have its linear address, by the page tables the kernel brings along: the
    entries of level2_kernel_pgt are 2 MiB each from _TEXT_MAPPING, and the kernel lies there in one piece."""
    at = {name[1:]: low + place for name, place in zip(names, places, strict=True) if name[1:] in ("_text", "level2_kernel_pgt")}
    if len(at) < 2:
        return None
    text = at["_text"]
    for number, entry in enumerate(_entries(memory, at["level2_kernel_pgt"])):
        linear = _TEXT_MAPPING + (number << 21)
        if entry & 0x81 == 0x81 and entry & _FRAME & -0x20_0000 == text & -0x20_0000:
            return linear + (text & 0x1F_FFFF) - text + low
        if entry & 0x81 == 1 and _entries(memory, entry & _FRAME)[text >> 12 & 511] & (_FRAME | 1) == text & _FRAME | 1:
            return linear + (text & 0x1F_FFFF) - text + low
    return None


def _entries(memory: Memory, gpa: int) -> tuple[int, ...]:
    page = _read(memory, gpa, gpa + 4096)
    return unpack_from("<512Q", page) if len(page) == 4096 else (0,) * 512


def _symbol(name: str, address: int) -> Symbol:
    kind = name[0]
    return Symbol(name=name[1:], address=address, rank=2 * (kind in "TtWw") + kind.isupper(), place=kind not in "aA")


def _tokens(data: bytes, digits: int, align: int) -> tuple[list[str], int, int] | None:
    """(the tokens, where token_table begins, where token_index ends)"""
    at = digits
    for _ in range(0x2F):
        at = data.rfind(b"\0", max(at - _TOKEN, 0), at - 1) + 1  # the end of the token before
        if not at:
            return None
    for begin in range(at - 2 & -align, max(at - _TOKEN, -1), -align):  # the first one has no end of another before it
        words = data[begin : begin + 8192].split(b"\0", 256)[:256]
        index = begin + sum(len(word) + 1 for word in words) + align - 1 & -align
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


def _names(data: bytes, start: int, count: int, end: int, tokens: list[str], patience: list[int], align: int) -> list[str] | None:
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
    at = at + align - 1 & -align
    fits = at + 4 * len(markers) <= end and list(unpack_from(f"<{len(markers)}I", data, at)) == markers
    return found if fits else None


def _addresses(data: bytes, num_syms: int, count: int, behind: int, align: int) -> tuple[list[int], bool] | None:
    """Before ``num_syms`` (until Linux 6.1), or behind the tokens. (addresses, whether they are linear)"""
    length = 4 * count + align - 1 & -align
    for width, (shift, half) in ((8, _WIDE), (4, _NARROW))[: 1 if align == 8 else 2]:
        for offsets, base in ((num_syms - width - length, num_syms - width), (behind, behind + length)):
            if offsets < 0 or base + width > len(data):
                continue
            relative = int.from_bytes(data[base : base + width], "little")
            if (relative >> shift == half) != (width == 8):  # not in the kernel's half
                continue
            if width == 4:
                unsigned = unpack_from(f"<{count}I", data, offsets)
                found = [relative + value & 0xFFFF_FFFF for value in unsigned]
                texts = found if 0 in unsigned else []  # the base is somebody's address
            else:
                values = unpack_from(f"<{count}i", data, offsets)
                percpu = any(value < 0 for value in values)
                found = [relative - 1 - value if value < 0 else value if percpu else relative + value for value in values]
                texts = [address for address in found if address >> shift == half]
            if len(texts) > count // 2 and _ascend(texts):
                return found, True
    if behind + length > len(data):
        return None
    own = [behind + 4 * number + value for number, value in enumerate(unpack_from(f"<{count}i", data, behind))]
    return (own, False) if _ascend(own) else None


def _ascend(addresses: list[int]) -> bool:
    """They come sorted, but for a few."""
    return sum(map(int.__le__, addresses, addresses[1:])) > 0.9 * len(addresses)
