"""The legacy interface of a transitional virtio-pci function, for drivers from before Virtio 1.0 (Virtio specification 1.2, 4.1.4.10).

One I/O BAR: a header of registers, then the device's configuration. A driver names a queue's memory by one page number, from which the
places of its parts follow (2.7.2), has 32 feature bits, and says no FEATURES_OK. It may use its queues before DRIVER_OK (3.1.2), as
drivers of that time do: the first kick then counts as DRIVER_OK. As from QEMU's, an access belongs to the register at which it begins,
however wide it is.
"""

from __future__ import annotations

from pyvmm.devices.virtio.core import DRIVER_OK, FEATURES_OK, ISR_CONFIG, ISR_QUEUE, NO_VECTOR
from pyvmm.devices.virtio.pci import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.pci.msix import MsiX
    from pyvmm.devices.virtio.core import VirtioCore

    Read = Callable[["LegacyWindow"], int]
    Write = Callable[["LegacyWindow", int], None]

BAR, BAR_SIZE = 0, 128
DEVICE_IDS = {1: 0x1000, 2: 0x1001, 3: 0x1003, 4: 0x1005}  # 4.1.2.1: by device type
PAGE_SHIFT = 12
VECTORS, CONFIG = 0x14, 0x18  # without MSI-X the configuration begins where else the vectors are


class LegacyWindow(Window):
    """What the I/O BAR decodes.

    Args:
        name, core, vectors: as for BAR 4.
        msix: the function's; None: it has none.
    """

    registers = "pyvmm.devices.virtio.legacy_regs:REGISTERS"

    def __init__(self, name: str, core: VirtioCore, vectors: int, msix: MsiX | None) -> None:
        super().__init__(name, core, vectors)
        self._msix = msix

    @property
    def _config(self) -> int:
        return CONFIG if self._msix is not None and self._msix.enabled else VECTORS

    def read(self, offset: int, size: int) -> int:
        config, mask = self._config, (1 << 8 * size) - 1
        if offset >= config:
            return self.core.device.read_config(offset - config, size) & mask
        register = _REGISTERS.get(offset)
        return mask if register is None else register[0](self) & mask

    def write(self, offset: int, size: int, value: int) -> None:
        core, config, register = self.core, self._config, _REGISTERS.get(offset)
        if core.resetting and (register is None or register[1] is not LegacyWindow._set_status):
            return
        if offset >= config:
            core.device.write_config(offset - config, size, value)
        elif register is not None and register[1] is not None:
            register[1](self, value)

    # --- registers -----------------------------------------------------------------------------------------------------
    def _set_features(self, value: int) -> None:
        """Nobody could tell such a driver that some were not offered."""
        state = self.core.state
        if not state.status & (FEATURES_OK | DRIVER_OK):
            state.driver_features = value & self.core.legacy_offered

    def _page(self) -> int:
        queue = self.core.selected()
        return queue.desc >> PAGE_SHIFT & 0xFFFF_FFFF if queue is not None and queue.enabled else 0

    def _set_page(self, value: int) -> None:
        """The queue is there from now on, and begins anew; 0: it is no longer."""
        self.core.reset_queue()
        queue = self.core.configurable()
        if queue is None or not value:
            return
        queue.desc = (value & 0xFFFF_FFFF) << PAGE_SHIFT
        queue.driver = queue.desc + 16 * queue.size
        queue.device = queue.driver + 2 * (3 + queue.size) + (1 << PAGE_SHIFT) - 1 & -1 << PAGE_SHIFT
        self.core.enable_queue()

    def _select(self, value: int) -> None:
        self.core.state.queue_select = value & 0xFFFF

    def _kick(self, value: int) -> None:
        core, index = self.core, value & 0xFFFF
        if index < len(core.state.queues) and core.state.queues[index].enabled and not core.state.status & DRIVER_OK:
            core.write_status(core.state.status | DRIVER_OK)
        core.kick(index)

    def _set_status(self, value: int) -> None:
        self.core.write_status(value & 0xFF)


_REGISTERS: dict[int, tuple[Read, Write | None]] = {
    0x00: (lambda window: window.core.legacy_offered, None),
    0x04: (lambda window: window.core.state.driver_features & 0xFFFF_FFFF, LegacyWindow._set_features),
    0x08: (LegacyWindow._page, LegacyWindow._set_page),
    0x0C: (lambda window: window._queue("size"), None),
    0x0E: (lambda window: window.core.state.queue_select, LegacyWindow._select),
    0x10: (lambda window: 0, LegacyWindow._kick),
    0x12: (lambda window: window.core.read_status(), LegacyWindow._set_status),
    0x13: (lambda window: window.core.clear_isr(ISR_QUEUE | ISR_CONFIG), None),
    0x14: (lambda window: window.core.state.config_vector, lambda window, value: window._set_config_vector(value & 0xFFFF)),
    0x16: (lambda window: window._queue("vector", NO_VECTOR), lambda window, value: window._set_queue_vector(value & 0xFFFF)),
}
