"""What the guest's CPUID instruction answers: KVM's list, cut to a ``-cpu`` model, and one socket of ``smp`` cores.

KVM_GET_SUPPORTED_CPUID tells what this host *can* offer, with the host's own APIC ids and core counts still in it
(api.rst, 4.46); everything about topology is therefore written here, never passed on. The table is computed once per
machine; ``Cpuid.leaves`` only stamps a vCPU's APIC id into it.

This stands on the start-up path: the default model on a hardware KVM parses no feature names at all.
"""

from __future__ import annotations

from struct import pack, unpack

from pyvmm import cpu_models as models
from pyvmm.cpu_models import EAX, EBX, ECX, EDX
from pyvmm.errors import ConfigError
from pyvmm.kvm import uapi
from pyvmm.kvm.kind import cpu_brand, emulates_ring0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.kvm.system import Kvm

    Leaf = tuple[int, int, int, int, int, int, int]  # function, index, flags, eax, ebx, ecx, edx
    Table = dict[tuple[int, int], list[int]]  # (function, index) -> [eax, ebx, ecx, edx, flags]

FLAGS = 4  # place of kvm_cpuid_entry2.flags in a table row
_OSXSAVE, _OSPKE = 1 << 27, 1 << 4  # follow CR4 while the guest runs: KVM's business
_AMD_ALIASES = 0x0183_F3FF  # 0x80000001 EDX repeats these bits of leaf 1 EDX on AMD (APM volume 3, E.4.2)
_ON, _OFF = ("on", "true", "yes", "1"), ("off", "false", "no", "0")
_IGNORED = ("migratable", "check", "l3-cache", "host-cache-info", "min-level", "min-xlevel", "fill-mtrr-mask", "legacy-cache")


class Cpuid:
    """The CPUID tables of a machine's vCPUs.

    Args:
        kvm: asked for KVM_GET_SUPPORTED_CPUID.
        cpu: ``-cpu`` as QEMU spells it: "host", "max", "qemu64", "kvm64", then ",+feature", ",-feature", ",feature=on".
            "" is "host". Switches take effect from left to right; ``safe=off`` shows features even where this KVM's
            interpreter lacks them.
        smp: vCPUs: cores of one socket, one thread each; APIC ids 0 .. smp-1.
        emulated: whether KVM interprets ring 0; None finds out.
        lapic: False for a machine without in-kernel local APIC: no x2APIC, no TSC deadline.

    Attributes:
        warnings: one line for each feature asked for that the host does not have (as QEMU, which goes on as well).

    Raises:
        ConfigError: unknown model, feature or value.
    """

    def __init__(self, kvm: Kvm, cpu: str, smp: int, emulated: bool | None = None, lapic: bool = True) -> None:
        model, switches, options = _parse(cpu)
        self.smp = smp
        self.warnings: list[str] = []
        supported: Table = {(leaf[0], leaf[1]): [*leaf[3:], leaf[2]] for leaf in kvm.supported_cpuid()}
        self._prepare(supported, lapic and bool(kvm.check_extension(uapi.KVM_CAP_TSC_DEADLINE_TIMER)), lapic)
        self._supported = supported
        self._table: Table = {key: row.copy() for key, row in supported.items()}
        if model:
            self._choose_model(model)
        safe = options.pop("safe", "on") not in _OFF
        self._why_hidden = ""
        if safe and (emulates_ring0() if emulated is None else emulated):
            self._why_hidden = "the interpreter cannot run them in ring 0"
            self._hide(models.INTERPRETER_MASKS)
        elif safe and cpu_brand().startswith(models.TCG_BRAND):
            self._why_hidden = "QEMU's emulator, under this KVM, does not intercept XSETBV"
            self._hide(models.TCG_MASKS)
        asked = self._switch(switches, options) if switches or options else ()
        if switches or model or self._why_hidden:
            self._drop_dependents(asked)
        self._states()
        self._topology()

    def leaves(self, index: int) -> list[Leaf]:
        """The table of vCPU ``index``, for KVM_SET_CPUID2."""
        found = []
        for (function, subleaf), (eax, ebx, ecx, edx, flags) in self._table.items():
            if function == 1:
                ebx |= index << 24
            elif function == 0xB or function == 0x1F:
                edx = index
            elif function == 0x8000_001E:
                eax, ebx = index, index & 0xFF
            found.append((function, subleaf, flags, eax, ebx, ecx, edx))
        return found

    def has(self, name: str) -> bool:
        """Whether the guest sees a feature. For messages and tests."""
        return all(self._bit(self._table, bit) for bit in models.features()[models.normal(name)])

    def hidden(self) -> list[str]:
        """Features that KVM offers and cannot run, and that the guest therefore does not see; none under another model."""
        if not self._why_hidden:
            return []
        return [
            models.shown(name)
            for name, bits in models.features().items()
            if any(self._bit(self._supported, bit) and not self._bit(self._table, bit) for bit in bits)
        ]

    @property
    def why_hidden(self) -> str:
        """Why there are ``hidden`` features, in words."""
        return self._why_hidden

    # --- features ----------------------------------------------------------------------------------------------------
    def _prepare(self, table: Table, deadline: bool, lapic: bool) -> None:
        """What KVM leaves to user space in its own list."""
        row = table.setdefault((1, 0), [0, 0, 0, 0, 0])
        row[ECX] = row[ECX] & ~(_OSXSAVE | 1 << 24) | 1 << 31 | deadline << 24
        if not lapic:
            row[ECX] &= ~(1 << 21)
        if (7, 0) in table:
            table[7, 0][ECX] &= ~_OSPKE
        if not any(table.get((0x8000_0002, 0), ())[:FLAGS]):
            _name(table, cpu_brand())
        for function in (0xB, 0x1F, 0x8000_0026):  # the host's topology; written anew, or not there
            for key in [key for key in table if key[0] == function]:
                del table[key]
        signature = table.get((0x4000_0000, 0))
        if signature and signature[EAX] == 0:  # old kernels meant 0x40000001 (cpuid.rst)
            signature[EAX] = 0x4000_0001

    def _bit(self, table: Table, bit: tuple[int, int, int, int]) -> bool:
        row = table.get(bit[:2])
        return row is not None and bool(row[bit[2]] >> bit[3] & 1)

    def _set(self, bits: list[tuple[int, int, int, int]], on: bool) -> None:
        for function, index, register, bit in bits:
            row = self._table.get((function, index))
            if row is None:
                if not on:
                    continue
                row = self._table[function, index] = [0, 0, 0, 0, uapi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX if function in (7, 0xD) else 0]
            row[register] = row[register] | 1 << bit if on else row[register] & ~(1 << bit)

    def _choose_model(self, name: str) -> None:
        """Keeps of KVM's list what a named model has: its features, KVM's own leaves, structure; vendor stays the host's."""
        family, number, stepping, brand, names = models.MODELS[name]
        table, known = self._table, models.features()
        wanted = {bit for feature in (names + " " + models.ALWAYS).split() for bit in known[models.normal(feature)]}
        for function, index in list(table):
            if function == 0x4000_0000 or function == 0x4000_0001:
                continue
            if models.LEVEL < function < 0x4000_0000 or function > models.EXTENDED_LEVEL or function in (5, 0xA):
                del table[function, index]
        for function, index, register, _ in models.WORDS:
            if function != 0x4000_0001 and (function, index) in table:
                mask = 0
                for bit in wanted:
                    if bit[:3] == (function, index, register):
                        mask |= 1 << bit[3]
                table[function, index][register] &= mask
        if (0, 0) in table:
            table[0, 0][EAX] = min(table[0, 0][EAX], models.LEVEL)
        if (0x8000_0000, 0) in table:
            table[0x8000_0000, 0][EAX] = min(table[0x8000_0000, 0][EAX], models.EXTENDED_LEVEL)
        self._identity(family, number, stepping)
        _name(table, brand)

    def _hide(self, masks: dict[tuple[int, int, int], int]) -> None:
        for (function, index, register), mask in masks.items():
            row = self._table.get((function, index))
            if row is not None:
                row[register] &= ~mask

    def _switch(self, switches: list[tuple[str, bool]], options: dict[str, str]) -> tuple[str, ...]:
        """Applies the user's switches; returns the features asked for."""
        known = models.features()
        asked: dict[str, bool] = {}
        for name, on in switches:
            bits = known[name]
            if on and name not in models.FREE:
                missing = [bit for bit in bits if not self._bit(self._supported, bit)]
                for function, index, register, bit in missing:
                    where = f"CPUID.{function:X}H{f'.{index}' if index else ''}:E{'ABCD'[register]}X[bit {bit}]"
                    self.warnings.append(f"this host's KVM does not support the requested feature {models.shown(name)} ({where})")
                bits = [bit for bit in bits if bit not in missing]
            self._set(bits, on)
            asked[name] = on
        self._apply(options)
        if self.warnings and options.get("enforce", "off") in _ON:
            raise ConfigError("-cpu ...,enforce: " + "; ".join(self.warnings))
        return tuple(name for name, on in asked.items() if on)

    def _apply(self, options: dict[str, str]) -> None:
        table = self._table
        if options.get("kvm", "on") in _OFF:
            for key in [key for key in table if key[0] >> 28 == 4]:
                del table[key]
        if options.get("pmu", "on") in _OFF:
            table.pop((0xA, 0), None)
            table[1, 0][ECX] &= ~(1 << 15)
            if (0x8000_0001, 0) in table:
                table[0x8000_0001, 0][ECX] &= ~(3 << 23 | 1 << 28)
        if "vendor" in options:
            ebx, edx, ecx = unpack("<3I", options["vendor"].encode())
            for key in ((0, 0), (0x8000_0000, 0)):
                if key in table:
                    table[key][EBX:FLAGS] = [ebx, ecx, edx]
        if {"family", "model", "stepping"} & options.keys():
            family, model, stepping = _decode_identity(table[1, 0][EAX])
            self._identity(
                int(options.get("family", str(family)), 0),
                int(options.get("model", str(model)), 0),
                int(options.get("stepping", str(stepping)), 0),
            )
        if "model-id" in options:
            _name(table, options["model-id"])
        bits = int(options.get("phys-bits", "0"), 0)
        if bits and (0x8000_0008, 0) in table:
            table[0x8000_0008, 0][EAX] = table[0x8000_0008, 0][EAX] & ~0xFF | bits

    def _drop_dependents(self, asked: tuple[str, ...]) -> None:
        known = models.features()
        for needed, dependents in models.DEPENDS:
            if all(self._bit(self._table, bit) for bit in known[models.normal(needed)]):
                continue
            for name in dependents.split():
                bits = known[models.normal(name)]
                if any(self._bit(self._table, bit) for bit in bits):
                    self._set(bits, False)
                    if models.normal(name) in asked:
                        self.warnings.append(f"feature {name} needs {needed}, which this CPU does not have: left out")

    # --- leaves that follow from others ------------------------------------------------------------------------------
    def _vendor(self) -> bytes:
        row = self._table.get((0, 0), [0, 0, 0, 0, 0])
        return pack("<3I", row[EBX], row[EDX], row[ECX])

    def _identity(self, family: int, model: int, stepping: int) -> None:
        """Family, model, stepping as CPUID.1:EAX packs them (SDM volume 2A, figure 3-6)."""
        eax = max(family - 15, 0) << 20 | model >> 4 << 16 | min(family, 15) << 8 | (model & 15) << 4 | stepping
        for key in ((1, 0), (0x8000_0001, 0)):
            if key in self._table:
                self._table[key][EAX] = eax

    def _states(self) -> None:
        """Leaf 0xD lists exactly the XSAVE components whose features the guest sees (SDM volume 1, 13.2)."""
        table = self._table
        main = table.get((0xD, 0))
        if main is None:
            return
        if not table[1, 0][ECX] >> 26 & 1:
            for key in [key for key in table if key[0] == 0xD]:
                del table[key]
            return
        if self._table.items() == self._supported.items():
            return  # untouched: KVM's own list is consistent
        known = models.features()

        def allowed(features: dict[int, str]) -> int:
            return sum(1 << bit for bit, name in features.items() if any(self._bit(table, at) for at in known[models.normal(name)]))

        mask = main[EAX] & (3 | allowed(models.XCR0_FEATURES))
        main[EAX], size = mask, 576  # legacy area and XSAVE header
        supervisor = 0
        if (0xD, 1) in table:
            row = table[0xD, 1]
            row[ECX] = supervisor = row[ECX] & allowed(models.XSS_FEATURES) if row[EAX] & 8 else 0
        for key in [key for key in table if key[0] == 0xD and key[1] > 1]:
            component = key[1]
            if mask >> component & 1:
                size = max(size, table[key][EBX] + table[key][EAX])
            elif not supervisor >> component & 1:
                del table[key]
        main[ECX] = size
        main[EBX] = min(main[EBX], size)  # KVM rewrites it whenever the guest sets XCR0

    def _topology(self) -> None:
        """One socket, ``smp`` cores, one thread each; the APIC id is the core's number (leaves() adds it)."""
        table, smp = self._table, self.smp
        amd = self._vendor() in (b"AuthenticAMD", b"HygonGenuine")
        width = (smp - 1).bit_length()  # bits of the APIC id that name a core
        row = table[1, 0]
        row[EBX] = row[EBX] & 0xFF00 | (smp if smp > 1 else 0) << 16
        row[EDX] = row[EDX] & ~(1 << 28) | (smp > 1) << 28  # HTT: EBX[23:16] is valid
        for (function, _), row in table.items():
            if function == 4 and row[EAX] & 0x1F:  # Intel's caches: level 3 and up is shared by the package
                shared = (1 << width) - 1 if row[EAX] >> 5 & 7 >= 3 else 0
                row[EAX] = row[EAX] & 0x3FFF | min(shared, 0xFFF) << 14 | min((1 << width) - 1, 63) << 26
            elif function == 0x8000_001D and row[EAX] & 0x1F:  # AMD's
                row[EAX] = row[EAX] & 0x3FFF | (smp - 1 if row[EAX] >> 5 & 7 >= 3 else 0) << 14
        flag = uapi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        top = table.setdefault((0, 0), [0, 0, 0, 0, 0])
        top[EAX] = max(top[EAX], 0xB)
        for function in (0xB, 0x1F) if top[EAX] >= 0x1F else (0xB,):
            table[function, 0] = [0, 1, 1 << 8, 0, flag]  # level 0: threads, one per core
            table[function, 1] = [width, smp, 2 << 8 | 1, 0, flag]  # level 1: cores
            table[function, 2] = [0, 0, 2, 0, flag]  # no further level
        if (0x8000_0001, 0) in table:
            row = table[0x8000_0001, 0]
            row[ECX] = row[ECX] & ~2 | (amd and smp > 1) << 1  # CmpLegacy: HTT means cores, not threads
            if amd:
                row[EDX] = row[EDX] & ~_AMD_ALIASES | table[1, 0][EDX] & _AMD_ALIASES
        if (0x8000_0008, 0) in table:
            table[0x8000_0008, 0][ECX] = (width << 12 | smp - 1) if amd else 0
        if self._bit(table, (0x8000_0001, 0, ECX, 22)):  # topoext
            table[0x8000_001E, 0] = [0, 0, 0, 0, 0]
        else:
            table.pop((0x8000_001E, 0), None)


def _name(table: Table, text: str) -> None:
    """The processor's name, 48 bytes over three leaves (SDM volume 2A, CPUID, 80000002H)."""
    words = unpack("<12I", text.encode()[:47].ljust(48, b"\0"))
    for at in range(3):
        table[0x8000_0002 + at, 0] = [*words[4 * at : 4 * at + 4], 0]


def build(kvm: Kvm, model: str, smp: int, index: int, emulated: bool | None = None) -> list[Leaf]:
    """The CPUID table of one vCPU; for several use ``Cpuid`` once. Warnings are dropped here."""
    return Cpuid(kvm, model, smp, emulated).leaves(index)


def _parse(cpu: str) -> tuple[str, list[tuple[str, bool]], dict[str, str]]:
    """``-cpu`` in parts: named model or "" for KVM's whole list, [(feature, on)], {property: value}."""
    if cpu in ("", "host", "max"):
        return "", [], {}
    name, *rest = cpu.split(",")
    if name[:1] in ("+", "-") or "=" in name:
        name, rest = "host", [name, *rest]
    if name in ("host", "max", ""):
        name = ""
    elif name not in models.MODELS:
        raise ConfigError(f"unknown CPU model '{name}'{_close(name, ['host', 'max', *models.MODELS])}")
    switches: list[tuple[str, bool]] = []
    options: dict[str, str] = {}
    known = models.features()
    for word in rest:
        if not word:
            continue
        if word[0] in "+-":
            feature, value = word[1:], "on" if word[0] == "+" else "off"
        else:
            feature, equals, value = word.partition("=")
            value = value if equals else "on"
        feature = models.normal(feature)
        if feature in known:
            if value not in _ON + _OFF:
                raise ConfigError(f"-cpu: {word}: expected on or off")
            switches.append((feature, value in _ON))
        elif feature in _PROPERTIES:
            if not _PROPERTIES[feature](value):
                raise ConfigError(f"-cpu: {word}: bad value")
            options[feature] = value
        elif feature not in _IGNORED and not feature.startswith("vmx-"):
            raise ConfigError(f"unknown CPU feature '{word.lstrip('+-').partition('=')[0]}'{_close(feature, [*known, *_PROPERTIES])}")
    return name, switches, options


def _number(low: int, high: int):  # type: ignore[no-untyped-def]
    def check(value: str) -> bool:
        try:
            return low <= int(value, 0) <= high
        except ValueError:
            return False

    return check


def _switch_value(value: str) -> bool:
    return value in _ON + _OFF


_PROPERTIES = {
    "safe": _switch_value,
    "kvm": _switch_value,
    "pmu": _switch_value,
    "enforce": _switch_value,
    "host-phys-bits": _switch_value,
    "vendor": lambda value: len(value) == 12 and value.isascii(),
    "family": _number(0, 0xFF + 15),
    "model": _number(0, 0xFF),
    "stepping": _number(0, 15),
    "model-id": lambda value: value.isascii(),
    "phys-bits": _number(32, 52),
}


def _decode_identity(eax: int) -> tuple[int, int, int]:
    family = eax >> 8 & 15
    return family + (eax >> 20 & 0xFF if family == 15 else 0), eax >> 12 & 0xF0 | eax >> 4 & 15, eax & 15


def _close(name: str, known: list[str]) -> str:
    """ ": did you mean ...?" for a misspelt name. Imports difflib: only on the way to an error."""
    from difflib import get_close_matches

    close = [models.shown(match) for match in get_close_matches(name, known, 3)]
    return f": did you mean {', '.join(close)}?" if close else f": known are {', '.join(known)}" if len(known) < 9 else ""


def help_text() -> str:
    """``-cpu help``: the models and every feature name."""
    from textwrap import fill

    lines = ["CPU models:", "  host     everything this host's KVM can do (default)", "  max      the same"]
    lines += [f"  {name:8} {models.MODELS[name][3]}: a conservative 64-bit CPU" for name in models.MODELS]
    names = " ".join(dict.fromkeys(name.partition(":")[2] or name for *_, words in models.WORDS for name in words.split()))
    text = fill(names, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, "", "Features, as +name, -name, name=on, name=off:", text])
