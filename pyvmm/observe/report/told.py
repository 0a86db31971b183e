"""An explanation for each exit of a recording, shared by exits that are alike, so that 100,000 of them need a few hundred texts."""

from __future__ import annotations

from bisect import bisect_right

from pyvmm import exits
from pyvmm.errors import PyvmmError
from pyvmm.kvm import structs
from pyvmm.observe.explain import text
from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.layout import Layout
from pyvmm.observe.explain.who import Site, locate
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.explain.layout import States
    from pyvmm.observe.recording.format import Entry
    from pyvmm.observe.recording.reader import Recording
    from pyvmm.observe.report.model import Story

MOST = 3000  # texts of a page; what comes later shows the text of an earlier exit at the same place
_SELECTS = (
    "index",
    "address",
    "lcr",
    "queue_select",
    "device_feature_select",
    "driver_feature_select",
)  # state that decides what a port shows


class Told(Record):
    """What a page says.

    Fields:
        which: for each exit an index into ``titles``.
        titles: one line each.
        rips: for each title where the guest was.
        bodies: for each title an index into ``texts``.
        texts: pages of plain text.
    """

    which: list[int] = []
    titles: list[str] = []
    rips: list[int] = []
    bodies: list[int] = []
    texts: list[str] = []


def tell(story: Story) -> Told:
    """Explains every exit of a story."""
    teller = _Teller(story.recording)
    told = Told()
    wanted = set(story.numbers)
    known: dict[tuple[Any, ...], int] = {}
    at_place: dict[int, int] = {}  # row -> a text of it
    rows = dict(zip(story.numbers, story.sites, strict=True))
    for entry in story.recording.exits():
        if entry.number in wanted:
            row = rows[entry.number]
            key = (row, entry.frozen[0x28:] + entry.answer, entry.rip, entry.vcpu, entry.changes_packed, teller.selected(row, story))
            index = known.get(key)
            if index is None:
                index = known[key] = len(told.titles)
                if len(told.texts) < MOST:
                    title, body = teller.explain(entry)
                    at_place.setdefault(row, len(told.texts))
                    told.bodies.append(len(told.texts))
                    told.texts.append(body)
                else:
                    title = teller.explain(entry)[0] if len(told.titles) < 10 * MOST else story.rows[row].place
                    told.bodies.append(at_place.get(row, 0))
                told.titles.append(title)
                told.rips.append(entry.rip)
            told.which.append(index)
        teller.passed(entry)
    return told


class _Teller:
    """Follows a recording from exit to exit."""

    def __init__(self, recording: Recording) -> None:
        start = recording.state(0)
        self._recording = recording
        self._devices: States = dict(start.devices)
        self._layout = Layout.from_plain(start.layout)
        self._system = {vcpu: each[144:] for vcpu, each in enumerate(start.registers)}
        self._sites: dict[tuple[int, int], Site | None] = {}
        self._moments = recording.keyframes

    def selected(self, row: int, story: Story) -> tuple[object, ...]:
        """The state of the row's device that decides which register an access means."""
        window = self._layout.find("pio" if story.rows[row].reason == "io" else "mmio", story.rows[row].address)
        state = self._devices.get(window.state, {}) if window is not None else {}
        return tuple(state.get(name) for name in _SELECTS)

    def explain(self, entry: Entry) -> tuple[str, str]:
        """(title, page)"""
        exit = exits.thaw(entry.frozen)
        regs = structs.kvm_regs.from_buffer_copy(entry.regs)
        system = entry.system or self._system.get(entry.vcpu, b"")
        sregs = structs.kvm_sregs.from_buffer_copy(system) if len(system) >= 312 else None
        site = self._site(entry, exit, regs, sregs) if sregs is not None else None
        before = self._devices
        after = {**before, **{name: {**before.get(name, {}), **fields} for name, fields in entry.changes.items() if name}}
        found = explain(
            exit, self._layout, vcpu=entry.vcpu, regs=regs, sregs=sregs, site=site, before=before, after=after, answer=entry.answer
        )
        return found.line, text.render(found)

    def _site(self, entry: Entry, exit: exits.Exit, regs: Any, sregs: Any) -> Site | None:
        """The instruction, looked for once for each rip, in memory as at the keyframe before, or the one behind."""
        key = (entry.rip, exit.number)
        if key not in self._sites:
            self._sites[key] = None
            at = bisect_right(self._moments, entry.number) - 1
            for moment in self._moments[at : at + 2]:
                try:
                    memory = self._recording.state(moment).memory
                    site = locate(exit, regs, sregs, memory, True, self._recording.header.emulates_ring0)
                except PyvmmError:
                    continue
                if site.instruction is not None:
                    self._sites[key] = site
                    break
        return self._sites[key]

    def passed(self, entry: Entry) -> None:
        """On to the moment behind an exit."""
        if entry.system:
            self._system[entry.vcpu] = entry.system
        for name, fields in entry.changes.items() if entry.changes_packed else ():
            if name:
                self._devices[name] = {**self._devices.get(name, {}), **fields}
            else:
                self._layout = Layout.from_plain(fields)
