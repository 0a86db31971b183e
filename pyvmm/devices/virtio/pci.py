"""virtio-pci: a virtio device as a PCI function (Virtio specification 1.2, 4.1); for drivers from before 1.0 see ``legacy``.

BAR 4 has four pages: common configuration, interrupt status, the device's configuration, doorbells (queue n at 4n). BAR 1 is
MSI-X's. Drivers use each register at its own width (4.1.3.1); what others do is defined all the same: an access covers the bytes
it names, a partial write keeps the rest of the register.
"""

from __future__ import annotations

from pyvmm.devices.pci.function import PciFunction
from pyvmm.devices.pci.msix import MsiX
from pyvmm.devices.virtio.core import ISR_CONFIG, ISR_QUEUE, NO_VECTOR, VENDOR, VirtioCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.virtio.core import CoreState
    from pyvmm.devices.virtio.device import VirtioDevice
    from pyvmm.devices.virtio.doorbells import Bind, Place
    from pyvmm.irq import MakeMsi
    from pyvmm.memory import GuestMemory

    Register = tuple[int, int, Callable[["Window"], int], Callable[["Window", int], None] | None]  # offset, size, read, write

DEVICE_BASE = 0x1040  # 4.1.2: device id 0x1040 + type, revision 1 or higher
SUBSYSTEM = 0x1100

BAR = 4
BAR_SIZE = 0x4000
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
PAGE = 0x1000
NOTIFY_MULTIPLIER = 4

CAP_VENDOR = 0x09
CAP_COMMON, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI = 1, 2, 3, 4, 5  # 4.1.4


class Window:
    """What BAR 4 decodes."""

    registers = "pyvmm.devices.virtio.pci_regs:REGISTERS"

    def __init__(self, name: str, core: VirtioCore, vectors: int) -> None:
        self.name = name
        self.core = core
        self.vectors = vectors

    @property
    def state(self) -> CoreState:
        """What a snapshot holds; the function and the device have their own."""
        return self.core.state

    @state.setter
    def state(self, state: CoreState) -> None:
        self.core.state = state

    def read(self, offset: int, size: int) -> int:
        core = self.core
        if offset < ISR:
            return self._read_common(offset, size)
        if offset < DEVICE:
            return core.clear_isr(ISR_QUEUE | ISR_CONFIG) if offset == ISR else 0
        if offset < NOTIFY:
            return core.device.read_config(offset - DEVICE, size) & (1 << 8 * size) - 1
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        core = self.core
        if offset >= NOTIFY:  # 4.1.4.4: the address says which queue; the value is the same without NOTIFICATION_DATA
            core.kick((offset - NOTIFY) // NOTIFY_MULTIPLIER)
        elif offset >= DEVICE:
            if not core.resetting:
                core.device.write_config(offset - DEVICE, size, value)
        elif offset < ISR:
            self._write_common(offset, size, value)

    def reset(self) -> None:
        self.core.reset()

    # --- common configuration: 4.1.4.3 -------------------------------------------------------------------------------
    def _read_common(self, offset: int, size: int) -> int:
        value = done = 0
        while done < size:
            register = _AT[offset + done] if offset + done < len(_AT) else None
            if register is None:
                done += 1
                continue
            skip = offset + done - register[0]
            length = min(register[1] - skip, size - done)
            value |= (register[2](self) >> 8 * skip & (1 << 8 * length) - 1) << 8 * done
            done += length
        return value

    def _write_common(self, offset: int, size: int, value: int) -> None:
        done = 0
        while done < size:
            register = _AT[offset + done] if offset + done < len(_AT) else None
            if register is None:
                done += 1
                continue
            at, width, read, write = register
            skip = offset + done - at
            length = min(width - skip, size - done)
            if write is not None and (at == STATUS or not self.core.resetting):  # 2.4.2: the driver waits for status 0
                part = value >> 8 * done & (1 << 8 * length) - 1
                if length < width:
                    part = read(self) & ~((1 << 8 * length) - 1 << 8 * skip) | part << 8 * skip
                write(self, part)
            done += length

    def _set_config_vector(self, value: int) -> None:
        self.core.state.config_vector = value if value < self.vectors else NO_VECTOR

    def _set_queue_vector(self, value: int) -> None:
        queue = self.core.selected()
        if queue is not None:
            queue.vector = value if value < self.vectors else NO_VECTOR

    def _notify_offset(self) -> int:
        return self.core.state.queue_select if self.core.selected() is not None else 0

    def _queue(self, name: str, absent: int = 0) -> int:
        queue = self.core.selected()
        return absent if queue is None else int(getattr(queue, name))

    def _set_address(self, name: str, value: int) -> None:
        queue = self.core.configurable()
        if queue is not None:
            setattr(queue, name, value)

    def _enabled(self) -> int:
        self.core.queue_resetting()  # a reset that is complete now shows here as well
        return self._queue("enabled")


STATUS = 0x14


def _set(name: str) -> Callable[[Window, int], None]:
    return lambda window, value: setattr(window.core.state, name, value)


_COMMON: tuple[Register, ...] = (
    (0x00, 4, lambda window: window.core.state.device_feature_select, _set("device_feature_select")),
    (0x04, 4, lambda window: window.core.device_features(), None),
    (0x08, 4, lambda window: window.core.state.driver_feature_select, _set("driver_feature_select")),
    (0x0C, 4, lambda window: window.core.driver_features(), lambda window, value: window.core.write_driver_features(value)),
    (0x10, 2, lambda window: window.core.state.config_vector, Window._set_config_vector),
    (0x12, 2, lambda window: len(window.core.state.queues), None),
    (STATUS, 1, lambda window: window.core.read_status(), lambda window, value: window.core.write_status(value)),
    (0x15, 1, lambda window: window.core.state.config_generation, None),
    (0x16, 2, lambda window: window.core.state.queue_select, _set("queue_select")),
    (0x18, 2, lambda window: window._queue("size"), lambda window, value: window.core.set_size(value)),
    (0x1A, 2, lambda window: window._queue("vector", NO_VECTOR), Window._set_queue_vector),
    (0x1C, 2, Window._enabled, lambda window, value: window.core.enable_queue() if value & 1 else None),  # 0 must not be written
    (0x1E, 2, Window._notify_offset, None),
    (0x20, 8, lambda window: window._queue("desc"), lambda window, value: window._set_address("desc", value)),
    (0x28, 8, lambda window: window._queue("driver"), lambda window, value: window._set_address("driver", value)),
    (0x30, 8, lambda window: window._queue("device"), lambda window, value: window._set_address("device", value)),
    (0x38, 2, lambda window: 0, None),
    (0x3A, 2, lambda window: int(window.core.queue_resetting()), lambda window, value: window.core.reset_queue() if value & 1 else None),
)
_AT: list[Register | None] = [None] * 0x40
for _register in _COMMON:
    _AT[_register[0] : _register[0] + _register[1]] = [_register] * _register[1]


class VirtioPci(PciFunction):
    """The transport.

    Args:
        device: what it carries.
        memory: guest RAM.
        make_msi: prepares a message (``irq.MakeMsi``).
        bind: makes ioeventfds; None: every kick is an exit.
        vectors: of MSI-X; None: one for each queue and one for the configuration; 0: no MSI-X.
        transitional: has the legacy interface as well, and the ids that go with it.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        make_msi: MakeMsi,
        bind: Bind | None = None,
        vectors: int | None = None,
        transitional: bool = False,
    ) -> None:
        number, revision, subsystem = DEVICE_BASE + device.device_id, 1, SUBSYSTEM
        if transitional:  # 4.1.2.1, 4.1.2.3
            from pyvmm.devices.virtio import legacy

            number, revision, subsystem = legacy.DEVICE_IDS[device.device_id], 0, device.device_id
        super().__init__(device.name, VENDOR, number, device.pci_class, revision=revision, subsystem=(VENDOR, subsystem))
        if len(device.queue_sizes) > PAGE // NOTIFY_MULTIPLIER:
            raise ValueError(f"{device.name}: {len(device.queue_sizes)} queues")
        if vectors is None:
            vectors = len(device.queue_sizes) + 1
        self.device = device
        self.core = VirtioCore(device, memory, self, bind, transitional)
        self.msix = MsiX(self, vectors, make_msi) if vectors else None
        self.window = Window(f"{device.name}-bar{BAR}", self.core, vectors)
        self.bar = self.add_bar(BAR, BAR_SIZE, self.window, "mem64", prefetch=True)
        self.bar.on_place = self._placed
        if transitional:
            old = legacy.LegacyWindow(f"{device.name}-bar{legacy.BAR}", self.core, vectors, self.msix)
            self.add_bar(legacy.BAR, legacy.BAR_SIZE, old, "io", width=4)
        for kind, offset, extra in ((CAP_COMMON, COMMON, b""), (CAP_ISR, ISR, b""), (CAP_DEVICE, DEVICE, b"")):
            self.add_capability(CAP_VENDOR, _capability(kind, offset, PAGE, extra))
        self.add_capability(CAP_VENDOR, _capability(CAP_NOTIFY, NOTIFY, PAGE, NOTIFY_MULTIPLIER.to_bytes(4, "little")))
        writable = bytes((0, 0, 0xFF, 0, 0, 0)) + b"\xff" * 12  # bar, offset, length, data
        self._access = self.add_capability(CAP_VENDOR, bytes((20, CAP_PCI)) + bytes(16), writable)
        self.core.pause(not self.bus_master)

    # --- BAR 4 and bus master ----------------------------------------------------------------------------------------
    def _placed(self, base: int | None) -> None:
        if base is None:
            self.core.doorbells.place(None)
            return
        doorbells = base + NOTIFY

        def place(index: int) -> Place:
            return doorbells + NOTIFY_MULTIPLIER * index, 0, None  # length 0: of any length, and the quickest way in KVM

        self.core.doorbells.place(place)

    def on_command(self, command: int) -> None:
        self.core.pause(not self.bus_master)

    # --- 4.1.4.9: a window into the BARs from configuration space --------------------------------------------------------
    def read_config(self, offset: int, size: int) -> int:
        data = self._access + 16
        if offset < data + 4 and data < offset + size:
            self._through(False)
        return super().read_config(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        super().write_config(offset, size, value)
        data = self._access + 16
        if offset < data + 4 and data < offset + size:
            self._through(True)

    def _through(self, is_write: bool) -> None:
        """Executes the access that bar, offset and length describe; one that makes no sense does nothing."""
        config, at = self.state.config, self._access
        offset = int.from_bytes(config[at + 8 : at + 12], "little")
        length = int.from_bytes(config[at + 12 : at + 16], "little")
        bar = next((bar for bar in self.bars if bar.index == config[at + 4]), None)
        if bar is None or length not in (1, 2, 4) or offset % length or offset + length > bar.size:
            return
        if is_write:
            bar.device.write(offset, length, int.from_bytes(config[at + 16 : at + 16 + length], "little"))
        else:
            config[at + 16 : at + 16 + length] = bar.device.read(offset, length).to_bytes(length, "little")

    # --- the core's side -------------------------------------------------------------------------------------------
    def notify(self, index: int | None) -> None:
        msix, core = self.msix, self.core
        if index is None:
            core.raise_isr(ISR_CONFIG)  # 4.1.4.5.1: with MSI-X as well; the function keeps its pin down then
            if msix is not None and msix.enabled:
                msix.trigger(core.state.config_vector)
        elif msix is not None and msix.enabled:
            msix.trigger(core.state.queues[index].vector)  # NO_VECTOR is one that does not exist
        else:
            core.raise_isr(ISR_QUEUE)

    def set_level(self, level: int) -> None:
        self.set_intx(level)

    def device_reset(self) -> None:
        if self.msix is not None:
            self.msix.forget()

    # --- life --------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        self.core.reset()
        super().reset()

    def close(self) -> None:
        """Gives the doorbells back, at the end of the run."""
        self.core.close()


def _capability(kind: int, offset: int, length: int, extra: bytes) -> bytes:
    """Body of a virtio_pci_cap (4.1.4), without its two bytes of header."""
    return bytes((16 + len(extra), kind, BAR, 0, 0, 0)) + offset.to_bytes(4, "little") + length.to_bytes(4, "little") + extra
