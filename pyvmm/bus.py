"""One bus concept, two instances: I/O ports (16-bit) and MMIO (physical addresses).

A bus maps ranges to devices, refuses overlaps, and answers for everything: what nobody claims reads all-ones and
swallows writes. An access wider than a device takes is split into pieces, lowest address first, as ISA and PCI bridges
do; an access that runs over a mapping's end is split into bytes, each looked up by itself.
"""

from __future__ import annotations

from bisect import bisect_right

from pyvmm.errors import ConfigError
from pyvmm.events import Access

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.device import Device

    Read = Callable[[int, int], int]  # (offset, size) -> value
    Write = Callable[[int, int, int], None]  # (offset, size, value)
    Found = tuple[int, Read, Write]  # (offset inside the mapping, read, write)


class Mapping:
    """A device's range on a bus. ``read``/``write`` are what the run loop calls; taps replace them."""

    __slots__ = ("base", "length", "device", "width", "read", "write")

    def __init__(self, base: int, length: int, device: Device, width: int) -> None:
        self.base = base
        self.length = length
        self.device = device
        self.width = width
        self.read: Read = device.read
        self.write: Write = device.write

    @property
    def end(self) -> int:
        """First address behind the range."""
        return self.base + self.length


class Bus:
    """Address ranges and who answers them.

    Args:
        space: "pio" or "mmio", for messages and Access records.
        limit: first address that does not exist (0x10000 for ports).
    """

    def __init__(self, space: str, limit: int) -> None:
        self.space = space
        self.limit = limit
        self.mappings: list[Mapping] = []  # ascending, never overlapping
        self._bases: list[int] = []
        self.unclaimed: dict[tuple[int, int, bool], int] | None = None  # (address, size, is_write) -> count, when listed
        self.on_change: list[Callable[[], None]] = []  # the run loop drops its look-up cache

    # --- who is where ------------------------------------------------------------------------------------------------
    def add(self, base: int, length: int, device: Device, width: int = 8) -> Mapping:
        """Maps ``length`` bytes at ``base`` to a device that takes accesses of up to ``width`` bytes.

        Raises:
            ConfigError: the range overlaps another or leaves the bus.
        """
        mapping = Mapping(base, length, device, width)
        self._insert(mapping)
        return mapping

    def remove(self, mapping: Mapping) -> None:
        """Takes a mapping off the bus; it may be added again by ``move``."""
        index = self.mappings.index(mapping)
        del self.mappings[index], self._bases[index]
        self.refresh()

    def move(self, mapping: Mapping, base: int) -> None:
        """Moves a mapping (a PCI BAR) to another base; works for a removed one as well.

        Raises:
            ConfigError: the new place is taken; the mapping then is off the bus.
        """
        if mapping in self.mappings:
            self.remove(mapping)
        mapping.base = base
        self._insert(mapping)

    def _insert(self, mapping: Mapping) -> None:
        if mapping.length <= 0 or mapping.base < 0 or mapping.end > self.limit:
            raise ConfigError(f"{mapping.device.name}: {self.space} range {mapping.base:#x}+{mapping.length:#x} does not exist")
        index = bisect_right(self._bases, mapping.base)
        for other in self.mappings[max(index - 1, 0) : index + 1]:
            if mapping.base < other.end and other.base < mapping.end:
                where = f"{self.space} range {mapping.base:#x}+{mapping.length:#x}"
                raise ConfigError(f"{mapping.device.name}: {where} overlaps {other.device.name} at {other.base:#x}")
        self.mappings.insert(index, mapping)
        self._bases.insert(index, mapping.base)
        self.refresh()

    def refresh(self) -> None:
        """Has the run loops look everything up anew: a mapping moved, or somebody stands before its ``read`` and ``write``."""
        for notify in self.on_change:
            notify()

    # --- access ------------------------------------------------------------------------------------------------------
    def find(self, address: int, size: int) -> Found:
        """Who answers an access of ``size`` bytes at ``address``: (offset, read, write). Never fails."""
        index = bisect_right(self._bases, address) - 1
        if index >= 0:
            mapping = self.mappings[index]
            offset = address - mapping.base
            if offset + size <= mapping.length:
                if size <= mapping.width:
                    return offset, mapping.read, mapping.write
                return self._split(address, mapping.width)
            if offset < mapping.length:
                return self._split(address, 1)
        if index + 1 < len(self._bases) and self._bases[index + 1] < address + size:
            return self._split(address, 1)  # starts in nothing, ends in a device
        return address, self._read_nothing, self._write_nothing

    def read(self, address: int, size: int) -> int:
        """Reads as the guest would. For tests, the debugger and split accesses."""
        offset, read, _ = self.find(address, size)
        return read(offset, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Writes as the guest would."""
        offset, _, write = self.find(address, size)
        write(offset, size, value)

    def _split(self, address: int, width: int) -> Found:
        def read(offset: int, size: int) -> int:
            return sum(self.read(address + at, width) << 8 * at for at in range(0, size, width))

        def write(offset: int, size: int, value: int) -> None:
            mask = (1 << 8 * width) - 1
            for at in range(0, size, width):
                self.write(address + at, width, value >> 8 * at & mask)

        return 0, read, write

    def _read_nothing(self, address: int, size: int) -> int:
        if self.unclaimed is not None:
            self._note(address, size, False)
        return (1 << 8 * size) - 1

    def _write_nothing(self, address: int, size: int, value: int) -> None:
        if self.unclaimed is not None:
            self._note(address, size, True)

    def _note(self, address: int, size: int, is_write: bool) -> None:
        assert self.unclaimed is not None
        key = (address, size, is_write)
        if key in self.unclaimed or len(self.unclaimed) < 4096:  # a guest can name 2**64 addresses
            self.unclaimed[key] = self.unclaimed.get(key, 0) + 1

    # --- watching ----------------------------------------------------------------------------------------------------
    def tap(self, listener: Callable[[Access], None]) -> Callable[[], None]:
        """Calls ``listener`` after every access to a mapped device, until the returned function is called.

        Taps may be stacked; undo them in reverse order of attaching.
        """
        undo: list[Callable[[], None]] = []
        for mapping in self.mappings:
            undo.append(_tap_mapping(self.space, mapping, listener))
        self.refresh()

        def detach() -> None:
            for restore in undo:
                restore()
            self.refresh()

        return detach


def _tap_mapping(space: str, mapping: Mapping, listener: Callable[[Access], None]) -> Callable[[], None]:
    inner_read, inner_write = mapping.read, mapping.write

    def note(offset: int, size: int, is_write: bool, value: int) -> None:
        listener(
            Access(
                space=space,
                address=mapping.base + offset,
                size=size,
                is_write=is_write,
                value=value,
                device=mapping.device.name,
                offset=offset,
            )
        )

    def read(offset: int, size: int) -> int:
        value = inner_read(offset, size)
        note(offset, size, False, value)
        return value

    def write(offset: int, size: int, value: int) -> None:
        inner_write(offset, size, value)
        note(offset, size, True, value)

    def restore() -> None:
        mapping.read, mapping.write = inner_read, inner_write

    mapping.read, mapping.write = read, write
    return restore
