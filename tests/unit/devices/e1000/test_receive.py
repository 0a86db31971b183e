"""From the wire into the ring: filters, sizes, tags, FCS, checksums, no buffers, loopback."""

from __future__ import annotations

import random

import pytest

from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000 import stats
from tests.support.e1000_driver import MAC, RX_RING, Driver, Rig, frame
from tests.support.packets import ipv4_tcp, ipv6_tcp, udp, valid

RNG = random.Random(2)
ON = c.RCTL_EN | c.RCTL_BAM
OTHER = bytes.fromhex("020000000009")
BROADCAST = b"\xff" * 6


def ready(rctl: int = ON, rx_size: int = 2048, rx_count: int = 16) -> tuple[Rig, Driver]:
    rig = Rig()
    driver = Driver(rig, rx_count=rx_count)
    driver.open(rctl, rx_size=rx_size)
    rig.read(c.ICR)
    return rig, driver


def accepted(rig: Rig, driver: Driver, data: bytes) -> bool:
    assert rig.card.receive(data)
    got = driver.frames()
    assert got in ([], [data])
    return bool(got)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_frame_arrives(kind: type) -> None:
    rig, driver = ready()
    data = frame(RNG.randbytes(300))
    assert rig.card.receive(kind(data))
    assert driver.collect() == [(data, 7, 0, 0)]
    assert rig.read(c.RDH) == 1
    assert rig.read(c.ICR) == c.RXT0


def test_many_frames_around_the_ring() -> None:
    rig, driver = ready()
    for number in range(100):
        data = frame(number.to_bytes(2, "big") + RNG.randbytes(RNG.randrange(46, 1500)))
        assert rig.card.receive(data)
        assert driver.frames() == [data]


@pytest.mark.parametrize("secrc", [0, c.RCTL_SECRC])
def test_length_with_and_without_fcs(secrc: int) -> None:
    rig, driver = ready(ON | secrc)
    rig.card.receive(frame(bytes(86)))
    assert int.from_bytes(rig.memory.read(RX_RING + 8, 2), "little") == (100 if secrc else 104)
    assert driver.frames() == [frame(bytes(86))]


def test_short_frames_are_padded_and_no_frames_at_all_are_dropped() -> None:
    rig, driver = ready()
    assert rig.card.receive(frame(b"x"))
    assert driver.frames() == [frame(b"x").ljust(60, b"\0")]
    for size in range(14):
        assert rig.card.receive(frame()[:size])
    assert driver.frames() == []
    assert rig.read(stats.RUC) == 14


# --- filters ---------------------------------------------------------------------------------------------------------
def test_unicast_broadcast_promiscuous() -> None:
    rig, driver = ready(c.RCTL_EN)
    assert accepted(rig, driver, frame(bytes(50)))
    assert not accepted(rig, driver, frame(bytes(50), OTHER))
    assert not accepted(rig, driver, frame(bytes(50), BROADCAST))
    rig.write(c.RCTL, c.RCTL_EN | c.RCTL_BAM)
    assert accepted(rig, driver, frame(bytes(50), BROADCAST))
    assert not accepted(rig, driver, frame(bytes(50), b"\1" + OTHER[1:]))
    rig.write(c.RCTL, c.RCTL_EN | c.RCTL_UPE)
    assert accepted(rig, driver, frame(bytes(50), OTHER))
    assert not accepted(rig, driver, frame(bytes(50), BROADCAST))
    rig.write(c.RCTL, c.RCTL_EN | c.RCTL_MPE)
    assert accepted(rig, driver, frame(bytes(50), BROADCAST))
    assert accepted(rig, driver, frame(bytes(50), b"\1" + OTHER[1:]))


@pytest.mark.parametrize("index", range(16))
def test_every_receive_address(index: int) -> None:
    rig, driver = ready()
    low, high = int.from_bytes(OTHER[:4], "little"), int.from_bytes(OTHER[4:], "little")
    rig.write(c.RA + 8 * index, low)
    rig.write(c.RA + 8 * index + 4, high)
    assert not accepted(rig, driver, frame(bytes(50), OTHER))
    rig.write(c.RA + 8 * index + 4, high | c.RAH_VALID)
    assert accepted(rig, driver, frame(bytes(50), OTHER))
    rig.write(c.RA + 8 * index + 4, high | c.RAH_VALID | 1 << 16)
    assert not accepted(rig, driver, frame(bytes(50), OTHER))


@pytest.mark.parametrize("mo", range(4))
def test_multicast_hash(mo: int) -> None:
    rig, driver = ready(c.RCTL_EN | mo << c.RCTL_MO_SHIFT)
    for _ in range(20):
        address = bytes([RNG.getrandbits(8) | 1]) + RNG.randbytes(5)
        bits = int.from_bytes(address, "little")  # bit 0 is the first on the wire
        lowest = (36, 35, 34, 32)[mo]
        number = bits >> lowest & 0xFFF
        assert not accepted(rig, driver, frame(bytes(50), address))
        rig.write(c.MTA + 4 * (number // 32), 1 << number % 32)
        assert accepted(rig, driver, frame(bytes(50), address))
        rig.write(c.MTA + 4 * (number // 32), ~(1 << number % 32) & 0xFFFF_FFFF)
        assert not accepted(rig, driver, frame(bytes(50), address))
        rig.write(c.MTA + 4 * (number // 32), 0)


def tagged(tag: int, payload: bytes = bytes(50)) -> bytes:
    plain = frame(payload)
    return plain[:12] + b"\x81\0" + tag.to_bytes(2, "big") + plain[12:]


def test_vlan_filter() -> None:
    rig, driver = ready(ON | c.RCTL_VFE)
    assert accepted(rig, driver, frame(bytes(50)))
    assert not accepted(rig, driver, tagged(77))
    rig.write(c.VFTA + 4 * (77 // 32), 1 << 77 % 32)
    assert accepted(rig, driver, tagged(77))
    assert accepted(rig, driver, tagged(0xF000 | 77))
    assert not accepted(rig, driver, tagged(78))
    rig.write(c.RCTL, ON | c.RCTL_VFE | c.RCTL_CFIEN)
    assert accepted(rig, driver, tagged(77)) and not accepted(rig, driver, tagged(0x1000 | 77))
    rig.write(c.RCTL, ON | c.RCTL_VFE | c.RCTL_CFIEN | c.RCTL_CFI)
    assert not accepted(rig, driver, tagged(77)) and accepted(rig, driver, tagged(0x1000 | 77))
    assert not accepted(rig, driver, tagged(77)[:15])


def test_vlan_tag_is_taken_off() -> None:
    rig, driver = ready()
    rig.write(c.CTRL, rig.read(c.CTRL) | c.CTRL_VME)
    rig.card.receive(tagged(0x6123))
    rig.card.receive(frame(bytes(50)))
    assert driver.collect() == [(frame(bytes(50)), 0xF, 0, 0x6123), (frame(bytes(50)), 7, 0, 0)]
    rig.write(c.VET, 0x88A8)
    assert accepted(rig, driver, tagged(5))


def test_pause_frames_end_in_the_mac() -> None:
    rig, driver = ready(ON | c.RCTL_MPE)
    for register, value in ((c.FCAL, 0x00C2_8001), (c.FCAH, 0x0100), (c.FCT, 0x8808), (c.CTRL, rig.read(c.CTRL) | c.CTRL_RFCE)):
        rig.write(register, value)
    address = bytes.fromhex("0180c2000001")
    assert not accepted(rig, driver, frame(b"\0\1\xff\xff" + bytes(42), address, kind=0x8808))
    assert not accepted(rig, driver, frame(b"\0\1\0\0" + bytes(42), address, kind=0x8808))
    assert accepted(rig, driver, frame(b"\0\2\0\0" + bytes(42), address, kind=0x8808))
    assert (rig.read(stats.XOFFRXC), rig.read(stats.XONRXC)) == (1, 1)
    rig.write(c.RCTL, ON | c.RCTL_MPE | c.RCTL_PMCF)
    assert accepted(rig, driver, frame(b"\0\1\0\0" + bytes(42), address, kind=0x8808))


# --- sizes -----------------------------------------------------------------------------------------------------------
def test_long_frames() -> None:
    rig, driver = ready()
    assert accepted(rig, driver, frame(bytes(1504)))
    assert not accepted(rig, driver, frame(bytes(1505)))
    assert rig.read(stats.ROC) == 1
    rig.write(c.RCTL, ON | c.RCTL_LPE)
    for size in (1505, 9000, 16366):
        assert accepted(rig, driver, frame(RNG.randbytes(size)))
    assert not accepted(rig, driver, frame(bytes(16367)))


SIZES = [(0, 0, 2048), (0, 1, 1024), (0, 2, 512), (0, 3, 256), (1, 1, 16384), (1, 2, 8192), (1, 3, 4096)]


@pytest.mark.parametrize(("bsex", "bsize", "size"), SIZES)
@pytest.mark.parametrize("secrc", [0, c.RCTL_SECRC])
def test_buffer_sizes_and_frames_over_several(bsex: int, bsize: int, size: int, secrc: int) -> None:
    rctl = ON | c.RCTL_LPE | secrc | bsex * c.RCTL_BSEX | bsize << c.RCTL_BSIZE_SHIFT
    rig, driver = ready(rctl, size, rx_count=128)
    for length in (size - 5, size - 4, size - 3, size, size + 1, 2 * size - 4, 3 * size):
        if length > c.JUMBO_LIMIT:
            continue
        data = frame(RNG.randbytes(length - 14))
        before = rig.read(c.RDH)
        assert rig.card.receive(data)
        assert rig.read(c.RDH) - before & 127 == -(-(length + (0 if secrc else 4)) // size)
        assert driver.frames() == [data], length


def test_frame_that_no_ring_could_hold_is_dropped_not_waited_for() -> None:
    rig, driver = ready(ON | c.RCTL_LPE | 3 << c.RCTL_BSIZE_SHIFT, 256, rx_count=8)
    assert rig.card.receive(frame(bytes(1800)))
    assert not driver.frames()
    assert rig.read(stats.ROC) == 1
    assert rig.card.receive(frame(bytes(1700)))
    assert driver.frames() == [frame(bytes(1700))]


# --- no buffers ------------------------------------------------------------------------------------------------------
def test_refuses_without_buffers_and_goes_on_with_them() -> None:
    rig, driver = ready()
    for number in range(15):
        assert rig.card.receive(frame(bytes([number]) * 50))
    assert not rig.card.receive(frame(b"late" * 20))
    assert not rig.card.receive(frame(b"late" * 20))
    assert rig.read(stats.RNBC) == 1
    assert rig.wire.resumed == 0
    assert rig.card.receive(frame(bytes(50), OTHER)), "not ours anyway"
    assert len(driver.frames(refill=False)) == 15
    rig.write(c.RDT, 10)
    assert rig.wire.resumed == 1
    assert rig.card.receive(frame(b"late" * 20))
    rig.write(c.RDT, 11)
    assert rig.wire.resumed == 1
    assert driver.frames(refill=False) == [frame(b"late" * 20)]


def test_large_frame_waits_for_all_its_buffers() -> None:
    rig, driver = ready(ON | c.RCTL_LPE, rx_count=8)
    rig.write(c.RDT, 2)
    assert not rig.card.receive(frame(bytes(5000)))
    assert rig.read(c.RDH) == 0
    rig.write(c.RDT, 3)
    assert rig.wire.resumed == 1
    assert rig.card.receive(frame(bytes(5000)))
    assert driver.frames(refill=False) == [frame(bytes(5000))]


@pytest.mark.parametrize("act", ["reset", "off", "unplug", "master", "power"])
def test_a_waiting_wire_is_told_whatever_ends_the_wait(act: str) -> None:
    rig, _ = ready()
    rig.write(c.RDT, 0)
    assert not rig.card.receive(frame(bytes(50)))
    if act == "reset":
        rig.write(c.CTRL, c.CTRL_RST)
    elif act == "off":
        rig.write(c.RCTL, 0)
    elif act == "unplug":
        rig.card.set_link(False)
    elif act == "master":
        rig.card.write_config(4, 2, 3)
    else:
        rig.card.reset()
    assert rig.wire.resumed == 1
    assert rig.card.receive(frame(bytes(50)))


def test_few_buffers_left_is_told() -> None:
    for setting, share in ((0, 2), (1, 4), (2, 8)):
        rig, _ = ready(ON | setting << c.RCTL_RDMTS_SHIFT)
        left = 15
        while left:
            assert rig.card.receive(frame(bytes(50)))
            left -= 1
            assert bool(rig.read(c.ICR) & c.RXDMT0) == (left <= 16 // share)


@pytest.mark.parametrize(
    ("register", "value"),
    [(c.RDT, 16), (c.RDT, 0xFFFF), (c.RDH, 16), (c.RDH, 0xFFFF), (c.RDLEN, 0), (c.RDBAH, 1), (c.RDBAH, 0xFFFF_FFFF), (c.RDLEN, 0xF_FF80)],
)
def test_rings_that_make_no_sense_have_no_buffers(register: int, value: int) -> None:
    rig, driver = ready()
    rig.write(register, value)
    if (register, value) == (c.RDLEN, 0xF_FF80):
        rig.write(c.RDBAL, (8 << 20) - 256)
    assert not rig.card.receive(frame(bytes(50)))
    driver.open()
    assert rig.wire.resumed >= 1
    assert accepted(rig, driver, frame(bytes(50)))


def test_buffers_outside_ram_lose_the_frame_and_null_ones_are_given_back() -> None:
    rig, driver = ready(ON | c.RCTL_LPE)
    rig.memory.write(RX_RING, (1 << 40).to_bytes(8, "little"))
    rig.memory.write(RX_RING + 16, bytes(8))
    rig.memory.write(RX_RING + 64, (1 << 63).to_bytes(8, "little"))
    assert rig.card.receive(frame(bytes(50)))
    assert rig.read(c.RDH) == 1
    assert rig.card.receive(frame(bytes(50)))
    assert rig.read(c.RDH) == 3
    assert [rig.memory.read(RX_RING + 16 * index + 12, 1)[0] for index in range(4)] == [7, 1, 7, 0]
    assert rig.card.receive(frame(bytes(5000)))
    assert [rig.memory.read(RX_RING + 16 * index + 12, 1)[0] for index in range(3, 7)] == [1, 1, 7, 0]
    for index in range(16):
        rig.memory.write(RX_RING + 16 * index, bytes(8))
    assert not rig.card.receive(frame(bytes(50)))


# --- checksums -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("build", "status"), [(ipv4_tcp, 0x63), (udp, 0x63), (ipv6_tcp, 0x23)])
def test_checksums_are_looked_at_and_reported_when_asked_for(build, status: int) -> None:  # type: ignore[no-untyped-def]
    rig, driver = ready()
    good = build(bytes(100))
    rig.card.receive(good)
    rig.write(c.RXCSUM, c.RXCSUM_IPOFL | c.RXCSUM_TUOFL)
    bad = good[:-1] + b"!"
    for data in (good, bad):
        rig.card.receive(data)
    assert [each[1:3] for each in driver.collect()] == [(7, 0), (status, 0), (status, 0x20)]
    rig.write(c.RXCSUM, c.RXCSUM_IPOFL)
    rig.card.receive(bad[:20] + b"\x11" + bad[21:])
    assert driver.collect()[0][1:3] == ((7, 0) if build is ipv6_tcp else (0x43, 0x40))
    rig.card.receive(frame(bytes(50)))
    assert driver.collect()[0][1:3] == (7, 0)


def test_a_frame_left_unfinished_by_its_sender_is_finished() -> None:
    rig, driver = ready()
    large = ipv4_tcp(RNG.randbytes(4000), checksums=False)
    header = bytes([1, 1]) + (54).to_bytes(2, "little") + (1400).to_bytes(2, "little") + (34).to_bytes(2, "little") + bytes([16, 0, 0, 0])
    assert rig.card.receive(large, header)
    got = driver.frames()
    assert len(got) == 3
    assert all(valid(each) for each in got)
    assert rig.card.receive(frame(bytes(50)), bytes(12))
    assert driver.frames() == [frame(bytes(50))]
    rig.write(c.RDT, rig.read(c.RDH) + 2 & 15)
    assert rig.card.receive(large, header)
    assert len(driver.frames(refill=False)) == 2
    assert rig.read(stats.MPC) == 1
    assert not rig.card.receive(large, header)


# --- loopback --------------------------------------------------------------------------------------------------------
def test_phy_loopback_as_linux_sets_it_up() -> None:
    rig = Rig()
    driver = Driver(rig, tx_count=256, rx_count=256)
    driver.reset()
    driver.open()
    for number, value in ((16, 0x0808), (0, 0x9140), (0, 0x8140), (0, 0x4140)):
        driver.phy_write(number, value)
    ctrl = rig.read(c.CTRL) & ~0x300
    rig.write(c.CTRL, ctrl | c.CTRL_FRCSPD | c.CTRL_FRCDPX | 0x200 | c.CTRL_FD | 1 << 7)
    for number, value in ((29, 0x1F), (30, 0x8FFC), (29, 0x1A), (30, 0x8FF0)):
        driver.phy_write(number, value)
    assert driver.phy(0) == 0x4140
    assert driver.phy(29) == 0x1A
    data = b"\xff" * 512 + b"\xaa" * 512
    for _ in range(10):
        for _ in range(64):
            driver.legacy(data, 0x13)
        driver.ring()
    assert len(driver.frames(refill=False)) == 255, "the driver never gives buffers back"
    assert rig.read(stats.MPC) == 640 - 255
    assert rig.wire.sent == []
    assert rig.card.receive(frame(bytes(50))), "the wire is cut off"
    assert rig.wire.resumed == 0
    driver.phy_write(0, driver.phy(0) & ~0x4000)
    driver.reset()
    driver.open()
    assert driver.send(frame(bytes(50))) == frame(bytes(50))


@pytest.mark.parametrize("mode", [1, 3])
def test_mac_loopback(mode: int) -> None:
    rig, driver = ready(ON | mode << c.RCTL_LBM_SHIFT)
    driver.legacy(frame(bytes(60)))
    driver.ring()
    assert driver.frames() == [frame(bytes(60))]
    assert not rig.wire.sent


def test_loopback_finishes_what_would_be_left_to_the_wire() -> None:
    rig = Rig(offload=True)
    driver = Driver(rig)
    driver.open(ON | 1 << c.RCTL_LBM_SHIFT)
    whole = udp(b"loop" * 10)
    seed = whole[:40] + (0x1234).to_bytes(2, "big") + whole[42:]
    driver.context(ip=(14, 24, 33), tcp=(34, 40, 0))
    driver.data(seed, options=2)
    driver.ring()
    (got,) = driver.frames()
    assert got[:40] == whole[:40] and got[42:] == whole[42:]
    assert got[40:42] != seed[40:42]


def test_statistics() -> None:
    rig, driver = ready()
    for size in (60, 100, 200, 400, 800, 1500):
        rig.card.receive(frame(bytes(size - 14)))
    rig.card.receive(frame(bytes(50), BROADCAST))
    rig.card.receive(frame(bytes(50), OTHER))
    driver.frames()
    assert [rig.read(stats.COUNTERS[name]) for name in ("GPRC", "TPR", "BPRC", "MPRC", "MPC")] == [7, 8, 1, 0, 0]
    assert [rig.read(stats.COUNTERS["PRC64"] + at) for at in range(0, 24, 4)] == [1, 2, 1, 1, 1, 1]
    assert rig.read(stats.TOR) - rig.read(stats.GORC) == 68


def test_address_of_the_card() -> None:
    assert frame()[:6] == MAC
