"""Large received frames: in one look and chain by chain the driver sees the same."""

from __future__ import annotations

import random

import pytest

from pyvmm.devices.virtio.net import RX
from pyvmm.devices.virtio.queue import DESC_NEXT, QueueError
from tests.support.net_driver import NetRig
from tests.support.network import frame


def result(sizes: list[int], seed: int, plain: bool) -> tuple[bytes, bool, str]:
    """Guest memory after these frames went into buffers of chance, whether the last was taken, and what broke the device."""
    chance = random.Random(seed)
    rig = NetRig()
    rig.start()
    for _ in range(50):
        rig.post(1, *[chance.choice((40, 300, 1526, 4096))] * (chance.random() < 0.03 and 2 or 1))
    queue = rig.device.queues[RX]
    assert queue is not None
    if not plain:
        queue.buffers = lambda total, most: None  # type: ignore[method-assign]
    if chance.random() < 0.3:  # a driver that breaks the rules, somewhere
        descriptor = chance.randrange(60)
        address, length, flags = chance.choice(((1 << 40, 100, 2), (0x10_0000, 0, 2), (0x10_0000, 100, 0), (0x10_0000, 5, 2 | DESC_NEXT)))
        rig.rx.set_descriptor(descriptor, address, length, flags, 99)
    taken = [rig.device.receive(frame(number, size)) for number, size in enumerate(sizes)]
    return rig.memory.read(0, 8 << 20), taken[-1], rig.driver.core.trouble


@pytest.mark.parametrize("seed", range(24))
def test_in_one_look_and_chain_by_chain(seed: int) -> None:
    sizes = random.Random(seed).choices((60, 1530, 1531, 4000, 16_000, 40_000), k=4)
    assert result(sizes, seed, True) == result(sizes, seed, False)


def test_what_is_not_plain_is_left_to_the_walk() -> None:
    rig = NetRig()
    rig.start(buffers=8, size=1000)
    queue = rig.device.queues[RX]
    assert queue is not None
    found = queue.buffers(2500, 3)
    assert found is not None and [length for _, _, length in found] == [1000] * 3 and queue.last_avail == 0
    assert queue.buffers(2500, 2) is None, "more than allowed"
    assert queue.buffers(8001, 100) is None, "too few"
    queue.track(True)
    assert queue.buffers(2500, 3) is None, "whose writes are recorded"
    queue.track(False)
    rig.rx.avail_index = 1000  # more than the ring can have
    assert queue.buffers(2500, 3) is None
    with pytest.raises(QueueError):
        queue.pop()
