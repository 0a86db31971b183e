"""Guest memory as pages: images on one another, whole scans, and records of what was written."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from pyvmm.snapshot import pages
from pyvmm.snapshot.pages import Image, Tracked, fill, scan


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


class FakeVm:
    """The dirty log: pages the test says the guest has written."""

    def __init__(self) -> None:
        self.guest: set[int] = set()
        self.flags: list[int] = []

    def set_memory_region(self, slot: int, gpa: int, size: int, host: int, flags: int = 0) -> None:
        self.flags.append(flags)

    def dirty_log(self, slot: int, count: int) -> bytearray:
        bitmap = bytearray((count + 63) // 64 * 8)
        for number in self.guest:
            bitmap[number >> 3] |= 1 << (number & 7)
        self.guest = set()
        return bitmap


def test_an_image_inherits() -> None:
    first = Image({1: page(1), 2: page(2)})
    second = Image({2: page(3)}, first)
    assert (second.page(1), second.page(2), second.page(9)) == (page(1), page(3), pages.ZERO)
    assert second.whole() == {1: page(1), 2: page(3)}
    assert first.page(2) == page(2)


def test_what_differs_is_what_was_added_since_they_were_one() -> None:
    root = Image({number: page(1) for number in range(100)})
    middle = Image({1: page(2)}, root)
    left, right = Image({2: page(2)}, middle), Image({3: page(2), 2: page(3)}, middle)
    assert left.differing(right) == right.differing(left) == {2, 3}
    assert root.differing(left) == {1, 2}
    assert left.differing(left) == set()
    assert left.differing(Image({7: page(1)})) == {*range(100), 7}


def test_long_histories_are_cut() -> None:
    image = Image({0: page(0)})
    for number in range(1, 100):
        image = Image({number: page(number)}, image)
        assert image.depth <= 32
    assert image.whole() == {number: page(number) for number in range(100)}


def test_memory_comes_back() -> None:
    memory = GuestMemory(4 * MIB)
    memory.write(0x1000, b"first")
    memory.write(0x3F_F000, b"last")
    image = scan(memory)
    assert sorted(image.own) == [1, 0x3FF]
    memory.write(0x1000, b"other")
    memory.write(0x8000, b"new")
    assert fill(memory, image) == 2
    assert memory.read(0x1000, 5) == b"first"
    assert memory.read(0x8000, 3) == bytes(3)
    assert fill(memory, image) == 0
    memory.close()


def test_without_pagemap_everything_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = GuestMemory(1 * MIB)
    memory.write(0x5000, b"x")

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refused)
    assert list(pages.touched(memory.regions[0])) == list(range(256))
    assert list(scan(memory).own) == [5]
    monkeypatch.undo()
    assert len(list(pages.touched(memory.regions[0]))) <= 256
    memory.close()


def test_a_record_knows_writers_of_all_kinds() -> None:
    memory, vm = GuestMemory(1 * MIB), FakeVm()
    memory.write(0, b"before")
    ring = memory.view(0x7000, 16)
    tracked = Tracked(memory, vm)  # type: ignore[arg-type]
    assert sorted(tracked.image.own) == [0]
    memory.write(0x1FFF, b"two")  # two pages
    memory.regions[0].view[0x5000] = 1  # the guest
    vm.guest = {5, 6}  # page 6 was written with what it had
    ring[0] = 9
    image = tracked.save({7})
    assert sorted(image.own) == [1, 2, 5, 7]
    ring[0] = 10  # and has moved away since: its page counts once more
    assert sorted(tracked.save(set()).own) == [7]
    assert tracked.save(set()).own == {}
    tracked.close()
    assert "view" not in memory.__dict__
    assert vm.flags == [1, 0]
    ring.release()
    memory.close()


def test_readers_each_learn_what_has_changed_since_they_looked() -> None:
    memory, vm = GuestMemory(1 * MIB), FakeVm()
    tracked = Tracked(memory, vm)  # type: ignore[arg-type]
    mine: set[int] = set()
    tracked.readers.append(mine)
    first = tracked.save(set())
    memory.write(0x3000, b"x")
    tracked.save(set())  # somebody else's snapshot takes nothing from me
    memory.write(0x5000, b"y")
    tracked.collect(set())
    assert mine == {3, 5}
    mine.clear()
    tracked.load(first, set())
    assert mine >= {3, 5}
    mine.clear()
    assert tracked.put({6: page(1), 7: pages.ZERO}) == 1
    assert mine == {6, 7}
    assert sorted(tracked.save(set()).own) == [6]
    tracked.close()
    memory.close()


def test_a_thousand_moments_come_back_in_any_order() -> None:
    generator = random.Random(7)
    memory, vm = GuestMemory(1 * MIB), FakeVm()
    tracked = Tracked(memory, vm)  # type: ignore[arg-type]
    moments = []
    for _ in range(300):
        for _ in range(generator.randint(0, 4)):
            gpa = generator.randrange(0, MIB - 8)
            data = generator.randbytes(8) if generator.random() < 0.8 else bytes(8)
            if generator.random() < 0.5:
                memory.write(gpa, data)
            else:
                memory.regions[0].view[gpa : gpa + 8] = data
                vm.guest |= {gpa // PAGE, (gpa + 7) // PAGE}
        moments.append((tracked.save(set()), bytes(memory.regions[0].view)))
        if generator.random() < 0.3:
            image, contents = generator.choice(moments)
            tracked.load(image, set())
            assert memory.regions[0].view == contents
    for image, contents in generator.sample(moments, 100):
        tracked.load(image, set())
        assert memory.regions[0].view == contents
    tracked.close()
    memory.close()


def test_a_late_log_begins_with_the_first_question() -> None:
    memory, vm = GuestMemory(2 * MIB), FakeVm()
    memory.write(5 * PAGE, page(5))
    memory.write(6 * PAGE, page(6))
    tracked = Tracked(memory, vm, late=True)  # type: ignore[arg-type]
    assert vm.flags == []
    region = memory.regions[0].view  # as the guest writes: nobody notes it
    region[6 * PAGE : 7 * PAGE] = pages.ZERO
    region[9 * PAGE - 1] = 1
    found: set[int] = set()
    tracked.readers.append(found)
    tracked.collect(set())
    assert vm.flags == [1] and found == {5, 6, 8}
    found.clear()
    vm.guest = {3}
    tracked.collect(set())
    assert vm.flags == [1] and found == {3}
    tracked.close()
    memory.close()
