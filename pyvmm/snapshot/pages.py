"""Guest memory as a set of pages: taken whole, or as what has changed since another image.

An image knows its own pages and the image it is based on, so that a thousand snapshots of one run share what did not change. A page
nobody has is all zeros.
"""

from __future__ import annotations

import re

from pyvmm.kvm import uapi
from pyvmm.layout import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyvmm.kvm.vm import Vm
    from pyvmm.memory import GuestMemory, Region, WrittenPages

ZERO = bytes(PAGE)
_DEPTH_MAX = 32  # images on one another; the next is made whole
_PRESENT = 3 << 62  # pagemap: in memory, or swapped out


class Image:
    """The contents of guest RAM at one moment; never changes.

    Args:
        own: page number (gpa / 4096) -> its 4096 bytes.
        base: where the other pages are; None: they are zeros.
    """

    __slots__ = ("own", "base", "depth")

    def __init__(self, own: dict[int, bytes], base: Image | None = None) -> None:
        if base is not None and base.depth >= _DEPTH_MAX:
            own, base = {**base.whole(), **own}, None
        self.own = own
        self.base = base
        self.depth: int = 0 if base is None else base.depth + 1

    def page(self, number: int) -> bytes:
        """A page's contents."""
        image: Image | None = self
        while image is not None:
            found = image.own.get(number)
            if found is not None:
                return found
            image = image.base
        return ZERO

    def whole(self) -> dict[int, bytes]:
        """All pages that somebody has, own and inherited."""
        chain = list(self._chain())
        pages: dict[int, bytes] = {}
        for image in reversed(chain):
            pages.update(image.own)
        return pages

    def differing(self, other: Image) -> set[int]:
        """Pages that may differ between the two: what was added on both sides since they were one."""
        here, there = list(self._chain()), list(other._chain())
        while here and there and here[-1] is there[-1]:
            here.pop()
            there.pop()
        return {number for image in (*here, *there) for number in image.own}

    def _chain(self) -> Iterator[Image]:
        image: Image | None = self
        while image is not None:
            yield image
            image = image.base


def touched(region: Region) -> Iterable[int]:
    """Offsets, in pages, of what the host has given pages for; the rest of a region was never written. All where it does not say."""
    count = region.size // PAGE
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(region.host_address // PAGE * 8)
            entries = pagemap.read(8 * count)
    except OSError:
        return range(count)
    if len(entries) != 8 * count:
        return range(count)
    return [at for at, entry in enumerate(memoryview(entries).cast("Q")) if entry & _PRESENT]


def scan(memory: GuestMemory) -> Image:
    """All of RAM as it is. Nobody may be writing."""
    pages: dict[int, bytes] = {}
    for region in memory.regions:
        view, first = region.view, region.gpa // PAGE
        for at in touched(region):
            page = bytes(view[at * PAGE : (at + 1) * PAGE])
            if page != ZERO:
                pages[first + at] = page
    return Image(pages)


def filled(memory: GuestMemory) -> Iterator[int]:
    """Numbers of the pages that are not all zeros. Nobody may be writing."""
    for region in memory.regions:
        view, first = region.view, region.gpa // PAGE
        for at in touched(region):
            if view[at * PAGE] or view[at * PAGE : (at + 1) * PAGE].tobytes() != ZERO:
                yield first + at


def fill(memory: GuestMemory, image: Image) -> int:
    """Makes RAM what the image says, touching only pages that differ. Returns how many did."""
    pages, changed = image.whole(), 0
    for region in memory.regions:
        first, last = region.gpa // PAGE, region.end // PAGE
        there = {first + at for at in touched(region)}
        there.update(number for number in pages if first <= number < last)
        changed += _put(region, {number: pages.get(number, ZERO) for number in there})
    return changed


def _put(region: Region, pages: dict[int, bytes]) -> int:
    view, first, changed = region.view, region.gpa // PAGE, 0
    for number, page in pages.items():
        at = (number - first) * PAGE
        if bytes(view[at : at + PAGE]) != page:  # a memoryview compares item by item, seven times slower
            view[at : at + PAGE] = page
            changed += 1
    return changed


_SOME = re.compile(rb"[^\0]")
_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def _bits(bitmap: bytes | bytearray) -> Iterator[int]:
    """Numbers of the bits that are set. As a rule nearly all of it is zeros, which are passed over at the speed of C."""
    for found in _SOME.finditer(bitmap):
        at = found.start()
        for bit in _BITS[bitmap[at]]:
            yield 8 * at + bit


class Tracked:
    """Guest memory with a record of what changes, by the guest (KVM's dirty log) and by user space (``GuestMemory.track``).

    Args:
        memory, vm: whose. Nobody may be writing while this object is made, asked or closed.
        late: KVM's log begins with the first question; until then pages that are not zeros, or were not, count as changed. With the log
            KVM maps 4 KiB at a time and has a fault for each page: not for what a guest does first, which is to fill its memory.

    Attributes:
        image: what RAM was when ``save`` or ``load`` was last called.
        readers: sets of pages, one for each who wants to know what has changed since he looked last; he empties his himself.
    """

    def __init__(self, memory: GuestMemory, vm: Vm, late: bool = False) -> None:
        self.memory = memory
        self.vm = vm
        self.image = scan(memory)
        self.lasting: set[int] = set()  # pages that are written through views from before
        self._changed: set[int] = set()
        self.readers = [self._changed]
        self._written: WrittenPages = memory.track()
        self._logged = not late
        if not late:
            self._slots(uapi.KVM_MEM_LOG_DIRTY_PAGES)

    def _slots(self, flags: int) -> None:
        for slot in self.memory.slots:
            self.vm.set_memory_region(slot.number, slot.gpa, slot.size, slot.host_address, flags | slot.flags)

    def collect(self, lasting: set[int]) -> None:
        """Gives the readers the pages that may have changed since the last call.

        Args:
            lasting: pages that somebody may write without a fresh view, from now on until the next call.
        """
        pages = self._written.take() | lasting | self.lasting
        self.lasting = lasting
        if not self._logged:
            self._logged = True
            self._slots(uapi.KVM_MEM_LOG_DIRTY_PAGES)
            pages.update(self.image.whole(), filled(self.memory))
        for slot in self.memory.slots:
            first = slot.gpa // PAGE
            pages.update([first + bit for bit in _bits(self.vm.dirty_log(slot.number, slot.size // PAGE))])
        for reader in self.readers:
            reader |= pages

    def _since(self, lasting: set[int]) -> set[int]:
        self.collect(lasting)
        pages = self._changed.copy()
        self._changed.clear()
        return pages

    def put(self, pages: dict[int, bytes]) -> int:
        """Writes whole pages, those that differ. Returns how many did."""
        for reader in self.readers:
            reader.update(pages)
        changed = 0
        for region in self.memory.regions:
            first, last = region.gpa // PAGE, region.end // PAGE
            changed += _put(region, {number: page for number, page in pages.items() if first <= number < last})
        return changed

    def save(self, lasting: set[int]) -> Image:
        """RAM as it is, as an image based on the one before."""
        own: dict[int, bytes] = {}
        pages = self._since(lasting)
        for region in self.memory.regions:
            first, last = region.gpa // PAGE, region.end // PAGE
            for number in pages:
                if first <= number < last:
                    at = (number - first) * PAGE
                    page = bytes(region.view[at : at + PAGE])
                    if page != self.image.page(number):
                        own[number] = page
        self.image = Image(own, self.image)
        return self.image

    def load(self, image: Image, lasting: set[int]) -> int:
        """Makes RAM what the image says. Returns how many pages differed."""
        pages = self._since(lasting) | self.image.differing(image)
        changed = self.put({number: image.page(number) for number in pages})
        self._changed.clear()
        self.image = image
        return changed

    def close(self) -> None:
        """Ends the record."""
        self._written.close()
        self._slots(0)
