"""debugcon and isa-debug-exit."""

from __future__ import annotations

import pytest

from pyvmm.devices.debug_ports import DebugCon, DebugExit
from pyvmm.events import DEBUG_EXIT
from tests.support.fakes import ByteSink, StopSink


def test_debugcon_outputs_and_says_it_is_there() -> None:
    sink = ByteSink()
    port = DebugCon(sink)
    for byte in b"Hi\xe9":
        port.write(0, 1, byte)
    assert sink.writes == [b"H", b"i", b"\xe9"]
    assert port.read(0, 1) == 0xE9, "SeaBIOS prints only where it reads this"


@pytest.mark.parametrize(
    ("size", "written", "value"), [(1, 0x1F0, 0xF0), (2, 0x12345, 0x2345), (4, 0x10, 0x10), (4, 0xFFFF_FFFF, 0xFFFF_FFFF)]
)
def test_debug_exit_hands_over_the_value_within_its_width(size: int, written: int, value: int) -> None:
    stop = StopSink()
    DebugExit(stop).write(0, size, written)
    assert [(reason.kind, reason.value) for reason in stop.reasons] == [(DEBUG_EXIT, value)]


def test_debug_exit_is_not_triggered_by_reading() -> None:
    stop = StopSink()
    assert DebugExit(stop).read(0, 4) == 0
    assert stop.reasons == []
