"""Waking from S3 (ACPI 6.5, 5.2.10 and 16.3.2)."""

from __future__ import annotations

import pytest

from pyvmm.boot import resume
from pyvmm.boot.acpi import FACS, FACS_WAKING_VECTOR, acpi_tables
from pyvmm.kvm.entry_rules import violations
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.support import images


def asleep(vector: int) -> GuestMemory:
    memory = GuestMemory(2 * MIB)
    memory.write(*acpi_tables(images.config("kernel")))
    memory.write(FACS + FACS_WAKING_VECTOR, vector.to_bytes(4, "little"))
    return memory


@pytest.mark.parametrize("vector", [0x1000, 0x9013, 0xF_FFFF])
def test_the_guest_goes_on_in_real_mode(vector: int) -> None:
    plan = resume.plan(asleep(vector))
    assert plan is not None and plan.writes == []
    state = plan.state
    assert (state.cs.selector, state.cs.base, state.rip) == (vector >> 4, vector & ~15, vector & 15)
    assert violations(state, state) == []


@pytest.mark.parametrize("vector", [0, MIB, 0xFFFF_FFFF])
def test_no_vector_that_real_mode_reaches_is_no_plan(vector: int) -> None:
    assert resume.plan(asleep(vector)) is None


def test_without_tables_nobody_looks_for_a_vector() -> None:
    memory = GuestMemory(2 * MIB)
    memory.write(FACS + FACS_WAKING_VECTOR, b"\x00\x10\0\0")
    assert resume.plan(memory) is None
