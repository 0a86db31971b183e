"""Statistics of a live machine: attached to every vCPU, read while it runs or when it has ended, added up over resets."""

from __future__ import annotations

from time import perf_counter_ns

from pyvmm.coalesce import CoalescedSerial
from pyvmm.observe.explain.layout import Layout, states
from pyvmm.observe.stats import summary
from pyvmm.observe.stats.kernel import KernelStats, kernel_stats
from pyvmm.observe.stats.meter import Meter
from pyvmm.observe.stats.summary import Cells, Row, Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.machine import Machine
    from pyvmm.observe.stats.kernel import Values


class Collector:
    """Statistics of one run, which may be of several machines, one after another.

    ``attach`` to each machine before it runs; ``summary`` at any time.
    """

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._meters: list[Meter] = []
        self._undo: list[Callable[[], None]] = []
        self._kernel: list[KernelStats] = []
        self._began = 0
        self._past = Summary(machines=0)

    def attach(self, machine: Machine) -> None:
        """Measures this machine until its run has ended."""
        self._machine = machine
        self._meters = [Meter() for _ in machine.runloops]
        self._undo = [meter.attach(loop) for meter, loop in zip(self._meters, machine.runloops, strict=True)]
        self._kernel = kernel_stats(machine)
        machine.at_end.append(self._ended)
        self._began = perf_counter_ns()

    def _ended(self) -> None:
        """The vCPUs are off KVM_RUN; machine lock held."""
        self._past = self._summary()
        for undo in self._undo:
            undo()
        for each in self._kernel:
            each.close()
        self._machine, self._meters, self._undo, self._kernel = None, [], [], []

    def summary(self) -> Summary:
        """All there is up to now. From any thread but a vCPU's, machine lock not held."""
        machine = self._machine
        if machine is None:
            return self._past
        with machine.lock:
            return self._summary() if self._machine is machine else self._past  # it may have ended just now

    def _summary(self) -> Summary:
        machine, past = self._machine, self._past
        assert machine is not None
        cells: Cells = {}
        for meter in self._meters:
            summary.gather(cells, meter.cells)
        vm, kernel = read(self._kernel)
        rows = summary.rows(cells, Layout.of(machine), states(machine))
        retries = sum(loop.retries for loop in machine.runloops)
        if retries:
            rows.append(Row(reason="sipi", count=retries))
        avoided = list(past.avoided)
        users = machine.coalesced.users if machine.coalesced is not None else []
        batches = sum(user.batches for user in users if isinstance(user, CoalescedSerial))
        if batches:
            avoided.append(f"bytes to COM1 that the kernel collected came in {batches:,} batches, not as exits")
        return Summary(
            rows=_added(past.rows, rows),
            wall=past.wall + perf_counter_ns() - self._began,
            vcpus=len(self._meters),
            kernel=[_sum(before, now) for before, now in zip(past.kernel, kernel, strict=True)] if past.kernel else kernel,
            vm=_sum(past.vm, vm),
            nanoseconds=sorted(set(past.nanoseconds).union(*(each.nanoseconds for each in self._kernel))),
            machines=past.machines + 1,
            avoided=avoided,
        )


def read(kernel: list[KernelStats]) -> tuple[Values, list[Values]]:
    """(the VM's counters, each vCPU's)"""
    values = [each.read() for each in kernel]
    return (values[0], values[1:]) if values else ({}, [])


def _sum(one: Values, other: Values) -> Values:
    result: Values = dict(one)
    for name, value in other.items():
        before = one.get(name)
        if isinstance(value, list):
            result[name] = [a + b for a, b in zip(before, value, strict=False)] if isinstance(before, list) else value
        else:
            result[name] = value + before if isinstance(before, int) else value
    return result


def _added(past: list[Row], now: list[Row]) -> list[Row]:
    """Two machines' rows as one list; percentiles of two are the worse one's."""
    found = {(row.reason, row.access, row.address, row.size, row.device, row.register): row.replace() for row in past}
    for row in now:
        before = found.setdefault((row.reason, row.access, row.address, row.size, row.device, row.register), row)
        if before is not row:
            before.count += row.count
            before.total += row.total
            before.least, before.most = min(before.least, row.least), max(before.most, row.most)
            before.p99 = max(before.p99, row.p99)
    return sorted(found.values(), key=lambda row: -row.total)
