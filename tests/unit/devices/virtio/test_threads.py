"""A device's own I/O thread and workers against vCPUs that reset it: no call lost, none too late, nothing written after a reset.

The loop, the threads and the disk are real ones; only KVM is missing. Seeds are fixed, the interleaving is the host's.
``PYVMM_FUZZ_THREADS=100`` makes it run a hundred times as long.
"""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.blk_config import BlkOptions
from pyvmm.devices.virtio.core import DRIVER_OK, EVENT_IDX, NEEDS_RESET
from pyvmm.iothread import IoThread
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.workers import Workers
from tests.support.disk import FakeDisk
from tests.support.ring import Ring
from tests.support.virtio import Driver, Echo, MmioDriver, PciDriver

ROUNDS = 150 * int(os.environ.get("PYVMM_FUZZ_THREADS", "1"))
PATIENCE = 20.0
QUEUES = 2


class World:
    """A device on an I/O thread, and a driver that holds the machine lock for each register access."""

    def __init__(self, transport: Callable[..., Driver], seed: str) -> None:
        self.rng = random.Random(seed)
        self.crashes: list[BaseException] = []
        self.memory = GuestMemory(2 * MIB)
        self.machine_lock = threading.Lock()
        self.thread = IoThread(self.crashes.append)
        self.workers = Workers(self.crashes.append)
        self.disk = FakeDisk(MIB)
        self.disk.before = self.pause
        self.device: Any = VirtioBlk("disk", self.thread, self.workers.submit, self.disk, BlkOptions(queues=QUEUES, queue_size=32))
        self.finish_making(transport)

    def finish_making(self, transport: Callable[..., Driver]) -> None:
        self.driver = transport(self.device, self.memory)
        self.rings = [Ring(self.memory, 32, 0x1_0000 * (1 + n), (4 + 4 * n) << 16, (8 + 4 * n) << 16) for n in range(QUEUES)]
        self.stop = False
        self.sent = self.answered = 0

    def pause(self, operation: str) -> None:
        time.sleep(random.random() * 0.003)

    def locked(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with self.machine_lock:
            return call(*arguments)

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert not self.crashes, self.crashes
            assert time.monotonic() < end, what
            time.sleep(0.0005)

    def start(self) -> None:
        features = self.locked(self.driver.offered) & ~(EVENT_IDX if self.rng.random() < 0.5 else 0)
        self.locked(self.driver.start, dict(enumerate(self.rings)), features)

    def reset(self) -> None:
        """Until status reads 0; from then on memory stays as it is."""
        self.locked(self.driver.set_status, 0)
        self.until(lambda: self.locked(self.driver.status) == 0, "the reset never came to an end")
        content = self.memory.read(0, 2 * MIB)
        time.sleep(0.004)
        assert self.memory.read(0, 2 * MIB) == content, "written after the reset"

    def request(self, index: int) -> None:
        ring, rng = self.rings[index], self.rng
        if len(ring.free) >= 3:
            header = struct.pack("<IIQ", rng.choice((0, 0, 1, 4)), 0, rng.randrange(2000))
            if header[0]:
                ring.add(header, b"x" * 512 if header[0] == 1 else b"", 1, indirect=rng.random() < 0.3)
            else:
                ring.add(header, rng.choice((512, 4096)), 1, indirect=rng.random() < 0.3)
            self.sent += 1
        if ring.wants_kick():
            self.locked(self.driver.kick, index)

    def collect(self) -> None:
        for ring in self.rings:
            self.answered += len(ring.collect())

    def drain(self) -> None:
        """Every request comes back, and none is waiting for a doorbell that was lost."""

        def done() -> bool:
            self.collect()
            return not any(ring.chains for ring in self.rings)

        self.until(done, "a request or a doorbell was lost")

    def restart_queue(self, index: int) -> None:
        self.until(lambda: self.locked(self.driver.reset_queue, index), "the queue's reset never came to an end")
        ring = self.rings[index]
        area = ring.memory.read(ring.desc, ring.end - ring.desc)
        time.sleep(0.002)
        assert ring.memory.read(ring.desc, ring.end - ring.desc) == area, "written after the queue's reset"
        ring.clear()
        self.locked(self.driver.setup, index, ring)

    def onlooker(self) -> None:
        """Another vCPU."""
        try:
            while not self.stop:
                self.locked(self.driver.interrupts)
                self.locked(self.driver.offered)
                time.sleep(0.0003)
        except BaseException as error:
            self.crashes.append(error)

    def play(self) -> None:
        rng = self.rng
        self.start()
        for _ in range(ROUNDS):
            self.disk.cached = rng.random() < 0.5
            for _ in range(rng.randrange(1, 30)):
                self.request(rng.randrange(QUEUES))
                if rng.random() < 0.2:
                    self.collect()
            assert not self.crashes, self.crashes
            assert self.locked(self.driver.status) & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK, self.driver.core.trouble
            what = rng.random()
            if what < 0.3:
                self.reset()
                self.start()
            elif what < 0.5:
                self.restart_queue(rng.randrange(QUEUES))
            elif what < 0.7:
                self.drain()
        self.drain()

    def close(self) -> None:
        self.stop = True
        self.reset()
        self.thread.stop()
        self.workers.stop()
        self.thread.join(PATIENCE)
        self.workers.join(PATIENCE)
        assert not self.thread.alive and not self.workers.alive
        self.driver.core.close()
        self.thread.close()
        self.memory.close()
        assert not self.crashes, self.crashes


@pytest.fixture(params=["mmio", "pci", "pci-msix"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(MmioDriver if request.param == "mmio" else PciDriver, f"threads {request.param}")
    if request.param == "pci-msix":
        assert isinstance(world.driver, PciDriver)
        world.driver.enable_msix()
    yield world
    world.close()


def test_resets_against_the_io_thread(world: World) -> None:
    others = threading.Thread(target=world.onlooker)
    others.start()
    try:
        world.play()
    finally:
        world.stop = True
        others.join()
    assert world.answered > world.sent // 4


class SlowEcho(Echo):
    """Its ``serve`` takes its time, and lets go of the interpreter in between."""

    def answer(self, index: int, chain: Any) -> None:
        time.sleep(0.002)
        super().answer(index, chain)


def test_a_reset_waits_for_a_serve_that_is_under_way() -> None:
    """A device that knows nothing of threads: the core counts a running ``serve`` as work in flight."""
    crashes: list[BaseException] = []
    memory, thread = GuestMemory(2 * MIB), IoThread(crashes.append)
    device = SlowEcho(thread)
    driver = MmioDriver(device, memory)
    ring = Ring(memory, 16)
    for round_ in range(20):
        driver.start({0: ring})
        for _ in range(round_ % 7 + 1):
            ring.add(b"data", 5)
        driver.kick(0)
        time.sleep(0.001 * (round_ % 4))
        driver.set_status(0)
        end = time.monotonic() + PATIENCE
        while driver.status():
            assert time.monotonic() < end
        content = memory.read(0, 2 * MIB)
        time.sleep(0.005)
        assert memory.read(0, 2 * MIB) == content
        assert not crashes
    thread.stop()
    thread.join(PATIENCE)
    driver.core.close()
    thread.close()
