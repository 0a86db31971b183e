"""Digests of a moment: what follows the host's clocks is not in them, everything else is; and what a checkpoint costs."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.devices.rtc import RtcState
from pyvmm.devices.serial import SerialState
from pyvmm.kvm.state import VcpuState, VmState
from pyvmm.layout import PAGE
from pyvmm.observe.debug.checkpoint import Checkpoint, _shared_msrs, cost, digest, digests
from pyvmm.observe.explain.layout import Layout
from pyvmm.snapshot.plain import freeze

PIT = 2 * 24 + 16  # count_load_time of channel 2


def vcpu(**changes: Any) -> VcpuState:
    fields: dict[str, Any] = {"regs": bytes(144), "sregs": bytes(320), "xsave": bytes(4096), "xcrs": bytes(392), "lapic": bytes(1024)}
    fields |= {"msrs": {0x10: 5, 0x6E0: 6, 0x175: 0, 0xC0000080: 7}, "events": bytes(64), "debugregs": bytes(128)}
    fields |= {"mp_state": 0, "tsc_khz": 1}
    return VcpuState(**{**fields, **changes})


def checkpoint(**changes: Any) -> Checkpoint:
    processors = changes.pop("vcpus", [vcpu()])
    fields: dict[str, Any] = {"number": 1, "clock": 2, "wall": 3, "asleep": False, "layout": Layout(), "said": [4]}
    fields |= {"processors": processors, "msrs": [{} for _ in processors]}
    fields["vm"] = VmState(chips=(bytes(512),) * 3, pit=bytes(112), clock=5, taken=6)
    fields["devices"] = {"serial0": freeze(SerialState()), "rtc": freeze(RtcState())}
    return Checkpoint(**{**fields, **changes})


def number(found: Checkpoint, memory: tuple[tuple[int, bytes], ...] = (), disks: dict[str, dict[int, bytes]] | None = None) -> str:
    return digest(digests(found, memory, disks or {}))


def at(size: int, where: int) -> bytes:
    """Zeros, and one byte that is none."""
    return bytes(where) + b"\1" + bytes(size - where - 1)


@pytest.mark.parametrize(
    "change",
    [
        {"clock": 9},
        {"wall": 9},
        {"vm": VmState(chips=(bytes(512),) * 3, pit=at(112, PIT), clock=9, taken=9)},
        {"vcpus": [vcpu(msrs={0x10: 9, 0x6E0: 0, 0x175: 0, 0xC0000080: 7})]},
        {"vcpus": [vcpu(msrs={0x10: 5, 0x6E0: 6, 0x175: 8 << 32, 0xC0000080: 7})]},
        {"vcpus": [vcpu(lapic=at(1024, 0x390))]},
        {"vcpus": [vcpu(xsave=at(4096, 512))]},
        {"devices": {"serial0": freeze(SerialState()), "rtc": freeze(RtcState(offset=9, flags=0x40))}},
    ],
    ids=str,
)
def test_clocks_do_not_count(change: dict[str, Any]) -> None:
    assert number(checkpoint(**change)) == number(checkpoint())


@pytest.mark.parametrize(
    "change",
    [
        {"asleep": True},
        {"said": [5]},
        {"vm": VmState(chips=(bytes(512), at(512, 511), bytes(512)), pit=bytes(112), clock=5, taken=6)},
        {"vm": VmState(chips=(bytes(512),) * 3, pit=at(112, 0), clock=5, taken=6)},
        {"vcpus": [vcpu(), vcpu()]},
        {"vcpus": [vcpu(msrs={0x10: 5, 0x6E0: 6, 0x175: 0, 0xC0000080: 8})]},
        {"vcpus": [vcpu(msrs={0x10: 5, 0x6E0: 6, 0x175: 8, 0xC0000080: 7})]},
        *({"vcpus": [vcpu(**{name: at(len(value), 0)})]} for name, value in vcpu() if isinstance(value, bytes)),
        {"vcpus": [vcpu(lapic=at(1024, 0x380))]},
        {"vcpus": [vcpu(mp_state=3)]},
        {"devices": {"serial0": freeze(SerialState(ier=1)), "rtc": freeze(RtcState())}},
        {"devices": {"serial0": freeze(SerialState())}},
    ],
    ids=str,
)
def test_everything_else_does(change: dict[str, Any]) -> None:
    assert number(checkpoint(**change)) != number(checkpoint())


def test_msrs_are_whole_again() -> None:
    state = vcpu()
    wanted = dict(state.msrs)
    all_ = _shared_msrs(state, {0x10: 4, 0x6E0: 6, 0x175: 0, 0xC0000080: 7})
    assert state.msrs == {0x10: 5}
    assert checkpoint(vcpus=[state], msrs=[all_]).vcpus[0].msrs == wanted
    state = vcpu()
    assert _shared_msrs(state, {}) == wanted
    assert state.msrs == {}


def test_memory_and_disks_count_but_pages_of_zeros() -> None:
    base = number(checkpoint())
    assert number(checkpoint(), ((7, bytes(PAGE)),)) == base
    assert number(checkpoint(), ((7, at(PAGE, 9)),)) != base
    assert number(checkpoint(), ((7, at(PAGE, 9)),)) != number(checkpoint(), ((8, at(PAGE, 9)),))
    assert number(checkpoint(), disks={"disk0": {3: bytes(4096)}}) != base


def test_what_is_shared_costs_nothing() -> None:
    first = checkpoint()
    second = checkpoint(vcpus=[first.processors[0].replace(regs=at(144, 0))], vm=first.vm, devices=first.devices)
    second.msrs = first.msrs
    whole, little = cost(first, None), cost(second, first)
    assert whole > 8000
    assert little < 1200
