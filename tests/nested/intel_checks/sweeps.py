"""Validator and hardware side by side: every type and every flag of every segment register, one at a time.

The case table shows that each rule is real. This shows that none is missing and none is too strict: for some hundred
states, most of which nobody has thought about, the validator must say what the hardware does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pyvmm.boot.cpu import CpuState
from pyvmm.kvm.entry_rules import SET_SREGS, violations
from tests.nested.intel_checks.report import Check, Failed
from tests.nested.intel_checks.states import Bench
from tests.support.entry_cases import EINVAL, ENTERED, FAIL_ENTRY, RPL_FOR_DPL, STATES, Case

FLAGS = ("present", "db", "s", "l", "g", "avl", "unusable")


def types(base: str, name: str) -> list[Case]:
    """All sixteen types of a segment register."""
    return [Case(base=base, changes={f"{name}.type": number}) for number in range(16)]


def flags(base: str, name: str) -> list[Case]:
    """Each flag the other way round, the other privilege levels, RPL and TI of the selector."""
    segment = getattr(STATES[base](), name)
    changes = [{f"{name}.{flag}": 1 - getattr(segment, flag)} for flag in FLAGS]
    changes += [{f"{name}.dpl": level} for level in (1, 2, 3)]
    changes += [{f"{name}.selector": segment.selector ^ bits} for bits in (3, 4)]
    return [Case(base=base, changes=change) for change in changes]


def expected(state: CpuState) -> tuple[str, str]:
    """How a state ends according to the validator, and how it ends on Bochs."""
    broken = violations(state, state)
    outcome = ENTERED
    if broken:
        outcome = EINVAL if any(one.section == SET_SREGS for one in broken) else FAIL_ENTRY
    # RPL_FOR_DPL, which decides where no other rule is broken
    if {one.rule for one in broken} <= {"cs.dpl"} and state.cs.type & 8 and state.cs.s:
        rpl, dpl = state.cs.selector & 3, state.cs.dpl
        refuses = rpl < dpl if state.cs.type & 4 else rpl != dpl
        return outcome, FAIL_ENTRY if refuses else ENTERED
    return outcome, outcome


def run(bench: Callable[[], Bench], cases: list[Case]) -> str:
    """All states on one vCPU, one after the other."""
    wrong, exceptions = [], []
    board = bench()
    with board.vcpu() as vcpu:
        for case in cases:
            found = board.outcome(vcpu, case)
            if found == ENTERED:
                vcpu.settle()  # else the OUT would be skipped in the next state
            by_validator, by_bochs = expected(case.state())
            if found != by_bochs:
                wrong.append(f"{case.name()}: {found}, not {by_bochs}")
            elif by_validator != by_bochs:
                exceptions.append(f"{case.name()}: {found}")
    if wrong:
        raise Failed("; ".join(wrong))
    return f"{'; '.join(exceptions)}: {RPL_FOR_DPL}" if exceptions else ""


def checks(bench: Callable[[], Bench]) -> list[Check]:
    """Types where they matter, flags of every register; real and long mode differ most."""
    sweeps = [("types", types, base, name) for base in ("real", "protected", "long") for name in ("cs", "ss", "ds", "tr")]
    sweeps.append(("types", types, "real", "ldt"))  # where it is usable
    sweeps += [("flags", flags, base, name) for base in ("real", "long") for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")]
    return [Check(name=f"sweep {base} {name}, {what}", run=partial(run, bench, make(base, name))) for what, make, base, name in sweeps]
