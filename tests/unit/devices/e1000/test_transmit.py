"""From the ring to the wire: descriptor kinds, checksums, segmentation, VLAN tags, bounded work, nonsense."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000 import stats
from pyvmm.devices.e1000.transmit import TURN
from pyvmm.net.frames import complete
from tests.support.e1000_driver import MAC, PEER, TX_RING, Driver, Rig, frame
from tests.support.packets import ipv4_tcp, ipv6_tcp, reference_checksum, udp, valid

EOP, IFCS, IC, TSE, RS, VLE = 1, 2, 4, 4, 8, 0x40
RNG = random.Random(1)
Build = Callable[..., bytes]


def ready(offload: bool = False, tx_count: int = 16) -> tuple[Rig, Driver]:
    rig = Rig(offload)
    driver = Driver(rig, tx_count=tx_count)
    driver.open()
    rig.read(c.ICR)
    return rig, driver


def test_legacy_descriptor() -> None:
    rig, driver = ready()
    data = frame(RNG.randbytes(300))
    index = driver.legacy(data)
    driver.ring()
    assert rig.wire.sent == [data]
    assert driver.done(index)
    assert rig.read(c.TDH) == driver.tx_tail
    assert rig.read(c.ICR) == c.TXDW | c.TXQE


def test_no_report_no_interrupt() -> None:
    rig, driver = ready()
    index = driver.legacy(frame(bytes(60)), EOP | IFCS)
    driver.ring()
    assert not driver.done(index)
    assert rig.read(c.ICR) == c.TXQE


def test_frame_over_several_descriptors_and_doorbells() -> None:
    rig, driver = ready()
    data = frame(RNG.randbytes(900))
    driver.legacy(data[:10], IFCS)
    driver.ring()
    driver.legacy(data[10:14], IFCS | RS)
    driver.data(data[14:500], IFCS)
    driver.ring()
    assert not rig.wire.sent
    driver.legacy(data[500:])
    driver.ring()
    assert rig.wire.sent == [data]


def test_ring_wraps() -> None:
    rig, driver = ready()
    frames = [frame(bytes([number]) * 60) for number in range(50)]
    for each in frames:
        driver.send(each)
    assert rig.wire.sent == frames
    assert rig.read(c.TDH) == 50 % 16


def test_padding() -> None:
    rig, driver = ready()
    assert driver.send(frame(b"x")) == frame(b"x").ljust(60, b"\0")
    rig.write(c.TCTL, c.TCTL_EN)
    assert driver.send(frame(b"x")) == frame(b"x")


def test_a_frame_with_an_fcs_of_the_drivers_own_loses_it() -> None:
    rig, driver = ready()
    driver.legacy(frame(bytes(60)) + b"FCS!", EOP | RS)
    driver.ring()
    assert rig.wire.sent == [frame(bytes(60))]


def test_legacy_checksum() -> None:
    rig, driver = ready()
    whole = udp(b"legacy checksum", checksums=False)
    driver.legacy(whole, EOP | IFCS | RS | IC, css=14, cso=24)
    driver.ring()
    assert reference_checksum(rig.wire.sent[0][14:]) == 0
    for css, cso in ((200, 24), (14, 200), (14, len(whole) - 1)):
        driver.legacy(whole, EOP | IFCS | RS | IC, css=css, cso=cso)
        driver.ring()
        assert rig.wire.sent[-1].startswith(whole)


def seeded(build: Build, payload: bytes, length_too: bool) -> tuple[bytes, int, int]:
    """A packet as Linux hands it over: pseudo header sum in the TCP or UDP field; (packet, transport, field)."""
    data = bytearray(build(payload, checksums=False))
    v6, protocol = data[12] == 0x86, 17 if build is udp else 6
    transport = 54 if v6 else 34
    field = transport + (6 if build is udp else 16)
    pseudo = bytes(data[22:54] if v6 else data[26:34]) + struct.pack(">II", len(data) - transport if length_too else 0, protocol)
    data[field : field + 2] = (~reference_checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    if not length_too:
        data[16:18] = b"\0\0"
        data[18:20] = b"\0\0" if v6 else data[18:20]
    return bytes(data), transport, field


@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp, udp])
@pytest.mark.parametrize("size", [0, 1, 2, 100, 1459, 1460])
def test_checksum_offload(build: Build, size: int) -> None:
    rig, driver = ready()
    payload = RNG.randbytes(size)
    data, transport, field = seeded(build, payload, True)
    ip = build is not ipv6_tcp
    driver.context(ip=(14, 24, 33) if ip else (0, 0, 0), tcp=(transport, field, 0))
    driver.data(data[:40], IFCS, options=3 if ip else 2)
    driver.data(data[40:], options=0)
    driver.ring()
    (sent,) = rig.wire.sent
    assert valid(sent)
    assert sent[: len(data)] == build(payload, checksums=True) or reference_checksum(build(payload)[transport:]) == 0


def test_context_stays_for_later_frames_and_packets_choose() -> None:
    rig, driver = ready()
    data, transport, field = seeded(udp, b"first", True)
    driver.context(ip=(14, 24, 33), tcp=(transport, field, 0))
    driver.data(data, options=3)
    driver.data(data, options=0)
    driver.data(data, options=3)
    driver.ring()
    first, plain, last = (sent[: len(data)] for sent in rig.wire.sent)
    assert valid(first) and first == last
    assert plain == data


def test_context_reports_when_asked() -> None:
    rig, driver = ready()
    index = driver.context(command=RS)
    quiet = driver.context()
    driver.ring()
    assert driver.done(index) and not driver.done(quiet)
    assert rig.read(c.ICR) & c.TXDW


def test_checksum_ends_where_the_context_says() -> None:
    rig, driver = ready()
    data = frame(RNG.randbytes(100))
    driver.context(tcp=(20, 22, 49))
    driver.data(data, options=2)
    driver.ring()
    sent = rig.wire.sent[0]
    assert sent[:22] == data[:22] and sent[24:] == data[24:]
    assert int.from_bytes(sent[22:24], "big") == reference_checksum(data[20:50])


def test_checksum_that_does_not_fit_is_left_out() -> None:
    rig, driver = ready()
    data = frame(RNG.randbytes(100))
    for tcp in ((200, 20, 0), (20, 200, 0), (20, 113, 0), (60, 20, 50)):
        driver.context(ip=tcp, tcp=tcp)
        driver.data(data, options=3)
        driver.ring()
        assert rig.wire.sent[-1] == data


def send_tso(driver: Driver, build: Build, payload: bytes, mss: int, vlan: int = 0, split: int = 100) -> None:
    data, transport, field = seeded(build, payload, False)
    header = transport + 20
    v4 = build is not ipv6_tcp
    driver.context(
        ip=(14, 24 if v4 else 0, transport - 1 if v4 else 0), tcp=(transport, field, 0), command=1 | TSE | (2 if v4 else 0),
        header=header, mss=mss, payload=len(payload),
    )  # fmt: skip
    flags = VLE if vlan else 0
    driver.data(data[:header], IFCS | TSE | flags, options=3 if v4 else 2, special=vlan)
    for at in range(header, len(data), 16000):
        last = at + 16000 >= len(data)
        driver.data(data[at : at + 16000], (EOP | RS if last else 0) | IFCS | TSE | flags, special=vlan)
    driver.ring()


@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp])
@pytest.mark.parametrize(("size", "mss"), [(1, 1460), (1460, 1460), (1461, 1460), (10_000, 1448), (64_000, 1400)])
def test_segmentation(build: Build, size: int, mss: int) -> None:
    rig, driver = ready()
    payload = RNG.randbytes(size)
    send_tso(driver, build, payload, mss)
    header = 54 if build is ipv4_tcp else 74
    sent = rig.wire.sent
    assert len(sent) == -(-size // mss)
    got = b""
    for number, each in enumerate(sent):
        assert valid(each), number
        assert struct.unpack_from(">I", each, header - 16)[0] == 7 + number * mss
        assert each[header - 7] == (0x18 if number == len(sent) - 1 else 0x10)
        got += each[header : header + min(mss, size - number * mss)]
    assert got == payload
    assert rig.read(stats.TSCTC) == 1


def test_segmentation_and_plain_contexts_are_apart() -> None:
    rig, driver = ready()
    data, transport, field = seeded(udp, b"plain", True)
    driver.context(ip=(14, 24, 33), tcp=(transport, field, 0))
    send_tso(driver, ipv4_tcp, bytes(3000), 1460)
    driver.data(data, options=3)
    driver.ring()
    assert len(rig.wire.sent) == 4
    assert all(valid(each) for each in rig.wire.sent)


def test_segmentation_with_vlan_tags() -> None:
    rig, driver = ready()
    rig.write(c.CTRL, rig.read(c.CTRL) | c.CTRL_VME)
    send_tso(driver, ipv4_tcp, bytes(3000), 1000, vlan=0x6123)
    assert len(rig.wire.sent) == 3
    for each in rig.wire.sent:
        assert each[12:16] == b"\x81\0\x61\x23"
        assert valid(each)


@pytest.mark.parametrize(
    ("header", "mss", "ip", "tcp"),
    [
        (54, 0, 14, 34),
        (0, 1000, 14, 34),
        (255, 1000, 14, 34),
        (54, 1000, 200, 34),
        (54, 1000, 14, 250),
        (53, 1000, 14, 34),
        (54, 1, 14, 34),
    ],
)
def test_segmentation_of_nonsense_sends_nothing_and_is_counted(header: int, mss: int, ip: int, tcp: int) -> None:
    rig, driver = ready()
    size = 200 if mss != 1 else 5000
    driver.context(ip=(ip, 24, 33), tcp=(tcp, tcp + 16 & 0xFF, 0), command=3 | TSE, header=header, mss=mss)
    index = driver.data(bytes(size), EOP | IFCS | RS | TSE, options=3)
    driver.ring()
    assert rig.wire.sent == []
    assert driver.done(index)
    assert rig.read(stats.TSCTFC) == 1
    assert driver.send(frame(bytes(60)))


def test_vlan_insertion() -> None:
    rig, driver = ready()
    data = frame(bytes(100))
    driver.legacy(data, EOP | IFCS | RS | VLE, special=0x2005)
    driver.ring()
    assert rig.wire.sent[-1] == data, "VLAN mode is off"
    rig.write(c.CTRL, rig.read(c.CTRL) | c.CTRL_VME)
    driver.legacy(data, EOP | IFCS | RS | VLE, special=0x2005)
    driver.data(data, EOP | IFCS | RS, special=0x2005)
    driver.ring()
    assert rig.wire.sent[-2] == data[:12] + b"\x81\0\x20\x05" + data[12:]
    assert rig.wire.sent[-1] == data


def test_jumbo_frames_and_what_is_beyond() -> None:
    rig, driver = ready()
    data = frame(RNG.randbytes(16000))
    driver.legacy(data[:9000], IFCS)
    driver.legacy(data[9000:])
    driver.ring()
    assert rig.wire.sent == [data]
    driver.data(bytes(60_000))
    driver.ring()
    assert rig.wire.sent == [data]


def test_frame_without_end_is_bounded_and_dropped() -> None:
    rig, driver = ready()
    piece = bytes(60_000)
    for _ in range(40):
        driver.data(piece, IFCS)
        driver.ring()
        assert len(rig.card.mac.transmitter.state.frame) <= 0x1_0100
    index = driver.data(piece)
    driver.ring()
    assert driver.done(index)
    assert not rig.wire.sent
    assert len(rig.card.mac.transmitter.state.frame) == 0
    assert driver.send(frame(bytes(60)))


def test_data_outside_ram_drops_the_frame_only() -> None:
    rig, driver = ready()
    for address in (1 << 40, (1 << 64) - 1, 8 * (1 << 20) - 10):
        index = driver.put(address, 100 | 0x0B << 24)
        driver.ring()
        assert driver.done(index)
    assert not rig.wire.sent
    assert driver.send(frame(bytes(60)))


def test_empty_and_null_descriptors() -> None:
    rig, driver = ready()
    driver.put(0, 100 | 0x0B << 24)
    driver.legacy(b"")
    driver.legacy(frame(bytes(60))[:20], IFCS)
    driver.put(0, 100 | 0x0A << 24)
    driver.put(0x1000, 0x5 << 20 | 0x2B << 24)
    driver.legacy(frame(bytes(60))[20:])
    driver.ring()
    assert rig.wire.sent == [frame(bytes(60))]


@pytest.mark.parametrize(
    ("register", "value"), [(c.TDT, 0x5A5A), (c.TDT, 16), (c.TDH, 16), (c.TDH, 0xFFFF), (c.TDLEN, 0), (c.TDBAH, 1), (c.TDBAH, 0xFFFF_FFFF)]
)
def test_rings_that_make_no_sense_stand_still(register: int, value: int) -> None:
    rig, driver = ready()
    driver.legacy(frame(bytes(60)))
    rig.write(register, value)
    if register != c.TDT:
        driver.ring()
    assert not rig.wire.sent
    driver.open()
    assert driver.send(frame(bytes(60)))


def test_doorbell_is_kept_while_the_transmitter_is_off() -> None:
    rig, driver = ready()
    rig.write(c.TCTL, c.TCTL_PSP)
    driver.legacy(frame(bytes(60)))
    driver.ring()
    assert not rig.wire.sent
    rig.write(c.TCTL, c.TCTL_PSP | c.TCTL_EN)
    assert len(rig.wire.sent) == 1


def test_a_full_ring_is_sent_in_turns() -> None:
    rig = Rig()
    driver = Driver(rig)
    count = 0xF_FF80 // 16
    base = 0x10_0000
    descriptor = struct.pack("<QQ", 0x20_0000 + 0x10_0000, 60 | 0x0B << 24)
    rig.memory.write(base, descriptor * count)
    rig.memory.write(0x30_0000, frame(bytes(46)))
    for offset, value in ((c.TDBAL, base), (c.TDLEN, count * 16), (c.TDH, 5), (c.TDT, 5), (c.TCTL, c.TCTL_EN)):
        rig.write(offset, value)
    rig.write(c.TDT, 4)
    assert len(rig.wire.sent) == TURN
    assert rig.time.armed == 1
    driver.write(c.TDT, 4)
    assert len(rig.wire.sent) == 2 * TURN
    assert rig.time.armed == 1
    rig.time.advance(1)
    assert len(rig.wire.sent) == count - 1
    assert rig.read(c.TDH) == 4
    assert rig.time.armed == 0


def test_reset_in_the_midst_of_turns() -> None:
    rig, driver = ready(tx_count=4096)
    rig.memory.write(TX_RING, struct.pack("<QQ", 0x30_0000, 60 | 0x0B << 24) * 4096)
    rig.write(c.TDT, 4000)
    assert rig.time.armed == 1
    rig.write(c.CTRL, c.CTRL_RST)
    assert rig.time.armed == 0
    sent = len(rig.wire.sent)
    rig.time.advance(10**9)
    assert len(rig.wire.sent) == sent == TURN


def test_statistics() -> None:
    rig, driver = ready()
    sizes = (60, 100, 200, 400, 800, 1500)
    for size in sizes:
        driver.send(frame(bytes(size - 14)))
    driver.send(frame(bytes(50), target=b"\xff" * 6))
    driver.send(frame(bytes(50), target=b"\1" + MAC[1:]))
    total = sum(size + 4 for size in sizes) + 136
    assert [rig.read(stats.COUNTERS[name]) for name in ("GPTC", "TPT", "BPTC", "MPTC")] == [8, 8, 1, 1]
    assert [rig.read(stats.COUNTERS["PTC64"] + at) for at in range(0, 24, 4)] == [1, 3, 1, 1, 1, 1]
    assert rig.read(stats.GOTC) == total
    assert rig.read(stats.GOTC) == total, "the high half clears"
    assert rig.read(stats.GOTC + 4) == 0
    assert rig.read(stats.GOTC) == rig.read(stats.GPTC) == 0
    rig.card.mac.stats.counts[stats.TOT] = 5 << 32 | 7
    assert (rig.read(stats.TOT), rig.read(stats.TOT + 4)) == (7, 5)
    rig.card.mac.stats.counts[stats.GPTC] = 1 << 40
    assert rig.read(stats.GPTC) == 0xFFFF_FFFF


@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp, udp])
def test_checksums_are_left_to_a_wire_that_takes_them(build: Build) -> None:
    rig, driver = ready(offload=True)
    data, transport, field = seeded(build, b"hello", True)
    ip = build is not ipv6_tcp
    driver.context(ip=(14, 24, 33) if ip else (0, 0, 0), tcp=(transport, field, 0))
    driver.data(data, options=3 if ip else 2)
    driver.ring()
    (sent,), (header,) = rig.wire.sent, rig.wire.headers
    assert header is not None and header[0] == 1 and header[1] == 0
    assert not valid(sent)
    (done,) = complete(sent, header)
    assert valid(bytes(done))
    driver.legacy(data)
    driver.ring()
    assert rig.wire.headers[-1] is None


@pytest.mark.parametrize("build", [ipv4_tcp, ipv6_tcp])
@pytest.mark.parametrize("vlan", [0, 5])
def test_segmentation_is_left_to_a_wire_that_takes_it(build: Build, vlan: int) -> None:
    payload = RNG.randbytes(20_000)
    results = []
    for offload in (False, True):
        rig, driver = ready(offload=offload)
        rig.write(c.CTRL, rig.read(c.CTRL) | c.CTRL_VME)
        send_tso(driver, build, payload, 1400, vlan)
        if offload:
            assert len(rig.wire.sent) == 1
            results.append([bytes(each) for each in complete(rig.wire.sent[0], rig.wire.headers[0])])
        else:
            assert len(rig.wire.sent) == 15 and rig.wire.headers == [None] * 15
            results.append(rig.wire.sent)
    assert results[0] == results[1]


def test_what_cannot_be_said_to_the_wire_is_done_here() -> None:
    rig, driver = ready(offload=True)
    data, transport, field = seeded(udp, b"hello", True)
    driver.context(ip=(14, 24, 33), tcp=(transport, field, len(data) - 1))
    driver.data(data, options=3)
    driver.ring()
    assert rig.wire.headers == [None]
    assert valid(rig.wire.sent[0])
    send_tso(driver, ipv4_tcp, bytes(100), 1400)
    assert rig.wire.headers == [None, None]
    assert valid(rig.wire.sent[1])


def test_addresses_of_the_helpers() -> None:
    assert frame()[:12] == MAC + PEER
