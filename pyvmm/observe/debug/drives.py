"""A machine's writable drives in time: a history layer over each (``backends.block.history``), put under the device that uses it."""

from __future__ import annotations

from pyvmm.backends.block.history import BASE, HistoryLayer
from pyvmm.observe.debug.versions import Versions
from pyvmm.snapshot import parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine import Machine


class _Drive:
    """One of them."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.layer = HistoryLayer(device.backend)
        self.versions = Versions(BASE, lambda slot: self.layer.free([slot]))
        self.base = 0  # the moment it was at, but for what was written since
        device.backend = self.layer


class Drives:
    """All of one machine, from now on until ``close``. The machine is quiet at each call: no request is under way.

    Args:
        machine: whose.

    Raises:
        ConfigError: there is no place for a temporary file.
    """

    def __init__(self, machine: Machine) -> None:
        self._drives: list[_Drive] = []
        try:
            for core in parts.cores(machine):
                backend = getattr(core.device, "backend", None)
                if any(backend is drive for drive in machine.drives.values() if not drive.readonly):
                    self._drives.append(_Drive(core.device))
        except BaseException:
            self.close()
            raise

    def take(self, moment: int) -> None:
        """What they hold now is what they hold at ``moment``."""
        for drive in self._drives:
            drive.versions.put(moment, drive.layer.take())
            drive.base = moment

    def put(self, moment: int) -> None:
        """Has them hold what they held."""
        for drive in self._drives:
            touched = drive.layer.changed | drive.versions.between(drive.base, moment)
            drive.layer.put({block: drive.versions.at(block, moment) for block in touched})
            drive.base = moment

    def merge(self, moment: int, following: int) -> None:
        """See Versions."""
        for drive in self._drives:
            drive.versions.merge(moment, following)

    def forget_after(self, moment: int) -> None:
        """See Versions. Where they are now will be the latest moment: ``take`` follows."""
        for drive in self._drives:
            for block in drive.versions.between(drive.base, moment):
                drive.layer.renew(block)
            drive.base = moment
            drive.versions.forget_after(moment)

    def contents(self, moment: int) -> dict[str, dict[int, bytes]]:
        """Drive -> block -> what it held, of those that had been written by then."""
        return {drive.layer.name: _contents(drive.layer, drive.versions.all(moment)) for drive in self._drives}

    def present(self) -> dict[str, dict[int, bytes]]:
        """The same of now."""
        return {drive.layer.name: _contents(drive.layer, drive.layer.slots) for drive in self._drives}

    def close(self) -> None:
        """Writes what they hold now through to the drives, which the devices have again. Raises OSError, then all is as before."""
        while self._drives:
            drive = self._drives[-1]
            drive.layer.commit()
            drive.device.backend = drive.layer.base
            drive.layer.close()
            self._drives.pop()


def _contents(layer: HistoryLayer, slots: dict[int, int]) -> dict[int, bytes]:
    return {block: layer.contents(slot) for block, slot in slots.items() if slot != BASE}
