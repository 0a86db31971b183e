"""What a recording has beside exits, in chunks of its own: where the guest is, the kernel's counters, what I/O threads do, events.

    SAMP  {"samples": SAMPLE after SAMPLE}
    KSTA  {"fields": [of the VM's counters, of a vCPU's], "vcpus": how many, "nanoseconds": names of those that are times,
          "lengths": bytes of the VM's block and of a vCPU's, "rows": a time (u64), the VM's block and each vCPU's; and so on};
          every KERNEL_NS, and at last. Fields and blocks are those of ``stats.kernel``
    SPAN  {"names": [...], "spans": SPAN after SPAN}; a span is the time a device needed to look at its queue, on a thread that is no vCPU's
    EVNT  {"events": [[ns, thread, name, text], ...]}: what --trace would print

Times count from the start of the recording.
"""

from __future__ import annotations

from struct import Struct
from threading import Event, Thread
from time import monotonic_ns

from pyvmm.errors import KvmError
from pyvmm.kvm import uapi
from pyvmm.observe.stats.kernel import decode, kernel_stats
from pyvmm.snapshot.plain import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyvmm.machine import Machine
    from pyvmm.observe.recording.recorder import Recorder
    from pyvmm.observe.stats.kernel import KernelStats
    from pyvmm.observe.trace.events import Chosen
    from pyvmm.runloop import RunLoop

SAMPLES, KERNEL, SPANS, EVENTS = b"SAMP", b"KSTA", b"SPAN", b"EVNT"
SAMPLE = Struct("<QHHIQ")  # ns, vCPU, flags, 0, rip
ASLEEP, USER = 1, 2  # flags: in HLT; at privilege level 3
SPAN = Struct("<QIHH")  # ns, how many ns it took (at most 4.29 s are counted), number of the name, queue
KERNEL_NS = 50_000_000
FLUSH_NS = 1_000_000_000  # who kills the recorder loses no more than this
_TIME = Struct("<Q")
_TOOK_MAX = (1 << 32) - 1
_MOST = 4096  # of anything in a chunk


class Extras:
    """Attach to each machine after its Recorder.

    Args:
        recorder: whose file these chunks go to.
        hertz: samples a second of each vCPU; 0: none.
        chosen: events; None: none.
    """

    def __init__(self, recorder: Recorder, hertz: float = 0, chosen: Chosen | None = None) -> None:
        self._recorder = recorder
        self._hertz = hertz
        self._chosen = chosen
        self._kernel: list[KernelStats] = []
        self._undo: list[Callable[[], None]] = []
        self._samples = bytearray()
        self._counters = bytearray()
        self._spans = bytearray()
        self._names: list[str] = []
        self._events: list[list[Any]] = []
        self._wanted: list[bool] = []
        self._over = Event()
        self._thread: Thread | None = None

    def attach(self, machine: Machine) -> None:
        """Until the machine's run has ended."""
        self._began = self._recorder.began
        self._kernel = kernel_stats(machine)
        if self._chosen is not None:
            from pyvmm.observe.trace.tracer import Tracer

            Tracer(self._chosen, self._event, self._began).attach(machine)
        if machine.cards is not None:
            self._names = [transport.core.device.name for transport in machine.cards.transports]
            for number, transport in enumerate(machine.cards.transports):
                self._undo.append(self._listen(number, transport.core.device))
        self._wanted = [False] * len(machine.vcpus)
        if self._hertz:
            for index, loop in enumerate(machine.runloops):
                self._undo.append(self._sampled(index, loop))
        machine.at_end.insert(0, self._ended)  # before the recorder's, whose file it needs
        self._over.clear()
        self._thread = Thread(target=self._watch, args=(machine,), daemon=True)
        machine.loop.make_timer(self._thread.start).arm(monotonic_ns())  # with the run, not now: a sandbox wants no thread before

    def _ended(self) -> None:
        self._over.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        self._count()
        self._flush(0)
        for each in self._kernel:
            each.close()
        while self._undo:
            self._undo.pop()()

    # --- writing -----------------------------------------------------------------------------------------------------
    def _add(self, kind: bytes, data: Any) -> None:
        writer = self._recorder.writer
        if writer is not None:
            writer.add(kind, 0, data)

    def _flush(self, least: int) -> None:
        """Writes what there is more of than ``least``. Others append meanwhile: what came later stays."""
        if len(self._samples) > least * SAMPLE.size:
            data = bytes(self._samples)
            del self._samples[: len(data)]
            self._add(SAMPLES, {"samples": data})
        if len(self._spans) > least * SPAN.size:
            data = bytes(self._spans)
            del self._spans[: len(data)]
            self._add(SPANS, {"names": list(self._names), "spans": data})
        if len(self._counters) > least * 1024:
            data = bytes(self._counters)
            del self._counters[: len(data)]
            vm, vcpu = self._kernel[:2]
            about = {"vcpus": len(self._kernel) - 1, "nanoseconds": sorted(vcpu.nanoseconds), "lengths": [vm.length, vcpu.length]}
            self._add(KERNEL, {"fields": plain([vm.fields, vcpu.fields]), **about, "rows": data})
        if len(self._events) > least:
            events = self._events[:]
            del self._events[: len(events)]
            self._add(EVENTS, {"events": events})

    def _event(self, time: int, who: str, event: str, text: str) -> None:
        self._events.append([time, who, event, text])

    # --- the thread that looks at the clock --------------------------------------------------------------------------
    def _watch(self, machine: Machine) -> None:
        step = 1 / self._hertz if self._hertz else KERNEL_NS / 1e9
        counted = flushed = monotonic_ns()
        while not self._over.wait(step):
            if self._hertz:
                with machine.parking:
                    self._wanted = [True] * len(self._wanted)
                    machine._kick_all()
            if monotonic_ns() - counted >= KERNEL_NS:
                counted = monotonic_ns()
                self._count()
                late = counted - flushed >= FLUSH_NS
                flushed = counted if late else flushed
                self._flush(0 if late else _MOST)

    def _count(self) -> None:
        """One look at the kernel's counters."""
        if self._kernel:
            blocks = [each.raw() for each in self._kernel]
            self._counters.extend(_TIME.pack(monotonic_ns() - self._began) + b"".join(blocks))

    # --- on a vCPU's thread --------------------------------------------------------------------------------------------
    def _sampled(self, index: int, loop: RunLoop) -> Callable[[], None]:
        interrupted, vcpu = loop.interrupted, loop.vcpu

        def sampled() -> bool:
            if self._wanted[index]:
                self._wanted[index] = False
                try:
                    flags = ASLEEP if vcpu.get_mp_state() == uapi.KVM_MP_STATE_HALTED else 0
                    flags |= USER if vcpu.get_sregs().ss.dpl == 3 else 0
                    self._samples.extend(SAMPLE.pack(monotonic_ns() - self._began, index, flags, 0, vcpu.get_regs().rip))
                except KvmError:
                    pass  # a processor that has not been started
            return interrupted()

        loop.interrupted = sampled

        def undo() -> None:
            loop.interrupted = interrupted

        return undo

    # --- on a device's thread ----------------------------------------------------------------------------------------
    def _listen(self, number: int, device: Any) -> Callable[[], None]:
        from pyvmm.observe.trace.hooks import replace

        serve = device.serve

        def timed(index: int) -> None:
            came = monotonic_ns()
            try:
                serve(index)
            finally:
                took = min(monotonic_ns() - came, _TOOK_MAX)
                self._spans.extend(SPAN.pack(came - self._began, took, number, index))

        return replace(device, "serve", timed)


def counters(data: Any) -> Iterator[dict[str, Any]]:
    """The looks in a KSTA chunk: "time", "vm", "vcpus", "nanoseconds".

    Raises:
        TypeError, ValueError, KeyError, AttributeError: it is none.
    """
    vm_length, length = data["lengths"]
    step = _TIME.size + vm_length + length * data["vcpus"]
    if vm_length < 0 or length <= 0 or not 0 < data["vcpus"] <= _MOST or not all(type(name) is str for name in data["nanoseconds"]):
        raise ValueError("no counters")
    for fields in data["fields"]:
        if not all(
            type(name) is str and 0 <= first < _MOST and 0 < count < _MOST and 0 <= power < 10 for name, first, count, power in fields
        ):
            raise ValueError("no counters")
    rows = data["rows"]
    for at in range(0, len(rows) - step + 1, step):
        block = at + _TIME.size + vm_length
        yield {
            "time": _TIME.unpack_from(rows, at)[0],
            "vm": decode(data["fields"][0], rows[at + _TIME.size : block]),
            "vcpus": [decode(data["fields"][1], rows[start : start + length]) for start in range(block, at + step, length)],
            "nanoseconds": data["nanoseconds"],
        }
