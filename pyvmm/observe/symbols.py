"""Names of addresses in the guest, both ways: from an ELF file's symbol table, or a System.map (``nm`` and /proc/kallsyms look alike).

ELF: System V gABI, chapter 4, "Symbol Table". Files are the user's, and may be anything: what does not fit is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import iter_unpack, unpack_from

from pyvmm.boot import elf
from pyvmm.boot.image import Image, open_image
from pyvmm.errors import ImageError
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SYMTAB, _DYNSYM = 2, 11  # section types
_NOTYPE, _OBJECT, _FUNC = 0, 1, 2  # symbol types
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1  # section numbers
_FAR = 0x1_0000  # bytes behind a symbol without a size that still count as its own
_NAME_MAX = 512


class Symbol(FrozenRecord):
    """One name.

    Fields:
        name: as the file has it.
        address: linear.
        size: bytes, 0 when the file does not say.
        rank: which of several at one address to show, the higher: functions before labels, global before local.
        place: it names a place in the image; else a number.
    """

    name: str
    address: int
    size: int = 0
    rank: int = 0
    place: bool = True


class Symbols:
    """The names of one guest.

    Args:
        symbols: in any order.
        segments: [(linear, physical, size)] as the file wants to be loaded.
        source: the file's name.
    """

    def __init__(self, symbols: Iterable[Symbol], segments: Iterable[tuple[int, int, int]] = (), source: str = "") -> None:
        self.source = source
        self._segments = list(segments)
        self._by_name: dict[str, Symbol] = {}
        shown: dict[int, Symbol] = {}
        for each in symbols:
            known = self._by_name.get(each.name)
            if known is None or each.rank > known.rank:
                self._by_name[each.name] = each
            if each.place:
                other = shown.get(each.address)
                if other is None or (each.rank, bool(each.size)) > (other.rank, bool(other.size)):
                    shown[each.address] = each
        self._addresses = sorted(shown)
        self._shown = shown

    def __len__(self) -> int:
        return len(self._by_name)

    def names(self) -> list[str]:
        """All, sorted."""
        return sorted(self._by_name)

    def find(self, name: str) -> tuple[int, int] | None:
        """(linear address, size or 0) of a name."""
        found = self._by_name.get(name)
        return (found.address, found.size) if found is not None else None

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, how far behind it) of what an address lies in."""
        at = bisect_right(self._addresses, address)
        if not at:
            return None
        found = self._shown[self._addresses[at - 1]]
        behind = address - found.address
        return (found.name, behind) if behind < (found.size or _FAR) else None

    def physical(self, linear: int) -> int | None:
        """Where the image loads a linear address."""
        for start, physical, size in self._segments:
            if start <= linear < start + size:
                return linear - start + physical
        return None


def load(path: str) -> Symbols:
    """From an ELF file or a System.map.

    Raises:
        ImageError: it cannot be read, or has no symbols.
    """
    image = open_image(path, "symbol file")
    found = of_elf(image) if image.data[:4] == elf.MAGIC else of_map(image)
    if not len(found):
        raise image.error("no symbols in it: give an ELF file that is not stripped, or a System.map")
    return found


def of_guest(path: str) -> Symbols | None:
    """A guest image's own; None when it has none."""
    found = image(path)
    return found if len(found) else None


def image(path: str) -> Symbols:
    """What a guest image has of names and segments; nothing when it is no ELF file."""
    try:
        opened = open_image(path)
        return of_elf(opened) if opened.data[:4] == elf.MAGIC else Symbols(())
    except ImageError:
        return Symbols(())


def of_elf(image: Image) -> Symbols:
    """An ELF file's. ImageError: not an x86 executable."""
    header = elf.parse(image)
    segments = [(each.vaddr, each.paddr, each.memsz) for each in header.loads()]
    return Symbols(_symbols(image.data, header.bits == 64), segments, image.path)


def _symbols(data: memoryview, wide: bool) -> Iterator[Symbol]:
    sections = _sections(data, wide)
    tables = [each for each in sections if each[0] == _SYMTAB] or [each for each in sections if each[0] == _DYNSYM]
    for _, offset, size, link in tables:
        if link >= len(sections):
            continue
        _, names, names_size, _ = sections[link]
        strings = bytes(data[names : names + names_size])
        entry = "<IBBHQQ" if wide else "<IIIBBH"
        length = 24 if wide else 16
        for fields in iter_unpack(entry, data[offset : offset + size // length * length]):
            if wide:
                name, info, _, section, value, extent = fields
            else:
                name, value, extent, info, _, section = fields
            kind, binding = info & 15, info >> 4
            if kind not in (_NOTYPE, _OBJECT, _FUNC) or section == _UNDEFINED or not 0 < name < len(strings):
                continue
            text = strings[name : strings.find(b"\0", name, name + _NAME_MAX)].decode(errors="replace")
            if text:
                rank = 2 * (kind != _NOTYPE) + (binding != 0)
                yield Symbol(name=text, address=value, size=extent, rank=rank, place=section != _ABSOLUTE)


def _sections(data: memoryview, wide: bool) -> list[tuple[int, int, int, int]]:
    """(type, offset, size, link) of each section; one that reaches beyond the file is cut."""
    start = unpack_from("<Q", data, 40)[0] if wide else unpack_from("<I", data, 32)[0]
    entry, count = unpack_from("<HH", data, 58 if wide else 46)
    if entry < (64 if wide else 40) or start + entry * count > len(data):
        return []
    sections = []
    for at in range(start, start + entry * count, entry):
        if wide:
            kind, offset, size, link = unpack_from("<4xI16xQQI", data, at)
        else:
            kind, offset, size, link = unpack_from("<4xI8xIII", data, at)
        sections.append((kind, offset, max(min(size, len(data) - offset), 0), link))
    return sections


def of_map(image: Image) -> Symbols:
    """Lines of "address type name" (``nm``, System.map, /proc/kallsyms). Others are passed over."""
    return Symbols(_lines(bytes(image.data)), source=image.path)


def _lines(text: bytes) -> Iterator[Symbol]:
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or len(words[1]) != 1:
            continue
        try:
            address = int(words[0], 16)
        except ValueError:
            continue
        kind = words[1].decode(errors="replace")
        rank = 2 * (kind in "TtWw") + kind.isupper()
        yield Symbol(name=words[2][:_NAME_MAX].decode(errors="replace"), address=address, rank=rank, place=kind not in "aAU")
