"""One I/O or MMIO exit against a machine's layout: who answers, which registers, why the kernel did not, what happens next."""

from __future__ import annotations

from pyvmm import layout as board
from pyvmm.kvm import structs, uapi
from pyvmm.observe.explain import features, legacy, pci
from pyvmm.observe.explain.layout import kernel_range
from pyvmm.observe.explain.meanings import DEVICES, DOCUMENTS, meaning, value_meaning
from pyvmm.observe.explain.registers import Bits, Found, character, clear, covered, fields, find, part
from pyvmm.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.exits import Exit
    from pyvmm.observe.explain.layout import Layout, States, Window
    from pyvmm.observe.explain.who import Site

_WIDEST = 8  # bytes; a broken recording may say anything
_SERIAL = "pyvmm.devices.serial_regs:REGISTERS"


class Decoded(Record):
    """One register of an access.

    Fields:
        name: with number: "MTA[3]".
        text: what it is for.
        value: the bits that travelled, in their place in the register; None for a read that nobody has answered yet.
        shown: the value for people: "48 'H'".
        bits: its fields.
        port: a data port, which shows the register after it.
        of: "of queue 0" or "bits 63:32" where another register selects what this one shows.
        note: what is special: read-only, only a part of it.
        clear: names of its single bits that are 0.
        section: of the device's document.
    """

    name: str
    text: str = ""
    value: int | None = None
    shown: str = ""
    bits: list[Bits] = []
    clear: list[str] = []
    port: bool = False
    of: str = ""
    note: str = ""
    section: str = ""


class Access(Record):
    """What an I/O or MMIO exit is about.

    Fields:
        space: "pio" or "mmio".
        address, size, count, is_write: as in the exit.
        values: one for each of ``count``, [] while unknown.
        device: for people: "COM1"; "" when nobody answers.
        kind: what sort of device that is, "" when not known.
        offset: in the device's range.
        where: "BAR 4" or the like, or "".
        function, config_at, capability: for PCI's data port: whose configuration space, at which offset, in which capability.
        registers: lowest first.
        why: why the kernel did not answer.
        reentry: what the next KVM_RUN does.
    """

    space: str
    address: int
    size: int
    is_write: bool
    count: int = 1
    values: list[int] = []
    device: str = ""
    kind: str = ""
    offset: int = 0
    where: str = ""
    function: str = ""
    config_at: int = 0
    capability: str = ""
    registers: list[Decoded] = []
    why: str = ""
    reentry: str = ""


def decode(exit: Exit, layout: Layout | None, before: States | None, answer: bytes | None, site: Site | None) -> Access:
    """Looks one KVM_EXIT_IO or KVM_EXIT_MMIO up.

    Args:
        layout: the machine's; None: nothing is known of devices.
        before: device states before the access.
        answer: what user space has put into the page for a read.
        site: the instruction.
    """
    is_io = exit.number == uapi.KVM_EXIT_IO
    is_write = bool(exit.fields["direction" if is_io else "is_write"])
    data = exit.data if is_write else answer or b""
    size = min(exit.fields["size"], _WIDEST)
    access = Access(
        space="pio" if is_io else "mmio",
        address=exit.fields["port" if is_io else "address"],
        size=size,
        count=exit.fields["count"] if is_io else 1,
        is_write=is_write,
        values=[int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) - size + 1, size)] if size else [],
    )
    window = layout.find(access.space, access.address) if layout is not None else None
    if window is not None and layout is not None:
        _describe(access, window, layout, before or {})
    access.why = _why(access, layout, window)
    access.reentry = _reentry(access, site)
    return access


def label(window: Window) -> str:
    """What people call a device: COM1 for the UART at 0x3f8, a PCI card's name for its BARs, else its name."""
    if window.base in board.SERIAL_PORTS and window.tables and window.tables[0][1] == _SERIAL:
        return f"COM{board.SERIAL_PORTS.index(window.base) + 1}"
    return window.bar[0] or window.device


# --- registers -----------------------------------------------------------------------------------------------------------
def _describe(access: Access, window: Window, layout: Layout, before: States) -> None:
    access.device, access.offset = label(window), access.address - window.base
    access.kind = DEVICES.get(window.tables[0][1], "") if window.tables else ""
    if window.bar[0]:
        access.where = f"BAR {window.bar[1]}"
    state = before.get(window.state, {})
    found, shown = _find(access, window, layout, before)
    value = access.values[0] if access.values else None
    device_type = _device_type(window, layout)
    for each in found:
        access.registers.append(_register(each, value, access, before.get(shown, state) if shown else state, device_type))
    for each, decoded in zip(found, access.registers, strict=True):
        if each.table == pci.BUS and each.register.name == "CONFADD" and value is not None and access.size == 4:
            decoded.note = pci.address(value, layout)
    if access.size > window.width and access.registers:
        access.registers[0].note += f"{'; ' if access.registers[0].note else ''}the bus splits the access into pieces of {window.width}"


def _find(access: Access, window: Window, layout: Layout, before: States) -> tuple[list[Found], str]:
    """The registers, and whose state their values depend on ("" for the device's own)."""
    if not window.tables:
        return [], ""
    state = before.get(window.state, {})
    found: list[Found] = []
    for start, table in reversed(window.tables):  # what lies inside comes last, and has gaps
        if start <= access.offset:
            found = find(table, access.offset - start, access.size, access.is_write, state)
        if found:
            break
    if found and start:
        access.where += f"{', ' if access.where else ''}the device's configuration space"
    if table == pci.BUS and not found:
        access.where = "no configuration cycle: only doublewords are"
    selected = state.get("address")
    if table != pci.BUS or access.offset < 4 or selected is None:
        return found, ""
    function = pci.chosen(layout, selected)
    if function is None:
        access.where = f"configuration of {pci.address(selected, layout)}"
        return found, ""
    access.function, access.config_at = function.name, pci.register_offset(selected, access.offset - 4, access.size)
    inner, access.capability = pci.registers(function, access.config_at, access.size, access.is_write, before)
    return inner, function.state


def _device_type(window: Window, layout: Layout) -> int | None:
    """The virtio device type behind a transport (Virtio 1.2 section 5), None when it is none or not known."""
    for function in layout.functions.values():
        if function.name == window.bar[0] and function.vendor == 0x1AF4 and 0x1040 <= function.device < 0x1080:
            return function.device - 0x1040
    for kind, module in ((1, "net_regs"), (2, "blk_regs"), (3, "console_regs")):
        if any(module in table for _, table in window.tables):
            return kind
    return None


def _register(found: Found, value: int | None, access: Access, state: dict[str, object], device_type: int | None) -> Decoded:
    register, document = found.register, DOCUMENTS.get(found.table, "")
    notes = []
    if found.wrong_way:
        notes.append("cannot be written: the write changes nothing" if access.is_write else "cannot be read: the value means nothing")
    whole = covered(found, access.size) == (1 << 8 * register.size) - 1
    if not whole and register.size <= _WIDEST:
        notes.append(f"only {'this part' if access.size < register.size else 'a part'} of its {register.size} bytes")
    decoded = Decoded(
        name=found.name,
        text=meaning(found.table, found.name),
        port=found.port,
        of=features.selection(register.name, state),
        note="; ".join(notes),
        section=f"{document} {register.section}".lstrip() if register.section[:1].isdigit() else register.section,
    )
    if value is not None:
        bits = part(found, value, access.size)
        decoded.value = bits
        spelled = character(found, bits)
        if not spelled and whole and (word := value_meaning(found.table, register.name, bits)):
            spelled = f"({word})"
        decoded.shown = f"{bits:#0{2 + 2 * min(register.size, access.size)}x}" + (f" {spelled}" if spelled else "")
        decoded.clear = clear(found, bits, access.size)
        decoded.bits = fields(found, bits, access.size, state, device_type)
    return decoded


# --- why, and what next --------------------------------------------------------------------------------------------------
# registers that the kernel takes off user space's hands, as a rule
_USUALLY_AVOIDED = {
    "queue_notify": "As a rule an ioeventfd takes doorbells without an exit: this one came before there was one, or with ioeventfd=off.",
    "QueueNotify": "As a rule an ioeventfd takes doorbells without an exit: this one came before there was one, or with ioeventfd=off.",
    "THR": "Once a guest has printed 64 bytes by polling, the kernel collects THR's bytes without exits (coalescing).",
}


def _why(access: Access, layout: Layout | None, window: Window | None) -> str:
    place = f"port {access.address:#x}" if access.space == "pio" else f"guest physical {access.address:#x}"
    kernel = kernel_range(access.space, access.address)
    if kernel is not None:
        return f"As a rule {kernel.who} answers at {place}, in the kernel. An access leaves when {kernel.leaves}."
    if layout is not None and window is None and access.space == "mmio" and layout.is_ram(access.address):
        return f"There is memory at {place}, but read-only, or taken away for the moment: only user space knows why."
    text = f"No device in the kernel, no ioeventfd and no coalesced zone claims {place}: user space has to answer."
    if layout is not None and window is None:
        rest = "writes vanish" if access.is_write else "it reads as all ones"
        usually = legacy.usual(access.space, access.address)
        there = f" Many PCs have {usually} there." if usually else ""
        return f"{text} No device of this machine claims it either, so {rest}, as on a PC where no card decodes it.{there}"
    extra = next(
        (_USUALLY_AVOIDED[each.name.partition(" ")[0]] for each in access.registers if each.name.partition(" ")[0] in _USUALLY_AVOIDED), ""
    )
    return f"{text} {extra}".rstrip()


def _reentry(access: Access, site: Site | None) -> str:
    amount = f"{access.size * access.count} byte{'s' * (access.size * access.count > 1)}"
    instruction = site.instruction if site is not None else None
    name = f"'{instruction.text}'" if instruction is not None else "the instruction"
    behind = site is not None and site.behind
    repeated = instruction is not None and instruction.mnemonic.startswith("rep")
    to_page_end = -access.address & 0xFFF
    more = " If the guest asked for more bytes, the rest is another exit." if access.size in (_WIDEST, to_page_end) else ""
    if access.space == "pio" and not access.is_write:
        string = instruction is not None and instruction.mnemonic.split()[-1].startswith("ins")
        target = "the guest's memory at es:di" if string else {1: "al", 2: "ax", 4: "eax"}.get(access.size, "the register")
        moved = f"moves rip behind {name} if rcx has become 0" if repeated else f"moves rip behind {name}"
        return f"KVM copies {amount} from io.data_offset in the page to {target}, {moved} and enters the guest."
    if access.space == "pio":
        moved = f"rip is behind {name} already" if behind else f"KVM moves rip behind {name}"
        if repeated and not behind:
            moved += " if rcx has become 0 (else it goes on, with another exit)"
        return f"There is nothing to bring back: {moved}, and the guest goes on."
    if not access.is_write:
        return (
            f"KVM takes {amount} from mmio.data at {structs.RUN_MMIO_DATA:#x} in the page and its emulator finishes {name} with them.{more}"
        )
    moved = f"KVM's emulator has moved rip behind {name}" if behind else f"KVM's emulator finishes {name}"
    return f"There is nothing to bring back: {moved}, and the guest goes on.{more}"
