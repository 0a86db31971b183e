"""What both transports share, seen through each of them. Sections: Virtio specification 1.2."""

from __future__ import annotations

import errno
import os
import time

import pytest

from pyvmm.devices.virtio import core as virtio
from pyvmm.devices.virtio import doorbells
from pyvmm.devices.virtio.core import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    EVENT_IDX,
    FAILED,
    FEATURES_OK,
    INDIRECT_DESC,
    NEEDS_RESET,
    RING_RESET,
    VERSION_1,
)
from pyvmm.devices.virtio.queue import DESC_NEXT
from pyvmm.errors import PyvmmError
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.ring import FakeLoop, Ring
from tests.support.virtio import OK, Driver, Echo, MmioDriver, PciDriver

TRANSPORTS = {"mmio": MmioDriver, "pci": PciDriver}
RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK


class Rig:
    """An Echo behind a transport, and a driver with two rings."""

    def __init__(self, transport: str) -> None:
        self.memory = GuestMemory(2 * MIB)
        self.loop = FakeLoop()
        self.device = Echo(self.loop)
        self.driver: Driver = TRANSPORTS[transport](self.device, self.memory)
        self.core = self.driver.core
        self.rings = [Ring(self.memory, 8), Ring(self.memory, 16, base=0x2_0000, buffers=0x8_0000, buffers_end=0xC_0000)]

    def start(self, features: int | None = None) -> None:
        self.driver.start(dict(enumerate(self.rings)), features)
        self.loop.run_pending()

    def echo(self, index: int = 0, data: bytes = b"hello", *, indirect: bool = False) -> None:
        """One request, all the way: it must succeed."""
        ring = self.rings[index]
        head = ring.add(data, len(data) + 1, indirect=indirect)
        _, buffers = ring.chains[head]
        if ring.wants_kick():
            self.driver.kick(index)
        self.loop.run_pending()
        assert ring.collect() == [(head, len(data) + 1)]
        assert ring.written(buffers) == data + bytes([OK])


@pytest.fixture(params=list(TRANSPORTS))
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


# --- 2.1, 2.2, 3.1.1 negotiation --------------------------------------------------------------------------------------


def test_2_2_offered_features(rig: Rig) -> None:
    assert rig.driver.offered() == Echo.features | INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET


@pytest.mark.parametrize("features", [3, 1, 0, INDIRECT_DESC, EVENT_IDX | 1])
def test_3_1_1_the_whole_way(rig: Rig, features: int) -> None:
    rig.start(VERSION_1 | features)
    assert rig.driver.status() == RUNNING
    assert (rig.device.log, rig.device.negotiated) == (["stop None", "reset", "start"], VERSION_1 | features)
    for number in range(20):
        rig.echo(number % 2, bytes([number]) * number, indirect=bool(features & INDIRECT_DESC))
    assert rig.device.state.served == 20


@pytest.mark.parametrize("features", [3, VERSION_1 | 1 << 5, VERSION_1 | 1 << 33, VERSION_1 | 1 << 63, VERSION_1 | 2, 0])
def test_2_2_2_what_cannot_be_accepted(rig: Rig, features: int) -> None:
    """Without VERSION_1, with what was not offered, with a dependency that is not met."""
    assert not rig.driver.negotiate(features) & FEATURES_OK
    rig.driver.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
    assert rig.driver.status() == ACKNOWLEDGE | DRIVER, "no running without FEATURES_OK"
    rig.driver.set_status(ACKNOWLEDGE | DRIVER | FAILED)
    assert rig.driver.status() == ACKNOWLEDGE | DRIVER | FAILED
    rig.start()
    rig.echo()


def test_a_second_try_with_other_features(rig: Rig) -> None:
    assert not rig.driver.negotiate(3) & FEATURES_OK
    rig.driver.choose(VERSION_1)
    rig.driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert rig.driver.status() & FEATURES_OK


def test_2_2_features_are_settled_with_features_ok(rig: Rig) -> None:
    assert rig.driver.negotiate(VERSION_1) & FEATURES_OK
    rig.driver.choose(VERSION_1 | EVENT_IDX)
    assert rig.core.state.driver_features == VERSION_1


def test_2_1_1_bits_are_never_cleared_but_by_a_reset(rig: Rig) -> None:
    rig.start()
    rig.driver.set_status(ACKNOWLEDGE)
    assert rig.driver.status() == RUNNING
    rig.driver.set_status(0xFF & ~FAILED)
    assert rig.driver.status() == RUNNING, "NEEDS_RESET and what is reserved are not the driver's"
    rig.driver.set_status(0)
    assert rig.driver.status() == 0


# --- queues -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3, 32, 0x8000, 0xFFFF])
def test_impossible_sizes_are_ignored(rig: Rig, size: int) -> None:
    rig.driver.negotiate()
    rig.core.state.queue_select = 0
    rig.core.set_size(4)
    rig.core.set_size(size)
    assert rig.core.state.queues[0].size == 4


def test_an_enabled_queue_keeps_its_registers(rig: Rig) -> None:
    rig.start()
    before = [queue.replace() for queue in rig.core.state.queues]
    for index in (0, 1):
        rig.core.state.queue_select = index
        rig.core.set_size(2)
        assert rig.core.configurable() is None
        rig.core.enable_queue()
    assert rig.core.state.queues == before
    rig.echo()


def test_queues_that_do_not_exist(rig: Rig) -> None:
    rig.start()
    for index in (2, 0x7FF, 0xFFFF):
        rig.core.state.queue_select = index
        assert rig.core.size_max() == 0
        assert rig.core.selected() is None
        rig.core.enable_queue()
        rig.core.reset_queue()
        assert not rig.core.queue_resetting()
        rig.core.kick(index)
    rig.loop.run_pending()
    rig.echo()


def test_a_queue_the_driver_leaves_out(rig: Rig) -> None:
    rig.driver.start({1: rig.rings[1]})
    rig.driver.kick(0)
    rig.echo(1)
    assert rig.device.queues[0] is None


def test_3_1_1_kicks_before_driver_ok_are_remembered(rig: Rig) -> None:
    rig.driver.negotiate()
    for index, ring in enumerate(rig.rings):
        ring.event_idx = True
        rig.driver.setup(index, ring)
        ring.add(b"early", 6)
        rig.driver.kick(index)
    rig.loop.run_pending()
    assert rig.device.state.served == 0
    rig.driver.set_status(RUNNING)
    rig.loop.run_pending()
    assert rig.device.state.served == 2


def test_a_queue_enabled_late_runs_at_once(rig: Rig) -> None:
    rig.driver.start({0: rig.rings[0]})
    rig.rings[1].event_idx = True
    rig.rings[1].add(b"waiting", 8)
    rig.driver.setup(1, rig.rings[1])
    rig.loop.run_pending()
    assert rig.device.log[-1] == "queue 1 started"
    assert len(rig.rings[1].collect()) == 1
    rig.echo(1)


# --- 2.1.2 NEEDS_RESET --------------------------------------------------------------------------------------------------


def damage_index(rig: Rig) -> None:
    rig.rings[0].avail_index = 0x4000


def damage_head(rig: Rig) -> None:
    rig.rings[0].publish(0x1234)


def damage_chain(rig: Rig) -> None:
    rig.rings[0].set_descriptor(0, 0x5000, 1, DESC_NEXT, 0)
    rig.rings[0].publish(0)


def damage_status_byte(rig: Rig) -> None:
    rig.rings[0].add_buffers([(1 << 40, 1, True)])


@pytest.mark.parametrize("damage", [damage_index, damage_head, damage_chain, damage_status_byte])
def test_a_broken_ring_needs_a_reset(rig: Rig, damage) -> None:
    rig.start()
    rig.driver.interrupts()
    rig.rings[1].add(b"never", 6)
    damage(rig)
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert rig.driver.status() == RUNNING | NEEDS_RESET
    assert rig.core.trouble.startswith("queue 0: ")
    assert rig.driver.interrupts() & 2, "a configuration change interrupt tells the driver"
    served = rig.device.state.served
    for index in (0, 1):
        rig.driver.kick(index)
    rig.loop.run_pending()
    assert (rig.device.state.served, rig.rings[1].used_index) == (served, 0), "nothing is served any more"
    rig.start()
    assert rig.driver.status() == RUNNING
    rig.echo(0)
    rig.echo(1)


@pytest.mark.parametrize(("where", "value"), [("desc", 0x1001), ("used", 0x1002), ("avail", 1), ("desc", 2 * MIB), ("used", 1 << 63)])
def test_ring_addresses_that_cannot_be(rig: Rig, where: str, value: int) -> None:
    """Neither at DRIVER_OK nor for a queue that is enabled late."""
    good = getattr(rig.rings[0], where)
    rig.driver.negotiate()
    setattr(rig.rings[0], where, value)
    rig.driver.setup(0, rig.rings[0])
    rig.driver.set_status(RUNNING)
    rig.loop.run_pending()
    assert rig.driver.status() == RUNNING | NEEDS_RESET
    assert "start" not in rig.device.log
    rig.driver.start({1: rig.rings[1]})
    rig.loop.run_pending()
    assert rig.driver.status() == RUNNING
    rig.driver.setup(0, rig.rings[0])
    rig.loop.run_pending()
    assert rig.driver.status() == RUNNING | NEEDS_RESET
    setattr(rig.rings[0], where, good)
    rig.start()
    rig.echo(0)


def test_needs_reset_is_silent_before_driver_ok(rig: Rig) -> None:
    rig.driver.negotiate()
    rig.core.broken("a reason")
    assert rig.driver.status() == ACKNOWLEDGE | DRIVER | FEATURES_OK | NEEDS_RESET
    assert rig.driver.interrupts() == 0
    rig.driver.set_status(0)
    rig.core.broken("after the reset")
    assert rig.driver.status() == 0, "a device that has no driver has nobody to ask for a reset"


def test_host_without_descriptors(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(doorbells.os, "eventfd", none_left)
    rig.start()
    assert rig.driver.status() == RUNNING | NEEDS_RESET
    monkeypatch.undo()
    rig.start()
    rig.echo()


def test_host_without_room_in_epoll(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(rig.loop, "add_reader", full)
    rig.start()
    assert rig.driver.status() == RUNNING | NEEDS_RESET
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    rig.start()
    rig.echo()


def test_a_queue_that_starts_while_another_breaks_does_not_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.driver.start({0: rig.rings[0]})
    rig.loop.run_pending()
    rig.rings[1].event_idx = True
    rig.rings[1].clear()
    rig.rings[1].add(b"x", 2)
    monkeypatch.setattr(rig.device, "queue_started", lambda index, queue: rig.device.signals.broken("queue 0, just now"))
    rig.driver.setup(1, rig.rings[1])
    monkeypatch.undo()
    rig.driver.kick(1)
    rig.loop.run_pending()
    assert rig.rings[1].used_index == 0


# --- 2.4 reset ----------------------------------------------------------------------------------------------------------


def test_2_4_1_reset_puts_everything_back(rig: Rig) -> None:
    fresh = rig.core.state.replace(queues=[queue.replace() for queue in rig.core.state.queues])
    rig.start()
    rig.echo()
    rig.driver.set_status(0)
    assert rig.driver.status() == 0
    assert rig.core.state == fresh
    assert rig.driver.level == 0  # type: ignore[attr-defined]
    assert rig.driver.interrupts() == 0
    assert rig.device.log[-2:] == ["stop None", "reset"]
    assert rig.device.queues == rig.core.queues == [None, None]


def test_2_4_2_reset_waits_for_what_is_in_flight(rig: Rig) -> None:
    rig.start()
    rig.device.hold = True
    ring = rig.rings[0]
    ring.add(b"slow", 5)
    rig.driver.kick(0)
    rig.loop.run_pending()
    before = time.monotonic()
    rig.driver.set_status(0)
    assert time.monotonic() - before < 20 * virtio.PATIENCE
    for _ in range(3):
        assert rig.driver.status() == RUNNING
    rig.driver.set_status(ACKNOWLEDGE)
    rig.driver.set_status(0)
    rig.driver.kick(0)
    rig.driver.kick(1)
    rig.loop.run_pending()
    assert rig.driver.status() == RUNNING
    assert (ring.used_index, rig.device.log.count("reset")) == (0, 1)
    rig.device.finish()
    assert ring.used_index == 1, "until the reset is complete, the rings are the device's"
    assert rig.driver.status() == 0
    rig.device.hold = False
    rig.start()
    rig.echo()


def test_2_4_2_reset_waits_for_a_serve_that_is_under_way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.start()
    seen = []

    def serve(index: int) -> None:
        rig.driver.set_status(0)  # as a vCPU would, while the device's thread is here
        seen.append(rig.driver.status())
        rig.device.signals.kick(index)

    monkeypatch.setattr(rig.device, "serve", serve)
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert seen == [RUNNING]
    assert rig.driver.status() == 0


def test_a_device_may_find_the_driver_broken_elsewhere(rig: Rig) -> None:
    """A worker, for example, which has no caller that catches a QueueError."""
    rig.start()
    rig.device.signals.broken("a reason")
    assert rig.driver.status() == RUNNING | NEEDS_RESET
    assert rig.core.trouble == "a reason"
    assert rig.driver.interrupts() == 2


def test_nothing_is_served_between_reset_and_driver_ok(rig: Rig) -> None:
    rig.start()
    rig.driver.set_status(0)
    for ring in rig.rings:
        ring.add(b"x", 2)
    content = rig.memory.read(0, 2 * MIB)
    for index in (0, 1):
        os.eventfd_write(rig.core.doorbells.eventfds[index], 1)  # as KVM's ioeventfd would
        rig.driver.kick(index)
    rig.loop.run_pending()
    assert rig.memory.read(0, 2 * MIB) == content


def test_signals_after_reset_raise_nothing(rig: Rig) -> None:
    rig.start()
    rig.driver.set_status(0)
    rig.device.signals.queue(0)
    rig.device.signals.config()
    rig.device.signals.serve(0)
    rig.device.signals.kick(0)
    rig.core.raise_isr(1)
    assert rig.driver.interrupts() == 0
    assert rig.driver.level == 0  # type: ignore[attr-defined]


def test_a_thousand_resets_leave_no_descriptor(rig: Rig) -> None:
    rig.start()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        rig.start()
    assert len(os.listdir("/proc/self/fd")) == before
    rig.core.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
    assert rig.loop.readers == {}


# --- 2.6.1 queue reset ----------------------------------------------------------------------------------------------------


def test_2_6_1_queue_reset_and_again(rig: Rig) -> None:
    rig.start()
    rig.echo(0)
    assert rig.driver.reset_queue(0)
    assert rig.core.state.queues[0] == virtio.QueueState(size=16)
    rig.rings[0].add(b"not yet", 8)
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert rig.rings[0].used_index == 1
    rig.echo(1)
    rig.rings[0].clear()
    rig.driver.setup(0, rig.rings[0])
    rig.loop.run_pending()
    rig.echo(0)
    assert rig.device.log[-2:] == ["stop 0", "queue 0 started"]


def test_2_6_1_queue_reset_waits_for_what_is_in_flight(rig: Rig) -> None:
    rig.start()
    rig.device.hold = True
    rig.rings[0].add(b"slow", 5)
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert not rig.driver.reset_queue(0)
    assert not rig.driver.reset_queue(0)
    rig.core.enable_queue()
    rig.device.hold = False
    rig.echo(1)
    rig.device.finish()
    assert rig.driver.reset_queue(0)
    rig.rings[0].clear()
    rig.driver.setup(0, rig.rings[0])
    rig.loop.run_pending()
    rig.echo(0)


def test_a_reset_of_all_while_one_queue_resets(rig: Rig) -> None:
    rig.start()
    rig.device.hold = True
    rig.rings[0].add(b"slow", 5)
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert not rig.driver.reset_queue(0)
    rig.driver.set_status(0)
    assert rig.driver.status() == RUNNING
    rig.device.finish()
    rig.device.hold = False
    assert rig.driver.status() == 0
    rig.start()
    rig.echo(0)


# --- interrupts and configuration -------------------------------------------------------------------------------------


def test_a_queue_interrupt_and_its_acknowledgement(rig: Rig) -> None:
    rig.start()
    rig.rings[0].set_used_event(0)
    rig.echo()
    assert rig.driver.level == 1  # type: ignore[attr-defined]
    assert rig.driver.interrupts() == 1
    assert rig.driver.level == 0  # type: ignore[attr-defined]
    assert rig.driver.interrupts() == 0


def test_2_5_configuration_changes(rig: Rig) -> None:
    rig.device.signals.config()
    rig.driver.negotiate()
    rig.device.signals.config()
    assert rig.driver.interrupts() == 0, "2.4.1: no notifications before DRIVER_OK"
    rig.start()
    before = rig.core.state.config_generation
    for number in range(300):
        rig.device.signals.config()
        assert rig.core.state.config_generation == (before + 1 + number) & 0xFF
    assert rig.driver.interrupts() == 2


def test_serve_on_behalf_of_the_host(rig: Rig) -> None:
    """Console input: the device has something to say without a doorbell, and the ring may be broken."""
    rig.start()
    rig.rings[0].add(b"x", 2)
    rig.device.signals.serve(0)
    assert rig.rings[0].used_index == 1
    damage_index(rig)
    rig.device.signals.serve(0)
    assert rig.driver.status() & NEEDS_RESET


def test_a_device_can_ring_its_own_doorbell(rig: Rig) -> None:
    rig.start()
    rig.rings[0].add(b"x", 2)
    rig.device.signals.kick(0)
    assert rig.rings[0].used_index == 0, "later"
    rig.loop.run_pending()
    assert rig.rings[0].used_index == 1


def test_errors_of_the_device_itself_are_not_the_drivers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.start()

    def bug(index: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.device, "serve", bug)
    rig.driver.kick(0)
    with pytest.raises(ZeroDivisionError):
        rig.loop.run_pending()
    monkeypatch.undo()
    rig.driver.set_status(0)
    assert rig.driver.status() == 0, "a call that raised is not under way for ever"


# --- doorbells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", list(TRANSPORTS))
def test_kvm_that_refuses_an_ioeventfd_costs_exits_only(transport: str) -> None:
    def refuse(*_: object) -> None:
        raise PyvmmError("no room on the bus")

    memory, loop = GuestMemory(2 * MIB), FakeLoop()
    driver = TRANSPORTS[transport](Echo(loop), memory, bind=refuse)
    ring = Ring(memory, 8)
    driver.start({0: ring})
    loop.run_pending()
    ring.add(b"x", 2)
    driver.kick(0)
    loop.run_pending()
    assert ring.used_index == 1
    driver.core.close()


# --- snapshots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", list(TRANSPORTS))
def test_a_saved_device_goes_on_where_it_stood(transport: str) -> None:
    rig = Rig(transport)
    rig.start()
    for number in range(21):
        rig.echo(number % 2)
    rig.core.save()
    loop = FakeLoop()
    twin = TRANSPORTS[transport](Echo(loop), rig.memory)
    twin.core.state = rig.core.state.replace(queues=[queue.replace() for queue in rig.core.state.queues])
    if isinstance(twin, PciDriver):
        assert isinstance(rig.driver, PciDriver)
        twin.function.state.config[:] = rig.driver.function.state.config
    twin.core.restored()
    loop.run_pending()
    assert twin.level == rig.driver.level  # type: ignore[attr-defined]
    rig.driver, rig.loop = twin, loop
    rig.echo(0)
    rig.echo(1)


@pytest.mark.parametrize("transport", list(TRANSPORTS))
def test_the_same_device_goes_back_to_where_it_stood(transport: str) -> None:
    rig = Rig(transport)
    rig.start()
    rig.echo(0)
    rig.core.hold(True)
    assert rig.core.drained(0)
    rig.core.save()
    state = rig.core.state.replace(queues=[queue.replace() for queue in rig.core.state.queues])
    memory = bytes(rig.memory.view(0, 2 * MIB))
    rig.core.hold(False)
    rig.echo(0, b"forgotten")
    rig.core.hold(True)
    rig.core.reset()
    rig.memory.write(0, memory)
    rig.core.state = state
    rig.core.restored()
    rig.core.hold(False)
    rig.loop.run_pending()
    queue = rig.core.queues[0]
    assert queue is not None
    assert (queue.last_avail, queue.next_used) == (1, 1)
    assert rig.core.read_status() == RUNNING


def test_held_nothing_is_served_and_nothing_is_lost(rig: Rig) -> None:
    rig.start()
    rig.core.hold(True)
    ring = rig.rings[0]
    head = ring.add(b"x", 2)
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert ring.collect() == []
    assert rig.core.drained(0)
    rig.core.hold(False)
    rig.loop.run_pending()
    assert ring.collect() == [(head, 2)]


def test_who_looks_rings_no_doorbell(rig: Rig) -> None:
    """What the driver has made available and not yet rung for (2.7.13.4) stays so when the device was held meanwhile."""
    rig.start()
    rig.loop.run_pending()
    ring = rig.rings[0]
    head = ring.add(b"x", 2)
    rig.core.hold(True)
    assert rig.core.drained(0)
    rig.core.hold(False)
    rig.loop.run_pending()
    assert ring.collect() == []
    rig.driver.kick(0)
    rig.loop.run_pending()
    assert ring.collect() == [(head, 2)]


def test_drained_means_nothing_in_flight(rig: Rig) -> None:
    rig.device.hold = True
    rig.start()
    rig.rings[0].add(b"x", 2)
    rig.driver.kick(0)
    rig.loop.run_pending()
    rig.core.hold(True)
    assert not rig.core.drained(0.01)
    rig.device.finish()
    assert rig.core.drained(0.01)
    rig.core.save()
    assert (rig.core.state.queues[0].last_avail, rig.core.state.queues[0].next_used) == (1, 1)


def test_drained_completes_resets_that_wait(rig: Rig) -> None:
    rig.device.hold = True
    rig.start()
    rig.rings[0].add(b"x", 2)
    rig.driver.kick(0)
    rig.loop.run_pending()
    rig.driver.set_status(0)
    assert rig.core.resetting
    rig.core.hold(True)
    rig.device.held.clear()
    assert rig.core.drained(0.01)
    assert not rig.core.resetting
    assert rig.core.state.status == 0


def test_a_request_that_was_begun_comes_again(rig: Rig) -> None:
    rig.device.hold = True
    rig.start()
    rig.rings[0].add(b"x", 2)
    rig.driver.kick(0)
    rig.loop.run_pending()
    rig.core.save()
    assert (rig.core.state.queues[0].last_avail, rig.core.state.queues[0].next_used) == (0, 0)


def test_a_record_of_writes_sees_buffers_and_rings(rig: Rig) -> None:
    rig.start()
    record = rig.memory.track()
    rig.core.track(True)
    record.take()
    ring = rig.rings[0]
    head = ring.add(b"hello", 6)
    _, buffers = ring.chains[head]
    record.take()
    rig.driver.kick(0)
    rig.loop.run_pending()
    pages = record.take()
    assert {buffer[0] // 4096 for buffer in buffers} <= pages
    ((used, length), *_) = rig.core.lasting()
    assert used == ring.used
    assert length >= 4 + 8 * ring.size
    record.close()
    rig.core.track(False)
    rig.echo(1)
