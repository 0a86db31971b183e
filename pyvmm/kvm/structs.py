"""Structures of <linux/kvm.h> and <asm/kvm.h> (x86-64) as ctypes, under the header's own names.

A test compiles the header, where a compiler is there, and compares size and every field's offset.
Flexible arrays are left out: ``with_array`` makes a type with ``n`` entries behind the fixed part, whose size is what
the ioctl number encodes.
"""

from __future__ import annotations

from ctypes import Structure, Union, addressof, c_char, c_int16, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

u8, u16, u32, u64, s32, s64 = c_uint8, c_uint16, c_uint32, c_uint64, c_int32, c_int64


def _same(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class kvm_regs(Structure):
    _fields_ = _same(u64, "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")


class kvm_segment(Structure):
    """A segment register with its hidden part; ``limit`` in bytes, already expanded by G."""

    _fields_ = [
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        *_same(u8, "type present dpl db s l g avl unusable padding"),
    ]


class kvm_dtable(Structure):
    _fields_ = [("base", u64), ("limit", u16), ("padding", u16 * 3)]


_SREGS = [
    *_same(kvm_segment, "cs ds es fs gs ss tr ldt"),
    *_same(kvm_dtable, "gdt idt"),
    *_same(u64, "cr0 cr2 cr3 cr4 cr8 efer apic_base"),
]


class kvm_sregs(Structure):
    _fields_ = [*_SREGS, ("interrupt_bitmap", u64 * 4)]


class kvm_sregs2(Structure):
    _fields_ = [*_SREGS, ("flags", u64), ("pdptrs", u64 * 4)]


class kvm_translation(Structure):
    _fields_ = [*_same(u64, "linear_address physical_address"), *_same(u8, "valid writeable usermode"), ("pad", u8 * 5)]


class kvm_interrupt(Structure):
    _fields_ = [("irq", u32)]


class kvm_fpu(Structure):
    _fields_ = [
        ("fpr", u8 * 16 * 8),
        ("fcw", u16),
        ("fsw", u16),
        ("ftwx", u8),
        ("pad1", u8),
        ("last_opcode", u16),
        ("last_ip", u64),
        ("last_dp", u64),
        ("xmm", u8 * 16 * 16),
        ("mxcsr", u32),
        ("pad2", u32),
    ]


class kvm_xsave(Structure):
    """The fixed 4 KiB part; hosts with KVM_CAP_XSAVE2 above 4096 have more behind it."""

    _fields_ = [("region", u32 * 1024)]


class kvm_xcr(Structure):
    _fields_ = [("xcr", u32), ("reserved", u32), ("value", u64)]


class kvm_xcrs(Structure):
    _fields_ = [("nr_xcrs", u32), ("flags", u32), ("xcrs", kvm_xcr * 16), ("padding", u64 * 16)]


class kvm_lapic_state(Structure):
    _fields_ = [("regs", u8 * 1024)]


class kvm_mp_state(Structure):
    _fields_ = [("mp_state", u32)]


class kvm_debugregs(Structure):
    _fields_ = [("db", u64 * 4), ("dr6", u64), ("dr7", u64), ("flags", u64), ("reserved", u64 * 9)]


class kvm_guest_debug(Structure):
    _fields_ = [("control", u32), ("pad", u32), ("debugreg", u64 * 8)]


class _events_exception(Structure):
    _fields_ = [*_same(u8, "injected nr has_error_code pending"), ("error_code", u32)]


class _events_interrupt(Structure):
    _fields_ = _same(u8, "injected nr soft shadow")


class _events_nmi(Structure):
    _fields_ = _same(u8, "injected pending masked pad")


class _events_smi(Structure):
    _fields_ = _same(u8, "smm pending smm_inside_nmi latched_init")


class _events_triple_fault(Structure):
    _fields_ = [("pending", u8)]


class kvm_vcpu_events(Structure):
    _fields_ = [
        ("exception", _events_exception),
        ("interrupt", _events_interrupt),
        ("nmi", _events_nmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", _events_smi),
        ("triple_fault", _events_triple_fault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    ]


class kvm_cpuid_entry2(Structure):
    _fields_ = [*_same(u32, "function index flags eax ebx ecx edx"), ("padding", u32 * 3)]


class kvm_cpuid2(Structure):
    _fields_ = [("nent", u32), ("padding", u32)]


class kvm_msr_entry(Structure):
    _fields_ = [("index", u32), ("reserved", u32), ("data", u64)]


class kvm_msrs(Structure):
    _fields_ = [("nmsrs", u32), ("pad", u32)]


class kvm_msr_list(Structure):
    _fields_ = [("nmsrs", u32)]


class kvm_signal_mask(Structure):
    _fields_ = [("len", u32)]


class kvm_userspace_memory_region(Structure):
    _fields_ = [("slot", u32), ("flags", u32), ("guest_phys_addr", u64), ("memory_size", u64), ("userspace_addr", u64)]


class kvm_dirty_log(Structure):
    _fields_ = [("slot", u32), ("padding1", u32), ("dirty_bitmap", u64)]


class kvm_clear_dirty_log(Structure):
    _fields_ = [("slot", u32), ("num_pages", u32), ("first_page", u64), ("dirty_bitmap", u64)]


class kvm_enable_cap(Structure):
    _fields_ = [("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)]


class kvm_irq_level(Structure):
    _fields_ = [("irq", u32), ("level", u32)]


class kvm_irqchip(Structure):
    _fields_ = [("chip_id", u32), ("pad", u32), ("chip", u8 * 512)]


class kvm_irqfd(Structure):
    _fields_ = [*_same(u32, "fd gsi flags resamplefd"), ("pad", u8 * 16)]


class kvm_ioeventfd(Structure):
    _fields_ = [("datamatch", u64), ("addr", u64), ("len", u32), ("fd", s32), ("flags", u32), ("pad", u8 * 36)]


class kvm_irq_routing_irqchip(Structure):
    _fields_ = [("irqchip", u32), ("pin", u32)]


class kvm_irq_routing_msi(Structure):
    _fields_ = _same(u32, "address_lo address_hi data devid")


class _routing_union(Union):
    _fields_ = [("irqchip", kvm_irq_routing_irqchip), ("msi", kvm_irq_routing_msi), ("pad", u32 * 8)]


class kvm_irq_routing_entry(Structure):
    _fields_ = [*_same(u32, "gsi type flags pad"), ("u", _routing_union)]


class kvm_irq_routing(Structure):
    _fields_ = [("nr", u32), ("flags", u32)]


class kvm_msi(Structure):
    _fields_ = [*_same(u32, "address_lo address_hi data flags devid"), ("pad", u8 * 12)]


class kvm_pit_config(Structure):
    _fields_ = [("flags", u32), ("pad", u32 * 15)]


class kvm_pit_channel_state(Structure):
    _fields_ = [
        ("count", u32),
        ("latched_count", u16),
        *_same(u8, "count_latched status_latched status read_state write_state write_latch rw_mode mode bcd gate"),
        ("count_load_time", s64),
    ]


class kvm_pit_state2(Structure):
    _fields_ = [("channels", kvm_pit_channel_state * 3), ("flags", u32), ("reserved", u32 * 9)]


class kvm_reinject_control(Structure):
    _fields_ = [("pit_reinject", u8), ("reserved", u8 * 31)]


class kvm_clock_data(Structure):
    _fields_ = [("clock", u64), ("flags", u32), ("pad0", u32), ("realtime", u64), ("host_tsc", u64), ("pad", u32 * 4)]


class kvm_coalesced_mmio_zone(Structure):
    _fields_ = [("addr", u64), ("size", u32), ("pio", u32)]


class kvm_coalesced_mmio(Structure):
    _fields_ = [("phys_addr", u64), ("len", u32), ("pio", u32), ("data", u8 * 8)]


class kvm_stats_header(Structure):
    _fields_ = _same(u32, "flags name_size num_desc id_offset desc_offset data_offset")


class kvm_stats_desc(Structure):
    _fields_ = [("flags", u32), ("exponent", c_int16), ("size", u16), ("offset", u32), ("bucket_size", u32)]


def address_of(buffer: bytearray) -> int:
    """Host address of a writable buffer; valid while the caller holds it and does not resize it."""
    return addressof(c_char.from_buffer(buffer))


def with_array(header: type[Structure], entry: Any, count: int) -> Any:
    """A structure type: ``header``'s fields, then ``entries``, an array of ``count`` times ``entry``."""
    return type(f"{header.__name__}_{count}", (header,), {"_fields_": [("entries", entry * count)]})


# --- struct kvm_run: byte offsets, read through memoryviews of the shared page rather than through ctypes (hot path) ----
RUN_REQUEST_INTERRUPT_WINDOW = 0x00
RUN_IMMEDIATE_EXIT = 0x01
RUN_EXIT_REASON = 0x08
RUN_READY_FOR_INTERRUPT = 0x0C
RUN_IF_FLAG = 0x0D
RUN_FLAGS = 0x0E
RUN_CR8 = 0x10
RUN_APIC_BASE = 0x18
RUN_UNION = 0x20
RUN_IO_DIRECTION, RUN_IO_SIZE, RUN_IO_PORT, RUN_IO_COUNT, RUN_IO_DATA_OFFSET = 0x20, 0x21, 0x22, 0x24, 0x28
RUN_MMIO_ADDRESS, RUN_MMIO_DATA, RUN_MMIO_LEN, RUN_MMIO_IS_WRITE = 0x20, 0x28, 0x30, 0x34
RUN_VALID_REGS, RUN_DIRTY_REGS, RUN_SYNC_REGS = 0x120, 0x128, 0x130
COALESCED_RING_MAX = (4096 - 8) // 24
