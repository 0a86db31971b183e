"""A guest's exits to user space in a test: counted by what they were, the last ones kept to be explained."""

from __future__ import annotations

from collections import deque
from typing import Any

from pyvmm import exits
from pyvmm.kvm import structs, uapi
from pyvmm.machine import Machine
from pyvmm.runloop import Observer

KEPT = 20
_KINDS = 4096  # different ones counted apart; a guest can make 2**64


class Seen:
    """One exit as it was.

    Attributes:
        vcpu: index.
        frozen: for ``exits.thaw``.
        regs, sregs: the vCPU's at the exit.
        answer: what a read brought; None for others, and for one that was not answered.
        times: how often it came in a row: polling would leave nothing else to be seen.
    """

    __slots__ = ("vcpu", "frozen", "regs", "sregs", "answer", "times")

    def __init__(self, vcpu: int, frozen: bytes, regs: Any, sregs: Any) -> None:
        self.vcpu = vcpu
        self.frozen = frozen
        self.regs = regs
        self.sregs = sregs
        self.answer: bytes | None = None
        self.times = 1

    def again(self, vcpu: int, frozen: bytes, regs: Any) -> bool:
        """Whether the next exit is the same once more."""
        return self.vcpu == vcpu and self.frozen == frozen and bool(self.regs.rip == regs.rip)


class Exits:
    """Counts the exits of a guest over all its vCPUs, and over resets.

    Coalesced writes to the serial port are none; ``Vm`` therefore switches that off where it watches.

    Attributes:
        on: whether anybody looks.
    """

    def __init__(self, on: bool = True) -> None:
        self.on = on
        self._counts: list[dict[tuple[int, int, int], int]] = []  # of each vCPU's thread its own: no lock
        self._last: deque[Seen] = deque(maxlen=KEPT)
        self._machine: Machine | None = None

    def watch(self, machine: Machine) -> None:
        """Sees every exit of a machine from now on."""
        self._machine = machine
        self._last.clear()  # another machine's memory would explain them
        for index, loop in enumerate(machine.runloops):
            counts: dict[tuple[int, int, int], int] = {}
            self._counts.append(counts)
            loop.observe(_observer(machine, index, counts, self._last))

    def count(
        self, reason: str | int | None = None, *, port: int | None = None, address: int | None = None, write: bool | None = None
    ) -> int:
        """How many exits there were so far.

        Args:
            reason: "io", "mmio", "KVM_EXIT_IO", or a number; None: all, or as ``port`` and ``address`` say.
            port, address: only port I/O at this port, only MMIO at this guest physical address.
            write: only what the guest wrote (True), or read (False).

        Raises:
            ValueError: no exit is called so; or nobody looks.
        """
        if not self.on:
            raise ValueError("nobody looks at this guest's exits: leave exits=False out")
        number = _number(reason)
        kinds: tuple[int, ...] = (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO)
        if port is not None:
            kinds = (uapi.KVM_EXIT_IO,)
        elif address is not None:
            kinds = (uapi.KVM_EXIT_MMIO,)
        elif write is None:
            kinds = ()  # any
        place = port if port is not None else address
        return sum(
            times
            for counts in self._counts
            for (each, direction, where), times in counts.copy().items()
            if number in (None, each) and (not kinds or each in kinds) and write in (None, direction) and place in (None, where)
        )

    def explained(self) -> list[str]:
        """The last different exits, the oldest first, a line each (pyvmm.observe.explain). The run is over, or the vCPUs are parked."""
        from pyvmm.kvm.kind import emulates_ring0
        from pyvmm.observe.explain.explain import explain
        from pyvmm.observe.explain.layout import Layout
        from pyvmm.observe.explain.who import locate

        machine = self._machine
        if machine is None or not machine.memory.regions:  # none yet, or closed
            return []
        layout, emulated = Layout.of(machine), emulates_ring0()
        lines = []
        for seen in list(self._last):
            exit = exits.thaw(seen.frozen)
            site = locate(exit, seen.regs, seen.sregs, machine.memory, emulated=emulated)
            found = explain(exit, layout, vcpu=seen.vcpu, regs=seen.regs, sregs=seen.sregs, site=site, answer=seen.answer)
            lines.append(found.line + (f", {seen.times} times" if seen.times > 1 else ""))
        return lines


def _observer(machine: Machine, index: int, counts: dict[tuple[int, int, int], int], last: deque[Seen]) -> Observer:
    """Sees one vCPU's exits, on its thread."""
    vcpu = machine.vcpus[index]
    page, quads = vcpu.page, vcpu.quads
    freeze, get_regs, get_sregs = exits.freeze, vcpu.get_regs, vcpu.get_sregs
    is_io, is_mmio = uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO
    now: Seen

    def before(reason: int) -> None:
        nonlocal now
        if reason == is_io:
            word = quads[4]  # direction | size << 8 | port << 16 | count << 32
            kind = (reason, word & 1, word >> 16 & 0xFFFF)
        elif reason == is_mmio:
            kind = (reason, page[structs.RUN_MMIO_IS_WRITE], quads[4])
        else:
            kind = (reason, 0, 0)
        if kind not in counts and len(counts) >= _KINDS:
            kind = (reason, -1, -1)
        counts[kind] = counts.get(kind, 0) + 1
        frozen, regs = freeze(page), get_regs()
        if last and last[-1].again(index, frozen, regs):
            now = last[-1]
            now.times += 1
        else:
            now = Seen(index, frozen, regs, get_sregs())
            last.append(now)

    def after(reason: int) -> None:
        nonlocal now
        if reason == is_io and not page[structs.RUN_IO_DIRECTION]:
            answer = exits.decode(page).data
        elif reason == is_mmio and not page[structs.RUN_MMIO_IS_WRITE]:
            answer = bytes(page[structs.RUN_MMIO_DATA : structs.RUN_MMIO_DATA + min(page[structs.RUN_MMIO_LEN], 8)])
        else:
            return
        if now.times > 1 and now.answer != answer:  # what a poll was waiting for
            now.times -= 1
            now = Seen(index, now.frozen, now.regs, now.sregs)
            last.append(now)
        now.answer = answer

    return Observer(before=before, after=after)


def _number(reason: str | int | None) -> int | None:
    if reason is None or isinstance(reason, int):
        return reason
    wanted = "KVM_EXIT_" + reason.upper().removeprefix("KVM_EXIT_")
    for number, name in uapi.EXIT_NAMES.items():
        if name == wanted:
            return int(number)
    known = ", ".join(name.removeprefix("KVM_EXIT_").lower() for name in uapi.EXIT_NAMES.values())
    raise ValueError(f"no exit is called {reason!r}; there are: {known}")
