"""Guest physical memory as the host holds it: one anonymous mapping, split around the hole below 4 GiB; a firmware's ROM at its end.

Everything a device or boot loader does with guest memory comes through here, so here stands the one bounds check: any
range that is not wholly inside one RAM region raises GuestFault. Ranges that cross the hole are outside by definition.
"""

from __future__ import annotations

import mmap
import os
import struct

from pyvmm.errors import ConfigError, GuestFault, HostError
from pyvmm.kvm import native
from pyvmm.layout import HIGH_RAM, PAGE, RAM_MIN, ram_regions
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ_ONLY = 2  # KVM_MEM_READONLY, <linux/kvm.h>: a write by the guest is an MMIO exit, which nobody answers
_BEGIN = 16 << 20  # it begins at a multiple: of a huge page too, and host addresses end in the guest's (devices/virtio/indirect.py)
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it since 3.13


class Region:
    """A contiguous piece of guest RAM.

    Attributes:
        gpa, size: where the guest sees it, in bytes; both multiples of 4 KiB.
        view: writable memoryview of exactly these bytes.
        host_address: virtual address in this process, for KVM_SET_USER_MEMORY_REGION.
        flags: READ_ONLY for ROM, else 0.
    """

    __slots__ = ("gpa", "size", "end", "view", "host_address", "flags")

    def __init__(self, gpa: int, view: memoryview, host_address: int, flags: int = 0) -> None:
        self.gpa = gpa
        self.size = len(view)
        self.end = gpa + self.size
        self.view = view
        self.host_address = host_address
        self.flags = flags


class Slot:
    """A memory slot of KVM: a region, or a piece of one.

    Attributes:
        number, gpa, size, host_address: as KVM_SET_USER_MEMORY_REGION takes them.
        flags: KVM_MEM_READONLY for a piece that the guest cannot write (ROM, or a debugger's doing), else 0.
    """

    __slots__ = ("number", "gpa", "size", "host_address", "flags")

    def __init__(self, number: int, gpa: int, size: int, host_address: int, flags: int = 0) -> None:
        self.number = number
        self.gpa = gpa
        self.size = size
        self.host_address = host_address
        self.flags = flags


class GuestMemory:
    """All RAM of one guest.

    Args:
        size: bytes, a multiple of 4 KiB, at least 1 MiB. May exceed what the host has free (mapped without reserve:
            pages cost nothing until the guest touches them), not what the host has in all.
        rom: what stands at the end of the first 4 GiB, whole pages. The guest's own copy: its processors cannot write it.

    Attributes:
        regions: ascending; RAM, and the ROM if there is one.

    Raises:
        ConfigError: size out of range.
        HostError: the host refuses the mapping.
    """

    def __init__(self, size: int, rom: bytes | memoryview = b"") -> None:
        if size < RAM_MIN or size % PAGE:
            raise ConfigError(f"guest memory of {size} bytes: give -m at least 1M, in multiples of 4 KiB")
        limit = host_memory()
        if size > limit:
            raise ConfigError(f"guest memory of {size >> 20} MiB is more than this host has ({limit >> 20} MiB RAM and swap): lower -m")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            self.mapping = mmap.mmap(-1, size + len(rom) + _BEGIN, flags=flags)  # with room to begin where it should
        except OSError as error:
            raise HostError(f"cannot map {size >> 20} MiB of guest memory: {error.strerror}; lower -m") from error
        self.size = size
        base = native.address_of(self.mapping)
        offset = -base % _BEGIN
        self._ask_for_huge_pages(offset)
        whole = memoryview(self.mapping)
        self.regions: list[Region] = []
        for gpa, length in ram_regions(size):
            self.regions.append(Region(gpa, whole[offset : offset + length], base + offset))
            offset += length
        if rom:
            view = whole[offset : offset + len(rom)]
            view[:] = rom
            self.regions.insert(1, Region(HIGH_RAM - len(rom), view, base + offset, READ_ONLY))
        self.slots = [Slot(at, region.gpa, region.size, region.host_address, region.flags) for at, region in enumerate(self.regions)]

    def _ask_for_huge_pages(self, offset: int) -> None:
        """2 MiB at a time where the host has them, as QEMU asks for too: a fault for each 512 pages instead of one for each.

        KVM maps them to the guest only where host and guest address agree in their low 21 bits (kvm_alloc_memslot_metadata, x86.c).
        """
        try:
            self.mapping.madvise(mmap.MADV_HUGEPAGE, offset, self.size)
        except OSError:
            pass  # a host without

    def view(self, gpa: int, length: int) -> memoryview:
        """A writable view of ``length`` bytes at ``gpa``, no copy.

        Raises:
            GuestFault: not wholly inside one RAM region.
        """
        for region in self.regions:
            if region.gpa <= gpa and gpa + length <= region.end and length >= 0:
                start = gpa - region.gpa
                return region.view[start : start + length]
        raise GuestFault(gpa, length)

    # --- a record of what user space writes ---------------------------------------------------------------------------
    @property
    def tracked(self) -> bool:
        """Whether ``track`` is in force."""
        return "view" in self.__dict__

    def track(self) -> WrittenPages:
        """Records the pages of every view given out from now on, until ``WrittenPages.close``; it costs nothing before and after.

        Views from before are not in it, nor is what is written later through an old view: whoever keeps one says so (rings).
        """
        record = WrittenPages(self)
        self.view = record.view  # type: ignore[method-assign]  # this object's, before the class's
        return record

    def read(self, gpa: int, length: int) -> bytes:
        """A copy of ``length`` bytes at ``gpa``. Raises GuestFault outside RAM, before anything is allocated."""
        return bytes(self.view(gpa, length))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copies ``data`` to ``gpa``. Raises GuestFault, nothing written, when any byte falls outside RAM."""
        self.view(gpa, len(data))[:] = data

    def unpack(self, layout: str, gpa: int) -> tuple[Any, ...]:
        """``struct.unpack(layout, ...)`` of the bytes at ``gpa``. Raises GuestFault outside RAM."""
        return struct.unpack(layout, self.view(gpa, struct.calcsize(layout)))

    def flush_page(self, gpa: int) -> None:
        """Makes the host drop its translations of the page at ``gpa``; what it holds stays. GuestFault outside RAM."""
        self.view(gpa & ~(PAGE - 1), PAGE)
        region = next(region for region in self.regions if region.gpa <= gpa < region.end)
        address = region.host_address + (gpa & ~(PAGE - 1)) - region.gpa
        mprotect = native.function("mprotect", native.u64, native.u64, native.c_int)
        # Another vCPU that touches the page in between waits in the kernel or gets EFAULT: a test's own doing.
        mprotect(address, PAGE, 0)
        mprotect(address, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)

    def close(self) -> None:
        """Gives the pages back to the host. Whoever still holds a view keeps them until he drops it."""
        for region in self.regions:
            region.view.release()
        self.regions = []
        try:
            self.mapping.close()
        except BufferError:
            pass  # a view is held

    def contains(self, gpa: int, length: int) -> bool:
        """Whether the whole range is RAM."""
        return any(region.gpa <= gpa and gpa + length <= region.end for region in self.regions)


class WrittenPages:
    """Which pages may have been written through ``GuestMemory.view``; made by ``GuestMemory.track``."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._view = memory.view
        self._pages: set[int] = set()
        self._lock = Lock()  # I/O threads add while the machine takes

    def view(self, gpa: int, length: int) -> memoryview:
        """``GuestMemory.view``, noting the pages."""
        view = self._view(gpa, length)
        if length:
            first, last = gpa // PAGE, (gpa + length - 1) // PAGE
            with self._lock:
                if first == last:
                    self._pages.add(first)
                else:
                    self._pages.update(range(first, last + 1))
        return view

    def take(self) -> set[int]:
        """Page numbers (gpa / 4096) since the last call."""
        with self._lock:
            pages, self._pages = self._pages, set()
        return pages

    def close(self) -> None:
        """Ends the record."""
        self._memory.__dict__.pop("view", None)


def host_memory() -> int:
    """RAM and swap of the host in bytes (/proc/meminfo, MemTotal + SwapTotal); RAM alone where there is no /proc."""
    total = 0
    try:
        with open("/proc/meminfo") as meminfo:
            for line in meminfo:
                if line.startswith(("MemTotal:", "SwapTotal:")):
                    total += int(line.split()[1]) << 10
    except OSError:
        pass  # a chroot or a sandbox
    return total or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
