"""virtio-net and the user network on the I/O loop's thread, beside a driver that rings as KVM does and sleeps until it is told: nobody
waits for ever.

Loop, threads and libslirp are real ones; only KVM is missing. Seeds are fixed, the interleaving is the host's.
``PYVMM_FUZZ_THREADS=100`` makes it run a hundred times as long.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyvmm.backends.net.backend import open_netdevs
from pyvmm.backends.net.slirp_abi import load
from pyvmm.config import NetConfig
from pyvmm.devices.virtio.core import EVENT_IDX
from pyvmm.devices.virtio.net import RX, TX, VirtioNet
from pyvmm.ioloop import IoLoop
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.guestnet import checksum, ip, ipv4
from tests.support.packets import MAC
from tests.support.ring import Ring
from tests.support.virtio import PciDriver

pytestmark = pytest.mark.skipif(load() is None, reason="libslirp.so.0 is not installed (Debian: libslirp0)")

ROUNDS = 25 * int(os.environ.get("PYVMM_FUZZ_THREADS", "1"))
PATIENCE = 10.0  # seconds without an interrupt that is due
_ROUTER, _US = ip("10.0.2.2"), ip("10.0.2.15")


class NetDriver:
    """Pings the network's router. All of it but registers happens without the machine lock, as a guest's memory accesses do."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.lock = threading.Lock()
        self.loop = IoLoop(self.lock)
        memory = GuestMemory(16 * MIB)
        self.wire = open_netdevs([NetConfig(id="n", kind="user")])["n"]
        device = VirtioNet("net", self.loop, self.wire, MAC)
        driver = PciDriver(device, memory)
        self.event_idx = bool(seed % 3)
        sizes = (rng.choice((1, 2, 4, 16)), rng.choice((1, 4, 16, 64)))
        self.rx, self.tx = (
            Ring(memory, size, 0x1_0000 * (1 + n), MIB * (1 + 4 * n), MIB * (5 + 4 * n), event_idx=self.event_idx)
            for n, size in enumerate(sizes)
        )
        self.told = threading.Event()
        interrupt = device.signals.queue

        def tell(index: int) -> None:
            interrupt(index)
            self.told.set()

        device.signals.queue = tell
        with self.lock:
            device.attach(self.loop)
            driver.start({RX: self.rx, TX: self.tx}, driver.offered() & ~(0 if self.event_idx else EVENT_IDX))
        self.core = driver.core
        self.answers = 0
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def close(self) -> None:
        self.loop.stop()
        self.thread.join()
        self.core.close()
        self.wire.close()
        self.loop.close()

    def kick(self, ring: Ring, index: int) -> None:
        if ring.wants_kick():
            if self.rng.random() < 0.2:  # an exit
                with self.lock:
                    self.core.kick(index)
            else:
                os.eventfd_write(self.core.doorbells.eventfds[index], 1)

    def post(self) -> None:
        while self.rx.free:
            self.rx.add(2048)
        self.kick(self.rx, RX)

    def reap(self) -> None:
        buffers = {head: each for head, (_, each) in self.rx.chains.items()}
        for head, written in self.rx.collect():
            frame = self.rx.written(buffers[head])[12:written]
            self.answers += frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0
        self.tx.collect()

    def wait(self, happened: Callable[[], Any], what: str) -> None:
        """As NAPI does: interrupts on, another look, and only then sleep."""
        while not happened():
            self.told.clear()
            if self.event_idx:
                self.rx.set_used_event(self.rx.seen_used)
                self.tx.set_used_event(self.tx.seen_used)
            else:
                self.rx.set_no_interrupt(False)
            if self.rx.used_index == self.rx.seen_used and self.tx.used_index == self.tx.seen_used:
                assert self.told.wait(PATIENCE), f"{what}: no interrupt; {self.wire.counters}"
            if not self.event_idx:
                self.rx.set_no_interrupt(True)
            self.reap()
            self.post()

    def send(self, frame: bytes) -> None:
        self.wait(lambda: self.tx.free, "room to send")
        self.tx.add(bytes(12) + frame)
        self.kick(self.tx, TX)

    def ping(self) -> None:
        body = struct.pack(">BBHHH", 8, 0, 0, 77, 1) + b"abcdefgh"
        body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        self.send(b"\x52\x55\x0a\x00\x02\x02" + MAC + b"\x08\x00" + ipv4(_US, _ROUTER, 1, body))

    def ask(self) -> None:
        body = struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, MAC, _US, bytes(6), _ROUTER)
        self.send(b"\xff" * 6 + MAC + b"\x08\x06" + body)


@pytest.fixture(params=range(6))
def driver(request: pytest.FixtureRequest) -> Iterator[NetDriver]:
    driver = NetDriver(request.param)
    yield driver
    driver.close()


def test_no_ping_is_lost_and_nobody_sleeps_for_ever(driver: NetDriver) -> None:
    driver.ask()
    driver.post()
    for _ in range(ROUNDS):
        count = 1 if driver.rng.random() < 0.6 else driver.rng.randrange(1, 80)
        wanted = driver.answers + count
        for _ in range(count):
            driver.ping()
        driver.wait(lambda wanted=wanted: driver.answers >= wanted, f"{count} pings")  # type: ignore[misc]
