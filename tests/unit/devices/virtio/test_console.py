"""virtio-console on rings in guest memory (Virtio 1.2, 5.3), with and without a real console behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from pyvmm.backends.console import Console
from pyvmm.devices.virtio import console as module
from pyvmm.devices.virtio.console import RX, TX, VirtioConsole
from pyvmm.devices.virtio.queue import QueueError, VirtQueue
from pyvmm.ioloop import IoLoop
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support.fakes import ByteSink
from tests.support.ring import FakeLoop, Ring


class Rig:
    def __init__(self, size: tuple[int, int] | None = None, start: bool = True) -> None:
        self.memory = GuestMemory(8 * MIB)
        self.rx = Ring(self.memory, 8, 0x1_0000, 0x4_0000, 0x8_0000)
        self.tx = Ring(self.memory, 8, 0x2_0000, 1 * MIB, 7 * MIB)
        self.printed = ByteSink()
        self.console = VirtioConsole("hvc", FakeLoop(), self.printed, size)
        self.signals: list[int] = []
        self.kicks: list[int] = []
        self.configs = 0
        signals = self.console.signals
        signals.queue = self.signals.append
        signals.kick = self.kicks.append
        signals.config = self._config
        if start:
            self.start()

    def _config(self) -> None:
        self.configs += 1

    def start(self) -> None:
        rings = [
            VirtQueue(self.memory, ring.size, ring.desc, ring.avail, ring.used, event_idx=False, indirect=True)
            for ring in (self.rx, self.tx)
        ]
        self.console.signals.serve = self.console.serve
        self.console.start([*rings], self.console.features)

    def typed(self) -> bytes:
        """What has arrived in the buffers that came back."""
        buffers = {head: list(chain[1]) for head, chain in self.rx.chains.items()}
        return b"".join(self.rx.written(buffers[head])[:written] for head, written in self.rx.collect())


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.memory.close()


# --- output --------------------------------------------------------------------------------------------------------------
def test_output(rig: Rig) -> None:
    rig.tx.add(b"hello ", b"world")
    rig.tx.add(b"\n", indirect=True)
    rig.console.serve(TX)
    assert rig.printed.data == b"hello world\n"
    assert [written for _, written in rig.tx.collect()] == [0, 0]
    assert rig.signals == [TX]


def test_a_long_message_goes_in_shares(rig: Rig) -> None:
    text = bytes(range(256)) * 1024
    rig.tx.add(text[:100], text[100:200_000], text[200_000:])
    rig.console.serve(TX)
    assert rig.printed.data == text[: module._SHARE]
    assert rig.kicks == [TX] and not rig.tx.collect()
    for _ in range(len(text) // module._SHARE):
        rig.console.serve(TX)
    assert rig.printed.data == text
    assert len(rig.tx.collect()) == 1


def test_empty_messages_without_end_give_others_their_turn(rig: Rig) -> None:
    head = rig.tx.add(b"x")
    rig.memory.write(rig.tx.desc + 8, bytes(4))  # length 0
    queue = rig.console.queues[TX]
    assert queue is not None
    push = queue.push

    def again(head: int, written: int) -> None:
        push(head, written)
        rig.tx.publish(head)

    queue.push = again  # type: ignore[method-assign]
    rig.console.serve(TX)
    assert head == 0 and rig.kicks == [TX] and not rig.printed.data


def test_stop_forgets_a_message_that_has_begun(rig: Rig) -> None:
    rig.tx.add(bytes(module._SHARE + 1))
    rig.console.serve(TX)
    rig.console.stop(None)
    assert rig.console.idle(None)
    rig.console.reset()
    rig.tx.clear()
    rig.start()
    rig.tx.add(b"anew")
    rig.console.serve(TX)
    assert rig.printed.data.endswith(b"\0anew")


def test_a_buffer_outside_ram_breaks_the_device(rig: Rig) -> None:
    rig.tx.add(b"fine")
    rig.tx.add_buffers([(1 << 40, 16, False)])
    with pytest.raises(QueueError):
        rig.console.serve(TX)
    assert rig.printed.data == b"fine"
    assert rig.signals == [TX]
    rig.rx.add_buffers([(1 << 40, 16, True)])
    with pytest.raises(QueueError):
        rig.console.receive(b"x")


# --- input ---------------------------------------------------------------------------------------------------------------
def test_input_goes_as_far_as_there_are_buffers(rig: Rig) -> None:
    assert rig.console.receive(b"early") == 0
    rig.rx.add(2, 2)
    rig.rx.add(3)
    assert rig.console.receive(b"abcdefghij") == 7
    assert rig.typed() == b"abcdefg"
    assert rig.signals == [RX]
    assert rig.console.receive(b"hij") == 0
    assert not rig.rx.no_notify  # told when there is room


def test_no_driver_no_input() -> None:
    rig = Rig(start=False)
    assert rig.console.receive(b"abc") == 0
    rig.console.serve(TX)
    rig.console.serve(RX)
    rig.memory.close()


def test_room_is_told(rig: Rig) -> None:
    asked: list[int] = []
    rig.console.on_room = lambda: asked.append(rig.console.receive(b"typed ahead"))
    rig.rx.add(64)
    rig.console.serve(RX)
    assert asked == [11]
    assert rig.typed() == b"typed ahead"


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_pipe_of_input_is_read_only_as_fast_as_the_driver_takes_it(event_idx: bool) -> None:
    """The whole way: pipe, console, loop, device, ring; 20,000 bytes through buffers of 7."""
    rig = Rig(start=False)
    rig.rx.event_idx = event_idx
    queue = VirtQueue(rig.memory, rig.rx.size, rig.rx.desc, rig.rx.avail, rig.rx.used, event_idx=event_idx, indirect=True)
    rig.console.signals.serve = rig.console.serve
    loop = IoLoop(threading.Lock())
    read, write = os.pipe2(os.O_NONBLOCK)
    console = Console(read, -1)
    console.attach(loop, rig.console)
    rig.console.start([queue, None], 0)
    text = os.urandom(20_000)
    os.write(write, text)
    got = bytearray()

    def look() -> None:
        got.extend(rig.typed())
        assert len(console._pending) <= 256
        while rig.rx.free:
            rig.rx.add(7)
        if rig.rx.wants_kick():
            rig.console.serve(RX)
        if len(got) == len(text):
            loop.stop()
        timer.arm(time.monotonic_ns() + 50_000)

    timer = loop.make_timer(look)
    timer.arm(0)
    guard = threading.Timer(60, loop.stop)
    guard.start()
    loop.run()
    guard.cancel()
    assert got == text
    console.close()
    loop.close()
    os.close(read)
    os.close(write)
    rig.memory.close()


# --- configuration space ---------------------------------------------------------------------------------------------------
def test_size() -> None:
    rig = Rig(size=(132, 43))
    assert rig.console.features & module.F_SIZE
    assert (rig.console.read_config(0, 2), rig.console.read_config(2, 2), rig.console.read_config(4, 4)) == (132, 43, 1)
    rig.console.resize(80, 25)
    assert rig.console.read_config(0, 4) == 25 << 16 | 80
    assert rig.configs == 1
    rig.memory.close()


def test_without_a_terminal_there_is_no_size(rig: Rig) -> None:
    assert not rig.console.features & module.F_SIZE
    assert rig.console.read_config(0, 4) == 0
    rig.console.resize(80, 25)
    assert rig.configs == 0


def test_emergency_write_works_without_a_driver() -> None:
    rig = Rig(start=False)
    for byte in b"panic":
        rig.console.write_config(8, 4, byte)
    rig.console.write_config(0, 4, 7)
    rig.console.write_config(12, 4, 7)
    assert rig.printed.data == b"panic"
    rig.memory.close()


@pytest.mark.parametrize("offset", [0, 1, 3, 8, 11, 12, 1 << 30])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_any_read(rig: Rig, offset: int, size: int) -> None:
    assert 0 <= rig.console.read_config(offset, size) < 1 << 8 * size


def test_a_message_goes_on_in_another_machine(rig: Rig) -> None:
    text = bytes(range(256)) * 256
    rig.tx.add(text[:100], text[100:50_000], text[50_000:])
    rig.console.serve(TX)
    assert rig.console.state.printed == module._SHARE
    queue = rig.console.queues[TX]
    assert queue is not None
    twin = VirtioConsole("hvc", FakeLoop(), rig.printed)
    twin.state = rig.console.state.replace()
    again = VirtQueue(
        rig.memory, rig.tx.size, rig.tx.desc, rig.tx.avail, rig.tx.used, event_idx=False, indirect=True,
        last_avail=queue.next_used, next_used=queue.next_used,
    )  # fmt: skip
    twin.start([None, again], twin.features)
    while twin.state.printed:
        twin.serve(TX)
    assert rig.printed.data == text
    assert len(rig.tx.collect()) == 1
    rig.tx.add(b"whole")
    twin.serve(TX)
    assert rig.printed.data == text + b"whole"


def test_a_driver_may_change_a_message_that_has_begun(rig: Rig) -> None:
    rig.console.state.printed = 1000
    rig.tx.add(b"short")
    rig.console.serve(TX)
    assert rig.printed.data == b""
    assert rig.console.state.printed == 0
    assert len(rig.tx.collect()) == 1
