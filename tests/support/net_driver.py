"""A driver's half of virtio-net for tests, and a wire that remembers."""

from __future__ import annotations

import struct
from typing import Any

from pyvmm.backends.net.backend import Wire
from pyvmm.devices.virtio.net import CONTROL, RX, TX, NetOptions, VirtioNet
from pyvmm.devices.virtio.net_buffers import HEADER
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.packets import MAC
from tests.support.ring import FakeLoop, Part, Ring
from tests.support.virtio import Driver, PciDriver


def header(flags: int = 1, kind: int = 0, length: int = 0, mss: int = 0, start: int = 0, field: int = 0) -> bytes:
    """An offload header."""
    return struct.pack("<BBHHHHH", flags, kind, length, mss, start, field, 0)


def seeded(packet: bytes, at: int = 50, protocol: int = 6) -> bytes:
    """As Linux leaves a checksum to the card: the field holds the sum over the pseudo header."""
    v6 = packet[12:14] == b"\x86\xdd"
    start = 54 if v6 else 34
    addresses = packet[22:54] if v6 else packet[26:34]
    pseudo = addresses + struct.pack(">II", len(packet) - start, protocol)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:at] + struct.pack(">H", total) + packet[at + 2 :]


class FakeWire(Wire):
    """A wire that keeps what it is given. ``resumed``: how often the card was ready again; ``flags``: of set_offload."""

    def __init__(self, offload: bool = False) -> None:
        super().__init__("wire")
        self.offload = offload
        self.link = True
        self.sent: list[bytes] = []
        self.headers: list[bytes | None] = []
        self.resumed = 0
        self.flags = 0

    def send(self, frame: Any, header: Any = None) -> None:
        self.sent.append(bytes(frame))
        self.headers.append(None if header is None else bytes(header))

    def set_offload(self, flags: int) -> None:
        self.flags = flags

    def resume(self) -> None:
        self.resumed += 1


class NetRig:
    """A virtio-net card on a transport with its driver, not yet started."""

    def __init__(self, offload: bool = False, options: NetOptions | None = None, transport: Any = PciDriver, size: int = 64) -> None:
        self.memory = GuestMemory(8 * MIB)
        self.loop = FakeLoop()
        self.wire = FakeWire(offload)
        self.device = VirtioNet("net", self.loop, self.wire, MAC, options)
        self.driver: Driver = transport(self.device, self.memory)
        self.rx, self.tx, self.control = (
            Ring(self.memory, 16 if index == CONTROL else size, 0x1_0000 * (1 + index), MIB * (1 + 2 * index), MIB * (3 + 2 * index))
            for index in range(3)
        )
        self.device.attach(self.loop)  # type: ignore[arg-type]

    def start(self, without: int = 0, only: int | None = None, buffers: int = 0, size: int = 2048) -> None:
        """Up to DRIVER_OK with what is offered but ``without``, and ``buffers`` receive buffers."""
        rings = {RX: self.rx, TX: self.tx}
        if len(self.device.queue_sizes) > CONTROL:
            rings[CONTROL] = self.control
        offered = self.driver.offered() & ~without
        self.driver.start(rings, offered if only is None else offered & only)
        self.post(buffers, size)
        self.loop.run_pending()

    def post(self, count: int, *parts: Part) -> None:
        """Makes receive buffers available and rings if that is wanted."""
        for _ in range(count):
            self.rx.add(*parts)
        if count and self.rx.wants_kick():
            self.driver.kick(RX)

    def send(self, *parts: bytes) -> None:
        """Sends one request."""
        self.tx.add(*parts)
        if self.tx.wants_kick():
            self.driver.kick(TX)
        self.loop.run_pending()

    def command(self, *parts: bytes) -> int:
        """A command on the control queue; returns the answer."""
        head = self.control.add(*parts, 1)
        _, buffers = self.control.chains[head]
        self.driver.kick(CONTROL)
        self.loop.run_pending()
        assert self.control.collect() == [(head, 1)]
        return self.control.written(buffers)[0]

    def received(self) -> list[tuple[bytes, bytes]]:
        """Header and frame of everything that has come, merged buffers joined."""
        done: list[tuple[bytes, bytes]] = []
        missing = 0
        data = b""
        kept = {head: list(buffers) for head, (_, buffers) in self.rx.chains.items()}
        for head, written in self.rx.collect():
            part = self.rx.written(kept[head])[:written]
            data += part
            missing = missing - 1 if missing else int.from_bytes(part[10:12], "little") - 1
            if not missing:
                done.append((data[:HEADER], data[HEADER:]))
                data = b""
        assert not missing, "num_buffers promises more than was given back"
        return done
