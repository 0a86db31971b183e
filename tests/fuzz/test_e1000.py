"""A hostile guest and a hostile wire at the 82540EM: any register, any descriptor, any frame, any time.

What must hold: no exception, every value within its width, work and memory bounded, nothing written outside the buffers that
RAM has, the line at the level the registers imply, and a card that works after a reset. PYVMM_FUZZ multiplies the operations.
"""

from __future__ import annotations

import os
import random
import struct
import time

import pytest

from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000.mac import Mac
from pyvmm.devices.e1000.transmit import MAX_GATHER, TURN
from pyvmm.memory import GuestMemory
from pyvmm.net.frames import MAX_SEGMENTS
from tests.support.e1000_driver import MAC, Driver, Rig, frame
from tests.support.packets import ipv4_tcp, ipv6_tcp, udp

OPERATIONS = 5000 * int(os.environ.get("PYVMM_FUZZ", "1"))
SEEDS = range(4)
KNOWN = sorted({*c.PLAIN, *Rig().card.mac._reads, *Rig().card.mac._writes})
RINGS = (c.RDBAL, c.RDBAH, c.RDLEN, c.RDH, c.RDT, c.TDBAL, c.TDBAH, c.TDLEN, c.TDH, c.TDT, c.RCTL, c.TCTL, c.CTRL)
PLAYGROUND = 1 << 20  # all that the guest gives the card lies in here
MEMORY = 2 << 20


class Hostile:
    """One run: a card, and the dice."""

    def __init__(self, seed: int, offload: bool) -> None:
        self.rng = random.Random(f"e1000 {seed}")
        self.memory = GuestMemory(MEMORY)
        self.rig = Rig(offload=offload, memory=self.memory)
        self.longest = 0.0

    def address(self) -> int:
        rng = self.rng
        return rng.choice(
            (0, rng.randrange(PLAYGROUND), rng.randrange(PLAYGROUND) & ~0xFFF, MEMORY - rng.randrange(64), rng.getrandbits(64), 1 << 63)
        )

    def value(self) -> int:
        rng = self.rng
        return rng.choice((0, 1, 0xFFFF_FFFF, rng.getrandbits(32), rng.getrandbits(8), 1 << rng.randrange(32), rng.getrandbits(12) << 7))

    def register(self) -> None:
        rng = self.rng
        offset = rng.choice((rng.choice(KNOWN), rng.choice(RINGS), rng.choice(RINGS), rng.randrange(c.MMIO_SIZE)))
        size = rng.choice((4, 4, 4, 4, 1, 2, 8))
        window = rng.random() < 0.05
        device = self.rig.card.io if window else self.rig.card.mac
        offset = rng.choice((0, 4, rng.randrange(64))) if window else offset
        if rng.random() < 0.3:
            value = device.read(offset, size)
            assert type(value) is int and 0 <= value < 1 << 8 * size, hex(offset)
        else:
            device.write(offset, size, self.value() & (1 << 8 * size) - 1)

    def ring(self) -> None:
        """A ring that could work, full of descriptors that mostly could not."""
        rng = self.rng
        count = rng.choice((8, 16, 64, 256))
        base = rng.randrange(PLAYGROUND // 4096 - 2) * 4096
        transmit = rng.random() < 0.6
        words = []
        for _ in range(count):
            address = self.address() if rng.random() < 0.4 else rng.randrange(PLAYGROUND)
            if not transmit:
                words.append((address, rng.getrandbits(64)))
            elif rng.random() < 0.3:
                words.append(
                    (
                        14 | rng.choice((0, 24, 255)) << 8 | rng.choice((0, 33, 0xFFFF)) << 16
                        | rng.choice((34, 54, 255)) << 32 | rng.choice((50, 70, 40, 255)) << 40 | rng.choice((0, 1, 0xFFFF)) << 48,
                        1 << 29 | rng.choice((1, 2, 3, 5, 7)) << 24 | rng.choice((0, 54, 74, 255)) << 40
                        | rng.choice((0, 1, 48, 1460, 0xFFFF)) << 48,
                    )
                )  # fmt: skip
            else:
                length = rng.choice((0, 1, 14, 60, 1514, 4096, 65535, rng.getrandbits(20)))
                kind = rng.choice((0, 1 << 29 | 1 << 20, 1 << 29 | 1 << 20, 1 << 29 | rng.getrandbits(4) << 20))
                words.append(
                    (address, length & (0xF_FFFF if kind else 0xFFFF) | kind | rng.getrandbits(8) << 24 | rng.getrandbits(32) << 32)
                )
        self.memory.write(base, b"".join(struct.pack("<QQ", *pair) for pair in words))
        at, on = (c.TDBAL, c.TCTL) if transmit else (c.RDBAL, c.RCTL)
        rctl = rng.getrandbits(27)
        if rng.random() < 0.8:  # a receiver that takes most of what comes
            rctl = (rctl | c.RCTL_EN | c.RCTL_UPE | c.RCTL_MPE | c.RCTL_BAM) & ~(3 << c.RCTL_LBM_SHIFT | c.RCTL_VFE)
        tail = rng.choice((count - 1, rng.randrange(count), count, 0xFFFF))
        for offset, value in (
            (at, base),
            (at + 4, 0),
            (at + 8, 16 * count),
            (at + 0x10, rng.randrange(count)),
            (on, 0xA if transmit else rctl),
            (at + 0x18, tail),
        ):
            self.rig.write(offset, value)
        together = rng.random() < 0.5
        if together:
            self.rig.card.burst(True)
        for _ in range(0 if transmit else 10):
            self.wire()
        if together:
            self.rig.card.burst(False)

    def wire(self) -> None:
        rng = self.rng
        data = rng.choice(
            (
                rng.randbytes(rng.choice((0, 1, 13, 14, 60, 1514, 1519, 9000, 20_000))),
                frame(
                    rng.randbytes(rng.randrange(1500)),
                    rng.choice((MAC, b"\xff" * 6, rng.randbytes(6))),
                    kind=rng.choice((0x8100, 0x800, 0x8808)),
                ),
                rng.choice((ipv4_tcp, ipv6_tcp, udp))(rng.randbytes(rng.randrange(1400))),
            )
        )
        header = rng.choice(
            (None, None, bytes(12), rng.randbytes(12), struct.pack("<BBHHHHH", 1, rng.choice((0, 1, 4)), 54, 400, 34, 16, 0))
        )
        assert self.rig.card.receive(data, header) in (True, False)

    def life(self) -> None:
        rng = self.rng
        rng.choice(
            (
                lambda: self.rig.card.set_link(rng.random() < 0.7),
                lambda: self.rig.card.link_changed(rng.random() < 0.7),
                lambda: self.rig.card.write_config(4, 2, rng.choice((7, 7, 3, 0x407, 0))),
                lambda: self.rig.write(c.CTRL, rng.choice((c.CTRL_RST, c.CTRL_PHY_RST, 0xFFFF_FFFF))),
                lambda: self.rig.write(c.MDIC, rng.choice((1, 2)) << 26 | 1 << 21 | rng.getrandbits(21)),
                lambda: self.rig.time.advance(rng.choice((1, 1000, 10**7)), limit=10_000),
                self.rig.card.reset if rng.random() < 0.1 else (lambda: None),
            )
        )()

    def operate(self) -> None:
        act = self.rng.choices((self.register, self.ring, self.wire, self.life), (10, 2, 4, 2))[0]
        before = time.thread_time()
        act()
        self.longest = max(self.longest, time.thread_time() - before)
        sent = self.rig.wire.sent
        assert len(sent) <= 20_000
        assert all(len(each) <= 0x1_0000 + 300 for each in sent)
        sent.clear()
        self.rig.wire.headers.clear()
        self.check(self.rig.card.mac)

    def check(self, mac: Mac) -> None:
        assert len(mac.transmitter.state.frame) <= MAX_GATHER
        assert mac.interrupts.level == 0 or mac.regs[c.ICR] & mac.regs[c.IMS]
        if not mac.interrupts.level and not mac.interrupts.waiting:
            assert not mac.regs[c.ICR] & mac.regs[c.IMS]
        assert self.rig.line.level == (mac.interrupts.level if not self.rig.card.command & 0x400 else 0)
        assert all(0 <= value <= 0xFFFF_FFFF for value in mac.regs.values())
        assert self.rig.time.armed <= 3


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_anything_at_any_time_is_defined(seed: int, offload: bool) -> None:
    run = Hostile(seed, offload)
    names = set(run.rig.card.mac.regs)
    for _ in range(OPERATIONS // 2):
        run.operate()
    assert set(run.rig.card.mac.regs) == names
    assert run.longest < 5, "one register access must not keep the machine lock for seconds"
    # and then a good driver comes
    run.rig.card.reset()
    run.rig.card.set_link(True)
    run.rig.card.link_changed(True)
    run.rig.card.write_config(4, 2, 7)
    rig = Rig()
    run.rig.memory = rig.memory
    run.rig.card.mac.transmitter.memory = run.rig.card.mac.receiver.memory = rig.memory  # more RAM, for the driver's layout
    driver = Driver(run.rig)
    driver.reset()
    driver.open()
    run.rig.wire.sent.clear()
    for number in range(40):
        data = frame(bytes([number]) * 80)
        assert driver.send(data) == data
        assert run.rig.card.receive(data)
        assert driver.frames() == [data]


@pytest.mark.parametrize("seed", SEEDS)
def test_only_the_buffers_given_are_written(seed: int) -> None:
    """Everything but ring and buffers keeps its canary, whatever arrives."""
    rng = random.Random(f"canary {seed}")
    rig = Rig()
    rig.memory.write(0, b"\xa5" * (8 << 20))
    driver = Driver(rig)
    size, setting = rng.choice(((2048, 0), (1024, 1), (512, 2), (256, 3)))
    driver.open(c.RCTL_EN | c.RCTL_BAM | c.RCTL_UPE | c.RCTL_MPE | c.RCTL_LPE | setting << c.RCTL_BSIZE_SHIFT, rx_size=size)
    before = bytearray(rig.memory.read(0, 8 << 20))
    for _ in range(300):
        rig.card.receive(rng.randbytes(rng.randrange(14, rng.choice((100, 1514, 9000)))))
        driver.collect()
    after = bytearray(rig.memory.read(0, 8 << 20))
    for index in range(16):
        at = 4 * (1 << 20) + index * 0x4000
        before[at : at + size] = after[at : at + size] = bytes(size)
    before[0x20000:0x20100] = after[0x20000:0x20100] = bytes(256)
    assert before == after


def test_the_most_expensive_doorbell_is_bounded() -> None:
    """A ring of segmentation requests with the smallest MSS that is still taken."""
    rig = Rig()
    driver = Driver(rig, tx_count=4096)
    driver.open()
    size = 0xF000
    mss = -(-(size - 54) // MAX_SEGMENTS)
    data = ipv4_tcp(bytes(size - 54))
    driver.context(ip=(14, 24, 33), tcp=(34, 50, 0), command=7, header=54, mss=mss)
    for _ in range(500):
        driver.data(data, 0x0B | 4, options=3)
    start = time.thread_time()
    driver.ring()
    assert len(rig.wire.sent) <= TURN + MAX_SEGMENTS
    assert time.thread_time() - start < 2
    assert rig.time.armed == 1
