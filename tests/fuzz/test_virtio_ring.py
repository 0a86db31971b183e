"""A hostile driver at virtio devices: rings full of nonsense, registers at random, resets with requests in flight.

Seeds are fixed, so a failure repeats: it names device, transport and episode. ``PYVMM_FUZZ_VIRTIO=84000`` sets the number of
operations per device and transport (that is a million in all, four to eight minutes); the default is a sample of the same sequence.

What must hold: nothing raises, every operation ends soon, nothing outside guest RAM is written, nothing grows, no memory is
touched once a reset has been reported complete, and after it the device serves an honest driver.
"""

from __future__ import annotations

import gc
import mmap
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm import memory as memory_module
from pyvmm.backends.block.raw import RawFile
from pyvmm.devices.virtio import core, net_trace
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.blk_config import BlkOptions
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.core import DRIVER_OK, NEEDS_RESET, VERSION_1
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.net import NetOptions, VirtioNet
from pyvmm.devices.virtio.queue import DESC_INDIRECT, DESC_NEXT
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.kvm.native import address_of
from pyvmm.layout import LOW_RAM_END, MIB
from pyvmm.memory import GuestMemory
from pyvmm.scatter import Scatter
from tests.support.disk import FakeDisk
from tests.support.fakes import FakeTime
from tests.support.net_driver import FakeWire
from tests.support.packets import MAC, PEER, ipv4_tcp, ipv6_tcp, udp
from tests.support.ring import FakeLoop, Part, Ring
from tests.support.virtio import Driver, Echo, MmioDriver, PciDriver

if TYPE_CHECKING:
    from pyvmm.scatter import Views

OPERATIONS = int(os.environ.get("PYVMM_FUZZ_VIRTIO", "2500"))  # for each of 12: 30,000 in all
EPISODE = 60  # operations between two honest requests
SECONDS = 1.0  # of this thread's processor time for one operation
RAM = MIB
GUARD = 64 << 10
PATTERN = bytes(range(256)) * (GUARD // 256)
TOLERANCE = 24 * MIB  # growth of this process
EDGES = (0, 1, RAM - 1, RAM, RAM + 1, LOW_RAM_END, 0xFEE0_0000, (1 << 32) - 1, 1 << 32, (1 << 63), (1 << 64) - 4096, (1 << 64) - 1)
LENGTHS = (0, 1, 2, 15, 16, 17, 512, 513, 4096, 65536, RAM - 1, RAM, RAM + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)


class Subject:
    """A device under test, what it is wired to, and one honest request."""

    device: VirtioDevice
    queue = 0
    request: tuple[Part, ...] = (b"hello", 6)
    answer = b"hello\0"

    def busy(self, rng: random.Random) -> None:
        """Something happens on the host's side."""

    def settle(self) -> None:
        """Whatever the host still has to do is done."""

    def check(self) -> None:
        """Nothing has grown, nothing outside was written."""

    def close(self) -> None:
        """All is over."""

    def parts(self, rng: random.Random) -> list[Part]:
        """A request that looks right, or nearly so."""
        return [
            *[rng.randbytes(rng.choice((0, 1, 16, 100))) for _ in range(rng.randrange(3))],
            *[rng.choice((0, 1, 16, 600))] * rng.randrange(3),
        ]


class EchoSubject(Subject):
    """Completes at once, or when the host gets round to it."""

    def __init__(self, loop: FakeLoop) -> None:
        self.device: Echo = Echo(loop)

    def busy(self, rng: random.Random) -> None:
        self.device.hold = rng.random() < 0.5
        if rng.random() < 0.7:
            self.settle()
        if rng.random() < 0.2:
            self.device.signals.config()

    def settle(self) -> None:
        while self.device.held:
            index, chain = self.device.held.pop(0)
            try:
                self.device.answer(index, chain)
            except Exception as error:  # as a worker would report it
                if type(error).__name__ != "QueueError":
                    raise
                self.device.signals.broken(str(error))

    def check(self) -> None:
        self.device.hold = False
        assert len(self.device.held) <= sum(self.device.queue_sizes)


class BlkSubject(Subject):
    """A disk; what its workers have to do waits until the host gets round to it."""

    request = (struct.pack("<IIQ", 0, 0, 1), 512, 1)
    answer = b"disk" * 128 + b"\0"

    def __init__(self, loop: FakeLoop) -> None:
        self.jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.disk = FakeDisk(MIB)
        self.device = VirtioBlk("disk", loop, self.submit, self.disk, BlkOptions(queues=2, queue_size=16))

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        self.jobs.append((function, arguments))

    def busy(self, rng: random.Random) -> None:
        self.disk.cached = rng.random() < 0.5
        self.disk.fail = {rng.choice(("read", "write", "flush", "zero")): 5} if rng.random() < 0.1 else {}
        for _ in range(min(rng.randrange(4), len(self.jobs))):
            function, arguments = self.jobs.pop(rng.randrange(len(self.jobs)))
            function(*arguments)

    def settle(self) -> None:
        while self.jobs:
            function, arguments = self.jobs.pop(0)
            function(*arguments)

    def check(self) -> None:
        assert len(self.jobs) <= sum(self.device.queue_sizes)
        assert len(self.disk.data) == self.disk.size
        self.disk.log.clear()
        self.disk.fail = {}
        self.disk.data[512:1024] = b"disk" * 128

    def parts(self, rng: random.Random) -> list[Part]:
        kind = rng.choice((0, 0, 0, 1, 1, 4, 8, 11, 13, 2, 0xFFFF_FFFF))
        header = struct.pack("<IIQ", kind, 0, rng.choice((0, 1, 2047, 2048, rng.randrange(4096), (1 << 64) - 1)))
        data: list[Part] = [rng.randbytes(rng.choice((16, 512, 1024, 7))) for _ in range(rng.randrange(3))] if kind in (1, 11, 13) else []
        data += [rng.choice((1, 20, 512, 1024)) for _ in range(rng.randrange(3))]
        return [header[: rng.choice((16, 16, 16, 8, 0))], *data, *([1] if rng.random() < 0.9 else [])]


class CountingFile(RawFile):
    """Counts the requests that came as the kernel takes them."""

    scattered = 0

    def try_read(self, offset: int, views: Views) -> bool:
        self.scattered += isinstance(views, Scatter)
        return super().try_read(offset, views)

    def write(self, offset: int, views: Views) -> None:
        self.scattered += isinstance(views, Scatter)
        super().write(offset, views)


class FileSubject(BlkSubject):
    """A disk in a file, which the kernel reads and writes at the addresses it is given. Behind the disk the file has a canary."""

    def __init__(self, loop: FakeLoop) -> None:
        super().__init__(loop)
        self.fd = os.memfd_create("disk")
        os.pwrite(self.fd, bytes(MIB) + PATTERN, 0)
        self.file = CountingFile(self.fd, "disk", MIB, discard=True)
        self.device.backend = self.file

    def busy(self, rng: random.Random) -> None:
        if rng.random() < 0.03:  # somebody truncates it
            os.ftruncate(self.fd, rng.choice((0, 512, MIB // 2 + 1, MIB - 512)))
        super().busy(rng)

    def check(self) -> None:
        super().check()
        held = os.fstat(self.fd).st_size
        assert held <= MIB or (held == MIB + GUARD and os.pread(self.fd, GUARD, MIB) == PATTERN)
        os.ftruncate(self.fd, MIB)
        os.pwrite(self.fd, PATTERN, MIB)
        os.pwrite(self.fd, b"disk" * 128, 512)

    def parts(self, rng: random.Random) -> list[Part]:
        """Long ones too, of many pieces."""
        parts = super().parts(rng)
        if rng.random() < 0.8:
            count, size = rng.choice((8, 8, 16, 64, 120)), rng.choice((512, 512, 64))
            kind = rng.choice((0, 0, 0, 1, 1, 1, 8))
            header = struct.pack("<IIQ", kind, 0, rng.randrange(2000))
            parts = [header, *[rng.randbytes(size) if kind == 1 else size] * count, 1]
        return parts

    def close(self) -> None:
        self.file.close()
        assert self.file.scattered > OPERATIONS // 200, "none was taken whole"


class RngSubject(Subject):
    """Entropy; with a limit per period."""

    request = (64,)
    answer = b""

    def __init__(self, loop: FakeLoop) -> None:
        self.time = FakeTime()
        self.device = VirtioRng("rng", loop, self.time.clock, self.time.make_timer, 1 << 16, 1000)

    def busy(self, rng: random.Random) -> None:
        self.time.advance(rng.randrange(2000))

    def settle(self) -> None:
        self.time.advance(2000)


class ConsoleSubject(Subject):
    """A console whose user types now and then."""

    queue = 1
    request = (b"hello",)
    answer = b""

    def __init__(self, loop: FakeLoop) -> None:
        self.printed = 0
        self.device: VirtioConsole = VirtioConsole("hvc", loop, self.output, (80, 25))

    def output(self, data: bytes) -> None:
        self.printed += len(data)

    def busy(self, rng: random.Random) -> None:
        if rng.random() < 0.7:
            self.device.receive(rng.randbytes(rng.choice((1, 16, 3000))))
        else:
            self.device.resize(rng.getrandbits(16), rng.getrandbits(16))


class NetSubject(Subject):
    """A card at a wire that is hostile too: any frame, any offload header, a link that comes and goes."""

    queue = 1
    request = (bytes(12), bytes(60))
    answer = b""

    def __init__(self, loop: FakeLoop) -> None:
        self.wire = FakeWire(offload=True)
        self.device: VirtioNet = VirtioNet("net", loop, self.wire, MAC, NetOptions(rx_size=16, tx_size=16))
        self.untrace: Callable[[], None] | None = None

    def told(self, text: str) -> None:
        assert len(text) < 5000, "a tracer's line"

    def busy(self, rng: random.Random) -> None:
        device = self.device
        self.wire.offload = rng.random() < 0.5
        if rng.random() < 0.05:
            self.untrace = self.untrace() if self.untrace else net_trace.attach(device, self.told)
        if rng.random() < 0.05:
            rng.choice((device.set_link, device.link_changed))(rng.random() < 0.7)
            device.announce()
        together = rng.random() < 0.5
        if together:
            device.burst(True)
        for _ in range(rng.randrange(4)):
            data = rng.choice((
                rng.randbytes(rng.choice((0, 1, 13, 14, 60, 1514, 9000, 65553))),
                rng.choice((ipv4_tcp, ipv6_tcp, udp))(rng.randbytes(rng.randrange(3000))),
                rng.choice((MAC, b"\xff" * 6)) + PEER + b"\x81\x00" + rng.randbytes(rng.randrange(100)),
            ))  # fmt: skip
            before = device.counts.received
            taken = device.receive(memoryview(data), rng.choice((None, bytes(12), rng.randbytes(12), self.header(rng))))
            assert taken is True or device.counts.received == before
        if together:
            device.burst(False)

    def header(self, rng: random.Random) -> bytes:
        kind, start = rng.choice(((0, 34), (1, 34), (4, 54), (0x81, 34), (5, 34), rng.choice(((3, 0), (0xFF, 0xFFFF)))))
        mss = rng.choice((0, 1, 32, 100, 1000, 1448, 0xFFFF))
        return struct.pack(
            "<BBHHHHH", rng.choice((0, 1, 1, 2, 3)), kind, start + 20 & 0xFFFF, mss, start, rng.choice((16, 16, 6, 0xFFFF)), 0
        )

    def check(self) -> None:
        assert len(self.wire.sent) < 100_000
        assert all(len(each) <= 65535 + 22 for each in self.wire.sent)
        self.wire.sent.clear()
        self.wire.headers.clear()
        self.device.set_link(True)
        self.device.link_changed(True)

    def parts(self, rng: random.Random) -> list[Part]:
        if rng.random() < 0.3:
            return [rng.choice((0, 1, 12, 16, 600, 2048))] * rng.randrange(1, 3)
        if rng.random() < 0.2:
            return [rng.choice((b"\0\0\0", b"\1\1" + PEER, b"\2\0\1\0", b"\1\0" + bytes(8), rng.randbytes(rng.randrange(100)))), 1]
        data = rng.choice((rng.randbytes, lambda size: ipv4_tcp(bytes(size)), lambda size: ipv6_tcp(bytes(size))))(
            rng.choice((0, 60, 1514, 30_000))
        )
        return [rng.choice((bytes(12), self.header(rng), rng.randbytes(12), b"")), data]


SUBJECTS: dict[str, Callable[[FakeLoop], Subject]] = {
    "echo": EchoSubject,
    "blk": BlkSubject,
    "blk in a file": FileSubject,
    "rng": RngSubject,
    "console": ConsoleSubject,
    "net": NetSubject,
}
TRANSPORTS: dict[str, Callable[..., Driver]] = {"mmio": MmioDriver, "pci": PciDriver}


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[memoryview]]:
    """Guest RAM gets canaries in front and behind; these are the pieces of memory with both."""
    made: list[memoryview] = []

    def guarded(fd: int, size: int, flags: int) -> memoryview:
        """Begins where GuestMemory wants it, so that it has no slack in front."""
        whole = mmap.mmap(fd, size + memory_module._BEGIN + GUARD, flags=flags)
        start = -(address_of(whole) + GUARD) % memory_module._BEGIN
        guarded = memoryview(whole)[start : start + RAM + 2 * GUARD]
        guarded[:GUARD] = guarded[-GUARD:] = PATTERN
        made.append(guarded)
        return memoryview(whole)[start + GUARD :]

    names = {name: getattr(mmap, name) for name in dir(mmap) if name.isupper()}
    monkeypatch.setattr(memory_module, "mmap", SimpleNamespace(**{**names, "mmap": guarded}))
    monkeypatch.setattr(GuestMemory, "_ask_for_huge_pages", lambda self, offset: None)
    yield made


class Hostile:
    """The driver."""

    def __init__(self, subject: Callable[[FakeLoop], Subject], transport: Callable[..., Driver], rng: random.Random) -> None:
        self.rng = rng
        self.memory = GuestMemory(RAM)
        assert self.memory.regions[0].host_address % memory_module._BEGIN == 0
        self.loop = FakeLoop()
        self.subject = subject(self.loop)
        self.bound: set[tuple[int, int, int, int | None]] = set()
        self.broken = 0  # operations that made a running device need a reset
        self.driver = transport(self.subject.device, self.memory, self.bind)
        self.rings = [
            Ring(self.memory, 8, 0x1000 * (1 + n), 0x1_0000 * (1 + n), 0x1_0000 * (2 + n))
            for n in range(max(2, len(self.subject.device.queue_sizes)))
        ]
        weights = {
            self.well_formed: 16, self.descriptors: 12, self.chain: 12, self.publish: 8, self.scribble: 6, self.kick: 16, self.run: 24,
            self.host: 12, self.register: 12, self.start: 2, self.start_anywhere: 1, self.reset: 1, self.queue_reset: 4, self.status: 2,
        }  # fmt: skip
        if isinstance(self.driver, PciDriver):
            weights |= {self.configuration: 3, self.bars: 2}
        self.steps = [step for step, weight in weights.items() for _ in range(weight)]

    def bind(self, fd: int, address: int, length: int, value: int | None, on: bool) -> None:
        key = (fd, address, length, value)
        assert (key in self.bound) != on
        (self.bound.add if on else self.bound.remove)(key)

    # --- operations --------------------------------------------------------------------------------------------------
    def address(self) -> int:
        rng = self.rng
        if rng.random() < 0.5:
            return rng.randrange(RAM)
        return rng.choice(EDGES) + rng.randint(-20, 20) & (1 << 64) - 1

    def length(self) -> int:
        return self.rng.choice(LENGTHS) if self.rng.random() < 0.5 else self.rng.randrange(2048)

    def ring(self) -> Ring:
        return self.rng.choice(self.rings)

    def well_formed(self) -> None:
        ring, rng = self.ring(), self.rng
        ring.free = list(range(ring.size))
        ring.chains.clear()
        parts = self.subject.parts(rng)
        indirect = rng.random() < 0.3 or len(parts) > ring.size
        if parts:
            head = ring.add(*parts, indirect=indirect)
            if indirect and rng.random() < 0.3:  # with one bit wrong
                (table,) = self.memory.unpack("<Q", ring.desc + 16 * head)
                where = table + rng.randrange(16 * len(parts))
                self.memory.write(where, bytes([self.memory.read(where, 1)[0] ^ 1 << rng.randrange(8)]))

    def descriptors(self) -> None:
        ring, rng = self.ring(), self.rng
        for _ in range(rng.randrange(4)):
            flags = rng.choice((0, 1, 2, 3, 3, 4, 4, 6, 5, 7, rng.getrandbits(16)))
            ring.set_descriptor(rng.randrange(ring.size), self.address(), self.length(), flags, rng.choice((0, 1, 7, 8, 0xFFFF)))

    def chain(self) -> None:
        """Chains and tables that hang together, with a flaw or none."""
        ring, rng = self.ring(), self.rng
        count = rng.choice((1, 2, 3, 8, 9, 64, *([1500] if rng.random() < 0.2 else [])))
        table = rng.choice((None, 0x8000, RAM - 16 * count)) if count <= ring.size else 0x8000
        for index in range(count):
            flags = (DESC_NEXT if index < count - 1 else 0) | (2 if index > count // 2 else 0)
            following = index + 1
            if rng.random() < 0.05:
                flags ^= rng.choice((1, 2, 4))
                following = rng.choice((0, index, 0xFFFF, count))
            address, length = (
                (rng.randrange(0x2_0000, RAM // 2), rng.choice((1, 16, 512))) if rng.random() < 0.9 else (self.address(), self.length())
            )
            ring.set_descriptor(index, address, length, flags, following, table)
        if table is not None:
            if rng.random() < 0.1:  # tables in tables, or this one in itself
                ring.set_descriptor(rng.randrange(count), rng.choice((table, 0x8000)), 16 * count, DESC_INDIRECT, 0, table)
            length = 16 * count + rng.choice((0, 0, 0, 1, 16, -16, 1 << 20, 0xFFFF_0000))
            ring.set_descriptor(0, table, length, DESC_INDIRECT | rng.choice((0, 0, 0, 1, 2)))
        ring.publish(0)

    def publish(self) -> None:
        ring, rng = self.ring(), self.rng
        if rng.random() < 0.7:
            ring.publish(rng.choice((*range(ring.size), ring.size, 0xFFFF)))
        else:
            ring.avail_index = ring.avail_index + rng.choice((1, 2, 8, 9, 100, -1, 0x8000))

    def scribble(self) -> None:
        ring, rng = self.ring(), self.rng
        where = rng.randrange(ring.desc, ring.end)
        self.memory.write(where, rng.randbytes(rng.choice((1, 2, 8))))

    def kick(self) -> None:
        self.driver.kick(self.rng.choice((0, 0, 1, 1, 2, 100)))

    def run(self) -> None:
        self.loop.run_pending()

    def host(self) -> None:
        self.subject.busy(self.rng)

    def register(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(1, 6)):
            size = rng.choice((1, 2, 4, 4, 8))
            value = rng.choice((0, 1, 2, 7, 8, 0x40, 0xFFFF, rng.getrandbits(64))) & (1 << 8 * size) - 1
            if isinstance(self.driver, PciDriver):
                offset = rng.choice((rng.randrange(0x48), rng.randrange(0x48), rng.randrange(0x4000 - size), 0x2000 + rng.randrange(0x60)))
                window: Any = self.driver.function.window
            else:
                assert isinstance(self.driver, MmioDriver)
                offset = rng.choice((rng.randrange(0, 0x100, 4), rng.randrange(0x200 - size)))
                window = self.driver.transport
            if rng.random() < 0.5:
                assert 0 <= window.read(offset, size) < 1 << 8 * size
            else:
                window.write(offset, size, value)

    def configuration(self) -> None:
        assert isinstance(self.driver, PciDriver)
        size = self.rng.choice((1, 2, 4))
        offset = self.rng.randrange(0, 0x100, size)
        if self.rng.random() < 0.5:
            assert 0 <= self.driver.function.read_config(offset, size) < 1 << 8 * size
        else:
            self.driver.function.write_config(offset, size, self.rng.getrandbits(8 * size))

    def bars(self) -> None:
        assert isinstance(self.driver, PciDriver)
        self.driver.function.write_config(4, 2, 6)
        self.driver.move(self.rng.choice((0xC800_0000, 0xD000_0000, 0x80_0000_0000, 0, RAM, 0xFEC0_0000)))

    def start(self) -> None:
        """As an honest driver does, if the device can be reached; features at random."""
        self.repair()
        rng = self.rng
        if self.reset_now():
            offered = self.driver.offered()
            self.go(VERSION_1 | offered & ~(rng.getrandbits(64) & rng.getrandbits(64)))

    def go(self, features: int) -> bool:
        """Starts with rings where they belong."""
        driver = self.driver
        if not driver.negotiate(features) & 8:
            return False
        for index, ring in enumerate(self.rings[: len(self.subject.device.queue_sizes)]):
            ring.event_idx = bool(features & core.EVENT_IDX)
            ring.clear()
            driver.setup(index, ring)
        driver.set_status(15)
        return True

    def start_anywhere(self) -> None:
        """Rings at addresses that make no sense."""
        self.start()
        if self.reset_now() and self.driver.negotiate(VERSION_1) & 8:
            for index in range(len(self.subject.device.queue_sizes)):
                queue = self.driver.core.state.queues[index]
                queue.desc, queue.driver, queue.device = (self.address() & ~self.rng.choice((0, 15)) for _ in range(3))
                self.driver.core.state.queue_select = index
                self.driver.core.enable_queue()
            self.driver.set_status(15)
            self.loop.run_pending()

    def reset_now(self) -> bool:
        """Resets; False when something in flight keeps it from being complete."""
        self.driver.set_status(0)
        return self.driver.status() == 0

    def reset(self) -> None:
        self.repair()
        self.reset_now()

    def queue_reset(self) -> None:
        self.repair()
        index = self.rng.randrange(3)
        if self.driver.reset_queue(index) and index < len(self.subject.device.queue_sizes) and self.rng.random() < 0.7:
            ring = self.rings[index]
            ring.clear()
            queue = self.driver.core.selected()
            if queue is not None and not queue.enabled and queue.size >= ring.size and not self.driver.core.resetting:
                self.driver.setup(index, ring)

    def status(self) -> None:
        self.driver.set_status(self.rng.getrandbits(8))

    def repair(self) -> None:
        """Makes registers reachable again."""
        if isinstance(self.driver, PciDriver):
            self.driver.function.write_config(4, 2, 6)
            self.driver.move(0xC800_0000)

    # --- verdict -----------------------------------------------------------------------------------------------------
    def step(self) -> None:
        works = bool(self.driver.core.state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK)
        operation = self.rng.choice(self.steps) if works or self.rng.random() < 0.7 else self.start
        before = time.thread_time()
        operation()
        assert time.thread_time() - before < SECONDS, operation.__name__
        self.broken += works and bool(self.driver.core.state.status & NEEDS_RESET)

    def quiet(self) -> None:
        """A reset; once it is complete, nothing touches memory."""
        self.repair()
        for _ in range(3):
            if self.reset_now():
                break
            self.subject.settle()
        assert self.driver.status() == 0
        content = bytes(self.memory.view(0, RAM))
        for fd in self.driver.core.doorbells.eventfds.values():
            os.eventfd_write(fd, 1)
        self.subject.settle()
        self.loop.run_pending()
        assert self.memory.view(0, RAM) == content, "memory was written after the reset"

    def honest(self) -> None:
        """The device works for a driver that keeps the rules."""
        self.subject.settle()
        self.loop.run_pending()
        self.quiet()
        self.subject.check()
        assert self.go(self.driver.offered())
        assert not self.driver.status() & NEEDS_RESET
        ring = self.rings[self.subject.queue]
        head = ring.add(*self.subject.request)
        _, buffers = ring.chains[head]
        self.driver.kick(self.subject.queue)
        for _ in range(3):
            self.loop.run_pending()
            self.subject.settle()
        ((answered, written),) = ring.collect()
        assert answered == head
        writable = sum(part for part in self.subject.request if isinstance(part, int))
        assert written == writable
        assert not self.subject.answer or ring.written(buffers) == self.subject.answer
        assert not self.driver.status() & NEEDS_RESET

    def close(self) -> None:
        self.driver.core.close()
        self.subject.close()
        assert not self.bound and not self.loop.readers


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("transport", list(TRANSPORTS))
@pytest.mark.parametrize("name", list(SUBJECTS))
def test_hostile_driver(name: str, transport: str, guards: list[memoryview], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PATIENCE", 0.0)  # nobody else is there to finish anything meanwhile
    monkeypatch.setattr(core, "PATIENCE_AGAIN", 0.0)
    if name.startswith("blk"):
        monkeypatch.setattr("pyvmm.devices.virtio.blk.say", lambda text: None)
    hostile = Hostile(SUBJECTS[name], TRANSPORTS[transport], random.Random(f"virtio {name} {transport}"))
    descriptors = len(os.listdir("/proc/self/fd"))
    settled = 0
    episodes = max(OPERATIONS // EPISODE, 4)
    for episode in range(episodes):
        try:
            for _ in range(EPISODE):
                hostile.step()
            hostile.honest()
        except BaseException:
            print(f"{name} {transport} episode {episode}")
            raise
        assert address_of(guards[0]) + GUARD == hostile.memory.regions[0].host_address
        assert guards[0][:GUARD] == PATTERN and guards[0][-GUARD:] == PATTERN, f"episode {episode}"
        if episode == episodes // 4:
            gc.collect()
            settled = resident()
    gc.collect()
    assert resident() < settled + TOLERANCE
    assert len(os.listdir("/proc/self/fd")) <= descriptors + len(hostile.rings), "at most one doorbell for each queue"
    assert hostile.broken > episodes // 8, "the fuzzer breaks nothing: it has lost its teeth"
    hostile.close()
