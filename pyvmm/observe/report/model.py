"""A recording as numbers: one pass over its exits, arrays instead of objects, so that 100,000 exits are no matter."""

from __future__ import annotations

from array import array
from contextlib import contextmanager

from pyvmm.errors import ConfigError
from pyvmm.kvm import uapi  # fmt: skip
from pyvmm.observe.explain.layout import Layout
from pyvmm.observe.recording.extras import ASLEEP, EVENTS, KERNEL, SAMPLE, SAMPLES, SPAN, SPANS, USER, counters
from pyvmm.observe.stats import summary
from pyvmm.observe.stats.meter import OTHERS, empty, note, percentile
from pyvmm.observe.stats.summary import Row, Summary
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from typing import Any

    from pyvmm.observe.recording.reader import Recording

_MOST_SITES = 4096
_REASON, _WHERE, _MMIO_LENGTH = slice(0x08, 0x0C), slice(0x20, 0x24), slice(0x30, 0x38)  # in a frozen run page (kvm_run)


class Filter(Record):
    """What part of a recording a report is about.

    Fields:
        vcpu: one only; -1: all.
        reason: of exits ("io", "mmio", ...); "" for all.
        device: by the name it has in tables, "nobody" for unclaimed places; "" for all.
        begin, end: nanoseconds since the start; end -1: to the end.
    """

    vcpu: int = -1
    reason: str = ""
    device: str = ""
    begin: int = 0
    end: int = -1

    def time(self, at: int) -> bool:
        """Whether a moment is within."""
        return self.begin <= at and (self.end < 0 or at <= self.end)


class Sample(Record):
    """Where a vCPU was: ``asleep`` in HLT, ``user`` at privilege level 3."""

    time: int
    vcpu: int
    rip: int
    asleep: bool
    user: bool


class Story:
    """What a report shows. Parallel arrays have an element for each exit that the filter lets through.

    Args:
        recording: open.
        wanted: which part.

    Attributes:
        numbers, vcpus, sites, times, took, inside, rips: of each exit: number, vCPU, index into ``rows``, ns, ns in user space, ns in
            KVM_RUN before it, where the guest was.
        rows: one for each site, in order of appearance, with its totals.
        cells: the histogram behind each row.
        layout: of the machine at its end.
        reasons, devices: what may be asked for in this part: names of exits and devices that there are, the filter's own choice aside.
        samples, kernel, spans, events: see ``recording.extras``; () where they were not recorded.
        console: (exit's index in the arrays, what came with it).
    """

    def __init__(self, recording: Recording, wanted: Filter | None = None) -> None:
        self.recording = recording
        self.wanted = wanted or Filter()
        self.layout = Layout.from_plain(recording.state(recording.count).layout)
        self.numbers, self.sites, self.took = array("Q"), array("I"), array("I")
        self.times, self.inside, self.vcpus = array("Q"), array("Q"), array("H")
        self.rips = array("Q")
        self.rows: list[Row] = []
        self.cells: list[list[int]] = []
        self.console: list[tuple[int, bytes]] = []
        self.reasons: set[str] = set()
        self.devices: set[str] = set()
        self._devices = recording.state(0).devices
        self._known: dict[tuple[int, Hashable], int] = {}
        self._read()
        self.samples = [each for each in self._samples() if self.wanted.time(each.time) and self.wanted.vcpu in (-1, each.vcpu)]
        self.spans = [each for each in self._spans() if self.wanted.time(each[0])]
        self.kernel = [look for _, data in recording.others(KERNEL) for look in counters(data)]
        self.events = [each for _, data in recording.others(EVENTS) for each in data["events"] if self.wanted.time(each[0])]

    def _read(self) -> None:
        wanted, known = self.wanted, self._known
        for entry in self.recording.exits():
            if not wanted.time(entry.time) or wanted.vcpu not in (-1, entry.vcpu):
                continue
            if entry.vcpu >= self.recording.header.vcpus:
                raise ConfigError(f"the recording is damaged: exit {entry.number} is of a vCPU that the machine does not have")
            key = site_of(entry.frozen)
            if len(known) >= _MOST_SITES and key not in known:
                key = key[0], OTHERS  # a guest can name 2**64 addresses
            index = known.get(key, -1)
            if index == -1:
                index = known[key] = self._site(*key)
            if index == -2:
                continue
            if entry.console:
                self.console.append((len(self.numbers), entry.console))
            self.numbers.append(entry.number)
            self.vcpus.append(entry.vcpu)
            self.sites.append(index)
            self.times.append(entry.time)
            self.took.append(entry.took)
            self.inside.append(entry.inside)
            self.rips.append(entry.rip)
            note(self.cells[index], entry.took)
        for row, cell in zip(self.rows, self.cells, strict=True):
            row.count, row.total, row.least, row.most = cell[0], cell[1], cell[2] if cell[0] else 0, cell[3]
            row.p99 = percentile(cell, 0.99)

    def _site(self, reason: int, where: Hashable) -> int:
        """A new row's index; -2: the filter does not want it. Several widths of padding are one site."""
        names = summary.describe(reason, where, self.layout, self._devices)
        row = Row(reason=names[0], access=names[1], address=names[2], size=names[3], device=names[4], register=names[5])
        wanted = self.wanted
        device = row.device or ("nobody" if row.address >= 0 else "")
        self.reasons.add(row.reason)
        if device:
            self.devices.add(device)
        if wanted.reason and row.reason != wanted.reason or wanted.device and device != wanted.device:
            return -2
        self.rows.append(row)
        self.cells.append(empty())
        return len(self.rows) - 1

    def _samples(self) -> Iterator[Sample]:
        for _, data in self.recording.others(SAMPLES):
            packed = data["samples"]
            for time, vcpu, flags, _, rip in SAMPLE.iter_unpack(packed[: len(packed) // SAMPLE.size * SAMPLE.size]):
                if vcpu < self.recording.header.vcpus:
                    yield Sample(time=time, vcpu=vcpu, rip=rip, asleep=bool(flags & ASLEEP), user=bool(flags & USER))

    def _spans(self) -> Iterator[tuple[int, int, str, int]]:
        """(ns, ns it took, device, queue)"""
        for _, data in self.recording.others(SPANS):
            packed, names = data["spans"], data["names"]
            for time, took, name, queue in SPAN.iter_unpack(packed[: len(packed) // SPAN.size * SPAN.size]):
                yield time, took, str(names[name]), queue

    # --- sums --------------------------------------------------------------------------------------------------------
    @property
    def duration(self) -> int:
        """Nanoseconds that the filter's part of the recording took."""
        whole = max(self.recording.duration, int((self.recording.end or {}).get("time", 0)))
        end = whole if self.wanted.end < 0 else min(self.wanted.end, whole)
        return max(end - self.wanted.begin, 1)

    def summary(self) -> Summary:
        """The same as ``pyvmm stat`` makes."""
        last: dict[str, Any] = self.kernel[-1] if self.kernel else {"vm": {}, "vcpus": [], "nanoseconds": []}
        return Summary(
            rows=sorted((row for row in self.rows if row.count), key=lambda row: -row.total),
            wall=self.duration,
            vcpus=self.recording.header.vcpus if self.wanted.vcpu < 0 else 1,
            kernel=last["vcpus"],
            vm=last["vm"],
            nanoseconds=last["nanoseconds"],
            ended=ended(self.recording),
        )


@contextmanager
def trusted() -> Iterator[None]:
    """Around what believes a file: what that stumbles over is the file's fault, and one line for the user."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ConfigError(f"the recording is damaged: {type(error).__name__} in what it says of the machine") from None


def load(recording: Recording, wanted: Filter | None = None) -> Story:
    """A Story. ConfigError (``Damaged`` is one): the recording has what no recorder writes."""
    with trusted():
        return Story(recording, wanted)


def ended(recording: Recording) -> str:
    """How the run ended, in words."""
    end = recording.end
    if end is None:
        return "no end"
    return f"{end.get('kind', '')}{', ' + str(end['detail']) if end.get('detail') else ''}"


def site_of(frozen: bytes) -> tuple[int, Hashable]:
    """(exit reason, where) of a frozen run page, as ``stats.meter`` has them."""
    reason = int.from_bytes(frozen[_REASON], "little")
    if reason == uapi.KVM_EXIT_IO:
        return reason, int.from_bytes(frozen[_WHERE], "little")
    if reason == uapi.KVM_EXIT_MMIO:
        return reason, (int.from_bytes(frozen[0x20:0x28], "little"), int.from_bytes(frozen[_MMIO_LENGTH], "little") & summary.MASK)
    return reason, None
