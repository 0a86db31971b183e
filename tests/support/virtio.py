"""Virtio for tests: a device that echoes, and drivers that speak to a transport's registers as the specification tells them to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.bus import Bus
from pyvmm.devices.pci.bus import PciBus
from pyvmm.devices.system_ports import ResetControl
from pyvmm.devices.virtio import mmio, pci
from pyvmm.devices.virtio.core import ACKNOWLEDGE, DRIVER, DRIVER_OK, EVENT_IDX, FEATURES_OK
from pyvmm.devices.virtio.device import VirtioDevice, read_bytes
from pyvmm.devices.virtio.mmio import VirtioMmio
from pyvmm.devices.virtio.pci import VirtioPci
from pyvmm.devices.virtio.queue import Chain, QueueError
from pyvmm.layout import MIB, VIRTIO_MMIO
from pyvmm.memory import GuestMemory
from pyvmm.record import Record
from tests.support.fakes import FakeLine, StopSink
from tests.support.ring import FakeLoop, Ring

if TYPE_CHECKING:
    from pyvmm.devices.virtio.device import Loop

OK, FAILED = 0, 1


class EchoState(Record):
    """Fields: served, how many requests."""

    served: int = 0


class Echo(VirtioDevice):
    """Gives readable bytes back in the writable part, whose last byte is a status (OK or FAILED).

    Attributes:
        hold: keep requests in ``held`` until ``finish``, as a device with workers does.
        log: what the core called, in order.
    """

    device_id = 42
    pci_class = 0x088000
    features = 1 << 0 | 1 << 1  # bit 1 needs bit 0

    def __init__(self, loop: Loop, queues: int = 2, size: int = 16) -> None:
        self.queue_sizes = (size,) * queues
        super().__init__("echo", loop)
        self.state = EchoState()
        self.config = bytearray(b"configuration" + bytes(7))
        self.hold = False
        self.held: list[tuple[int, Chain]] = []
        self.log: list[str] = []

    def read_config(self, offset: int, size: int) -> int:
        return read_bytes(self.config, offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        if offset + size <= len(self.config):
            self.config[offset : offset + size] = value.to_bytes(size, "little")

    def accepts(self, features: int) -> bool:
        return features & 3 != 2

    def start(self, queues: list[Any], features: int) -> None:
        super().start(queues, features)
        self.log.append("start")

    def queue_started(self, index: int, queue: Any) -> None:
        super().queue_started(index, queue)
        self.log.append(f"queue {index} started")

    def stop(self, index: int | None) -> None:
        self.log.append(f"stop {index}")

    def idle(self, index: int | None) -> bool:
        return not any(index in (None, queue) for queue, _ in self.held)

    def reset(self) -> None:
        assert not self.held
        self.log.append("reset")

    def serve(self, index: int) -> None:
        queue = self.queues[index]
        assert queue is not None
        queue.disable_kicks()
        while True:
            chain = queue.pop()
            if chain is None:
                if not queue.enable_kicks():
                    break
            elif self.hold:
                self.held.append((index, chain))
            else:
                self.answer(index, chain)

    def answer(self, index: int, chain: Chain) -> None:
        """Executes one request and gives it back."""
        queue = self.queues[index]
        assert queue is not None
        if chain.faulty:
            if chain.status_lost or not chain.writable:
                raise QueueError(chain.faulty)
            chain.writable[-1][-1] = FAILED
            written = 1
        elif not chain.writable:
            written = 0
        else:
            data = b"".join(bytes(view[: 1 << 16]) for view in list(chain.readable)[:64])
            written = 0
            for view in chain.writable:
                part = data[written : written + len(view)]
                view[: len(part)] = part
                written += len(part)
            chain.writable[-1][-1] = OK
            written = chain.writable_length
        self.state.served += 1
        with queue.lock:
            queue.push(chain.head, written)
            wanted = queue.should_signal()
        if wanted:
            self.signals.queue(index)

    def finish(self) -> None:
        """Gives back what is held."""
        while self.held:
            self.answer(*self.held.pop(0))


class Driver:
    """What both transports' drivers do alike (3.1.1). ``core`` is for assertions."""

    device: VirtioDevice
    core: Any
    memory: GuestMemory

    def status(self) -> int:
        raise NotImplementedError

    def set_status(self, value: int) -> None:
        raise NotImplementedError

    def offered(self) -> int:
        raise NotImplementedError

    def choose(self, features: int) -> None:
        raise NotImplementedError

    def setup(self, index: int, ring: Ring) -> None:
        """Size, addresses, enable."""
        raise NotImplementedError

    def kick(self, index: int) -> None:
        raise NotImplementedError

    def reset_queue(self, index: int) -> bool:
        """Asks for it; True when it is complete."""
        raise NotImplementedError

    def interrupts(self) -> int:
        """Takes the interrupt status."""
        raise NotImplementedError

    def negotiate(self, features: int | None = None) -> int:
        """Up to FEATURES_OK; returns the status."""
        self.set_status(0)
        assert self.status() == 0
        self.set_status(ACKNOWLEDGE)
        self.set_status(ACKNOWLEDGE | DRIVER)
        self.choose(self.offered() if features is None else features)
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return self.status()

    def start(self, rings: dict[int, Ring], features: int | None = None) -> None:
        """All of it; rings are cleared and use EVENT_IDX if it is chosen."""
        features = self.offered() if features is None else features
        assert self.negotiate(features) & FEATURES_OK
        for index, ring in rings.items():
            ring.event_idx = bool(features & EVENT_IDX)
            ring.clear()
            self.setup(index, ring)
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)


class MmioDriver(Driver):
    """A driver of VirtioMmio, with the transport."""

    def __init__(self, device: VirtioDevice, memory: GuestMemory, bind: Any = None) -> None:
        self.device = device
        self.memory = memory
        self.line = FakeLine()
        self.transport = VirtioMmio(device, memory, self.line, VIRTIO_MMIO, bind)
        self.core = self.transport.core

    def get(self, offset: int) -> int:
        return self.transport.read(offset, 4)

    def put(self, offset: int, value: int) -> None:
        self.transport.write(offset, 4, value)

    def status(self) -> int:
        return self.get(mmio.STATUS)

    def set_status(self, value: int) -> None:
        self.put(mmio.STATUS, value)

    def offered(self) -> int:
        value = 0
        for half in (0, 1):
            self.put(mmio.DEVICE_FEATURES_SEL, half)
            value |= self.get(mmio.DEVICE_FEATURES) << 32 * half
        return value

    def choose(self, features: int) -> None:
        for half in (0, 1):
            self.put(mmio.DRIVER_FEATURES_SEL, half)
            self.put(mmio.DRIVER_FEATURES, features >> 32 * half & 0xFFFF_FFFF)

    def setup(self, index: int, ring: Ring) -> None:
        self.put(mmio.QUEUE_SEL, index)
        assert not self.get(mmio.QUEUE_READY)
        assert self.get(mmio.QUEUE_SIZE_MAX) >= ring.size
        self.put(mmio.QUEUE_SIZE, ring.size)
        for offset, address in ((mmio.QUEUE_DESC, ring.desc), (mmio.QUEUE_DRIVER, ring.avail), (mmio.QUEUE_DEVICE, ring.used)):
            self.put(offset, address & 0xFFFF_FFFF)
            self.put(offset + 4, address >> 32)
        self.put(mmio.QUEUE_READY, 1)

    def kick(self, index: int) -> None:
        self.put(mmio.QUEUE_NOTIFY, index)

    def reset_queue(self, index: int) -> bool:
        self.put(mmio.QUEUE_SEL, index)
        self.put(mmio.QUEUE_RESET, 1)
        return not self.get(mmio.QUEUE_RESET)

    def interrupts(self) -> int:
        status = self.get(mmio.INTERRUPT_STATUS)
        self.put(mmio.INTERRUPT_ACK, status)
        return status

    @property
    def level(self) -> int:
        return self.line.level


class Messages:
    """``make_msi``, and what was sent: [(address, data)]."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []

    def __call__(self, address: int, data: int) -> Any:
        return lambda: self.sent.append((address, data))


class PciDriver(Driver):
    """A driver of VirtioPci on a PCI bus, through ports and memory as a guest reaches it."""

    transitional = False

    def __init__(self, device: VirtioDevice, memory: GuestMemory, bind: Any = None, vectors: int | None = None) -> None:
        self.device = device
        self.memory = memory
        self.line = FakeLine()
        self.messages = Messages()
        self.ports, self.mmio = Bus("pio", 0x1_0000), Bus("mmio", 1 << 52)
        ram = [(region.gpa, region.size) for region in memory.regions]
        self.bus = PciBus(self.ports, self.mmio, ResetControl(StopSink()), lambda line: self.line, ram)
        self.ports.add(0xCF8, 8, self.bus, 4)
        self.function = VirtioPci(device, memory, self.messages, bind, vectors, self.transitional)
        self.core = self.function.core
        self.slot = self.bus.plug(self.function, 3)
        self.bus.assign()
        self.set_command(6)
        base = self.function.bar.base
        assert base is not None
        self.base = base

    # --- configuration space ----------------------------------------------------------------------------------------
    def get_config(self, offset: int, size: int) -> int:
        self.ports.write(0xCF8, 4, 0x8000_0000 | self.slot << 11 | offset & 0xFC)
        return self.ports.read(0xCFC + (offset & 3), size)

    def put_config(self, offset: int, size: int, value: int) -> None:
        self.ports.write(0xCF8, 4, 0x8000_0000 | self.slot << 11 | offset & 0xFC)
        self.ports.write(0xCFC + (offset & 3), size, value)

    def set_command(self, value: int) -> None:
        self.put_config(4, 2, value)

    def move(self, base: int) -> None:
        """Reprograms BAR 4 as Linux does: decoding off meanwhile."""
        command = self.get_config(4, 2)
        self.set_command(command & ~2)
        self.put_config(0x10 + 4 * pci.BAR, 4, base & 0xFFFF_FFFF)
        self.put_config(0x14 + 4 * pci.BAR, 4, base >> 32)
        self.set_command(command)
        self.base = base

    def capabilities(self) -> dict[int, list[int]]:
        """Capability id -> offsets."""
        found: dict[int, list[int]] = {}
        at = self.get_config(0x34, 1)
        while at:
            found.setdefault(self.get_config(at, 1), []).append(at)
            at = self.get_config(at + 1, 1)
        return found

    def enable_msix(self, on: bool = True) -> None:
        """All vectors unmasked, with data 0x40 + vector."""
        (at,) = self.capabilities()[0x11]
        table = self.get_config(0x14, 4) & ~0xF
        vectors = (self.get_config(at + 2, 2) & 0x7FF) + 1
        for vector in range(vectors):
            for offset, value in ((0, 0xFEE0_0000), (4, 0), (8, 0x40 + vector), (12, 0)):
                self.mmio.write(table + 16 * vector + offset, 4, value)
        self.put_config(at + 2, 2, 0x8000 if on else 0)

    # --- BAR 4 -------------------------------------------------------------------------------------------------------
    def get(self, offset: int, size: int) -> int:
        return self.mmio.read(self.base + offset, size)

    def put(self, offset: int, size: int, value: int) -> None:
        self.mmio.write(self.base + offset, size, value)

    def status(self) -> int:
        return self.get(0x14, 1)

    def set_status(self, value: int) -> None:
        self.put(0x14, 1, value)

    def offered(self) -> int:
        value = 0
        for half in (0, 1):
            self.put(0x00, 4, half)
            value |= self.get(0x04, 4) << 32 * half
        return value

    def choose(self, features: int) -> None:
        for half in (0, 1):
            self.put(0x08, 4, half)
            self.put(0x0C, 4, features >> 32 * half & 0xFFFF_FFFF)

    def setup(self, index: int, ring: Ring) -> None:
        self.put(0x16, 2, index)
        assert not self.get(0x1C, 2)
        assert self.get(0x18, 2) >= ring.size
        self.put(0x18, 2, ring.size)
        for offset, address in ((0x20, ring.desc), (0x28, ring.avail), (0x30, ring.used)):
            self.put(offset, 4, address & 0xFFFF_FFFF)
            self.put(offset + 4, 4, address >> 32)
        if self.function.msix is not None:
            self.put(0x1A, 2, index + 1)
            assert self.get(0x1A, 2) == index + 1
        self.put(0x1C, 2, 1)

    def kick(self, index: int) -> None:
        self.put(0x3000 + 4 * index, 2, index)

    def reset_queue(self, index: int) -> bool:
        self.put(0x16, 2, index)
        self.put(0x3A, 2, 1)
        return not self.get(0x3A, 2)

    def interrupts(self) -> int:
        return self.get(0x1000, 1)

    @property
    def level(self) -> int:
        return self.line.level


class LegacyDriver(PciDriver):
    """A driver from before Virtio 1.0, through the I/O BAR; its rings get the layout of that time (2.7.2)."""

    transitional = True

    def __init__(self, device: VirtioDevice, memory: GuestMemory, bind: Any = None, vectors: int | None = None) -> None:
        super().__init__(device, memory, bind, vectors)
        self.set_command(7)

    @property
    def port(self) -> int:
        return self.get_config(0x10, 4) & ~3

    def inp(self, offset: int, size: int) -> int:
        return self.ports.read(self.port + offset, size)

    def out(self, offset: int, size: int, value: int) -> None:
        self.ports.write(self.port + offset, size, value)

    def status(self) -> int:
        return self.inp(0x12, 1)

    def set_status(self, value: int) -> None:
        self.out(0x12, 1, value)

    def offered(self) -> int:
        return self.inp(0, 4)

    def choose(self, features: int) -> None:
        self.out(4, 4, features)

    def setup(self, index: int, ring: Ring) -> None:
        self.out(0x0E, 2, index)
        assert (self.inp(0x08, 4), self.inp(0x0C, 2)) == (0, ring.size)
        self.out(0x08, 4, ring.desc >> 12)
        assert self.inp(0x08, 4) == ring.desc >> 12

    def kick(self, index: int) -> None:
        self.out(0x10, 2, index)

    def interrupts(self) -> int:
        return self.inp(0x13, 1)

    def prepare(self, rings: dict[int, Ring], features: int | None = None) -> None:
        """All but DRIVER_OK."""
        features = self.offered() if features is None else features
        for value in (0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER):
            self.set_status(value)
        self.choose(features)
        for index, ring in rings.items():
            ring.event_idx = bool(features & EVENT_IDX)
            ring.avail = ring.desc + 16 * ring.size
            ring.used = -(-(ring.avail + 6 + 2 * ring.size) // 4096) * 4096
            ring.end = ring.used + 6 + 8 * ring.size
            ring.clear()
            self.setup(index, ring)

    def start(self, rings: dict[int, Ring], features: int | None = None) -> None:
        self.prepare(rings, features)
        self.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)


class EchoRig:
    """An echoing device with a driver, and its first queue, which is not running yet."""

    driver: Driver

    def __init__(self, size: int) -> None:
        self.memory = GuestMemory(2 * MIB)
        self.loop = FakeLoop()
        self.ring = Ring(self.memory, size)

    def echo(self, *, served: bool = True) -> None:
        """One request, answered or not."""
        self.ring.add(b"x", 2)
        self.driver.kick(0)
        self.loop.run_pending()
        assert len(self.ring.collect()) == int(served)
