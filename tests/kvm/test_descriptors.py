"""The three descriptors against the real /dev/kvm: what is set is what is read, and what fails says why.

No guest here depends on a host's quirks: states pass Intel's entry rules, code is integer instructions in flat 32-bit or
64-bit mode, and nothing is asserted about RIP at an unsettled exit.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import threading
import time
from _thread import _count
from collections.abc import Callable, Iterator
from ctypes import sizeof
from typing import Any

import pytest

from pyvmm.boot.cpu import CpuState, long_mode, memory_for, protected_mode, real_mode
from pyvmm.cpuid import Cpuid
from pyvmm.errors import HostError, KvmError
from pyvmm.exits import decode
from pyvmm.kvm import structs, uapi
from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import Vcpu, kick, run_ioctl
from pyvmm.kvm.vm import Vm
from pyvmm.layout import IDENTITY_MAP, LAPIC, MIB, TSS
from pyvmm.memory import GuestMemory
from pyvmm.poweron import set_boot_state
from pyvmm.threads import Thread

pytestmark = pytest.mark.kvm

CODE, DATA = 0x2_0000, 0x5_0000
HLT = b"\xf4"
SPIN = b"\xeb\xfe"
MMIO = 0xFEB0_0000  # nobody's
LIMIT = 20  # seconds a test may take on the slowest host


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Ends a KVM_RUN that never returns: the handler raises out of it."""

    def expired(*_: object) -> None:
        raise TimeoutError(f"no end after {LIMIT} s")

    old = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm() as opened:
        yield opened


class Small:
    """A VM with 2 MiB of RAM in slot 0 and one vCPU."""

    def __init__(self, kvm: Kvm, state: CpuState, code: bytes, irqchip: bool = False) -> None:
        self.memory = GuestMemory(2 * MIB)
        self.vm = kvm.create_vm()
        self.vm.set_identity_map_addr(IDENTITY_MAP)
        self.vm.set_tss_addr(TSS)
        if irqchip:
            self.vm.create_irqchip()
        region = self.memory.regions[0]
        self.vm.set_memory_region(0, 0, region.size, region.host_address)
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid(Cpuid(kvm, "host", 1).leaves(0))
        for gpa, data in memory_for(state):
            self.memory.write(gpa, data)
        self.memory.write(CODE, code)
        set_boot_state(self.vcpu, state)

    def run(self) -> int:
        assert run_ioctl(self.vcpu.fd, uapi.KVM_RUN) == 0
        return self.vcpu.words[structs.RUN_EXIT_REASON // 4]

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()


@pytest.fixture
def make(kvm: Kvm) -> Iterator[Callable[..., Small]]:
    """make(code, irqchip=False, state=...) -> Small; closed at the end."""
    made: list[Small] = []

    def build(code: bytes = HLT, irqchip: bool = False, state: CpuState | None = None) -> Small:
        made.append(Small(kvm, state or protected_mode(CODE), code, irqchip))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture
def vcpu(make: Callable[..., Small]) -> Vcpu:
    return make().vcpu


@pytest.fixture
def event() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def wait_for(condition: Callable[[], bool]) -> bool:
    """irqfd works through the kernel's workqueues: a moment may pass."""
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


# --- /dev/kvm ------------------------------------------------------------------------------------------------------------
def test_system_answers(kvm: Kvm) -> None:
    assert kvm.vcpu_mmap_size() >= 4096 + 4096 and kvm.vcpu_mmap_size() % 4096 == 0
    assert kvm.check_extension(uapi.KVM_CAP_USER_MEMORY) == 1
    assert kvm.check_extension(0x7FFF) == 0
    leaves = kvm.supported_cpuid()
    assert leaves[0][0] == 0 and leaves[0][3] >= 1
    assert any(leaf[0] == 0x4000_0000 for leaf in leaves)
    indices = kvm.msr_indices()
    assert 0x174 in indices and len(indices) == len(set(indices))  # IA32_SYSENTER_CS


def test_missing_device_says_what_to_do() -> None:
    with pytest.raises(HostError, match="does not exist: load the module"):
        Kvm("/nonexistent/kvm")


def test_another_device_is_not_kvm() -> None:
    with pytest.raises(HostError, match="/dev/null is not KVM"):
        Kvm("/dev/null")


@pytest.mark.parametrize(("number", "text"), [(errno.EACCES, "group"), (errno.EPERM, "container"), (errno.ENODEV, "virtualisation")])
def test_refused_open_says_what_to_do(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostError, match=text):
        Kvm()


def test_descriptors_are_not_inherited(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vcpu = vm.create_vcpu(0)
    assert not any(os.get_inheritable(fd) for fd in (kvm.fd, vm.fd, vcpu.fd))
    vcpu.close()
    vm.close()
    vcpu.close()
    vm.close()  # twice is fine


def test_closed_descriptor_is_a_kvm_error(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    fd = vm.fd
    vm.close()
    assert vm.fd == -1 and fd >= 0
    with pytest.raises((KvmError, ValueError)):
        vm.check_extension(0)


# --- memory slots --------------------------------------------------------------------------------------------------------
def test_slots_overlap_move_and_go(kvm: Kvm) -> None:
    vm, memory = kvm.create_vm(), GuestMemory(2 * MIB)
    host = memory.regions[0].host_address
    vm.set_memory_region(0, 0, MIB, host)
    with pytest.raises(KvmError, match="KVM_SET_USER_MEMORY_REGION failed with EEXIST: the region overlaps"):
        vm.set_memory_region(1, MIB // 2, MIB, host)
    with pytest.raises(KvmError, match="EINVAL: unaligned"):
        vm.set_memory_region(1, MIB + 1, MIB, host)
    vm.set_memory_region(0, 4 * MIB, MIB, host)
    vm.set_memory_region(1, 0, MIB, host)
    vm.set_memory_region(1, 0, 0, 0)
    vm.set_memory_region(1, 0, 2 * MIB, host)
    vm.close()


def test_read_only_slot_turns_writes_into_exits(make: Callable[..., Small]) -> None:
    code = b"\xa1" + struct.pack("<I", 0x40_0000) + b"\xa3" + struct.pack("<I", 0x40_0004) + HLT  # mov eax, [4M]; mov [4M+4], eax
    small = make(code)
    rom = GuestMemory(MIB)
    rom.write(0, struct.pack("<I", 0xCAFE_F00D))
    small.vm.set_memory_region(1, 0x40_0000, MIB, rom.regions[0].host_address, uapi.KVM_MEM_READONLY)
    assert small.run() == uapi.KVM_EXIT_MMIO
    found = decode(small.vcpu.page)
    assert found.fields == {"address": 0x40_0004, "size": 4, "is_write": 1}
    assert found.data == struct.pack("<I", 0xCAFE_F00D)
    assert small.run() == uapi.KVM_EXIT_HLT
    assert rom.read(4, 4) == bytes(4)


def test_dirty_log_has_the_written_page_and_not_a_far_one(make: Callable[..., Small]) -> None:
    small = make(b"\xa3" + struct.pack("<I", DATA) + HLT)
    region = small.memory.regions[0]
    with pytest.raises(KvmError, match="ENOENT"):
        small.vm.dirty_log(0, region.size // 4096)
    small.vm.set_memory_region(0, 0, region.size, region.host_address, uapi.KVM_MEM_LOG_DIRTY_PAGES)
    assert small.run() == uapi.KVM_EXIT_HLT

    def pages() -> set[int]:
        log = int.from_bytes(small.vm.dirty_log(0, region.size // 4096), "little")
        return {page for page in range(region.size // 4096) if log >> page & 1}

    first = pages()
    assert DATA // 4096 in first and 0x1F0 not in first
    assert DATA // 4096 not in pages()


# --- interrupts ----------------------------------------------------------------------------------------------------------
def pic_irr(vm: Vm, chip: int = uapi.KVM_IRQCHIP_PIC_MASTER) -> int:
    return vm.get_irqchip(chip)[1]


def test_irqchip_order_is_explained(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    with pytest.raises(KvmError, match="KVM_IRQ_LINE failed with ENXIO: needs KVM_CREATE_IRQCHIP"):
        vm.irq_line(5, 1)
    vm.create_irqchip()
    with pytest.raises(KvmError, match="EEXIST: the interrupt controllers exist already"):
        vm.create_irqchip()
    late = kvm.create_vm()
    late.create_vcpu(0)
    with pytest.raises(KvmError, match="EINVAL: must come before the first vCPU"):
        late.create_irqchip()
    with pytest.raises(KvmError, match="EEXIST: a vCPU with this id"):
        late.create_vcpu(0)
    with pytest.raises(KvmError, match="must come before the first vCPU"):
        late.set_identity_map_addr(IDENTITY_MAP)


@pytest.mark.parametrize("reinject", [True, False])
def test_a_vm_with_a_pit_is_closed_at_once_and_leaves_no_thread(kvm: Kvm, reinject: bool) -> None:
    before = _count()
    vm = kvm.create_vm()
    vm.create_irqchip()
    vm.create_pit()
    if not reinject:
        vm.set_pit_reinject(False)
    fd = vm.fd
    vm.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    assert wait_for(lambda: _count() <= before)
    vm.close()


@pytest.mark.parametrize("fault", ["no thread", "no routing", "no control"])
def test_a_pit_that_cannot_be_parted_with_quickly_goes_with_the_vm(kvm: Kvm, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread") if fault == "no thread" else KvmError("KVM_SOMETHING", errno.EINVAL)

    where = {"no thread": (Thread, "start"), "no routing": (Vm, "set_gsi_routing"), "no control": (Vm, "set_pit_reinject")}[fault]
    before = _count()
    vm = kvm.create_vm()
    vm.create_irqchip()
    vm.create_pit()
    fd = vm.fd
    monkeypatch.setattr(*where, refuse)
    vm.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    assert wait_for(lambda: _count() <= before)


def test_irq_line_reaches_the_pic(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vm.create_irqchip()
    assert pic_irr(vm) & 1 << 5 == 0
    vm.irq_line(5, 1)
    assert pic_irr(vm) & 1 << 5
    vm.irq_line(5, 0)
    vm.irq_line(11, 1)
    assert pic_irr(vm, uapi.KVM_IRQCHIP_PIC_SLAVE) & 1 << 3
    vm.close()


def test_irqchip_state_round_trip(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vm.create_irqchip()
    slave = bytearray(vm.get_irqchip(uapi.KVM_IRQCHIP_PIC_SLAVE))
    assert len(slave) == 512
    slave[14] = 0x0E  # elcr: 9, 10, 11 level-triggered
    slave[5] = 0x70  # irq_base
    vm.set_irqchip(uapi.KVM_IRQCHIP_PIC_SLAVE, bytes(slave))
    again = vm.get_irqchip(uapi.KVM_IRQCHIP_PIC_SLAVE)
    assert (again[14], again[5]) == (0x0E, 0x70)
    ioapic = bytearray(vm.get_irqchip(uapi.KVM_IRQCHIP_IOAPIC))
    entry = 0x18 + 8 * 20  # redirtbl[20]
    struct.pack_into("<Q", ioapic, entry, 0x0001_0000_0001_A033)  # masked, level, vector 0x33
    vm.set_irqchip(uapi.KVM_IRQCHIP_IOAPIC, bytes(ioapic))
    (value,) = struct.unpack_from("<Q", vm.get_irqchip(uapi.KVM_IRQCHIP_IOAPIC), entry)
    assert value & 0xFF == 0x33 and value & 1 << 16
    vm.close()


def test_irqfd_pulses_its_line_until_taken_back(kvm: Kvm, event: int) -> None:
    vm = kvm.create_vm()
    with pytest.raises(KvmError, match="KVM_IRQFD"):
        vm.irqfd(event, 5)
    vm.create_irqchip()
    vm.irqfd(event, 5)
    with pytest.raises(KvmError, match="EBUSY: this eventfd already drives"):
        vm.irqfd(event, 6)
    os.eventfd_write(event, 1)
    assert wait_for(lambda: bool(pic_irr(vm) & 1 << 5))
    vm.irqfd(event, 5, deassign=True)
    vm.irqfd(event, 6)
    os.eventfd_write(event, 1)
    assert wait_for(lambda: bool(pic_irr(vm) & 1 << 6))
    resample = os.eventfd(0)
    level = os.eventfd(0)
    vm.irqfd(level, 10, resample)
    os.eventfd_write(level, 1)
    assert wait_for(lambda: bool(pic_irr(vm, uapi.KVM_IRQCHIP_PIC_SLAVE) & 1 << 2))
    vm.irqfd(level, 10, resample, deassign=True)
    os.close(resample)
    os.close(level)
    vm.close()


def enable_lapic(vcpu: Vcpu) -> None:
    page = vcpu.get_lapic()
    struct.pack_into("<I", page, 0xF0, 0x1FF)  # spurious vector 0xff, software enable
    vcpu.set_lapic(page)


def lapic_irr(vcpu: Vcpu, vector: int) -> bool:
    page = vcpu.get_lapic()
    return bool(struct.unpack_from("<I", page, 0x200 + vector // 32 * 16)[0] >> vector % 32 & 1)


def test_lapic_round_trip_and_msi(make: Callable[..., Small]) -> None:
    small = make(irqchip=True)
    enable_lapic(small.vcpu)
    page = small.vcpu.get_lapic()
    assert len(page) == 1024 and struct.unpack_from("<I", page, 0xF0)[0] == 0x1FF
    assert not lapic_irr(small.vcpu, 0x41)
    assert small.vm.signal_msi(LAPIC, 0x41) > 0
    assert lapic_irr(small.vcpu, 0x41)


def test_msi_route_by_irqfd(make: Callable[..., Small], event: int) -> None:
    small = make(irqchip=True)
    enable_lapic(small.vcpu)
    routes = [(gsi, uapi.KVM_IRQCHIP_IOAPIC, gsi) for gsi in range(24)]
    small.vm.set_gsi_routing(routes, [(24, LAPIC, 0x52), (25, LAPIC, 0x53)])
    small.vm.irqfd(event, 25)
    os.eventfd_write(event, 1)
    assert wait_for(lambda: lapic_irr(small.vcpu, 0x53))
    assert not lapic_irr(small.vcpu, 0x52)
    with pytest.raises(KvmError, match="KVM_SET_GSI_ROUTING failed with EINVAL: a route names a pin"):
        small.vm.set_gsi_routing([(1, uapi.KVM_IRQCHIP_PIC_MASTER, 20)], [])


def test_lapic_without_one_is_explained(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError, match="KVM_GET_LAPIC failed with EINVAL: needs the in-kernel local APIC"):
        vcpu.get_lapic()


def test_pit_round_trip(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vm.create_irqchip()
    with pytest.raises(KvmError, match="KVM_GET_PIT2 failed with ENXIO: needs KVM_CREATE_PIT2"):
        vm.get_pit()
    vm.create_pit()
    vm.set_pit_reinject(False)
    state = vm.get_pit()
    state.channels[2].mode, state.channels[2].count, state.channels[2].gate = 3, 0x1234, 1
    vm.set_pit(state)
    again = vm.get_pit()
    assert (again.channels[2].mode, again.channels[2].count, again.channels[2].gate) == (3, 0x1234, 1)
    vm.close()


def test_clock_goes_on_from_what_was_set(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vm.set_clock(10**15)
    first = vm.get_clock().clock
    assert 10**15 <= first < 10**15 + LIMIT * 10**9
    assert vm.get_clock().clock >= first
    vm.close()


# --- exits avoided -------------------------------------------------------------------------------------------------------
def out(port: int, value: int) -> bytes:
    """mov al, value; out port, al"""
    return bytes([0xB0, value, 0xE6, port])


def count(event: int) -> int:
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0


def test_ioeventfd_counts_instead_of_exiting(make: Callable[..., Small], event: int) -> None:
    small = make(out(0x80, 7) + out(0x80, 8) + out(0x80, 7) + HLT)
    small.vm.ioeventfd(event, 0x80, 1, datamatch=7, pio=True)
    with pytest.raises(KvmError, match="KVM_IOEVENTFD failed with EEXIST: this doorbell"):
        small.vm.ioeventfd(event, 0x80, 1, datamatch=7, pio=True)
    assert small.run() == uapi.KVM_EXIT_IO  # the one with another value
    assert decode(small.vcpu.page).data == b"\x08" and count(event) == 1
    assert small.run() == uapi.KVM_EXIT_HLT and count(event) == 1


def test_ioeventfd_mmio_and_its_end(make: Callable[..., Small], event: int) -> None:
    store = b"\xa3" + struct.pack("<I", MMIO)
    small = make(store + HLT + store + HLT)
    small.vm.ioeventfd(event, MMIO, 4)
    assert small.run() == uapi.KVM_EXIT_HLT and count(event) == 1
    small.vm.ioeventfd(event, MMIO, 4, deassign=True)
    assert small.run() == uapi.KVM_EXIT_MMIO and count(event) == 0
    with pytest.raises(KvmError, match="ENOENT: no such doorbell"):
        small.vm.ioeventfd(event, MMIO, 4, deassign=True)


def test_coalesced_writes_wait_in_the_ring_in_order(kvm: Kvm, make: Callable[..., Small]) -> None:
    page = kvm.check_extension(uapi.KVM_CAP_COALESCED_MMIO)
    if not page or not kvm.check_extension(uapi.KVM_CAP_COALESCED_PIO):
        pytest.skip("this KVM coalesces no port writes")
    small = make(out(0x80, 1) + b"\xa3" + struct.pack("<I", MMIO) + out(0x80, 2) + HLT, state=protected_mode(CODE, rax=0x100))
    small.vm.coalesce(0x80, 1, pio=True)
    small.vm.coalesce(MMIO, 4, pio=False)
    assert small.run() == uapi.KVM_EXIT_HLT
    ring = small.vcpu.page[page * 4096 :]
    first, last = struct.unpack_from("<2I", ring)
    entries = [structs.kvm_coalesced_mmio.from_buffer_copy(ring, 8 + 24 * at) for at in range(first, last)]
    assert [(each.pio, each.phys_addr, each.len, each.data[0]) for each in entries] == [(1, 0x80, 1, 1), (0, MMIO, 4, 1), (1, 0x80, 1, 2)]
    ring.release()


def test_coalescing_can_be_taken_back(kvm: Kvm, make: Callable[..., Small]) -> None:
    if not kvm.check_extension(uapi.KVM_CAP_COALESCED_PIO):
        pytest.skip("this KVM coalesces no port writes")
    small = make(out(0x80, 1) + HLT)
    small.vm.coalesce(0x80, 1, pio=True)
    small.vm.coalesce(0x80, 1, pio=True, on=False)
    assert small.run() == uapi.KVM_EXIT_IO


# --- registers -----------------------------------------------------------------------------------------------------------
def fields(struct_: Any) -> dict[str, Any]:
    return {name: getattr(struct_, name) for name, *_ in struct_._fields_}


def test_regs_round_trip(vcpu: Vcpu) -> None:
    dice = random.Random(1)
    regs = structs.kvm_regs(**{name: dice.getrandbits(64) for name, _ in structs.kvm_regs._fields_})
    regs.rip, regs.rflags = 0x1234_5678, 0x2 | 0x8D5 & ~0x28
    vcpu.set_regs(regs)
    assert fields(vcpu.get_regs()) == fields(regs)


def test_sregs_round_trip(make: Callable[..., Small]) -> None:
    small = make(state=long_mode(CODE))
    sregs = small.vcpu.get_sregs()
    sregs.fs.base, sregs.gs.base = 0x7FFF_1234_5678, 0xFFFF_8000_0000_1000
    sregs.gdt.base, sregs.gdt.limit = 0xFFFF_8000_0000_0000, 0x2F
    sregs.idt.base, sregs.idt.limit = 0x4000, 0xFFF
    sregs.cr2 = 0xDEAD_BEEF
    small.vcpu.set_sregs(sregs)
    again = small.vcpu.get_sregs()
    assert (again.fs.base, again.gs.base) == (0x7FFF_1234_5678, 0xFFFF_8000_0000_1000)
    assert (again.gdt.base, again.gdt.limit, again.idt.base, again.idt.limit) == (0xFFFF_8000_0000_0000, 0x2F, 0x4000, 0xFFF)
    assert (again.cr2, again.cr3, again.cr0, again.efer) == (0xDEAD_BEEF, 0x9000, 0x8000_0011, 0x500)
    assert (again.cs.l, again.cs.type, again.tr.type) == (1, 0xB, 0xB)


def test_impossible_sregs_are_explained(vcpu: Vcpu) -> None:
    sregs = vcpu.get_sregs()
    sregs.cr0 = 1 << 31  # paging without protection
    with pytest.raises(KvmError, match="KVM_SET_SREGS failed with EINVAL: .*PG without PE") as caught:
        vcpu.set_sregs(sregs)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_SET_SREGS", errno.EINVAL)


def test_fpu_round_trip(vcpu: Vcpu) -> None:
    fpu = vcpu.get_fpu()
    fpu.xmm[3][:] = bytes(range(16))
    fpu.fcw = 0x27F
    vcpu.set_fpu(fpu)
    again = vcpu.get_fpu()
    assert (bytes(again.xmm[3]), again.fcw) == (bytes(range(16)), 0x27F)


def test_xsave_round_trip_and_kvm_fpu_is_part_of_it(vcpu: Vcpu) -> None:
    area = vcpu.get_xsave()
    assert len(area) >= 4096 and len(area) % 4 == 0
    xmm5 = slice(160 + 5 * 16, 160 + 6 * 16)  # SDM volume 1, table 10-2
    area[xmm5] = bytes(range(16))
    struct.pack_into("<Q", area, 512, struct.unpack_from("<Q", area, 512)[0] | 3)  # XSTATE_BV: x87 and SSE are in it
    vcpu.set_xsave(area)
    assert bytes(vcpu.get_xsave()[xmm5]) == bytes(range(16))
    assert bytes(vcpu.get_fpu().xmm[5]) == bytes(range(16))


def test_xcrs_round_trip(vcpu: Vcpu) -> None:
    xcrs = vcpu.get_xcrs()
    if not xcrs.nr_xcrs:
        pytest.skip("this CPU has no XSAVE")
    assert xcrs.xcrs[0].xcr == 0 and xcrs.xcrs[0].value & 1
    vcpu.set_xcrs(xcrs)
    assert vcpu.get_xcrs().xcrs[0].value == xcrs.xcrs[0].value


def test_debug_registers_round_trip(vcpu: Vcpu) -> None:
    registers = vcpu.get_debugregs()
    registers.db[:] = [0x1000, 0x2000, 0x3000, 0x4000]
    vcpu.set_debugregs(registers)
    assert list(vcpu.get_debugregs().db) == [0x1000, 0x2000, 0x3000, 0x4000]
    vcpu.set_guest_debug(uapi.KVM_GUESTDBG_ENABLE | uapi.KVM_GUESTDBG_USE_HW_BP, (CODE, 0, 0, 0, 0, 0, 0, 0x402))
    vcpu.set_guest_debug(0)


def test_events_round_trip(vcpu: Vcpu) -> None:
    events = vcpu.get_events()
    assert not events.exception.injected and not events.nmi.pending
    events.exception.injected, events.exception.nr = 1, 13
    events.exception.has_error_code, events.exception.error_code = 1, 0x18
    events.nmi.masked = 1
    vcpu.set_events(events)
    again = vcpu.get_events()
    assert (again.exception.injected, again.exception.nr, again.exception.error_code, again.nmi.masked) == (1, 13, 0x18, 1)


def test_nmi_and_interrupt_are_queued(make: Callable[..., Small]) -> None:
    vcpu = make().vcpu
    vcpu.nmi()
    vcpu.interrupt(0x33)
    events = vcpu.get_events()
    assert events.nmi.pending and (events.interrupt.injected, events.interrupt.nr) == (1, 0x33)
    with pytest.raises(KvmError, match="KVM_INTERRUPT failed with ENXIO: the local APIC is in the kernel"):
        make(irqchip=True).vcpu.interrupt(0x33)


def test_mp_state_round_trip(make: Callable[..., Small]) -> None:
    small = make(irqchip=True)
    other = small.vm.create_vcpu(1)
    assert small.vcpu.get_mp_state() == uapi.KVM_MP_STATE_RUNNABLE
    assert other.get_mp_state() == uapi.KVM_MP_STATE_UNINITIALIZED
    small.vcpu.set_mp_state(uapi.KVM_MP_STATE_HALTED)
    assert small.vcpu.get_mp_state() == uapi.KVM_MP_STATE_HALTED
    other.close()


def test_msrs_round_trip_and_refusals(vcpu: Vcpu) -> None:
    values = {0x174: 0x10, 0x175: 0x8000, 0x176: 0x9000, 0xC000_0081: 0x0013_0008_0000_0000, 0xC000_0082: 0xFFFF_8000_0000_1234}
    assert vcpu.set_msrs(values) == []
    assert vcpu.get_msrs(list(values)) == values
    unknown = 0x1234_5678
    mixed = [0x174, unknown, 0x176]
    assert vcpu.get_msrs(mixed) == {0x174: 0x10, 0x176: 0x9000}
    assert vcpu.set_msrs({0x174: 0x20, unknown: 1, 0x176: 0xA000}) == [unknown]
    assert vcpu.get_msrs([0x174, 0x176]) == {0x174: 0x20, 0x176: 0xA000}
    assert vcpu.get_msrs([]) == {} and vcpu.set_msrs({}) == []


def test_more_msrs_than_one_call_takes(vcpu: Vcpu) -> None:
    many = [0x174, 0x175, 0x176] * 200
    assert set(vcpu.get_msrs(many)) == {0x174, 0x175, 0x176}


def test_every_listed_msr_is_readable_or_skipped(kvm: Kvm, vcpu: Vcpu) -> None:
    indices = kvm.msr_indices()
    found = vcpu.get_msrs(indices)
    assert set(found) <= set(indices) and len(found) >= len(indices) // 2


def test_tsc_khz(vcpu: Vcpu) -> None:
    assert vcpu.tsc_khz() > 100_000


# --- CPUID ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cpu", ["host", "max", "qemu64", "kvm64", "host,safe=off"])
@pytest.mark.parametrize("smp", [1, 3, 255])
def test_kvm_takes_every_model(kvm: Kvm, cpu: str, smp: int) -> None:
    vm = kvm.create_vm()
    vcpu = vm.create_vcpu(0)
    vcpu.set_cpuid(Cpuid(kvm, cpu, smp).leaves(smp - 1))
    vcpu.close()
    vm.close()


def test_the_guest_reads_what_was_set(make: Callable[..., Small]) -> None:
    # mov eax, 0x40000000; cpuid; hlt
    small = make(b"\xb8" + struct.pack("<I", 0x4000_0000) + b"\x0f\xa2" + HLT)
    assert small.run() == uapi.KVM_EXIT_HLT
    regs = small.vcpu.get_regs()
    assert struct.pack("<3I", regs.rbx, regs.rcx, regs.rdx) == b"KVMKVMKVM\0\0\0"
    with pytest.raises(KvmError, match="KVM_SET_CPUID2 failed with EINVAL: CPUID must be set before the vCPU first runs"):
        small.vcpu.set_cpuid([(0, 0, 0, 1, 0, 0, 0)])


# --- address translation -------------------------------------------------------------------------------------------------
def test_translate(make: Callable[..., Small]) -> None:
    vcpu = make(state=long_mode(CODE)).vcpu
    assert vcpu.translate(CODE + 5) == CODE + 5
    assert vcpu.translate(0x7F00_0000_0000) is None
    assert make(state=real_mode(CODE)).vcpu.translate(0x1234) == 0x1234


# --- running, settling, kicking ------------------------------------------------------------------------------------------
def test_settle_completes_an_in(make: Callable[..., Small]) -> None:
    small = make(b"\xe4\x80\x90" + HLT)  # in al, 0x80; nop
    assert small.run() == uapi.KVM_EXIT_IO
    found = decode(small.vcpu.page)
    assert (found.fields["direction"], found.fields["port"], found.fields["size"]) == (0, 0x80, 1)
    small.vcpu.page[found.fields["data_offset"]] = 0x5A
    assert small.vcpu.settle()
    regs = small.vcpu.get_regs()
    assert (regs.rip, regs.rax & 0xFF) == (CODE + 2, 0x5A)
    assert small.vcpu.page[structs.RUN_IMMEDIATE_EXIT] == 0
    assert small.run() == uapi.KVM_EXIT_HLT


def test_settle_with_nothing_pending_changes_nothing(make: Callable[..., Small]) -> None:
    vcpu = make().vcpu
    before = fields(vcpu.get_regs())
    assert vcpu.settle()
    assert fields(vcpu.get_regs()) == before


def test_settle_tells_when_the_instruction_goes_on(make: Callable[..., Small]) -> None:
    small = make(b"\x01\x05" + struct.pack("<I", MMIO) + HLT, state=protected_mode(CODE, rax=1))  # add [MMIO], eax
    assert small.run() == uapi.KVM_EXIT_MMIO
    struct.pack_into("<I", small.vcpu.page, structs.RUN_MMIO_DATA, 41)
    assert not small.vcpu.settle()
    found = decode(small.vcpu.page)
    assert found.fields == {"address": MMIO, "size": 4, "is_write": 1} and found.data == struct.pack("<I", 42)
    assert small.vcpu.settle()
    assert small.vcpu.get_regs().rip == CODE + 6


def test_immediate_exit_runs_no_instruction(make: Callable[..., Small]) -> None:
    small = make(b"\x40" + SPIN)  # inc eax
    small.vcpu.page[structs.RUN_IMMEDIATE_EXIT] = 1
    with pytest.raises(InterruptedError):
        run_ioctl(small.vcpu.fd, uapi.KVM_RUN)
    assert (small.vcpu.get_regs().rip, small.vcpu.get_regs().rax) == (CODE, 0)


@pytest.mark.parametrize("irqchip", [False, True])
def test_kick_by_signal_mask(make: Callable[..., Small], irqchip: bool) -> None:
    """The signal is blocked in the thread and open in KVM_RUN alone: it ends KVM_RUN and needs no handler."""
    small = make((b"\xf4\xeb\xfd" if irqchip else SPIN), irqchip=irqchip)  # hlt loop, or jmp .
    small.vcpu.use_signal_mask((1 << 64) - 1 & ~(1 << signal.SIGUSR2 - 1))
    outcome: list[str] = []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        try:
            run_ioctl(small.vcpu.fd, uapi.KVM_RUN)
            outcome.append("exit")
        except InterruptedError:
            outcome.append("interrupted")
        signal.sigtimedwait([signal.SIGUSR2], 0)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    assert outcome == [] and thread.ident is not None
    started = time.monotonic()
    kick(thread.ident, signal.SIGUSR2)
    thread.join(10)
    assert outcome == ["interrupted"] and time.monotonic() - started < 5


def test_a_kick_before_the_run_is_not_lost(make: Callable[..., Small]) -> None:
    small = make(SPIN)
    small.vcpu.use_signal_mask((1 << 64) - 1 & ~(1 << signal.SIGUSR2 - 1))
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        kick(threading.get_ident(), signal.SIGUSR2)
        with pytest.raises(InterruptedError):
            run_ioctl(small.vcpu.fd, uapi.KVM_RUN)
    finally:
        assert signal.sigtimedwait({signal.SIGUSR2}, 0) is not None
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


# --- statistics ----------------------------------------------------------------------------------------------------------
def statistics(fd: int) -> dict[str, int]:
    """The counters behind a statistics descriptor (api.rst, 4.133): {name: first value}."""
    header = structs.kvm_stats_header.from_buffer_copy(os.pread(fd, sizeof(structs.kvm_stats_header), 0))
    size = sizeof(structs.kvm_stats_desc) + header.name_size
    found = {}
    for at in range(header.num_desc):
        raw = os.pread(fd, size, header.desc_offset + at * size)
        descriptor = structs.kvm_stats_desc.from_buffer_copy(raw)
        name = raw[sizeof(structs.kvm_stats_desc) :].split(b"\0")[0].decode()
        found[name] = struct.unpack("<Q", os.pread(fd, 8, header.data_offset + descriptor.offset))[0]
    return found


def test_statistics(kvm: Kvm, make: Callable[..., Small]) -> None:
    if not kvm.check_extension(uapi.KVM_CAP_BINARY_STATS_FD):
        pytest.skip("this KVM has no statistics descriptors")
    small = make(out(0x80, 1) + HLT)
    fd = small.vcpu.stats_fd()
    before = statistics(fd)
    assert small.run() == uapi.KVM_EXIT_IO and small.run() == uapi.KVM_EXIT_HLT
    after = statistics(fd)
    os.close(fd)
    assert "exits" in before and after["exits"] > before["exits"]
    fd = small.vm.stats_fd()
    assert statistics(fd)
    os.close(fd)
