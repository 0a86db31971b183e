"""The machine around the vCPUs: devices, PCI, virtio queues, the memory map, exits counted."""

from __future__ import annotations

from pyvmm.errors import GuestFault
from pyvmm.layout import HIGH_RAM, LOW_RAM_END
from pyvmm.observe.debug.style import Style, pad
from pyvmm.observe.explain import registers
from pyvmm.observe.explain.access import label
from pyvmm.observe.explain.layout import KERNEL
from pyvmm.observe.explain.meanings import DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.explain.layout import Function, Layout, States, Window
    from pyvmm.observe.paging import Memory

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size(length: int) -> str:
    """ "4 KiB"."""
    for unit, name in _UNITS:
        if length >= unit and not length % unit:
            return f"{length // unit} {name}"
    return f"{length} byte{'s' * (length != 1)}"


def devices(layout: Layout, style: Style) -> tuple[list[str], list[dict[str, Any]]]:
    """Who answers where."""
    lines, data = [], []
    for space, windows in (("port", layout.ports), ("mmio", layout.mmio)):
        for window in windows:
            last = window.base + window.length - 1
            span = f"{window.base:#x}" + (f"-{last:#x}" if window.length > 1 else "")
            kind = DEVICES.get(window.tables[0][1], "") if window.tables else ""
            bar = f"BAR {window.bar[1]} of {window.bar[0]}" if window.bar[0] else ""
            people = label(window) if label(window) not in (window.device, window.bar[0]) else ""
            words = ", ".join(each for each in (people, kind, bar) if each)
            lines.append(f"{pad(style.name(window.device), 20)} {space}  {span:<22} {words}".rstrip())
            data.append({"name": window.device, "space": space, "base": window.base, "length": window.length, "kind": kind})
    return lines, data


def device(layout: Layout, states: States, name: str, style: Style) -> list[str]:
    """One device: its registers with offsets, and its state. [] when there is none of that name."""
    windows = [
        each for each in (*layout.ports, *layout.mmio) if name.lower() in (each.device.lower(), label(each).lower(), each.state.lower())
    ]
    lines = []
    for window in windows:
        lines.append(style.title(f"{window.device} at {window.base:#x}, {size(window.length)}"))
        lines += _registers(window)
    state = next((states[each.state] for each in windows if each.state in states), states.get(name, {}))
    width = max((len(key) for key in state), default=0)
    if state:
        lines.append(style.label("state:"))
        lines += [f"  {style.name(f'{key:<{width}}')}  {_value(value)}" for key, value in state.items()]
    return lines


def _registers(window: Window) -> list[str]:
    lines = []
    for start, table in window.tables:
        for each in registers.table(table)[:64]:
            when = f"  ({each.when})" if each.when else ""
            lines.append(f"  +{start + each.offset:#06x}  {each.name:<24} {each.access:<2}  {size(each.size)}{when}")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes{': ' + bytes(value[:16]).hex(' ') if value else ''}{' ...' if len(value) > 16 else ''}"
    text = str(value)
    return text if len(text) <= 90 else text[:86] + " ..."


# --- PCI -------------------------------------------------------------------------------------------------------------
def pci(layout: Layout, states: States, style: Style) -> tuple[list[str], list[dict[str, Any]]]:
    """Every function with its BARs and interrupt."""
    lines, data = [], []
    for devfn, function in sorted(layout.functions.items()):
        config = bytes(states.get(function.state, {}).get("config", b""))
        where = f"00:{devfn >> 3:02x}.{devfn & 7}"
        lines.append(f"{style.name(where)}  {function.vendor:04x}:{function.device:04x}  {style.title(function.name)}")
        found = {"where": where, "name": function.name, "vendor": function.vendor, "device": function.device}
        if len(config) >= 64:
            lines += _function(function, config, layout)
            found["config"] = config
        data.append(found)
    return lines or ["there is no PCI bus"], data


def _function(function: Function, config: bytes, layout: Layout) -> list[str]:
    command = int.from_bytes(config[4:6], "little")
    on = [text for bit, text in ((0, "I/O"), (1, "memory"), (2, "bus master"), (10, "no INTx")) if command >> bit & 1]
    lines = [f"         command {command:#06x}: {', '.join(on) or 'off'}"]
    for window in (*layout.ports, *layout.mmio):
        if window.bar[0] == function.name:
            space = "ports" if window in layout.ports else "memory"
            lines.append(f"         BAR {window.bar[1]}: {space} {window.base:#x}, {size(window.length)}")
    if config[0x3D]:
        lines.append(f"         INT{'ABCD'[config[0x3D] - 1 & 3]}, line {config[0x3C]}")
    at = config[0x34] if config[6] & 0x10 else 0
    capabilities: list[str] = []
    names = {0x01: "power management", 0x05: "MSI", 0x09: "vendor specific", 0x10: "PCI Express", 0x11: "MSI-X"}
    while 0x40 <= at < 0xFF and len(capabilities) < 32:  # a guest cannot write the chain, a recording may hold anything
        capabilities.append(f"{names.get(config[at], f'{config[at]:#x}')} at {at:#x}")
        at = config[at + 1]
    return lines + ([f"         capabilities: {', '.join(capabilities)}"] if capabilities else [])


# --- queues ----------------------------------------------------------------------------------------------------------
def queues(states: States, memory: Memory, style: Style) -> tuple[list[str], list[dict[str, Any]]]:
    """Every virtqueue: rings, indices, what is under way."""
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    seen: list[Any] = []
    for name, state in states.items():
        rings = state.get("queues")
        if not isinstance(rings, list) or any(rings is each for each in seen) or not all(isinstance(each, dict) for each in rings):
            continue
        seen.append(rings)
        for number, ring in enumerate(rings):
            on = bool(ring.get("enabled"))
            found: dict[str, Any] = {"device": name, "queue": number, **ring}
            text = f"{style.name(f'{name} {number}')}  size {ring.get('size', 0)}"
            if not on:
                lines.append(f"{text}, not enabled")
            else:
                avail, used = _index(memory, ring.get("driver")), _index(memory, ring.get("device"))
                found |= {"avail_idx": avail, "used_idx": used}
                shown = ", ".join(f"{key} {value:#x}" for key, value in ring.items() if key in ("desc", "driver", "device"))
                waits = f": {(avail - used) & 0xFFFF} not answered" if avail is not None and used is not None else ""
                lines.append(f"{text}, {shown}")
                lines.append(f"      available {_number(avail)}, used {_number(used)}{waits}")
            data.append(found)
    return lines or ["there are no virtqueues: no virtio device"], data


def _index(memory: Memory, gpa: Any) -> int | None:
    """The idx of a ring (Virtio 1.2, 2.7.6 and 2.7.8)."""
    try:
        return int.from_bytes(memory.read(int(gpa) + 2, 2), "little")
    except (GuestFault, TypeError):
        return None


def _number(value: int | None) -> str:
    return "outside RAM" if value is None else str(value)


# --- memory map ------------------------------------------------------------------------------------------------------
def memory_map(layout: Layout, style: Style) -> tuple[list[str], list[dict[str, Any]]]:
    """Guest physical memory from low to high."""
    ranges = [(gpa, length, "ROM" if LOW_RAM_END <= gpa < HIGH_RAM else "RAM", "") for gpa, length in layout.ram]
    ranges += [
        (each.base, each.length, each.device, f"BAR {each.bar[1]} of {each.bar[0]}" if each.bar[0] else "device") for each in layout.mmio
    ]
    ranges += [(each.base, each.length, each.who, "in the kernel") for each in KERNEL if each.space == "mmio"]
    lines, data = [], []
    for base, length, name, text in sorted(ranges):
        lines.append(f"{base:016x}-{base + length - 1:016x}  {size(length):>9}  {style.name(name)}{f', {text}' if text else ''}")
        data.append({"base": base, "length": length, "name": name})
    return lines, data
