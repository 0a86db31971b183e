"""One moment of a machine, but for what its memory and disks hold (``versions``): small enough for one at every exit.

What is as it was at the checkpoint before is shared with it: a vCPU state's parts, devices' states as bytes, interrupt controllers.

A moment's digest is a number for the whole state: two moments with the same digest go on the same way. Left out of it is what goes on by
itself while the machine stands still, because it follows the clocks of the host:

    vCPU        the time stamp counter, MPERF and APERF, the TSC deadline (which KVM clears when it has passed); the local APIC
                timer's current count
    PIT         the count itself, that is, the host's time at which a channel was loaded; kvmclock
    devices     the RTC's distance from the host's clock and its time-driven flags; when a device last looked at the clock
    MSRs        the upper halves of IA32_SYSENTER_ESP and _EIP: the guest may write 64 bits, of user space KVM takes 32 for a guest whose
                CPUID is AMD's (where SYSENTER does not exist in long mode)
    XSAVE       whether a component that is as after reset is marked so (XSTATE_BV): KVM's own affair, not visible to the guest

All of these are kept in a checkpoint and put back with it as far as KVM takes them, and go on from there. A KVM that does not let user
space write the TSC (a software KVM that shows guests the host's) goes on with its own.
"""

from __future__ import annotations

from hashlib import blake2b
from time import time_ns

from pyvmm.kvm import state as kvm_state
from pyvmm.kvm.state import VcpuState, VmState
from pyvmm.record import Record
from pyvmm.snapshot import capture, parts
from pyvmm.snapshot.plain import freeze, thaw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvmm.machine import Machine
    from pyvmm.observe.explain.layout import Layout

_CLOCK_MSRS = frozenset((0x10, 0xE7, 0xE8, 0x6E0))  # IA32_TSC, IA32_MPERF, IA32_APERF, IA32_TSC_DEADLINE
_SYSENTER, _LOW = (0x175, 0x176), (1 << 32) - 1
_CURRENT_COUNT = slice(0x390, 0x394)  # SDM volume 3A, 11.5.4
_XSTATE_BV = slice(512, 520)  # SDM volume 1, 13.4.2
_PIT_CHANNEL, _PIT_LOAD_TIME = 24, slice(16, 24)  # struct kvm_pit_channel_state: count_load_time
_DEVICE_CLOCKS = frozenset(("clock", "seen", "half_periods", "offset", "taken", "raised"))
_RTC_FLAGS = "flags"  # register C: the RTC sets its bits as time passes
_MOST_MSRS = 16
_OVERHEAD = 900  # bytes of a checkpoint's own objects, about


class Checkpoint(Record):
    """A machine between two instructions of every vCPU, at rest.

    Fields:
        number: the exit it is behind.
        clock, wall, asleep, vm: as in ``capture.Snapshot``.
        processors: the vCPUs' states, but of the MSRs only those that are not as in ``msrs``; ``vcpus`` has them whole.
        msrs: of each vCPU all MSRs at some checkpoint before: a hundred, of which clocks change.
        devices: name -> state (``parts.frozen``).
        layout: who was where on the buses.
        said: bytes each console line had taken.
    """

    number: int
    clock: int
    wall: int
    asleep: bool
    processors: list[VcpuState]
    msrs: list[dict[int, int]]
    vm: VmState
    devices: dict[str, bytes]
    layout: Layout
    said: list[int]

    @property
    def vcpus(self) -> list[VcpuState]:
        """As in ``capture.Snapshot``."""
        return [state.replace(msrs={**all_, **state.msrs}) for state, all_ in zip(self.processors, self.msrs, strict=True)]


def take(machine: Machine, number: int, layout: Layout, said: list[int], before: Checkpoint | None = None) -> Checkpoint:
    """A checkpoint of a machine that is quiet, sharing with ``before`` what is the same."""
    devices, vm = parts.frozen(machine), kvm_state.get_vm(machine.vm)
    processors = [kvm_state.get(vcpu, before.processors[index] if before is not None else None) for index, vcpu in enumerate(machine.vcpus)]
    msrs = before.msrs if before is not None else [{} for _ in processors]
    msrs = [_shared_msrs(state, all_) for state, all_ in zip(processors, msrs, strict=True)]
    if before is not None:
        old = before.devices
        for name, state in devices.items():
            if old.get(name) == state:
                devices[name] = old[name]
        if devices == old:
            devices = old
        for name in ("chips", "pit"):
            if getattr(vm, name) == getattr(before.vm, name):
                setattr(vm, name, getattr(before.vm, name))
    return Checkpoint(
        number=number,
        clock=machine.clock(),
        wall=time_ns(),
        asleep=machine.asleep,
        processors=processors,
        msrs=msrs,
        vm=vm,
        devices=devices,
        layout=layout,
        said=said,
    )


def _shared_msrs(state: VcpuState, all_: dict[int, int]) -> dict[int, int]:
    """Leaves in a state only what is not in ``all_``; returns that, or its own when it has too little in common with it."""
    changes = {index: value for index, value in state.msrs.items() if all_.get(index) != value}
    if len(changes) > _MOST_MSRS or len(all_) != len(state.msrs):
        all_, changes = state.msrs, {}
    state.msrs = changes
    return all_


def put(machine: Machine, checkpoint: Checkpoint, put_memory: Callable[[], None]) -> None:
    """Takes a machine, which is quiet, back to it."""
    states = parts.check(machine, {name: thaw(state) for name, state in checkpoint.devices.items()})
    capture.put(machine, checkpoint, states, put_memory)


def cost(checkpoint: Checkpoint, before: Checkpoint | None) -> int:
    """Bytes it takes beside what it shares, about."""
    total = _OVERHEAD
    for index, state in enumerate(checkpoint.processors):
        old = dict(before.processors[index]) if before is not None else {}
        total += sum(_size(value) for name, value in state if old.get(name) is not value)
        if before is None or checkpoint.msrs[index] is not before.msrs[index]:
            total += _size(checkpoint.msrs[index])
    if before is None or checkpoint.vm.chips is not before.vm.chips:
        total += sum(map(len, checkpoint.vm.chips))
    if before is None or checkpoint.devices is not before.devices:
        known = before.devices if before is not None else {}
        total += 100 * len(checkpoint.devices)
        total += sum(len(state) for name, state in checkpoint.devices.items() if known.get(name) is not state)
    return total


def _size(value: Any) -> int:
    return len(value) + 33 if isinstance(value, bytes) else 80 * len(value) if isinstance(value, dict) else 0


# --- digests ---------------------------------------------------------------------------------------------------------
def digests(checkpoint: Checkpoint, memory: Iterable[tuple[int, bytes]], disks: dict[str, dict[int, bytes]]) -> dict[str, str]:
    """What the module says, each part by itself.

    Args:
        memory: (page number, contents); pages of zeros do not count.
        disks: name -> block -> contents of what the history has of it.
    """
    found: dict[str, bytes] = {
        "asleep": bytes([checkpoint.asleep]),
        "said": freeze(checkpoint.said),
        "chips": b"".join(checkpoint.vm.chips),
    }
    found["pit"] = _still_pit(checkpoint.vm.pit)
    for index, vcpu in enumerate(checkpoint.vcpus):
        for name, value in vcpu:
            found[f"vcpu{index}.{name}"] = freeze(_still(name, value))
    for name, frozen in checkpoint.devices.items():
        moving = _DEVICE_CLOCKS | {_RTC_FLAGS} if name == "rtc" else _DEVICE_CLOCKS
        found[name] = freeze({key: value for key, value in thaw(frozen).items() if key not in moving})
    for number, page in memory:
        if page.strip(b"\0"):
            found[f"page {number:#x}"] = page
    for name, blocks in disks.items():
        found.update((f"{name} block {number}", block) for number, block in blocks.items())
    return {name: blake2b(data, digest_size=8).hexdigest() for name, data in found.items()}


def digest(parts_: dict[str, str]) -> str:
    """One number for all of them."""
    return blake2b("\n".join(f"{name} {value}" for name, value in sorted(parts_.items())).encode(), digest_size=16).hexdigest()


def _still(name: str, value: Any) -> Any:
    if name == "msrs":
        return sorted((index, each & _LOW if index in _SYSENTER else each) for index, each in value.items() if index not in _CLOCK_MSRS)
    if name in ("lapic", "xsave"):
        return _without(value, _CURRENT_COUNT if name == "lapic" else _XSTATE_BV)
    return value


def _still_pit(pit: bytes) -> bytes:
    for channel in range(3):
        start = channel * _PIT_CHANNEL
        pit = _without(pit, slice(start + _PIT_LOAD_TIME.start, start + _PIT_LOAD_TIME.stop))
    return pit


def _without(data: bytes, what: slice) -> bytes:
    return data[: what.start] + bytes(len(data[what])) + data[what.stop :]
