"""An exit explained: who, what the kernel saw, why it could not go on alone, which word of the run page says what, what comes next."""

from __future__ import annotations

from pyvmm import exits
from pyvmm.kvm import uapi
from pyvmm.observe.causes import was_reset
from pyvmm.observe.explain import access as accesses
from pyvmm.observe.explain.changes import Change, changes
from pyvmm.observe.explain.members import Member, members
from pyvmm.observe.explain.reasons import MSR_WHY, SUBERROR_WHY, msr_name, reason
from pyvmm.observe.paging import mode_name
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.exits import Exit
    from pyvmm.observe.explain.access import Access
    from pyvmm.observe.explain.layout import Layout, States
    from pyvmm.observe.explain.who import Site

_MOST_WORDS = 8
_MMIO_OR_IO = (uapi.KVM_EXIT_IO, uapi.KVM_EXIT_MMIO)


class Explanation(Record):
    """What there is to say about one exit; ``text.render`` makes a page of it.

    Fields:
        title: one sentence.
        line: the same with the instruction and its address, for lists.
        who: vCPU, rip, mode, instruction.
        saw: what the kernel saw.
        why: why it could not finish it alone.
        members: the words of kvm_run.
        access: for I/O and MMIO: device and registers; None otherwise.
        changed: device state before and after; None when that is not known.
        reentry: what the next KVM_RUN does.
        section: where the exit is specified.
    """

    title: str
    line: str
    who: str
    saw: str
    why: str
    members: list[Member]
    access: Access | None = None
    changed: list[Change] | None = None
    reentry: str = ""
    section: str = ""


def explain(
    exit: Exit,
    layout: Layout | None = None,
    *,
    vcpu: int = 0,
    regs: Any = None,
    sregs: Any = None,
    site: Site | None = None,
    before: States | None = None,
    after: States | None = None,
    answer: bytes | None = None,
) -> Explanation:
    """Explains one exit. A pure function: it looks at nothing but its arguments, and never raises for an exit of ``exits.decode``.

    Args:
        exit: what ``exits.decode`` made of the run page, before user space has answered.
        layout: who is where on the machine's buses (``layout.Layout.of``).
        vcpu: its index.
        regs, sregs: its registers; anything with the fields of kvm_regs and kvm_sregs.
        site: the instruction (``who.locate``).
        before, after: device states around user space's answer (``layout.states``).
        answer: for reads, the bytes that user space has put into the page.
    """
    entry = reason(exit.number)
    lost = regs is not None and sregs is not None and was_reset(exit, regs, sregs)
    words = {**exit.fields, "number": exit.number}
    access = accesses.decode(exit, layout, before, answer, site) if exit.number in _MMIO_OR_IO else None
    title = _access_title(access, vcpu) if access is not None else _other_title(exit, vcpu)
    return Explanation(
        title=title,
        line=title + ("" if lost else _place(access, regs, site)),
        who=_who(vcpu, regs, sregs, site, lost),
        saw=entry.saw.format(**words),
        why=access.why if access is not None else _why(exit) or entry.why,
        members=members(exit, answer),
        access=access,
        changed=changes(before, after) if before is not None and after is not None else None,
        reentry=access.reentry if access is not None else entry.reentry,
        section=entry.section,
    )


# --- sentences -----------------------------------------------------------------------------------------------------------
def _access_title(access: Access, vcpu: int) -> str:
    """ "vCPU 0 wrote 0x48 'H' to COM1 THR"."""
    target, what, words = _target(access), _values(access), _words(access)
    if access.is_write:
        return f"vCPU {vcpu} wrote {what} to {target}{words}"
    return f"vCPU {vcpu} read {what} from {target}{words}" if access.values else f"vCPU {vcpu} reads {target}"


def _target(access: Access) -> str:
    """ "COM1 THR", "blk0's PCI configuration at 0x4: CMD, STS", "port 0x1234, where nobody answers"."""
    if not access.device:
        return f"{'port' if access.space == 'pio' else 'guest physical'} {access.address:#x}, where nobody answers"
    names = [f"{each.name} {each.of}" if each.of else each.name for each in access.registers if not each.port]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if access.function:
        capability = f" (capability {access.capability})" if access.capability else ""
        return f"{access.function}'s PCI configuration at {access.config_at:#x}{capability}" + (f", {shown}" if shown else "")
    return f"{access.device} {shown or f'+{access.offset:#x}'}"


def _words(access: Access) -> str:
    """What the value says: ": TEMT THRE", when that is short."""
    registers = [each for each in access.registers if not each.port]
    if len(registers) != 1 or not access.values or access.count > 1:
        return ""
    (register,) = registers
    if register.name == "CONFADD":
        return f": {register.note}" if register.note else ""
    bits = [f"{each.name}={each.value:#x}" if each.wide else each.name for each in register.bits if each.value]
    return f": {' '.join(bits)}" if 0 < len(bits) <= _MOST_WORDS else ""


def _values(access: Access) -> str:
    if not access.values:
        return f"{access.size} byte{'s' * (access.size > 1)}"
    if access.count > 1:
        return f"{access.count} times {access.size} byte{'s' * (access.size > 1)}"
    value = access.values[0]
    shown = f"{value:#0{2 + 2 * access.size}x}"
    for each in access.registers:
        if len(access.registers) == 1 and each.value == value and each.shown.endswith(("'", ")")):
            return each.shown
    return shown


def _other_title(exit: Exit, vcpu: int) -> str:
    if exit.number in (uapi.KVM_EXIT_X86_RDMSR, uapi.KVM_EXIT_X86_WRMSR):
        name = msr_name(exit.fields["index"])
        if exit.number == uapi.KVM_EXIT_X86_RDMSR:
            return f"vCPU {vcpu} reads {name}"
        return f"vCPU {vcpu} wrote {exit.fields['value']:#x} to {name}"
    return f"vCPU {vcpu}: {exits.describe(exit)}"


def _why(exit: Exit) -> str:
    """For exits that come for one of several reasons."""
    if exit.number == uapi.KVM_EXIT_INTERNAL_ERROR:
        number = exit.fields["suberror"]
        return SUBERROR_WHY.get(number, f"Suberror {number}, which this pyvmm does not know.")
    if exit.number in (uapi.KVM_EXIT_X86_RDMSR, uapi.KVM_EXIT_X86_WRMSR):
        number = exit.fields["reason"]
        return MSR_WHY.get(number, f"Reason {number}, which this pyvmm does not know.")
    return ""


def _place(access: Access | None, regs: Any, site: Site | None) -> str:
    """ " (out dx, al at 0x7c3a)": the instruction, the port where that says dx, the address."""
    instruction = site.instruction if site is not None else None
    parts = []
    if access is not None and access.device:
        parts.append(f"port {access.address:#x}" if access.space == "pio" else f"at {access.address:#x}")
    if instruction is not None:
        parts.append(f"{instruction.text} at {instruction.address:#x}")
    elif regs is not None:
        parts.append(f"rip {regs.rip:#x}")
    return f" ({'; '.join(parts)})" if parts else ""


def _who(vcpu: int, regs: Any, sregs: Any, site: Site | None, lost: bool) -> str:
    text = f"vCPU {vcpu}"
    if lost:
        return f"{text}: this KVM (AMD's) has reset it after the triple fault, so its registers say nothing of the guest"
    if sregs is not None:
        text += f" in {mode_name(sregs, regs.rflags if regs is not None else 0)}"
    instruction = site.instruction if site is not None else None
    if instruction is not None:
        rip = f" (rip {regs.rip:#x} is behind it)" if site is not None and site.behind and regs is not None else ""
        return f"{text}: {instruction.text} ({instruction.data.hex(' ')}) at {instruction.address:#x}{rip}"
    return f"{text}, rip {regs.rip:#x}" if regs is not None else text
