"""virtio-mmio. Sections: Virtio specification 1.2."""

from __future__ import annotations

import random

import pytest

from pyvmm.devices.virtio import mmio
from pyvmm.devices.virtio.mmio_regs import REGISTERS
from pyvmm.layout import MIB, VIRTIO_MMIO
from pyvmm.memory import GuestMemory
from tests.support.ring import FakeLoop, Ring
from tests.support.virtio import Echo, MmioDriver


class Rig:
    """A driver with one running queue."""

    def __init__(self) -> None:
        self.memory = GuestMemory(2 * MIB)
        self.loop = FakeLoop()
        self.bound: list[tuple[int, int, int, int | None, bool]] = []
        self.device = Echo(self.loop)
        self.driver = MmioDriver(self.device, self.memory, lambda *call: self.bound.append(call))
        self.ring = Ring(self.memory, 8)

    def start(self) -> None:
        self.driver.start({0: self.ring})
        self.loop.run_pending()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_4_2_2_reset_values(rig: Rig) -> None:
    own = {"DeviceID": 42, "DeviceFeatures": 0x3000_0003, "QueueSizeMax": 16}
    for register in REGISTERS:
        if "r" in register.access:
            assert rig.driver.get(register.offset) == own.get(register.name, register.reset), register.name
        else:
            assert rig.driver.get(register.offset) == 0, f"{register.name} is write-only"


def test_4_2_2_2_control_registers_are_32_bits_wide_and_nothing_else(rig: Rig) -> None:
    rig.start()
    transport, state = rig.driver.transport, rig.driver.core.state
    before = state.replace(queues=[queue.replace() for queue in state.queues])
    for offset in range(0x100):
        for size in (1, 2, 4, 8):
            if size != 4 or offset & 3:
                assert transport.read(offset, size) == 0, (hex(offset), size)
                for value in (0, 1, (1 << 8 * size) - 1):
                    transport.write(offset, size, value)
    assert rig.driver.core.state == before


def test_configuration_takes_any_width(rig: Rig) -> None:
    transport = rig.driver.transport
    expected = bytes(rig.device.config) + bytes(0x100)
    for size in (1, 2, 4, 8):
        for offset in range(0x100 - size + 1):
            assert transport.read(0x100 + offset, size).to_bytes(size, "little") == expected[offset : offset + size]
    transport.write(0x103, 2, 0x4142)
    assert rig.device.config[3:5] == b"BA"
    transport.write(0x1FC, 4, 0xFFFF_FFFF)


def test_2_10_no_shared_memory_reads_all_ones(rig: Rig) -> None:
    for selected in (0, 1, 0xFFFF_FFFF):
        rig.driver.put(0x0AC, selected)
        assert [rig.driver.get(offset) for offset in range(0xB0, 0xC0, 4)] == [0xFFFF_FFFF] * 4


def test_features_beyond_64_are_none(rig: Rig) -> None:
    for half in (2, 3, 0x8000_0000, 0xFFFF_FFFF):
        rig.driver.put(mmio.DEVICE_FEATURES_SEL, half)
        assert rig.driver.get(mmio.DEVICE_FEATURES) == 0
        rig.driver.put(mmio.DRIVER_FEATURES_SEL, half)
        rig.driver.put(mmio.DRIVER_FEATURES, 0xFFFF_FFFF)
    assert rig.driver.core.state.driver_features == 0


def test_addresses_come_in_halves_in_any_order(rig: Rig) -> None:
    rig.driver.negotiate()
    for offset, name in ((mmio.QUEUE_DESC, "desc"), (mmio.QUEUE_DRIVER, "driver"), (mmio.QUEUE_DEVICE, "device")):
        rig.driver.put(offset + 4, 0x1234)
        rig.driver.put(offset, 0x5678_9AB0)
        assert getattr(rig.driver.core.state.queues[0], name) == 0x1234_5678_9AB0
        rig.driver.put(offset + 4, 0)
        assert getattr(rig.driver.core.state.queues[0], name) == 0x5678_9AB0


def test_4_2_2_the_interrupt_is_a_level(rig: Rig) -> None:
    rig.start()
    rig.device.signals.queue(0)
    rig.device.signals.config()
    assert (rig.driver.level, rig.driver.get(mmio.INTERRUPT_STATUS)) == (1, 3)
    rig.driver.put(mmio.INTERRUPT_ACK, 1)
    assert (rig.driver.level, rig.driver.get(mmio.INTERRUPT_STATUS)) == (1, 2)
    rig.driver.put(mmio.INTERRUPT_ACK, 0xFFFF_FFFE)
    assert (rig.driver.level, rig.driver.get(mmio.INTERRUPT_STATUS)) == (0, 0)
    assert rig.driver.line.changes == [1, 0]


def test_queue_ready_0_stops_a_queue(rig: Rig) -> None:
    rig.start()
    rig.driver.put(mmio.QUEUE_SEL, 0)
    assert rig.driver.get(mmio.QUEUE_READY) == 1
    rig.device.hold = True
    rig.ring.add(b"x", 2)
    rig.driver.kick(0)
    rig.loop.run_pending()
    rig.driver.put(mmio.QUEUE_READY, 0)
    assert rig.driver.get(mmio.QUEUE_READY) == 1, "not before what is in flight is done"
    rig.device.finish()
    assert rig.driver.get(mmio.QUEUE_READY) == 0
    assert rig.driver.get(mmio.QUEUE_RESET) == 0


def test_doorbells_are_ioeventfds_with_the_index_as_value(rig: Rig) -> None:
    assert rig.bound == []
    rig.start()
    fd = rig.driver.core.doorbells.eventfds[0]
    assert rig.bound == [(fd, VIRTIO_MMIO + 0x50, 4, 0, True)]
    rig.driver.set_status(0)
    rig.start()
    assert len(rig.bound) == 1, "kept: the address does not change"
    rig.driver.transport.close()
    assert rig.bound[1:] == [(fd, VIRTIO_MMIO + 0x50, 4, 0, False)]


def test_registers_while_a_reset_is_not_complete(rig: Rig) -> None:
    rig.start()
    rig.device.hold = True
    rig.ring.add(b"x", 2)
    rig.driver.kick(0)
    rig.loop.run_pending()
    rig.driver.set_status(0)
    before = rig.driver.core.state.replace()
    rng = random.Random("while resetting")
    for _ in range(2000):
        offset = rng.randrange(0, 0x200, 4)
        if offset != mmio.STATUS:
            rig.driver.put(offset, rng.getrandbits(32))
            rig.driver.get(offset)
    assert rig.driver.core.state == before
    assert rig.device.config.startswith(b"configuration")
    rig.device.finish()
    assert rig.driver.status() == 0


def test_power_on_reset(rig: Rig) -> None:
    rig.start()
    rig.driver.transport.reset()
    assert rig.driver.status() == 0
