"""Guest memory and drives in time, beside models that keep every moment whole."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.errors import GuestFault
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from pyvmm.observe.debug.drives import Drives
from pyvmm.observe.debug.ram import Ram
from pyvmm.snapshot.pages import Tracked
from tests.support.disk import FakeDisk
from tests.unit.snapshot.test_pages import FakeVm


class FakeMachine:
    """As much of one as has memory and drives."""

    def __init__(self) -> None:
        self.memory, self.vm = GuestMemory(1 * MIB), FakeVm()
        self.cards: Any = None
        self.devices: dict[str, Any] = {}
        self.drives: dict[str, Any] = {}
        self.tracked: Tracked | None = None

    def track(self, on: bool) -> None:
        if not on and self.tracked is not None:
            self.tracked.close()
        self.tracked = (self.tracked or Tracked(self.memory, self.vm)) if on else None  # type: ignore[arg-type]

    def scribble(self, generator: random.Random) -> None:
        """The guest, or a device, writes something."""
        gpa, data = generator.randrange(0, 20 * PAGE), generator.randbytes(8)
        if generator.random() < 0.5:
            self.memory.write(gpa, data)
        else:
            self.memory.regions[0].view[gpa : gpa + 8] = data
            self.vm.guest |= {gpa // PAGE, (gpa + 7) // PAGE}


@pytest.mark.parametrize("seed", range(6))
def test_memory_beside_a_model(seed: int) -> None:
    generator = random.Random(seed)
    machine = FakeMachine()
    machine.memory.write(0x3000, b"before")
    ram = Ram(machine)  # type: ignore[arg-type]
    whole = machine.memory.regions[0].view
    model = {0: bytes(whole)}
    last = 0
    for _ in range(250):
        for _ in range(generator.randint(0, 3)):
            machine.scribble(generator)
        choice, kept = generator.random(), sorted(model)
        if choice < 0.5:
            last += generator.randint(1, 3)
            ram.take(last)
            model[last] = bytes(whole)
        elif choice < 0.75:
            goal = generator.choice(kept)
            ram.put(goal)
            machine.scribble(generator)
            ram.mend()
            assert whole == model[goal]
            if goal != kept[-1]:
                if generator.random() < 0.5:
                    ram.put(kept[-1])
                else:
                    machine.scribble(generator)
                    ram.forget_after(goal)
                    ram.take(goal)
                    model = {number: data for number, data in model.items() if number < goal} | {goal: bytes(whole)}
                    last = goal
        elif len(kept) > 2:
            index = generator.randrange(1, len(kept) - 1)
            ram.merge(kept[index], kept[index + 1])
            del model[kept[index]]
        for number in generator.sample(sorted(model), min(3, len(model))):
            past = ram.at(number)
            gpa = generator.randrange(0, 20 * PAGE)
            assert past.read(gpa, 5000) == model[number][gpa : gpa + 5000]
            contents = dict(ram.contents(number))
            assert b"".join(contents.get(page, bytes(PAGE)) for page in range(21)) == model[number][: 21 * PAGE]
    with pytest.raises(GuestFault):
        ram.at(0).read(MIB - 1, 2)
    assert ram.at(0).unpack("<6s", 0x3000) == (b"before",)
    assert ram.size > 0
    ram.close()
    assert machine.tracked is None
    machine.memory.close()


def test_somebody_else_s_record_stays() -> None:
    machine = FakeMachine()
    machine.track(True)
    ram = Ram(machine)  # type: ignore[arg-type]
    ram.close()
    assert machine.tracked is not None and len(machine.tracked.readers) == 1
    machine.memory.close()


@pytest.mark.parametrize("seed", range(4))
def test_drives_beside_a_model(seed: int) -> None:
    generator = random.Random(seed)
    machine, disk, readonly = FakeMachine(), FakeDisk(64 * 512), FakeDisk(512, readonly=True)
    machine.drives = {"one": disk, "other": readonly}
    device, reader = SimpleNamespace(backend=disk), SimpleNamespace(backend=readonly)
    wire = SimpleNamespace(backend=object())  # a network card's
    machine.cards = SimpleNamespace(transports=[SimpleNamespace(core=SimpleNamespace(device=each)) for each in (device, reader, wire)])
    drives = Drives(machine)  # type: ignore[arg-type]
    assert reader.backend is readonly
    layer: Any = device.backend

    def whole() -> bytes:
        view = memoryview(bytearray(disk.size))
        layer.read(0, [view])
        return bytes(view)

    def scribble() -> None:
        start = generator.randrange(disk.size)
        layer.write(start, [memoryview(bytearray(generator.randbytes(min(5000, disk.size - start))))])

    model, last = {0: whole()}, 0
    drives.take(0)
    for _ in range(200):
        for _ in range(generator.randint(0, 2)):
            scribble()
        choice, kept = generator.random(), sorted(model)
        if choice < 0.5:
            last += generator.randint(1, 3)
            drives.take(last)
            model[last] = whole()
        elif choice < 0.75:
            goal = generator.choice(kept)
            drives.put(goal)
            assert whole() == model[goal]
            if goal != kept[-1]:
                base = generator.choice([each for each in kept if each <= goal])
                if generator.random() < 0.4:
                    drives.put(kept[-1])
                else:  # from an earlier checkpoint it has come here once more, and somewhere else
                    drives.put(base)
                    scribble()
                    drives.forget_after(goal)
                    drives.take(goal)
                    model = {number: data for number, data in model.items() if number < goal} | {goal: whole()}
                    last = goal
        elif len(kept) > 2:
            index = generator.randrange(1, len(kept) - 1)
            drives.merge(kept[index], kept[index + 1])
            del model[kept[index]]
        assert drives.contents(sorted(model)[-1]).keys() == drives.present().keys() == {disk.name}
    now = whole()
    drives.close()
    assert device.backend is disk
    assert disk.data == now
