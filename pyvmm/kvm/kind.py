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

    A module with a virtualisation extension under it settles it. Where a software one is there too, or none we know,
    the CPU flags decide: without vmx or svm, whatever answers /dev/kvm is software.
    """
    exists = os.path.exists
    software = any(exists(_MODULES + name) for name in SOFTWARE)
    if not software and exists(_MODULES + "kvm_intel") != exists(_MODULES + "kvm_amd"):
        return False
    flags = cpu_flags()
    return bool(flags) and "vmx" not in flags and "svm" not in flags


def kvm_kind() -> KvmKind:
    """Names the KVM of this host and says how it knows."""
    flags = cpu_flags()
    nested = "hypervisor" in flags
    extension = next((flag for flag in ("vmx", "svm") if flag in flags), "")
    present = [name for name in (*HARDWARE, *SOFTWARE) if os.path.exists(_MODULES + name)]
    cpu = f"CPU flag {extension}" if extension else "no vmx or svm CPU flag" if flags else "CPU flags unreadable"
    evidence = f"{cpu}, {', '.join('/sys/module/' + name for name in present) or 'no vendor module in /sys/module'}"
    module = next((name for name in present if HARDWARE.get(name) == extension), "")
    if not module and not extension:
        module = next((name for name in present if name in SOFTWARE), "")
    if extension:
        name = extension
    elif module in SOFTWARE:
        name = SOFTWARE[module]
    elif flags and os.path.exists("/dev/kvm"):
        name = "software"
    else:
        hardware = [each for each in present if each in HARDWARE]
        module = hardware[0] if len(hardware) == 1 else ""
        name = HARDWARE.get(module, "unknown")
    return KvmKind(name=name, module=module, emulated=emulates_ring0(), nested=nested, evidence=evidence)


def cpu_flags() -> list[str]:
    """The first processor's flags from /proc/cpuinfo; empty when it cannot be read."""
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as cpuinfo:
            text = cpuinfo.read(8192).decode("ascii", "replace")
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []
