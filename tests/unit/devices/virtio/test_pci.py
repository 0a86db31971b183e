"""virtio-pci, seen through configuration ports and memory. Sections: Virtio specification 1.2, PCI Local Bus 3.0."""

from __future__ import annotations

import random

import pytest

from pyvmm.devices.virtio.core import DRIVER_OK
from pyvmm.devices.virtio.pci_regs import REGISTERS
from pyvmm.layout import MIB
from tests.support.ring import Ring
from tests.support.virtio import Echo, EchoRig, PciDriver


class Rig(EchoRig):
    """A driver with one running queue. ``bound``: the ioeventfds KVM has, (address, length, value) -> eventfd."""

    driver: PciDriver

    def __init__(self, vectors: int | None = None) -> None:
        super().__init__(8)
        self.bound: dict[tuple[int, int, int | None], int] = {}
        self.device = Echo(self.loop)
        self.driver = PciDriver(self.device, self.memory, self.bind, vectors)

    def bind(self, fd: int, address: int, length: int, value: int | None, on: bool) -> None:
        if on:
            assert (address, length, value) not in self.bound
            self.bound[address, length, value] = fd
        else:
            assert self.bound.pop((address, length, value)) == fd

    def start(self) -> None:
        self.driver.start({0: self.ring})
        self.loop.run_pending()


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- 4.1.2, 4.1.4 identity and capabilities ------------------------------------------------------------------------------


def test_4_1_2_identity(rig: Rig) -> None:
    get = rig.driver.get_config
    assert (get(0, 2), get(2, 2), get(8, 4)) == (0x1AF4, 0x1040 + 42, 0x088000 << 8 | 1)
    assert (get(0x2C, 2), get(0x2E, 2), get(0x3D, 1)) == (0x1AF4, 0x1100, 1)


def test_4_1_4_capabilities(rig: Rig) -> None:
    get = rig.driver.get_config
    found = {}
    for at in rig.driver.capabilities()[9]:
        kind = get(at + 3, 1)
        assert get(at + 2, 1) == (20 if kind in (2, 5) else 16)
        if kind != 5:
            found[kind] = (get(at + 4, 1), get(at + 8, 4), get(at + 12, 4))
        if kind == 2:
            assert get(at + 16, 4) == 4, "notify_off_multiplier"
    assert found == {1: (4, 0, 0x1000), 3: (4, 0x1000, 0x1000), 4: (4, 0x2000, 0x1000), 2: (4, 0x3000, 0x1000)}
    assert get(0x20, 4) & 0xF == 0xC, "64 bits, prefetchable"


@pytest.mark.parametrize(("vectors", "expected"), [(None, 3), (1, 1), (16, 16)])
def test_msix_vectors(vectors: int | None, expected: int) -> None:
    rig = Rig(vectors)
    (at,) = rig.driver.capabilities()[0x11]
    assert rig.driver.get_config(at + 2, 2) == expected - 1


# --- 4.1.4.3 common configuration ----------------------------------------------------------------------------------------


def test_4_1_4_3_reset_values(rig: Rig) -> None:
    own = {"device_feature": 0x3000_0003, "num_queues": 2, "queue_size": 16}
    for register in REGISTERS:
        if "r" in register.access:
            assert rig.driver.get(register.offset, register.size) == own.get(register.name, register.reset), register.name


ACTIONS = ("queue_enable", "queue_reset")
WRITABLE = [
    register
    for register in REGISTERS
    if "w" in register.access and register.size > 1 and register.offset < 0x1000 and register.name not in ACTIONS
]


@pytest.mark.parametrize("register", WRITABLE, ids=lambda register: register.name)
def test_4_1_3_1_any_width_covers_the_bytes_it_names(rig: Rig, register) -> None:
    """Byte by byte and all at once write the same; a part of a register leaves the rest."""
    values = {"queue_size": 8, "config_msix_vector": 2, "queue_msix_vector": 1, "queue_select": 1, "driver_feature_select": 1}
    value = values.get(register.name, 0x0807_0605_0403_0201 & (1 << 8 * register.size) - 1)
    rig.driver.put(register.offset, register.size, value)
    assert rig.driver.get(register.offset, register.size) == value
    for size in (1, 2, 4):
        for skip in range(0, register.size, size):
            if size <= register.size:
                part = value >> 8 * skip & (1 << 8 * size) - 1
                rig.driver.put(register.offset + skip, size, part)
                assert rig.driver.get(register.offset + skip, size) == part
                assert rig.driver.get(register.offset, register.size) == value


def test_accesses_over_several_registers(rig: Rig) -> None:
    rig.driver.put(0x16, 8, 8 << 16 | 1)  # queue_select, queue_size, queue_msix_vector, queue_enable
    state = rig.driver.core.state
    assert (state.queue_select, state.queues[1].size, state.queues[1].vector, state.queues[1].enabled) == (1, 8, 0, 0)
    assert rig.driver.get(0x16, 8) == 8 << 16 | 1
    rig.driver.put(0x14, 4, 1 | 0xFF << 8)  # status, generation, queue_select
    assert (rig.driver.status(), rig.driver.core.state.queue_select) == (1, 0)
    everything = b"".join(rig.driver.get(offset, 1).to_bytes(1, "little") for offset in range(0x48))
    for size in (2, 4, 8):
        for offset in range(0x48 - size):
            assert rig.driver.get(offset, size).to_bytes(size, "little") == everything[offset : offset + size]
    assert everything[0x3C:] == bytes(12)


def test_4_1_5_1_2_vectors_that_do_not_exist_read_as_none(rig: Rig) -> None:
    for offset in (0x10, 0x1A):
        rig.driver.put(offset, 2, 2)
        assert rig.driver.get(offset, 2) == 2
        rig.driver.put(offset, 2, 3)
        assert rig.driver.get(offset, 2) == 0xFFFF
    rig.driver.put(0x16, 2, 9)
    assert (rig.driver.get(0x18, 2), rig.driver.get(0x1A, 2), rig.driver.get(0x1E, 2), rig.driver.get(0x20, 8)) == (0, 0xFFFF, 0, 0)
    for offset in range(0x18, 0x40, 2):
        rig.driver.put(offset, 2, 1)


def test_notify_offsets(rig: Rig) -> None:
    for index in (0, 1):
        rig.driver.put(0x16, 2, index)
        assert rig.driver.get(0x1E, 2) == index


def test_queue_enable_0_is_ignored(rig: Rig) -> None:
    rig.start()
    rig.driver.put(0x16, 2, 0)
    rig.driver.put(0x1C, 2, 0)
    assert rig.driver.get(0x1C, 2) == 1
    rig.echo()


def test_device_configuration(rig: Rig) -> None:
    assert bytes(rig.driver.get(0x2000 + at, 1) for at in range(20)) == bytes(rig.device.config)
    rig.driver.put(0x2002, 4, 0x3132_3334)
    assert rig.device.config[2:6] == b"4321"
    assert rig.driver.get(0x2FF8, 8) == 0
    rig.driver.put(0x2FFC, 8, (1 << 64) - 1)


def test_every_access_to_bar_4_is_defined(rig: Rig) -> None:
    rng = random.Random("bar 4")
    for _ in range(20_000):
        size = rng.choice((1, 2, 4, 8))
        offset = rng.choice((rng.randrange(0x4000 - size + 1), rng.randrange(0x44), 0x1000 * rng.randrange(1, 4) - rng.randrange(size)))
        if rng.random() < 0.5:
            assert 0 <= rig.driver.get(offset, size) < 1 << 8 * size
        else:
            rig.driver.put(offset, size, rng.getrandbits(8 * size))
    rig.loop.run_pending()
    rig.start()
    rig.echo()


# --- interrupts -----------------------------------------------------------------------------------------------------------


def test_4_1_4_5_isr_clears_when_read(rig: Rig) -> None:
    rig.start()
    rig.device.signals.queue(0)
    rig.device.signals.config()
    assert rig.driver.level == 1
    assert rig.driver.get_config(6, 2) & 8, "PCI status: interrupt"
    assert rig.driver.get(0x1000, 1) == 3
    assert (rig.driver.level, rig.driver.get(0x1000, 1), rig.driver.get_config(6, 2) & 8) == (0, 0, 0)


def test_intx_disable(rig: Rig) -> None:
    rig.start()
    rig.driver.set_command(0x406)
    rig.device.signals.queue(0)
    assert rig.driver.level == 0
    rig.driver.set_command(6)
    assert rig.driver.level == 1


def test_4_1_5_1_msix(rig: Rig) -> None:
    rig.driver.enable_msix()
    rig.start()
    rig.driver.put(0x10, 2, 0)
    rig.driver.messages.sent.clear()
    rig.device.signals.queue(0)
    assert rig.driver.messages.sent == [(0xFEE0_0000, 0x41)]
    rig.device.signals.config()
    assert rig.driver.messages.sent[1:] == [(0xFEE0_0000, 0x40)]
    assert rig.driver.level == 0
    assert rig.driver.interrupts() == 2, "4.1.4.5.1: set for the configuration in any case"
    rig.driver.put(0x16, 2, 0)
    rig.driver.put(0x1A, 2, 0xFFFF)
    rig.device.signals.queue(0)
    assert len(rig.driver.messages.sent) == 2, "no vector, no message"


def test_pending_messages_go_with_a_device_reset(rig: Rig) -> None:
    rig.driver.enable_msix()
    (at,) = rig.driver.capabilities()[0x11]
    rig.start()
    rig.driver.put_config(at + 2, 2, 0xC000)
    rig.device.signals.queue(0)
    table = rig.driver.get_config(0x14, 4) & ~0xF
    assert rig.driver.mmio.read(table + 0x800, 8) == 2
    rig.driver.set_status(0)
    assert rig.driver.mmio.read(table + 0x800, 8) == 0
    rig.driver.put_config(at + 2, 2, 0x8000)
    assert rig.driver.messages.sent == []


def test_without_msix() -> None:
    rig = Rig(vectors=0)
    assert 0x11 not in rig.driver.capabilities()
    rig.driver.put(0x10, 2, 0)
    assert rig.driver.get(0x10, 2) == 0xFFFF
    rig.start()
    rig.ring.set_used_event(0)
    rig.echo()
    assert rig.driver.level == 1


# --- doorbells and decoding ------------------------------------------------------------------------------------------------


def test_doorbells_follow_the_bar(rig: Rig) -> None:
    assert rig.bound == {}
    rig.start()
    fd = rig.driver.core.doorbells.eventfds[0]
    base = rig.driver.base
    assert rig.bound == {(base + 0x3000, 0, None): fd}
    rig.driver.move(0xC800_0000)
    assert rig.bound == {(0xC800_3000, 0, None): fd}
    rig.echo()
    rig.driver.move(0x80_0000_0000)
    assert rig.bound == {(0x80_0000_3000, 0, None): fd}
    rig.echo()
    rig.driver.put_config(0x20, 4, 0xFFFF_FFFF)
    rig.driver.put_config(0x24, 4, 0xFFFF_FFFF)
    assert rig.bound == {}
    rig.driver.move(0)
    assert rig.bound == {}
    rig.driver.move(base)
    rig.driver.set_command(4)
    assert rig.bound == {}, "memory is not decoded"
    rig.driver.set_command(6)
    rig.echo()
    rig.driver.function.close()
    assert rig.bound == {}


def test_a_second_queue_gets_its_doorbell_later(rig: Rig) -> None:
    rig.start()
    other = Ring(rig.memory, 8, base=0x2_0000)
    rig.driver.setup(1, other)
    assert len(rig.bound) == 2
    assert (rig.driver.base + 0x3004, 0, None) in rig.bound


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_4_1_4_4_the_address_of_a_doorbell_says_which_queue(rig: Rig, size: int) -> None:
    rig.start()
    rig.ring.add(b"x", 2)
    rig.driver.put(0x3004, size, 0)
    rig.driver.put(0x3FFC if size < 8 else 0x3FF8, size, 0)
    rig.loop.run_pending()
    assert rig.ring.used_index == 0
    rig.driver.put(0x3000, size, (1 << 8 * size) - 1)
    rig.loop.run_pending()
    assert rig.ring.used_index == 1
    assert rig.driver.get(0x3000, size) == 0


def test_no_memory_access_without_bus_master(rig: Rig) -> None:
    rig.start()
    rig.driver.set_command(2)
    rig.echo(served=False)
    content = rig.memory.read(0, 2 * MIB)
    rig.loop.run_pending()
    assert rig.memory.read(0, 2 * MIB) == content
    rig.driver.set_command(6)
    rig.loop.run_pending()
    assert len(rig.ring.collect()) == 1, "what came meanwhile is not forgotten"
    rig.echo()


# --- 4.1.4.9 access from configuration space --------------------------------------------------------------------------


class Through:
    """BAR accesses by the PCI_CFG capability."""

    def __init__(self, driver: PciDriver) -> None:
        self.driver = driver
        (self.at,) = (at for at in driver.capabilities()[9] if driver.get_config(at + 3, 1) == 5)

    def aim(self, offset: int, length: int, bar: int = 4) -> None:
        self.driver.put_config(self.at + 4, 1, bar)
        self.driver.put_config(self.at + 8, 4, offset)
        self.driver.put_config(self.at + 12, 4, length)

    def get(self, offset: int, length: int, bar: int = 4) -> int:
        self.aim(offset, length, bar)
        return self.driver.get_config(self.at + 16, length)

    def put(self, offset: int, length: int, value: int, bar: int = 4) -> None:
        self.aim(offset, length, bar)
        self.driver.put_config(self.at + 16, length, value)


def test_4_1_4_9_works_without_decoding(rig: Rig) -> None:
    through = Through(rig.driver)
    rig.driver.set_command(0)
    through.put(0x14, 1, 1)
    assert rig.driver.core.state.status == through.get(0x14, 1) == 1
    through.put(0x20, 4, 0x1234_5678)
    assert through.get(0x20, 4) == 0x1234_5678
    assert through.get(0x18, 2) == 16
    assert through.get(0x2000, 4).to_bytes(4, "little") == b"conf"
    through.put(0, 4, 0xFEE0_1000, bar=1)
    assert through.get(0, 4, bar=1) == 0xFEE0_1000


def test_4_1_4_9_nonsense_does_nothing(rig: Rig) -> None:
    through = Through(rig.driver)
    for offset, length, bar in (
        (0x14, 3, 4),
        (0x14, 0, 4),
        (0x15, 2, 4),
        (0x4000, 1, 4),
        (0xFFFF_FFFC, 4, 4),
        (0, 4, 5),
        (0, 4, 0),
        (0, 4, 255),
    ):
        through.aim(offset, length, bar)
        rig.driver.put_config(through.at + 16, 4, 0x0101_0101)
        assert rig.driver.get_config(through.at + 16, 4) == 0x0101_0101
    assert rig.driver.core.state.status == 0
    assert rig.device.config.startswith(b"configuration")


# --- life ------------------------------------------------------------------------------------------------------------------


def test_bus_reset(rig: Rig) -> None:
    rig.start()
    assert rig.driver.core.state.status & DRIVER_OK
    rig.device.signals.queue(0)
    rig.driver.bus.reset()
    assert (rig.driver.core.state.status, rig.driver.level, rig.bound) == (0, 0, {})
    assert rig.driver.core.paused
    rig.driver.bus.assign()
    rig.driver.set_command(6)
    rig.start()
    rig.echo()
