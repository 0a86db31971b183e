"""The tracer of virtio-net: what it says, that it changes nothing, and that nothing of it stays."""

from __future__ import annotations

from pyvmm.devices.virtio import net_features as f
from pyvmm.devices.virtio import net_trace
from pyvmm.devices.virtio.net import RX, TX
from tests.support.net_driver import NetRig, header, seeded
from tests.support.network import frame
from tests.support.packets import ipv4_tcp, udp


def test_a_packets_way_is_told_and_then_no_more() -> None:
    rig = NetRig()
    before = set(vars(rig.device))
    lines: list[str] = []
    detach = net_trace.attach(rig.device, lines.append)
    rig.start()
    assert not rig.device.receive(frame(1))
    rig.post(5, 512)
    rig.loop.run_pending()
    assert rig.device.receive(frame(1, 600))
    assert not rig.device.receive(frame(1, 2000))
    rig.send(header(1, 0, 0, 0, 34, 6), seeded(udp(b"hello"), 40, 17))
    rig.send(header(1, 1, 54, 1000, 34, 16) + seeded(ipv4_tcp(b"x" * 1500)))
    rig.send(b"short")
    rig.command(b"\x00\x00\x00")
    rig.device.receive(b"\x02" * 6 + frame(1)[6:])
    rig.device.receive(bytes(5))
    text = "\n".join(lines)
    for words in (
        "net starts: features 0x", "link up", "net rx no buffers: the wire waits",
        "net rx[0] head 0: 0x", "+512w", "net rx used: head 0 512 bytes, head 1 100 bytes written, index 2", "not used after all: 3",
        "net rx interrupt", "net tx[0] head 0: 0x", "+12r 0x", "+47r", "tx 59 bytes, header: checksum from 34 at 40; 02:",
        "IPv4 10.0.2.15 > 10.0.2.2 UDP 1 > 2", "to the wire: 47 bytes, IP checksum right, TCP/UDP checksum right",
        "TCPv4 segments of 1000 behind 54", "to the wire 2: 554 bytes", "net tx used: head 0, 0 bytes written, index 1", "net tx interrupt",
        "tx dropped: impossible", "control class 0 command 0 data 00: done", "rx filtered", "rx dropped",
    ):  # fmt: skip
        assert words in text, f"{words}\n{text}"
    assert len(rig.wire.sent) == 3
    detach()
    count = len(lines)
    assert set(vars(rig.device)) == before
    assert rig.device.backend is rig.wire
    assert not any(callable(value) for index in (RX, TX) for value in vars(rig.device.queues[index]).values())
    rig.send(bytes(12) + frame(1))
    assert len(lines) == count
    assert rig.wire.sent[-1] == frame(1)


def test_a_running_card_can_be_listened_to() -> None:
    rig = NetRig(offload=True)
    rig.start(without=f.MRG_RXBUF, buffers=1)
    lines: list[str] = []
    detach = net_trace.attach(rig.device, lines.append)
    rig.tx.add(header(1, 1, 54, 1000, 34, 16), seeded(ipv4_tcp(b"x" * 1500)), indirect=True)
    rig.driver.kick(TX)
    rig.loop.run_pending()
    assert rig.driver.reset_queue(TX)
    rig.tx.clear()
    rig.driver.setup(TX, rig.tx)
    rig.send(bytes(12) + frame(1))
    rig.device.receive(frame(1))
    text = "\n".join(lines)
    for words in ("left to it: checksum from 34 at 50, TCPv4", "+32i", "net tx[0] head 0", "net rx used: head 0, 72 bytes written"):
        assert words in text, f"{words}\n{text}"
    detach()


def test_chains_in_words() -> None:
    assert net_trace.descriptors([(0x1000, 12, 0), (0x2000, 60, 2)]) == "0x1000+12r 0x2000+60w"
    assert net_trace.descriptors([(0, 1, 0)] * 30).endswith("and 6 more")
