"""What changes in guest memory: exit by exit while the guest is small, from keyframe to keyframe when it is not.

Small: it has touched at most SMALL_PAGES of memory, and PATCHES_MAX bytes of changes have been enough so far. The limit is there because
the last contents of each page are kept to find what changed in it, and because a page a guest writes often goes into the file each time.

Large: KVM says which pages were written, which is more than have changed (a guest zeroes pages that are zeros). So what the recording
has of them is kept here too, for a comparison, as far as KEPT_PAGES go. Comparing is ten times quicker than a hash. Where the writer has no
CPU of its own what was written goes in without a copy: copying, keeping and comparing cost more than the bytes they save.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager

from pyvmm.layout import PAGE
from pyvmm.observe.recording import format
from pyvmm.snapshot import parts
from pyvmm.snapshot.pages import Tracked
from pyvmm.snapshot.quiesce import PATIENCE, Quiet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.machine import Machine

SMALL_PAGES = (32 << 20) // PAGE
PATCHES_MAX = 256 << 20
KEPT_PAGES = (128 << 20) // PAGE  # more: all are forgotten, and what is written next goes in whether it has changed or not
ZERO = bytes(PAGE)


class Ram:
    """One machine's memory. But for ``close``, all calls are a vCPU thread's, inside ``still``.

    Args:
        machine: it does not run yet.

    Attributes:
        exact: the guest is small.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        # Not ``machine.track``, which has each vCPU settled: its first KVM_RUN has the kernel start a thread in this process, where a
        # sandbox wants none yet. Nothing is on its way in a machine that does not run.
        self._tracked = machine.tracked = Tracked(machine.memory, machine.vm, late=True)
        self._tracked.lasting = parts.lasting(machine)
        for core in parts.cores(machine):
            core.track(True)
        self._changed: set[int] = set()  # since it was asked last
        self._tracked.readers.append(self._changed)
        self._kept: dict[int, bytes | None] = dict(self._tracked.image.whole())  # what the recording has; None: it is forgotten
        self._since = set(self._kept)  # changed since the last keyframe
        self._patched = 0
        self.exact = True

    def close(self) -> None:
        """The run is over, or never was."""
        self._tracked.close()
        self._machine.tracked = None

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nobody writes guest memory meanwhile: other vCPUs are out of the guest, nothing is in flight. On a vCPU's thread."""
        machine = self._machine
        if machine.reason is None and len(machine.vcpus) > 1:
            machine.stand(True)
            try:
                with Quiet(machine, standing=True):
                    yield
            finally:
                machine.stand(False)
            return
        cores = parts.cores(machine)
        with machine.lock:
            for core in cores:
                core.hold(True)
            try:
                for core in cores:
                    core.drained(PATIENCE)
                yield
            finally:
                for core in cores:
                    core.hold(False)

    def patches(self) -> bytes:
        """What has changed since the last call, as an entry has it; b"" and no longer ``exact`` when the guest is too large."""
        self._collect()
        kept, changed = self._kept, self._changed
        if self._patched > PATCHES_MAX or len(kept) + len(changed) > SMALL_PAGES and len(kept.keys() | changed) > SMALL_PAGES:
            self.exact = False
            changed |= self._since
            kept.update(dict.fromkeys(self._since))  # it has these only as changes since a keyframe
            self._since.clear()
            return b""
        found = bytearray()
        for number in sorted(changed):
            new, old = self._page(number), kept.get(number, ZERO)
            if new is not None and old is not None and new != old:
                first, end = _difference(old, new)
                found += format.PATCH.pack(number, first, end - first)
                found += new[first:end]
                kept[number] = new
                self._since.add(number)
        changed.clear()
        self._patched += len(found)
        return bytes(found)

    def pages(self) -> dict[int, bytes]:
        """Page number -> contents of those that have changed since the last call, ascending; small: as ``patches`` saw them."""
        kept = self._kept
        if self.exact:
            found = {number: page for number in sorted(self._since) if (page := kept[number]) is not None}
            self._since.clear()
            return found
        self._collect()
        if len(kept) > KEPT_PAGES:
            kept = self._kept = dict.fromkeys(kept)
        changed, found = sorted(self._changed), {}
        for region in self._machine.memory.regions:
            view, first = region.view, region.gpa // PAGE
            for number in changed[bisect_left(changed, first) : bisect_left(changed, region.end // PAGE)]:
                at = (number - first) * PAGE
                page = view[at : at + PAGE].tobytes()
                if page != kept.get(number, ZERO):
                    found[number] = page
        kept.update(found)
        self._changed.clear()
        return found

    def extents(self) -> tuple[dict[int, list[int]], list[tuple[int, memoryview]]]:
        """What the guest, large, has written since the last call: byte -> numbers of the pages that are full of it; (page number, memory
        from there on) of the others, without a copy. Ascending. Nothing is kept for a comparison."""
        self._collect()
        self._kept.clear()
        changed = sorted(self._changed)
        self._changed.clear()
        uniform: dict[int, list[int]] = {}
        extents: list[tuple[int, memoryview]] = []
        for region in self._machine.memory.regions:
            view, base = region.view, region.gpa // PAGE
            first = end = base
            for number in changed[bisect_left(changed, base) : bisect_left(changed, region.end // PAGE)]:
                at = (number - base) * PAGE
                value = view[at]
                if value == view[at + 2049] == view[at + 4095] and view[at : at + PAGE].tobytes() == bytes((value,)) * PAGE:
                    uniform.setdefault(value, []).append(number)
                elif number == end:
                    end += 1
                else:
                    if first < end:
                        extents.append((first, view[(first - base) * PAGE : (end - base) * PAGE]))
                    first, end = number, number + 1
            if first < end:
                extents.append((first, view[(first - base) * PAGE : (end - base) * PAGE]))
        return uniform, extents

    def _collect(self) -> None:
        self._tracked.collect(parts.lasting(self._machine))

    def _page(self, number: int) -> bytes | None:
        gpa = number * PAGE
        for region in self._machine.memory.regions:
            if region.gpa <= gpa < region.end:
                return bytes(region.view[gpa - region.gpa : gpa - region.gpa + PAGE])
        return None


def _difference(old: bytes, new: bytes) -> tuple[int, int]:
    """Where two pages that differ begin and cease to."""
    bits = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
    return ((bits & -bits).bit_length() - 1) // 8, (bits.bit_length() + 7) // 8
