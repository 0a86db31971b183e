"""From (register table, offset, size, direction, state) to registers with their bit fields in words.

Devices name their registers in tables (``*_regs.py``) that know nothing of each other; what a table cannot say stands here as data:
which condition picks one of two registers at one offset, which registers repeat, which port selects what another one shows.
"""

from __future__ import annotations

from importlib import import_module

from pyvmm.devices.device import Register
from pyvmm.observe.explain import features
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    State = dict[str, Any]

_SERIAL = "pyvmm.devices.serial_regs:REGISTERS"
_RTC = "pyvmm.devices.rtc_regs:REGISTERS"
_RTC_INDEXED = "pyvmm.devices.rtc_regs:INDEXED"
_E1000 = "pyvmm.devices.e1000.regs:REGISTERS"
_E1000_IO = "pyvmm.devices.e1000.regs:IO_REGISTERS"
_MSIX = "pyvmm.devices.pci.msix_regs:ENTRY"
_PCI_BUS = "pyvmm.devices.pci.bus_regs:REGISTERS"
_VIRTIO_PCI = "pyvmm.devices.virtio.pci_regs:REGISTERS"
_VIRTIO_MMIO = "pyvmm.devices.virtio.mmio_regs:REGISTERS"

# Register.when -> whether it holds; a state that is not known counts as {}
_WHEN: dict[str, Callable[[State, int], bool]] = {
    "DLAB=0": lambda state, size: not state.get("lcr", 0) & 0x80,
    "DLAB=1": lambda state, size: bool(state.get("lcr", 0) & 0x80),
    "byte access": lambda state, size: size == 1,
}
# (table, register) -> (distance between two of them, end of the range, what the number is called)
_REPEATS = {
    **{(_MSIX, name): (16, 0x800, "vector") for name in ("ADDR", "UADDR", "MSG", "CTRL")},
    (_VIRTIO_PCI, "queue_notify"): (4, 0x4000, "queue"),
    (_E1000, "MTA"): (4, 0x5400, ""),
    (_E1000, "VFTA"): (4, 0x5800, ""),
}
# (table, data register) -> (the state's field with the index, mask, table that the index is an offset in)
_INDEXED = {
    (_RTC, "DATA"): ("index", 0x7F, _RTC_INDEXED),
    (_E1000_IO, "IODATA"): ("address", 0xFFFF_FFFF, _E1000),
}
_ONLY = {(_PCI_BUS, "CONFADD"): 4}  # accesses of other sizes are somebody else's
_LARGEST = 8  # bytes of a register that deserves the name
# fields that are addresses or lengths without their lowest bits: people want the whole number
_IN_PLACE = {("BASE", 4), ("ADDR", 4), ("OFFSET", 3), ("LEN", 7), ("RTL", 3), ("RTH", 3)}
_CHARACTERS = {"THR", "RBR", "DEBUGCON", "EMERG_WR"}  # registers whose values are characters


class Found(Record):
    """One register that an access touched.

    Fields:
        register: of the table.
        name: with number or index resolved: "MTA[3]", "RAM[0x35]".
        table: "module:NAME".
        shift: the access starts this many bits above the register's bit 0; negative: that many below.
        port: it only shows another register, which follows.
        wrong_way: the register cannot be read, or written; it takes no part.
    """

    register: Register
    name: str
    table: str
    shift: int = 0
    port: bool = False
    wrong_way: bool = False


class Bits(Record):
    """One bit field of a value: ``place`` is "bit 5" or "bits 7:6", ``text`` what the data sheet means by it."""

    name: str
    place: str
    value: int
    wide: bool
    text: str = ""


def table(name: str) -> tuple[Register, ...]:
    """The register table "module:NAME"; () when there is none: a recording may name anything, and gets devices' tables only."""
    module, _, attribute = name.partition(":")
    if not module.startswith("pyvmm.devices.") or not module.endswith("regs"):
        return ()
    try:
        found: tuple[Register, ...] = getattr(import_module(module), attribute, ())
    except (ImportError, ValueError):
        return ()
    return found if isinstance(found, tuple) and all(isinstance(each, Register) for each in found) else ()


def find(name: str, offset: int, size: int, is_write: bool, state: State | None = None) -> list[Found]:
    """The registers that an access touches, lowest first; [] where the table has none.

    Args:
        name: of the table.
        offset, size: of the access, relative to the table.
        is_write: its direction.
        state: of the device before the access, for registers that share an offset. Unknown: as after reset.
    """
    state = state or {}
    touched = []
    for register in table(name):
        if _ONLY.get((name, register.name), size) != size:
            continue
        if register.when in _WHEN and not _WHEN[register.when](state, size):
            continue
        at, label = _place(name, register, offset)
        if at < offset + size and offset < at + register.size:
            if register.size > _LARGEST:  # memory: any byte of it can be the first
                label, at = f"{label}+{offset - at:#x}", offset
            touched.append(Found(register=register, name=label, table=name, shift=8 * (offset - at)))
    exact = [each for each in touched if each.shift == 0 and each.register.size == size]
    touched = exact or touched
    direction = "w" if is_write else "r"
    right = [each for each in touched if direction in each.register.access]
    if not right:
        return [each.replace(wrong_way=True) for each in touched]
    return [inner for each in right for inner in _indexed(each, size, is_write, state)]


def _place(name: str, register: Register, offset: int) -> tuple[int, str]:
    """Where the register that ``offset`` may be in starts, and its name with a number."""
    base = register.name.partition("[")[0]
    repeat = _REPEATS.get((name, base))
    if repeat is None or not register.offset <= offset < repeat[1]:
        return register.offset, register.name
    step, _, word = repeat
    number = (offset - register.offset) // step
    return register.offset + number * step, f"{base} of {word} {number}" if word else f"{base}[{number}]"


def _indexed(found: Found, size: int, is_write: bool, state: State) -> list[Found]:
    """What a data port shows instead of itself: the register itself, and the one behind it."""
    rule = _INDEXED.get((found.table, found.register.name))
    if rule is None or rule[0] not in state:
        return [found]
    index = state[rule[0]] & rule[1]
    behind = find(rule[2], index, size, is_write)
    if not behind and rule[2] == _RTC_INDEXED:
        byte = Register(name=f"RAM[{index:#04x}]", offset=index, size=1, access="rw", section="Battery-backed RAM")
        behind = [Found(register=byte, name=byte.name, table=rule[2])]
    return [found.replace(port=bool(behind)), *behind]


def part(found: Found, value: int, size: int) -> int:
    """The bits of an access's value that belong to this register, where they stand in the register."""
    value &= (1 << 8 * size) - 1
    moved = value << found.shift if found.shift >= 0 else value >> -found.shift
    return moved & (1 << 8 * found.register.size) - 1


def covered(found: Found, size: int) -> int:
    """Which bits of the register an access of ``size`` bytes reaches, as a mask."""
    return part(found, -1, size)


def fields(found: Found, value: int, size: int, state: State | None = None, device_type: int | None = None) -> list[Bits]:
    """The register's bit fields: wide ones always, single bits when they are 1; highest first.

    Args:
        value: of the register, as ``part`` gives it.
        size: of the access, so that fields it did not reach are left out.
        state: of the device, for fields that another register selects.
        device_type: of virtio, to name its feature bits.
    """
    reach = covered(found, size)
    named = features.fields(found.register.name, value, state or {}, device_type)
    if named is not None:
        return [Bits(name=name, place=f"bit {bit}", value=1, wide=False, text=text) for bit, name, text in named]
    result = []
    for field in sorted(found.register.fields, key=lambda each: -each.high):
        mask = (1 << field.high + 1) - (1 << field.low)
        if mask & ~reach or field.high - field.low + 1 == 8 * found.register.size:
            continue
        bits = (value & mask) >> field.low
        wide = field.high > field.low
        if wide or bits:
            place = f"bits {field.high}:{field.low}" if wide else f"bit {field.low}"
            in_place = (field.name, field.low) in _IN_PLACE
            result.append(Bits(name=field.name, place=place, value=value & mask if in_place else bits, wide=wide, text=field.text))
    return result


def clear(found: Found, value: int, size: int) -> list[str]:
    """Names of the single bits that are 0, highest first."""
    reach = covered(found, size)
    singles = sorted((field for field in found.register.fields if field.high == field.low), key=lambda each: -each.high)
    return [field.name for field in singles if reach >> field.low & 1 and not value >> field.low & 1]


def character(found: Found, value: int) -> str:
    """ "'A'" for a register that holds characters, else ""."""
    if found.register.name not in _CHARACTERS or found.register.size > 4:
        return ""
    return {10: "'\\n'", 13: "'\\r'", 8: "'\\b'", 9: "'\\t'"}.get(value) or (f"'{chr(value)}'" if 0x20 <= value < 0x7F else "")
