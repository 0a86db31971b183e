"""A summary as a table for people."""

from __future__ import annotations

from pyvmm.observe.stats.kernel import MEANINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.stats.kernel import Values
    from pyvmm.observe.stats.summary import Row, Summary

SORTS: dict[str, Callable[[Row], object]] = {
    "time": lambda row: -row.total,
    "count": lambda row: -row.count,
    "avg": lambda row: -row.average,
    "max": lambda row: -row.most,
    "address": lambda row: (row.reason, row.address, row.access),
}
_VCPU_COLUMNS = 4  # more vCPUs than this are shown as their sum only
_HEAD = (
    f"{'count':>10} {'share':>7} {'total ms':>10} {'min us':>8} {'avg us':>8} {'p99 us':>8} {'max us':>9}  {'exit':<12} "
    f"{'address/bytes':<16} who, register"
)


def render(summary: Summary, name: str, sort: str = "time", most: int = 0, everything: bool = False) -> str:
    """The two tables, lines ended by newlines.

    Args:
        name: of the guest.
        sort: a key of SORTS.
        most: rows of exits to show, the rest as one line; 0: all.
        everything: counters of the kernel that are 0 as well.
    """
    lines = [f"{name}: {milliseconds(summary.wall)}, {_counted(summary.vcpus, 'vCPU')}{f'; {summary.ended}' if summary.ended else ''}"]
    if summary.machines > 1:
        lines[0] += f"; {_counted(summary.machines, 'machine')}, one after another"
    lines += ["", *kernel_table(summary, everything), "", *user_table(summary, sort, most)]
    return "\n".join(lines) + "\n"


def kernel_table(summary: Summary, everything: bool = False) -> list[str]:
    """What the kernel counted, a line for each counter."""
    if not summary.kernel:
        return ["the kernel has no statistics to read (KVM_GET_STATS_FD came with Linux 5.14)"]
    columns = range(len(summary.kernel)) if 1 < len(summary.kernel) <= _VCPU_COLUMNS else ()
    lines = ["the kernel counted"]
    if columns:
        lines.append(f"{'all':>17}" + "".join(f"{f'vCPU {index}':>15}" for index in columns))
    for source, counters in (("vcpu", summary.kernel), ("vm", [summary.vm])):
        for name in counters[0]:
            values = [_number(each, name) for each in counters]
            if sum(values) or everything:
                lines.append(_kernel_line(name, values, columns if source == "vcpu" else (), summary))
    return lines


def _number(counters: Values, name: str) -> int:
    """A counter's value; histograms are for ``--json``."""
    value = counters.get(name, 0)
    return value if isinstance(value, int) else 0


def _kernel_line(name: str, values: list[int], columns: range | tuple[()], summary: Summary) -> str:
    show = milliseconds if name in summary.nanoseconds else "{:,}".format
    text = "".join(f"{show(value):>15}" for value in (sum(values), *(values[index] for index in columns)))
    return f"  {text}  {name:<26} {MEANINGS.get(name, '')}".rstrip()


def user_table(summary: Summary, sort: str = "time", most: int = 0) -> list[str]:
    """What reached user space, a line for each kind of exit."""
    percent = 100 * summary.busy / (summary.wall * summary.vcpus) if summary.wall else 0.0
    lines = [
        f"user space: KVM_RUN came back {_counted(summary.returns, 'time')}; "
        f"answering took {milliseconds(summary.busy)}, {percent:.1f} % of {'the vCPUs’ ' if summary.vcpus > 1 else ''}wall time",
        _HEAD,
    ]
    rows = sorted(summary.rows, key=SORTS[sort])  # type: ignore[arg-type]
    shown = rows[:most] if most else rows
    lines += [row_line(row, summary.share(row)) for row in shown]
    if len(shown) < len(rows):
        rest = rows[len(shown) :]
        total = sum(row.total for row in rest)
        lines.append(f"{sum(row.count for row in rest):>10,} {'':>7} {total / 1e6:>10.2f} in {len(rest)} more kinds")
    return lines + summary.avoided


def row_line(row: Row, share: float) -> str:
    """One kind of exit."""
    times = f"{row.least / 1e3:>8.1f} {row.average / 1e3:>8.1f} {row.p99 / 1e3:>8.1f} {row.most / 1e3:>9.1f}"
    what = f"{row.reason} {row.access}".rstrip()
    who = f"{row.device} {row.register}".strip() or ("nobody" if row.address >= 0 else "")
    return f"{row.count:>10,} {100 * share:>6.2f}% {row.total / 1e6:>10.2f} {times}  {what:<12} {row.place:<16} {who}".rstrip()


def milliseconds(nanoseconds: float) -> str:
    """ "1.23 ms", "4.56 s"."""
    return f"{nanoseconds / 1e9:,.2f} s" if nanoseconds >= 1e10 else f"{nanoseconds / 1e6:,.2f} ms"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"
