"""What debug registers can watch (SDM volume 3B, 18.2.5: 1, 2, 4 or 8 bytes, aligned), and what is chosen for an address."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pyvmm.kvm import structs
from pyvmm.observe.debug import abilities, conditions
from pyvmm.observe.debug.conditions import Breakpoint, Breakpoints
from pyvmm.observe.debug.mechanisms import TRAP, WAITING, Mechanisms, aligned


@pytest.mark.parametrize(
    ("start", "end", "pieces"),
    [
        (0x1000, 0x1001, [(0x1000, 1)]),
        (0x1000, 0x1008, [(0x1000, 8)]),
        (0x1001, 0x1005, [(0x1001, 1), (0x1002, 2), (0x1004, 1)]),
        (0x1004, 0x1010, [(0x1004, 4), (0x1008, 8)]),
        (0x1000, 0x1003, [(0x1000, 2), (0x1002, 1)]),
        (0x1000, 0x1000, []),
    ],
)
def test_pieces_are_aligned_and_cover_the_range(start: int, end: int, pieces: list[tuple[int, int]]) -> None:
    assert list(aligned(start, end)) == pieces


def test_every_short_range() -> None:
    for start in range(0x1000, 0x1010):
        for length in range(1, 33):
            pieces = list(aligned(start, start + length))
            assert [at for at, size in pieces for at in range(at, at + size)] == list(range(start, start + length))
            assert all(size in (1, 2, 4, 8) and not at % size for at, size in pieces)


class FakeMachine:
    """One vCPU, and 1 MiB of RAM at 0."""

    def __init__(self, paging: bool) -> None:
        self.memory = SimpleNamespace(
            contains=lambda gpa, length: gpa + length <= 1 << 20, read=lambda gpa, length: bytes(length), unpack=lambda code, gpa: (0,)
        )
        self.sregs = structs.kvm_sregs()
        self.sregs.cr0 = 0x8000_0001 if paging else 1
        self.vcpus = [SimpleNamespace(get_sregs=lambda: self.sregs)]


@pytest.mark.parametrize(
    ("paging", "known", "means"),
    [
        (False, 0x4000, TRAP),  # the image says where it loads what will be linear 0xc0004000
        (False, None, WAITING),  # it does not: to be looked for when there is paging
        (True, None, WAITING),  # no page yet
    ],
)
def test_a_32_bit_kernels_address_before_it_has_paging(
    monkeypatch: pytest.MonkeyPatch, paging: bool, known: int | None, means: str
) -> None:
    """With paging off a linear address is physical. That of a kernel linked at 3 GiB is no RAM then, but will be."""
    monkeypatch.setattr(abilities, "able", lambda what, modes=(): False)
    breakpoints = Breakpoints()
    each = breakpoints.add(Breakpoint(kind=conditions.ADDRESS, first=0xC000_4000, last=0xC000_4000))
    mechanisms = Mechanisms(FakeMachine(paging), breakpoints)  # type: ignore[arg-type]
    mechanisms.physical = lambda linear: known
    mechanisms.prepare(0)
    assert each.means == means
    assert not mechanisms.overdue(0)
