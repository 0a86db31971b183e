"""Which KVM this is: on VMX, on SVM, or in software. Told from what the host shows, without making a VM.

``emulates_ring0`` stands on the start-up path and costs three ``stat`` calls as a rule; ``kvm_kind`` is for people.
"""

from __future__ import annotations

import os

from pyvmm.record import FrozenRecord

# Modules that provide the vendor half of KVM. A module built into the kernel shows up in /sys/module as well.
HARDWARE = {"kvm_intel": "vmx", "kvm_amd": "svm"}
SOFTWARE = {"kvm_pvm": "software (pvm)"}
_MODULES = "/sys/module/"


class KvmKind(FrozenRecord):
    """What answers /dev/kvm.

    Fields:
        name: "vmx", "svm", "software (pvm)", "software" or "unknown".
        module: the module behind it, "" when not known.
        emulated: ring-0 code of guests is interpreted.
        nested: this host is itself a virtual machine.
        evidence: how we know, one line.
    """

    name: str
    module: str
    emulated: bool
    nested: bool
    evidence: str


def emulates_ring0() -> bool:
    """Whether this host's KVM interprets ring-0 code in software.

    One known module alone settles it, whether it has a virtualisation extension under it or not. Where there are several
    (built in, all of them show), or none, the CPU flags decide: without vmx or svm, whatever answers /dev/kvm is software.
    """
    present = _present()
    if len(present) == 1:
        return present[0] in SOFTWARE
    flags = cpu_flags()
    return bool(flags) and "vmx" not in flags and "svm" not in flags


def kvm_kind() -> KvmKind:
    """Names the KVM of this host and says how it knows."""
    flags = cpu_flags()
    extension = next((flag for flag in ("vmx", "svm") if flag in flags), "")
    present = _present()
    cpu = f"CPU flag {extension}" if extension else "no vmx or svm CPU flag" if flags else "CPU flags unreadable"
    evidence = f"{cpu}, {', '.join('/sys/module/' + name for name in present) or 'no vendor module in /sys/module'}"
    emulated = emulates_ring0()
    if emulated:
        module = next((name for name in present if name in SOFTWARE), "")
        name = SOFTWARE.get(module, "software")
    else:
        hardware = [name for name in present if name in HARDWARE and (not extension or HARDWARE[name] == extension)]
        module = hardware[0] if len(hardware) == 1 else ""
        name = extension or HARDWARE.get(module, "unknown")
    return KvmKind(name=name, module=module, emulated=emulated, nested="hypervisor" in flags, evidence=evidence)


def _present() -> list[str]:
    return [name for name in (*HARDWARE, *SOFTWARE) if os.path.exists(_MODULES + name)]


def cpu_flags() -> list[str]:
    """The first processor's flags from /proc/cpuinfo; empty when it cannot be read."""
    return _cpuinfo("flags").split()


def cpu_brand() -> str:
    """The processor's name from /proc/cpuinfo, "" when it cannot be read."""
    return _cpuinfo("model name")


def _cpuinfo(field: str) -> str:
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as cpuinfo:
            text = cpuinfo.read(4096).decode("ascii", "replace")  # the first processor's part; the kernel makes it as we read
    except OSError:
        return ""
    for line in text.splitlines():
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return ""
