"""Device registers by name: ``serial0.THR``, ``COM1.LSR``, ``virtio0.device_status``, or a whole device, as ranges on the buses."""

from __future__ import annotations

from pyvmm.observe.debug.command import CommandError, nearest
from pyvmm.observe.debug.conditions import MMIO, PORT, READ, WRITE
from pyvmm.observe.explain import registers
from pyvmm.observe.explain.access import label
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.devices.device import Register
    from pyvmm.observe.explain.layout import Layout, Window

# registers that share an offset: what must hold of the device's state for the one that is meant (Register.when)
_WHEN = {"DLAB=0": "!({state}.lcr & 0x80)", "DLAB=1": "{state}.lcr & 0x80"}


class Place(Record):
    """A range on a bus.

    Fields:
        kind: conditions.PORT or MMIO.
        first, last: addresses, both included.
        direction: in which accesses concern it: READ, WRITE or "".
        text: as people say it.
        condition: an expression that holds when an access means this register and not another one there; "" for always.
    """

    kind: str
    first: int
    last: int
    direction: str = ""
    text: str = ""
    condition: str = ""


class Places:
    """What a machine's layout has."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def _windows(self) -> Iterator[tuple[str, Window]]:
        for kind, windows in ((PORT, self._layout.ports), (MMIO, self._layout.mmio)):
            for window in windows:
                yield kind, window

    def find(self, text: str) -> Place | None:
        """``DEVICE`` or ``DEVICE.REGISTER``; None when no device has that name.

        Raises:
            CommandError: the device has no such register.
        """
        name, dot, rest = text.partition(".")
        places = [(kind, window) for kind, window in self._windows() if name.lower() in _names(window)]
        if not places:
            return None
        if not dot:
            kind, window = places[0]
            return Place(kind=kind, first=window.base, last=window.base + window.length - 1, text=text)
        for kind, window in places:
            for start, table in window.tables:
                found = _register(table, rest)
                if found is not None:
                    register, at = found
                    first = window.base + start + at
                    state = window.state or window.device
                    return Place(
                        kind=kind,
                        first=first,
                        last=first + register.size - 1,
                        direction={"r": READ, "w": WRITE}.get(register.access, ""),
                        text=text,
                        condition=_WHEN[register.when].format(state=state) if register.when in _WHEN else "",
                    )
        known = [register for _, window in places for register in self.registers(window)]
        close = nearest(rest.upper(), known) or nearest(rest, known)
        listed = f"did you mean {close}?" if close else f"there are {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
        raise CommandError(f"{name} has no register '{rest[:40]}': {listed if known else 'its registers have no names'}")

    def at(self, kind: str, address: int, direction: str = "") -> str:
        """Who answers at an address, for people: "COM1 THR"; "" for nobody. Registers that share an offset: as after reset."""
        window = self._layout.find("pio" if kind == PORT else "mmio", address)
        if window is None:
            return ""
        names: list[str] = []
        for size in (1, 2, 4):  # some registers answer accesses of their own size only
            for start, table in window.tables if not names else ():
                if address - window.base >= start:
                    for write in (False, True):
                        if direction != (READ if write else WRITE):
                            found = registers.find(table, address - window.base - start, size, write)
                            names += [each.name for each in found if not each.wrong_way and each.shift >= 0]  # those behind it are not
        return f"{label(window)} {'/'.join(dict.fromkeys(names))}".rstrip()

    @staticmethod
    def registers(window: Window) -> list[str]:
        """Names of a device's registers."""
        return list(dict.fromkeys(each.name for _, table in window.tables for each in registers.table(table)))

    def names(self) -> list[str]:
        """Everything ``find`` knows: for completion."""
        found = []
        for _, window in self._windows():
            found += [window.device, *(f"{window.device}.{each}" for each in self.registers(window) if each.isidentifier())]
        return list(dict.fromkeys(found))


def _names(window: Window) -> tuple[str, ...]:
    return window.device.lower(), label(window).lower(), window.state.lower()


def _register(table: str, name: str) -> tuple[Register, int] | None:
    """A register by name in any case, "MTA[3]" too, and where it is in the table."""
    base, bracket, index = name.partition("[")
    for register in registers.table(table):
        if register.name.lower() == name.lower():
            return register, register.offset
        if bracket and register.name.partition("[")[0].lower() == base.lower():
            repeat = registers._REPEATS.get((table, register.name.partition("[")[0]))
            digits = index.removesuffix("]")
            if repeat is not None and digits.isdigit() and register.offset + int(digits[:9]) * repeat[0] < repeat[1]:
                return register, register.offset + int(digits) * repeat[0]
    return None
