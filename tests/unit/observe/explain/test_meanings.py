"""No register without a word, no word without a register."""

from __future__ import annotations

import pytest

from pyvmm.devices.document import DEVICES as DOCUMENTED
from pyvmm.devices.e1000.stats import COUNTERS
from pyvmm.observe.explain.meanings import DEVICES, DOCUMENTS, MEANINGS, VALUES, meaning, value_meaning
from pyvmm.observe.explain.registers import table

TABLES = sorted({f"pyvmm.devices.{name}" for _, _, name in DOCUMENTED} | set(MEANINGS) - {"capability", "other"})


@pytest.mark.parametrize("name", TABLES)
def test_every_register_of_every_table_has_a_meaning(name: str) -> None:
    without = [each.name for each in table(name) if not meaning(name, each.name)]
    assert [each for each in without if each.rstrip("LH") not in {counter.rstrip("LH") for counter in COUNTERS}] == []


@pytest.mark.parametrize("name", sorted(set(MEANINGS) - {"capability", "other"}))
def test_every_meaning_has_a_register(name: str) -> None:
    assert set(MEANINGS[name]) <= {each.name.partition("[")[0] for each in table(name)}


def test_the_other_tables_name_tables_and_registers() -> None:
    assert set(DEVICES) | set(DOCUMENTS) <= set(TABLES)
    for name, register in VALUES:
        assert register in MEANINGS[name], (name, register)


def test_values() -> None:
    assert value_meaning("capability", "CAP_ID", 0x11) == "MSI-X"
    assert value_meaning("capability", "CAP_ID", 0x77) == ""
