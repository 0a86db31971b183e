"""Events of a live machine as lines: hooks are put where somebody wants an event, and nowhere else; ``detach`` takes them away.

0.001234 vcpu0  serial_lsr_read                COM1 LSR=60 TEMT THRE
"""

from __future__ import annotations

from time import perf_counter_ns

from pyvmm import exits
from pyvmm.kvm import uapi
from pyvmm.observe.explain.access import label
from pyvmm.observe.explain.layout import plain, window_of
from pyvmm.observe.trace import accesses, hooks
from pyvmm.observe.trace.events import PREFIXES, exit_event
from pyvmm.runloop import Observer
from pyvmm.threads import Lock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.bus import Bus, Mapping
    from pyvmm.machine import Machine
    from pyvmm.observe.trace.events import Chosen
    from pyvmm.runloop import RunLoop

    Undo = Callable[[], None]


def line(time: int, who: str, event: str, text: str) -> str:
    """An event as people read it."""
    return f"{time / 1e9:12.6f} {who:<6} {event:<30} {text}".rstrip()


class Tracer:
    """Traces machines, one after another (resets).

    Args:
        chosen: which events.
        write: takes (nanoseconds, thread, event, text); from any thread, one at a time. ``line`` makes a line of them.
        began: what times count from (``perf_counter_ns``); 0: when each machine is attached to.
    """

    def __init__(self, chosen: Chosen, write: Callable[[int, str, str, str], None], began: int = 0) -> None:
        self.chosen = chosen
        self._write = write
        self._undo: list[Undo] = []
        self._names: dict[int, str] = {}  # thread -> what lines call it
        self._lock = Lock()
        self._began = self._fixed = began

    def attach(self, machine: Machine) -> None:
        """Traces until the machine's run has ended. Before it runs, machine lock not held."""
        self._names = {get_ident(): "io"}
        self._began = self._fixed or perf_counter_ns()
        machine.at_end.append(self.detach)
        with machine.lock:
            for index, loop in enumerate(machine.runloops):
                self._undo.append(self._observe(index, loop))
            for bus in (machine.ports, machine.mmio):
                self._tap(machine, bus)
            self._undo += hooks.attach(machine, self.chosen, self.emit)

    def detach(self) -> None:
        """Takes everything away, in reverse order. Machine lock held."""
        while self._undo:
            self._undo.pop()()

    def emit(self, event: str, text: str) -> None:
        """Tells of one event. Any thread."""
        now = perf_counter_ns() - self._began
        who = self._names.get(get_ident(), "thread")
        with self._lock:
            self._write(now, who, event, text)

    # --- exits -------------------------------------------------------------------------------------------------------
    def _observe(self, index: int, loop: RunLoop) -> Undo:
        """Lines of exits; and any trace wants to know which thread is which vCPU."""
        names, page, chosen, who = self._names, loop.vcpu.page, self.chosen, f"vcpu{index}"
        shown = {name: exit_event(name) for name in uapi.EXIT_NAMES.values() if exit_event(name) in chosen}

        def before(reason: int) -> None:
            names[get_ident()] = who
            event = shown.get(exits.exit_name(reason))
            if event is not None:
                self.emit(event, exits.describe(exits.decode(page)))

        detach = loop.observe(Observer(before=before))
        interrupted = loop.interrupted

        def kicked() -> bool:
            names[get_ident()] = who
            self.emit("exit_kicked", "")
            return interrupted()

        if "exit_kicked" in chosen:
            loop.interrupted = kicked

        def undo() -> None:
            loop.interrupted = interrupted
            detach()

        return undo

    # --- registers ---------------------------------------------------------------------------------------------------
    def _tap(self, machine: Machine, bus: Bus) -> None:
        """Devices' ranges, and BARs that are nowhere yet."""
        functions = machine.pci.functions.values()
        bars = {id(bar.mapping): (function.name, bar.index) for function in functions for bar in function.bars}
        nowhere = [bar.mapping for function in functions for bar in function.bars if (bar.kind == "io") == (bus is machine.ports)]
        for mapping in dict.fromkeys([*bus.mappings, *nowhere]):
            window = window_of(machine, mapping, bars)
            if any(self.chosen.any(PREFIXES.get(table, "-") + "_") for _, table in window.tables):
                self._wrap(machine, mapping, window)
        bus.refresh()
        self._undo.append(bus.refresh)

    def _wrap(self, machine: Machine, mapping: Mapping, window: accesses.Window) -> None:
        inner_read, inner_write = mapping.read, mapping.write
        device, name, emit, chosen = machine.devices.get(window.state), label(window), self.emit, self.chosen

        def state() -> dict[str, object]:
            found = plain(device.state) if device is not None else {}
            return found if isinstance(found, dict) else {}

        def tell(offset: int, size: int, value: int, is_write: bool, before: dict[str, object]) -> None:
            for event, words in accesses.lines(window, offset, size, value, is_write, before):
                if event in chosen:
                    emit(event, f"{name} {words}")

        def read(offset: int, size: int) -> int:
            before = state()
            value = inner_read(offset, size)
            tell(offset, size, value, False, before)
            return value

        def write(offset: int, size: int, value: int) -> None:
            tell(offset, size, value, True, state())  # before what it leads to: an interrupt, a packet
            inner_write(offset, size, value)

        def undo() -> None:
            mapping.read, mapping.write = inner_read, inner_write

        mapping.read, mapping.write = read, write
        self._undo.append(undo)
