"""Coalesced console output: the same bytes in the same order, for fewer exits; nothing lost however the guest ends.

What leaves KVM_RUN is counted by standing before the run loop's handlers.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import catalogue, events
from pyvmm.coalesce import STREAK, CoalescedSerial
from pyvmm.events import Access
from pyvmm.kvm import uapi
from pyvmm.machine import Machine
from tests.support import vm

pytestmark = pytest.mark.kvm

WHOLE = 1024  # lines of 64 bytes, which is what serial-poll prints: a minute on the nested host
LINES = WHOLE if os.environ.get("PYVMM_FULL") else 128  # the kernel's ring is full some forty times as well
SIZE = 64 * LINES
THR, LSR, IER, LCR = 0x3F8, 0x3FD, 0x3F9, 0x3FB


def out(port: int, value: int) -> bytes:
    """mov dx,port; mov al,value; out dx,al."""
    return b"\x66\xba" + port.to_bytes(2, "little") + b"\xb0" + bytes([value]) + b"\xee"


def burst(count: int, port: int = THR) -> bytes:
    """Writes al=0, 1, 2, ... ``count`` times: xor eax,eax; mov ecx,n; mov dx,port; [out dx,al; inc al; loop back]."""
    return b"\x31\xc0\xb9" + count.to_bytes(4, "little") + b"\x66\xba" + port.to_bytes(2, "little") + bytes.fromhex("ee fec0 e2fb")


def pattern(count: int) -> bytes:
    return bytes(at & 0xFF for at in range(count))


def polled(lines: int, fifo: int) -> bytes:
    """A driver that looks at LSR before every ``fifo`` bytes, as Linux does with the FIFO on: ``lines`` times."""
    # mov ebx,lines; [mov dx,LSR; in al,dx; test al,0x20; jz in; mov dx,THR; mov ecx,fifo; [out dx,al; loop out]; dec ebx; jnz]
    inner = bytes.fromhex("66bafd03 ec a820 74fb 66baf803 b9") + fifo.to_bytes(4, "little") + bytes.fromhex("ee e2fd 4b")
    return b"\xbb" + lines.to_bytes(4, "little") + inner + b"\x75" + bytes([0x100 - len(inner) - 2])


def count_exits(machine: Machine) -> Counter[str]:
    """Counts exits by what they are for, from now on."""
    counts: Counter[str] = Counter()
    for loop in machine.runloops:
        words, handle = loop.vcpu.words, loop.exits[uapi.KVM_EXIT_IO]

        def counting(words: memoryview = words, handle: Callable[[], None] = handle) -> None:
            direction, port = words[8] & 0xFF, words[8] >> 16
            counts[("out" if direction else "in") + f" {port:#x}"] += 1
            counts["all"] += 1
            handle()

        loop.exits[uapi.KVM_EXIT_IO] = counting
    return counts


def coalescer(machine: Machine) -> CoalescedSerial:
    """The machine's one CoalescedSerial."""
    assert machine.coalesced is not None
    (user,) = machine.coalesced.users
    assert isinstance(user, CoalescedSerial)
    return user


def outcome(code: bytes, path: Path, timeout: float = vm.TIMEOUT, **config: object) -> tuple[bytes, events.StopReason, Counter[str]]:
    with vm.flat(code, path, **config) as (machine, console):  # type: ignore[arg-type]
        counts = count_exits(machine)
        reason = machine.run(timeout)
        return bytes(console.output), reason, counts


# --- how many exits -----------------------------------------------------------------------------------------------------
def test_a_polled_byte_costs_one_exit_instead_of_two(tmp_path: Path) -> None:
    code = Path(catalogue.find("serial-poll").file).read_bytes()
    assert code.startswith(b"\xbb" + WHOLE.to_bytes(4, "little")), "mov ebx, the number of lines"
    code = b"\xbb" + LINES.to_bytes(4, "little") + code[5:]
    outputs = []
    for coalesce, per_byte in ((True, 1.05), (False, 2.01)):
        output, reason, counts = outcome(code, tmp_path, coalesce=coalesce, timeout=600)
        assert reason.kind == events.POWEROFF
        assert len(output) == SIZE
        outputs.append(output)
        figures = f"{counts['all'] / SIZE:.4f} exits per byte, coalesce={coalesce}: {counts}"
        print(figures)
        assert counts["all"] <= SIZE * per_byte, figures
        assert counts[f"in {LSR:#x}"] == SIZE, "every look at LSR is an exit"
    assert outputs[0] == outputs[1]


def test_with_the_fifo_on_a_byte_costs_a_sixteenth(tmp_path: Path) -> None:
    lines = 500
    code = out(THR + 2, 1) + polled(lines, 16) + vm.POWER_OFF
    outputs = []
    for coalesce, per_byte in ((True, 0.09), (False, 1.07)):
        output, reason, counts = outcome(code, tmp_path, coalesce=coalesce)
        assert reason.kind == events.POWEROFF and len(output) == 16 * lines
        outputs.append(output)
        figures = f"{counts['all'] / len(output):.4f} exits per byte, coalesce={coalesce}: {counts}"
        print(figures)
        assert counts["all"] <= len(output) * per_byte, figures
    assert outputs[0] == outputs[1]


def test_who_prints_little_never_pays(tmp_path: Path) -> None:
    code = burst(STREAK - 1) + out(0x80, 0) + out(THR + 7, 0) + burst(STREAK - 1) + vm.POWER_OFF
    with vm.flat(code, tmp_path) as (machine, console):
        counts = count_exits(machine)
        zone: list[bool] = []
        machine.vm.coalesce = lambda *_, **__: zone.append(True)  # type: ignore[method-assign]
        assert vm.run(machine).kind == events.POWEROFF
        assert not zone
        assert counts[f"out {THR:#x}"] == len(console.output) == 2 * (STREAK - 1)


def test_bytes_wait_for_each_other_but_not_for_a_guest_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polled bytes reach the console a ring at a time; who then polls for input has all of them out, timer or not."""
    monkeypatch.setattr("pyvmm.coalesce.TICK_NS", 3600 * 10**9)
    count = 2000
    code = polled(count, 1) + bytes.fromhex("66bafd03 ec a801 74fb") + vm.POWER_OFF  # until LSR.DR
    with vm.flat(code, tmp_path) as (machine, console), vm.running(machine):
        _wait(lambda: len(console.output) == count, "all bytes")
        assert coalescer(machine).batches <= count // 100


# --- order --------------------------------------------------------------------------------------------------------------
def test_no_device_sees_an_access_before_the_bytes_that_came_first(tmp_path: Path) -> None:
    code = b"".join(burst(100) + bytes.fromhex("66bafd03 ec") + out(0x80, turn) for turn in range(10)) + vm.POWER_OFF
    with vm.flat(code, tmp_path) as (machine, console):
        sent: list[int] = []
        machine.ports.tap(lambda access: sent.append(len(console.output)) if access.address in (LSR, 0x80) else None)
        vm.run(machine)
        assert coalescer(machine).batches > 0
        assert sent == [100 * turn for turn in range(1, 11) for _ in range(2)]
        assert console.output == pattern(100) * 10


def test_a_tap_sees_every_byte(tmp_path: Path) -> None:
    with vm.flat(burst(5000) + vm.POWER_OFF, tmp_path) as (machine, console):
        seen = bytearray()

        def listen(access: Access) -> None:
            if access.address == THR:
                seen.append(access.value)

        machine.ports.tap(listen)
        vm.run(machine)
        assert coalescer(machine).batches > 0
        assert seen == console.output == pattern(5000)


def test_two_ports_only_the_first_is_coalesced(tmp_path: Path) -> None:
    from pyvmm.config import SerialConfig

    code = burst(500) + burst(500, 0x2F8) + vm.POWER_OFF
    second = vm.Collector()
    image = tmp_path / "guest.bin"
    with vm.flat(code, tmp_path) as (first_machine, _):
        config = first_machine.config.replace(serials=(SerialConfig(kind="null"),) * 2)
    assert image.exists()
    first = vm.Collector()
    with Machine(config, [first, second]) as machine:
        counts = count_exits(machine)
        vm.run(machine)
        assert first.output == second.output == pattern(500)
        assert counts["out 0x2f8"] == 500 and counts[f"out {THR:#x}"] < 200


# --- nothing is lost ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [STREAK, STREAK + 1, 170, 171, 200, 1000])
@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (vm.POWER_OFF + vm.HANG, events.POWEROFF),
        (bytes.fromhex("b805000000 e7f4"), events.DEBUG_EXIT),
        (bytes.fromhex("0f011d00002000 0f0b"), events.CRASH),
        (vm.HANG, events.TIMEOUT),
        (vm.HALT, events.TIMEOUT),
    ],
    ids=["power-off", "debug exit", "triple fault", "spinning", "halted"],
)
def test_the_last_bytes_come_out(tmp_path: Path, end: bytes, kind: str, count: int) -> None:
    timeout = 0.3 if kind == events.TIMEOUT else vm.TIMEOUT
    output, reason, _ = outcome(burst(count) + end, tmp_path, timeout)
    assert reason.kind == kind
    assert output == pattern(count)


@pytest.mark.parametrize("end", [vm.HANG, vm.HALT], ids=["spinning", "halted"])
def test_bytes_come_out_while_the_guest_goes_on(tmp_path: Path, end: bytes) -> None:
    with vm.flat(burst(100) + end, tmp_path) as (machine, console), vm.running(machine):
        _wait(lambda: len(console.output) == 100, "all bytes")
        assert console.output == pattern(100)


def test_the_timer_stops_when_the_console_falls_silent_and_starts_again(tmp_path: Path) -> None:
    # burst; then wait for [0x200000] to become non-zero; then another burst
    code = burst(100) + bytes.fromhex("833d0000200000 74f7") + burst(100) + vm.HALT
    with vm.flat(code, tmp_path) as (machine, console), vm.running(machine):
        serial = coalescer(machine)
        _wait(lambda: len(console.output) == 100 and not serial.on, "the zone to go")
        assert serial._timer.due is None, "an idle console costs nothing"
        assert all(loop.drain is None for loop in machine.runloops)
        machine.memory.write(0x200000, b"\1")
        _wait(lambda: len(console.output) == 200, "the second burst")
        _wait(lambda: not serial.on and serial._timer.due is None, "the zone to go again")


# --- modes in which a write does more than print ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("switch", "back"),
    [
        (out(IER, 2), out(IER, 0)),  # THRI: every byte raises an interrupt
        (out(LCR, 0x83), out(LCR, 3)),  # DLAB: offset 0 is the divisor
        (out(0x3FC, 0x10), out(0x3FC, 0)),  # loopback: what is sent is received
    ],
    ids=["THRI", "DLAB", "loopback"],
)
def test_the_zone_goes_before_a_write_means_something_else(tmp_path: Path, switch: bytes, back: bytes) -> None:
    code = burst(200) + switch + out(THR, 0x42) + out(0x80, 1) + back + out(0x80, 2) + burst(200) + vm.POWER_OFF
    with vm.flat(code, tmp_path) as (machine, console):
        counts = count_exits(machine)
        serial, seen = coalescer(machine), {}

        def listen(access: Access) -> None:
            if access.address == 0x80:
                state = machine.devices["serial0"].state
                seen[access.value] = (serial.on, bytes(console.output), state.ier, state.divisor & 0xFF, list(state.rx))

        machine.ports.tap(listen)
        vm.run(machine)
        on, output, ier, divisor, received = seen[1]
        assert not on, "the zone was still there"
        if ier:
            assert output == pattern(200) + b"\x42"
        else:
            assert output == pattern(200)
            assert divisor == 0x42 or received == [0x42]
        assert console.output[len(seen[2][1]) :] == pattern(200)
        assert counts[f"out {THR:#x}"] < 300, "it was not coalesced again afterwards"


def test_interrupts_of_a_driver_that_transmits_by_interrupt(tmp_path: Path) -> None:
    """THRI on: each write to THR must make the interrupt pending at once, although the console was coalesced before."""
    # burst; IER=2; then 50 times: out THR,'i'; in IIR must say "THR empty" (2 of bits 3:0); count them in [0x200000]
    check = bytes.fromhex("66bafa03 ec 240f 3c02 7506 ff0500002000")
    code = burst(300) + out(IER, 2) + b"".join(out(THR, 0x69) + check for _ in range(50)) + out(IER, 0) + vm.POWER_OFF
    with vm.flat(code, tmp_path) as (machine, console):
        vm.run(machine)
        assert machine.memory.unpack("<I", 0x200000) == (50,)
        assert console.output == pattern(300) + b"i" * 50


def test_no_coalesce_means_none(tmp_path: Path) -> None:
    output, _, counts = outcome(burst(1000) + vm.POWER_OFF, tmp_path, coalesce=False)
    assert output == pattern(1000)
    assert counts[f"out {THR:#x}"] == 1000


def test_pause_keeps_the_output_coming_and_complete(tmp_path: Path) -> None:
    # endless: burst(256), over and over
    code = bytes.fromhex("31c0 66baf803 ee fec0 ebfb")
    with vm.flat(code, tmp_path) as (machine, console), vm.running(machine):
        serial = coalescer(machine)
        for _ in range(5):
            enough = len(console.output) + 1000
            _wait(lambda enough=enough: len(console.output) > enough, "output")  # type: ignore[misc]
            machine.pause()
            _wait(lambda: not serial.on, "the zone to go while paused")
            silent = len(console.output)
            machine.resume()
        assert len(console.output) >= silent
    assert console.output == pattern(len(console.output))


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + vm.TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)
