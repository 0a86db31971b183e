"""``pyvmm top``: what happened between two looks at a running machine, as lines of text."""

from __future__ import annotations

from pyvmm.observe.stats.text import milliseconds
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.stats.kernel import Values
    from pyvmm.observe.stats.summary import Row, Summary

_HEAD = f"{'exits/s':>9} {'share':>7} {'avg us':>8} {'p99 us':>8} {'count':>11}  {'exit':<10} {'address/bytes':<16} who, register"


class Rate(Record):
    """One kind of exit in the time between two looks.

    Fields:
        row: all there was of it since the start.
        count, total: exits and nanoseconds since the last look.
    """

    row: Row
    count: int
    total: int


SORTS: dict[str, Callable[[Rate], tuple[float, ...]]] = {
    "time": lambda rate: (-rate.total, -rate.row.total),
    "count": lambda rate: (-rate.count, -rate.row.count),
    "all": lambda rate: (-rate.row.total,),
}


def rates(before: Summary | None, now: Summary) -> list[Rate]:
    """What is new in each row."""
    past = {_key(row): row for row in before.rows} if before is not None else {}
    found = []
    for row in now.rows:
        old = past.get(_key(row))
        found.append(Rate(row=row, count=row.count - (old.count if old else 0), total=row.total - (old.total if old else 0)))
    return found


def _key(row: Row) -> tuple[object, ...]:
    return row.reason, row.access, row.address, row.size, row.device, row.register


def frame(before: Summary | None, now: Summary, name: str, sort: str, height: int, console: list[str], note: str = "") -> list[str]:
    """The lines of a screen.

    Args:
        before: the last look, None for the first.
        now: this one.
        name: of the guest.
        sort: a key of SORTS.
        height: lines there is room for; 0: as many as it takes, without the console.
        console: the last lines the guest has printed.
        note: what keys do, or that it is paused.
    """
    passed = max(now.wall - (before.wall if before is not None else 0), 1)
    found = sorted(rates(before, now), key=SORTS[sort])
    new = sum(rate.count for rate in found)
    head = f"{name}: {milliseconds(now.wall)}; {now.returns:,} exits to user space, {new * 1e9 / passed:,.0f}/s"
    lines = [f"{head}   {note}".rstrip(), *_vcpus(before, now, passed), "", _HEAD]
    room = height - len(lines) - (1 + min(len(console), max(height // 3, 3)) if console else 0) if height else len(found)
    lines += [_line(rate, passed) for rate in found[: max(room, 1)]]
    if height and console:
        lines += [""] * (height - len(lines) - 1 - min(len(console), max(height // 3, 3)))
        lines += ["--- console " + "-" * 40, *console[-max(height // 3, 3) :]]
    return lines[:height] if height else lines


def _line(rate: Rate, passed: int) -> str:
    row = rate.row
    average = rate.total / rate.count / 1e3 if rate.count else row.average / 1e3
    what = f"{row.reason} {row.access}".rstrip()
    who = f"{row.device} {row.register}".strip() or ("nobody" if row.address >= 0 else "")
    share = 100 * rate.total / passed
    return (
        f"{rate.count * 1e9 / passed:>9,.0f} {share:>6.2f}% {average:>8.1f} {row.p99 / 1e3:>8.1f} {row.count:>11,}  "
        f"{what:<10} {row.place:<16} {who}"
    ).rstrip()


def _vcpus(before: Summary | None, now: Summary, passed: int) -> list[str]:
    """What the kernel says of each vCPU; eight at most."""
    lines = []
    for index, counters in enumerate(now.kernel[:8]):
        old: Values = before.kernel[index] if before is not None and index < len(before.kernel) else {}

        def new(name: str, counters: Values = counters, old: Values = old) -> int:
            value, past = counters.get(name, 0), old.get(name, 0)
            return value - past if isinstance(value, int) and isinstance(past, int) else 0

        halted = new("halt_wait_ns") + new("halt_poll_success_ns") + new("halt_poll_fail_ns")
        lines.append(
            f"  vCPU {index}: {new('exits') * 1e9 / passed:>9,.0f} exits/s, asleep {100 * halted / passed:>5.1f} %, "
            f"{new('irq_injections') * 1e9 / passed:>7,.0f} interrupts/s, {new('insn_emulation') * 1e9 / passed:>9,.0f} emulations/s"
        )
    return lines
