"""A machine's whole state: taken, and put back into the machine it came from (time travel) or one like it.

What is in it: vCPUs, interrupt controllers, PIT, kvmclock; every device's state; guest memory; the clock devices see. What is not:
the contents of disks, and what is on its way in a network or waits at a console. All clocks go on where they stood, the RTC's too.
"""

from __future__ import annotations

from time import time_ns

from pyvmm.errors import ConfigError
from pyvmm.kvm import state as kvm_state
from pyvmm.kvm import uapi
from pyvmm.kvm.state import VcpuState, VmState
from pyvmm.record import Record
from pyvmm.snapshot import pages, parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from pyvmm.machine import Machine
    from pyvmm.snapshot.pages import Image

    class Still(Protocol):
        """What ``put`` puts back of the kernel's part; see Snapshot."""

        clock: int
        wall: int
        asleep: bool
        vm: VmState

        @property
        def vcpus(self) -> list[VcpuState]: ...


class Snapshot(Record):
    """A machine between two instructions of every vCPU.

    Fields:
        fingerprint: what a machine must be to take it; see ``fingerprint``.
        clock: of ``Machine.clock``, nanoseconds.
        wall: the host's time of day then, nanoseconds since 1970.
        asleep: in S3.
        vcpus, vm: the kernel's part.
        devices: name -> state, plain data; see ``parts``.
        memory: contents of RAM.
        notes: what the snapshot does not hold, in words.
    """

    fingerprint: dict[str, Any]
    clock: int
    wall: int
    asleep: bool
    vcpus: list[VcpuState]
    vm: VmState
    devices: parts.States
    memory: Image
    notes: list[str]


def fingerprint(machine: Machine) -> dict[str, Any]:
    """What two machines must have in common, as plain data by the names of the command line."""
    config = machine.config
    return {
        "-m": config.memory,
        "-smp": config.smp,
        "-cpu": config.cpu,
        "CPUID": [list(leaf) for leaf in machine.cpu.leaves(0)],
        "-machine": [f"{key}={value}" for key, value in config.machine],
        "-serial": [serial.kind != "none" for serial in config.serials],
        "-device": [",".join((each.name, *(f"{key}={value}" for key, value in each.options))) for each in config.devices],
        "-drive": [[name, drive.size, drive.readonly] for name, drive in machine.drives.items()],
    }


def refuse_flash(machine: Machine) -> None:
    """ConfigError for a machine with flash chips: their contents are in no snapshot, and change by the guest's doing."""
    if "pflash0" in machine.devices or "pflash1" in machine.devices:
        raise ConfigError("-drive if=pflash: no snapshot or history of flash that can be written: give the firmware as -bios")


def save(machine: Machine) -> Snapshot:
    """Takes a snapshot; pauses the machine for it. See ``Machine.save``."""
    refuse_flash(machine)
    with machine.quiesce():
        tracked = machine.tracked
        memory = pages.scan(machine.memory) if tracked is None else tracked.save(parts.lasting(machine))
        return Snapshot(
            fingerprint=fingerprint(machine),
            clock=machine.clock(),
            wall=time_ns(),
            asleep=machine.asleep,
            vcpus=[kvm_state.get(vcpu) for vcpu in machine.vcpus],
            vm=kvm_state.get_vm(machine.vm),
            devices=parts.save(machine),
            memory=memory,
            notes=[
                f"the contents of disk {name} are not in it: keep a copy of {drive.name}"
                for name, drive in machine.drives.items()
                if not drive.readonly
            ],
        )


def load(machine: Machine, snapshot: Snapshot) -> None:
    """Puts a snapshot back. See ``Machine.load``."""
    refuse_flash(machine)
    check(machine, snapshot.fingerprint)
    with machine.quiesce():
        states = parts.check(machine, snapshot.devices)
        put(machine, snapshot, states, lambda: _load_memory(machine, snapshot.memory))


def put(machine: Machine, still: Still, states: dict[str, Any], put_memory: Callable[[], None]) -> None:
    """Gives a machine that is quiet another state: devices as ``parts.check`` has them, memory by ``put_memory``, then the kernel's."""
    if machine.coalesced is not None:
        machine.coalesced.stop()
    machine.clock.set(still.clock)
    states["rtc"].offset += still.wall - time_ns()
    put_memory()
    parts.load(machine, states)
    # Lines have moved, which the interrupt controllers took for edges: their state comes after, and then the local APICs'
    kvm_state.put_vm(machine.vm, still.vm)
    for vcpu, state in zip(machine.vcpus, still.vcpus, strict=True):
        kvm_state.put(vcpu, state)
    machine.asleep = still.asleep


def _load_memory(machine: Machine, image: Image) -> None:
    tracked = machine.tracked
    if pages.fill(machine.memory, image) if tracked is None else tracked.load(image, parts.lasting(machine)):
        forget_shadows(machine)


def forget_shadows(machine: Machine) -> None:
    """User space has written RAM behind the vCPUs' backs. Where KVM shadows page tables it does not see that: without slots there are
    no shadows (and no other way to be rid of them). Their dirty log starts anew."""
    flags = uapi.KVM_MEM_LOG_DIRTY_PAGES if machine.tracked is not None else 0
    for slot in machine.memory.slots:
        machine.vm.set_memory_region(slot.number, slot.gpa, 0, slot.host_address)
        machine.vm.set_memory_region(slot.number, slot.gpa, slot.size, slot.host_address, flags | slot.flags)


def check(machine: Machine, found: dict[str, Any]) -> None:
    """Raises ConfigError, with what differs, for a fingerprint of another machine."""
    wanted = fingerprint(machine)
    for name, value in wanted.items():
        there = found.get(name)
        if there != value:
            if name == "CPUID":
                raise ConfigError("the snapshot is of another processor: load it on a host like that, with the same -cpu")
            raise ConfigError(f"the snapshot is of another machine: {name} was {_text(there)}, here it is {_text(value)}")


def _text(value: Any) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return (text[:120] + "...") if len(text) > 120 else text or "not given"


def track(machine: Machine, on: bool) -> None:
    """See ``Machine.track``."""
    if on:
        refuse_flash(machine)
    with machine.quiesce():
        if on and machine.tracked is None:
            machine.tracked = pages.Tracked(machine.memory, machine.vm)
            machine.tracked.lasting = parts.lasting(machine)
        elif not on and machine.tracked is not None:
            machine.tracked.close()
            machine.tracked = None
        for core in parts.cores(machine):
            core.track(on)
