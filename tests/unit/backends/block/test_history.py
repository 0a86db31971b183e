"""A drive's states in time: beside a model that keeps whole copies; what reaches the drive, and when."""

from __future__ import annotations

import errno
import random

import pytest

from pyvmm.backends.block import history
from pyvmm.backends.block.history import BASE, BLOCK, ZEROS, HistoryLayer
from tests.support.disk import FakeDisk

SIZE = 16 * BLOCK + 512  # the last block is a part of one


def disk() -> FakeDisk:
    drive = FakeDisk(SIZE)
    drive.data[:] = random.Random(1).randbytes(SIZE)
    return drive


def everything(layer: HistoryLayer) -> bytes:
    found = bytearray(SIZE)
    layer.read(0, [memoryview(found)[:1000], memoryview(found)[1000:]])
    return bytes(found)


def test_what_is_written_is_read_and_the_drive_stays_as_it_is() -> None:
    drive = disk()
    before = bytes(drive.data)
    layer = HistoryLayer(drive)
    layer.write(BLOCK - 3, [memoryview(bytearray(b"abc")), memoryview(bytearray(b"defg"))])
    layer.flush()
    wanted = bytearray(before)
    wanted[BLOCK - 3 : BLOCK + 4] = b"abcdefg"
    assert everything(layer) == wanted
    assert drive.data == before
    assert not [entry for entry in drive.log if entry[0] != "read"]
    layer.commit()
    assert drive.data == wanted
    assert drive.log[-1][0] == "flush"
    assert everything(layer) == wanted
    layer.close()
    layer.close()


@pytest.mark.parametrize("seed", range(4))
def test_any_state_comes_back_beside_a_model(seed: int) -> None:
    generator = random.Random(seed)
    drive = disk()
    layer = HistoryLayer(drive)
    model = bytearray(drive.data)
    states: list[bytes] = [bytes(model)]
    slots: list[dict[int, int]] = [{}]  # all blocks that are not the drive's
    at = 0
    for _ in range(300):
        for _ in range(generator.randint(0, 3)):
            start = generator.randrange(SIZE)
            length = generator.randint(0, min(SIZE - start, 3 * BLOCK))
            if generator.random() < 0.3:
                layer.write_zeroes(start, length, True)
                model[start : start + length] = bytes(length)
            else:
                data = bytearray(generator.randbytes(length))
                layer.write(start, [memoryview(data)])
                model[start : start + length] = data
        assert everything(layer) == model
        if generator.random() < 0.7:
            taken = layer.take()
            del states[at + 1 :], slots[at + 1 :]  # the future is another one now; its slots are not given back here
            states.append(bytes(model))
            slots.append({**slots[at], **taken})
            at += 1
        else:
            goal = generator.randrange(len(states))
            touched = layer.changed | slots[at].keys() | slots[goal].keys()
            layer.put({block: slots[goal].get(block, BASE) for block in touched})
            at, model = goal, bytearray(states[goal])
            assert everything(layer) == model
    layer.commit()
    assert drive.data == model
    layer.close()


def test_slots_are_used_again() -> None:
    layer = HistoryLayer(disk())
    seen = set()
    for number in range(50):
        layer.write(0, [memoryview(bytearray([number]) * BLOCK)])
        layer.write(0, [memoryview(bytearray([number + 1]) * 8)])  # in place
        (slot,) = layer.take().values()
        seen.add(slot)
        layer.free([slot, ZEROS, BASE])
    assert len(seen) <= 2
    layer.close()


def test_what_lies_outside_is_refused_and_so_is_more_than_the_layer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 4)
    drive = disk()
    layer = HistoryLayer(drive)
    for offset, length in ((SIZE - 1, 2), (-1, 1), (SIZE, 1)):
        for request in (lambda o, n: layer.read(o, [memoryview(bytearray(n))]), lambda o, n: layer.write(o, [memoryview(bytearray(n))])):
            with pytest.raises(OSError) as caught:
                request(offset, length)
            assert caught.value.errno == errno.EIO
    with pytest.raises(OSError) as caught:
        layer.write_zeroes(0, 8 * BLOCK, True)
    assert caught.value.errno == errno.ENOSPC
    assert len(layer.take()) == 4
    layer.write(BLOCK, [memoryview(bytearray(b"x"))])  # one that is there already
    assert drive.data[BLOCK] != 0
    layer.close()


def test_what_was_discarded_may_still_be_there_and_a_drive_that_fails_says_so() -> None:
    drive = disk()
    layer = HistoryLayer(drive)
    layer.discard_range(0, SIZE)
    assert everything(layer) == drive.data
    assert not layer.try_read(0, [memoryview(bytearray(1))])
    layer.write(0, [memoryview(bytearray(b"x"))])
    drive.fail["write"] = errno.EIO
    with pytest.raises(OSError):
        layer.commit()
    assert everything(layer)[:1] == b"x"  # it can be tried again
    layer.close()
