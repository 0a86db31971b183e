"""Every rule fires on the smallest change that breaks it, names the field and the section; valid states pass."""

from __future__ import annotations

import pytest

from pyvmm.boot import cpu
from pyvmm.kvm import structs
from pyvmm.kvm.entry_rules import violations


def real():
    return cpu.real_mode(0x7C00)


def protected():
    return cpu.protected_mode(0x10_0000)


def long():
    return cpu.long_mode(0x10_0000)


def v86():
    """Virtual-8086 mode: DPL 3 data segments everywhere, limits 0xffff (SDM Vol. 3C, 26.3.1.2)."""
    state = protected()
    state.rflags |= 1 << 17
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        setattr(state, name, cpu.Segment(selector=0x100, base=0x1000, limit=0xFFFF, type=3, present=1, s=1, dpl=3))
    return state


def changed(state, changes):
    for name, value in changes.items():
        where, _, field = name.partition(".")
        if field:
            setattr(getattr(state, where), field, value)
        else:
            setattr(state, where, value)
    return violations(state, state)


def pvh():
    return cpu.protected_mode(0x1000, tss=0)


@pytest.mark.parametrize("make", [real, protected, long, v86, pvh])
def test_valid_states_pass(make):
    state = make()
    assert violations(state, state) == []


NULL = {"type": 0, "present": 0, "s": 0, "base": 0, "limit": 0, "selector": 0, "dpl": 0, "g": 0, "db": 0, "l": 0}


def null(name):
    return {f"{name}.{field}": value for field, value in NULL.items()}


# (state, changes, rule, field, section): the list of what Intel and KVM_SET_SREGS refuse, measured on stock kvm_intel
REFUSED = [
    (long, null("tr"), "tr.present", "tr.present", "26.3.1.2"),
    (long, {"tr.unusable": 1}, "tr.present", "tr.present", "26.3.1.2"),
    (long, {"tr.type": 9}, "tr.type", "tr.type", "26.3.1.2"),
    (protected, {"tr.type": 9}, "tr.type", "tr.type", "26.3.1.2"),
    (real, {"tr.type": 9}, "tr.type", "tr.type", "26.3.1.2"),
    (long, {"tr.s": 1}, "tr.s", "tr.s", "26.3.1.2"),
    (long, {"tr.selector": 0x24}, "selector.ti", "tr.selector", "26.3.1.2"),
    (long, {"tr.limit": 0x10_0000}, "g.limit", "tr.limit", "26.3.1.2"),
    (long, {"tr.g": 1}, "g.limit", "tr.limit", "26.3.1.2"),
    (long, {"tr.type": 3}, "tr.type", "tr.type", "26.3.1.2"),
    (long, null("cs"), "cs.type", "cs.type", "26.3.1.2"),
    (protected, null("cs"), "cs.present", "cs.present", "26.3.1.2"),
    (protected, {"cs.present": 0}, "cs.present", "cs.present", "26.3.1.2"),
    (protected, {"cs.s": 0}, "cs.s", "cs.s", "26.3.1.2"),
    (protected, {"cs.type": 7}, "cs.type", "cs.type", "26.3.1.2"),
    (protected, {"cs.g": 0}, "g.limit", "cs.limit", "26.3.1.2"),
    (real, {"cs.g": 1, "cs.limit": 0xFF0F}, "g.limit", "cs.limit", "26.3.1.2"),
    (protected, {"cs.dpl": 3}, "cs.dpl", "cs.dpl", "26.3.1.2"),
    (protected, {"ss.dpl": 3}, "cs.dpl", "cs.dpl", "26.3.1.2"),
    (protected, {"cs.type": 15, "cs.dpl": 1}, "cs.dpl", "cs.dpl", "26.3.1.2"),
    (real, {"cs.type": 3, "cs.dpl": 1}, "cs.dpl", "cs.dpl", "26.3.1.2"),
    (protected, {"ss.type": 1}, "ss.type", "ss.type", "26.3.1.2"),
    (protected, {"ss.type": 5}, "ss.type", "ss.type", "26.3.1.2"),
    (protected, {"ss.type": 11}, "ss.type", "ss.type", "26.3.1.2"),
    (protected, {"ss.s": 0}, "ss.s", "ss.s", "26.3.1.2"),
    (protected, {"ss.g": 0}, "g.limit", "ss.limit", "26.3.1.2"),
    (real, {"ss.dpl": 3}, "ss.dpl", "ss.dpl", "26.3.1.2"),
    (protected, {"ds.type": 9}, "data.type", "ds.type", "26.3.1.2"),
    (protected, {"gs.type": 13}, "data.type", "gs.type", "26.3.1.2"),
    (protected, {"es.s": 0}, "data.s", "es.s", "26.3.1.2"),
    (protected, {"fs.g": 0}, "g.limit", "fs.limit", "26.3.1.2"),
    (real, {"ldt.type": 11}, "ldt.type", "ldt.type", "26.3.1.2"),
    (real, {"ldt.s": 1}, "ldt.s", "ldt.s", "26.3.1.2"),
    (real, {"ldt.selector": 4}, "selector.ti", "ldt.selector", "26.3.1.2"),
    (real, {"ldt.limit": 0x12_3456}, "g.limit", "ldt.limit", "26.3.1.2"),
    (long, {"ds.base": 1 << 32}, "base.high", "ds.base", "26.3.1.2"),
    (long, {"cs.base": 1 << 32}, "base.high", "cs.base", "26.3.1.2"),
    (long, {"fs.base": 1 << 47}, "base.canonical", "fs.base", "26.3.1.2"),
    (long, {"tr.base": 1 << 63}, "base.canonical", "tr.base", "26.3.1.2"),
    (real, {"ldt.base": 1 << 50}, "base.canonical", "ldt.base", "26.3.1.2"),
    (long, {"cs.db": 1}, "cs.db", "cs.db", "26.3.1.2"),
    (v86, {"ds.base": 0}, "v86.base", "ds.base", "26.3.1.2"),
    (v86, {"ss.limit": 0xFFFF_FFFF}, "v86.limit", "ss.limit", "26.3.1.2"),
    (v86, {"cs.type": 11}, "v86.access", "cs.type", "26.3.1.2"),
    (v86, {"gs.present": 0}, "v86.access", "gs.type", "26.3.1.2"),
    (protected, {"rflags": 1 << 17 | 2}, "v86.limit", "cs.limit", "26.3.1.2"),
    (long, {"gdt.base": 1 << 47}, "table.canonical", "gdt.base", "26.3.1.3"),
    (long, {"idt.base": 1 << 63}, "table.canonical", "idt.base", "26.3.1.3"),
    (long, {"idt.limit": 0x1_0000}, "table.limit", "idt.limit", "26.3.1.3"),
    (protected, {"rflags": 1 << 3}, "rflags.reserved", "rflags", "26.3.1.4"),
    (protected, {"rflags": 1 << 5}, "rflags.reserved", "rflags", "26.3.1.4"),
    (protected, {"rflags": 1 << 15}, "rflags.reserved", "rflags", "26.3.1.4"),
    (protected, {"rflags": 1 << 22}, "rflags.reserved", "rflags", "26.3.1.4"),
    (long, {"rflags": 1 << 63}, "rflags.reserved", "rflags", "26.3.1.4"),
    (real, {"rflags": 1 << 17}, "rflags.vm", "rflags", "26.3.1.4"),
    (long, {"rflags": 1 << 17}, "rflags.vm", "rflags", "26.3.1.4"),
    (protected, {"rip": 1 << 32}, "rip.high", "rip", "26.3.1.4"),
    (long, {"cs.l": 0, "cs.db": 1, "rip": 1 << 32}, "rip.high", "rip", "26.3.1.4"),
    (long, {"rip": 1 << 47}, "rip.canonical", "rip", "26.3.1.4"),
    (protected, {"cr4": 1 << 17}, "cr4.pcide", "cr4", "26.3.1.1"),
    (long, {"cr3": 1 << 52}, "cr3.reserved", "cr3", "26.3.1.1"),
    (long, {"efer": 0x500 | 1 << 12}, "efer.reserved", "efer", "26.3.1.1"),
    (protected, {"efer": 1 << 40}, "efer.reserved", "efer", "26.3.1.1"),
    (real, {"cr0": 1 << 31}, "cr0.pg-pe", "cr0", "KVM_SET_SREGS"),
    (protected, {"cr0": 1 << 29 | 1}, "cr0.nw-cd", "cr0", "KVM_SET_SREGS"),
    (protected, {"cr0": 1 << 32 | 1}, "cr0.reserved", "cr0", "KVM_SET_SREGS"),
    (protected, {"cr4": 1 << 15}, "cr4.reserved", "cr4", "KVM_SET_SREGS"),
    (protected, {"cr4": 1 << 63}, "cr4.reserved", "cr4", "KVM_SET_SREGS"),
    (long, {"efer": 0x100}, "efer.lma", "efer", "KVM_SET_SREGS"),
    (protected, {"efer": 0x400}, "efer.lma", "efer", "KVM_SET_SREGS"),
    (long, {"efer": 0x400}, "efer.lma", "efer", "KVM_SET_SREGS"),
    (long, {"cr4": 0}, "cr4.pae", "cr4", "KVM_SET_SREGS"),
    (long, {"cr0": 1 | 1 << 4}, "efer.lma", "efer", "KVM_SET_SREGS"),
    (protected, {"cs.l": 1, "cs.db": 0}, "cs.l", "cs.l", "KVM_SET_SREGS"),
]


@pytest.mark.parametrize("make, changes, rule, field, section", REFUSED)
def test_a_rule_fires_on_the_change_that_breaks_it(make, changes, rule, field, section):
    found = changed(make(), changes)
    assert (rule, field, section) in [(one.rule, one.field, one.section) for one in found]
    assert all("\n" not in one.text and one.text for one in found)


ACCEPTED = [
    (long, null("ds")),
    (protected, null("es")),
    (protected, null("ss")),
    (real, null("ldt")),
    (long, {"ds.type": 2}),
    (long, {"cs.type": 10}),
    (protected, {"ss.type": 2}),
    (protected, {"ss.type": 7}),
    (protected, {"cs.type": 15, "ds.type": 11, "es.type": 1}),
    (protected, {"tr.type": 3}),
    (real, {"cs.type": 3}),
    (real, {"cs.selector": 0x7C3, "cs.base": 0x7C30}),
    (protected, {"cs.dpl": 3, "ss.dpl": 3, "cs.selector": 0x13, "ss.selector": 0x1B}),
    (long, {"cs.l": 0, "cs.db": 1}),
    (long, {"cr4": 1 << 5 | 1 << 17}),
    (long, {"fs.base": 0xFFFF_8000_0000_0000, "rip": 0xFFFF_FFFF_8100_0000}),
    (long, {"cr4": 1 << 5 | 1 << 12, "gs.base": 1 << 55}),
    (long, {"tr.unusable": 0, "ldt.present": 1, "ldt.unusable": 0, "ldt.type": 2}),
    (protected, {"efer": 0x801}),
    (protected, {"efer": 0x901}),
    (protected, {"rflags": 0}),
]


@pytest.mark.parametrize("make, changes", ACCEPTED)
def test_what_kvm_and_the_cpu_take_is_no_violation(make, changes):
    assert changed(make(), changes) == []


def test_one_change_breaks_no_unrelated_rule():
    assert [one.rule for one in changed(long(), {"tr.s": 1})] == ["tr.s"]


def test_the_physical_address_width_is_the_callers():
    state = long()
    state.cr3 = 1 << 39
    assert violations(state, state) == []
    assert [one.rule for one in violations(state, state, physical_bits=39)] == ["cr3.reserved"]


def test_it_works_on_kvms_own_structures():
    sregs, regs, state = structs.kvm_sregs(), structs.kvm_regs(), long()
    assert violations(sregs, regs) != []  # all zero: no TR, no CS
    for name, value in state:
        if isinstance(value, cpu.Segment | cpu.Table):
            for field, number in value:
                setattr(getattr(sregs, name), field, number)
        else:
            setattr(regs if hasattr(regs, name) else sregs, name, value)
    assert violations(sregs, regs) == []
    sregs.tr.type = 9
    assert [one.field for one in violations(sregs, regs)] == ["tr.type"]
