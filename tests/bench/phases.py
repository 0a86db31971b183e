"""A VMM's run cut into phases by what its guest prints: wall time, CPU time and user-space exits of each.

The guest prints "go NAME" before and "done NAME" after (NAME may be missing). Exits are the tracepoint kvm:kvm_userspace_exit, as
`perf stat` counts it, read at each mark; None where the tracepoint may not be used.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import threading
import tty
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import clock_gettime_ns, perf_counter_ns

_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_EVENT = "events/kvm/kvm_userspace_exit/id"
_PERF_EVENT_OPEN = 298  # x86-64
_TRACEPOINT = 2  # perf_event_open(2): PERF_TYPE_TRACEPOINT
_INHERIT = 1 << 1  # attr.inherit: threads the process starts later count too
_ATTR_SIZE = 112  # PERF_ATTR_SIZE_VER5
_TAIL = 2000


@dataclass(frozen=True)
class Phase:
    """Nanoseconds by the clock, nanoseconds on a CPU (guest included), exits to user space."""

    wall: int
    cpu: int
    exits: int | None


class Failed(RuntimeError):
    """The guest did not get to its end."""


class UserExits:
    """Counts one process's kvm_userspace_exit events from now on."""

    def __init__(self, pid: int) -> None:
        self.fd = -1
        path = next((found for place in _TRACEFS if (found := Path(place, _EVENT)).exists()), None)
        if path is None:
            return
        attr = bytearray(_ATTR_SIZE)
        struct.pack_into("<IIQ", attr, 0, _TRACEPOINT, _ATTR_SIZE, int(path.read_text()))
        struct.pack_into("<Q", attr, 40, _INHERIT)  # the bit field after sample_type and read_format
        raw = (ctypes.c_char * _ATTR_SIZE).from_buffer(attr)
        self.fd = ctypes.CDLL(None, use_errno=True).syscall(_PERF_EVENT_OPEN, raw, pid, -1, -1, 0)

    def read(self) -> int | None:
        return None if self.fd < 0 else int(struct.unpack("<Q", os.read(self.fd, 8))[0])

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Guest:
    """A VMM whose guest does what it is asked to on its console, phase after phase, until ``end``.

    The console is a terminal: kvmtool reads from nothing else.

    Args:
        command: the VMM itself, not a wrapper: its process is what is measured.
        limit: seconds after which it is killed.
    """

    def __init__(self, command: list[str], limit: float) -> None:
        self.command = command
        self._tail = b""
        self._terminal, theirs = os.openpty()
        tty.setraw(theirs)
        self._lines = open(self._terminal, "rb", closefd=False)  # noqa: SIM115
        self._vmm = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._exits = UserExits(self._vmm.pid)
        self._clock = (~self._vmm.pid << 3) | 2  # clock_getcpuclockid(3): all threads of a process, those that have ended too
        self._watch = threading.Timer(limit, self._vmm.send_signal, (signal.SIGKILL,))
        self._watch.start()

    def wait(self, line: str) -> tuple[int, int, int | None]:
        """Until the guest says so; returns wall time, CPU time and exits then. Raises Failed."""
        with suppress(OSError):  # EIO: nobody has the other end any more
            for said in self._lines:
                self._tail = (self._tail + said)[-_TAIL:]
                if said.decode("latin-1").split() == line.split():
                    return perf_counter_ns(), clock_gettime_ns(self._clock), self._exits.read()
        raise Failed(f"{' '.join(self.command)}: ended without {line!r}: {self._tail.decode('latin-1')}")

    def phase(self, name: str, count: int) -> Phase:
        """Has it do a load of so many requests. Raises Failed."""
        os.write(self._terminal, f"{name} {count}\n".encode())
        before, after = self.wait(f"go {name}"), self.wait(f"done {name}")
        exits = None if before[2] is None or after[2] is None else after[2] - before[2]
        return Phase(after[0] - before[0], after[1] - before[1], exits)

    def end(self) -> None:
        """Ends it, whatever it does."""
        self._watch.cancel()
        self._vmm.kill()
        self._vmm.wait()
        self._exits.close()
        os.close(self._terminal)


def run(command: list[str], limit: float, status: int | None = 0) -> dict[str, Phase]:
    """Runs a VMM to its end; {name of the phase: what it took}.

    Args:
        command: the VMM itself, not a wrapper: its process is what is measured.
        limit: seconds after which it is killed.
        status: that it must end with; None: any.
    """
    phases: dict[str, Phase] = {}
    begun: dict[str, tuple[int, int, int | None]] = {}
    tail = b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as vmm:
        exits = UserExits(vmm.pid)
        watch = threading.Timer(limit, vmm.send_signal, (signal.SIGKILL,))
        watch.start()
        clock = (~vmm.pid << 3) | 2  # clock_getcpuclockid(3): all threads of a process, those that have ended too

        def now() -> tuple[int, int, int | None]:
            return perf_counter_ns(), clock_gettime_ns(clock), exits.read()

        try:
            assert vmm.stdout is not None
            for line in vmm.stdout:
                words = line.decode("latin-1").split()
                tail = (tail + line)[-_TAIL:]
                name = words[1] if len(words) == 2 else ""
                if words[:1] == ["go"] and len(words) <= 2:
                    begun[name] = now()
                elif words[:1] == ["done"] and name in begun:
                    before, after = begun.pop(name), now()
                    counted = None if before[2] is None or after[2] is None else after[2] - before[2]
                    phases[name] = Phase(after[0] - before[0], after[1] - before[1], counted)
            vmm.wait()
        finally:
            watch.cancel()
            vmm.kill()
            exits.close()
    if begun or not phases or (status is not None and vmm.returncode != status):
        raise Failed(f"{' '.join(command)}: status {vmm.returncode}, {len(phases)} phases: {tail.decode('latin-1')}")
    return phases
