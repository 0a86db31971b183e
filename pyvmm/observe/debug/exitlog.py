"""The exits that have happened, by number: a log that forgets the oldest when it is full."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from pyvmm import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.observe.debug.subject import ExitRecord

_PRICE = 600  # bytes of a record, about, beside the data of what is large


class ExitLog:
    """See the module.

    Args:
        limit: bytes, about.

    Attributes:
        size: bytes, about.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._records: list[ExitRecord] = []  # without gaps
        self._rests: list[int] = [0]  # exits behind which the machine was at rest, ascending; one instruction may make several exits

    def add(self, records: list[ExitRecord]) -> None:
        """More, behind the last of which the machine is at rest."""
        self._records += records
        self._rests.append(records[-1].number)
        self.size += sum(_PRICE + len(record.frozen) for record in records)
        if self.size > self.limit:
            gone, self._records = self._records[: len(self._records) // 8 + 1], self._records[len(self._records) // 8 + 1 :]
            self.size -= sum(_PRICE + len(record.frozen) for record in gone)

    @property
    def first(self) -> int:
        """Number of the oldest that is known; 1 when there is none."""
        return self._records[0].number if self._records else 1

    def get(self, number: int) -> ExitRecord | None:
        """None: it has not happened, or is forgotten."""
        index = number - self._records[0].number if self._records else -1
        return self._records[index] if 0 <= index < len(self._records) else None

    def backward(self, number: int) -> Iterator[ExitRecord]:
        """That exit, and those before it."""
        if self._records:
            index = min(number - self._records[0].number, len(self._records) - 1)
            while index >= 0:
                yield self._records[index]
                index -= 1

    def rest_before(self, number: int) -> int:
        """The latest exit, up to this one, behind which the machine was at rest."""
        return self._rests[max(bisect_right(self._rests, number) - 1, 0)]

    def rest_behind(self, number: int) -> int:
        """The first such exit, from this one."""
        return self._rests[min(bisect_left(self._rests, number), len(self._rests) - 1)]

    def forget_after(self, number: int) -> None:
        """Later ones did not happen."""
        while self._records and self._records[-1].number > number:
            self.size -= _PRICE + len(self._records.pop().frozen)
        del self._rests[max(bisect_right(self._rests, number), 1) :]


def difference(known: ExitRecord, again: ExitRecord) -> str:
    """What is different when an exit happens once more; "" when nothing is that a guest could tell."""
    if known.vcpu != again.vcpu:
        return f"exit {known.number} was vCPU {known.vcpu}'s, this time it is vCPU {again.vcpu}'s"
    old, new = exits.thaw(known.frozen), exits.thaw(again.frozen)
    for each in (old, new):
        each.fields.pop("data_offset", None)
    if old.number != new.number or old.fields != new.fields or old.data != new.data and not _is_read(old):
        return f"exit {known.number} was: {exits.describe(old)}; this time: {exits.describe(new)}"
    if known.rip != again.rip:
        return f"exit {known.number} came at {known.rip:#x}, this time at {again.rip:#x}"
    if known.answer != again.answer:
        return f"exit {known.number}, {exits.describe(old)}, was answered {known.answer.hex(' ')}, this time {again.answer.hex(' ')}"
    return ""


def _is_read(exit: exits.Exit) -> bool:
    """Its data is what the page happened to hold before user space answered."""
    fields = exit.fields
    return "direction" in fields and not fields["direction"] or "is_write" in fields and not fields["is_write"]
