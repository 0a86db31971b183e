"""Exits counted, and one exit's run page."""

from __future__ import annotations

from pyvmm import exits
from pyvmm.kvm import structs, uapi
from pyvmm.observe.debug.conditions import MMIO, PORT
from pyvmm.observe.debug.subject import SubjectError
from pyvmm.observe.explain.members import members
from pyvmm.observe.explain.reasons import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.session import Session
    from pyvmm.observe.debug.style import Style

_MOST = 100_000
_ROWS = 20
# the header of struct kvm_run (api.rst 5): offset, bytes, name, meaning
_HEADER = (
    (structs.RUN_REQUEST_INTERRUPT_WINDOW, 1, "request_interrupt_window", "1: exit as soon as an interrupt can be injected"),
    (structs.RUN_IMMEDIATE_EXIT, 1, "immediate_exit", "1: KVM_RUN comes back at once"),
    (structs.RUN_READY_FOR_INTERRUPT, 1, "ready_for_interrupt_injection", ""),
    (structs.RUN_IF_FLAG, 1, "if_flag", "the guest's interrupt flag"),
    (structs.RUN_FLAGS, 2, "flags", "1: in system management mode, 2: bus lock"),
    (structs.RUN_CR8, 8, "cr8", "task priority"),
    (structs.RUN_APIC_BASE, 8, "apic_base", ""),
)


def counted(session: Session, style: Style) -> tuple[list[str], list[dict[str, Any]]]:
    """Exits up to now by reason, place and direction, most frequent first."""
    subject = session.subject
    counts: dict[tuple[int, str, int], int] = {}
    last = session.at().exit
    first = max(last - _MOST + 1, 1)
    forgotten = first - 1
    for number in range(first, last + 1):
        try:
            exit = exits.thaw(subject.exit(number).frozen)
        except SubjectError:
            forgotten += 1
            continue
        key = (exit.number, "", 0)
        if exit.number in (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO):
            is_io = exit.number == uapi.KVM_EXIT_IO
            write = exit.fields["direction" if is_io else "is_write"]
            key = (exit.number, "write" if write else "read", exit.fields["port" if is_io else "address"])
        counts[key] = counts.get(key, 0) + 1
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    for (number, direction, address), count in ranked:
        is_io = number == uapi.KVM_EXIT_IO
        who = session.places.at(PORT if is_io else MMIO, address, direction[0]) if direction else ""
        where = (
            f"{direction} {address:#x}" + (f"  {who}" if who else "")
            if direction
            else reason(number).saw.split(".")[0].split("{")[0].strip()
        )
        if len(lines) < _ROWS:
            lines.append(f"{count:>9}  {style.name(f'{exits.exit_name(number):<20}')} {where}".rstrip())
        data.append({"count": count, "reason": exits.exit_name(number), "direction": direction, "address": address})
    if len(ranked) > _ROWS:
        rest = sum(count for _, count in ranked[_ROWS:])
        lines.append(f"{rest:>9}  of {len(ranked) - _ROWS} other kinds")
    lines.append(f"{last:>9}  exits up to now" + (f"; the first {forgotten} are not counted" if forgotten else ""))
    return lines, data


def run_page(session: Session, number: int, style: Style) -> tuple[list[str], list[dict[str, Any]]]:
    """struct kvm_run of one exit, member by member."""
    record = session.subject.exit(number)
    exit, frozen = exits.thaw(record.frozen), record.frozen
    rows = [(at, name, f"{int.from_bytes(frozen[at : at + size], 'little'):#x}", text) for at, size, name, text in _HEADER]
    rows += [(each.offset, each.name, each.value, each.text) for each in members(exit, record.answer) if each.name != "flags"]
    rows.sort(key=lambda each: each[0])
    width = max(len(each[1]) for each in rows)
    value_width = min(max(len(each[2]) for each in rows), 30)
    lines = [style.title(f"struct kvm_run of vCPU {record.vcpu} at exit {number}, as KVM left it")]
    for at, name, value, text in rows:
        union = at >= structs.RUN_UNION or name == "exit_reason"
        shown = f"{name:<{width}}"
        line = f"  {at:#06x}  {style.name(shown) if union else shown}  {value:<{value_width}}  {style.label(text) if text else ''}"
        lines.append(line.rstrip())
    return lines, [{"offset": at, "name": name, "value": value} for at, name, value, _ in rows]
