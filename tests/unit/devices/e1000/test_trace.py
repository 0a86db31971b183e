"""The tracer: what it says, and that nothing of it stays."""

from __future__ import annotations

from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000 import trace
from tests.support.e1000_driver import LINUX_INTERRUPTS, Driver, Rig, frame
from tests.support.packets import udp


def test_a_packets_way_is_told_and_then_no_more() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    parts = (rig.card.mac.transmitter, rig.card.mac.receiver, rig.card.mac.interrupts)
    before = [set(vars(part)) for part in parts]
    lines: list[str] = []
    detach = trace.attach(rig.card, lines.append)
    driver.context(ip=(14, 24, 33), tcp=(34, 40, 0))
    driver.data(udp(b"hello"), options=3)
    driver.legacy(frame(bytes(50)), 0x4F, css=14, cso=20)
    driver.ring()
    rig.card.receive(frame(bytes(50)))
    rig.card.receive(frame(bytes(50), target=b"\2\0\0\0\0\7"))
    rig.write(c.RDT, 1)
    rig.card.receive(frame(bytes(50)))
    rig.read(c.ICR)
    text = "\n".join(lines)
    for words in (
        "tx[0] tail 3: context IP 14+24..33, TCP/UDP 34+40..0", "tx[1] tail 3: data ", "IP checksum at 24, TCP/UDP checksum from 34 at 40",
        "tx[2] tail 3: legacy ", "EOP RS VLE IC", "checksum from 14 at 20", "asserted: ICR TXDW", "rx[0..1) tail 15", "rx filtered",
        "rx no descriptors (head 1, tail 1)", "interrupt released", "02:00:00:00:00:01 > 52:54:00:12:34:56 type 88b5 64 bytes",
    ):  # fmt: skip
        assert words in text, words
    detach()
    count = len(lines)
    assert [set(vars(part)) for part in parts] == before
    driver.send(frame(bytes(50)))
    assert len(lines) == count


def test_tracers_stack() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    first: list[str] = []
    second: list[str] = []
    detach_first = trace.attach(rig.card, first.append)
    detach_second = trace.attach(rig.card, second.append)
    driver.send(frame(bytes(50)))
    assert first == second != []
    detach_second()
    driver.send(frame(bytes(50)))
    assert len(first) > len(second)
    detach_first()
    assert "step" not in vars(rig.card.mac.transmitter)


def test_descriptors_in_words() -> None:
    assert trace.descriptor(0x1000, 60 | 1 << 24 | 1 << 29 | 1 << 20 | 1 << 26) == "data 0x1000+60 EOP TSE"
    assert trace.descriptor(0, 1 << 29 | 7 << 20) == "reserved type 0x0+0"
    assert trace.causes(0) == "none"
    assert trace.causes(1 << 5 | 1) == "TXDW|bit5"
