"""Counting exits and keeping the last ones, with made-up run pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.kvm import structs, uapi
from pyvmm.runloop import Observer
from pyvmm.testing import exits
from pyvmm.testing.exits import Exits
from tests.unit.test_runloop import FakeVcpu


class Vcpu(FakeVcpu):
    """With registers, and observers that are called as a run loop calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.rip = 0
        self.observers: list[Observer] = []

    def get_regs(self) -> Any:
        return SimpleNamespace(rip=self.rip)

    def get_sregs(self) -> Any:
        return SimpleNamespace()

    def observe(self, observer: Observer) -> None:
        self.observers.append(observer)

    def exit(self, rip: int, answer: bytes | None = b"") -> None:
        """One exit, as the page has it; ``answer`` None: it is never answered."""
        self.rip = rip
        reason = self.words[2]
        for observer in self.observers:
            assert observer.before is not None
            assert observer.after is not None
            observer.before(reason)
            if answer is not None:
                at = 0x1000 if reason == uapi.KVM_EXIT_IO else structs.RUN_MMIO_DATA
                self.page[at : at + len(answer)] = answer
                observer.after(reason)


@pytest.fixture
def vcpus() -> list[Vcpu]:
    return [Vcpu(), Vcpu()]


@pytest.fixture
def seen(vcpus: list[Vcpu]) -> Exits:
    found = Exits()
    found.watch(SimpleNamespace(vcpus=vcpus, runloops=vcpus))  # type: ignore[arg-type]
    return found


def test_counts_over_all_vcpus(seen: Exits, vcpus: list[Vcpu]) -> None:
    for number, vcpu in enumerate(vcpus):
        vcpu.io(1, 0x3F8, 1, b"x")
        vcpu.exit(1)
        vcpu.io(0, 0x3F8 + number, 2)
        vcpu.exit(2, b"\1\2")
        vcpu.mmio(0xFFFF_FFFF_0000_0000, 4, b"data")
        vcpu.exit(3)
        vcpu.words[2] = uapi.KVM_EXIT_HLT
        vcpu.exit(4)
    assert seen.count() == 8
    assert seen.count(port=0x3F8) == 3
    assert seen.count("io", port=0x3F8, write=True) == 2
    assert seen.count(write=True) == 4
    assert seen.count(address=0xFFFF_FFFF_0000_0000, write=True) == 2
    assert seen.count(address=0x3F8) == 0
    assert seen.count("hlt") == seen.count(uapi.KVM_EXIT_HLT) == seen.count("KVM_EXIT_HLT") == 2


def test_the_same_once_more_is_one_entry(seen: Exits, vcpus: list[Vcpu]) -> None:
    for _ in range(5):
        vcpus[0].io(0, 0x3FD, 1)
        vcpus[0].exit(7, b"\x60")
    assert [(each.times, each.answer) for each in seen._last] == [(1, b"\x60"), (4, b"\x60")], "the first found another byte in the page"
    vcpus[0].io(0, 0x3FD, 1, b"\x60")
    vcpus[0].exit(7, b"\x61")
    assert [(each.times, each.answer) for each in seen._last][1:] == [(4, b"\x60"), (1, b"\x61")]
    vcpus[0].io(0, 0x3FD, 1, b"\x60")
    vcpus[0].exit(8, b"\x60")
    assert len(seen._last) == 4, "another instruction is another exit"


def test_one_that_was_never_answered(seen: Exits, vcpus: list[Vcpu]) -> None:
    vcpus[0].io(0, 0x3FD, 1)
    vcpus[0].exit(7, None)
    assert seen._last[-1].answer is None


def test_answers_go_to_the_vcpu_that_asked(seen: Exits, vcpus: list[Vcpu]) -> None:
    first, second = vcpus
    first.mmio(0xD000_0000, 4, None)
    second.mmio(0xD000_0000, 4, None)
    assert first.observers[0].before
    assert first.observers[0].after
    first.observers[0].before(uapi.KVM_EXIT_MMIO)
    second.exit(1, b"2222")
    first.page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + 4] = b"1111"
    first.observers[0].after(uapi.KVM_EXIT_MMIO)
    assert [(each.vcpu, each.answer) for each in seen._last] == [(0, b"1111"), (1, b"2222")]


def test_a_guest_that_names_every_address_is_counted_within_bounds(seen: Exits, vcpus: list[Vcpu], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "_KINDS", 10)
    for number in range(1000):
        vcpus[0].mmio(number << 12, 4, b"data")
        vcpus[0].exit(number)
    assert seen.count("mmio") == 1000
    assert seen.count(address=0) == 1
    assert len(seen._counts[0]) <= 11
    assert len(seen._last) == exits.KEPT


def test_names_there_are_not() -> None:
    with pytest.raises(ValueError, match="no exit is called 'mimo'; there are: .*hlt"):
        Exits().count("mimo")


def test_nothing_was_watched() -> None:
    assert Exits().explained() == []
    assert Exits().count() == 0
