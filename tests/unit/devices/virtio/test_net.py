"""virtio-net: frames both ways, what is left undone and who does it, flow control."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.devices.virtio import net
from pyvmm.devices.virtio import net_features as f
from pyvmm.devices.virtio.core import DRIVER_OK, EVENT_IDX, NEEDS_RESET, VERSION_1
from pyvmm.devices.virtio.net import RX, TX, NetOptions
from pyvmm.devices.virtio.net_buffers import HEADER
from tests.support.net_driver import NetRig, header, seeded
from tests.support.network import frame
from tests.support.packets import MAC, PEER, ipv4_tcp, ipv6_tcp, udp, valid
from tests.support.virtio import MmioDriver, PciDriver

PLAIN = bytes(HEADER)
ONE = bytes(10) + b"\x01\x00"


# --- registers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", [PciDriver, MmioDriver])
def test_configuration_space(transport: Any) -> None:
    rig = NetRig(transport=transport, options=NetOptions(mtu=1400))
    device = rig.device
    assert bytes(device.read_config(at, 1) for at in range(6)) == MAC
    assert device.read_config(6, 2) == 1
    assert device.read_config(8, 2) == 1
    assert device.read_config(10, 2) == 1400
    assert device.read_config(100, 4) == 0
    device.write_config(0, 4, 0)
    assert device.read_config(0, 4) == int.from_bytes(MAC[:4], "little")


def test_a_wire_without_offload_offers_what_is_done_here() -> None:
    offered = NetRig().driver.offered()
    assert offered & f.SOFTWARE == f.SOFTWARE
    assert not offered & (f.WIRE | f.MTU)


def test_a_wire_with_offload_offers_large_frames() -> None:
    assert NetRig(offload=True).driver.offered() & f.WIRE == f.WIRE


def test_options_take_features_away_and_what_needs_them() -> None:
    rig = NetRig(offload=True, options=NetOptions(without=f.CSUM | f.CTRL_VQ | f.GUEST_CSUM, rx_size=64, tx_size=128))
    offered = rig.driver.offered()
    assert not offered & (f.HOST_TSO4 | f.HOST_ECN | f.CTRL_MAC_ADDR | f.CTRL_RX | f.GUEST_TSO4 | f.GUEST_ECN | f.GUEST_ANNOUNCE)
    assert rig.device.queue_sizes == (64, 128)
    rig.start(buffers=1)
    assert rig.device.receive(frame(1))


@pytest.mark.parametrize(
    "chosen",
    [f.HOST_TSO4, f.CSUM | f.HOST_ECN, f.GUEST_TSO4, f.GUEST_CSUM | f.GUEST_ECN, f.CTRL_RX, f.CTRL_MAC_ADDR, f.CTRL_VQ | f.CTRL_RX_EXTRA],
    ids=hex,
)
def test_features_without_what_they_need_are_refused(chosen: int) -> None:
    assert not NetRig(offload=True).driver.negotiate(VERSION_1 | chosen) & 8


# --- transmit ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", [PciDriver, MmioDriver])
@pytest.mark.parametrize("cuts", [(), (12,), (5,), (12, 26), (1, 13, 20, 40)], ids=str)
def test_frames_go_out_however_they_are_cut(transport: Any, cuts: tuple[int, ...]) -> None:
    rig = NetRig(transport=transport)
    rig.start()
    data = PLAIN + frame(1, 200)
    edges = (0, *cuts, len(data))
    rig.send(*(data[a:b] for a, b in zip(edges, edges[1:], strict=False)))
    assert rig.wire.sent == [frame(1, 200)]
    assert rig.wire.headers == [None]
    assert [written for _, written in rig.tx.collect()] == [0]
    assert rig.driver.interrupts() & 1


@pytest.mark.parametrize("packet", [udp(b"x" * 100, checksums=False), udp(b"y" * 101, checksums=False)])
def test_a_checksum_left_to_the_card(packet: bytes) -> None:
    rig = NetRig()
    rig.start()
    wanted = udp(packet[42:])
    whole = seeded(wanted, 40, 17)
    rig.send(header(1, 0, 0, 0, 34, 6) + whole)
    assert rig.wire.sent == [wanted]
    assert valid(rig.wire.sent[0])


@pytest.mark.parametrize(("make", "kind", "start"), [(ipv4_tcp, 1, 34), (ipv6_tcp, 4, 54)])
@pytest.mark.parametrize("size", [1, 1000, 1001, 9999, 60_000])
def test_large_tcp_frames_are_cut_in_software(make: Any, kind: int, start: int, size: int) -> None:
    rig = NetRig()
    rig.start()
    payload = bytes(range(256)) * 240
    rig.send(header(1, kind, start + 20, 1000, start, 16), seeded(make(payload[:size]), start + 16))
    assert len(rig.wire.sent) == -(-size // 1000)
    assert all(valid(each) for each in rig.wire.sent)
    assert b"".join(each[start + 20 :] for each in rig.wire.sent) == payload[:size]
    assert rig.device.counts.sent == 1


def test_a_wire_with_offload_gets_the_header() -> None:
    rig = NetRig(offload=True)
    rig.start()
    packet = seeded(ipv4_tcp(b"x" * 5000))
    rig.send(header(1, 1, 54, 1000, 34, 16)[:10] + b"\xff\xff", packet)
    assert rig.wire.sent == [packet]
    assert rig.wire.headers == [header(1, 1, 54, 1000, 34, 16)]
    rig.send(PLAIN + frame(2))
    assert rig.wire.headers[1] is None


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    "lie",
    [
        header(1, 1, 54, 0, 34, 16),  # segments of nothing
        header(0, 1, 54, 1000, 34, 16),  # segments without checksums
        header(1, 3, 54, 1000, 34, 16),  # UDP fragments were not offered
        header(1, 5, 42, 1000, 34, 6),
        header(1, 0x80, 0, 0, 34, 16),  # not a kind, but congestion
        header(1, 7, 54, 1000, 34, 16),
    ],
    ids=bytes.hex,
)
def test_headers_that_lie_are_dropped(offload: bool, lie: bytes) -> None:
    rig = NetRig(offload=offload)
    rig.start(without=f.HOST_ECN)
    rig.send(lie, ipv4_tcp(b"x" * 3000))
    assert not rig.wire.sent
    assert rig.device.counts.tx_dropped == 1
    assert len(rig.tx.collect()) == 1
    rig.send(PLAIN + frame(2))
    assert rig.wire.sent == [frame(2)]


@pytest.mark.parametrize(
    "lie",
    [
        header(1, 0, 0, 0, 5000, 16), header(1, 0, 0, 0, 34, 5000), header(1, 0, 0, 0, 0xFFFF, 0xFFFF),
        header(1, 1, 54, 1, 34, 16), header(1, 1, 54, 1000, 4000, 16), header(1, 4, 54, 1000, 34, 16), header(1, 1, 0, 1000, 0, 0),
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_work_beyond_the_frame_is_dropped(lie: bytes) -> None:
    rig = NetRig()
    rig.start()
    rig.send(lie, ipv4_tcp(b"x" * 3000))
    assert len(rig.wire.sent) <= 3
    assert rig.device.counts.tx_dropped + len(rig.wire.sent) >= 1


def test_offloads_that_were_not_negotiated_are_dropped() -> None:
    rig = NetRig()
    rig.start(only=VERSION_1)
    rig.send(header(1, 0, 0, 0, 34, 6) + udp(b"x"))
    rig.send(header(1, 1, 54, 100, 34, 16) + ipv4_tcp(b"x" * 300))
    assert not rig.wire.sent
    assert rig.device.counts.tx_dropped == 2


@pytest.mark.parametrize("size", [0, 1, 11, 12, 25, HEADER + net.MAX_FRAME + 1])
def test_impossible_lengths_are_dropped(size: int) -> None:
    rig = NetRig()
    rig.start()
    rig.send(*([bytes(size)] if size else [b""]))
    assert not rig.wire.sent
    assert len(rig.tx.collect()) == 1
    assert not rig.driver.status() & NEEDS_RESET


def test_work_per_doorbell_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "TURN", 10)
    rig = NetRig()
    rig.start()
    for number in range(30):
        rig.tx.add(PLAIN + frame(number))
    served: list[int] = []
    serve = rig.device.serve
    rig.device.serve = lambda index: (served.append(len(rig.wire.sent)), serve(index))[1]  # type: ignore[method-assign, func-returns-value]
    rig.driver.kick(TX)
    rig.loop.run_pending()
    assert served[:3] == [0, 10, 20]
    assert rig.wire.sent == [frame(number) for number in range(30)]


def test_one_interrupt_for_a_batch_and_none_unless_wanted() -> None:
    rig = NetRig()
    rig.start(without=EVENT_IDX)
    rings: list[int | None] = []
    signal = rig.device.signals.queue
    rig.device.signals.queue = lambda index: (rings.append(index), signal(index))[1]  # type: ignore[func-returns-value]
    for number in range(20):
        rig.tx.add(PLAIN + frame(number))
    rig.driver.kick(TX)
    rig.loop.run_pending()
    assert rings == [TX]
    rig.tx.set_no_interrupt(True)
    rig.send(PLAIN + frame(1))
    assert rings == [TX]


def test_a_buffer_outside_ram_breaks_the_device() -> None:
    rig = NetRig()
    rig.start()
    rig.tx.add_buffers([(1 << 40, 100, False)])
    rig.driver.kick(TX)
    rig.loop.run_pending()
    assert rig.driver.status() & NEEDS_RESET
    rig.start()
    rig.send(PLAIN + frame(1))
    assert rig.wire.sent == [frame(1)]


# --- receive ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", [PciDriver, MmioDriver])
@pytest.mark.parametrize("mergeable", [False, True])
@pytest.mark.parametrize("parts", [(2048,), (12, 2048), (10, 20, 2000), (12, 1500, 12)], ids=str)
def test_frames_come_in(transport: Any, mergeable: bool, parts: tuple[int, ...]) -> None:
    rig = NetRig(transport=transport)
    rig.start(without=0 if mergeable else f.MRG_RXBUF)
    rig.post(3, *parts)
    sizes = (60, 1499, 1512)
    for size in sizes:
        assert rig.device.receive(memoryview(frame(size, size)))
    assert rig.received() == [(ONE, frame(size, size)) for size in sizes]
    assert rig.driver.interrupts() & 1
    assert rig.device.counts.received == 3


@pytest.mark.parametrize("size", [500, 501, 1012, 9000, 30_000])
def test_a_frame_over_several_buffers(size: int) -> None:
    rig = NetRig()
    rig.start(buffers=63, size=512)
    assert rig.device.receive(frame(1, size))
    count = -(-(size + HEADER) // 512)
    ((head, data),) = rig.received()
    assert data == frame(1, size)
    assert head == bytes(10) + count.to_bytes(2, "little")


def test_all_parts_of_a_frame_are_given_back_at_once() -> None:
    rig = NetRig()
    rig.start(buffers=8, size=512)
    queue = rig.device.queues[RX]
    assert queue is not None
    queue.push = lambda *_: pytest.fail("seen before the rest")  # type: ignore[method-assign]
    assert rig.device.receive(frame(1, 2000))
    assert rig.rx.used_index == 4


def test_without_merging_a_frame_fits_or_is_dropped() -> None:
    rig = NetRig()
    rig.start(without=f.MRG_RXBUF, buffers=2, size=1526)
    assert rig.device.receive(frame(1, 1515))
    assert not rig.received()
    assert rig.device.counts.rx_dropped == 1
    assert rig.device.receive(frame(2, 1514))
    assert rig.received() == [(ONE, frame(2, 1514))]


def test_no_buffers_means_wait_and_a_kick_means_go_on() -> None:
    for features in (0, EVENT_IDX):
        rig = NetRig()
        rig.start(without=features, buffers=1)
        assert rig.device.receive(frame(1))
        assert not rig.device.receive(frame(2))
        assert not rig.device.receive(frame(2))
        rig.loop.run_pending()
        assert rig.wire.resumed == 0
        rig.post(1, 2048)
        rig.loop.run_pending()
        assert rig.wire.resumed == 1
        assert rig.device.receive(frame(2))
        assert [data for _, data in rig.received()] == [frame(1), frame(2)]


def test_buffers_are_not_rung_for_while_there_are_some() -> None:
    rig = NetRig()
    rig.start(without=EVENT_IDX, buffers=4)
    assert rig.rx.no_notify
    assert rig.device.receive(frame(1))
    assert rig.rx.no_notify


def test_too_few_buffers_to_merge_wait_untouched() -> None:
    rig = NetRig()
    rig.start(buffers=3, size=512)
    assert not rig.device.receive(frame(1, 1600))
    assert rig.rx.used_index == 0
    rig.post(1, 512)
    rig.loop.run_pending()
    assert rig.wire.resumed == 1
    assert rig.device.receive(frame(1, 1600))
    assert rig.received()[0][1] == frame(1, 1600)


def test_a_frame_longer_than_all_buffers_is_not_waited_for() -> None:
    rig = NetRig(size=8)
    rig.start(buffers=8, size=128)
    assert rig.device.receive(frame(1, 1514))
    assert rig.device.counts.rx_dropped == 1
    assert rig.device.receive(frame(2, 900))
    assert rig.received()[0][1] == frame(2, 900)


@pytest.mark.parametrize("parts", [(11,), (b"read only",)], ids=str)
def test_a_buffer_without_room_for_the_header_breaks_the_device(parts: tuple[Any, ...]) -> None:
    rig = NetRig()
    rig.start()
    rig.post(1, *parts)
    assert rig.device.receive(frame(1))
    assert rig.driver.status() & NEEDS_RESET
    assert rig.device.receive(frame(1)), "and then nobody is there"


def test_nobody_there_drops() -> None:
    rig = NetRig()
    assert rig.device.receive(frame(1))
    assert rig.device.counts.rx_dropped == 1
    rig.start(buffers=1)
    rig.driver.set_status(0)
    assert rig.device.receive(frame(1))
    assert rig.device.counts.rx_dropped == 2


def test_a_reset_lets_the_wire_go_on() -> None:
    rig = NetRig()
    rig.start()
    assert not rig.device.receive(frame(1))
    rig.driver.set_status(0)
    assert rig.wire.resumed == 1


def test_a_queue_reset_lets_the_wire_go_on_and_the_queue_works_again() -> None:
    rig = NetRig()
    rig.start()
    assert not rig.device.receive(frame(1))
    assert rig.driver.reset_queue(RX)
    assert rig.wire.resumed == 1
    assert rig.device.receive(frame(1))
    rig.rx.clear()
    rig.driver.setup(RX, rig.rx)
    rig.loop.run_pending()
    rig.post(1, 2048)
    assert rig.device.receive(frame(3))
    assert rig.received() == [(ONE, frame(3))]


def test_the_mtu_that_was_told_holds() -> None:
    rig = NetRig(options=NetOptions(mtu=1000))
    rig.start(buffers=2)
    assert rig.device.receive(frame(1, 1019))
    assert rig.device.receive(frame(2, 1018))
    assert rig.received() == [(ONE, frame(2, 1018))]


# --- frames with work left, from a tap --------------------------------------------------------------------------------
def test_unfinished_frames_are_passed_on_to_a_driver_that_takes_them() -> None:
    rig = NetRig(offload=True)
    rig.start(buffers=8)
    assert rig.wire.flags == 0xF
    packet = seeded(ipv4_tcp(b"x" * 5000))
    assert rig.device.receive(packet, header(1, 1, 54, 1000, 34, 16))
    ((head, data),) = rig.received()
    assert data == packet
    assert head == header(1, 1, 54, 1000, 34, 16)[:10] + b"\x03\x00"


def test_unfinished_frames_are_finished_for_a_driver_that_does_not() -> None:
    rig = NetRig(offload=True)
    rig.start(without=f.GUEST_CSUM | f.GUEST_TSO4 | f.GUEST_TSO6 | f.GUEST_ECN | f.CTRL_GUEST_OFFLOADS, buffers=8)
    assert rig.wire.flags == 0
    assert rig.device.receive(seeded(ipv4_tcp(b"x" * 2500)), header(1, 1, 54, 1000, 34, 16))
    got = rig.received()
    assert len(got) == 3
    assert all(head == ONE and valid(data) for head, data in got)
    assert rig.device.receive(udp(b"x"), header(2))
    assert rig.received() == [(ONE, udp(b"x"))]


def test_what_cannot_be_finished_is_dropped() -> None:
    rig = NetRig(offload=True)
    rig.start(without=f.GUEST_TSO4 | f.GUEST_ECN, buffers=8)
    assert rig.device.receive(ipv4_tcp(b"x" * 2500), header(1, 1, 54, 0, 34, 16))
    assert rig.device.counts.rx_dropped == 1
    assert not rig.received()


def test_buffers_that_end_amid_a_cut_frame() -> None:
    rig = NetRig(offload=True)
    rig.start(without=f.GUEST_TSO4 | f.GUEST_ECN, buffers=2)
    assert rig.device.receive(seeded(ipv4_tcp(b"x" * 2500)), header(1, 1, 54, 1000, 34, 16))
    assert len(rig.received()) == 2
    assert rig.device.counts.rx_dropped == 1
    assert not rig.device.receive(seeded(ipv4_tcp(b"x" * 2500)), header(1, 1, 54, 1000, 34, 16)), "none of it: again"


# --- link, snapshot ---------------------------------------------------------------------------------------------------
def test_the_link_follows_cable_and_wire() -> None:
    rig = NetRig()
    rig.start(buffers=2)
    device = rig.device
    changes: list[None] = []
    config = device.signals.config
    device.signals.config = lambda: (changes.append(None), config())[1]  # type: ignore[func-returns-value]
    device.set_link(False)
    assert device.read_config(6, 2) == 0
    assert rig.driver.interrupts() & 2
    rig.send(PLAIN + frame(1))
    assert not rig.wire.sent
    assert device.receive(frame(1))
    assert not rig.received()
    device.link_changed(False)
    device.set_link(True)
    assert len(changes) == 1, "the link was down all the time"
    device.link_changed(True)
    assert len(changes) == 2
    assert device.read_config(6, 2) == 1
    assert device.receive(frame(1))
    assert rig.received()


def test_a_frame_that_waits_is_dropped_when_the_cable_is_pulled() -> None:
    rig = NetRig()
    rig.start()
    assert not rig.device.receive(frame(1))
    rig.device.set_link(False)
    assert rig.wire.resumed == 1
    assert rig.device.receive(frame(1))


def test_announcing() -> None:
    rig = NetRig()
    rig.device.announce()
    assert rig.device.read_config(6, 2) == 1, "nobody to ask"
    rig.start()
    rig.device.announce()
    assert rig.device.read_config(6, 2) == 3
    assert rig.driver.interrupts() & 2
    assert rig.command(b"\x03\x00") == 0
    assert rig.device.read_config(6, 2) == 1


# --- control ----------------------------------------------------------------------------------------------------------
def test_receive_mode_is_obeyed() -> None:
    rig = NetRig()
    rig.start(buffers=10)
    other = PEER + frame(1)[6:]
    assert rig.device.receive(other)
    assert len(rig.received()) == 1, "a driver that says nothing sees everything"
    assert rig.command(b"\x00\x00", b"\x00") == 0
    assert rig.device.receive(other)
    assert not rig.received()
    assert rig.device.counts.filtered == 1
    assert rig.device.receive(MAC + other[6:])
    assert rig.device.receive(b"\xff" * 6 + other[6:])
    rig.driver.set_status(0)
    rig.start(buffers=1)
    assert rig.device.receive(other)
    assert rig.received(), "a reset forgets"


def test_a_new_address_is_seen_and_forgotten() -> None:
    rig = NetRig()
    rig.start(buffers=4)
    rig.command(b"\x00\x00\x00")
    assert rig.command(b"\x01\x01" + PEER) == 0
    assert rig.device.read_config(0, 6) == int.from_bytes(PEER, "little")
    assert rig.device.receive(PEER + frame(1)[6:])
    assert len(rig.received()) == 1
    rig.driver.set_status(0)
    assert rig.device.read_config(0, 6) == int.from_bytes(MAC, "little")


def test_offloads_are_turned_off_and_on() -> None:
    rig = NetRig(offload=True)
    rig.start()
    assert rig.command(b"\x05\x00" + f.GUEST_CSUM.to_bytes(8, "little")) == 0
    assert rig.wire.flags == 1
    assert rig.command(b"\x05\x00" + (1 << 30).to_bytes(8, "little")) == 1
    assert rig.wire.flags == 1
    rig.driver.set_status(0)
    assert rig.wire.flags == 0


@pytest.mark.parametrize("command", [b"\x09\x00", b"\x00", b"\x00" * net.COMMAND_MAX + b"\0", b"\x04\x00\x02\x00"], ids=len)
def test_unknown_commands_are_answered(command: bytes) -> None:
    rig = NetRig()
    rig.start()
    assert rig.command(command) == 1
    assert not rig.driver.status() & NEEDS_RESET


def test_a_command_without_room_for_an_answer_breaks_the_device() -> None:
    rig = NetRig()
    rig.start()
    rig.control.add(b"\x00\x00\x00")
    rig.driver.kick(2)
    rig.loop.run_pending()
    assert rig.driver.status() & NEEDS_RESET


def test_a_snapshot_goes_on_where_it_stood() -> None:
    rig = NetRig()
    rig.start()
    rig.command(b"\x00\x00\x00")
    rig.command(b"\x01\x01" + PEER)
    state = type(rig.device.state)(**dict(rig.device.state))
    core, memory = rig.driver.core, rig.memory
    core.save()
    saved = core.state
    again = NetRig()
    again.memory.write(0, memory.read(0, 8 << 20))
    again.device.state = state
    again.driver.core.state = saved
    again.driver.core.restored()
    assert again.driver.status() & DRIVER_OK
    assert again.device.receive(frame(1))
    assert again.device.counts.filtered == 1, "the receive mode is the old one"
    again.rx.next_avail = rig.rx.next_avail
    again.post(1, 2048)
    assert again.device.receive(PEER + frame(1)[6:])
    assert len(again.received()) == 1


def test_a_burst_of_frames_is_one_interrupt() -> None:
    rig = NetRig()
    rig.start(buffers=8, without=1 << 29)  # without EVENT_IDX every one would be wanted
    told: list[int] = []
    rig.device.signals.queue = told.append
    rig.device.burst(True)
    for _ in range(3):
        assert rig.device.receive(bytes(60))
        assert not told
    rig.device.burst(False)
    assert told == [RX]
    assert len(rig.received()) == 3
    rig.device.burst(True)
    rig.device.burst(False)
    assert told == [RX]


def test_the_wire_is_told_when_all_is_sent() -> None:
    rig = NetRig()
    rig.start()
    order: list[str] = []
    send = rig.wire.send
    rig.wire.send = lambda frame, header=None: (order.append("send"), send(frame, header))  # type: ignore[method-assign,assignment,return-value]
    rig.wire.flush = lambda: order.append("flush")  # type: ignore[method-assign]
    rig.tx.add(header(0) + bytes(60))
    rig.tx.add(header(0) + bytes(60))
    rig.driver.kick(TX)
    rig.loop.run_pending()
    assert order == ["send", "send", "flush"]
