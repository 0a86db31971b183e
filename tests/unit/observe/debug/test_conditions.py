"""Breakpoints as data: which exits they hit."""

from __future__ import annotations

from struct import pack_into

import pytest

from pyvmm import exits
from pyvmm.kvm import uapi
from pyvmm.observe.debug.conditions import ADDRESS, EXIT, MMIO, PORT, READ, WRITE, Breakpoint, Breakpoints


def port_exit(port: int, data: bytes, size: int = 1, out: bool = True) -> bytes:
    raw = bytearray(3 * 4096)
    pack_into("<I", raw, 8, uapi.KVM_EXIT_IO)
    pack_into("<BBHIQ", raw, 0x20, out, size, port, len(data) // size, 0x1000)
    raw[0x1000 : 0x1000 + len(data)] = data if out else bytes(len(data))
    return exits.freeze(memoryview(raw))


def mmio_exit(address: int, data: bytes, write: bool = True) -> bytes:
    raw = bytearray(3 * 4096)
    pack_into("<I", raw, 8, uapi.KVM_EXIT_MMIO)
    pack_into("<Q8sIB", raw, 0x20, address, data, len(data), write)
    return exits.freeze(memoryview(raw))


@pytest.mark.parametrize(
    ("wanted", "frozen", "answer", "hit"),
    [
        ({"kind": EXIT, "first": uapi.KVM_EXIT_IO, "last": uapi.KVM_EXIT_IO}, port_exit(0x80, b"a"), b"", True),
        ({"kind": EXIT, "first": uapi.KVM_EXIT_MMIO, "last": uapi.KVM_EXIT_MMIO}, port_exit(0x80, b"a"), b"", False),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3FF}, port_exit(0x3F8, b"a"), b"", True),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3FF}, port_exit(0x3F7, b"a"), b"", False),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3FF}, port_exit(0x3F6, b"abcd", 4), b"", True),  # the access reaches into it
        ({"kind": PORT, "first": 0x3F8, "last": 0x3FF, "direction": READ}, port_exit(0x3F8, b"a"), b"", False),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3F8, "direction": WRITE, "value": ord("b")}, port_exit(0x3F8, b"abc"), b"", True),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3F8, "direction": WRITE, "value": ord("x")}, port_exit(0x3F8, b"abc"), b"", False),
        ({"kind": PORT, "first": 0x3FD, "last": 0x3FD, "value": 0x20, "mask": 0x20}, port_exit(0x3FD, b"\0", out=False), b"\x60", True),
        ({"kind": PORT, "first": 0x3FD, "last": 0x3FD, "value": 0x20, "mask": 0x20}, port_exit(0x3FD, b"\0", out=False), b"\x40", False),
        ({"kind": PORT, "first": 0xCF9, "last": 0xCF9, "value": 6}, port_exit(0xCF8, b"\0\6\0\0", 4), b"", True),  # a byte of a dword
        ({"kind": MMIO, "first": 0xFEB0_0050, "last": 0xFEB0_0053}, mmio_exit(0xFEB0_0050, b"\1\0\0\0"), b"", True),
        ({"kind": MMIO, "first": 0xFEB0_0050, "last": 0xFEB0_0053, "direction": READ}, mmio_exit(0xFEB0_0050, b"\1\0\0\0"), b"", False),
        ({"kind": MMIO, "first": 0x3F8, "last": 0x3F8}, port_exit(0x3F8, b"a"), b"", False),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3F8, "vcpu": 1}, port_exit(0x3F8, b"a"), b"", False),
        ({"kind": PORT, "first": 0x3F8, "last": 0x3F8, "enabled": False}, port_exit(0x3F8, b"a"), b"", False),
        ({"kind": ADDRESS, "first": 0x3F8, "last": 0x3F8}, port_exit(0x3F8, b"a"), b"", False),
    ],
)
def test_which_exits_hit(wanted: dict[str, object], frozen: bytes, answer: bytes, hit: bool) -> None:
    breakpoints = Breakpoints()
    added = breakpoints.add(Breakpoint(**wanted))  # type: ignore[arg-type]
    assert breakpoints.hits_at(frozen, 0, answer) == ([added.number] if hit else [])


def test_damaged_exits_hit_nothing_and_hurt_nobody() -> None:
    breakpoints = Breakpoints()
    breakpoints.add(Breakpoint(kind=PORT, first=0, last=0xFFFF, value=1))
    zero_size = bytearray(port_exit(0x80, b""))
    zero_size[0x21] = 0
    assert breakpoints.hits_at(bytes(zero_size), 0) == []
    assert breakpoints.hits_at(b"", 0) == []


def test_numbers_are_never_used_again() -> None:
    breakpoints = Breakpoints()
    first = breakpoints.add(Breakpoint(kind=ADDRESS, first=1, last=1))
    assert breakpoints.remove(first.number) and not breakpoints.remove(first.number)
    assert breakpoints.add(Breakpoint(kind=ADDRESS, first=1, last=1)).number == first.number + 1


def test_reached_counts_ignores_and_drops_the_temporary() -> None:
    breakpoints = Breakpoints()
    patient = breakpoints.add(Breakpoint(kind=ADDRESS, first=1, last=1, ignore=2))
    once = breakpoints.add(Breakpoint(kind=ADDRESS, first=1, last=1, temporary=True))
    both = [patient.number, once.number]
    assert breakpoints.reached(both) == [once.number]
    assert breakpoints.reached(both) == []
    assert breakpoints.reached(both) == [patient.number]
    assert patient.hits == 3 and len(breakpoints) == 1
