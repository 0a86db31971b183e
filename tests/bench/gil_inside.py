"""Two vCPUs and a disk's I/O thread in one machine, measured from inside: who waits for Python's lock, and how long.

    python -m tests.bench.gil_inside IMAGE REQUESTS INTERVAL [--alone] [--vcpu] [--locks]

vCPU 0 runs guests/bench-blk on the raw image IMAGE, vCPU 1 does OUT after OUT to a port nobody else claims. INTERVAL is
sys.setswitchinterval's, in seconds. --alone: without vCPU 1. --vcpu: requests are served on vCPU 0's thread (ioeventfd=off). REQUESTS 0:
vCPU 1 alone, for a second. Prints "requests exits nanoseconds", counted from the guest's line "go" to its "done". --locks: and a line of
JSON, for each thread how long it held the machine lock each time and how long it waited where somebody else had it, in nanoseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pyvmm import iothread
from pyvmm import machine as machine_module
from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.console import Console
from pyvmm.config import BootConfig, Config, DeviceConfig, DriveConfig, SerialConfig
from pyvmm.kvm import uapi
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.bench import contestants

_CODE, _PORT = 64 * MIB, 0x10
_FOREVER = 0xFFFF_FFFF


class TimedLock:
    """A lock that keeps who held it how long, and who waited for it; ``on`` tells whether it does."""

    on = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = 0
        self.held: dict[int, list[int]] = {}  # by thread
        self.waited: dict[int, list[int]] = {}

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        asked = 0
        if not self._lock.acquire(False):
            asked = time.perf_counter_ns()
            if not self._lock.acquire(blocking, timeout):
                return False
        self._since = time.perf_counter_ns()
        if asked and self.on:
            self.waited.setdefault(threading.get_ident(), []).append(self._since - asked)
        return True

    def release(self) -> None:
        if self.on:
            self.held.setdefault(threading.get_ident(), []).append(time.perf_counter_ns() - self._since)
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Counter:
    """A device that counts what is written to it."""

    name = "counter"
    state = None

    def __init__(self) -> None:
        self.count = 0

    def read(self, offset: int, size: int) -> int:
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        self.count += 1

    def reset(self) -> None: ...


class Marks(Console):
    """Notes time and exits at the lines "go" and "done"."""

    def __init__(self, exits: Counter) -> None:
        super().__init__()
        self.exits = exits
        self.locks: list[TimedLock] = []  # the machine's
        self.output = b""
        self.marks: list[tuple[int, int]] = []

    def write(self, data: bytes) -> None:
        self.output += data
        if self.output.endswith((b"go\n", b"done\n", b"go\r\n", b"done\r\n")):
            self.mark()

    def mark(self) -> None:
        self.marks.append((time.perf_counter_ns(), self.exits.count))
        for lock in self.locks:
            lock.on = not lock.on


def _start_second(machine: Machine) -> None:
    """vCPU 1 enters the loop of guests/bench-out, in the mode in which vCPU 0 starts."""
    code = (contestants.GUESTS / "bench-out" / "bench-out.bin").read_bytes()
    machine.memory.write(_CODE, contestants.with_count(code, _FOREVER))
    first, second = machine.vcpus
    second.set_sregs(first.get_sregs())
    regs = first.get_regs()
    regs.rip = _CODE
    second.set_regs(regs)
    second.set_mp_state(uapi.KVM_MP_STATE_RUNNABLE)


def _time_locks(made: list[TimedLock]) -> None:
    """The next machine's lock is a timed one."""

    def make() -> Any:
        if made:
            return threading.Lock()  # ``resting``
        made.append(TimedLock())
        return made[0]

    machine_module.Lock = make  # type: ignore[attr-defined]


def _names(machine: Machine) -> dict[int, str]:
    """Filled as they come to KVM_RUN: thread -> what it is."""
    names = {threading.get_ident(): "I/O loop"}
    for index, loop in enumerate(machine.runloops):

        def run(index: int = index, run: Callable[[], None] = loop.run) -> None:
            names[threading.get_ident()] = f"vCPU {index}"
            run()

        loop.run = run  # type: ignore[method-assign]
    return names


def _threads(lock: TimedLock, names: dict[int, str]) -> dict[str, dict[str, list[int]]]:
    return {
        names.get(each, "others"): {"held": held, "waited": lock.waited.get(each, [])}
        for each, held in sorted(lock.held.items(), key=lambda item: names.get(item[0], "others"))
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("requests", type=int)
    parser.add_argument("interval", type=float)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--vcpu", action="store_true")
    parser.add_argument("--locks", action="store_true")
    options = parser.parse_args()
    iothread._SWITCH_SECONDS = options.interval
    sys.setswitchinterval(options.interval)
    drive = DriveConfig(id="disk", file=options.image)
    doorbell = "off" if options.vcpu else "on"
    kernel, line = contestants.GUESTS / "bench-blk" / "bench-blk.elf", f"irq op=read random depth=8 count={options.requests}"
    config = Config(
        boot=BootConfig(kernel=str(kernel), cmdline=line), memory=128 * MIB, smp=2, serials=(SerialConfig(kind="null"),), drives=(drive,),
        devices=(DeviceConfig(name="virtio-blk-pci", options=(("drive", "disk"), ("ioeventfd", doorbell))),),
    )  # fmt: skip
    exits = Counter()
    console = Marks(exits)
    disk = open_drive(drive)
    if options.locks:
        _time_locks(console.locks)
    with Machine(config, [console], drives={"disk": disk}) as machine:
        machine.ports.add(_PORT, 1, exits)
        if not options.alone:
            _start_second(machine)
        if not options.requests:
            machine.vcpus[0].set_mp_state(uapi.KVM_MP_STATE_UNINITIALIZED)
            console.mark()

            def expire() -> None:
                console.mark()
                machine.stop()

            threading.Timer(1, expire).start()
        names = _names(machine)
        machine.run(timeout=100)
    disk.close()
    if len(console.marks) != 2:
        print(f"the guest did not come to its end: {console.output.decode('latin-1')}", file=sys.stderr)
        return 1
    (begin, before), (end, after) = console.marks
    print(options.requests, after - before, end - begin)
    if options.locks:
        print(json.dumps({"nanoseconds": end - begin, "threads": _threads(console.locks[0], names)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
