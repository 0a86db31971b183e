"""How a breakpoint in the guest is watched for on this host: the best of what works here, found out by trying (``abilities``).

  means                  how                                                     for
  int3                   a byte of code, KVM_GUESTDBG_USE_SW_BP                  addresses; any number
  debug register         KVM_GUESTDBG_USE_HW_BP, DR0-DR3 of every vCPU           addresses, also where nothing is mapped yet; data
  planted trap           0xec, ``in al, dx``, whose port access is an exit       addresses of ring 0, where #BP is not intercepted
  read-only pages        a memory slot of their own; a write becomes an exit     writes to data, where debug registers do nothing
  single steps           each instruction looked at                              whatever else there is; thousands of times slower

What is planted is there only while vCPUs run: ``arm`` puts it in, ``disarm`` takes it out, ``hidden`` does both around a look at memory.
"""

from __future__ import annotations

from contextlib import contextmanager

from pyvmm.kvm import structs, uapi
from pyvmm.observe import paging
from pyvmm.observe.debug import abilities, conditions
from pyvmm.observe.debug.readonly import ReadOnly
from pyvmm.record import Record
from pyvmm.threads import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.machine import Machine
    from pyvmm.observe.debug.conditions import Breakpoint, Breakpoints
    from pyvmm.observe.symbols import Symbols

INT3, REGISTER, TRAP, READ_ONLY, STEPS = "int3", "debug register", "planted trap", "read-only pages", "single steps"
WAITING = "waiting until its page is mapped"
_RING0_ONLY = " (ring 0 only: this host's KVM cannot stop in ring 3)"
_NO_RAM = "nothing: that is no RAM"
_NO_READS = "nothing: this host's KVM has no hardware watchpoints, and nothing else sees reads"

_INT3, _IN_AL_DX = b"\xcc", b"\xec"
_SLOTS = 4  # DR0-DR3
_LENGTH_CODES = {1: 0, 2: 1, 4: 3, 8: 2}  # DR7.LENn (SDM volume 3B, 18.2.4)
_EXECUTE, _WRITE, _ACCESS = 0, 1, 3  # DR7.R/Wn
_IN_ONE = 0x0100  # direction in, size 1: the low half of the word at 0x20 of the run page
_DEBUG, _BREAKPOINT = 1, 3  # exceptions


class Planted(Record):
    """A byte in guest memory that is not the guest's.

    Fields:
        linear, gpa: where.
        byte: what stands there.
        old: what the guest has there; b"" while it is not planted.
        numbers: of the breakpoints.
    """

    linear: int
    gpa: int
    byte: bytes
    old: bytes = b""
    numbers: list[int] = []


class Register(Record):
    """A use of DR0-DR3.

    Fields:
        address, length, kind: for DRn and DR7.
        number: of the breakpoint.
    """

    address: int
    length: int
    kind: int
    number: int


class Watched(Record):
    """A range whose contents are compared: [(gpa, length)], what was there, the breakpoint."""

    pieces: list[tuple[int, int]]
    before: bytes
    number: int
    linear: int


class Mechanisms:
    """Arms breakpoints of one machine. All vCPUs are parked when it is told to do something.

    Args:
        machine: whose.
        breakpoints: the user's; their ``means`` are filled in.

    Attributes:
        physical: where the guest's image has a linear address that is not mapped yet; may be replaced by who knows better.
        stepping: some breakpoint can only be found by single steps.
        addresses: linear address -> numbers of breakpoints, for those who step.
    """

    def __init__(self, machine: Machine, breakpoints: Breakpoints) -> None:
        self.machine = machine
        self.breakpoints = breakpoints
        self.physical: Callable[[int], int | None] = self._in_image
        self._guest: Symbols | None = None
        self.stepping = False
        self.addresses: dict[int, list[int]] = {}
        self.watched: list[Watched] = []
        self._planted: dict[int, Planted] = {}  # by linear address
        self._registers: list[Register] = []
        self._waiting: list[Breakpoint] = []
        self._read_only = ReadOnly(machine)
        self._armed = False
        self._looking = Lock()  # a vCPU's thread that looks counts as parked: the debugger's may disarm meanwhile

    # --- choosing ----------------------------------------------------------------------------------------------------
    def prepare(self, vcpu: int) -> None:
        """Chooses how each breakpoint is watched for, by what ``vcpu`` has mapped."""
        sregs = self.machine.vcpus[vcpu].get_sregs()
        self.stepping = False
        self.addresses, self._planted, self._registers, self.watched, self._waiting = {}, {}, [], [], []
        pages: set[int] = set()
        for each in self.breakpoints.in_guest():
            if each.kind == conditions.ADDRESS:
                self.addresses.setdefault(each.first, []).append(each.number)
                each.means = self._choose_address(each, sregs)
            else:
                each.means = self._choose_watch(each, sregs, pages)
            self.stepping |= each.means == STEPS
        self._read_only.protect(pages)

    def _choose_address(self, each: Breakpoint, sregs: Any) -> str:
        walk = paging.walk(self.machine.memory, sregs, each.first)
        ring3 = bool(sregs.cr0 & paging.CR0_PG) and walk.gpa is not None and walk.user
        gpa = walk.gpa if self._mapped(sregs, walk) else self.physical(each.first)
        in_ram = gpa is not None and self.machine.memory.contains(gpa, 1)
        modes, note = (abilities.ALL, "") if ring3 else (abilities.KERNEL, "")
        if ring3 and not abilities.able("steps", abilities.ALL):
            modes, note = abilities.KERNEL, _RING0_ONLY
        if not each.hardware and in_ram and gpa is not None and abilities.able("software breakpoints", modes):
            return self._plant(each, gpa, _INT3, INT3)
        if len(self._registers) < _SLOTS and abilities.able("hardware breakpoints", modes):
            self._registers.append(Register(address=each.first, length=1, kind=_EXECUTE, number=each.number))
            return REGISTER + note
        if ring3 and not note:
            return STEPS
        if in_ram and gpa is not None:
            return self._plant(each, gpa, _IN_AL_DX, TRAP + note)
        return self._wait(each, sregs, walk)

    def _mapped(self, sregs: Any, walk: paging.Walk) -> bool:
        """Whether the address means something already. A 32-bit kernel's, beyond all RAM, does not while paging is off."""
        return walk.gpa is not None and (bool(sregs.cr0 & paging.CR0_PG) or self.machine.memory.contains(walk.gpa, 1))

    def _in_image(self, linear: int) -> int | None:
        if self._guest is None:
            from pyvmm.observe import symbols

            self._guest = symbols.image(self.machine.config.boot.kernel)
        return self._guest.physical(linear)

    def _plant(self, each: Breakpoint, gpa: int, byte: bytes, means: str) -> str:
        planted = self._planted.setdefault(each.first, Planted(linear=each.first, gpa=gpa, byte=byte))
        planted.numbers.append(each.number)
        return means

    def _choose_watch(self, each: Breakpoint, sregs: Any, pages: set[int]) -> str:
        parts = list(aligned(each.first, each.last + 1)) if each.last - each.first < 8 * _SLOTS else []
        if parts and len(parts) + len(self._registers) <= _SLOTS and abilities.able("watchpoints"):
            kind = _WRITE if each.direction == conditions.WRITE else _ACCESS
            self._registers += [Register(address=at, length=length, kind=kind, number=each.number) for at, length in parts]
            self._compare(each, sregs)
            return REGISTER
        if each.direction == conditions.READ:
            return _NO_READS
        if not self._compare(each, sregs):
            return self._wait(each, sregs, paging.walk(self.machine.memory, sregs, each.first))
        pages.update(gpa // 4096 for gpa, _ in self.watched[-1].pieces)
        return READ_ONLY + (" (writes only)" if each.direction != conditions.WRITE else "")

    def _wait(self, each: Breakpoint, sregs: Any, walk: paging.Walk) -> str:
        if self._mapped(sregs, walk):
            return _NO_RAM
        self._waiting.append(each)
        return WAITING

    def _compare(self, each: Breakpoint, sregs: Any) -> bool:
        """Notes the range and what is there; False where it is not RAM all over."""
        pieces, at = [], each.first
        while at <= each.last:
            length = min(each.last + 1 - at, 4096 - at % 4096)
            gpa = paging.walk(self.machine.memory, sregs, at).gpa
            if gpa is None or not self.machine.memory.contains(gpa, length):
                return False
            pieces.append((gpa, length))
            at += length
        self.watched.append(Watched(pieces=pieces, before=self._read(pieces), number=each.number, linear=each.first))
        return True

    def _read(self, pieces: list[tuple[int, int]]) -> bytes:
        return b"".join([self.machine.memory.read(gpa, length) for gpa, length in pieces])

    # --- in force while vCPUs run ------------------------------------------------------------------------------------
    def arm(self) -> None:
        """Puts in force what was prepared."""
        self._armed = True
        self._show()
        for vcpu in self.machine.vcpus:
            vcpu.set_guest_debug(self._control(), self._image())

    def disarm(self) -> None:
        """The guest is as if nobody watched it, but for pages that stay read-only."""
        with self._looking:
            self._armed = False
            self._hide()
        for vcpu in self.machine.vcpus:
            vcpu.set_guest_debug(0)

    @property
    def protecting(self) -> bool:
        """Whether there are read-only pages: KVM has to emulate what writes there, and does not know every instruction."""
        return bool(self._read_only.pages)

    def unprotect(self) -> None:
        """No page is read-only, until ``prepare``."""
        self._read_only.protect(set())

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """``with mechanisms.hidden():`` memory is the guest's own, the vCPUs standing still meanwhile."""
        with self._looking:
            if self._armed:
                self._hide()
            try:
                yield
            finally:
                if self._armed:
                    self._show()

    def _show(self) -> None:
        for each in self._planted.values():
            each.old = self.machine.memory.read(each.gpa, 1)
            self.machine.memory.write(each.gpa, each.byte)

    def _hide(self) -> None:
        for each in self._planted.values():
            if each.old and self.machine.memory.read(each.gpa, 1) == each.byte:  # else the guest has written there
                self.machine.memory.write(each.gpa, each.old)
            each.old = b""

    def _control(self) -> int:
        control = uapi.KVM_GUESTDBG_USE_HW_BP if self._registers else 0
        if any(each.byte == _INT3 for each in self._planted.values()):
            control |= uapi.KVM_GUESTDBG_USE_SW_BP
        return control | uapi.KVM_GUESTDBG_ENABLE if control else 0

    def _image(self) -> tuple[int, ...]:
        """DR0-DR7."""
        image = [0] * 8
        image[7] = abilities.DR7
        for at, each in enumerate(self._registers):
            image[at] = each.address
            image[7] |= 2 << 2 * at | (each.kind | _LENGTH_CODES[each.length] << 2) << 16 + 4 * at
        return tuple(image)

    # --- what they report: on a vCPU's thread -----------------------------------------------------------------------
    def exit(self, index: int, reason: int) -> tuple[list[int], int] | None:
        """An exit that is not the guest's: (numbers of breakpoints that are hit, address). None: it is the guest's."""
        vcpu = self.machine.vcpus[index]
        if reason == uapi.KVM_EXIT_IO and self._planted and vcpu.words[structs.RUN_UNION // 4] & 0xFFFF == _IN_ONE:
            return self._trap(vcpu)
        if reason == uapi.KVM_EXIT_MMIO and self._read_only.pages and self._read_only.write(vcpu.page) is not None:
            return self.changed()
        return None

    def _trap(self, vcpu: Vcpu) -> tuple[list[int], int] | None:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
        linear = paging.linear_address(sregs, sregs.cs, regs.rip)  # a read waits for its value: rip is at the instruction
        planted = self._planted.get(linear)
        if planted is None or planted.byte != _IN_AL_DX:
            return None
        vcpu.settle()
        vcpu.set_regs(regs)  # rip, rax: as if it had not been
        return planted.numbers, linear

    def changed(self) -> tuple[list[int], int]:
        """Watched memory that is not what it was."""
        numbers, address = [], 0
        for each in self.watched:
            now = self._read(each.pieces)
            if now != each.before:
                numbers.append(each.number)
                address = address or each.linear + next(
                    at for at, pair in enumerate(zip(now, each.before, strict=True)) if pair[0] != pair[1]
                )
                each.before = now
        return numbers, address

    def debug_exit(self, index: int) -> tuple[list[int], int]:
        """KVM_EXIT_DEBUG while armed: the same."""
        vcpu = self.machine.vcpus[index]
        exception, pc, dr6 = vcpu.words[8], vcpu.quads[5], vcpu.quads[6]
        if exception == _BREAKPOINT:
            planted = self._planted.get(pc)
            if planted is not None:
                return planted.numbers, pc
            vcpu.set_guest_debug(self._control() | uapi.KVM_GUESTDBG_INJECT_BP, self._image())  # the guest's own
            return [], 0
        numbers = [each.number for each in self._registers if each.kind == _EXECUTE and each.address == pc]
        written, address = self.changed()
        numbers += written
        for at, each in enumerate(self._registers):
            if each.kind == _ACCESS and dr6 >> at & 1:
                numbers.append(each.number)
                address = address or each.address
        if not numbers and not dr6 & 0xF:
            vcpu.set_guest_debug(self._control() | uapi.KVM_GUESTDBG_INJECT_DB, self._image())
        return numbers, address or pc

    def overdue(self, index: int) -> bool:
        """Whether to stop and choose anew: the guest has loaded something over what is planted, or what waits for its page need not wait
        any more. Asked behind exits."""
        read = self.machine.memory.read
        if any(each.old and read(each.gpa, 1) != each.byte for each in self._planted.values()):
            return True
        if not self._waiting:
            return False
        sregs = self.machine.vcpus[index].get_sregs()
        return any(self._mapped(sregs, paging.walk(self.machine.memory, sregs, each.first)) for each in self._waiting)


def aligned(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(address, length) of the pieces that debug registers can watch: 1, 2, 4 or 8 bytes, aligned."""
    while start < end:
        length = 8
        while start % length or start + length > end:
            length //= 2
        yield start, length
        start += length
