"""What PCs usually have."""

from __future__ import annotations

from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.legacy import _MEMORY, _PORTS, usual
from tests.support.exit_pages import BOARD, io, mmio


def test_ranges_ascend() -> None:
    for table in (_PORTS, _MEMORY):
        assert [each[0] for each in table] == sorted({each[0] for each in table})
        assert all(length > 0 for _, length, _ in table)


def test_usual() -> None:
    assert usual("pio", 0x3D4) == "a display adapter: MDA, EGA or VGA"
    assert usual("mmio", 0xFED0_00F0) == "the high precision event timer (HPET)"
    assert usual("mmio", 0x3D4) == ""


def test_it_is_told_of_what_nobody_claims() -> None:
    assert explain(io(0x3D4, b"\x0e"), BOARD).why.endswith("Many PCs have a display adapter: MDA, EGA or VGA there.")
    assert explain(mmio(0xF800_0000), BOARD).why.endswith("as on a PC where no card decodes it.")


def test_narrow_accesses_to_the_configuration_address() -> None:
    told = explain(io(0xCFB, b"\1"), BOARD)
    assert told.title == "vCPU 0 wrote 0x01 to pci +0x3"
    assert told.access is not None and told.access.where == "no configuration cycle: only doublewords are"
