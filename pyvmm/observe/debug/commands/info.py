"""``info WHAT``: a table of its own."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.observe.debug import registers
from pyvmm.observe.debug.breaks import describe
from pyvmm.observe.debug.command import Command, CommandError, Line, Reply, Table
from pyvmm.observe.debug.expression import number
from pyvmm.observe.debug.style import printable, table
from pyvmm.observe.debug.views import chips, cpu, exits, machine
from pyvmm.observe.explain.layout import plain
from pyvmm.observe.paging import linear_address, mode_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.observe.debug.session import Session

_CONSOLE = 2000  # bytes
_MP_STATES = {1: "waits for INIT", 2: "waits for SIPI", 3: "halted"}  # KVM_MP_STATE_*, api.rst 4.38


def _info(session: Session, line: Line) -> Reply:
    word, _, rest = line.text.partition(" ")
    if not word:
        return Reply(text=listed(line), data=list(INFO.commands))
    command = INFO.find(word)
    try:
        return command.run(session, Line(rest, line.format, line.style))
    except CommandError as error:
        usage = f" (usage: info {command.usage})" if error.usage else ""
        raise CommandError(f"{command.name}: {error}{usage}") from None


def listed(line: Line) -> str:
    """What there is."""
    return "\n".join(table(((f"info {each.usage}", each.help) for each in INFO.commands.values()), 28, line.style, ""))


def _registers(session: Session, line: Line) -> Reply:
    regs, sregs = session.subject.regs(session.vcpu), session.subject.sregs(session.vcpu)
    if line.words == ["-a"]:
        return _all_registers(session, line)
    if line.text:
        lines, data = [], {}
        for word in line.words:
            name = word.lstrip("$").lower()
            value = registers.read(session.subject, session.vcpu, name)
            if value is None:
                raise CommandError(f"there is no register '{word[:20]}'")
            data[name] = value
            lines.append(f"{line.style.name(f'{name:<8}')} {value:#x} ({value}){session.place(value)}")
        return Reply(text="\n".join(lines), data=data)
    return Reply(text="\n".join(cpu.general(regs, sregs, set(), line.style)), data=registers.general(regs))


def _all_registers(session: Session, line: Line) -> Reply:
    """Of all vCPUs, as QEMU's monitor has it."""
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    for vcpu in range(session.subject.vcpus):
        regs, sregs = session.subject.regs(vcpu), session.subject.sregs(vcpu)
        lines += [f"vCPU {vcpu}", *cpu.general(regs, sregs, set(), line.style), *cpu.system(sregs, regs.rflags, line.style)]
        data.append({**registers.general(regs), **registers.control(sregs)})
    return Reply(text="\n".join(lines), data=data)


def _sregs(session: Session, line: Line) -> Reply:
    line.nothing()
    regs, sregs = session.subject.regs(session.vcpu), session.subject.sregs(session.vcpu)
    return Reply(text="\n".join(cpu.system(sregs, regs.rflags, line.style)), data=registers.control(sregs))


def _vcpus(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = [], []
    for vcpu in range(session.subject.vcpus):
        regs, sregs = session.subject.regs(vcpu), session.subject.sregs(vcpu)
        mark, mode = "*" if vcpu == session.vcpu else " ", mode_name(sregs, regs.rflags)
        at = linear_address(sregs, sregs.cs, regs.rip)
        try:
            state = _MP_STATES.get(session.subject.vcpu_state(vcpu).mp_state, "")
        except PyvmmError:
            state = ""  # a recording may have less of others
        lines.append(f"{mark} vCPU {vcpu}  at {at:#x}{session.place(at)}, {mode}{f', {state}' if state else ''}")
        data.append({"vcpu": vcpu, "rip": regs.rip, "address": at, "mode": mode, "state": state})
    return Reply(text="\n".join(lines), data=data)


def _msrs(session: Session, line: Line) -> Reply:
    line.nothing()
    values = session.subject.vcpu_state(session.vcpu).msrs
    return Reply(text="\n".join(cpu.msrs(values, line.style)), data={f"{index:#x}": value for index, value in values.items()})


def _cpuid(session: Session, line: Line) -> Reply:
    if session.cpuid is None:
        raise CommandError("what CPUID answers is not known here")
    leaves = [tuple(each) for each in session.cpuid(session.vcpu)]
    if line.text:
        wanted = number(line.text, session)
        leaves = [each for each in leaves if each[0] == wanted]
        if not leaves:
            raise CommandError(f"the guest has no CPUID leaf {wanted:#x}")
    return Reply(text="\n".join(cpu.cpuid(leaves, line.style)), data=[list(each) for each in leaves])


def _breakpoints(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = [], []
    for each in session.subject.breakpoints:
        kind = "watch" if each.kind == "watch" else "break"
        flags = ("" if each.enabled else ", disabled") + (", once" if each.temporary else "") + (f", {each.owner}'s" if each.owner else "")
        lines.append(f"{each.number:<3} {kind}  {describe(session, each)}{flags}")
        details = [f"as you said it: {each.text}"] if each.text and each.text not in lines[-1] else []
        details += [f"stops only if {session.conditions[each.number]}"] if each.number in session.conditions else []
        details += [f"hit {each.hits} time{'s' * (each.hits != 1)}"] if each.hits else []
        details += [f"passes over {each.ignore} more"] if each.ignore else []
        details += [f"watched for by: {each.means}"] if each.means else []
        lines += [line.style.label(f"           {text}") for text in details]
        data.append(dict(each) | {"condition": session.conditions.get(each.number, "")})
    return Reply(text="\n".join(lines) or "there are no breakpoints: break and watch make them", data=data)


def _exits(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = exits.counted(session, line.style)
    return Reply(text="\n".join(lines), data=data)


def _run(session: Session, line: Line) -> Reply:
    which = number(line.text, session) if line.text else session.at().exit
    if not which:
        raise CommandError("there has been no exit yet, so kvm_run says nothing: step goes to the first")
    lines, data = exits.run_page(session, which, line.style)
    return Reply(text="\n".join(lines), data=data)


def _devices(session: Session, line: Line) -> Reply:
    layout, states = session.subject.layout, session.subject.devices()
    if line.text:
        name = line.one("a device's name")
        lines = machine.device(layout, states, name, line.style)
        if not lines:
            raise CommandError(f"there is no device '{name[:40]}': info devices lists them")
        return Reply(text="\n".join(lines), data=plain(states.get(name, {})))
    lines, data = machine.devices(layout, line.style)
    return Reply(text="\n".join(lines), data=data)


def _pci(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = machine.pci(session.subject.layout, session.subject.devices(), line.style)
    return Reply(text="\n".join(lines), data=data)


def _queues(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = machine.queues(session.subject.devices(), session.subject.memory, line.style)
    return Reply(text="\n".join(lines), data=data)


def _memory_map(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = machine.memory_map(session.subject.layout, line.style)
    return Reply(text="\n".join(lines), data=data)


def _irqchip(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = chips.irqchip(session.subject.vm_state(), line.style)
    return Reply(text="\n".join(lines), data=data)


def _pit(session: Session, line: Line) -> Reply:
    line.nothing()
    return Reply(text="\n".join(chips.pit(session.subject.vm_state(), line.style)))


def _lapic(session: Session, line: Line) -> Reply:
    line.nothing()
    lines, data = chips.lapic(session.subject.vcpu_state(session.vcpu).lapic, line.style)
    return Reply(text="\n".join(lines), data=data)


def _console(session: Session, line: Line) -> Reply:
    line.nothing()
    data = session.subject.console(_CONSOLE)
    lines = [printable(each) for each in data.replace(b"\r", b"").split(b"\n")]
    return Reply(text="\n".join(lines).rstrip("\n") or "the guest has printed nothing yet", data={"bytes": data})


def _symbols(session: Session, line: Line) -> Reply:
    if session.symbols is None:
        raise CommandError("no symbols: symbol-file FILE takes an ELF file's or a System.map's, symbol-file alone a Linux kernel's own")
    word = line.text.lower()
    found = [(name, session.symbols.find(name)) for name in session.symbols.names() if word in name.lower()][:200]
    lines = [f"{place[0]:#018x}  {line.style.name(name)}" for name, place in found if place is not None]
    return Reply(
        text="\n".join(lines) or f"no symbol's name holds '{line.text[:40]}'", data={name: place[0] for name, place in found if place}
    )


def _time(session: Session, line: Line) -> Reply:
    line.nothing()
    subject = session.subject
    text = f"now: {session.at()}; kept: {subject.first} to {subject.last}" + (
        "" if subject.live else "; a recording, which cannot be changed"
    )
    data = {"now": session.at().exit, "first": subject.first.exit, "last": subject.last.exit, "live": subject.live, "why": subject.stop.why}
    return Reply(text=text + (f"\n{subject.memory_note}" if subject.memory_note else ""), data=data)


INFO = Table(
    (
        Command(
            name="registers",
            aliases=("r", "reg", "all-registers"),
            arguments="[NAME ...]",
            completes=("register",),
            run=_registers,
            help="general registers, rip, flags; -a: all",
        ),
        Command(name="sregs", aliases=("system", "cr"), run=_sregs, help="mode, control registers, segments, descriptor tables"),
        Command(name="vcpus", aliases=("threads", "cpus"), run=_vcpus, help="every vCPU and where it is"),
        Command(name="msrs", run=_msrs, help="model-specific registers"),
        Command(name="cpuid", arguments="[LEAF]", run=_cpuid, help="what CPUID answers"),
        Command(name="exits", aliases=("ex",), run=_exits, help="exits up to now, counted by reason and place"),
        Command(
            name="run", aliases=("kvm_run",), arguments="[EXIT]", run=_run, help="struct kvm_run of the last exit, or another, decoded"
        ),
        Command(
            name="breakpoints",
            aliases=("b", "br", "watchpoints", "w"),
            run=_breakpoints,
            help="breakpoints and watchpoints, hits, and how each is watched for",
            standing=False,
        ),
        Command(
            name="devices",
            aliases=("d", "dev", "qtree", "mtree"),
            arguments="[NAME]",
            completes=("device",),
            run=_devices,
            help="who answers where; one device's registers and state",
        ),
        Command(name="pci", run=_pci, help="PCI functions, BARs, interrupts"),
        Command(name="queues", aliases=("virtio",), run=_queues, help="virtqueues: rings and indices"),
        Command(name="irqchip", aliases=("pic", "ioapic", "irq"), run=_irqchip, help="both PICs and the I/O APIC"),
        Command(name="lapic", run=_lapic, help="this vCPU's local APIC"),
        Command(name="pit", run=_pit, help="the timer's counters"),
        Command(name="memory-map", aliases=("mem", "map"), run=_memory_map, help="guest physical memory from low to high"),
        Command(name="console", run=_console, help="what the guest has printed, up to now"),
        Command(
            name="symbols",
            aliases=("functions", "line", "address"),
            arguments="[TEXT]",
            completes=("symbol",),
            run=_symbols,
            help="the guest's symbols whose name holds a text",
        ),
        Command(name="time", aliases=("history", "record", "status"), run=_time, help="when this is, and how far one can go"),
    )
)

COMMANDS = (
    Command(
        name="info",
        aliases=("i", "inf"),
        arguments="WHAT",
        run=_info,
        completes=("info",),
        help="registers, exits, devices, ...: info alone lists them",
    ),
)
