"""Who is where: a machine's buses as plain data, so that a recording explains itself without the machine it came from.

Nothing here imports KVM or a device; ``Layout.of`` looks at a live machine, duck-typed.
"""

from __future__ import annotations

from pyvmm import layout
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    States = dict[str, dict[str, Any]]
    """Device states by the names of ``machine.devices``: each a Record as a plain dict."""


class Window(Record):
    """One range on a bus.

    Fields:
        base, length: first port or guest physical address, and how many.
        device: the name of what answers.
        width: the widest access it takes; the bus splits others.
        state: the name of its state in States, "" when it has none there.
        tables: (offset in the range, register table "module:NAME"), ascending.
        bar: the name of the PCI function and the number of its BAR, or ("", 0).
    """

    base: int
    length: int
    device: str
    width: int = 8
    state: str = ""
    tables: tuple[tuple[int, str], ...] = ()
    bar: tuple[str, int] = ("", 0)


class Function(Record):
    """One PCI function.

    Fields:
        name, state: as in Window.
        vendor, device: ids.
    """

    name: str
    vendor: int
    device: int
    state: str = ""


class Layout(Record):
    """A machine's buses.

    Fields:
        ports, mmio: ranges, ascending. BARs are where they were when this was made.
        functions: slot << 3 | number of function -> what is there.
        ram: (gpa, length).
    """

    ports: list[Window] = []
    mmio: list[Window] = []
    functions: dict[int, Function] = {}
    ram: list[tuple[int, int]] = []

    def find(self, space: str, address: int) -> Window | None:
        """Who answers at an address of "pio" or "mmio"."""
        for window in self.ports if space == "pio" else self.mmio:
            if window.base <= address < window.base + window.length:
                return window
        return None

    def is_ram(self, address: int) -> bool:
        """Whether there is memory at a guest physical address."""
        return any(gpa <= address < gpa + length for gpa, length in self.ram)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Layout:
        """The opposite of ``plain``, also after JSON has made strings of the keys.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: this is no layout.
        """
        return cls(
            ports=[_from_plain(each) for each in data["ports"]],
            mmio=[_from_plain(each) for each in data["mmio"]],
            functions={int(devfn): Function(**each) for devfn, each in data["functions"].items()},
            ram=[(int(gpa), int(length)) for gpa, length in data["ram"]],
        )

    @classmethod
    def of(cls, machine: Any) -> Layout:
        """What a machine looks like now. With the machine lock held, or the vCPUs parked: the guest moves BARs."""
        functions = machine.pci.functions
        bars = {id(bar.mapping): (function.name, bar.index) for function in functions.values() for bar in function.bars}
        return cls(
            ports=[window_of(machine, mapping, bars) for mapping in machine.ports.mappings],
            mmio=[window_of(machine, mapping, bars) for mapping in machine.mmio.mappings],
            functions={
                devfn: Function(
                    name=function.name,
                    vendor=function.read_config(0, 2),
                    device=function.read_config(2, 2),
                    state=_function_state(machine, function),
                )
                for devfn, function in functions.items()
            },
            ram=[(region.gpa, region.size) for region in machine.memory.regions],
        )


def _from_plain(data: dict[str, Any]) -> Window:
    name, bar = data["bar"]
    tables = tuple((int(start), str(table)) for start, table in data["tables"])
    window = Window(**{**data, "tables": tables, "bar": (str(name), int(bar))})
    window.base, window.length, window.width = int(window.base), int(window.length), int(window.width)
    return window


def window_of(machine: Any, mapping: Any, bars: dict[int, tuple[str, int]]) -> Window:
    device = mapping.device
    tables = [(0, device.registers)] if hasattr(device, "registers") else []
    inside = _CONFIG.get(type(device).__name__)
    if inside is not None:  # a virtio transport: the device's own configuration space lies inside
        tables.append((inside, getattr(device.core.device, "registers", "")))
    return Window(
        base=mapping.base,
        length=mapping.length,
        device=device.name,
        width=mapping.width,
        state=_state_name(machine, device),
        tables=tuple(table for table in tables if table[1]),
        bar=bars.get(id(mapping), ("", 0)),
    )


_CONFIG = {"Window": 0x2000, "VirtioMmio": 0x100}  # Virtio 1.2: 4.1.4.6 as pyvmm lays BAR 4 out, and 4.2.2


def _state_name(machine: Any, device: Any) -> str:
    """Under which name States has a device's state; what a bus maps may be a part of something bigger."""
    owners = [device, getattr(device, "controller", None), getattr(device, "core", None)]
    return next((str(name) for name, each in machine.devices.items() if any(each is owner for owner in owners)), "")


def _function_state(machine: Any, function: Any) -> str:
    """A function's own state is its configuration space; its core's is another."""
    return next((str(name) for name, each in machine.devices.items() if each is function), function.name)


def states(machine: Any) -> States:
    """The state of every device, as plain data that no longer changes. With the machine lock held, or the vCPUs parked."""
    return {name: plain(part.state) for name, part in parts(machine).items()}


def parts(machine: Any) -> dict[str, Any]:
    """Whose states these are, by name; each has ``state``, a Record."""
    found: dict[str, Any] = dict(machine.devices)
    for function in machine.pci.functions.values():
        found.setdefault(_function_state(machine, function), function)
    return found


def plain(value: Any) -> Any:
    """A Record and all it holds as dicts, lists, bytes and numbers; copies what can change."""
    if hasattr(value, "_fields") and hasattr(value, "replace"):
        return {name: plain(each) for name, each in value}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


# --- what the kernel answers itself ------------------------------------------------------------------------------------
class KernelRange(Record):
    """Ports or addresses of a device that lives in the kernel.

    Fields:
        space, base, length: where.
        who: the device.
        leaves: when an access reaches user space all the same.
    """

    space: str
    base: int
    length: int
    who: str
    leaves: str


_CHIP = "the machine has no interrupt controller in the kernel, or the access runs over the end of the range"
KERNEL = (
    KernelRange(space="pio", base=0x20, length=2, who="the master 8259A interrupt controller", leaves=_CHIP),
    KernelRange(space="pio", base=0xA0, length=2, who="the slave 8259A interrupt controller", leaves=_CHIP),
    KernelRange(space="pio", base=0x4D0, length=2, who="the 8259As' edge/level registers (ELCR)", leaves=_CHIP),
    KernelRange(
        space="pio",
        base=0x40,
        length=4,
        who="the 8254 timer (PIT)",
        leaves="the machine was made without one (-machine pit=off), or the access runs over the end of the range",
    ),
    KernelRange(
        space="pio",
        base=0x61,
        length=1,
        who="the timer's port B (speaker, gate 2)",
        leaves="there is no PIT in the kernel (-machine pit=off)",
    ),
    KernelRange(
        space="mmio",
        base=layout.IOAPIC,
        length=0x100,
        who="the I/O APIC",
        leaves="the machine has no interrupt controller in the kernel, or the access runs over the end of the range",
    ),
    KernelRange(
        space="mmio",
        base=layout.LAPIC,
        length=layout.PAGE,
        who="the local APIC",
        leaves="the guest has switched it off, moved it or set it to x2APIC mode (IA32_APIC_BASE), and the page answers no more",
    ),
)


def kernel_range(space: str, address: int) -> KernelRange | None:
    """The kernel's device at an address, if there is one."""
    return next((each for each in KERNEL if each.space == space and each.base <= address < each.base + each.length), None)
