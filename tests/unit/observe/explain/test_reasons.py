"""Every exit there is has words; what the header does not know yet is named as such."""

from __future__ import annotations

import pytest

from pyvmm import exits
from pyvmm.exits import Exit, exit_name
from pyvmm.kvm import uapi
from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.reasons import MSR_WHY, REASONS, SUBERROR_WHY, msr_name, reason
from tests.support.exit_pages import page

KNOWN = sorted({*uapi.EXIT_NAMES, *exits._OTHER_NAMES})


def test_every_exit_of_the_header_has_an_entry() -> None:
    assert set(REASONS) >= set(KNOWN)


@pytest.mark.parametrize("number", KNOWN)
def test_each_says_everything(number: int) -> None:
    told = explain(exits.decode(memoryview(page(number))))
    assert told.saw and told.why and told.reentry and told.section and told.title, told
    assert "{" not in told.saw and told.saw[-1] == "."
    assert f"{number} ({exit_name(number)})" in [member.value for member in told.members]


@pytest.mark.parametrize("number", [99, 0xFFFF_FFFF])
def test_an_unknown_number_is_named(number: int) -> None:
    told = explain(exits.decode(memoryview(page(number))))
    assert f"Exit reason {number}, a number this pyvmm does not know" in told.saw
    assert f"KVM_EXIT_? ({number})" in told.title


def test_members_belong_to_exits_with_fields() -> None:
    assert {number for number in KNOWN if reason(number).member} >= set(exits.LAYOUTS)


def test_suberrors_and_msr_reasons() -> None:
    for number in SUBERROR_WHY:
        made = Exit(name="", number=uapi.KVM_EXIT_INTERNAL_ERROR, fields={"suberror": number, "ndata": 0, "data": ()})
        assert explain(made).why == SUBERROR_WHY[number]
    unknown = Exit(name="", number=uapi.KVM_EXIT_INTERNAL_ERROR, fields={"suberror": 77, "ndata": 0, "data": ()})
    assert explain(unknown).why == "Suberror 77, which this pyvmm does not know."
    for number in MSR_WHY:
        fields = {"error": 0, "reason": number, "index": 0xC000_0080, "value": 5}
        told = explain(Exit(name="", number=uapi.KVM_EXIT_X86_WRMSR, fields=fields))
        assert told.why == MSR_WHY[number]
        assert told.title == "vCPU 0 wrote 0x5 to IA32_EFER (0xc0000080)"


def test_msr_names() -> None:
    assert msr_name(0x10) == "IA32_TIME_STAMP_COUNTER (0x10)"
    assert msr_name(0x1234) == "MSR 0x1234"
