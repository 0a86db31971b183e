"""The flash chips of ``-drive if=pflash``: their memory, KVM's slots for it, and the drives that keep what is in them.

Unit 0 ends at 4 GiB, unit 1 where unit 0 begins, as on QEMU's PC. A read-only unit 0 is a ROM like that of -bios and has no chip. A
chip's contents are memory that the guest can only read; its writes are exits, and while the chip answers reads by itself the slot is
away. Slots take a fraction of a millisecond to go and come, and a firmware writes a variable now and then.

That memory is neither in ``GuestMemory`` nor in a snapshot: nothing but the chip's own commands may change it.
"""

from __future__ import annotations

import mmap

from pyvmm import layout
from pyvmm.devices.flash import Flash
from pyvmm.errors import ConfigError
from pyvmm.kvm import native, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.config import DriveConfig
    from pyvmm.machine import Machine

FIRST_SLOT = 448  # far above those of RAM and a debugger; KVM on x86 has at least 509 since Linux 3.19


class Chips:
    """All chips of a machine.

    Args:
        machine: must have ``memory``, ``mmio`` and ``vm``.

    Raises:
        ConfigError: a drive is no size for a chip, or cannot be read.
    """

    def __init__(self, machine: Machine) -> None:
        self._arrays: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        end = layout.HIGH_RAM
        try:
            for drive in units(machine.config.drives):
                backend = machine.drives[drive.id]
                base = end - check(drive, backend.size, end)
                if not drive.readonly:
                    self._chip(machine, drive, backend, base)
                end = base
        except BaseException:
            self.close()
            raise

    def _chip(self, machine: Machine, drive: DriveConfig, backend: BlockBackend, base: int) -> None:
        array = mmap.mmap(-1, backend.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(array)
        self._arrays.append(array)
        self._views.append(view)
        try:
            backend.read(0, [view])
        except OSError as error:
            raise ConfigError(f"{where(drive)}: {error.strerror}") from None
        vm, slot, address = machine.vm, FIRST_SLOT + drive.unit, native.address_of(array)

        def store(offset: int, data: bytes) -> None:
            backend.write(offset, [memoryview(data)])

        def expose(on: bool) -> None:
            vm.set_memory_region(slot, base, len(view) if on else 0, address, uapi.KVM_MEM_READONLY if on else 0)

        flash = Flash(f"pflash{drive.unit}", view, store, expose)
        machine.mmio.add(base, len(view), flash)
        machine.devices[flash.name] = flash
        expose(True)

    def close(self) -> None:
        """Gives the memory back; the VM is gone, or its vCPUs run no more."""
        for view in self._views:
            view.release()
        for array in self._arrays:
            try:
                array.close()
            except BufferError:
                pass  # a device still holds a piece


def units(drives: tuple[DriveConfig, ...]) -> list[DriveConfig]:
    """Those of the drives that are flash, by unit."""
    return sorted((drive for drive in drives if drive.interface == "pflash"), key=lambda drive: drive.unit)


def check(drive: DriveConfig, size: int, end: int) -> int:
    """The size, when a chip of it can end there. Raises ConfigError."""
    if size % layout.PAGE or end - size < layout.UEFI_ROM:
        most = layout.HIGH_RAM - layout.UEFI_ROM >> 20
        raise ConfigError(f"{where(drive)}: {size} bytes: flash has a multiple of 4 KiB, all units together at most {most} MiB")
    return size


def where(drive: DriveConfig) -> str:
    """How a message begins."""
    return f"-drive if=pflash,unit={drive.unit},file={drive.file}"
