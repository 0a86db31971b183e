"""The coalesced ring without KVM: a made-up VM, and bytes put into the ring as the kernel would."""

from __future__ import annotations

from struct import pack_into
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.bus import Bus
from pyvmm.coalesce import IDLE_TICKS, STREAK, CoalescedRegisters, CoalescedRing, CoalescedSerial
from pyvmm.devices.pci.function import Bar
from pyvmm.devices.serial import LSR_BI, LSR_DR, LSR_EMPTY, Serial, SerialState
from pyvmm.errors import KvmError
from pyvmm.events import Access
from pyvmm.kvm import structs
from pyvmm.threads import Lock
from tests.support.fakes import ByteSink, FakeLine, FakeTimer

RING = 2 * 4096  # where the kernel says it is
THR, LSR_OFFSET = 0x3F8, 5


class Rig:
    """A serial port with its CoalescedSerial, and the kernel's side of the ring."""

    def __init__(self, capable: int = 2) -> None:
        self.page = memoryview(bytearray(3 * 4096))
        self.zones: list[bool] = []
        self.timers: list[FakeTimer] = []
        self.lock = Lock()
        self.loop: Any = SimpleNamespace(drain=None, patient={}, lock=self.lock, look=lambda: self.loop.drain and self.loop.drain())
        vm = SimpleNamespace(check_extension=lambda _: capable, coalesce=lambda base, size, pio, on=True: self.zones.append(on))
        self.bus = Bus("pio", 0x1_0000)
        machine: Any = SimpleNamespace(
            vm=vm,
            ports=self.bus,
            vcpus=[SimpleNamespace(page=self.page)],
            runloops=[self.loop],
            loop=SimpleNamespace(make_timer=self.make_timer, drain=None),
            at_end=[],
        )
        self.machine = machine
        self.sink = ByteSink()
        self.serial = Serial("serial0", FakeLine(), self.sink)
        self.mapping = self.bus.add(THR, 8, self.serial, 1)
        self.coalesced = CoalescedSerial(CoalescedRing(machine), self.mapping, self.serial)

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


class Poller:
    """The run loop's handler for reads of LSR; calling it reads."""

    def __init__(self, rig: Rig) -> None:
        ((key, make),) = rig.loop.patient.items()
        assert key == (rig.bus.find(THR + LSR_OFFSET, 1)[1], LSR_OFFSET)
        self.answer = memoryview(bytearray(3))
        self.handler = make(rig.loop, self.answer, 1)

    def __call__(self) -> int:
        self.answer[1] = 0xEE
        self.handler()
        return self.answer[1]


def test_a_poll_drains_once_nothing_is_added(rig: Rig) -> None:
    poll = Poller(rig)
    for byte in b"abc":
        rig.queue(bytes([byte]))
        assert poll() == LSR_EMPTY
        assert rig.sink.writes == []
    assert poll() == LSR_EMPTY
    assert rig.sink.writes == [b"abc"]
    poll()
    rig.queue(b"d")
    poll()
    assert rig.sink.writes == [b"abc"]
    rig.loop.drain()
    assert rig.sink.writes == [b"abc", b"d"]


def test_a_poll_takes_the_lock_for_what_is_more_than_a_look(rig: Rig) -> None:
    poll, locked = Poller(rig), []
    rig.serial.output = lambda data: locked.append(rig.lock.locked())
    rig.queue(b"a")
    with rig.lock:
        assert poll() == LSR_EMPTY, "or it would wait here for ever"
    assert poll() == LSR_EMPTY
    assert locked == [True] and not rig.lock.locked()


@pytest.mark.parametrize("mode", ["zone", "no zone"])
def test_a_poll_finds_what_came_in(rig: Rig, mode: str) -> None:
    poll = Poller(rig)
    if mode == "no zone":
        rig.coalesced.stop()
    assert rig.serial.receive(b"x") == 1
    for _ in range(2):
        rig.queue(b"a") if mode == "zone" else None
        assert poll() == LSR_EMPTY | LSR_DR
    assert rig.sink.data == (b"aa" if mode == "zone" else b""), "who has more to say drains"
    assert rig.bus.read(THR, 1) == ord("x")
    assert poll() == LSR_EMPTY
    rig.serial.state = SerialState(lsr=LSR_EMPTY | LSR_BI, rx=[LSR_BI << 8])  # a snapshot was loaded
    assert (poll(), poll()) == (LSR_EMPTY | LSR_BI, LSR_EMPTY | LSR_DR), "reading clears"


def test_nobody_holds_the_page_when_the_run_is_over(rig: Rig) -> None:
    poll = Poller(rig)
    rig.coalesced.stop()
    poll()
    (finish,) = rig.machine.at_end
    finish()
    assert rig.coalesced.ring.indices is None


def test_run_loops_learn_of_it_with_the_first_zone() -> None:
    rig = Rig()
    changes: list[bool] = []
    rig.bus.on_change.append(lambda: changes.append(bool(rig.loop.patient)))
    rig.exits(b"." * STREAK)
    assert changes == [True], "handlers that were found before are forgotten"
    rig.coalesced.stop()
    rig.exits(b"." * STREAK)
    assert rig.coalesced.on and len(changes) == 1


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


# --- a card's registers -------------------------------------------------------------------------------------------------
BAR, TAIL, DOORBELL = 0xC000_0000, 0x18, 0x40
RANGES = ((TAIL, 4), (0x100, 0x80))


class Registers:
    """A device that remembers what it was told."""

    name = "card"

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


class CardRig:
    """A card on an MMIO bus with its CoalescedRegisters, a console beside it, and the kernel's side of the ring."""

    def __init__(self, refuses: bool = False) -> None:
        self.console = Rig()
        self.zones: set[tuple[int, int, bool]] = set()
        machine = self.machine = self.console.coalesced.ring.machine
        machine.mmio = self.bus = Bus("mmio", 1 << 64)
        self.refuses = refuses
        machine.vm.coalesce = self.coalesce
        self.card = Registers()
        self.bar = Bar(0, 0x1000, self.card, "mem32", False, 4)
        self.short = False
        self.registers = CoalescedRegisters(self.console.coalesced.ring, self.bar, RANGES, lambda: self.short)
        self.place(BAR)

    def coalesce(self, base: int, size: int, pio: bool, on: bool = True) -> None:
        if on and self.refuses and len(self.zones) == 1:
            raise KvmError("KVM_REGISTER_COALESCED_MMIO", 28)
        (self.zones.add if on else self.zones.remove)((base, size, pio))

    def place(self, base: int | None) -> None:
        """As the PCI bus does."""
        if self.bar.base is not None:
            self.bus.remove(self.bar.mapping)
            self.bar.base = None
            assert self.bar.on_place is not None
            self.bar.on_place(None)
        if base is not None:
            self.bus.move(self.bar.mapping, base)
            self.bar.base = base
            assert self.bar.on_place is not None
            self.bar.on_place(base)

    def exits(self, count: int) -> None:
        for value in range(count):
            self.bus.write(self.bar.mapping.base + TAIL, 4, value)

    def queue(self, offset: int, value: int, base: int = BAR) -> None:
        indices = self.console.page[RING : RING + 8].cast("I")
        pack_into("<QII8s", self.console.page, RING + 8 + indices[1] * 24, base + offset, 4, 0, value.to_bytes(8, "little"))
        indices[1] = (indices[1] + 1) % structs.COALESCED_RING_MAX
        indices.release()

    @property
    def timer(self) -> FakeTimer:
        return self.console.timers[-1]

    @property
    def drain(self) -> Any:
        assert self.machine.loop.drain == self.console.loop.drain
        return self.console.loop.drain


def _card_rig() -> CardRig:
    rig = CardRig()
    rig.exits(STREAK)
    assert rig.zones == {(BAR + offset, length, False) for offset, length in RANGES}
    rig.card.written.clear()
    return rig


def test_registers_get_zones_after_a_streak_and_other_registers_do_not_count() -> None:
    rig = CardRig()
    rig.exits(STREAK - 1)
    rig.bus.write(BAR + DOORBELL, 4, 1)
    assert not rig.zones and rig.drain is None
    rig.exits(1)
    assert rig.registers.on and rig.drain is not None
    assert len(rig.card.written) == STREAK + 1


def test_a_kernel_without_room_for_all_zones() -> None:
    rig = CardRig(refuses=True)
    rig.exits(10 * STREAK)
    assert not rig.zones and not rig.registers.on and rig.drain is None
    assert len(rig.card.written) == 10 * STREAK


def test_console_and_card_keep_their_order_in_the_ring() -> None:
    rig = _card_rig()
    rig.console.exits(b"." * STREAK)
    rig.console.sink.writes.clear()
    seen: list[object] = []
    rig.console.coalesced.ring.take_port = lambda data: seen.append(data)
    rig.card.write = lambda offset, size, value: seen.append(value)  # type: ignore[method-assign]
    rig.registers._write = rig.card.write
    rig.queue(TAIL, 1)
    rig.console.queue(b"ab")
    rig.queue(TAIL, 2)
    rig.queue(0x104, 3)
    rig.console.queue(b"c")
    rig.drain()
    assert seen == [1, b"ab", 2, 3, b"c"]


def test_both_kinds_go_round_the_ring() -> None:
    """The piece up to its end and the one from its beginning are read as one, whatever is in them."""
    rig = _card_rig()
    rig.console.exits(b"." * STREAK)
    rig.console.sink.writes.clear()
    for turn in range(40):
        rig.console.queue(b"abc")
        rig.queue(TAIL, turn)
        rig.console.queue(b"de" * 10)
        rig.drain()
    assert rig.console.sink.writes == [b"abc", b"de" * 10] * 40
    assert rig.card.written == [(TAIL, 4, turn) for turn in range(40)]


def test_a_tap_sees_registers_too() -> None:
    rig = _card_rig()
    seen: list[Access] = []
    rig.bus.tap(seen.append)
    rig.queue(TAIL, 7)
    rig.drain()
    assert [(access.address, access.offset, access.value) for access in seen] == [(BAR + TAIL, TAIL, 7)]


def test_zones_leave_with_the_bar_and_come_back_elsewhere() -> None:
    rig = _card_rig()
    rig.queue(TAIL, 9)
    rig.place(None)  # the config access that did it drained the ring first; this came from another vCPU since
    assert not rig.zones and rig.drain is None and rig.card.written == [] and rig.timer.deadline is None
    rig.place(BAR + 0x10000)
    rig.exits(STREAK - 1)
    assert not rig.zones
    rig.exits(1)
    assert (BAR + 0x10000 + TAIL, 4, False) in rig.zones
    rig.card.written.clear()
    rig.queue(TAIL, 5, BAR + 0x10000)
    rig.drain()
    assert rig.card.written == [(TAIL, 4, 5)]


def test_a_short_card_is_looked_at_until_it_is_not() -> None:
    rig = _card_rig()
    rig.timer.cancel()
    rig.queue(TAIL, 3)
    rig.registers.look()
    assert rig.card.written == [(TAIL, 4, 3)] and rig.timer.deadline is not None
    rig.short = True
    for _ in range(3):
        rig.timer.cancel()
        rig.timer.callback()
        assert rig.timer.deadline is not None
    rig.short = False
    rig.queue(TAIL, 4)
    rig.timer.cancel()
    rig.timer.callback()
    assert rig.timer.deadline is None and rig.card.written[-1] == (TAIL, 4, 4)


def test_stop_of_the_ring_stops_all_and_loses_nothing() -> None:
    rig = _card_rig()
    rig.console.exits(b"." * STREAK)
    rig.console.sink.writes.clear()
    rig.console.queue(b"x")
    rig.queue(TAIL, 8)
    rig.machine.loop.drain.__self__.stop()
    assert rig.console.sink.data[-1:] == b"x" and rig.card.written == [(TAIL, 4, 8)]
    assert not rig.zones and rig.drain is None
    rig.registers.look()
    assert rig.timer.deadline is None


def test_what_a_write_does_cannot_drain_again() -> None:
    rig = _card_rig()

    def write(offset: int, size: int, value: int) -> None:
        rig.registers.look()
        rig.card.written.append((offset, size, value))

    rig.registers._write = write
    for value in range(3):
        rig.queue(TAIL, value)
    rig.drain()
    assert [value for _, _, value in rig.card.written] == [0, 1, 2]
