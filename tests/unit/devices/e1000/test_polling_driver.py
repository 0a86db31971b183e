"""A boot loader's driver (iPXE's intel, for one): no interrupts, ICR polled, small rings half filled, FCS stripped."""

from __future__ import annotations

import struct

from pyvmm.devices.e1000 import constants as c
from tests.support.e1000_driver import MAC, RX_BUFFERS, RX_RING, TX_RING, Driver, Rig, frame

COUNT, FILL, SLOT = 16, 8, 2048


def reset(rig: Rig) -> None:
    """CTRL.RST, then what it thinks a sensible configuration; it wants the link up at once, or it resets the PHY as well."""
    ctrl = rig.read(c.CTRL)
    rig.write(c.CTRL, ctrl | c.CTRL_RST)
    rig.write(c.CTRL, (ctrl | 1 << 5 | c.CTRL_SLU) & ~(1 << 3 | c.CTRL_FRCSPD | c.CTRL_FRCDPX))
    assert rig.read(c.STATUS) & c.STATUS_LU


def test_polled_from_reset_to_traffic_and_back() -> None:
    rig = Rig()
    reset(rig)
    assert rig.read(c.RA).to_bytes(4, "little") + (rig.read(c.RA + 4) & 0xFFFF).to_bytes(2, "little") == MAC
    rig.write(c.EERD, 1)
    assert rig.read(c.EERD) & 0x12 == 0x10
    for base, ring in ((c.TDBAL, TX_RING), (c.RDBAL, RX_RING)):
        rig.memory.write(ring, bytes(16 * COUNT))
        for offset, value in ((0, ring), (4, 0), (8, 16 * COUNT), (0x10, 0), (0x18, 0)):
            rig.write(base + offset, value)
        control = base + 0x28
        rig.write(control, rig.read(control) | 1 << 25)
        assert rig.read(control) >> 25 & 1
    rig.write(c.TCTL, rig.read(c.TCTL) & ~0x3F_FFF0 | c.TCTL_EN | c.TCTL_PSP | 0x4_00F0)
    rctl = c.RCTL_EN | c.RCTL_UPE | c.RCTL_MPE | c.RCTL_BAM | c.RCTL_SECRC
    rig.write(c.RCTL, rctl)
    assert not rig.card.receive(frame(bytes(46))), "no buffers yet: the wire waits"

    produced = consumed = 0

    def refill() -> None:
        nonlocal produced
        while produced - consumed < FILL:
            slot = produced % COUNT
            rig.memory.write(RX_RING + 16 * slot, struct.pack("<QQ", RX_BUFFERS + slot * SLOT, 0))
            produced += 1
        rig.write(c.RDT, produced % COUNT)

    def poll() -> list[bytes]:
        nonlocal consumed
        if not rig.read(c.ICR) & (c.RXT0 | c.RXO):
            return []
        got = []
        while consumed != produced:
            address, length, _, status, _, _ = struct.unpack("<QHHBBH", rig.memory.read(RX_RING + 16 * (consumed % COUNT), 16))
            if not status & 1:
                break
            got.append(rig.memory.read(address, length))
            consumed += 1
        refill()
        return got

    refill()
    assert rig.wire.resumed == 1
    for number in range(50):
        data = frame(bytes([number]) * 46)
        assert rig.card.receive(data)
        assert poll() == [data]
        assert poll() == []
        rig.memory.write(0x30_0000, data)
        rig.memory.write(TX_RING + 16 * (number % COUNT), struct.pack("<QQ", 0x30_0000, len(data) | 0x0B << 24))
        rig.write(c.TDT, (number + 1) % COUNT)
        assert rig.read(c.ICR) & c.TXDW
        assert rig.memory.read(TX_RING + 16 * (number % COUNT) + 12, 1) == b"\1"
        assert rig.wire.sent[-1] == data
    for _ in range(FILL):
        assert rig.card.receive(frame(bytes(46)))
    assert not rig.card.receive(frame(bytes(46)))
    assert len(poll()) == FILL
    assert rig.wire.resumed == 2
    assert rig.line.changes == []

    rig.write(c.RCTL, 0)
    rig.write(c.TCTL, 0)
    for control in (c.RXDCTL, c.TXDCTL):
        rig.write(control, 0)
        assert rig.read(control) == 0
    reset(rig)
    driver = Driver(rig)
    driver.reset()
    driver.open()
    assert driver.send(frame(bytes(46))) == frame(bytes(46))
