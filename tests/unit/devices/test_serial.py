"""The 16550A. Sections are those of the PC16550D data sheet; the Linux walks follow drivers/tty/serial/8250/8250_port.c."""

from __future__ import annotations

import pytest

from pyvmm.devices import serial as uart
from pyvmm.devices.serial import IER, IIR_FCR, LCR, LSR, MCR, MSR, RBR_THR, SCR, Serial, SerialState
from tests.support.fakes import ByteSink, FakeLine


class Rig:
    """A UART with its line and its far end; ``i`` and ``o`` as a driver spells them."""

    def __init__(self) -> None:
        self.line = FakeLine()
        self.sink = ByteSink()
        self.uart = Serial("serial0", self.line, self.sink)

    def i(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def o(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_table_i_reset_values(rig: Rig) -> None:
    assert [rig.i(offset) for offset in range(8)] == [0, 0, 0x01, 0, 0, 0x60, 0xB0, 0]


def test_polled_output_reaches_the_far_end_byte_by_byte(rig: Rig) -> None:
    for byte in b"ok\xff":
        rig.o(RBR_THR, byte)
        assert rig.i(LSR) == 0x60
    assert rig.sink.writes == [b"o", b"k", b"\xff"]
    assert rig.line.changes == []


def test_8_3_divisor_latch_hides_data_and_ier(rig: Rig) -> None:
    rig.o(LCR, 0x83)
    rig.o(0, 0x34)
    rig.o(1, 0x12)
    assert (rig.i(0), rig.i(1)) == (0x34, 0x12)
    rig.o(LCR, 0x03)
    assert (rig.i(1), rig.uart.state.divisor, rig.sink.data) == (0, 0x1234, b"")


def test_8_10_scratch_stores(rig: Rig) -> None:
    for value in (0x18, 0xAE, 0xA5, 0x5A):
        rig.o(SCR, value)
        assert rig.i(SCR) == value


@pytest.mark.parametrize(("offset", "mask"), [(IER, 0x0F), (LCR, 0xFF), (MCR, 0x1F), (SCR, 0xFF)])
def test_absent_bits_read_zero(rig: Rig, offset: int, mask: int) -> None:
    rig.o(offset, 0xFF)
    assert rig.i(offset) == mask


# --- 8.6 interrupts -----------------------------------------------------------------------------------------------------


def test_8_6_priorities_from_line_status_down_to_modem(rig: Rig) -> None:
    rig.o(IIR_FCR, 0x81)  # FIFO, trigger 8
    rig.o(IER, 0x0F)
    assert rig.uart.receive_break()
    rig.uart.receive(b"1234567")
    rig.uart.set_lines(0xA0)  # CTS goes away
    assert rig.i(IIR_FCR) == 0xC6
    assert rig.i(LSR) == 0x60 | 0x80 | 0x10 | 0x01
    assert rig.i(IIR_FCR) == 0xC4
    assert rig.i(RBR_THR) == 0
    assert rig.i(IIR_FCR) == 0xCC, "seven left, below the trigger: time-out"
    assert bytes(rig.i(RBR_THR) for _ in range(7)) == b"1234567"
    assert rig.i(IIR_FCR) == 0xC2
    assert rig.i(IIR_FCR) == 0xC0, "reading IIR took back THRE"
    assert rig.i(MSR) == 0xA1
    assert rig.i(IIR_FCR) == 0xC1
    assert rig.line.level == 0


def test_8_6_iir_read_leaves_thre_pending_while_something_else_is_reported(rig: Rig) -> None:
    rig.o(IER, 0x03)
    rig.uart.receive(b"x")
    assert rig.i(IIR_FCR) == 0x04
    assert rig.i(RBR_THR) == ord("x")
    assert rig.i(IIR_FCR) == 0x02


def test_8_7_enabling_thri_raises_it_again_and_again(rig: Rig) -> None:
    for expected_edges in (1, 2, 3):
        rig.o(IER, 0x02)
        assert rig.line.edges == expected_edges
        assert rig.i(IIR_FCR) == 0x02
        assert rig.line.level == 0
        rig.o(IER, 0x00)


def test_8_6_every_write_is_an_edge_for_a_guest_that_never_reads_iir(rig: Rig) -> None:
    rig.o(IER, 0x02)
    for edges, byte in enumerate(b"abc", start=2):
        rig.o(RBR_THR, byte)
        assert (rig.line.edges, rig.line.level) == (edges, 1)
    assert rig.sink.data == b"abc"


def test_having_once_read_iir_does_not_count_after_thri_was_switched_off(rig: Rig) -> None:
    rig.o(IER, 0x02)
    assert rig.i(IIR_FCR) == 0x02
    rig.o(IER, 0x00)
    rig.o(IER, 0x02)
    for edges, byte in enumerate(b"abc", start=3):
        rig.o(RBR_THR, byte)
        assert rig.line.edges == edges


def test_a_burst_is_one_edge_for_a_guest_that_acknowledges_by_iir(rig: Rig) -> None:
    rig.o(IER, 0x02)
    for burst in range(3):
        assert rig.i(IIR_FCR) == 0x02
        assert rig.line.level == 0
        for byte in b"0123456789abcdef":
            rig.o(RBR_THR, byte)
        assert (rig.line.edges, rig.line.level) == (2 + burst, 1)
    assert rig.sink.data == b"0123456789abcdef" * 3


def test_8_11_received_data_at_the_trigger_level_and_time_out_below(rig: Rig) -> None:
    rig.o(IIR_FCR, 0xC1)  # trigger 14
    rig.o(IER, 0x01)
    assert rig.uart.receive(b"k") == 1
    assert (rig.i(IIR_FCR), rig.line.level) == (0xCC, 1), "a keystroke does not wait"
    rig.uart.receive(b"x" * 13)
    assert rig.i(IIR_FCR) == 0xC4
    for _ in range(14):
        assert rig.line.level == 1
        rig.i(RBR_THR)
    assert (rig.line.level, rig.i(IIR_FCR)) == (0, 0xC1)


def test_8_11_time_out_comes_as_an_edge_for_each_character_left(rig: Rig) -> None:
    """A handler that takes one character for each interrupt must be called five times."""
    rig.o(IIR_FCR, 0xC1)
    rig.o(IER, 0x01)
    rig.uart.receive(b"hello")
    taken = b""
    for interrupt in range(1, 6):
        assert rig.line.edges == interrupt
        taken += bytes([rig.i(RBR_THR)])
    assert (taken, rig.line.edges, rig.line.level) == (b"hello", 5, 0)


# --- receiving ---------------------------------------------------------------------------------------------------------


def test_receive_takes_one_without_fifo_and_sixteen_with(rig: Rig) -> None:
    assert (rig.uart.room, rig.uart.receive(b"abc"), rig.uart.room) == (1, 1, 0)
    assert rig.i(LSR) & 1
    rig.o(IIR_FCR, 0x01)  # enabling the FIFO empties it (8.5)
    assert not rig.i(LSR) & 1
    assert (rig.uart.receive(bytes(range(20))), rig.uart.room, rig.uart.receive(b"x")) == (16, 0, 0)
    assert [rig.i(RBR_THR) for _ in range(17)] == [*range(16), 0]
    assert rig.i(LSR) == 0x60, "the host's data never overruns"


def test_on_room_comes_once_when_refused_data_could_be_taken(rig: Rig) -> None:
    pending = bytearray(b"0123456789abcdefghij")
    calls = []

    def feed() -> None:
        calls.append(len(pending))
        del pending[: rig.uart.receive(bytes(pending))]

    rig.uart.on_room = feed
    rig.o(IIR_FCR, 0x01)
    feed()
    got = bytes(rig.i(RBR_THR) for _ in range(20))
    assert got == b"0123456789abcdefghij"
    assert calls == [20, 4]


def test_on_room_comes_when_the_guest_clears_the_fifo(rig: Rig) -> None:
    calls: list[int] = []
    rig.uart.on_room = lambda: calls.append(rig.uart.room)
    rig.o(IIR_FCR, 0x01)
    rig.uart.receive(b"x" * 17)
    rig.o(IIR_FCR, 0x03)
    assert calls == [16]
    rig.o(IIR_FCR, 0x03)
    assert calls == [16], "asked once"


def test_8_4_errors_show_when_their_character_is_at_the_front(rig: Rig) -> None:
    rig.o(IIR_FCR, 0x01)
    rig.o(IER, 0x04)
    rig.uart.receive(b"a")
    rig.uart.receive_break()
    assert rig.i(LSR) == 0xE1, "an error somewhere in the FIFO, not yet at the front"
    assert rig.line.level == 0
    rig.i(RBR_THR)
    assert rig.line.level == 1
    assert rig.i(LSR) == 0xF1
    assert rig.i(LSR) == 0x61
    assert (rig.i(RBR_THR), rig.i(LSR), rig.line.level) == (0, 0x60, 0)


# --- 8.8 modem control, loopback ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mcr", "msr"), [(0x10, 0x00), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1A, 0x90), (0x1F, 0xF0)])
def test_8_8_loopback_turns_outputs_into_inputs(rig: Rig, mcr: int, msr: int) -> None:
    rig.o(MCR, mcr)
    assert rig.i(MSR) & 0xF0 == msr
    rig.o(MCR, 0x0B)
    assert rig.i(MSR) & 0xF0 == 0xB0


def test_8_8_loopback_keeps_characters_inside_and_overruns(rig: Rig) -> None:
    rig.o(IIR_FCR, 0x01)
    rig.o(MCR, 0x10)
    assert (rig.uart.room, rig.uart.receive(b"x")) == (0, 0), "the input pin is disconnected"
    for value in range(20):
        rig.o(RBR_THR, value)
    assert rig.i(LSR) == 0x63
    assert [rig.i(RBR_THR) for _ in range(16)] == list(range(16))
    assert (rig.i(LSR), rig.sink.data) == (0x60, b"")


def test_8_8_data_refused_in_loopback_is_asked_for_when_it_ends(rig: Rig) -> None:
    calls: list[int] = []
    rig.uart.on_room = lambda: calls.append(rig.uart.room)
    rig.o(MCR, 0x10)
    assert rig.uart.receive(b"x") == 0
    rig.o(MCR, 0x1F)
    assert calls == []
    rig.o(MCR, 0x0B)
    assert calls == [1]


def test_8_5_absent_fcr_bits_are_not_kept(rig: Rig) -> None:
    rig.o(IIR_FCR, 0xFF)
    assert (rig.uart.state.fcr, rig.i(IIR_FCR)) == (0xC9, 0xC1)


def test_8_4_overrun_without_fifo_keeps_the_newest(rig: Rig) -> None:
    rig.o(MCR, 0x10)
    rig.o(RBR_THR, 1)
    rig.o(RBR_THR, 2)
    assert (rig.i(LSR), rig.i(RBR_THR), rig.i(LSR)) == (0x63, 2, 0x60)


def test_8_1_break_control_has_no_effect_on_the_transmitter(rig: Rig) -> None:
    rig.o(LCR, 0x43)
    rig.o(RBR_THR, 0x41)
    assert (rig.i(LSR), rig.sink.data) == (0x60, b"A")


def test_8_9_deltas_latch_until_read_and_ring_only_at_its_end(rig: Rig) -> None:
    rig.o(IER, 0x08)
    rig.uart.set_lines(0xF0)  # RI begins: no TERI
    assert (rig.line.level, rig.i(MSR)) == (0, 0xF0)
    rig.uart.set_lines(0x00)
    assert (rig.line.level, rig.i(IIR_FCR)) == (1, 0x00)
    assert (rig.i(MSR), rig.i(MSR), rig.line.level) == (0x0F, 0x00, 0)


# --- Linux 8250 -----------------------------------------------------------------------------------------------------------


def linux_size_fifo(rig: Rig) -> int:
    old_lcr = rig.i(LCR)
    rig.o(LCR, 0)
    old_fcr, old_mcr = rig.i(IIR_FCR), rig.i(MCR)
    rig.o(IIR_FCR, 0x07)
    rig.o(MCR, 0x10)
    rig.o(LCR, 0x80)
    old = rig.i(0), rig.i(1)
    rig.o(0, 1)
    rig.o(1, 0)
    rig.o(LCR, 0x03)
    for count in range(256):
        rig.o(RBR_THR, count)
    found = 0
    while rig.i(LSR) & 1 and found < 256:
        rig.i(RBR_THR)
        found += 1
    rig.o(IIR_FCR, old_fcr)
    rig.o(MCR, old_mcr)
    rig.o(LCR, 0x80)
    rig.o(0, old[0])
    rig.o(1, old[1])
    rig.o(LCR, old_lcr)
    return found


def linux_autoconfig(rig: Rig) -> str:
    """What Linux would print after "is a"; the decisions of autoconfig() and autoconfig_16550a(), in its order."""
    rig.o(IER, 0)
    if rig.i(IER) & 0x0F:
        return "unknown"
    rig.o(IER, 0x0F)
    if rig.i(IER) & 0x0F != 0x0F:
        return "unknown"
    rig.o(IER, 0)
    save_mcr, save_lcr = rig.i(MCR), rig.i(LCR)
    rig.o(MCR, 0x1A)
    if rig.i(MSR) & 0xF0 != 0x90:
        return "no loopback"
    rig.o(MCR, save_mcr)
    rig.o(LCR, 0xBF)
    rig.o(IIR_FCR, 0)
    rig.o(LCR, 0)
    rig.o(IIR_FCR, 1)
    kind = {0: "8250", 1: "unknown", 2: "16550", 3: "16550A"}[rig.i(IIR_FCR) >> 6]
    if kind == "16550A":
        kind = linux_autoconfig_16550a(rig)
    rig.o(LCR, save_lcr)
    rig.o(MCR, save_mcr)
    for fcr in (1, 7, 0):
        rig.o(IIR_FCR, fcr)
    rig.i(RBR_THR)
    rig.o(IER, 0)
    return kind


def linux_autoconfig_16550a(rig: Rig) -> str:
    rig.o(LCR, 0x80)
    if rig.i(IIR_FCR) == 0:
        return "16650"
    rig.o(LCR, 0xBF)
    if rig.i(IIR_FCR) == 0:
        return "16650V2"
    rig.o(LCR, 0)
    mcr = rig.i(MCR)
    rig.o(LCR, 0xE0)
    if not (rig.i(IIR_FCR) ^ mcr) & 0x10:
        rig.o(LCR, 0)
        rig.o(MCR, mcr ^ 0x10)
        rig.o(LCR, 0xE0)
        excr1 = rig.i(IIR_FCR)
        rig.o(LCR, 0)
        rig.o(MCR, mcr)
        if (excr1 ^ mcr) & 0x10:  # it followed the LOOP bit
            return "NS16550A"
    rig.o(LCR, 0)
    rig.o(IIR_FCR, 0x21)
    status1 = rig.i(IIR_FCR) >> 5
    rig.o(IIR_FCR, 1)
    rig.o(LCR, 0x80)
    rig.o(IIR_FCR, 0x21)
    status2 = rig.i(IIR_FCR) >> 5
    rig.o(IIR_FCR, 1)
    rig.o(LCR, 0)
    if (status1, status2) == (6, 7):
        return "16750"
    ier = rig.i(IER)
    rig.o(IER, ier & ~0x40)
    if not rig.i(IER) & 0x40:
        rig.o(IER, ier | 0x40)
        if rig.i(IER) & 0x40:
            return "XScale"
    rig.o(IER, ier)
    return "U6 16550A" if linux_size_fifo(rig) == 64 else "16550A"


def linux_startup_bugs(rig: Rig) -> set[str]:
    """The tests of serial8250_do_startup(): which workarounds it would take."""
    bugs = set()
    rig.o(IIR_FCR, 1)
    rig.o(IIR_FCR, 7)
    rig.o(IIR_FCR, 0)
    for offset in (LSR, RBR_THR, IIR_FCR, MSR):
        rig.i(offset)
    if rig.i(LSR) == 0xFF:
        bugs.add("safety check engaged")
    assert rig.i(LSR) & 0x20
    iirs = []
    for _ in range(2):
        rig.o(IER, 0x02)
        iirs.append(rig.i(IIR_FCR))
        rig.o(IER, 0x00)
    if not iirs[0] & 1 and iirs[1] & 1:
        bugs.add("UART_BUG_THRE")
    rig.o(LCR, 0x03)
    rig.o(MCR, 0x0B)
    rig.o(IER, 0x02)
    lsr, iir = rig.i(LSR), rig.i(IIR_FCR)
    rig.o(IER, 0)
    if lsr & 0x40 and iir & 1:
        bugs.add("UART_BUG_TXEN")
    return bugs


def test_linux_autoconfig_finds_a_16550a_and_leaves_it_quiet(rig: Rig) -> None:
    assert linux_autoconfig(rig) == "16550A"
    assert linux_autoconfig(rig) == "16550A", "a second probe (console, then port) finds the same"
    assert (rig.i(IER), rig.i(LSR), rig.line.level, rig.sink.data) == (0, 0x60, 0, b"")
    assert rig.uart.state.divisor == 12


def test_linux_size_fifo_counts_sixteen(rig: Rig) -> None:
    assert linux_size_fifo(rig) == 16


def test_linux_startup_takes_no_workaround(rig: Rig) -> None:
    linux_autoconfig(rig)
    for _ in range(2):
        assert linux_startup_bugs(rig) == set()
    assert rig.line.level == 0


def test_linux_interrupt_driven_output_loses_nothing(rig: Rig) -> None:
    """Edge-triggered: the handler runs once for each rising edge, until IIR says nothing is pending."""
    text = bytes(range(32, 127)) * 3
    rig.o(IIR_FCR, 0x81)
    queue = bytearray(text)
    served = 0
    rig.o(IER, 0x07)  # start_tx
    while served < rig.line.edges:
        served = rig.line.edges
        while not rig.i(IIR_FCR) & 1:
            assert rig.i(LSR) & 0x20
            for byte in queue[:16]:
                rig.o(RBR_THR, byte)
            del queue[:16]
            if not queue:
                rig.o(IER, 0x05)
    assert rig.sink.data == text


# --- hints, batches, snapshots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "value"), [(IER, 0x02), (MCR, 0x10), (LCR, 0x80)])
def test_polled_is_the_condition_for_delaying_writes(rig: Rig, offset: int, value: int) -> None:
    assert rig.uart.polled
    rig.o(offset, value)
    assert not rig.uart.polled
    rig.o(offset, 0)
    assert rig.uart.polled


@pytest.mark.parametrize("setup", [[], [(LCR, 0x80)], [(MCR, 0x10)], [(MCR, 0x10), (IIR_FCR, 1)], [(IER, 2)], [(IER, 3), (MCR, 0x10)]])
@pytest.mark.parametrize("data", [b"", b"x", b"hello world, more than sixteen"])
def test_a_batch_is_the_writes_one_by_one(setup: list[tuple[int, int]], data: bytes) -> None:
    single, batch = Rig(), Rig()
    for rig in (single, batch):
        for offset, value in setup:
            rig.o(offset, value)
    for byte in data:
        single.o(RBR_THR, byte)
    batch.uart.write_thr_batch(data)
    assert batch.uart.state == single.uart.state
    assert batch.sink.data == single.sink.data
    assert batch.line.level == single.line.level
    assert (batch.line.edges > 1) == (single.line.edges > 1)


def test_restored_recomputes_line_trigger_and_polled(rig: Rig) -> None:
    rig.o(IIR_FCR, 0x81)
    rig.o(IER, 0x03)
    rig.uart.receive(b"abc")
    other = Rig()
    other.uart.state = SerialState(**dict(rig.uart.state))
    other.uart.restored()
    assert (other.line.level, other.uart.polled) == (1, False)
    assert other.i(IIR_FCR) == 0xCC, "three characters are below the restored trigger of 8"
    assert bytes(other.i(RBR_THR) for _ in range(3)) == b"abc"


def test_reset_lowers_the_line_and_empties_the_fifo(rig: Rig) -> None:
    rig.o(IER, 0x0F)
    rig.uart.receive(b"x")
    assert rig.line.level == 1
    rig.uart.reset()
    assert (rig.line.level, rig.uart.state) == (0, SerialState())


def test_wide_accesses_reach_the_addressed_register_alone(rig: Rig) -> None:
    rig.uart.write(SCR, 8, 0x1122334455667788)
    assert rig.uart.read(SCR, 8) == 0x88
    rig.uart.write(RBR_THR, 4, 0xAABBCC41)
    assert rig.sink.data == b"A"


def test_two_uarts_do_not_share_their_fifo() -> None:
    one, other = Rig(), Rig()
    one.uart.receive(b"x")
    assert other.uart.state.rx == []
    assert uart.FIFO_SIZE == 16


def test_refused_input_comes_into_a_restored_port(rig: Rig) -> None:
    rig.o(IIR_FCR, 0x01)
    empty = rig.uart.state.replace(rx=[])
    pending = bytearray(range(20))

    def feed() -> None:
        del pending[: rig.uart.receive(bytes(pending))]

    rig.uart.on_room = feed
    feed()
    assert len(pending) == 4
    rig.uart.state = empty
    rig.uart.restored()
    assert not pending
