"""The small system ports."""

from __future__ import annotations

import pytest

from pyvmm.devices.system_ports import BochsShutdown, EmptyIde, KeyboardReset, PostPort, ResetControl, SystemPortA
from pyvmm.events import POWEROFF, RESET
from tests.support.fakes import StopSink


def test_port92_a20_reads_back_open() -> None:
    port = SystemPortA(StopSink())
    assert port.read(0, 1) == 0x02
    port.write(0, 1, 0x00)
    assert port.read(0, 1) == 0x00


def test_without_a_keyboard_controller_there_is_its_reset() -> None:
    """OVMF's warm reset is 0xFE; a status with time-out and parity bits has its keyboard driver give up at once."""
    stop = StopSink()
    port = KeyboardReset(stop)
    assert port.read(0, 1) & 0xC0 == 0xC0
    for value in (0xAA, 0x60, 0xD1, 0xFF, 0xED):
        port.write(0, 1, value)
    assert stop.kinds == []
    port.write(0, 1, 0xFE)
    assert stop.kinds == [RESET]


def test_an_ide_channel_with_nothing_on_it_is_not_busy() -> None:
    """A floating bus would read 0xff: busy."""
    channel = EmptyIde("ide0")
    channel.write(6, 1, 0xA0)
    channel.write(7, 1, 0xEC)
    channel.reset()
    assert [channel.read(offset, 1) for offset in range(8)] == [0] * 8 and channel.read(0, 4) == 0


def test_port92_resets_on_the_edge_of_bit_0_and_keeps_it() -> None:
    """kvm-unit-tests x86/init.c finds bit 0 still set after the reset it caused; only power-on clears it."""
    stop = StopSink()
    port = SystemPortA(stop)
    port.write(0, 1, 0x03)
    port.write(0, 1, 0x03)
    assert (stop.kinds, port.read(0, 1)) == ([RESET], 0x03)
    port.write(0, 1, 0x02)
    port.write(0, 1, 0x03)
    assert stop.kinds == [RESET, RESET]
    port.reset()
    assert port.read(0, 1) == 0x02


@pytest.mark.parametrize(
    ("writes", "detail"),
    [([0x02, 0x06], "hard"), ([0x0E], "hard"), ([0x00, 0x04], "soft"), ([0x02, 0x0A], None), ([0xF9], None)],
)
def test_cf9_resets_on_the_edge_of_bit_2(writes: list[int], detail: str | None) -> None:
    stop = StopSink()
    port = ResetControl(stop)
    for value in writes:
        port.write(0, 1, value)
        assert port.read(0, 1) == value & 0x0E
    assert [reason.detail.split()[0] for reason in stop.reasons] == ([detail] if detail else [])
    assert all(kind == RESET for kind in stop.kinds)


def test_cf9_needs_a_new_edge() -> None:
    stop = StopSink()
    port = ResetControl(stop)
    for value in (0x06, 0x06, 0x02, 0x06):
        port.write(0, 1, value)
    assert stop.kinds == [RESET, RESET]


def test_post_keeps_the_last_code() -> None:
    port = PostPort()
    port.write(0, 1, 0x55)
    port.write(0, 4, 0x1234)
    assert port.read(0, 1) == 0x34
    port.reset()
    assert port.read(0, 1) == 0


@pytest.mark.parametrize(
    ("text", "stops"),
    [(b"Shutdown", 1), (b"ShutdownShutdown", 2), (b"SShutdown", 1), (b"Shut down", 0), (b"ShutShutdown", 1), (b"shutdown", 0)],
)
def test_bochs_shutdown_string(text: bytes, stops: int) -> None:
    stop = StopSink()
    port = BochsShutdown(stop)
    for letter in text:
        port.write(0, 1, letter)
    assert stop.kinds == [POWEROFF] * stops
    assert port.read(0, 2) == 0xFFFF


def test_bochs_shutdown_reset_forgets_a_half_written_string() -> None:
    stop = StopSink()
    port = BochsShutdown(stop)
    for letter in b"Shut":
        port.write(0, 1, letter)
    port.reset()
    for letter in b"down":
        port.write(0, 1, letter)
    assert stop.kinds == []
