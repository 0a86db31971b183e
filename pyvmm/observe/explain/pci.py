"""PCI configuration accesses in words: which function, which register, header or capability (PCI Local Bus 3.0, 3.2.2.3.2, 6.1, 6.7)."""

from __future__ import annotations

from pyvmm.devices.device import Register, bits
from pyvmm.observe.explain.registers import Found, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.explain.layout import Function, Layout, States

BUS = "pyvmm.devices.pci.bus_regs:REGISTERS"
HEADER = "pyvmm.devices.pci.function_regs:HEADER"
CAPABILITY = "capability"
_ENABLE, _HEADER_END, _CAP_PTR, _CONFIG_SIZE = 1 << 31, 0x40, 0x34, 256

_PLACE = bits("BIR 2:0 which BAR", "OFFSET 31:3 in that BAR")
_MSIX = (
    Register(name="CONTROL", offset=2, size=2, access="rw", section="PCI 3.0 6.8.2.3",
             fields=bits("SIZE 10:0 vectors, less one", "FMASK 14 masks all vectors", "ENABLE 15")),
    Register(name="TABLE", offset=4, size=4, access="r", section="PCI 3.0 6.8.2.4", fields=_PLACE),
    Register(name="PBA", offset=8, size=4, access="r", section="PCI 3.0 6.8.2.5", fields=_PLACE),
)  # fmt: skip
_S = "Virtio 1.2 4.1.4"
_VIRTIO = (
    Register(name="LENGTH", offset=2, size=1, access="r", section=_S),
    Register(name="TYPE", offset=3, size=1, access="r", section=_S),
    Register(name="BAR", offset=4, size=1, access="rw", section=_S),
    Register(name="OFFSET", offset=8, size=4, access="rw", section=_S),
    Register(name="SIZE", offset=12, size=4, access="rw", section=_S),
    Register(name="DATA", offset=16, size=4, access="rw", section=_S),
)
_HEAD = (
    Register(name="CAP_ID", offset=0, size=1, access="r", section="PCI 3.0 6.7"),
    Register(name="NEXT", offset=1, size=1, access="r", section="PCI 3.0 6.7"),
)
# What the header has on other cards (6.1, 6.2.4, 6.2.5.2, 6.2.6); pyvmm's functions have none of it, so their table has not
OTHERS = "other"
_OTHERS = (
    Register(name="BIST", offset=0x0F, size=1, access="rw", section="PCI 3.0 6.2.4"),
    Register(name="CIS", offset=0x28, size=4, access="r", section="PCI 3.0 6.2.4"),
    Register(name="ROM", offset=0x30, size=4, access="rw", section="PCI 3.0 6.2.5.2"),
    Register(name="MIN_GNT", offset=0x3E, size=1, access="r", section="PCI 3.0 6.2.4"),
    Register(name="MAX_LAT", offset=0x3F, size=1, access="r", section="PCI 3.0 6.2.4"),
)
# capability id -> (name, registers behind the two bytes of its head)
_CAPABILITIES = {
    0x01: ("power management", ()),
    0x05: ("MSI", ()),
    0x09: ("vendor specific", _VIRTIO),
    0x10: ("PCI Express", ()),
    0x11: ("MSI-X", _MSIX),
}
_NOTIFY = 2
_VIRTIO_TYPES = {1: "common configuration", 2: "doorbells", 3: "interrupt status", 4: "device configuration", 5: "access through here"}


def address(value: int, layout: Layout) -> str:
    """A value of 0xCF8 in words: "slot 3, function 0 (blk0), register 0x10"."""
    devfn = value >> 8 & 0xFF
    function = layout.functions.get(devfn) if not value >> 16 & 0xFF else None
    bus = f"bus {value >> 16 & 0xFF}, " if value >> 16 & 0xFF else ""
    who = function.name if function is not None else "nobody there"
    off = "" if value & _ENABLE else "; CONE is 0, so the data port is off"
    return f"{bus}slot {devfn >> 3}, function {devfn & 7} ({who}), register {value & 0xFC:#x}{off}"


def chosen(layout: Layout, selected: int) -> Function | None:
    """The function that the data port reaches while ``selected`` is in 0xCF8."""
    if not selected & _ENABLE or selected >> 16 & 0xFF:
        return None
    return layout.functions.get(selected >> 8 & 0xFF)


def register_offset(selected: int, offset: int, size: int) -> int:
    """Which byte of configuration space an access at 0xCFC + ``offset`` starts at (as devices/pci/bus.py does)."""
    return selected & 0xFC | offset | (selected & 3 if size < 4 else 0)


def registers(function: Function, at: int, size: int, is_write: bool, states: States | None) -> tuple[list[Found], str]:
    """The registers an access to configuration space touches, and the capability they are in ("" for the header)."""
    if at < _HEADER_END:
        return find(HEADER, at, size, is_write) or _touched(_OTHERS, 0, at, size, OTHERS) or [_nothing(at, size)], ""
    config = (states or {}).get(function.state, {}).get("config", b"")
    start = _capability(config, at)
    if start is None:
        return [_nothing(at, size)], ""
    capability, table = _CAPABILITIES.get(config[start], (f"capability {config[start]:#x}", ()))
    if table is _VIRTIO:
        capability = f"virtio, {_VIRTIO_TYPES.get(config[start + 3], 'unknown')}"
    found = _touched((*_HEAD, *table), start, at, size, CAPABILITY)
    for each in found:
        if each.name == "DATA" and config[start + 3] == _NOTIFY:
            each.name = "MULTIPLIER"
    return found or [_nothing(at, size)], capability if found else ""


def _touched(table: tuple[Register, ...], base: int, at: int, size: int, name: str) -> list[Found]:
    begins = [(base + register.offset, register) for register in table]
    return [
        Found(register=register, name=register.name, table=name, shift=8 * (at - begin))
        for begin, register in begins
        if begin < at + size and at < begin + register.size
    ]


def _nothing(at: int, size: int) -> Found:
    """Bytes without a register: reserved, or a device's own, which reads 0 here."""
    return Found(
        register=Register(name="RESERVED", offset=at, size=size, access="rw", section="PCI 3.0 6.1"), name="RESERVED", table=OTHERS
    )


def _capability(config: bytes, at: int) -> int | None:
    """Where the capability that a byte belongs to starts. Follows the list, bounded: a recording may hold anything."""
    if len(config) < _CONFIG_SIZE:
        return None
    best, link = None, config[_CAP_PTR] & 0xFC
    for _ in range(48):
        if link < _HEADER_END:
            break
        if link <= at and (best is None or link > best):
            best = link
        link = config[link + 1] & 0xFC
    return best
