"""Every rule fires on the smallest change that breaks it, names the field and the section; valid states pass."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from pyvmm.boot import cpu
from pyvmm.kvm import entry_rules, structs
from pyvmm.kvm.entry_rules import violations
from tests.support.entry_cases import ACCEPTED, REFUSED, Case, long


@pytest.mark.parametrize("case", REFUSED, ids=Case.name)
def test_a_rule_fires_on_the_change_that_breaks_it(case: Case) -> None:
    state = case.state()
    found = violations(state, state)
    assert (case.rule, case.field, case.section) in [(one.rule, one.field, one.section) for one in found]
    assert all("\n" not in one.text and one.text for one in found)


@pytest.mark.parametrize("case", ACCEPTED, ids=Case.name)
def test_what_kvm_and_the_cpu_take_is_no_violation(case: Case) -> None:
    state = case.state()
    assert violations(state, state) == []


def test_every_rule_has_a_case() -> None:
    """So that the Intel suite, which goes through the same table, shows each of them to be real."""
    constants = [node.value for node in ast.walk(ast.parse(inspect.getsource(entry_rules))) if isinstance(node, ast.Constant)]
    named = {value for value in constants if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9]*\.[a-z-]+", value)}
    assert named == {case.rule for case in REFUSED}


def test_hardware_that_can_be_had_shows_all_rules_but_two() -> None:
    shown = {case.rule for case in REFUSED if not case.bochs}
    assert {case.rule for case in REFUSED} - shown == {"table.limit", "rip.canonical"}


def test_an_exception_says_why() -> None:
    assert all(bool(case.bochs) == bool(case.because) and case.bochs != case.expected() for case in (*REFUSED, *ACCEPTED))


def test_one_change_breaks_no_unrelated_rule() -> None:
    state = long()
    state.tr.s = 1
    assert [one.rule for one in violations(state, state)] == ["tr.s"]


def test_the_physical_address_width_is_the_callers() -> None:
    state = long()
    state.cr3 = 1 << 39
    assert violations(state, state) == []
    assert [one.rule for one in violations(state, state, physical_bits=39)] == ["cr3.reserved"]


def test_it_works_on_kvms_own_structures() -> None:
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
