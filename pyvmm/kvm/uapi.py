"""ioctl numbers, capabilities, exit reasons and flags of <linux/kvm.h>, x86-64.

ioctl numbers are computed from direction, number and the size of the structure, as the _IO macros do. The sizes stand here
in figures, so that a start need not make a class of each; tests/unit/kvm compares them with structs.py and all with the header.
"""

from __future__ import annotations

API_VERSION = 12
_KVMIO = 0xAE
STRUCT_SIZES: dict[str, int] = {}  # as used below; a test compares them with structs.py


def _io(number: int) -> int:
    return _KVMIO << 8 | number


def _encode(direction: int, number: int, struct: dict[str, int]) -> int:
    STRUCT_SIZES.update(struct)
    (size,) = struct.values()
    return direction << 30 | size << 16 | _KVMIO << 8 | number


def _iow(number: int, **struct: int) -> int:
    return _encode(1, number, struct)


def _ior(number: int, **struct: int) -> int:
    return _encode(2, number, struct)


def _iowr(number: int, **struct: int) -> int:
    return _encode(3, number, struct)


# --- /dev/kvm --------------------------------------------------------------------------------------------------------
KVM_GET_API_VERSION = _io(0x00)
KVM_CREATE_VM = _io(0x01)
KVM_GET_MSR_INDEX_LIST = _iowr(0x02, kvm_msr_list=4)
KVM_CHECK_EXTENSION = _io(0x03)
KVM_GET_VCPU_MMAP_SIZE = _io(0x04)
KVM_GET_SUPPORTED_CPUID = _iowr(0x05, kvm_cpuid2=8)
KVM_GET_EMULATED_CPUID = _iowr(0x09, kvm_cpuid2=8)
KVM_GET_MSR_FEATURE_INDEX_LIST = _iowr(0x0A, kvm_msr_list=4)

# --- VM --------------------------------------------------------------------------------------------------------------
KVM_CREATE_VCPU = _io(0x41)
KVM_GET_DIRTY_LOG = _iow(0x42, kvm_dirty_log=16)
KVM_SET_USER_MEMORY_REGION = _iow(0x46, kvm_userspace_memory_region=32)
KVM_SET_TSS_ADDR = _io(0x47)
KVM_SET_IDENTITY_MAP_ADDR = _iow(0x48, u64=8)
KVM_CREATE_IRQCHIP = _io(0x60)
KVM_IRQ_LINE = _iow(0x61, kvm_irq_level=8)
KVM_GET_IRQCHIP = _iowr(0x62, kvm_irqchip=520)
KVM_SET_IRQCHIP = _ior(0x63, kvm_irqchip=520)  # encoded as a read in the header
KVM_IRQ_LINE_STATUS = _iowr(0x67, kvm_irq_level=8)
KVM_REGISTER_COALESCED_MMIO = _iow(0x67, kvm_coalesced_mmio_zone=16)
KVM_UNREGISTER_COALESCED_MMIO = _iow(0x68, kvm_coalesced_mmio_zone=16)
KVM_SET_GSI_ROUTING = _iow(0x6A, kvm_irq_routing=8)
KVM_REINJECT_CONTROL = _io(0x71)
KVM_IRQFD = _iow(0x76, kvm_irqfd=32)
KVM_CREATE_PIT2 = _iow(0x77, kvm_pit_config=64)
KVM_SET_BOOT_CPU_ID = _io(0x78)
KVM_IOEVENTFD = _iow(0x79, kvm_ioeventfd=64)
KVM_SET_CLOCK = _iow(0x7B, kvm_clock_data=48)
KVM_GET_CLOCK = _ior(0x7C, kvm_clock_data=48)
KVM_GET_PIT2 = _ior(0x9F, kvm_pit_state2=112)
KVM_SET_PIT2 = _iow(0xA0, kvm_pit_state2=112)
KVM_ENABLE_CAP = _iow(0xA3, kvm_enable_cap=104)
KVM_SIGNAL_MSI = _iow(0xA5, kvm_msi=32)
KVM_CLEAR_DIRTY_LOG = _iowr(0xC0, kvm_clear_dirty_log=24)

# --- vCPU ------------------------------------------------------------------------------------------------------------
KVM_RUN = _io(0x80)
KVM_GET_REGS = _ior(0x81, kvm_regs=144)
KVM_SET_REGS = _iow(0x82, kvm_regs=144)
KVM_GET_SREGS = _ior(0x83, kvm_sregs=312)
KVM_SET_SREGS = _iow(0x84, kvm_sregs=312)
KVM_TRANSLATE = _iowr(0x85, kvm_translation=24)
KVM_INTERRUPT = _iow(0x86, kvm_interrupt=4)
KVM_GET_MSRS = _iowr(0x88, kvm_msrs=8)
KVM_SET_MSRS = _iow(0x89, kvm_msrs=8)
KVM_SET_SIGNAL_MASK = _iow(0x8B, kvm_signal_mask=4)
KVM_GET_FPU = _ior(0x8C, kvm_fpu=416)
KVM_SET_FPU = _iow(0x8D, kvm_fpu=416)
KVM_GET_LAPIC = _ior(0x8E, kvm_lapic_state=1024)
KVM_SET_LAPIC = _iow(0x8F, kvm_lapic_state=1024)
KVM_SET_CPUID2 = _iow(0x90, kvm_cpuid2=8)
KVM_GET_CPUID2 = _iowr(0x91, kvm_cpuid2=8)
KVM_GET_MP_STATE = _ior(0x98, kvm_mp_state=4)
KVM_SET_MP_STATE = _iow(0x99, kvm_mp_state=4)
KVM_NMI = _io(0x9A)
KVM_SET_GUEST_DEBUG = _iow(0x9B, kvm_guest_debug=72)
KVM_GET_VCPU_EVENTS = _ior(0x9F, kvm_vcpu_events=64)
KVM_SET_VCPU_EVENTS = _iow(0xA0, kvm_vcpu_events=64)
KVM_GET_DEBUGREGS = _ior(0xA1, kvm_debugregs=128)
KVM_SET_DEBUGREGS = _iow(0xA2, kvm_debugregs=128)
KVM_SET_TSC_KHZ = _io(0xA2)
KVM_GET_TSC_KHZ = _io(0xA3)
KVM_GET_XSAVE = _ior(0xA4, kvm_xsave=4096)
KVM_SET_XSAVE = _iow(0xA5, kvm_xsave=4096)
KVM_GET_XCRS = _ior(0xA6, kvm_xcrs=392)
KVM_SET_XCRS = _iow(0xA7, kvm_xcrs=392)
KVM_KVMCLOCK_CTRL = _io(0xAD)
KVM_GET_SREGS2 = _ior(0xCC, kvm_sregs2=320)
KVM_SET_SREGS2 = _iow(0xCD, kvm_sregs2=320)
KVM_GET_STATS_FD = _io(0xCE)  # VM and vCPU
KVM_GET_XSAVE2 = _ior(0xCF, kvm_xsave=4096)

# --- capabilities (KVM_CHECK_EXTENSION) --------------------------------------------------------------------------------
KVM_CAP_IRQCHIP = 0
KVM_CAP_USER_MEMORY = 3
KVM_CAP_SET_TSS_ADDR = 4
KVM_CAP_EXT_CPUID = 7
KVM_CAP_NR_VCPUS = 9
KVM_CAP_NR_MEMSLOTS = 10
KVM_CAP_MP_STATE = 14
KVM_CAP_COALESCED_MMIO = 15
KVM_CAP_SET_GUEST_DEBUG = 23
KVM_CAP_IRQ_ROUTING = 25
KVM_CAP_IRQFD = 32
KVM_CAP_PIT2 = 33
KVM_CAP_IOEVENTFD = 36
KVM_CAP_SET_IDENTITY_MAP_ADDR = 37
KVM_CAP_VCPU_EVENTS = 41
KVM_CAP_DEBUGREGS = 50
KVM_CAP_ENABLE_CAP_VM = 98
KVM_CAP_XSAVE = 55
KVM_CAP_XCRS = 56
KVM_CAP_TSC_CONTROL = 60
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_TSC_DEADLINE_TIMER = 72
KVM_CAP_SYNC_REGS = 74
KVM_CAP_SIGNAL_MSI = 77
KVM_CAP_READONLY_MEM = 81
KVM_CAP_X86_SMM = 117
KVM_CAP_SPLIT_IRQCHIP = 121
KVM_CAP_MAX_VCPU_ID = 128
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_NESTED_STATE = 157
KVM_CAP_COALESCED_PIO = 162
KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168
KVM_CAP_SET_GUEST_DEBUG2 = 195
KVM_CAP_BINARY_STATS_FD = 203
KVM_CAP_EXIT_ON_EMULATION_FAILURE = 204
KVM_CAP_XSAVE2 = 208
KVM_CAP_SREGS2 = 200

# --- exit reasons ------------------------------------------------------------------------------------------------------
KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_SET_TPR = 11
KVM_EXIT_TPR_ACCESS = 12
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_DIRTY_RING_FULL = 31
KVM_EXIT_X86_BUS_LOCK = 33
KVM_EXIT_XEN = 34
KVM_EXIT_NOTIFY = 37
KVM_EXIT_MEMORY_FAULT = 39

KVM_INTERNAL_ERROR_EMULATION = 1
KVM_INTERNAL_ERROR_SIMUL_EX = 2
KVM_INTERNAL_ERROR_DELIVERY_EV = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4
KVM_SYSTEM_EVENT_SHUTDOWN = 1
KVM_SYSTEM_EVENT_RESET = 2
KVM_SYSTEM_EVENT_CRASH = 3

# --- flags -------------------------------------------------------------------------------------------------------------
KVM_MEM_LOG_DIRTY_PAGES = 1
KVM_MEM_READONLY = 2
KVM_PIT_SPEAKER_DUMMY = 1
KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC = 0, 1, 2
KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI = 1, 2
KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE = 1, 2
KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_DEASSIGN = 1, 2, 4
KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1
KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED = 0, 1, 2
KVM_MP_STATE_HALTED, KVM_MP_STATE_SIPI_RECEIVED = 3, 4
KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP = 1, 2
KVM_GUESTDBG_USE_SW_BP, KVM_GUESTDBG_USE_HW_BP = 0x10000, 0x20000
KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_BLOCKIRQ = 0x40000, 0x80000, 0x100000

EXIT_NAMES = {value: name for name, value in list(globals().items()) if name.startswith("KVM_EXIT_")}


def ioctl_name(request: int) -> str:
    """The header's name of an ioctl number; only used for error messages."""
    not_ioctls = ("KVM_CAP_", "KVM_EXIT_")
    for name, value in globals().items():
        if value == request and name.startswith("KVM_") and not name.startswith(not_ioctls) and request >> 8 & 0xFF == _KVMIO:
            return name
    return f"ioctl {request:#x}"
