"""What the Intel suite makes of its host's output: nothing that is missing may look like a success."""

from __future__ import annotations

import pytest

from pyvmm.kvm.entry_rules import violations
from tests.nested.intel_checks import report, sweeps
from tests.nested.intel_checks.report import Check, Failed
from tests.nested.suite_intel import Tally
from tests.support.entry_cases import ENTERED


def closing(lines: list[str], status: int) -> list[str]:
    tally = Tally()
    for line in lines:
        tally.take(line)
    return list(tally.close(status))


@pytest.mark.parametrize(
    "lines, status, last",
    [
        (["planned 2", "ok a", "noise", "ok b"], 0, "2 passed, 0 failed"),
        (["planned 2", "ok a", "exception b: known"], 0, "2 passed, 0 failed"),
        (["planned 2", "ok a", "FAILED b: why"], 1, "1 passed, 1 failed"),
        (["planned 3", "ok a"], 125, "1 passed, 2 failed"),  # the host died
        (["planned 3", "ok a", "planned 3", "ok a", "ok b", "ok c"], 0, "3 passed, 0 failed"),  # and came up the second time
        (["planned 1", "ok a"], 125, "1 passed, 1 failed"),
        ([], 125, "0 passed, 1 failed"),
        (["planned 0"], 0, "0 passed, 1 failed"),  # no such check
    ],
)
def test_closing_line(lines: list[str], status: int, last: str) -> None:
    assert closing(lines, status)[-1] == last


def test_exceptions_and_failures_are_listed() -> None:
    assert closing(["planned 2", "exception a: known", "FAILED b: why"], 1)[1::2] == ["  a: known", "  b: why"]


def test_a_check_that_raises_anything_fails_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> str:
        raise Failed("so it is")

    def breaks() -> str:
        return str(1 // 0)

    checks = [Check(name="a", run=fails), Check(name="b", run=breaks), Check(name="c", run=str), Check(name="d", run=lambda: "why")]
    assert report.run(checks) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["planned 4", "FAILED a: so it is", "FAILED b: ZeroDivisionError: integer division or modulo by zero", "ok c"] + [
        "exception d: why"
    ]


def test_sweeps_hold_states_of_both_kinds() -> None:
    for make, base, name in ((sweeps.types, "real", "cs"), (sweeps.types, "long", "tr"), (sweeps.flags, "long", "ds")):
        states = [case.state() for case in make(base, name)]
        assert {bool(violations(state, state)) for state in states} == {True, False}
        assert ENTERED in {sweeps.expected(state)[0] for state in states}
