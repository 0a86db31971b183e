"""Pages of RAM that the guest may read but not write: each write becomes an MMIO exit (api.rst, KVM_MEM_READONLY).

KVM knows only whole memory slots, so regions are split around such pages. User space writes them as before.
"""

from __future__ import annotations

from pyvmm.kvm import structs, uapi
from pyvmm.layout import PAGE
from pyvmm.memory import Slot
from pyvmm.snapshot import parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine import Machine
    from pyvmm.memory import Region


class ReadOnly:
    """The read-only pages of one machine.

    Args:
        machine: whose.

    Attributes:
        pages: page numbers (gpa / 4096).
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.pages: set[int] = set()

    def protect(self, pages: set[int]) -> None:
        """Has these be read-only and no others. The vCPUs are parked; it takes milliseconds when there is something to do."""
        if pages == self.pages:
            return
        machine, memory = self._machine, self._machine.memory
        flags = 0
        if machine.tracked is not None:  # what KVM has logged goes with the slot
            machine.tracked.collect(parts.lasting(machine))
            flags = uapi.KVM_MEM_LOG_DIRTY_PAGES
        wanted = [piece for region in memory.regions for piece in split(region, pages)]
        slots = [Slot(number, *piece) for number, piece in enumerate(wanted)]
        for slot in memory.slots:
            machine.vm.set_memory_region(slot.number, slot.gpa, 0, slot.host_address)
        for slot in slots:
            machine.vm.set_memory_region(slot.number, slot.gpa, slot.size, slot.host_address, flags | slot.flags)
        memory.slots = slots
        self.pages = set(pages)

    def write(self, page: memoryview) -> tuple[int, bytes] | None:
        """Carries out the write that an MMIO exit in the run page reports; (gpa, data), None when it is not of these pages."""
        gpa = int.from_bytes(page[structs.RUN_MMIO_ADDRESS : structs.RUN_MMIO_ADDRESS + 8], "little")
        if not page[structs.RUN_MMIO_IS_WRITE] or gpa // PAGE not in self.pages:
            return None
        data = bytes(page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + min(page[structs.RUN_MMIO_LEN], 8)])
        self._machine.memory.write(gpa, data)  # KVM cuts accesses at the ends of pages
        return gpa, data


def split(region: Region, pages: set[int]) -> list[tuple[int, int, int, int]]:
    """(gpa, size, host address, flags) of the pieces of a region, its read-only pages apart."""
    first, last = region.gpa // PAGE, region.end // PAGE
    pieces: list[tuple[int, int, int, int]] = []
    start = first
    inside = sorted(page for page in pages if first <= page < last)

    def piece(begin: int, end: int, flags: int) -> None:
        if begin < end:
            pieces.append((begin * PAGE, (end - begin) * PAGE, region.host_address + (begin - first) * PAGE, flags | region.flags))

    at = 0
    while at < len(inside):
        begin = end = inside[at]
        while at < len(inside) and inside[at] == end:
            end += 1
            at += 1
        piece(start, begin, 0)
        piece(begin, end, uapi.KVM_MEM_READONLY)
        start = end
    piece(start, last, 0)
    return pieces
