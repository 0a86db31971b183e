"""One pyvmm machine measured from inside, in a process of its own: the run alone, without start-up.

    python -m tests.bench.inside IMAGE FORMAT [--count] [--spin INTERVAL] [--watch HOW]

Prints "user-space-exits nanoseconds nanoseconds-on-a-CPU"; the exits only with --count, whose counting costs time, else 0. --spin keeps a
second Python thread busy, with that switch interval in seconds. --watch: with an observer (see WATCHERS).
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from time import perf_counter_ns, process_time_ns

from pyvmm import events
from pyvmm.backends import console
from pyvmm.config import BootConfig, Config, SerialConfig
from pyvmm.kvm import uapi
from pyvmm.machine import Machine


def _was_debugged(machine: Machine) -> None:
    """The debugger with its history was there, made ten exits, and has left."""
    from pyvmm.observe.debug.live import Live

    live = Live(machine)
    thread = threading.Thread(target=live.step, args=(10,))
    def leave() -> None:
        thread.join()
        live.close()

    thread.start()
    threading.Thread(target=leave).start()


def _debugged(machine: Machine) -> None:
    """A debugger without history is there, and runs the guest to its end."""
    from pyvmm.observe.debug.conditions import Breakpoints
    from pyvmm.observe.debug.control import Control

    control = Control(machine, Breakpoints())
    control.attach()

    def run() -> None:
        control.run()
        control.detach()

    threading.Thread(target=run).start()


def _counted(machine: Machine) -> None:
    """``pyvmm stat``."""
    from pyvmm.observe.stats.collect import Collector

    Collector().attach(machine)


def _recorded(machine: Machine) -> None:
    """``pyvmm record``."""
    from pyvmm.observe.recording.recorder import Recorder

    Recorder("/dev/null", "bench", []).attach(machine)


WATCHERS: dict[str, Callable[[Machine], None]] = {
    "was-debugged": _was_debugged, "debugged": _debugged, "stat": _counted, "record": _recorded,
}  # fmt: skip


def _spin() -> None:
    while True:
        pass


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("format")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--spin", type=float)
    parser.add_argument("--watch", choices=WATCHERS)
    options = parser.parse_args()
    config = Config(boot=BootConfig(kernel=options.image, fmt=options.format), serials=(SerialConfig(kind="file", target="/dev/null"),))
    exits = 0

    def counted(handler: Callable[[], None]) -> Callable[[], None]:
        def count() -> None:
            nonlocal exits
            exits += 1
            handler()

        return count

    with Machine(config, [console.make(serial) for serial in config.serials]) as machine:
        if options.count:
            handlers = machine.runloops[0].exits
            for number in (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO):
                handlers[number] = counted(handlers[number])
        if options.spin:
            sys.setswitchinterval(options.spin)
            threading.Thread(target=_spin, daemon=True).start()
        if options.watch:
            WATCHERS[options.watch](machine)
        start, cpu = perf_counter_ns(), process_time_ns()
        reason = machine.run(timeout=250)
        took, cpu = perf_counter_ns() - start, process_time_ns() - cpu
    print(exits, took, cpu)
    return 0 if reason.kind == events.POWEROFF else 1


if __name__ == "__main__":
    sys.exit(main())
