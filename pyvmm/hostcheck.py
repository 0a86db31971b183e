"""``pyvmm check``: can this host run guests, how well, and what to do where it cannot.

Access is tested by opening the device, never by looking at mode bits: ACLs, containers and sandboxes make those lie.
"""

from __future__ import annotations

import os

from pyvmm.errors import HostError, KvmError, PyvmmError
from pyvmm.kvm import uapi
from pyvmm.kvm.kind import kvm_kind
from pyvmm.kvm.system import DEVICE, Kvm
from pyvmm.probes import PROBES, Bench, probe
from pyvmm.record import FrozenRecord

__all__ = ["Finding", "examine", "probe", "render", "render_json", "usable"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OK, WARN, FAIL = "ok", "warn", "fail"

_ACCESS = (
    "on your machine: sudo usermod -aG kvm $USER, then log in again; on a CI runner: a udev rule "
    'KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm" and udevadm trigger --name-match=kvm; '
    "in a container: --device /dev/kvm, and the group's number with --group-add"
)
_NO_DEVICE = (
    "on hardware: enable VT-x or SVM in the firmware and modprobe kvm_intel or kvm_amd; in a virtual machine: switch on nested "
    "virtualisation on the outer host; in a container: --device /dev/kvm"
)

# What pyvmm cannot do without, and what it loses without the rest
_NEEDED = {
    "USER_MEMORY": uapi.KVM_CAP_USER_MEMORY,
    "IRQCHIP": uapi.KVM_CAP_IRQCHIP,
    "IRQ_ROUTING": uapi.KVM_CAP_IRQ_ROUTING,
    "PIT2": uapi.KVM_CAP_PIT2,
    "EXT_CPUID": uapi.KVM_CAP_EXT_CPUID,
    "MP_STATE": uapi.KVM_CAP_MP_STATE,
    "SET_TSS_ADDR": uapi.KVM_CAP_SET_TSS_ADDR,
    "SET_IDENTITY_MAP_ADDR": uapi.KVM_CAP_SET_IDENTITY_MAP_ADDR,
    "VCPU_EVENTS": uapi.KVM_CAP_VCPU_EVENTS,
    "IRQFD": uapi.KVM_CAP_IRQFD,
    "IOEVENTFD": uapi.KVM_CAP_IOEVENTFD,
    "SIGNAL_MSI": uapi.KVM_CAP_SIGNAL_MSI,
    "IMMEDIATE_EXIT": uapi.KVM_CAP_IMMEDIATE_EXIT,
}
_LIKED = {
    "COALESCED_MMIO": (uapi.KVM_CAP_COALESCED_MMIO, "more exits"),
    "COALESCED_PIO": (uapi.KVM_CAP_COALESCED_PIO, "more exits on the console"),
    "READONLY_MEM": (uapi.KVM_CAP_READONLY_MEM, "no ROM, no watchpoints by page"),
    "SET_GUEST_DEBUG": (uapi.KVM_CAP_SET_GUEST_DEBUG, "no debugger"),
    "DEBUGREGS": (uapi.KVM_CAP_DEBUGREGS, "no hardware breakpoints"),
    "XSAVE": (uapi.KVM_CAP_XSAVE, "snapshots without AVX state"),
    "XCRS": (uapi.KVM_CAP_XCRS, "snapshots without XCR0"),
    "TSC_DEADLINE_TIMER": (uapi.KVM_CAP_TSC_DEADLINE_TIMER, "slower timers in guests"),
    "EXIT_ON_EMULATION_FAILURE": (uapi.KVM_CAP_EXIT_ON_EMULATION_FAILURE, "less said about instructions KVM cannot emulate"),
    "BINARY_STATS_FD": (uapi.KVM_CAP_BINARY_STATS_FD, "no kernel statistics without root"),
}
# Probes that a stock 64-bit Linux needs, and those a debugger would like
_LINUX = ("real-mode", "long-mode", "ring0-simd", "cmpxchg16b")
_WORKAROUNDS = {
    "sw-breakpoint": "the debugger uses a trapping byte or steps instead",
    "hw-breakpoint": "the debugger uses other breakpoints",
    "watchpoint": "the debugger write-protects the page instead",
    "single-step": "the debugger cannot step",
    "paging32": "guests with 32-bit paging do not run here",
    "pae": "guests with PAE paging do not run here",
    "hypercall": "paravirtual features that make hypercalls are hidden from guests",
    "int-n": "guests that use int in protected mode do not run here",
}


class Finding(FrozenRecord):
    """One thing looked at.

    Fields:
        level: "ok", "warn" (works with less) or "fail" (guests cannot run).
        topic: a word or two, the same for the same question on every host.
        text: what was found, one line.
        advice: what to do about it, "" when nothing.
    """

    level: str
    topic: str
    text: str
    advice: str = ""


def usable(findings: list[Finding]) -> bool:
    """Whether guests can run: nothing failed."""
    return all(finding.level != FAIL for finding in findings)


def examine(probe: bool = True) -> list[Finding]:
    """Looks at the host.

    Args:
        probe: also run tiny guests that find out what this KVM really does (tens of milliseconds).
    """
    findings: list[Finding] = []
    try:
        kvm = Kvm()
    except HostError as error:
        text = str(error)
        advice = _ACCESS if "permi" in text else _NO_DEVICE
        return [Finding(level=FAIL, topic="device", text=text, advice=advice), *_kind(False), *_memory()]
    with kvm:
        findings.append(Finding(level=OK, topic="device", text=f"{DEVICE} opens for reading and writing, API version {uapi.API_VERSION}"))
        findings += _kind(True)
        findings += _virtual_machine(kvm)
        findings += _capabilities(kvm)
        findings += _limits(kvm)
        if usable(findings):
            findings += _cpu(kvm)
    findings += _modules()
    findings += _memory()
    findings += _observing()
    findings += _sandbox()
    if probe and usable(findings):
        findings += _probes()
    return findings


def render(findings: list[Finding]) -> str:
    """Readable lines: level, topic, text; the advice below."""
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.topic:{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.advice}")
    verdict = "guests can run here" if usable(findings) else "guests cannot run here: see the lines marked fail"
    return "\n".join([*lines, verdict])


def render_json(findings: list[Finding]) -> str:
    """{"usable": ..., "findings": [{level, topic, text, advice}]}."""
    import json

    return json.dumps({"usable": usable(findings), "findings": [dict(finding) for finding in findings]}, indent=2)


# --- what is looked at ---------------------------------------------------------------------------------------------------
def _kind(opened: bool) -> Iterator[Finding]:
    kind = kvm_kind()
    where = "in a virtual machine" if kind.nested else "on hardware"
    if opened and kind.emulated:
        yield Finding(
            level=WARN,
            topic="kvm",
            text=f"{kind.name}, {where}: ring-0 code of guests is interpreted ({kind.evidence})",
            advice="fine for small guests and tests; for stock kernels use a host with VMX or SVM (nested virtualisation will do)",
        )
    elif opened and kind.name == "unknown":
        yield Finding(level=OK, topic="kvm", text=f"cannot tell which ({kind.evidence})")
    else:
        yield Finding(level=OK if opened else WARN, topic="kvm", text=f"{kind.name}, {where} ({kind.evidence})")


def _virtual_machine(kvm: Kvm) -> Iterator[Finding]:
    try:
        kvm.create_vm().close()
    except KvmError as error:
        yield Finding(level=FAIL, topic="vm", text=str(error), advice=_NO_DEVICE)


def _capabilities(kvm: Kvm) -> Iterator[Finding]:
    missing = [name for name, number in _NEEDED.items() if not kvm.check_extension(number)]
    if missing:
        yield Finding(
            level=FAIL,
            topic="capabilities",
            text=f"this KVM lacks {', '.join('KVM_CAP_' + name for name in missing)}",
            advice="use a newer kernel (4.12 or later) with KVM on VMX or SVM",
        )
    else:
        yield Finding(level=OK, topic="capabilities", text=f"all {len(_NEEDED)} that pyvmm needs")
    for name, (number, loss) in _LIKED.items():
        if not kvm.check_extension(number):
            yield Finding(level=WARN, topic="capabilities", text=f"no KVM_CAP_{name}: {loss}")


def _limits(kvm: Kvm) -> Iterator[Finding]:
    most, advised, slots = (kvm.check_extension(each) for each in (uapi.KVM_CAP_MAX_VCPUS, uapi.KVM_CAP_NR_VCPUS, uapi.KVM_CAP_NR_MEMSLOTS))
    yield Finding(level=OK, topic="limits", text=f"{most or advised} vCPUs per guest ({advised} recommended), {slots} memory slots")


def _cpu(kvm: Kvm) -> Iterator[Finding]:
    from pyvmm.cpuid import Cpuid

    model = Cpuid(kvm, "host", 1)
    hidden = model.hidden()
    if hidden:
        yield Finding(
            level=WARN,
            topic="cpu",
            text=f"hidden from guests, because {model.why_hidden}: {' '.join(hidden)}",
            advice="show one with -cpu host,+name, all with -cpu host,safe=off",
        )
    else:
        yield Finding(level=OK, topic="cpu", text="guests see every feature KVM offers")


def _parameter(module: str, name: str) -> str:
    try:
        with open(f"/sys/module/{module}/parameters/{name}") as file:
            return file.read().strip()
    except OSError:
        return ""


def _modules() -> Iterator[Finding]:
    """Module parameters that change what guests can do."""
    if _parameter("kvm_intel", "unrestricted_guest") in ("N", "0"):
        yield Finding(
            level=WARN,
            topic="modules",
            text="kvm_intel without unrestricted guest: real mode is emulated, slower and incomplete",
            advice="a CPU since Westmere, or modprobe kvm_intel unrestricted_guest=1 (on the outer host too)",
        )
    for module, parameter in (("kvm_intel", "ept"), ("kvm_amd", "npt")):
        if _parameter(module, parameter) in ("N", "0"):
            yield Finding(
                level=WARN,
                topic="modules",
                text=f"{module} without {parameter}: memory-bound guests are several times slower",
                advice=f"modprobe {module} {parameter}=1 (on the outer host too)",
            )


def _memory() -> Iterator[Finding]:
    values = {}
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                name, _, rest = line.partition(":")
                values[name] = int(rest.split()[0]) >> 10
    except (OSError, ValueError, IndexError):
        return
    total, free = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    text = f"{free} MiB of {total} MiB available"
    if free < 192:  # the default guest and pyvmm itself
        yield Finding(level=WARN, topic="memory", text=text, advice="give guests less than the default of 128 MiB: -m 32M")
    else:
        yield Finding(level=OK, topic="memory", text=text)


def _observing() -> Iterator[Finding]:
    """Whether one can look inside from the host: disassembly, perf and tracefs. None of it is needed."""
    from pyvmm.observe import disasm

    if not disasm.available():
        yield Finding(
            level=WARN, topic="observing", text="capstone is not installed: hex instead of disassembly", advice="pip install capstone"
        )
    try:
        with open("/proc/sys/kernel/perf_event_paranoid") as file:
            paranoid = int(file.read())
    except (OSError, ValueError):
        paranoid = 0
    if paranoid > 1 and os.geteuid() != 0:
        yield Finding(
            level=WARN,
            topic="observing",
            text=f"perf cannot count exits (kernel.perf_event_paranoid is {paranoid}); pyvmm's own statistics work",
            advice="sudo sysctl kernel.perf_event_paranoid=1",
        )
    if os.geteuid() == 0 or os.access("/sys/kernel/tracing/events/kvm", os.R_OK):
        return
    yield Finding(
        level=OK,
        topic="observing",
        text="the kernel's kvm trace events are for root; pyvmm's own tracer works without",
    )


def _sandbox() -> Iterator[Finding]:
    """The layers of ``-sandbox on`` that depend on the host's kernel."""
    from pyvmm.sandbox import enter

    for layer, there, text in enter.findings():
        advice = "" if there else f"-sandbox on,{layer}=off goes without it"
        yield Finding(level=OK if there else WARN, topic="sandbox", text=f"{layer}: {text}", advice=advice)


def _probes() -> Iterator[Finding]:
    try:
        bench = Bench()
    except PyvmmError as error:
        yield Finding(level=FAIL, topic="probe", text=str(error))
        return
    works: list[str] = []
    lacks: list[str] = []
    try:
        for name in PROBES:
            if name != "hypercall" or not kvm_kind().emulated:  # there it spins until the time limit
                (works if probe(name, bench) else lacks).append(name)
    finally:
        bench.close()
    if "real-mode" in lacks and "long-mode" in lacks:
        yield Finding(
            level=FAIL, topic="probe", text="no guest ran at all, not even a single hlt", advice="look into dmesg for messages of kvm"
        )
        return
    yield Finding(level=OK, topic="probe", text=f"tried and works: {', '.join(PROBES[name][1] for name in works)}")
    for name in lacks:
        advice = _WORKAROUNDS.get(name, "")
        yield Finding(level=WARN, topic="probe", text=f"does not work: {PROBES[name][1]}" + (f" ({advice})" if advice else ""))
    if any(name in lacks for name in _LINUX):
        yield Finding(level=WARN, topic="linux", text="stock Linux kernels do not boot on this KVM", advice="use a host with VMX or SVM")
    else:
        yield Finding(level=OK, topic="linux", text="nothing stands in the way of stock 64-bit Linux kernels")
