"""virtio-rng on a ring in guest memory (Virtio 1.2, 5.4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.devices.virtio.queue import QueueError, VirtQueue
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.fakes import FakeTime
from tests.support.ring import FakeLoop, Ring


class Rig:
    def __init__(self, limit: int | None = None) -> None:
        self.memory = GuestMemory(MIB)
        self.ring = Ring(self.memory)
        self.time = FakeTime()
        self.rng = VirtioRng("rng0", FakeLoop(), self.time.clock, self.time.make_timer, limit, 1000)
        self.signals: list[int] = []
        self.kicks: list[int] = []
        self.rng.signals.queue = self.signals.append
        self.rng.signals.kick = self.kicks.append
        self.rng.signals.serve = self.rng.serve
        ring = self.ring
        self.rng.start([VirtQueue(self.memory, ring.size, ring.desc, ring.avail, ring.used, event_idx=False, indirect=True)], 0)

    def answers(self) -> list[tuple[int, bytes]]:
        buffers = {head: list(chain[1]) for head, chain in self.ring.chains.items()}
        return [(written, self.ring.written(buffers[head])) for head, written in self.ring.collect()]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.memory.close()


def test_fills_what_is_asked_for_over_several_buffers(rig: Rig) -> None:
    rig.ring.add(64, 3, 33)
    rig.ring.add(100, indirect=True)
    rig.rng.serve(0)
    (first, data), (second, more) = rig.answers()
    assert (first, second, len(data), len(more)) == (100, 100, 100, 100)
    assert data != more and bytes(100) not in (data, more)
    assert rig.signals == [0]


def test_a_large_request_gets_a_bounded_answer(rig: Rig) -> None:
    rig.ring.add(65536)
    rig.rng.serve(0)
    ((written, data),) = rig.answers()
    assert written == 4096
    assert any(data[4064:4096]) and not any(data[4096:])


def test_a_request_without_room_gets_nothing(rig: Rig) -> None:
    rig.ring.add(b"readable")
    rig.rng.serve(0)
    assert rig.answers() == [(0, b"")]


def test_a_buffer_outside_ram_breaks_the_device_after_the_others_were_told(rig: Rig) -> None:
    rig.ring.add(16)
    rig.ring.add_buffers([(1 << 40, 16, True)])
    with pytest.raises(QueueError):
        rig.rng.serve(0)
    assert [written for written, _ in rig.answers()] == [16]
    assert rig.signals == [0]


def test_a_driver_that_never_pauses_gives_others_their_turn(rig: Rig) -> None:
    head = rig.ring.add(16)
    served = 0
    queue = rig.rng.queues[0]
    assert queue is not None
    push = queue.push

    def again(head: int, written: int) -> None:
        nonlocal served
        served += 1
        push(head, written)
        rig.ring.publish(head)

    queue.push = again  # type: ignore[method-assign]
    rig.rng.serve(0)
    assert head == 0 and served == 64
    assert rig.kicks == [0]


def test_a_limit_per_period() -> None:
    rig = Rig(limit=24)
    for _ in range(3):
        rig.ring.add(16)
    rig.rng.serve(0)
    assert [written for written, _ in rig.answers()] == [16, 8]
    rig.rng.serve(0)
    assert rig.answers() == []
    rig.time.advance(999)
    assert rig.answers() == []
    rig.time.advance(1)
    assert [written for written, _ in rig.answers()] == [16]
    rig.time.advance(1000)
    assert rig.rng.state.left == 24
    rig.memory.close()


def test_no_queue() -> None:
    rig = Rig()
    rig.rng.start([None], 0)
    rig.rng.serve(0)
    assert rig.rng.read_config(0, 4) == 0


def test_a_period_ends_in_another_machine_too() -> None:
    rig, twin = Rig(limit=24), Rig(limit=24)
    rig.ring.add(24)
    rig.rng.serve(0)
    rig.time.advance(400)
    twin.time.advance(400)
    twin.rng.state = rig.rng.state.replace()
    twin.rng.restored()
    twin.time.advance(599)
    assert twin.rng.state.left == 0
    twin.time.advance(1)
    assert twin.rng.state.left == 24
    rig.rng.state = twin.rng.state.replace()
    rig.rng.restored()
    assert not rig.time.armed
    rig.memory.close()
    twin.memory.close()
