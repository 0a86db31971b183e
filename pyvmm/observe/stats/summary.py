"""A run in numbers: sites with names, the kernel's counters, wall time. What ``text`` shows and ``--json`` writes."""

from __future__ import annotations

from pyvmm.exits import Exit, exit_name
from pyvmm.kvm import uapi
from pyvmm.observe.explain import access as accesses
from pyvmm.observe.stats.meter import COUNT, KICKED, LEAST, MOST, OTHERS, TOTAL, empty, merge, percentile
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from pyvmm.observe.explain.layout import Layout, States
    from pyvmm.observe.stats.kernel import Values

MASK = (1 << 40) - 1  # of mmio.len and is_write; above is padding


class Row(Record):
    """One kind of exit to user space.

    Fields:
        reason: "io", "mmio", "hlt", ...: the kernel's name without KVM_EXIT_; "kicked" for KVM_RUN ended by a signal, "sipi" for
            a processor that got INIT or SIPI (EAGAIN; no time is taken).
        access: "out", "in", "write", "read" or "".
        address, size: of port or memory; -1 and 0 where there is none, or where there were too many to keep apart.
        device, register: who answered; "" where nobody or not known.
        count: how many.
        total, least, most, p99: nanoseconds in user space.
    """

    reason: str
    access: str = ""
    address: int = -1
    size: int = 0
    device: str = ""
    register: str = ""
    count: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    p99: int = 0

    @property
    def average(self) -> int:
        """Nanoseconds."""
        return self.total // self.count if self.count else 0

    @property
    def place(self) -> str:
        """ "0x3f8/1", or ""."""
        return f"{self.address:#x}/{self.size}" if self.address >= 0 else ""


class Summary(Record):
    """A run, possibly over several machines (resets).

    Fields:
        rows: by total time, the longest first.
        wall: nanoseconds from the first entry to the end.
        vcpus: how many there were.
        kernel: one of counters for each vCPU.
        vm: the VM's own counters.
        nanoseconds: names of counters that are times.
        machines: 1, and one more for each reset.
        avoided: what did not have to exit, in words.
        ended: how, in words.
    """

    rows: list[Row] = []
    wall: int = 0
    vcpus: int = 1
    kernel: list[Values] = []
    vm: Values = {}
    nanoseconds: list[str] = []
    machines: int = 1
    avoided: list[str] = []
    ended: str = ""

    @property
    def returns(self) -> int:
        """How often KVM_RUN came back."""
        return sum(row.count for row in self.rows)

    @property
    def busy(self) -> int:
        """Nanoseconds that vCPU threads spent in user space answering exits; what stood still for a pause does not count."""
        return sum(row.total for row in self.rows if row.reason != "kicked")

    def share(self, row: Row) -> float:
        """Of the vCPUs' wall time, 0 to 1."""
        return row.total / (self.wall * self.vcpus) if self.wall else 0.0

    def plain(self) -> dict[str, Any]:
        """For JSON: what ``--json`` writes; docs/observing.md has the fields."""
        return {
            "format": "pyvmm-stat-1",
            "ended": self.ended,
            "machines": self.machines,
            "vcpus": self.vcpus,
            "wall_ns": self.wall,
            "user_space": {
                "returns": self.returns,
                "busy_ns": self.busy,
                "exits": [
                    {
                        "reason": row.reason,
                        "access": row.access,
                        "address": row.address if row.address >= 0 else None,
                        "size": row.size or None,
                        "device": row.device,
                        "register": row.register,
                        "count": row.count,
                        "total_ns": row.total,
                        "min_ns": row.least,
                        "avg_ns": row.average,
                        "max_ns": row.most,
                        "p99_ns": row.p99,
                        "share": round(self.share(row), 6),
                    }
                    for row in self.rows
                ],
                "avoided": self.avoided,
            },
            "kernel": {"vm": self.vm, "vcpus": self.kernel, "nanoseconds": self.nanoseconds},
        }


Cells = dict[tuple[int, object], list[int]]


def gather(total: Cells, cells: dict[int, dict[Hashable, list[int]]]) -> None:
    """Adds one vCPU's cells to those of all."""
    for reason, found in list(cells.items()):
        for where, cell in list(found.items()):
            if cell[COUNT]:
                key = (reason, _place(reason, where))
                merge(total.setdefault(key, empty()), cell)


def _place(reason: int, where: object) -> object:
    if isinstance(where, tuple):
        return where[0], where[1] & MASK
    return where


def rows(total: Cells, layout: Layout | None, states: States | None = None) -> list[Row]:
    """Names for sites: who answers there, which register.

    Args:
        total: from ``gather``.
        layout: of the machine, when it ended; None: nothing is known of devices.
        states: of its devices then, for registers that share an address (DLAB).
    """
    named: dict[tuple[Any, ...], list[int]] = {}
    for (reason, where), cell in total.items():
        merge(named.setdefault(describe(reason, where, layout, states), empty()), cell)
    found = [
        Row(
            reason=key[0], access=key[1], address=key[2], size=key[3], device=key[4], register=key[5],
            count=cell[COUNT], total=cell[TOTAL], least=cell[LEAST], most=cell[MOST], p99=percentile(cell, 0.99),
        )
        for key, cell in named.items()
    ]  # fmt: skip
    return sorted(found, key=lambda row: (-row.total, row.reason, row.address, row.access))


def describe(reason: int, where: object, layout: Layout | None, states: States | None) -> tuple[str, str, int, int, str, str]:
    """(reason, access, address, size, device, register) of a site."""
    if reason == KICKED:
        return "kicked", "", -1, 0, "", ""
    name = exit_name(reason).removeprefix("KVM_EXIT_").lower()
    if where is None or where == OTHERS:
        return name, "" if where is None else OTHERS, -1, 0, "", ""
    exit = site_exit(reason, where)
    is_io = reason == uapi.KVM_EXIT_IO
    is_write = bool(exit.fields["direction" if is_io else "is_write"])
    word = {(True, True): "out", (True, False): "in", (False, True): "write", (False, False): "read"}[is_io, is_write]
    found = accesses.decode(exit, layout, None, None, None)
    if states and found.device:
        found = accesses.decode(exit, layout, _timeless(states), None, None)
    names = [f"{each.name}" for each in found.registers]
    return name, word, found.address, found.size, found.device, ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _timeless(states: States) -> States:
    """States without what only says which register an index port has chosen last."""
    return {name: {key: value for key, value in state.items() if key not in ("index", "address")} for name, state in states.items()}


def site_exit(reason: int, where: Any) -> Exit:
    """A site as an exit, as far as it goes: which registers, not which values."""
    if reason == uapi.KVM_EXIT_IO:
        fields = {"direction": where & 0xFF, "size": where >> 8 & 0xFF, "port": where >> 16, "count": 1, "data_offset": 0}
    else:
        fields = {"address": where[0], "size": where[1] & 0xFFFF_FFFF, "is_write": where[1] >> 32 & 0xFF}
    return Exit(name=exit_name(reason), number=reason, fields=fields)
