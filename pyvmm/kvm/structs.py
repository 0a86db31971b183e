"""Structures of <linux/kvm.h> and <asm/kvm.h> (x86-64) as ctypes, under the header's own names.

They are declared as in the header and made into classes when first named: a run needs few of them, and to make all took a
noticeable part of a start (native.py has the figure). A test compiles the header, where a compiler is there, and compares
size and every field's offset.

Flexible arrays are left out: ``with_array`` makes a type with ``n`` entries behind the fixed part, whose size is what
the ioctl number encodes.
"""

from __future__ import annotations

from pyvmm.kvm import native
from pyvmm.kvm.native import Structure, Union, address_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["address_of", "with_array"]  # and every structure declared below, and RUN_*

# name: type field field[count] ...; type field ... | "union" before the name where it is one. kvm_segment.limit is in bytes, already
# expanded by G. kvm_xsave is the fixed 4 KiB; hosts with KVM_CAP_XSAVE2 above 4096 have more behind it.
_DECLARATIONS = """
kvm_regs: u64 rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags
kvm_segment: u64 base; u32 limit; u16 selector; u8 type present dpl db s l g avl unusable padding
kvm_dtable: u64 base; u16 limit padding[3]
kvm_sregs: kvm_segment cs ds es fs gs ss tr ldt; kvm_dtable gdt idt; u64 cr0 cr2 cr3 cr4 cr8 efer apic_base interrupt_bitmap[4]
kvm_sregs2: kvm_segment cs ds es fs gs ss tr ldt; kvm_dtable gdt idt; u64 cr0 cr2 cr3 cr4 cr8 efer apic_base flags pdptrs[4]
kvm_translation: u64 linear_address physical_address; u8 valid writeable usermode pad[5]
kvm_interrupt: u32 irq
kvm_fpu: u8 fpr[8][16]; u16 fcw fsw; u8 ftwx pad1; u16 last_opcode; u64 last_ip last_dp; u8 xmm[16][16]; u32 mxcsr pad2
kvm_xsave: u32 region[1024]
kvm_xcr: u32 xcr reserved; u64 value
kvm_xcrs: u32 nr_xcrs flags; kvm_xcr xcrs[16]; u64 padding[16]
kvm_lapic_state: u8 regs[1024]
kvm_mp_state: u32 mp_state
kvm_debugregs: u64 db[4] dr6 dr7 flags reserved[9]
kvm_guest_debug: u32 control pad; u64 debugreg[8]
_events_exception: u8 injected nr has_error_code pending; u32 error_code
_events_interrupt: u8 injected nr soft shadow
_events_nmi: u8 injected pending masked pad
_events_smi: u8 smm pending smm_inside_nmi latched_init
_events_triple_fault: u8 pending
kvm_vcpu_events: _events_exception exception; _events_interrupt interrupt; _events_nmi nmi; u32 sipi_vector flags;
    _events_smi smi; _events_triple_fault triple_fault; u8 reserved[26] exception_has_payload; u64 exception_payload
kvm_cpuid_entry2: u32 function index flags eax ebx ecx edx padding[3]
kvm_cpuid2: u32 nent padding
kvm_msr_entry: u32 index reserved; u64 data
kvm_msrs: u32 nmsrs pad
kvm_msr_list: u32 nmsrs
kvm_signal_mask: u32 len
kvm_userspace_memory_region: u32 slot flags; u64 guest_phys_addr memory_size userspace_addr
kvm_dirty_log: u32 slot padding1; u64 dirty_bitmap
kvm_clear_dirty_log: u32 slot num_pages; u64 first_page dirty_bitmap
kvm_enable_cap: u32 cap flags; u64 args[4]; u8 pad[64]
kvm_irq_level: u32 irq level
kvm_irqchip: u32 chip_id pad; u8 chip[512]
kvm_irqfd: u32 fd gsi flags resamplefd; u8 pad[16]
kvm_ioeventfd: u64 datamatch addr; u32 len; s32 fd; u32 flags; u8 pad[36]
kvm_irq_routing_irqchip: u32 irqchip pin
kvm_irq_routing_msi: u32 address_lo address_hi data devid
union _routing_union: kvm_irq_routing_irqchip irqchip; kvm_irq_routing_msi msi; u32 pad[8]
kvm_irq_routing_entry: u32 gsi type flags pad; _routing_union u
kvm_irq_routing: u32 nr flags
kvm_msi: u32 address_lo address_hi data flags devid; u8 pad[12]
kvm_pit_config: u32 flags pad[15]
kvm_pit_channel_state: u32 count; u16 latched_count; u8 count_latched status_latched status read_state write_state write_latch
    rw_mode mode bcd gate; s64 count_load_time
kvm_pit_state2: kvm_pit_channel_state channels[3]; u32 flags reserved[9]
kvm_reinject_control: u8 pit_reinject reserved[31]
kvm_clock_data: u64 clock; u32 flags pad0; u64 realtime host_tsc; u32 pad[4]
kvm_coalesced_mmio_zone: u64 addr; u32 size pio
kvm_coalesced_mmio: u64 phys_addr; u32 len pio; u8 data[8]
kvm_stats_header: u32 flags name_size num_desc id_offset desc_offset data_offset
kvm_stats_desc: u32 flags; s16 exponent; u16 size; u32 offset bucket_size
"""


def _declared() -> dict[str, tuple[bool, str]]:
    """{name: (whether a union, its fields' text)}"""
    found = {}
    for line in _DECLARATIONS.replace("\n    ", " ").strip().splitlines():
        name, _, fields = line.partition(": ")
        found[name.removeprefix("union ")] = name.startswith("union "), fields
    return found


_TEXTS = _declared()
NAMES = tuple(_TEXTS)


def _field(text: str, kind: Any) -> tuple[str, Any]:
    name, *counts = text.replace("]", "").split("[")
    for count in reversed(counts):
        kind *= int(count)
    return name, kind


def __getattr__(name: str) -> Any:
    """Makes the class for a structure's name, once."""
    if name not in _TEXTS:
        raise AttributeError(f"no structure {name} is declared")
    is_union, text = _TEXTS[name]
    fields = []
    for part in text.split("; "):
        kind_name, *names = part.split()
        kind = getattr(native, kind_name, None) or globals().get(kind_name) or __getattr__(kind_name)
        fields += [_field(each, kind) for each in names]
    made = globals()[name] = type(name, (Union if is_union else Structure,), {"_fields_": fields, "__module__": __name__})
    return made


def with_array(header: Any, entry: Any, count: int) -> Any:
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
