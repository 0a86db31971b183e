"""A tiny computer for gdb to debug: a few x86-64 instructions, two vCPUs, a history. Runs on a thread of its own, as vCPUs do.

Instructions: nop; inc rax; jmp short; mov [disp32], rax; hlt (ends the machine). Memory: 64 KiB from 0.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyvmm.observe.gdb import target
from pyvmm.observe.gdb.registers import NAMES
from pyvmm.observe.gdb.target import StopEvent, TargetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.gdb.target import Say, Stopped

MEMORY = 0x1_0000
START = 0x1000
COUNTER = 0x2000  # where the loop stores rax
NOP, INC, STORE, HLT = b"\x90", b"\x48\xff\xc0", b"\x48\x89\x04\x25" + COUNTER.to_bytes(4, "little"), b"\xf4"
LOOP = NOP + INC + STORE + b"\xeb" + bytes((256 - 14,))  # 14 bytes: nop at +0, inc at +1, store at +4, jmp at +12
HISTORY = 100_000


class FakeTarget:
    """Implements ``target.Target``. ``log`` has what was asked of it."""

    def __init__(self, code: bytes = LOOP, vcpus: int = 2) -> None:
        self.memory = bytearray(MEMORY)
        self.memory[START : START + len(code)] = code
        self.registers: list[dict[str, int]] = []
        for vcpu in range(vcpus):
            values = dict.fromkeys(NAMES, 0)
            values.update(
                rip=START, eflags=2, rsp=0x8000 - 0x1000 * vcpu, cr0=0x8005_0033, efer=0xD00, mxcsr=0x1F80, fctrl=0x37F, ftag=0xFFFF
            )
            self.registers.append(values)
        self.reversible = True
        self.breakpoints: set[tuple[str, int, int]] = set()
        self.attached = self.killed = False
        self.say: Say | None = None
        self.log: list[str] = []
        self.running = threading.Event()
        self._break_in = threading.Event()
        self._past: list[tuple[int, dict[str, int], int, bytes]] = []  # vCPU, its registers, where it wrote, what was there
        self._thread: threading.Thread | None = None
        self._ended: StopEvent | None = None

    # --- Target ------------------------------------------------------------------------------------------------------
    def attach(self, say: Say) -> StopEvent:
        self.log.append("attach")
        self.attached = True
        self.say = say
        return self._ended or StopEvent(reason=target.ATTACHED)

    def detach(self) -> None:
        self.log.append("detach")
        self._finish()
        self.breakpoints.clear()
        self.attached = False

    def kill(self) -> None:
        self.log.append("kill")
        self._finish()
        self.breakpoints.clear()
        self.killed = True

    def vcpus(self) -> int:
        return len(self.registers)

    def describe(self, vcpu: int) -> str:
        return f"64-bit <ring {vcpu}>"

    def read_registers(self, vcpu: int) -> dict[str, int]:
        return dict(self.registers[vcpu])

    def write_registers(self, vcpu: int, values: dict[str, int]) -> None:
        if "cr8" in values:
            raise TargetError("cr8 is read-only here")
        self.registers[vcpu].update(values)

    def read_memory(self, vcpu: int, address: int, length: int) -> bytes:
        return bytes(self.memory[address : address + length])

    def write_memory(self, vcpu: int, address: int, data: bytes) -> None:
        if address + len(data) > len(self.memory):
            raise TargetError(f"{address:#x} is not mapped")
        self.memory[address : address + len(data)] = data

    def insert_breakpoint(self, kind: str, address: int, length: int) -> None:
        assert (kind, address, length) not in self.breakpoints
        if kind != target.SOFTWARE and len(self.breakpoints) >= 64:
            raise TargetError("no debug register is free")
        self.breakpoints.add((kind, address, length))

    def remove_breakpoint(self, kind: str, address: int, length: int) -> None:
        self.breakpoints.remove((kind, address, length))

    def resume(self, actions: dict[int, str], stopped: Stopped) -> None:
        self.log.append(f"resume {actions}")
        self._finish()
        self._break_in.clear()
        self._thread = threading.Thread(target=self._run, args=(actions, stopped), daemon=True)
        self.running.set()
        self._thread.start()

    def reverse_step(self, vcpu: int, stopped: Stopped) -> None:
        while self._past:
            if self._undo() == vcpu:
                stopped(StopEvent(reason=target.STEPPED, vcpu=vcpu))
                return
        stopped(StopEvent(reason=target.HISTORY_BEGIN, vcpu=vcpu))

    def reverse_continue(self, stopped: Stopped) -> None:
        while self._past:
            wrote = self._past[-1][2]
            vcpu = self._undo()
            hit = self._watched(vcpu, wrote) or self._at_breakpoint(vcpu)
            if hit:
                stopped(hit)
                return
        stopped(StopEvent(reason=target.HISTORY_BEGIN))

    def interrupt(self) -> None:
        self.log.append("interrupt")
        self._break_in.set()

    def monitor(self, command: str, told: Callable[[str], None]) -> None:
        if command == "fail":
            raise TargetError("that cannot be done")
        if command == "say" and self.say:
            self.say("said later")
        told(f"you said: {command}\n")

    # --- the computer ------------------------------------------------------------------------------------------------
    def _finish(self) -> None:
        self._break_in.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self, actions: dict[int, str], stopped: Stopped) -> None:
        event = None
        steps = 0
        while event is None:
            for vcpu, action in actions.items():
                event = self._step(vcpu)
                if event is None and action == target.STEP:
                    event = StopEvent(reason=target.STEPPED, vcpu=vcpu)
                event = event or self._at_breakpoint(vcpu)
                if event is not None:
                    break
            steps += 1
            if event is None and self._break_in.is_set():
                event = StopEvent(reason=target.INTERRUPTED, vcpu=min(actions))
        self.running.clear()
        if event.reason == target.EXITED:
            self._ended = event
            self.breakpoints.clear()
        stopped(event)

    def _step(self, vcpu: int) -> StopEvent | None:
        """One instruction; an event if it is one by itself."""
        values = self.registers[vcpu]
        rip = values["rip"]
        before, wrote, old = dict(values), -1, b""
        code = bytes(self.memory[rip : rip + 8])
        if code[:1] == NOP:
            values["rip"] = rip + 1
        elif code[:3] == INC:
            values["rax"] = values["rax"] + 1 & (1 << 64) - 1
            values["rip"] = rip + 3
        elif code == STORE:
            wrote, old = COUNTER, bytes(self.memory[COUNTER : COUNTER + 8])
            self.memory[COUNTER : COUNTER + 8] = values["rax"].to_bytes(8, "little")
            values["rip"] = rip + 8
        elif code[:1] == b"\xeb":
            values["rip"] = rip + 2 + int.from_bytes(code[1:2], "little", signed=True)
        elif code[:1] == HLT:
            return StopEvent(reason=target.EXITED, vcpu=vcpu, value=3, text="the guest powered off")
        else:
            return StopEvent(reason=target.CRASHED, vcpu=vcpu, text="an instruction nobody knows")
        if len(self._past) < HISTORY:
            self._past.append((vcpu, before, wrote, old))
        return self._watched(vcpu, wrote)

    def _undo(self) -> int:
        vcpu, values, wrote, old = self._past.pop()
        self.registers[vcpu] = values
        if wrote >= 0:
            self.memory[wrote : wrote + 8] = old
        return vcpu

    def _watched(self, vcpu: int, wrote: int) -> StopEvent | None:
        for kind, address, length in self.breakpoints:
            if kind in (target.WRITE, target.ACCESS) and wrote >= 0 and address < wrote + 8 and wrote < address + length:
                return StopEvent(reason=kind, vcpu=vcpu, address=address)
        return None

    def _at_breakpoint(self, vcpu: int) -> StopEvent | None:
        for kind, address, _ in self.breakpoints:
            if kind in (target.SOFTWARE, target.HARDWARE) and address == self.registers[vcpu]["rip"]:
                return StopEvent(reason=kind, vcpu=vcpu)
        return None
