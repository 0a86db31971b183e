"""Why KVM_RUN returned, reason by reason: what the kernel saw, why it could not go on, what happens on re-entry.

Texts are for readers who see their first exit. Where one depends on the case, "{name}" stands for a field of the exit (exits.LAYOUTS).
Source: Documentation/virt/kvm/api.rst, section 5, "The kvm_run structure", and the capability named.
"""

from __future__ import annotations

from pyvmm.kvm import uapi
from pyvmm.record import FrozenRecord


class Reason(FrozenRecord):
    """One KVM_EXIT_*.

    Fields:
        member: the member of kvm_run's union that describes it, "" for none.
        saw: what the kernel saw.
        why: why it could not finish it alone.
        reentry: what happens at the next KVM_RUN.
        section: where it is specified.
    """

    saw: str
    why: str
    reentry: str
    member: str = ""
    section: str = "api.rst 5"


_DEAD = "Nothing good: there is no state to go on with. A VMM ends the machine, or resets it."
_AGAIN = "The vCPU goes on where it was."
_NOT_X86 = "It belongs to another architecture: an x86 host never reports it."

REASONS: dict[int, Reason] = {
    uapi.KVM_EXIT_UNKNOWN: Reason(
        member="hw",
        saw="The hardware left guest mode and gave reason {hardware_exit_reason:#x}.",
        why="KVM has no handler for that reason; a page full of zeros, from before the first KVM_RUN, looks the same.",
        reentry=_DEAD,
    ),
    uapi.KVM_EXIT_EXCEPTION: Reason(
        member="ex",
        saw="An exception in the guest that KVM hands to user space.",
        why="x86 delivers exceptions to the guest itself, or exits as KVM_EXIT_DEBUG; this one is historical.",
        reentry=_AGAIN,
    ),
    uapi.KVM_EXIT_IO: Reason(
        member="io",
        saw="An I/O instruction. KVM has the processor leave guest mode for every one, whatever the port.",
        why="",  # by the port: places.py
        reentry="",  # by the direction: reentry.py
        section="api.rst 5, KVM_EXIT_IO; SDM 3C 26.1.3; APM 2 15.10",
    ),
    uapi.KVM_EXIT_HYPERCALL: Reason(
        member="hypercall",
        saw="The guest called the hypervisor (vmcall or vmmcall), number {nr:#x}.",
        why="KVM_CAP_EXIT_HYPERCALL hands calls of this number to user space.",
        reentry="KVM puts hypercall.ret into the guest's rax, then goes on behind the instruction.",
        section="api.rst 5, KVM_EXIT_HYPERCALL",
    ),
    uapi.KVM_EXIT_DEBUG: Reason(
        member="debug.arch",
        saw="A debug exception (#DB) or breakpoint (#BP) while KVM_SET_GUEST_DEBUG was on.",
        why="The debugger asked for these; to the guest they do not exist, unless the debugger injects them.",
        reentry="The guest goes on at debug.arch.pc, not executed yet; a breakpoint there hits again unless it is stepped over.",
        section="api.rst 5, KVM_EXIT_DEBUG; api.rst 4, KVM_SET_GUEST_DEBUG; SDM 3B 18.2",
    ),
    uapi.KVM_EXIT_HLT: Reason(
        saw="The guest executed hlt: it has nothing to do until an interrupt comes.",
        why="Without an interrupt controller in the kernel only user space knows when one comes (with one, KVM waits by itself).",
        reentry="The guest goes on behind hlt: user space should come back only with an interrupt (KVM_INTERRUPT).",
        section="api.rst 5, KVM_EXIT_HLT",
    ),
    uapi.KVM_EXIT_MMIO: Reason(
        member="mmio",
        saw="An access to a guest physical address that has no memory behind it; KVM's emulator decoded the instruction.",
        why="",
        reentry="",
        section="api.rst 5, KVM_EXIT_MMIO; SDM 3C 29.3.3; APM 2 15.25.6",
    ),
    uapi.KVM_EXIT_IRQ_WINDOW_OPEN: Reason(
        saw="The guest can take an interrupt now: its interrupt flag is set, and nothing is in the way.",
        why="User space asked to be told (kvm_run.request_interrupt_window), for it holds the interrupt controller.",
        reentry="If KVM_INTERRUPT was called, the guest goes on in its handler; else where it was.",
        section="api.rst 5, request_interrupt_window",
    ),
    uapi.KVM_EXIT_SHUTDOWN: Reason(
        saw="A triple fault: an exception could not be delivered, nor the double fault that followed.",
        why="A processor shuts down then, and a PC's board resets it. KVM has no board: what a reset means is up to user space.",
        reentry="Intel's shuts down again; AMD's has been reset and would run from the reset vector. pyvmm ends the run.",
        section="api.rst 5, KVM_EXIT_SHUTDOWN; SDM 3A 6.15, #DF; APM 2 15.14.3",
    ),
    uapi.KVM_EXIT_FAIL_ENTRY: Reason(
        member="fail_entry",
        saw="The processor refused to enter guest mode: not one instruction of the guest ran.",
        why="Registers or segments break the rules of VM entry, so there is nothing the kernel could go on with.",
        reentry="The same refusal, until user space has put the registers right.",
        section="api.rst 5, KVM_EXIT_FAIL_ENTRY; SDM 3C 27.3; APM 2 15.5.2",
    ),
    uapi.KVM_EXIT_INTR: Reason(
        saw="A signal for this thread, which forced the vCPU out of guest mode. The guest did nothing to cause it.",
        why="Signals belong to user space: pause, stop and the debugger's kicks come this way; KVM_RUN fails with EINTR.",
        reentry=_AGAIN,
        section="api.rst 4, KVM_RUN and KVM_SET_SIGNAL_MASK",
    ),
    uapi.KVM_EXIT_SET_TPR: Reason(
        saw="The guest lowered its task priority (mov to cr8).",
        why="The local APIC is in user space, and an interrupt that waits there may be deliverable now.",
        reentry="The guest goes on behind the mov.",
        section="api.rst 5, cr8",
    ),
    uapi.KVM_EXIT_TPR_ACCESS: Reason(
        member="tpr_access",
        saw="The guest accessed the local APIC's task priority register at rip {rip:#x}.",
        why="KVM_TPR_ACCESS_REPORTING is on: user space may patch the instruction into something quicker.",
        reentry="The instruction is repeated, patched or not.",
        section="api.rst 4, KVM_TPR_ACCESS_REPORTING",
    ),
    uapi.KVM_EXIT_NMI: Reason(
        saw="A non-maskable interrupt of the host arrived while the guest ran.",
        why="It is the host's, not the guest's; today's kernels handle it without telling user space.",
        reentry=_AGAIN,
    ),
    uapi.KVM_EXIT_INTERNAL_ERROR: Reason(
        member="internal",
        saw="Something in the guest that KVM would have to handle in software.",
        why="",  # by the suberror
        reentry="The same error: rip still is at the instruction. User space could emulate it and set rip behind; pyvmm ends the run.",
        section="api.rst 5, KVM_EXIT_INTERNAL_ERROR; KVM_CAP_EXIT_ON_EMULATION_FAILURE",
    ),
    uapi.KVM_EXIT_SYSTEM_EVENT: Reason(
        member="system_event",
        saw="The guest asked for something that concerns the machine as a whole.",
        why="KVM runs processors; power and reset of the machine are user space's.",
        reentry="The guest goes on as if nothing had happened, if user space enters it again.",
        section="api.rst 5, KVM_EXIT_SYSTEM_EVENT",
    ),
    uapi.KVM_EXIT_IOAPIC_EOI: Reason(
        member="eoi",
        saw="The guest signalled the end of level-triggered interrupt vector {vector:#x} to its local APIC.",
        why="Local APIC in the kernel, I/O APIC in user space (KVM_CAP_SPLIT_IRQCHIP): the latter has to lower its remote IRR bit.",
        reentry="The guest goes on; a line that is still high interrupts it again.",
        section="api.rst 5, KVM_EXIT_IOAPIC_EOI; SDM 3A 11.8.5",
    ),
    uapi.KVM_EXIT_HYPERV: Reason(
        member="hyperv",
        saw="The guest used an interface of Hyper-V.",
        why="Message pages, and some calls, are user space's to serve (KVM_CAP_HYPERV_SYNIC).",
        reentry="The guest gets the result that user space has left in kvm_run.",
        section="api.rst 5, KVM_EXIT_HYPERV",
    ),
    uapi.KVM_EXIT_X86_RDMSR: Reason(
        member="msr",
        saw="rdmsr of a model-specific register.",
        why="",
        reentry="KVM puts msr.data into edx:eax, or raises #GP in the guest if msr.error is not 0.",
        section="api.rst 5, KVM_EXIT_X86_RDMSR; KVM_CAP_X86_USER_SPACE_MSR",
    ),
    uapi.KVM_EXIT_X86_WRMSR: Reason(
        member="msr",
        saw="wrmsr to a model-specific register.",
        why="",
        reentry="The guest goes on behind wrmsr, or takes #GP if msr.error is not 0.",
        section="api.rst 5, KVM_EXIT_X86_WRMSR; KVM_CAP_X86_USER_SPACE_MSR",
    ),
    uapi.KVM_EXIT_DIRTY_RING_FULL: Reason(
        saw="The ring that lists the pages this vCPU has written is full.",
        why="Only user space empties it; going on would lose pages.",
        reentry="The guest goes on once the ring was collected (KVM_RESET_DIRTY_RINGS); else it exits again at once.",
        section="api.rst 8, KVM_CAP_DIRTY_LOG_RING",
    ),
    uapi.KVM_EXIT_X86_BUS_LOCK: Reason(
        saw="The guest took a bus lock: a locked access across two cache lines, or to uncached memory.",
        why="That stops every processor of the host for a moment, so user space may slow such a guest down.",
        reentry="The guest goes on; the access is done.",
        section="api.rst 7, KVM_CAP_X86_BUS_LOCK_EXIT",
    ),
    uapi.KVM_EXIT_XEN: Reason(
        member="xen",
        saw="The guest made a hypercall of Xen.",
        why="KVM_CAP_XEN_HVM hands it to user space.",
        reentry="KVM puts the result into the guest's rax.",
        section="api.rst 5, KVM_EXIT_XEN",
    ),
    uapi.KVM_EXIT_NOTIFY: Reason(
        member="notify",
        saw="For too long the guest gave no chance to deliver an event.",
        why="A guest can keep a processor busy without an instruction ever ending; KVM_CAP_X86_NOTIFY_VMEXIT breaks that.",
        reentry="The guest goes on, unless notify.flags says that its state is lost.",
        section="api.rst 5, KVM_EXIT_NOTIFY",
    ),
    uapi.KVM_EXIT_MEMORY_FAULT: Reason(
        member="memory_fault",
        saw="An access to guest physical {gpa:#x}.",
        why="KVM could not resolve the page (private memory, or the host's own page fault failed): user space must change the mapping.",
        reentry="The access is repeated.",
        section="api.rst 5, KVM_EXIT_MEMORY_FAULT",
    ),
    18: Reason(saw="A guest's operating-system interface of PowerPC.", why=_NOT_X86, reentry=_AGAIN, member="osi"),
    32: Reason(
        saw="A processor of an encrypted guest (SEV-ES) waits to be started.",
        why="KVM may not touch its registers; user space decides when it starts.",
        reentry="The processor goes on when it was started.",
        section="api.rst 5, KVM_EXIT_AP_RESET_HOLD",
    ),
    40: Reason(
        saw="A TDX guest made a call.",
        why="These calls (quotes, attestation) are user space's.",
        reentry="The guest gets what user space has left in kvm_run.",
        section="api.rst 5, KVM_EXIT_TDX",
    ),
}

# Exits of PowerPC (DCR, PAPR, EPR, watchdog), s390, Arm, RISC-V, LoongArch; SDM, APM and x86's KVM know nothing of them
_OTHERS = (13, 14, 15, 19, 20, 21, 22, 23, 25, 28, 35, 36, 38)
REASONS.update({number: Reason(saw="Something only that architecture has.", why=_NOT_X86, reentry=_AGAIN) for number in _OTHERS})

UNKNOWN = Reason(
    saw="Exit reason {number}, a number this pyvmm does not know: the kernel is newer than it, or the page is broken.",
    why="Only that kernel's api.rst tells.",
    reentry="Unknown. pyvmm ends the run.",
)

# suberror of KVM_EXIT_INTERNAL_ERROR -> why
SUBERROR_WHY = {
    uapi.KVM_INTERNAL_ERROR_EMULATION: (
        "The instruction touches what is not plain memory, or this KVM interprets this mode; either way KVM's emulator must execute it, "
        "and does not know it."
    ),
    uapi.KVM_INTERNAL_ERROR_SIMUL_EX: "Two exceptions at once that KVM cannot combine.",
    uapi.KVM_INTERNAL_ERROR_DELIVERY_EV: (
        "While an event (exception, interrupt) was being delivered, another exit came that delivery cannot wait for: as a rule its "
        "stack or gate lies where there is no memory."
    ),
    uapi.KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "The hardware left the guest for a reason that KVM has no handler for.",
}
MSR_WHY = {
    1: "KVM knows the register, but would raise #GP for this access; KVM_CAP_X86_USER_SPACE_MSR asks user space first (INVAL).",
    2: "KVM does not know the register; KVM_CAP_X86_USER_SPACE_MSR asks user space before it raises #GP (UNKNOWN).",
    4: "A filter that user space has set (KVM_X86_SET_MSR_FILTER) denies it to the kernel (FILTER).",
}
# kvm_run.flags
FLAGS = {1: "in system management mode", 2: "a bus lock was taken"}

# SDM volume 4, APM volume 2 appendix A; Documentation/virt/kvm/x86/msr.rst
MSRS = {
    0x10: "IA32_TIME_STAMP_COUNTER", 0x17: "IA32_PLATFORM_ID", 0x1B: "IA32_APIC_BASE", 0x3A: "IA32_FEATURE_CONTROL",
    0x48: "IA32_SPEC_CTRL", 0x49: "IA32_PRED_CMD", 0x79: "IA32_BIOS_UPDT_TRIG", 0x8B: "IA32_BIOS_SIGN_ID", 0xC1: "IA32_PMC0",
    0xCE: "MSR_PLATFORM_INFO", 0xFE: "IA32_MTRRCAP", 0x10A: "IA32_ARCH_CAPABILITIES", 0x10B: "IA32_FLUSH_CMD",
    0x140: "MSR_MISC_FEATURES_ENABLES", 0x174: "IA32_SYSENTER_CS", 0x175: "IA32_SYSENTER_ESP", 0x176: "IA32_SYSENTER_EIP",
    0x179: "IA32_MCG_CAP", 0x17A: "IA32_MCG_STATUS", 0x186: "IA32_PERFEVTSEL0", 0x199: "IA32_PERF_CTL", 0x19C: "IA32_THERM_STATUS",
    0x1A0: "IA32_MISC_ENABLE", 0x1B0: "IA32_ENERGY_PERF_BIAS", 0x1D9: "IA32_DEBUGCTL", 0x277: "IA32_PAT", 0x2FF: "IA32_MTRR_DEF_TYPE",
    0x345: "IA32_PERF_CAPABILITIES", 0x38F: "IA32_PERF_GLOBAL_CTRL", 0x480: "IA32_VMX_BASIC", 0x606: "MSR_RAPL_POWER_UNIT",
    0x6E0: "IA32_TSC_DEADLINE", 0xDA0: "IA32_XSS", 0x4B56_4D00: "MSR_KVM_WALL_CLOCK_NEW", 0x4B56_4D01: "MSR_KVM_SYSTEM_TIME_NEW",
    0x4B56_4D02: "MSR_KVM_ASYNC_PF_EN", 0x4B56_4D03: "MSR_KVM_STEAL_TIME", 0x4B56_4D04: "MSR_KVM_EOI_EN",
    0xC000_0080: "IA32_EFER", 0xC000_0081: "IA32_STAR", 0xC000_0082: "IA32_LSTAR", 0xC000_0083: "IA32_CSTAR", 0xC000_0084: "IA32_FMASK",
    0xC000_0100: "IA32_FS_BASE", 0xC000_0101: "IA32_GS_BASE", 0xC000_0102: "IA32_KERNEL_GS_BASE", 0xC000_0103: "IA32_TSC_AUX",
    0xC001_0010: "SYSCFG", 0xC001_0015: "HWCR", 0xC001_0055: "MSR_K8_INT_PENDING_MSG", 0xC001_0114: "VM_CR", 0xC001_1029: "DE_CFG",
}  # fmt: skip


def reason(number: int) -> Reason:
    """The table's entry, or one that says the number is unknown."""
    return REASONS.get(number, UNKNOWN)


def msr_name(index: int) -> str:
    """ "IA32_EFER (0xc0000080)", or the number alone."""
    return f"{MSRS[index]} ({index:#x})" if index in MSRS else f"MSR {index:#x}"
