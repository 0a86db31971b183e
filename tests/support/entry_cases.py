"""States that break one entry rule each, and states that break none: one table for the validator and for real hardware.

The unit test asks the validator (``pyvmm.kvm.entry_rules``) about each case, tests/kvm/test_entry.py asks
``set_boot_state``, and the Intel suite asks a stock kvm_intel, which must refuse what the validator refuses and enter
what it passes. Standard library and pyvmm only: this runs inside host C.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.boot import cpu
from pyvmm.boot.cpu import CpuState
from pyvmm.record import FrozenRecord

CONTROL, SEGMENTS, TABLES, FLAGS = "26.3.1.1", "26.3.1.2", "26.3.1.3", "26.3.1.4"
SET_SREGS = "KVM_SET_SREGS"

# How a state can end on a real KVM
ENTERED = "entered"  # the guest's OUT arrived
EINVAL = "KVM_SET_SREGS: EINVAL"
FAIL_ENTRY = "KVM_EXIT_FAIL_ENTRY 0x80000021"  # basic reason 33 with bit 31: invalid guest state (SDM Vol. 3D, appendix C)
SHUTDOWN = "KVM_EXIT_SHUTDOWN"

FEATURES = {"pcid": (1, 5, 17), "la57": (7, 5, 16)}  # leaf, register as an index into a CPUID entry, bit
RPL_FOR_DPL = "Bochs compares CS.DPL with CS.RPL, not with SS.DPL (as without unrestricted guest)"

V86_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
IO_BITMAP = 0x20  # bytes behind the TSS: ports 0..0xff are allowed (the bytes are 0)


def real() -> CpuState:
    return cpu.real_mode(0x7C00)


def protected() -> CpuState:
    return cpu.protected_mode(0x10_0000)


def long() -> CpuState:
    return cpu.long_mode(0x10_0000)


def v86() -> CpuState:
    """Virtual-8086 mode: DPL 3 data segments everywhere, limits 0xffff (SDM Vol. 3C, 26.3.1.2)."""
    state = cpu.protected_mode(0)
    state.rflags |= 1 << 17
    state.tr.limit += IO_BITMAP  # port accesses of a virtual-8086 guest are looked up there, whatever IOPL is
    for name in V86_SEGMENTS:
        setattr(state, name, cpu.Segment(selector=0x100, base=0x1000, limit=0xFFFF, type=3, present=1, s=1, dpl=3))
    return state


def pvh() -> CpuState:
    return cpu.protected_mode(0x1000, tss=0)


STATES: dict[str, Callable[[], CpuState]] = {"real": real, "protected": protected, "long": long, "v86": v86, "pvh": pvh}


class Case(FrozenRecord):
    """A valid state with a change.

    Fields:
        base: name of the valid state, a key of STATES.
        changes: {"tr.type": 9, "rip": 0, ...}.
        rule, field, section: of the violation; "" when it is none.
        ends: how it ends on an Intel KVM, where that does not follow from the section.
        feature: what the guest's CPUID must have, else KVM_SET_SREGS refuses: a key of FEATURES, or "".
        bochs, because: how the state ends in the Intel suite where that is not what hardware does, and why.
    """

    base: str
    changes: dict[str, int]
    rule: str = ""
    field: str = ""
    section: str = ""
    ends: str = ""
    feature: str = ""
    bochs: str = ""
    because: str = ""

    def state(self) -> CpuState:
        """The state with its change."""
        state = STATES[self.base]()
        for name, value in self.changes.items():
            where, _, field = name.partition(".")
            if field:
                setattr(getattr(state, where), field, value)
            else:
                setattr(state, where, value)
        return state

    def name(self) -> str:
        """For reports: "long tr.type=0x9"."""
        shown = "null " + next(iter(self.changes)).partition(".")[0] if len(self.changes) == len(NULL) else ""
        return f"{self.base} {shown or ' '.join(f'{name}={value:#x}' for name, value in self.changes.items()) or 'as it is'}"

    def expected(self) -> str:
        """How it must end on an Intel KVM."""
        if self.ends:
            return self.ends
        if not self.rule:
            return ENTERED
        return EINVAL if self.section == SET_SREGS else FAIL_ENTRY


NULL = {"type": 0, "present": 0, "s": 0, "base": 0, "limit": 0, "selector": 0, "dpl": 0, "g": 0, "db": 0, "l": 0}


def null(name: str) -> dict[str, int]:
    """What loading a null selector with everything zero means for one register."""
    return {f"{name}.{field}": value for field, value in NULL.items()}


def _cases(section: str, rows: list[tuple[str, dict[str, int], str, str]]) -> list[Case]:
    return [Case(base=base, changes=changes, rule=rule, field=field, section=section) for base, changes, rule, field in rows]


def has_feature(cpuid: list[tuple[int, int, int, int, int, int, int]], feature: str) -> bool:
    """Whether a CPUID table, as KVM_GET_SUPPORTED_CPUID gives it, has one of FEATURES."""
    leaf, register, bit = FEATURES[feature]
    return any(entry[:2] == (leaf, 0) and entry[register] >> bit & 1 for entry in cpuid)


# (state, change, rule, field), by the section that has the rule
REFUSED = [
    Case(
        base="protected",
        changes={"ss.dpl": 3},
        rule="cs.dpl",
        field="cs.dpl",
        section=SEGMENTS,
        bochs=ENTERED,
        because=RPL_FOR_DPL,
    ),
    *_cases(
        SEGMENTS,
        [
            ("long", null("tr"), "tr.present", "tr.present"),
            ("long", {"tr.present": 0}, "tr.present", "tr.present"),
            ("long", {"tr.unusable": 1}, "tr.present", "tr.present"),
            ("long", {"tr.type": 9}, "tr.type", "tr.type"),
            ("protected", {"tr.type": 9}, "tr.type", "tr.type"),
            ("real", {"tr.type": 9}, "tr.type", "tr.type"),
            ("long", {"tr.type": 3}, "tr.type", "tr.type"),
            ("long", {"tr.s": 1}, "tr.s", "tr.s"),
            ("long", {"tr.selector": 0x24}, "selector.ti", "tr.selector"),
            ("long", {"tr.limit": 0x10_0000}, "g.limit", "tr.limit"),
            ("long", {"tr.g": 1}, "g.limit", "tr.limit"),
            ("long", null("cs"), "cs.type", "cs.type"),
            ("protected", null("cs"), "cs.present", "cs.present"),
            ("protected", {"cs.present": 0}, "cs.present", "cs.present"),
            ("protected", {"cs.s": 0}, "cs.s", "cs.s"),
            ("protected", {"cs.type": 7}, "cs.type", "cs.type"),
            ("protected", {"cs.g": 0}, "g.limit", "cs.limit"),
            ("real", {"cs.g": 1, "cs.limit": 0xFF0F}, "g.limit", "cs.limit"),
            ("protected", {"cs.dpl": 3}, "cs.dpl", "cs.dpl"),
            ("protected", {"cs.type": 15, "cs.dpl": 1}, "cs.dpl", "cs.dpl"),
            ("real", {"cs.type": 3, "cs.dpl": 1}, "cs.dpl", "cs.dpl"),
            ("protected", {"ss.type": 1}, "ss.type", "ss.type"),
            ("protected", {"ss.type": 5}, "ss.type", "ss.type"),
            ("protected", {"ss.type": 11}, "ss.type", "ss.type"),
            ("protected", {"ss.s": 0}, "ss.s", "ss.s"),
            ("protected", {"ss.g": 0}, "g.limit", "ss.limit"),
            ("real", {"ss.dpl": 3}, "ss.dpl", "ss.dpl"),
            ("protected", {"ds.type": 9}, "data.type", "ds.type"),
            ("protected", {"gs.type": 13}, "data.type", "gs.type"),
            ("protected", {"es.s": 0}, "data.s", "es.s"),
            ("protected", {"fs.g": 0}, "g.limit", "fs.limit"),
            ("real", {"ldt.type": 11}, "ldt.type", "ldt.type"),
            ("real", {"ldt.s": 1}, "ldt.s", "ldt.s"),
            ("real", {"ldt.selector": 4}, "selector.ti", "ldt.selector"),
            ("real", {"ldt.limit": 0x12_3456}, "g.limit", "ldt.limit"),
            ("long", {"ds.base": 1 << 32}, "base.high", "ds.base"),
            ("long", {"ss.base": 1 << 32}, "base.high", "ss.base"),
            ("long", {"cs.base": 1 << 32}, "base.high", "cs.base"),
            ("long", {"fs.base": 1 << 47}, "base.canonical", "fs.base"),
            ("protected", {"gs.base": 1 << 47}, "base.canonical", "gs.base"),
            ("long", {"tr.base": 1 << 63}, "base.canonical", "tr.base"),
            ("real", {"ldt.base": 1 << 50}, "base.canonical", "ldt.base"),
            ("long", {"cs.db": 1}, "cs.db", "cs.db"),
            ("v86", {"ds.base": 0}, "v86.base", "ds.base"),
            ("v86", {"ss.limit": 0xFFFF_FFFF}, "v86.limit", "ss.limit"),
            ("v86", {"cs.type": 11}, "v86.access", "cs.type"),
            ("v86", {"es.dpl": 0}, "v86.access", "es.type"),
            ("v86", {"gs.present": 0}, "v86.access", "gs.type"),
            ("protected", {"rflags": 1 << 17 | 2}, "v86.limit", "cs.limit"),
        ],
    ),
    *_cases(
        TABLES,
        [
            ("long", {"gdt.base": 1 << 47}, "table.canonical", "gdt.base"),
            ("long", {"idt.base": 1 << 63}, "table.canonical", "idt.base"),
        ],
    ),
    Case(
        base="long",
        changes={"idt.limit": 0x1_0000},
        rule="table.limit",
        field="idt.limit",
        section=TABLES,
        bochs=ENTERED,
        because="struct kvm_dtable has 16 bits for a limit, so no hardware sees more; the rule keeps a state from being cut off in silence",
    ),
    *_cases(
        FLAGS,
        [
            ("protected", {"rflags": 1 << 3}, "rflags.reserved", "rflags"),
            ("protected", {"rflags": 1 << 5}, "rflags.reserved", "rflags"),
            ("protected", {"rflags": 1 << 15}, "rflags.reserved", "rflags"),
            ("protected", {"rflags": 1 << 22}, "rflags.reserved", "rflags"),
            ("long", {"rflags": 1 << 63}, "rflags.reserved", "rflags"),
            ("real", {"rflags": 1 << 17}, "rflags.vm", "rflags"),
            ("long", {"rflags": 1 << 17}, "rflags.vm", "rflags"),
            ("protected", {"rip": 1 << 32}, "rip.high", "rip"),
            ("long", {"cs.l": 0, "cs.db": 1, "rip": 1 << 32}, "rip.high", "rip"),
        ],
    ),
    *(
        Case(
            base="long",
            changes={"rip": rip},
            rule="rip.canonical",
            field="rip",
            section=FLAGS,
            bochs=SHUTDOWN,
            because="Bochs leaves out this check; the guest ends with a fault at its first fetch",
        )
        for rip in (1 << 48, 1 << 63)
    ),
    *_cases(
        CONTROL,
        [
            ("protected", {"cr4": 1 << 17}, "cr4.pcide", "cr4"),
            ("protected", {"cr3": 1 << 52}, "cr3.reserved", "cr3"),
            ("long", {"efer": 0x500 | 1 << 12}, "efer.reserved", "efer"),
            ("protected", {"efer": 1 << 40}, "efer.reserved", "efer"),
        ],
    ),
    *_cases(
        SET_SREGS,
        [
            ("real", {"cr0": 1 << 31}, "cr0.pg-pe", "cr0"),
            ("protected", {"cr0": 1 << 29 | 1}, "cr0.nw-cd", "cr0"),
            ("protected", {"cr0": 1 << 32 | 1}, "cr0.reserved", "cr0"),
            ("protected", {"cr4": 1 << 15}, "cr4.reserved", "cr4"),
            ("protected", {"cr4": 1 << 63}, "cr4.reserved", "cr4"),
            ("long", {"efer": 0x100}, "efer.lma", "efer"),
            ("protected", {"efer": 0x400}, "efer.lma", "efer"),
            ("long", {"efer": 0x400}, "efer.lma", "efer"),
            ("long", {"cr4": 0}, "cr4.pae", "cr4"),
            ("long", {"cr0": 1 | 1 << 4}, "efer.lma", "efer"),
            ("long", {"cr3": 1 << 52}, "cr3.reserved", "cr3"),
            ("protected", {"cs.l": 1, "cs.db": 0}, "cs.l", "cs.l"),
        ],
    ),
]

# What is no violation, although it may look like one: KVM repairs it, or the CPU does not mind.
ACCEPTED = [
    *(Case(base=base, changes={}) for base in STATES),
    *(
        Case(base=base, changes=changes)
        for base, changes in [
            ("long", null("ds")),
            ("protected", null("es")),
            ("protected", null("ss")),
            ("real", null("ldt")),
            ("long", {"ds.type": 2}),  # the accessed bit, which KVM sets
            ("long", {"cs.type": 10}),
            ("long", {"cs.unusable": 1}),  # nobody looks at this bit of CS
            ("protected", {"ss.type": 2}),
            ("protected", {"ss.type": 7}),  # expand-down
            ("protected", {"cs.type": 15, "ds.type": 11, "es.type": 1}),
            ("protected", {"tr.type": 3}),
            ("real", {"cs.type": 3}),
            ("real", {"cs.selector": 0x7C0, "cs.base": 0x7C00, "rip": 0}),
            ("protected", {"cs.dpl": 3, "ss.dpl": 3, "cs.selector": 0x13, "ss.selector": 0x1B, "rflags": 0x3002}),
            ("long", {"cs.l": 0, "cs.db": 1}),
            ("long", {"fs.base": 0xFFFF_8000_0000_0000, "rip": 0xFFFF_FFFF_8100_0000}),
            ("long", {"tr.unusable": 0, "ldt.present": 1, "ldt.unusable": 0, "ldt.type": 2}),
            ("protected", {"efer": 0x801}),
            ("protected", {"efer": 0x901}),
            ("protected", {"rflags": 0}),  # bit 1, which KVM sets
        ]
    ),
    Case(base="real", changes={"cs.selector": 0x7C3, "cs.base": 0x7C30}, bochs=FAIL_ENTRY, because=RPL_FOR_DPL),
    Case(base="long", changes={"rip": 1 << 47}, ends=SHUTDOWN),  # bits 63..48 are alike; the fetch raises #GP
    Case(base="long", changes={"cr4": 1 << 5 | 1 << 17}, feature="pcid"),
    Case(base="long", changes={"cr4": 1 << 5 | 1 << 12, "gs.base": 1 << 55}, feature="la57"),
]
