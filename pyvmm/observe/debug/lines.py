"""Breakpoints on interrupt lines: a device in user space has raised one (``irq.SharedLine.drive``, which exists to be replaced)."""

from __future__ import annotations

from pyvmm.observe.debug import conditions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.machine import Machine
    from pyvmm.observe.debug.conditions import Breakpoints

    Drive = Callable[[int, int], None]


class Lines:
    """Watches lines of one machine while it moves.

    Args:
        machine, breakpoints: whose, and the user's.
        hit: told the numbers of breakpoints, on the thread that raised the line.
    """

    def __init__(self, machine: Machine, breakpoints: Breakpoints, hit: Callable[[list[int]], None]) -> None:
        self._machine = machine
        self._breakpoints = breakpoints
        self._hit = hit
        self._before: dict[int, Drive] = {}

    def arm(self) -> None:
        """From now on. Lines that nobody is connected to stay silent."""
        wanted: dict[int, list[int]] = {}
        for each in self._breakpoints:
            if each.enabled and each.kind == conditions.LINE:
                each.means = "the device's call"
                wanted.setdefault(each.first, []).append(each.number)
        for gsi, numbers in wanted.items():
            line = self._machine.lines.lines.get(gsi)
            if line is not None:
                self._before[gsi] = line.drive
                line.drive = self._watched(line.drive, numbers)

    def _watched(self, drive: Drive, numbers: list[int]) -> Drive:
        def watched(gsi: int, level: int) -> None:
            drive(gsi, level)
            if level:
                self._hit(numbers)

        return watched

    def disarm(self) -> None:
        """No more."""
        for gsi, drive in self._before.items():
            self._machine.lines.lines[gsi].drive = drive
        self._before.clear()
