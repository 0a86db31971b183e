"""What a KVM really does, found out by tiny guests; capabilities tell it wrongly or not at all.

KVM_CHECK_EXTENSION answers the same on hosts where breakpoints work and where they never fire. So each question here is
a guest of a few bytes that answers it. A probe takes a millisecond or two on VMX and SVM and is under a hard time limit.
"""

from __future__ import annotations

import threading
from struct import pack

from pyvmm.boot.cpu import SELECTOR_CODE, SELECTOR_DATA, long_mode, memory_for, protected_mode, real_mode
from pyvmm.cpuid import Cpuid
from pyvmm.csignal import signal
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import kick, run_ioctl
from pyvmm.layout import IDENTITY_MAP, MIB, PAGE, TSS
from pyvmm.memory import GuestMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.boot.cpu import CpuState

    Probe = Callable[["Bench"], bool]

LIMIT = 0.25  # seconds for one KVM_RUN
CODE, TABLES, IDT, DATA = 0x2_0000, 0x3_0000, 0x4_0000, 0x5_0000  # clear of the boot structures (pyvmm.layout)
_KICK = signal.SIGUSR2
_ALL_SIGNALS = (1 << 64) - 1
_HLT = b"\xf4"
_STAR, _LSTAR, _SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084  # what SYSCALL does (APM volume 2, 6.1.1)


class Bench:
    """/dev/kvm and the CPUID table, shared by the probes of one check."""

    def __init__(self) -> None:
        self.kvm = Kvm()
        self.leaves = Cpuid(self.kvm, "host,safe=off", 1).leaves(0)

    def close(self) -> None:
        """Closes /dev/kvm."""
        self.kvm.close()

    def guest(self, state: CpuState, code: bytes) -> Guest:
        """A vCPU about to run ``code`` at CODE in ``state``."""
        return Guest(self, state, code)


class Guest:
    """One VM with 2 MiB of RAM, no interrupt controller and one vCPU, for the time of one probe. A context manager."""

    def __init__(self, bench: Bench, state: CpuState, code: bytes) -> None:
        from pyvmm.poweron import set_boot_state

        self.memory = GuestMemory(2 * MIB)
        self.vm = bench.kvm.create_vm()
        self.vm.set_identity_map_addr(IDENTITY_MAP)
        self.vm.set_tss_addr(TSS)
        region = self.memory.regions[0]
        self.vm.set_memory_region(0, region.gpa, region.size, region.host_address)
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid(bench.leaves)
        self.vcpu.use_signal_mask(_ALL_SIGNALS & ~(1 << _KICK - 1))
        for gpa, data in memory_for(state):
            self.memory.write(gpa, data)
        self.memory.write(CODE, code)
        set_boot_state(self.vcpu, state)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.vcpu.close()
        self.vm.close()

    def run(self, limit: float = LIMIT) -> int:
        """KVM_RUN once; the exit reason, -1 when the guest was still running after ``limit`` seconds."""
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {_KICK})
        watchdog = threading.Timer(limit, kick, (threading.get_ident(), _KICK))
        watchdog.start()
        try:
            result = run_ioctl(self.vcpu.fd, uapi.KVM_RUN)
            return -1 if result else self.vcpu.words[structs.RUN_EXIT_REASON // 4]
        except InterruptedError:
            return -1
        except OSError:
            return -2
        finally:
            watchdog.cancel()
            watchdog.join()
            while signal.sigtimedwait({_KICK}, 0) is not None:
                pass
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def debug_exit(self) -> tuple[int, int, int] | None:
        """Runs; (exception, pc, dr6) of a debug exit, None for any other end."""
        if self.run() != uapi.KVM_EXIT_DEBUG:
            return None
        return self.vcpu.words[8], self.vcpu.quads[5], self.vcpu.quads[6]


def _halts(bench: Bench, state: CpuState, code: bytes, rip: int, prepare: Callable[[Guest], None] | None = None) -> bool:
    """Whether the guest reaches the HLT in front of ``rip``."""
    with bench.guest(state, code) as guest:
        if prepare:
            prepare(guest)
        return guest.run() == uapi.KVM_EXIT_HLT and guest.vcpu.get_regs().rip == rip


# --- the probes ----------------------------------------------------------------------------------------------------------
def _real(bench: Bench) -> bool:
    code = b"\xb8\x34\x12" + _HLT  # mov ax, 0x1234
    with bench.guest(real_mode(CODE), code) as guest:
        return guest.run() == uapi.KVM_EXIT_HLT and guest.vcpu.get_regs().rax == 0x1234


def _long(bench: Bench) -> bool:
    return _halts(bench, long_mode(CODE), b"\x48\x31\xc0" + _HLT, CODE + 4)  # xor rax, rax


def _enter_paging(cr4: int) -> bytes:
    """32-bit code: cr4, cr3 = TABLES, cr0.PG, a jump, hlt."""
    code = b"\xb8" + pack("<I", cr4) + b"\x0f\x22\xe0" + b"\xb8" + pack("<I", TABLES) + b"\x0f\x22\xd8"
    return code + b"\x0f\x20\xc0\x0d" + pack("<I", 1 << 31) + b"\x0f\x22\xc0" + b"\xeb\x00" + _HLT


def _paging32(bench: Bench) -> bool:
    code = _enter_paging(1 << 4)  # PSE: one 4 MiB page
    return _halts(bench, protected_mode(CODE), code, CODE + len(code), lambda guest: guest.memory.write(TABLES, pack("<I", 0x83)))


def _pae(bench: Bench) -> bool:
    def tables(guest: Guest) -> None:
        guest.memory.write(TABLES, pack("<Q", TABLES + 0x1000 | 1))
        guest.memory.write(TABLES + 0x1000, pack("<Q", 0x83))  # one 2 MiB page

    code = _enter_paging(1 << 5)
    return _halts(bench, protected_mode(CODE), code, CODE + len(code), tables)


def _simd(bench: Bench) -> bool:
    state = long_mode(CODE)
    state.cr4 |= 1 << 9  # OSFXSR
    code = b"\x66\x0f\xef\xc0\x66\x0f\x7e\xc0" + _HLT  # pxor xmm0, xmm0; movd eax, xmm0
    return _halts(bench, state, code, CODE + len(code))


def _cmpxchg16b(bench: Bench) -> bool:
    code = b"\xbf" + pack("<I", DATA) + b"\x48\x0f\xc7\x0f" + _HLT  # mov edi, DATA; cmpxchg16b [rdi]
    return _halts(bench, long_mode(CODE), code, CODE + len(code))


def _int_n(bench: Bench) -> bool:
    state = protected_mode(CODE)
    state.idt = state.idt.replace(base=IDT, limit=0x1FF)
    code = b"\xcd\x21\x90" + _HLT + _HLT  # int 0x21; the handler is the second hlt
    gate = pack("<HHBBH", (CODE + 4) & 0xFFFF, SELECTOR_CODE, 0, 0x8E, CODE + 4 >> 16)
    return _halts(bench, state, code, CODE + 5, lambda guest: guest.memory.write(IDT + 0x21 * 8, gate))


def _syscall(bench: Bench) -> bool:
    state = long_mode(CODE)
    state.efer |= 1  # SCE
    state.cs = state.cs.replace(selector=SELECTOR_CODE | 3, dpl=3)
    state.ss = state.ss.replace(selector=SELECTOR_DATA | 3, dpl=3)
    code = b"\x0f\x05" + b"\x90" * 6 + _HLT  # syscall; the handler is the hlt

    def prepare(guest: Guest) -> None:
        for at in range(3):  # ring 3 may use the first entry of each level: PML4, PDPT, PD
            table = state.cr3 + at * PAGE
            (entry,) = guest.memory.unpack("<Q", table)
            guest.memory.write(table, pack("<Q", entry | 4))
        guest.vcpu.set_msrs({_STAR: SELECTOR_CODE << 32, _LSTAR: CODE + 8, _SFMASK: 0})

    return _halts(bench, state, code, CODE + 9, prepare)


def _hypercall(bench: Bench) -> bool:
    call = b"\x0f\x01\xd9" if _vendor(bench) == b"AuthenticAMD" else b"\x0f\x01\xc1"  # vmmcall, vmcall
    code = b"\x31\xdb\xb8\x01\x00\x00\x00" + call + _HLT  # KVM_HC_VAPIC_POLL_IRQ does nothing
    return _halts(bench, long_mode(CODE), code, CODE + len(code))


def _vendor(bench: Bench) -> bytes:
    leaf = next(leaf for leaf in bench.leaves if leaf[0] == 0)
    return pack("<3I", leaf[4], leaf[6], leaf[5])


def _debug(bench: Bench, code: bytes, control: int, registers: tuple[int, ...] = ()) -> tuple[int, int, int] | None:
    with bench.guest(protected_mode(CODE), code) as guest:
        guest.vcpu.set_guest_debug(uapi.KVM_GUESTDBG_ENABLE | control, registers)
        return guest.debug_exit()


def _single_step(bench: Bench) -> bool:
    with bench.guest(protected_mode(CODE), b"\x90\x90" + _HLT) as guest:
        guest.vcpu.set_guest_debug(uapi.KVM_GUESTDBG_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP)
        for _ in range(3):  # some nested hosts report the first address twice
            found = guest.debug_exit()
            if found is None or found[1] == CODE + 1:
                break
        return found is not None and found[1] == CODE + 1


def _sw_breakpoint(bench: Bench) -> bool:
    found = _debug(bench, b"\x90\xcc" + _HLT, uapi.KVM_GUESTDBG_USE_SW_BP)
    return found is not None and found[:2] == (3, CODE + 1)


def _hw_breakpoint(bench: Bench) -> bool:
    dr7 = 0x402  # G0: execute, one byte (SDM volume 3B, 17.2.4)
    found = _debug(bench, b"\x90\x90" + _HLT, uapi.KVM_GUESTDBG_USE_HW_BP, (CODE + 1, 0, 0, 0, 0, 0, 0, dr7))
    return found is not None and found[1] == CODE + 1


def _watchpoint(bench: Bench) -> bool:
    code = b"\xa3" + pack("<I", DATA) + b"\x90" + _HLT  # mov [DATA], eax
    dr7 = 0x402 | 1 << 16 | 3 << 18  # G0: write, four bytes
    found = _debug(bench, code, uapi.KVM_GUESTDBG_USE_HW_BP, (DATA, 0, 0, 0, 0, 0, 0, dr7))
    return found is not None and bool(found[2] & 1)


PROBES: dict[str, tuple[Probe, str]] = {
    "real-mode": (_real, "16-bit real mode"),
    "long-mode": (_long, "64-bit long mode"),
    "paging32": (_paging32, "32-bit paging"),
    "pae": (_pae, "PAE paging"),
    "ring0-simd": (_simd, "SSE2 in ring 0"),
    "cmpxchg16b": (_cmpxchg16b, "cmpxchg16b in ring 0"),
    "int-n": (_int_n, "software interrupts in 32-bit protected mode"),
    "syscall": (_syscall, "system calls from 64-bit ring 3"),
    "hypercall": (_hypercall, "hypercalls"),
    "single-step": (_single_step, "single-stepping"),
    "sw-breakpoint": (_sw_breakpoint, "software breakpoints"),
    "hw-breakpoint": (_hw_breakpoint, "hardware breakpoints"),
    "watchpoint": (_watchpoint, "hardware watchpoints"),
}


def probe(name: str, bench: Bench | None = None) -> bool:
    """Whether this host's KVM can do ``name``, a key of PROBES; "_" counts as "-". False when the attempt fails.

    Raises:
        ConfigError: no such probe.
        HostError: /dev/kvm cannot be opened.
    """
    key = name.replace("_", "-")
    if key not in PROBES:
        raise ConfigError(f"no probe '{name}': known are {', '.join(PROBES)}")
    mine = bench or Bench()
    try:
        return PROBES[key][0](mine)
    except PyvmmError:
        return False
    finally:
        if bench is None:
            mine.close()
