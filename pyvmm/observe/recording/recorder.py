"""Watches a machine and writes down each of its exits.

    before   the run page as KVM left it, frozen; the time
    handler
    after    the answer; KVM_RUN with immediate_exit, which completes the access, so that the registers KVM leaves in the run page are
             final; what has changed in devices and, for small guests, in memory; console output. All of it goes into a buffer of bytes.

The buffer goes to the writer when it is full. A keyframe is taken when KEYFRAME_EXITS exits have passed since the last, always: where the
writer lags, the guest waits for it. Also when KEYFRAME_NS have passed, but not sooner than PATIENCE times what the last one took, the
writer's share included where that has no CPU of its own, and not while it lags: those that only time asks for take at most a fiftieth
of it. None while the guest makes no exit.

Exits of several vCPUs are seen one after the other: who comes second waits until the first is through. Memory is looked at with
all vCPUs out of the guest.
"""

from __future__ import annotations

import os
from time import monotonic_ns, time_ns

from pyvmm import __version__, events
from pyvmm.kvm import state as kvm_state
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.kind import cpu_brand, kvm_kind
from pyvmm.observe.explain.layout import plain
from pyvmm.observe.recording import format
from pyvmm.observe.recording.contents import CONSOLE_KEPT, Header, Keyframe
from pyvmm.observe.recording.cpu import Cpu
from pyvmm.observe.recording.ram import Ram
from pyvmm.observe.recording.states import DeviceStates
from pyvmm.observe.recording.writer import Writer
from pyvmm.runloop import Stop
from pyvmm.snapshot.plain import pack
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.config import Config
    from pyvmm.events import StopReason
    from pyvmm.machine import Machine
    from pyvmm.memory import Region

KEYFRAME_EXITS = 1000
KEYFRAME_NS = 200_000_000
PATIENCE = 49
_BACKLOG = 8 << 20  # bytes that wait to be packed: the writer lags
_BUFFER = 64 << 10
_TOOK_MAX = (1 << 32) - 1
_TURN_SECONDS = 0.1  # how often a vCPU that waits for its turn looks whether the run is over
_AT_AN_EXIT = (events.POWEROFF, events.RESET, events.DEBUG_EXIT, events.CRASH, events.HALTED, events.WAKE)
_IO = structs.RUN_IO_DIRECTION // 4
_PACK = format.ENTRY.pack


def header(config: Config, name: str, command: list[str], ram: list[Region]) -> Header:
    """Of a recording that is about to be made."""
    kind = kvm_kind()
    system = os.uname()
    return Header(
        pyvmm=__version__,
        name=name,
        command=command,
        vcpus=config.smp,
        ram=[[region.gpa, region.size] for region in ram],
        cpu=config.cpu,
        host=f"{cpu_brand() or system.machine}, {system.sysname} {system.release}",
        kvm=f"{kind.name}{', nested' if kind.nested else ''}",
        emulates_ring0=kind.emulated,
        started=time_ns(),
        config=plain(config),
    )


class Recorder:
    """A recording in the making: of one machine, and of those that follow it when the guest resets.

    Args:
        path: the file.
        name: of the guest.
        command: the command line.

    Attributes:
        count: exits so far.
        written: bytes, when it is closed.
        failure: why the file is not complete, None as a rule.
        began: what the recording's times count from (``monotonic_ns``).
        writer: for chunks of others; None until the first machine is there.
        running: the machine that is recorded, or was last.
    """

    def __init__(self, path: str, name: str, command: list[str]) -> None:
        self.path = path
        self.count = self.written = 0
        self.writer: Writer | None = None
        self._name = name
        self._command = command
        self.began = 0
        self.failure: BaseException | None = None
        self.running: Run | None = None

    def attach(self, machine: Machine) -> None:
        """Records a machine that does not run yet, until its run is over. ConfigError, HostError: the file; KvmError: see ``Cpu.watch``."""
        fresh = self.writer is not None
        if self.writer is None:
            self.began = monotonic_ns()
            self.writer = Writer(self.path, header(machine.config, self._name, self._command, machine.memory.regions), self._on_failure)
        self.running = Run(machine, self.writer, self.count, self.began, fresh)
        machine.at_end.append(self._run_over)
        machine.own(self.running)

    def _run_over(self) -> None:
        if self.running is not None:
            self.count = self.running.finish()

    def _on_failure(self, error: BaseException) -> None:
        self.failure = error
        if self.running is not None:
            self.running.machine.crashed(error)

    def close(self, reason: StopReason | None = None) -> None:
        """Completes the file. ``reason``: how the run ended; None: the recording has no end."""
        if self.writer is not None:
            end = (
                {}
                if reason is None or self.running is None
                else {**plain(reason), "console": self.running.rest, "time": monotonic_ns() - self.began}
            )
            self.writer.close(end or None)
            self.written = self.writer.written
            self.writer = None


class Run:
    """One machine, from its start to its end.

    Attributes:
        count: exits so far, those of machines before it included.
        rest: what the first serial port sent after the last exit.
    """

    def __init__(self, machine: Machine, writer: Writer, count: int, began: int, fresh: bool) -> None:
        self.machine = machine
        self.count = count
        self.rest = b""
        self._writer = writer
        self.began = began
        self._first = count + 1  # number of the first exit in the buffer
        self._buffer = bytearray()
        self._sent = bytearray()  # by the first serial port, since the last exit
        self._console = bytearray()  # its last bytes
        self._ram = Ram(machine)
        self._states = DeviceStates(machine)
        self._cpus = [Cpu(self, index) for index in range(len(machine.vcpus))]
        self._turn = Lock() if len(self._cpus) > 1 else None
        self._key_count = self._key_due = self._spent = 0  # number of the exit, time, that asks for a keyframe
        self._undo: list[Callable[[], None]] = [self._ram.close, self._states.close]
        self._tap_console()
        try:
            self._undo += [cpu.watch() for cpu in self._cpus]
        except BaseException:
            self.close()
            raise
        with machine.lock:
            self._keyframe(fresh)

    def _tap_console(self) -> None:
        serial = self.machine.devices.get("serial0")
        if serial is None:
            return
        sent, output = self._sent, serial.output

        def tapped(data: bytes) -> None:
            sent.extend(data)
            output(data)

        serial.output = tapped
        self._undo.append(lambda: setattr(serial, "output", output))

    # --- on a vCPU's thread --------------------------------------------------------------------------------------------
    def enter(self) -> None:
        """Waits for this vCPU's turn; until then it counts as parked. Stop: the run is over."""
        turn, machine = self._turn, self.machine
        if turn is None or turn.acquire(False):
            return
        machine.stand(True)
        try:
            while not turn.acquire(timeout=_TURN_SECONDS):
                if machine.reason is not None:
                    raise Stop
        finally:
            machine.stand(False)

    def leave(self) -> None:
        """Lets others have their turn."""
        if self._turn is not None:
            self._turn.release()

    def add(self, cpu: Cpu, reason: int, answer: bytes, regs: bytes, system: bytes, flags: int, took: int) -> None:
        """Appends an exit that is answered."""
        self.count = count = self.count + 1
        more = b""
        if system != cpu.system or cpu.is_new:
            cpu.is_new = False
            cpu.system = more = system
            flags |= format.SYSTEM
        cpu.regs = regs
        if reason != uapi.KVM_EXIT_IO or not answer or not self._states.is_unchanged_by_read(cpu.words[_IO]):
            with self.machine.lock:
                changes = self._states.changes()
            if changes is not None:
                flags |= format.CHANGES
                more += _sized(pack(changes))
        if self._sent:
            flags |= format.CONSOLE
            more += _sized(self._take_sent())
        due = False
        if self._ram.exact:
            with self._ram.still():
                patches = self._ram.patches()
            due = not self._ram.exact
            if patches:
                flags |= format.PATCHES
                more += _sized(patches)
        frozen, came, began = cpu.frozen, cpu.came, self.began
        head = _PACK(cpu.index, flags, 0, len(frozen), len(answer), min(took, _TOOK_MAX), came - began, came - cpu.left, cpu.rip)
        buffer = self._buffer
        buffer += head + frozen + answer + regs + more
        if count >= self._key_count or due or came >= self._key_due and self._writer.backlog <= _BACKLOG:
            self._writer.wait_for_room()  # not in there: everybody would wait
            with self._ram.still():
                self._keyframe()
        elif len(buffer) >= _BUFFER:
            self._flush()

    def _take_sent(self) -> bytes:
        """What the console was sent; the I/O loop may be sending."""
        with self.machine.lock:
            sent = bytes(self._sent)
            self._sent.clear()
        self._console += sent
        del self._console[:-CONSOLE_KEPT]
        return sent

    def _flush(self) -> None:
        if self._buffer:
            self._writer.start()
            self._writer.put(format.EXIT, self._first, self.count + 1 - self._first, bytes(self._buffer))
            self._buffer.clear()
        self._first = self.count + 1

    def _keyframe(self, fresh: bool = False) -> None:
        """The machine behind the last exit; nobody changes it meanwhile."""
        began = monotonic_ns()
        self._flush()
        state = Keyframe(
            time=began - self.began,
            registers=[cpu.regs + cpu.system for cpu in self._cpus],
            devices=self._states.whole(),
            layout=self._states.layout,
            console=bytes(self._console),
            exact=self._ram.exact,
            vcpus={cpu.index: plain(kvm_state.get(cpu.vcpu)) for cpu in self._cpus if not cpu.busy},
            vm=plain(kvm_state.get_vm(self.machine.vm)),
        )
        if self._writer.direct and not self._ram.exact:
            self._writer.keyframe_direct(self.count, state, *self._ram.extents(), fresh)
        else:
            self._writer.keyframe(self.count, state, self._ram.pages(), fresh)
        now = monotonic_ns()
        self._key_count = self.count + KEYFRAME_EXITS
        spent, self._spent = self._writer.spent - self._spent, self._writer.spent
        self._key_due = now + max(KEYFRAME_NS, PATIENCE * (now - began + spent))

    # --- at the end --------------------------------------------------------------------------------------------------
    def finish(self) -> int:
        """The run is over, the machine lock held. Adds exits that nobody could answer; returns how many there were.

        The last thing is a keyframe, as the end is what people look at, unless the guest was stopped somewhere between exits.
        """
        self.rest = bytes(self._sent)
        for cpu in self._cpus:
            if cpu.busy:
                self._add_unanswered(cpu)
        self._flush()
        if len(self._cpus) == 1 and self.machine.reason is not None and self.machine.reason.kind in _AT_AN_EXIT:
            self._keyframe()
        self.close()
        return self.count

    def close(self) -> None:
        """Leaves the machine as it was; nothing the second time."""
        while self._undo:
            self._undo.pop()()

    def _add_unanswered(self, cpu: Cpu) -> None:
        """A crash; or a device ended the run from within its handler."""
        self.count += 1
        cpu.give_up()
        patches = self._ram.patches() if self._ram.exact else b""
        flags = format.SYSTEM | (format.PATCHES if patches else 0)
        head = _PACK(cpu.index, flags, 0, len(cpu.frozen), 0, 0, cpu.came - self.began, cpu.came - cpu.left, cpu.rip)
        self._buffer += head + cpu.frozen + cpu.regs + cpu.system + (_sized(patches) if patches else b"")


def _sized(data: bytes) -> bytes:
    return format.LENGTH.pack(len(data)) + data
