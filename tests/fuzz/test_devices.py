"""A hostile guest at the devices: any offset, width and value, any time, with resets and snapshots in between.

Seeds are fixed, so a failure repeats. What must hold: no exception, every value within its width, bounded buffers, and
an interrupt line that is at the level the state implies (shown by restoring that state into a new device).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm.devices.acpi_pm import LENGTH as PM_LENGTH
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.debug_ports import DebugCon, DebugExit
from pyvmm.devices.fw_cfg import LENGTH as FW_CFG_LENGTH
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pc_testdev import IRQ_LINES, MEMORY_LENGTH, IoMemory, IrqPorts, Latch, PageFlush
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.serial import FIFO_SIZE, LCR, MCR, RBR_THR, Serial
from pyvmm.devices.system_ports import BochsShutdown, PostPort, ResetControl, SystemPortA
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.fakes import ByteSink, FakeLine, FakeTime, StopSink

if TYPE_CHECKING:
    from pyvmm.devices.device import Device

STEPS = 3000
SEEDS = range(4)
MEMORY = GuestMemory(MIB)


class World:
    """One device with all it may be wired to."""

    def __init__(self, make: Callable[[World], Device], time: FakeTime) -> None:
        self.time = time
        self.line = FakeLine()
        self.sink = ByteSink()
        self.stop = StopSink()
        self.lines: dict[int, int] = {}
        self.device = make(self)


DEVICES: dict[str, tuple[int, Callable[[World], Device]]] = {
    "serial": (8, lambda w: Serial("serial0", w.line, w.sink)),
    "rtc": (2, lambda w: Rtc(w.line, w.time.wall_clock, w.time.clock, w.time.make_timer, 64 * MIB)),
    "i8042": (5, lambda w: I8042(w.line, w.stop)),
    "port92": (1, lambda w: SystemPortA(w.stop)),
    "cf9": (1, lambda w: ResetControl(w.stop)),
    "post": (1, lambda w: PostPort()),
    "shutdown": (1, lambda w: BochsShutdown(w.stop)),
    "debugcon": (1, lambda w: DebugCon(w.sink)),
    "debug-exit": (4, lambda w: DebugExit(w.stop)),
    "acpi-pm": (PM_LENGTH, lambda w: AcpiPm(w.line, w.stop, w.time.clock, w.time.make_timer)),
    "fw_cfg": (FW_CFG_LENGTH, lambda w: FwCfg(MEMORY, 1)),
    "latch": (4, lambda w: Latch()),
    "flush": (4, lambda w: PageFlush(lambda gpa: None)),
    "irq-lines": (IRQ_LINES, lambda w: IrqPorts(w.lines.__setitem__)),
    "io-memory": (MEMORY_LENGTH, lambda w: IoMemory()),
}


def copy_state(state: Any) -> Any:
    """A snapshot: nothing in it may be shared with the device."""
    return type(state)(**{name: value.copy() if isinstance(value, (list, bytearray)) else value for name, value in state})


def size_of(state: Any) -> int:
    return sum(len(value) for _, value in state if isinstance(value, (list, bytes, bytearray)))


def restore(make: Callable[[World], Device], world: World) -> World:
    """The same device made anew from the other's state, at the same time."""
    twin = World(make, FakeTime(world.time.now, world.time.wall_clock()))
    twin.device.state = copy_state(world.device.state)
    restored = getattr(twin.device, "restored", None)
    if restored is not None:
        restored()
    return twin


def random_value(rng: random.Random, size: int) -> int:
    bits = 8 * size
    return rng.choice((rng.getrandbits(bits), rng.getrandbits(8), 1 << rng.randrange(bits), (1 << bits) - 1, 0))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_access_at_any_time_is_defined(name: str, seed: int) -> None:
    length, make = DEVICES[name]
    rng = random.Random(f"{name} {seed}")
    world = World(make, FakeTime(rng.getrandbits(50), rng.getrandbits(61)))
    device = world.device
    largest = size_of(device.state) + FIFO_SIZE
    for step in range(STEPS):
        size = rng.choice((1, 1, 1, 2, 4, 8))
        offset = rng.randrange(length)
        if rng.random() < 0.5:
            value = device.read(offset, size)
            assert type(value) is int and 0 <= value < 1 << 8 * size, f"step {step}: read {offset:#x}/{size}"
        else:
            device.write(offset, size, random_value(rng, size))
        if rng.random() < 0.2:
            world.time.advance(rng.choice((1, 1000, 10**6, 10**9, 10**11)), limit=10)
        if rng.random() < 0.01:
            device.reset()
            assert world.line.level == 0
            assert not any(world.lines.values())
        assert size_of(device.state) <= largest
        if step % 10 == 0:
            twin = restore(make, world)
            assert twin.line.level == world.line.level, f"step {step}: {device.state}"
            if world.lines:
                assert {line: level for line, level in twin.lines.items() if line in world.lines} == world.lines


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_device_goes_on_as_the_original(name: str, seed: int) -> None:
    length, make = DEVICES[name]
    rng = random.Random(f"{name} twin {seed}")
    world = World(make, FakeTime(5, 10**18))
    for _ in range(200):
        world.device.write(rng.randrange(length), 1, rng.getrandbits(8))
    twin = restore(make, world)
    for step in range(1000):
        size = rng.choice((1, 1, 2, 4))
        offset = rng.randrange(length)
        value = random_value(rng, size)
        elapsed = rng.choice((0, 0, 1000, 10**8))
        is_write = rng.random() < 0.5
        world.time.advance(elapsed)
        twin.time.advance(elapsed)
        if is_write:
            world.device.write(offset, size, value)
            twin.device.write(offset, size, value)
        else:
            assert twin.device.read(offset, size) == world.device.read(offset, size), f"step {step}"
        assert twin.device.state == world.device.state, f"step {step}"
        assert twin.line.level == world.line.level, f"step {step}"


@pytest.mark.parametrize("seed", SEEDS)
def test_serial_with_a_busy_host_loses_and_invents_nothing(seed: int) -> None:
    """The host offers a known stream; whatever the guest does apart from clearing the FIFO, it reads that stream."""
    rng = random.Random(seed)
    line, sink = FakeLine(), ByteSink()
    uart = Serial("serial0", line, sink)
    uart.write(2, 1, 0x01)
    sent, got = bytearray(), bytearray()
    pending = bytearray()

    def feed() -> None:
        del pending[: uart.receive(bytes(pending))]

    uart.on_room = feed
    for _ in range(STEPS):
        action = rng.randrange(6)
        if action == 0:
            chunk = rng.randbytes(rng.randrange(40))
            sent += chunk
            pending += chunk
            feed()
        elif action == 1:
            uart.write(rng.choice((1, 7)), 1, rng.getrandbits(8))
        elif action == 2:
            uart.write(2, 1, rng.getrandbits(8) & ~0x02 | 0x01)
        elif uart.read(5, 1) & 0x01:
            got.append(uart.read(RBR_THR, 1))
        assert len(uart.state.rx) + uart.room == FIFO_SIZE
        assert not uart.read(5, 1) & 0x02
    uart.write(1, 1, 0)
    while uart.read(5, 1) & 0x01:
        got.append(uart.read(RBR_THR, 1))
    assert got == sent
    assert not pending


@pytest.mark.parametrize("seed", SEEDS)
def test_serial_polled_means_output_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    sink = ByteSink()
    uart = Serial("serial0", FakeLine(), sink)
    for _ in range(STEPS):
        uart.write(rng.choice((1, 2, LCR, MCR, 7)), 1, rng.getrandbits(8) & rng.getrandbits(8))
        byte = rng.getrandbits(8)
        before, count = copy_state(uart.state), len(sink.writes)
        uart.write(RBR_THR, 1, byte)
        if uart.polled:
            assert sink.writes[count:] == [bytes([byte])]
            assert uart.state == before


@pytest.mark.parametrize("seed", SEEDS)
def test_fw_cfg_dma_stays_inside_ram(seed: int) -> None:
    rng = random.Random(seed)
    device = FwCfg(MEMORY, 1)
    edges = (0, MIB - 1, MIB, MIB - 16, 0x1000, 1 << 32, (1 << 64) - 1, (1 << 64) - 8)
    for _ in range(1000):
        at = rng.choice((0x1000, 0x1000, MIB - 16, rng.choice(edges)))
        if MEMORY.contains(at, 16):
            control = rng.getrandbits(5) | rng.choice((0, 1, 3, 5, 0x19, 0x20, rng.getrandbits(16))) << 16
            length = rng.choice((0, 1, 20, 4096, MIB, MIB + 1, 0xFFFF_FFFF))
            target = rng.choice((*edges, rng.getrandbits(20), rng.getrandbits(64)))
            MEMORY.write(at, control.to_bytes(4, "big") + length.to_bytes(4, "big") + target.to_bytes(8, "big"))
        device.write(4, 8, int.from_bytes(at.to_bytes(8, "big"), "little"))
        assert device.state.dma == bytes(8)
        assert 0 <= device.state.offset <= max(len(item) for item in device.items.values())
