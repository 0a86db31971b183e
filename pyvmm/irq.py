"""Interrupt lines as devices see them: a level to set. What carries it (KVM_IRQ_LINE, a test's list) is wiring.

A GSI may be shared (ISA COM1/COM3, PCI INTx): its level is the OR of its sources, so every device gets a source of
its own and only a change of the OR reaches the interrupt controller (one ioctl per 0 <-> 1 change).

Lines may be driven from any thread, I/O threads included: a lock of their own, under which nothing but ``drive`` is called,
keeps count and level together. One source has one owner, who orders its own calls.
"""

from __future__ import annotations

from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class IrqLine(Protocol):
        """What a device is given in its constructor."""

        def set(self, level: int) -> None:
            """Drives the line high (1) or low (0). Repeating the present level does nothing."""

        def pulse(self) -> None:
            """High, then low: one edge."""

    SendMsi = Callable[[], None]
    """Sends one prepared message-signalled interrupt; from any thread, never raises for what a guest has programmed."""
    MakeMsi = Callable[[int, int], SendMsi]
    """(address, data) as the guest wrote them -> the function that sends this message."""


class IrqSource:
    """One device's input into a shared line."""

    __slots__ = ("_line", "level")

    def __init__(self, line: SharedLine) -> None:
        self._line = line
        self.level = 0

    def set(self, level: int) -> None:
        level = 1 if level else 0
        if level != self.level:
            self.level = level
            self._line.changed(1 if level else -1)

    def pulse(self) -> None:
        self.set(1)
        self.set(0)


class SharedLine:
    """The wired OR of all sources on one GSI."""

    __slots__ = ("gsi", "high", "drive", "_lock")

    def __init__(self, gsi: int, drive: Callable[[int, int], None]) -> None:
        self.gsi = gsi
        self.high = 0  # how many sources are high
        self.drive = drive
        self._lock = Lock()

    def changed(self, step: int) -> None:
        with self._lock:  # the ioctl as well: two threads' levels must arrive in the order they were counted
            before, self.high = self.high, self.high + step
            if not before or not self.high:
                self.drive(self.gsi, 1 if self.high else 0)


class IrqLines:
    """All lines of a machine. ``drive(gsi, level)`` is KVM_IRQ_LINE, or a fake in tests.

    Tracers replace ``drive`` on a SharedLine and put it back; nobody else knows.
    """

    def __init__(self, drive: Callable[[int, int], None]) -> None:
        self._drive = drive
        self.lines: dict[int, SharedLine] = {}

    def source(self, gsi: int) -> IrqSource:
        """A new source on ``gsi`` for one device."""
        line = self.lines.get(gsi)
        if line is None:
            line = self.lines[gsi] = SharedLine(gsi, self._drive)
        return IrqSource(line)
