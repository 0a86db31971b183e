"""The keyboard controller with nothing plugged in. The Linux walk follows drivers/input/serio/i8042.c and libps2.c."""

from __future__ import annotations

import pytest

from pyvmm.devices.i8042 import I8042, I8042State
from pyvmm.events import RESET
from tests.support.fakes import FakeLine, StopSink


class Rig:
    def __init__(self) -> None:
        self.line = FakeLine()
        self.stop = StopSink()
        self.controller = I8042(self.line, self.stop)
        self.port64 = self.controller.command_port
        self.accesses = 0

    def status(self) -> int:
        self.accesses += 1
        return self.port64.read(0, 1)

    def data(self) -> int:
        self.accesses += 1
        return self.controller.read(0, 1)

    def command(self, command: int, *parameters: int) -> None:
        self.accesses += 1 + len(parameters)
        self.port64.write(0, 1, command)
        for value in parameters:
            self.controller.write(0, 1, value)

    def ask(self, command: int, *parameters: int) -> int:
        self.command(command, *parameters)
        assert self.status() & 0x01, f"command {command:#x} must be answered at once"
        return self.data()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_idle_status_is_not_ff_and_not_busy(rig: Rig) -> None:
    """memtest86+ takes bits 0 and 5 for a mouse event; reboot=k waits for bit 1; Linux warns of a keylock at bit 4 = 0."""
    assert rig.status() == 0x14


def test_self_test_and_interface_tests(rig: Rig) -> None:
    assert rig.ask(0xAA) == 0x55
    assert rig.ask(0xAB) == 0x00
    assert rig.ask(0xA9) not in (0x00, 0xFA, 0xFF), "Linux takes these for a mouse interface"
    assert not rig.status() & 0x01


def test_controller_memory_reads_back(rig: Rig) -> None:
    assert rig.ask(0x20) == 0x65
    rig.command(0x60, 0x30)
    assert rig.ask(0x20) == 0x30
    rig.command(0x7F, 0xA5)
    assert (rig.ask(0x3F), rig.ask(0x20)) == (0xA5, 0x30)


@pytest.mark.parametrize(("off", "on", "bit"), [(0xAD, 0xAE, 0x10), (0xA7, 0xA8, 0x20)])
def test_interfaces_switch_off_and_on_in_the_command_byte(rig: Rig, off: int, on: int, bit: int) -> None:
    rig.command(off)
    assert rig.ask(0x20) & bit
    rig.command(on)
    assert not rig.ask(0x20) & bit


@pytest.mark.parametrize("command", [0xF0, 0xFE, 0xFC])
def test_pulse_of_the_reset_line_resets(rig: Rig, command: int) -> None:
    rig.command(command)
    assert rig.stop.kinds == [RESET]


@pytest.mark.parametrize("command", [0xFF, 0xFD, 0xF1])
def test_pulse_of_other_lines_does_not(rig: Rig, command: int) -> None:
    rig.command(command)
    assert rig.stop.kinds == []


def test_output_port_bit_0_resets_and_bit_1_is_a20(rig: Rig) -> None:
    assert rig.ask(0xD0) & 0x03 == 0x03
    rig.command(0xD1, 0xDD)
    assert (rig.ask(0xD0) & 0x02, rig.stop.kinds) == (0, [])
    rig.command(0xD1, 0xDE)
    assert rig.stop.kinds == [RESET]
    assert rig.ask(0xD0) & 0x03 == 0x03, "the line lets go by itself"


def test_a_new_command_cancels_an_awaited_parameter(rig: Rig) -> None:
    rig.command(0xD1)
    assert rig.ask(0x20) == 0x65
    rig.controller.write(0, 1, 0x00)
    assert rig.stop.kinds == [], "that byte went to the keyboard"


def test_the_absent_keyboard_answers_resend_with_timeout_and_irq_1(rig: Rig) -> None:
    rig.controller.write(0, 1, 0xF2)
    assert rig.line.level == 1
    assert rig.status() & 0x61 == 0x41
    assert rig.data() == 0xFE
    assert (rig.line.level, rig.status() & 0x41) == (0, 0)


def test_each_answer_is_an_edge_even_when_the_last_was_not_read(rig: Rig) -> None:
    for edges in (1, 2, 3):
        rig.controller.write(0, 1, 0xED)
        assert rig.line.edges == edges


def test_the_absent_mouse_answers_without_irq_1(rig: Rig) -> None:
    rig.command(0xD4, 0xFF)
    assert (rig.status() & 0x61, rig.data(), rig.line.edges) == (0x61, 0xFE, 0)


def test_an_answer_does_not_inherit_the_flags_of_one_not_read(rig: Rig) -> None:
    rig.command(0xD4, 0xFF)
    rig.command(0xAA)
    assert rig.status() & 0x61 == 0x01


def test_d2_comes_back_as_if_typed(rig: Rig) -> None:
    assert rig.ask(0xD2, 0x1C) == 0x1C
    assert rig.line.edges == 1


def test_interrupt_enable_is_obeyed(rig: Rig) -> None:
    rig.command(0x60, 0x64)
    rig.controller.write(0, 1, 0xF2)
    assert rig.line.level == 0
    rig.command(0x60, 0x65)
    assert rig.line.level == 1


def test_linux_probe_finds_a_controller_without_mouse_and_gives_up_on_the_keyboard_quickly(rig: Rig) -> None:
    while rig.status() & 0x01:  # i8042_flush()
        rig.data()
    assert rig.ask(0xAA) == 0x55  # i8042_controller_selftest()
    ctr = rig.ask(0x20)  # i8042_controller_init(): twice the same
    assert rig.ask(0x20) == ctr
    assert rig.status() & 0x10, "keylock not active"
    rig.command(0x60, (ctr | 0x10) & ~0x01)
    # i8042_check_aux(): AUX_LOOP without the AUX bit fails at once, then the interface test says no
    rig.command(0xD3, 0x5A)
    status = rig.status()
    assert status & 0x01
    assert not status & 0x20
    answer = rig.ask(0xA9)
    assert answer
    assert answer not in (0xFA, 0xFF)
    # i8042_enable_kbd_port(), then atkbd asks: GETID, and when that fails SETLEDS; each twice
    rig.command(0x60, ctr & ~0x10 | 0x01)
    for asked in (0xF2, 0xF2, 0xED, 0xED):
        edges = rig.line.edges
        rig.controller.write(0, 1, asked)
        assert rig.line.edges == edges + 1, "the driver sleeps until this interrupt"
        assert rig.status() & 0x41 == 0x41
        assert rig.data() == 0xFE
    assert rig.accesses < 50
    assert rig.stop.kinds == []


def test_restored_and_reset_drive_the_line(rig: Rig) -> None:
    rig.controller.write(0, 1, 0xF2)
    other = Rig()
    other.controller.state = I8042State(**dict(rig.controller.state))
    other.controller.restored()
    assert other.line.level == 1
    other.controller.reset()
    assert (other.line.level, other.status()) == (0, 0x14)
