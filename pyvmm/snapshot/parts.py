"""What of a machine has a state in user space, by name: every device, PCI function, MSI-X table and the registers behind a virtio
transport; and how such states are taken and put back.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.layout import PAGE
from pyvmm.snapshot.plain import Misfit, fixed, freeze, plain, shaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.devices.virtio.core import VirtioCore
    from pyvmm.machine import Machine

    States = dict[str, dict[str, Any]]

_GROWING = frozenset(("rx", "frame", "unicast", "multicast"))  # fields whose length changes; that of other lists and bytes never does


def parts(machine: Machine) -> dict[str, Any]:
    """Name -> what has ``state`` and perhaps ``restored``. No state is there twice."""
    found: dict[str, Any] = dict(machine.devices)
    found["reset-control"] = machine.pci.reset_control
    for devfn, function in machine.pci.functions.items():
        found[f"pci-{devfn:02x}"] = function
        for bar in function.bars:
            found[f"pci-{devfn:02x}-bar{bar.index}"] = bar.device
    seen: dict[int, Any] = {}
    owners: dict[int, Any] = {}
    for name in list(found):
        part = found[name]
        state = part.state
        if id(part) in owners or id(state) in seen:  # the same under another name
            del found[name]
        else:
            owners[id(part)], seen[id(state)] = part, state  # kept alive: an id is one as long as its object is there
    return found


def cores(machine: Machine) -> list[VirtioCore]:
    """The registers of all virtio devices."""
    return [card.core for card in machine.cards.transports] if machine.cards is not None else []


def lasting(machine: Machine) -> set[int]:
    """Pages of guest memory that devices write without asking for a view each time: rings."""
    pages: set[int] = set()
    writers: list[Any] = [*cores(machine), *(part for part in machine.devices.values() if type(part).__name__ == "Mac")]
    for writer in writers:
        for gpa, length in writer.lasting():
            pages.update(range(gpa // PAGE, (gpa + length - 1) // PAGE + 1))
    return pages


def save(machine: Machine) -> States:
    """Every part's state as plain data. The machine is quiet."""
    for core in cores(machine):
        core.save()
    return {name: plain(part.state) for name, part in parts(machine).items()}


def frozen(machine: Machine) -> dict[str, bytes]:
    """The same as bytes (``plain.freeze``): for those who take it at every exit."""
    for core in cores(machine):
        core.save()
    return {name: freeze(part.state) for name, part in parts(machine).items()}


def check(machine: Machine, states: States) -> dict[str, Any]:
    """The states as records, when they are those of a machine like this; changes nothing.

    Raises:
        ConfigError: says what does not fit.
    """
    found = parts(machine)
    if not isinstance(states, dict) or states.keys() != found.keys():
        names = sorted(map(str, set(states) ^ set(found))) if isinstance(states, dict) else []
        raise ConfigError(f"the snapshot is of a machine with other devices ({', '.join(names)}): give the options it was taken with")
    fitting = {}
    for name, part in found.items():
        state = part.state
        try:
            fitting[name] = shaped(state, states[name])
            fixed(state, fitting[name], _GROWING)
        except Misfit as error:
            raise ConfigError(f"the snapshot's {name} is not one of this machine: {error}") from None
    return fitting


def load(machine: Machine, states: dict[str, Any]) -> None:
    """Gives every part its state (of ``check``), then has lines, timers, mappings and rings follow. The machine is quiet."""
    for core in cores(machine):
        core.reset()
    found = parts(machine)
    for name, part in found.items():
        part.state = states[name]
    for part in found.values():
        restored = getattr(part, "restored", None)
        if restored is not None:
            restored()
