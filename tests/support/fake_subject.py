"""A guest in time without a KVM: the first letters of ``guests/hello``, worked out instruction by instruction beforehand.

``FakeSubject`` implements ``subject.Subject`` over such a trace: every move is a look-up. Its exits, device states and memory are what
a real machine's would be, so that views and explanations can be judged by eye.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm import exits
from pyvmm.errors import GuestFault
from pyvmm.events import POWEROFF, StopReason
from pyvmm.kvm import structs, uapi
from pyvmm.observe.debug import subject as stops
from pyvmm.observe.debug.conditions import ADDRESS, WATCH, Breakpoints
from pyvmm.observe.debug.subject import ExitRecord, Moment, Stop, SubjectError
from pyvmm.observe.explain.explain import Explanation, explain
from pyvmm.observe.explain.layout import Layout, Window
from pyvmm.observe.explain.who import locate
from pyvmm.record import Record

if TYPE_CHECKING:
    from pyvmm.observe.explain.layout import States

BASE = 0x7C00
RAM = 1 << 20
COUNTER = 0x500  # a byte of memory that each letter changes
CODE = bytes.fromhex("31c0 8ed8 fc be2a7c ac 84c0 7412 88c4 bafd03 ec a820 74fb 88e0 baf803 ee ebe9 ba0406 b80020 ef f4 ebfd")
MESSAGE = b"Hello!\n"


class State(Record):
    """Everything at one instruction boundary."""

    regs: dict[str, int]
    exits: int  # so far
    steps: int  # since the last of them
    lcr: int = 0
    printed: bytes = b""
    counter: int = 0


class FakeMemory:
    """1 MiB of it."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def contains(self, gpa: int, length: int) -> bool:
        return gpa >= 0 and gpa + length <= len(self.data)

    def read(self, gpa: int, length: int) -> bytes:
        if not self.contains(gpa, length):
            raise GuestFault(gpa, length)
        return bytes(self.data[gpa : gpa + length])

    def unpack(self, layout: str, gpa: int) -> tuple[Any, ...]:
        import struct

        return struct.unpack(layout, self.read(gpa, struct.calcsize(layout)))


def _page(port: int, size: int, data: bytes, write: bool) -> bytes:
    """A run page frozen at a port access."""
    page = bytearray(0x1000 + size)
    page[structs.RUN_EXIT_REASON] = uapi.KVM_EXIT_IO
    page[structs.RUN_IF_FLAG], page[structs.RUN_IO_DIRECTION], page[structs.RUN_IO_SIZE] = 0, write, size
    page[structs.RUN_IO_PORT : structs.RUN_IO_PORT + 2] = port.to_bytes(2, "little")
    page[structs.RUN_IO_COUNT], page[structs.RUN_IO_DATA_OFFSET + 1] = 1, 0x10
    page[0x1000:] = data
    return exits.freeze(memoryview(page))


def _trace() -> tuple[list[State], list[ExitRecord]]:
    """hello, interpreted: what each of its instructions does, in Python."""
    states: list[State] = []
    records: list[ExitRecord] = []
    regs = dict.fromkeys((*_GENERAL, "rip"), 0) | {"rip": BASE, "rflags": 2, "rdx": 0x80, "rax": 0xAA55}
    now = State(regs=dict(regs), exits=0, steps=0)

    def step(length: int, **changed: int) -> None:
        nonlocal now
        states.append(now)
        values = now.regs | changed
        values["rip"] = changed.get("rip", now.regs["rip"] + length)
        now = now.replace(regs=values, steps=now.steps + 1)

    def access(port: int, size: int, data: bytes, answer: bytes, **changed: int) -> None:
        nonlocal now
        write = not answer
        at = now.regs["rip"]
        records.append(
            ExitRecord(
                number=len(records) + 1, vcpu=0, time=1000 * (len(records) + 1) ** 2, frozen=_page(port, size, data or bytes(size), write),
                answer=answer, rip=at,
            )
        )  # fmt: skip
        step(1, **changed)
        printed = now.printed + data if port == 0x3F8 else now.printed
        now = now.replace(exits=now.exits + 1, steps=0, printed=printed, counter=len(printed) & 0xFF)

    step(2, rax=0, rflags=0x46)
    step(2)
    step(1)
    step(3, rsi=0x7C2A)
    for letter in MESSAGE:
        step(1, rax=now.regs["rax"] & 0xFF00 | letter, rsi=now.regs["rsi"] + 1)
        step(2, rflags=2)
        step(2)
        step(2, rax=letter << 8 | letter)
        step(3, rdx=0x3FD)
        access(0x3FD, 1, b"", b"\x60", rax=letter << 8 | 0x60)
        step(2, rflags=2)
        step(2)
        step(2, rax=letter << 8 | letter)
        step(3, rdx=0x3F8)
        access(0x3F8, 1, bytes([letter]), b"")
        step(2, rip=BASE + 8)
    step(1, rax=now.regs["rax"] & 0xFF00, rsi=now.regs["rsi"] + 1)
    step(2, rflags=0x46)
    step(2, rip=BASE + 0x1F)
    step(3, rdx=0x604)
    step(3, rax=0x2000)
    access(0x604, 2, b"\x00\x20", b"")
    states.append(now)
    return states, records


_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{number}" for number in range(8, 16)))
_SERIAL = Window(base=0x3F8, length=8, device="serial0", width=1, state="serial0", tables=((0, "pyvmm.devices.serial_regs:REGISTERS"),))
_PM = Window(base=0x600, length=24, device="acpi-pm", state="acpi-pm", tables=((0, "pyvmm.devices.acpi_pm_regs:REGISTERS"),))


class FakeSubject:
    """Implements ``subject.Subject``.

    Args:
        live: as a machine: it can be changed, and its future is not known before it has happened.
        vcpus: how many there are; all but the first stand still.
    """

    def __init__(self, live: bool = True, vcpus: int = 1) -> None:
        self.name = "hello"
        self.live = live
        self.vcpus = vcpus
        self.layout = Layout(ports=[_SERIAL, _PM], mmio=[], ram=[(0, RAM)])
        self.breakpoints = Breakpoints()
        self.stop = Stop(why=stops.START)
        self.running = False
        self.memory_note = ""
        self.trace, self.records = _trace()
        self.at = 0  # in the trace
        self.known = 0 if live else len(self.records)  # exits
        self.interrupted = False
        self.log: list[str] = []
        self._memory = bytearray(RAM)
        self._memory[BASE : BASE + len(CODE)] = CODE
        self._memory[0x40:0x44] = b"\x23\x01\x00\xf0"  # the real-mode vector 0x10: f000:0123
        self._memory[0x7C2A : 0x7C2A + len(MESSAGE) + 1] = MESSAGE + b"\0"
        self._set: dict[str, int] = {}

    # --- where in time -------------------------------------------------------------------------------------------------
    @property
    def first(self) -> Moment:
        return Moment(exit=0)

    @property
    def last(self) -> Moment:
        return Moment(exit=self.known)

    # --- looking -------------------------------------------------------------------------------------------------------
    def _now(self) -> State:
        return self.trace[self.at]

    def regs(self, vcpu: int) -> Any:
        values = self._now().regs | self._set if not vcpu else dict.fromkeys((*_GENERAL, "rip"), 0) | {"rflags": 2, "rip": 0xFFF0}
        return structs.kvm_regs(**values)

    def sregs(self, vcpu: int) -> Any:
        found = structs.kvm_sregs()
        for name in ("cs", "ds", "es", "fs", "gs", "ss"):
            segment = getattr(found, name)
            segment.limit, segment.present, segment.s, segment.type = 0xFFFF, 1, 1, 0xB if name == "cs" else 3
        found.cr0, found.apic_base, found.idt.limit = 0x10, 0xFEE0_0900, 0x3FF
        return found

    def vcpu_state(self, vcpu: int) -> Any:
        raise SubjectError("this subject has registers only")

    def vm_state(self) -> Any:
        raise SubjectError("this subject has no interrupt controllers")

    @property
    def memory(self) -> FakeMemory:
        self._memory[COUNTER] = self._now().counter
        return FakeMemory(self._memory)

    def devices(self) -> States:
        sent = len(self._now().printed)
        return {"serial0": {"lcr": 0, "ier": 0, "lsr": 0x60, "sent": sent, "rx": b""}, "acpi-pm": {"status": 0, "enable": 0}}

    def exit(self, number: int) -> ExitRecord:
        if not 0 < number <= self.known:
            raise SubjectError(f"exit {number} has not happened yet" if number > 0 else "exits are counted from 1")
        return self.records[number - 1]

    def explain(self, number: int) -> Explanation:
        record = self.exit(number)
        state = next(each for each in self.trace if each.exits == number)
        regs, exit = structs.kvm_regs(**state.regs), exits.thaw(record.frozen)
        site = locate(exit, regs, self.sregs(0), self.memory, settled=True)
        return explain(exit, self.layout, regs=regs, sregs=self.sregs(0), site=site, answer=record.answer, before={}, after={})

    def console(self, most: int = 4096) -> bytes:
        return self._now().printed[-most:]

    # --- changing ------------------------------------------------------------------------------------------------------
    def set_regs(self, vcpu: int, values: dict[str, int]) -> None:
        self._alive("set")
        self._set |= {name: value for name, value in values.items() if name in (*_GENERAL, "rip", "rflags")}
        self.known = self._now().exits

    def write(self, gpa: int, data: bytes) -> None:
        self._alive("write")
        if gpa + len(data) > RAM:
            raise GuestFault(gpa, len(data))
        self._memory[gpa : gpa + len(data)] = data
        self.known = self._now().exits

    def _alive(self, what: str) -> None:
        self.log.append(what)
        if not self.live:
            raise SubjectError("a recording cannot be changed")

    # --- moving --------------------------------------------------------------------------------------------------------
    def _arrive(self, at: int, why: str, **more: Any) -> Stop:
        self.at = at
        self._set = {}
        state = self._now()
        self.known = max(self.known, state.exits)
        moment = Moment(exit=state.exits, steps=state.steps)
        self.stop = Stop(why=why, at=moment, exit=0 if state.steps else state.exits, **more)
        return self.stop

    def _hits(self, at: int) -> list[int]:
        """Breakpoints that arriving at a state hits."""
        state, before = self.trace[at], self.trace[at - 1] if at else None
        found = []
        for each in self.breakpoints.in_guest():
            counts = state.counter != (before.counter if before else 0)
            here = each.kind == ADDRESS and each.first == state.regs["rip"]
            if here or each.kind == WATCH and each.first <= COUNTER <= each.last and counts:
                found.append(each.number)
        if before is not None and state.exits > before.exits:
            record = self.records[state.exits - 1]
            found += self.breakpoints.hits_at(record.frozen, 0, record.answer)
        return found

    def _go(self, count: int, of: str) -> Stop:
        self.interrupted = False
        for at in range(self.at + 1, len(self.trace)):
            hits = self.breakpoints.reached(self._hits(at))
            if hits:
                return self._arrive(at, stops.BREAKPOINT, hits=hits)
            if self.interrupted:
                return self._arrive(at, stops.INTERRUPTED)
            new_exit = self.trace[at].exits > self.trace[at - 1].exits
            count -= of == "instructions" or of == "exits" and new_exit
            if not count:
                return self._arrive(at, stops.EXIT if of == "exits" else stops.STEPPED)
        return self._arrive(len(self.trace) - 1, stops.END, verdict=StopReason(kind=POWEROFF, detail="ACPI S5"))

    def step(self, count: int = 1) -> Stop:
        self.log.append(f"step {count}")
        return self._go(count, "exits")

    def step_instructions(self, vcpu: int, count: int = 1) -> Stop:
        self.log.append(f"step_instructions {vcpu} {count}")
        return self._go(count, "instructions")

    def run(self, only: frozenset[int] = frozenset()) -> Stop:
        self.log.append("run" if not only else f"run only {sorted(only)}")
        return self._go(-1, "ever")

    def goto(self, moment: Moment) -> Stop:
        self.log.append(f"goto {moment}")
        wanted = [at for at, each in enumerate(self.trace) if each.exits == moment.exit and each.steps == moment.steps]
        if not wanted or moment.exit > self.known and not self.live:
            raise SubjectError(f"{moment} is not there")
        return self._arrive(wanted[0], stops.ARRIVED)

    def back(self, count: int = 1) -> Stop:
        self.log.append(f"back {count}")
        state = self._now()
        wanted = state.exits - count + (state.steps > 0)
        if wanted < 0:
            return self._arrive(0, stops.BEGIN)
        return self._arrive(next(at for at, each in enumerate(self.trace) if each.exits == wanted), stops.ARRIVED)

    def reverse_step(self, vcpu: int, count: int = 1) -> Stop:
        self.log.append(f"reverse_step {vcpu} {count}")
        return self._arrive(max(self.at - count, 0), stops.STEPPED if self.at >= count else stops.BEGIN)

    def reverse_run(self) -> Stop:
        self.log.append("reverse_run")
        for at in range(self.at - 1, 0, -1):
            hits = self.breakpoints.reached(self._hits(at))
            if hits:
                return self._arrive(at, stops.BREAKPOINT, hits=hits)
        return self._arrive(0, stops.BEGIN)

    def interrupt(self) -> None:
        self.log.append("interrupt")
        self.interrupted = True
