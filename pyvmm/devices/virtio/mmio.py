"""virtio-mmio, version 2: a virtio device without a bus (Virtio specification 1.2, 4.2).

The registers below 0x100 are 32 bits wide and nothing else (4.2.2.2): any other access reads 0 and writes nothing. The device's
own configuration behind them takes any width.
"""

from __future__ import annotations

from pyvmm.devices.virtio.core import ISR_CONFIG, ISR_QUEUE, VENDOR, CoreState, QueueState, VirtioCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.virtio.device import VirtioDevice
    from pyvmm.devices.virtio.doorbells import Bind, Place
    from pyvmm.irq import IrqLine
    from pyvmm.memory import GuestMemory

LENGTH = 0x200
MAGIC_VALUE = 0x74726976  # "virt"

# 4.2.2, table 4.1
MAGIC, VERSION, DEVICE_ID, VENDOR_ID = 0x000, 0x004, 0x008, 0x00C
DEVICE_FEATURES, DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x010, 0x014, 0x020, 0x024
QUEUE_SEL, QUEUE_SIZE_MAX, QUEUE_SIZE, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x080, 0x090, 0x0A0  # low halves, the high ones 4 behind
SHM_LENGTH, SHM_END, QUEUE_RESET, CONFIG_GENERATION, CONFIG = 0x0B0, 0x0C0, 0x0C0, 0x0FC, 0x100

_ADDRESSES = {QUEUE_DESC: "desc", QUEUE_DRIVER: "driver", QUEUE_DEVICE: "device"}
_ALL_ONES = 0xFFFF_FFFF


class VirtioMmio:
    """The transport.

    Args:
        device: what it carries.
        memory: guest RAM.
        line: its interrupt, level-triggered.
        address: where the registers are, for ioeventfds.
        bind: makes ioeventfds; None: every kick is an exit.
    """

    registers = "pyvmm.devices.virtio.mmio_regs:REGISTERS"

    def __init__(self, device: VirtioDevice, memory: GuestMemory, line: IrqLine, address: int = 0, bind: Bind | None = None) -> None:
        self.name = device.name
        self.device = device
        self.line = line
        self.core = VirtioCore(device, memory, self, bind)
        place: Place = (address + QUEUE_NOTIFY, 4, None)
        self.core.doorbells.place(lambda index: (*place[:2], index))

    @property
    def state(self) -> CoreState:
        """What a snapshot holds; the device has its own."""
        return self.core.state

    @state.setter
    def state(self, state: CoreState) -> None:
        self.core.state = state

    # --- the guest's side --------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        core = self.core
        if offset >= CONFIG:
            return self.device.read_config(offset - CONFIG, size) & (1 << 8 * size) - 1
        if size != 4 or offset & 3:
            return 0
        state = core.state
        if offset == INTERRUPT_STATUS:
            return state.isr
        if offset == STATUS:
            return core.read_status()
        if offset == MAGIC:
            return MAGIC_VALUE
        if offset == VERSION:
            return 2
        if offset == DEVICE_ID:
            return self.device.device_id
        if offset == VENDOR_ID:
            return VENDOR
        if offset == DEVICE_FEATURES:
            return core.device_features()
        if offset == QUEUE_SIZE_MAX:
            return core.size_max()
        if offset == QUEUE_READY:
            if core.queue_resetting():
                return 1
            queue = core.selected()
            return 0 if queue is None else queue.enabled
        if offset == QUEUE_RESET:
            return int(core.queue_resetting())
        if offset == CONFIG_GENERATION:
            return state.config_generation
        return _ALL_ONES if SHM_LENGTH <= offset < SHM_END else 0

    def write(self, offset: int, size: int, value: int) -> None:
        core = self.core
        if offset >= CONFIG:
            if not core.resetting:
                self.device.write_config(offset - CONFIG, size, value)
            return
        if size != 4 or offset & 3:
            return
        state = core.state
        if offset == QUEUE_NOTIFY:
            core.kick(value)
        elif offset == STATUS:
            core.write_status(value & 0xFF)
        elif core.resetting:
            pass  # the driver waits for status to become 0 (2.4.2)
        elif offset == INTERRUPT_ACK:
            core.clear_isr(value & (ISR_QUEUE | ISR_CONFIG))
        elif offset == DEVICE_FEATURES_SEL:
            state.device_feature_select = value
        elif offset == DRIVER_FEATURES_SEL:
            state.driver_feature_select = value
        elif offset == DRIVER_FEATURES:
            core.write_driver_features(value)
        elif offset == QUEUE_SEL:
            state.queue_select = value
        elif offset == QUEUE_SIZE:
            core.set_size(value)
        elif offset == QUEUE_READY:
            if value & 1:
                core.enable_queue()
            else:
                core.reset_queue()  # 4.2.2.2: stops using the queue, which reads 0 when it has
        elif offset == QUEUE_RESET:
            if value & 1:
                core.reset_queue()
        elif offset & ~4 in _ADDRESSES:
            queue = core.configurable()
            if queue is not None:
                _set_half(queue, _ADDRESSES[offset & ~4], 8 * (offset & 4), value)

    def reset(self) -> None:
        """Power-on state."""
        self.core.reset()

    # --- the core's side -------------------------------------------------------------------------------------------
    def notify(self, index: int | None) -> None:
        self.core.raise_isr(ISR_CONFIG if index is None else ISR_QUEUE)

    def set_level(self, level: int) -> None:
        self.line.set(level)

    def device_reset(self) -> None:
        pass

    def close(self) -> None:
        """Gives the doorbells back, at the end of the run."""
        self.core.close()


def _set_half(queue: QueueState, name: str, shift: int, value: int) -> None:
    address = getattr(queue, name) & ~(_ALL_ONES << shift) | value << shift
    setattr(queue, name, address)
