"""Device states as a recording has them: whole at a keyframe, what has changed at an exit.

All devices are looked at, not just the one that was accessed: timers, typed keys and devices that drive each other change states too.
That is one comparison in C: of the states' dicts with copies from before. States that hold records (a virtio device's queues) are
compared as bytes. The one exception is what a polling guest does all day: when it reads a port, and no callback of the I/O loop has
run since the last look, it can only have changed the device there.
"""

from __future__ import annotations

from pyvmm.observe.explain.layout import Layout, parts
from pyvmm.record import Record
from pyvmm.snapshot import parts as snapshot_parts
from pyvmm.snapshot.plain import freeze, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine import Machine
    from pyvmm.observe.explain.layout import States


_READABLE_MAX = 256  # ways to read ports that are remembered; a real guest has a dozen


class DeviceStates:
    """One machine's. With the machine lock held.

    Attributes:
        layout: where devices are on the buses, as plain data.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._cores = snapshot_parts.cores(machine)
        found = parts(machine)
        self._deep = {name: part for name, part in found.items() if _holds_records(part.state)}
        self._flat = {name: part for name, part in found.items() if name not in self._deep}
        self._names, self._parts = list(self._flat), list(self._flat.values())
        self._readable: dict[int, int] = {}  # how a port is read (the run page's word) -> the place in these lists of what changes with it
        self._turns = 0  # of the I/O loop at the last look
        self._last: list[dict[str, Any]] = [_copy(part.state) for part in self._parts]
        self._frozen: dict[str, bytes] = {}
        self._thawed: States = {}
        self.layout = plain(Layout.of(machine))
        self._moved = False
        machine.ports.on_change.append(self._on_change)
        machine.mmio.on_change.append(self._on_change)
        self.changes()

    def close(self) -> None:
        """Looks no more."""
        self._machine.ports.on_change.remove(self._on_change)
        self._machine.mmio.on_change.remove(self._on_change)

    def _on_change(self) -> None:
        self._moved = True
        self._readable.clear()

    def changes(self) -> dict[str, dict[str, Any]] | None:
        """Since the last call: name -> field -> value, and under "" the layout when it is another; None for nothing."""
        self._turns = self._machine.loop.turns
        found: dict[str, dict[str, Any]] = {}
        last = self._last
        now = [part.state.__dict__ for part in self._parts]
        if now != last:
            for at, state in enumerate(now):
                if state != last[at]:
                    before, last[at] = last[at], _copy(state)
                    found[self._names[at]] = {name: plain(value) for name, value in state.items() if before.get(name) != value}
        if self._deep:
            self._look_deeply(found)
        if self._moved:
            self._moved = False
            layout = plain(Layout.of(self._machine))
            if layout != self.layout:
                self.layout = found[""] = layout
        return found or None

    def is_unchanged_by_read(self, word: int) -> bool:
        """Whether all is known to be as it was, behind a read of a port. Quick, and without the lock; False: look.

        Args:
            word: of the run page: direction, size and port.
        """
        at = self._readable.get(word)
        if at is None:
            at = self._readable[word] = self._place(word)
        return at >= 0 and self._parts[at].state.__dict__ == self._last[at] and self._machine.loop.turns == self._turns and not self._moved

    def _place(self, word: int) -> int:
        """Of the device a port read goes to; -1 where a read may do more than change that."""
        if self._machine.cards is not None or len(self._machine.vcpus) > 1 or len(self._readable) >= _READABLE_MAX:
            return -1
        there = next((each.device for each in self._machine.ports.mappings if each.base <= word >> 16 < each.base + each.length), None)
        return next((at for at, part in enumerate(self._parts) if part is there and part is not self._machine.pci), -1)

    def _look_deeply(self, found: dict[str, dict[str, Any]]) -> None:
        for core in self._cores:
            core.save()
        for name, part in self._deep.items():
            frozen = freeze(part.state)
            if frozen != self._frozen.get(name):
                before, state = self._thawed.get(name, {}), plain(part.state)
                self._frozen[name], self._thawed[name] = frozen, state
                found[name] = {key: value for key, value in state.items() if key not in before or before[key] != value}

    def whole(self) -> States:
        """All states as they were at the last ``changes``; the dicts are not to be changed."""
        flat = {name: plain(state) for name, state in zip(self._names, self._last, strict=True)}
        return {**flat, **self._thawed}


def _copy(state: Any) -> dict[str, Any]:
    """Of a state's fields, which equals them as long as they do not change."""
    fields = state if isinstance(state, dict) else state.__dict__
    return {name: _own(value) for name, value in fields.items()}


def _own(value: Any) -> Any:
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, list):
        return [_own(each) for each in value]
    return {key: _own(each) for key, each in value.items()} if isinstance(value, dict) else value


def _holds_records(value: Any) -> bool:
    inside = value.__dict__.values() if isinstance(value, Record) else value.values() if isinstance(value, dict) else value
    return any(isinstance(each, Record) or isinstance(each, (list, tuple, dict)) and _holds_records(each) for each in inside)
