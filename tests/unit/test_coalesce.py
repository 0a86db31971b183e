"""The coalesced ring without KVM: a made-up VM, and bytes put into the ring as the kernel would."""

from __future__ import annotations

from struct import pack_into
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.bus import Bus
from pyvmm.coalesce import IDLE_TICKS, STREAK, CoalescedSerial
from pyvmm.devices.serial import Serial
from pyvmm.events import Access
from pyvmm.kvm import structs
from tests.support.fakes import ByteSink, FakeLine, FakeTimer

RING = 2 * 4096  # where the kernel says it is
THR, LSR_OFFSET = 0x3F8, 5


class Rig:
    """A serial port with its CoalescedSerial, and the kernel's side of the ring."""

    def __init__(self, capable: int = 2) -> None:
        self.page = memoryview(bytearray(3 * 4096))
        self.zones: list[bool] = []
        self.timers: list[FakeTimer] = []
        self.loop: Any = SimpleNamespace(drain=None)
        vm = SimpleNamespace(check_extension=lambda _: capable, coalesce=lambda base, size, pio, on=True: self.zones.append(on))
        machine: Any = SimpleNamespace(
            vm=vm,
            vcpus=[SimpleNamespace(page=self.page)],
            runloops=[self.loop],
            loop=SimpleNamespace(make_timer=self.make_timer),
        )
        self.sink = ByteSink()
        self.serial = Serial("serial0", FakeLine(), self.sink)
        self.bus = Bus("pio", 0x1_0000)
        self.mapping = self.bus.add(THR, 8, self.serial, 1)
        self.coalesced = CoalescedSerial(machine, self.mapping, self.serial)

    def make_timer(self, callback: Any) -> FakeTimer:
        self.timers.append(FakeTimer(callback))
        return self.timers[-1]

    def exits(self, data: bytes) -> None:
        """Writes that reach user space one by one."""
        for byte in data:
            self.bus.write(THR, 1, byte)

    def queue(self, data: bytes) -> None:
        """Writes the kernel keeps in the ring."""
        indices = self.page[RING : RING + 8].cast("I")
        for byte in data:
            at = RING + 8 + indices[1] * 24
            pack_into("<QII8s", self.page, at, THR, 1, 1, bytes([byte]))
            indices[1] = (indices[1] + 1) % structs.COALESCED_RING_MAX
        indices.release()

    def tick(self) -> None:
        (timer,) = self.timers
        assert timer.deadline is not None
        timer.deadline = None
        timer.callback()


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.exits(b"." * STREAK)
    assert rig.coalesced.on and rig.zones == [True] and rig.loop.drain is not None
    rig.sink.writes.clear()
    return rig


def test_a_streak_starts_it_and_a_look_elsewhere_does_not_count() -> None:
    rig = Rig()
    rig.exits(b"." * (STREAK - 1))
    rig.bus.write(THR + 7, 1, 0)
    rig.exits(b"." * (STREAK - 1))
    assert not rig.coalesced.on
    rig.exits(b".")
    assert rig.coalesced.on


def test_a_kernel_that_cannot() -> None:
    rig = Rig(capable=0)
    rig.exits(b"." * 1000)
    assert (rig.coalesced.on, rig.zones, rig.sink.data) == (False, [], b"." * 1000)


def test_drain_hands_over_in_order_and_in_one_piece(rig: Rig) -> None:
    rig.queue(b"abc")
    rig.loop.drain()
    rig.loop.drain()
    assert rig.sink.writes == [b"abc"]


def test_the_ring_goes_round(rig: Rig) -> None:
    sent = b""
    for turn in range(20):
        data = bytes((turn * 150 + at) & 0xFF for at in range(150))
        rig.queue(data)
        rig.loop.drain()
        sent += data
    assert rig.sink.data == sent


def test_ticks_drain_and_silence_ends_it(rig: Rig) -> None:
    rig.queue(b"x")
    rig.tick()
    assert rig.sink.data == b"x"
    for _ in range(IDLE_TICKS - 1):
        rig.tick()
        assert rig.coalesced.on
    rig.tick()
    rig.tick() if rig.coalesced.on else None
    assert (rig.coalesced.on, rig.zones, rig.loop.drain) == (False, [True, False], None)
    assert rig.timers[0].deadline is None


def test_bytes_keep_it_alive(rig: Rig) -> None:
    for _ in range(5 * IDLE_TICKS):
        rig.queue(b"x")
        rig.tick()
    assert rig.coalesced.on


@pytest.mark.parametrize("tapped", [False, True])
def test_stop_loses_nothing_and_does_not_start_anew(rig: Rig, tapped: bool) -> None:
    """More queued than a streak: with a tap these bytes pass through ``write``, which counts."""
    seen: list[Access] = []
    if tapped:
        rig.bus.tap(seen.append)
    data = bytes(range(100, 100 + STREAK + 20))
    rig.queue(data)
    rig.coalesced.stop()
    rig.coalesced.stop()
    assert rig.sink.data == data
    assert (rig.coalesced.on, rig.zones, rig.loop.drain) == (False, [True, False], None)
    assert [access.value for access in seen] == (list(data) if tapped else [])


@pytest.mark.parametrize(("offset", "value"), [(1, 2), (3, 0x80), (4, 0x10)], ids=["THRI", "DLAB", "loopback"])
def test_it_ends_with_the_write_that_gives_thr_another_meaning(rig: Rig, offset: int, value: int) -> None:
    rig.bus.write(THR + offset, 1, value)
    assert (rig.coalesced.on, rig.zones) == (False, [True, False])


def test_other_registers_leave_it(rig: Rig) -> None:
    rig.bus.write(THR + 7, 1, 0x55)
    rig.bus.write(THR + 1, 1, 1)  # IER: receive interrupts only
    assert rig.coalesced.on
