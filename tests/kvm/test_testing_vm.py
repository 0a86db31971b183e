"""Guests of the pytest plugin: their life on threads of this process, and that nothing of them stays."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm import catalogue
from pyvmm.errors import ConfigError, HostError, ImageError, PyvmmError
from pyvmm.testing.factory import Factory
from pyvmm.testing.serial import GuestEnded, GuestTimeout
from pyvmm.testing.vm import Vm
from tests.support import vm as tiny

pytestmark = pytest.mark.kvm

RESET = bytes.fromhex("b0fe e664")  # mov al, 0xfe; out 0x64, al
CRASH = bytes.fromhex("0f0b")  # ud2, without an IDT
COUNT = bytes.fromhex("ff0500002000 ebf8")  # inc dword [0x200000]; again
CYCLES = int(os.environ.get("PYVMM_CYCLES", "20"))
Make = Callable[..., Vm]


def say(text: bytes) -> bytes:
    return b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in text)


@pytest.fixture
def flat(tmp_path: Path) -> Iterator[Make]:
    """Starts 32-bit machine code; closes it."""
    vms: list[Vm] = []

    def make(code: bytes, *words: str, **options: object) -> Vm:
        image = tmp_path / f"guest{len(vms)}.bin"
        image.write_bytes(code + tiny.HANG)
        device = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4")
        vms.append(Vm([str(image), "-format", "flat32", "-m", "16M", *device, *words], image.name, **options))  # type: ignore[arg-type]
        return vms[-1]

    yield make
    for vm in vms:
        vm.close()


# --- what a test sees ----------------------------------------------------------------------------------------------------
def test_console_both_ways(guest: Factory) -> None:
    vm = guest("echo")
    vm.serial.expect("type")
    vm.serial.send("hello\n")
    assert vm.serial.expect(rb"h(e)llo")[1] == b"e"
    vm.serial.send(b"q")
    assert (vm.wait(), vm.exit_status) == (0, 0)
    assert vm.serial.text.startswith("echo: type")
    with pytest.raises(GuestEnded, match=r"status 0 \(poweroff"):
        vm.serial.send("more")
    with pytest.raises(GuestEnded, match="before b'never' came"):
        vm.serial.expect("never")


def test_what_is_typed_at_once_waits_for_the_guest(guest: Factory) -> None:
    vm = guest("echo")
    vm.serial.send("x" * 300 + "q")
    assert vm.wait() == 0
    assert vm.serial.output.count(b"x") >= 300


def test_exits_are_counted_by_what_they_are(flat: Make) -> None:
    vm = flat(say(b"abc") + bytes.fromhex("a1000000d0 a3040000d0 a3040000d0 e680 e461") + tiny.POWER_OFF, "-machine", "pit=off")
    assert vm.wait() == 0
    assert vm.exits.count("io", port=0x3F8) == 3
    assert vm.exits.count(port=0x3F8, write=False) == 0
    assert vm.exits.count("mmio") == 3
    assert vm.exits.count(address=0xD000_0004) == 2
    assert vm.exits.count("KVM_EXIT_MMIO", write=False) == 1
    assert vm.exits.count(port=0x80) == 1
    assert vm.exits.count(port=0x61, write=False) == 1
    assert vm.exits.count(write=True) == 3 + 2 + 1 + 1
    assert vm.exits.count() == 9
    assert vm.exits.count("mmio", port=0x80) == 0
    with pytest.raises(ValueError, match="no exit is called 'mimo'; there are: .*mmio"):
        vm.exits.count("mimo")


def test_polling_takes_one_line_and_the_answer_that_ended_it_another(guest: Factory) -> None:
    vm = guest("echo")
    vm.serial.expect("ends")
    time.sleep(0.1)
    vm.serial.send("q")
    vm.wait()
    lines = vm.exits.explained()
    (polls,) = [number for number, line in enumerate(lines) if line.endswith(" times")]
    assert "read 0x60 from COM1 LSR" in lines[polls]
    assert "read 0x61 from COM1 LSR: TEMT THRE DR" in lines[polls + 1]
    assert "read 0x71 'q' from COM1 RBR" in lines[polls + 2]
    assert "power off" in lines[-1]


def test_exits_nobody_looked_at_are_not_counted_as_none(guest: Factory) -> None:
    vm = guest("hello", exits=False)
    assert vm.wait() == 0
    with pytest.raises(ValueError, match="nobody looks"):
        vm.exits.count()
    assert vm.exits.explained() == []


def test_every_vcpu_is_counted(guest: Factory) -> None:
    vm = guest("smp", smp=2)
    assert vm.wait() == 0
    assert {seen.vcpu for seen in vm.exits._last} <= {0, 1}
    assert len(vm.exits._counts) == 2
    assert vm.exits.count() == sum(sum(counts.values()) for counts in vm.exits._counts)


def test_memory_while_it_runs_and_afterwards(flat: Make) -> None:
    vm = flat(bytes.fromhex("803d0000200001 75f7") + tiny.POWER_OFF)  # until byte [0x200000] is 1
    vm.memory.write(0x20_0000, b"\1")
    assert vm.wait() == 0
    assert vm.memory.unpack("<B", 0x20_0000) == (1,)
    assert vm.exits.explained()
    vm.close()
    with pytest.raises(GuestEnded, match="closed"):
        vm.memory.read(0, 1)
    assert vm.exits.explained() == []


def test_statuses(flat: Make) -> None:
    assert flat(bytes.fromhex("b010 e6f4")).wait() == 33
    vm = flat(CRASH)
    assert vm.wait() == 100
    assert "vCPU 0 died" in vm.report()[0][1]
    assert flat(RESET, "-no-reboot").wait() == 0


def test_a_guest_boots_again_after_its_reset(flat: Make) -> None:
    vm = flat(say(b"up\n") + RESET)
    vm.serial.expect(rb"(up\n){5}")
    assert vm.exits.count(port=0x64) >= 4
    vm.stop()
    assert vm.exit_status == 0


def test_paused_from_the_start(flat: Make) -> None:
    vm = flat(say(b"now") + tiny.POWER_OFF, "-S")
    with pytest.raises(GuestTimeout):
        vm.serial.expect("now", timeout=0.2)
    vm.resume()
    assert vm.wait() == 0


def test_a_chardev_on_stdio_is_the_console(guest: Factory) -> None:
    vm = guest("echo", chardev="stdio,id=c", serial="chardev:c")
    vm.serial.expect("type")
    vm.serial.send("q")
    assert vm.wait() == 0


# --- snapshots ------------------------------------------------------------------------------------------------------------
def test_restored_while_it_runs_when_it_has_ended_and_into_another(guest: Factory) -> None:
    vm = guest("echo")
    vm.serial.expect("ends")
    snapshot = vm.snapshot()
    vm.serial.send("a")
    vm.serial.expect("a")
    vm.restore(snapshot)
    vm.serial.send("bq")
    assert vm.wait() == 0
    vm.restore(snapshot)
    assert vm.exit_status is None
    vm.serial.send("cq")
    vm.serial.expect("c")
    assert vm.wait() == 0
    other = guest("echo", restore=snapshot)
    other.serial.send("dq")
    assert other.wait() == 0
    assert b"type" not in other.serial.output


def test_a_snapshot_of_another_machine_is_refused(guest: Factory) -> None:
    snapshot = guest("echo").snapshot()
    with pytest.raises(ConfigError, match="-smp"):
        guest("echo", smp=2, restore=snapshot)


# --- time -----------------------------------------------------------------------------------------------------------------
def test_a_timeout_ends_that_guest_alone(flat: Make) -> None:
    other, late = flat(COUNT), flat(tiny.HANG, timeout=0.5)
    with pytest.raises(GuestTimeout, match="no end after 0.5 s"):
        late.wait()
    assert late.exit_status == 124
    before = other.memory.unpack("<I", 0x20_0000)
    time.sleep(0.05)
    assert other.memory.unpack("<I", 0x20_0000) != before
    assert other.exit_status is None
    with pytest.raises(GuestTimeout, match="no end within 0.1 s"):
        other.wait(0.1)
    assert other.exit_status == 124


def test_the_limit_counts_over_resets(flat: Make) -> None:
    with pytest.raises(GuestTimeout):
        flat(say(b"up\n") + RESET, timeout=1.0).wait()


def test_expect_that_fails_leaves_the_guest_alone(flat: Make) -> None:
    vm = flat(COUNT)
    start = time.monotonic()
    with pytest.raises(GuestTimeout, match="b'x' did not come within 0.2 s"):
        vm.serial.expect("x", timeout=0.2)
    assert 0.2 <= time.monotonic() - start < 10
    assert vm.exit_status is None


def test_a_flood_of_output_neither_fills_memory_nor_blocks(flat: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.testing.serial.KEPT", 1000)
    vm = flat(say(b"start") + bytes.fromhex("b02e ee ebfb"))  # '.' for ever
    vm.serial.expect(r"\.{500}")
    vm.serial.expect(r"\.{500}")
    deadline = time.monotonic() + 60
    while b"start" in vm.serial.output and time.monotonic() < deadline:
        time.sleep(0.01)
    assert b"start" not in vm.serial.output
    assert len(vm.serial.output) <= 2001
    vm.serial.expect(r"\.{500}")


# --- what cannot be started -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["nonsense"], ConfigError, "no guest is called 'nonsense'"),
        (["/nowhere/kernel"], ImageError, "/nowhere/kernel"),
        (["hello", "-nonsense"], ConfigError, "-nonsense"),
        (["hello", "-m", "1K"], PyvmmError, "guest memory"),
        (["hello", "-drive", "file=/nowhere/disk"], ConfigError, "/nowhere/disk"),
        (["hello", "-sandbox", "on"], ConfigError, "-sandbox"),
        (["-help"], ValueError, "-help"),
    ],
)
def test_a_guest_that_cannot_be_started(words: list[str], error: type[Exception], text: str) -> None:
    before = left_over()
    with pytest.raises(error, match=text):
        Vm(words)
    assert left_over() == before


# --- nothing stays --------------------------------------------------------------------------------------------------------
def left_over() -> tuple[int, set[str], int]:
    """Descriptors, threads and children of this process."""
    gc.collect()
    children = sum(len(Path(f"/proc/self/task/{task}/children").read_text().split()) for task in os.listdir("/proc/self/task"))
    return len(os.listdir("/proc/self/fd")), {thread.name for thread in threading.enumerate()}, children


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) << 12


def test_start_and_stop_leave_nothing(tmp_path: Path) -> None:
    """Guests that end, that are stopped, that crash, that run out of time; with disk and card. PYVMM_CYCLES=1000 for the long version."""
    image = tmp_path / "guest.bin"
    flat32 = ["-format", "flat32", "-m", "16M"]
    cards = ["-drive", "format=scratch,size=1M", "-nic", "hubport,hubid=0"]
    kinds: list[tuple[bytes, list[str]]] = [
        (say(b"x") + tiny.POWER_OFF, []), (tiny.HANG, ["-smp", "2"]), (CRASH, []), (COUNT, cards), (say(b"x") + RESET, []),
    ]  # fmt: skip
    switching = sys.getswitchinterval()

    def cycle(number: int) -> None:
        code, words = kinds[number % len(kinds)]
        image.write_bytes(code + tiny.HANG)
        with Vm([str(image), *flat32, *words], timeout=0.05 if number % 7 == 6 else 60, watch=number % 2 == 0) as vm:
            if code.endswith(tiny.POWER_OFF) and number % 7 != 6:
                assert vm.wait() == 0
            elif number % 3 == 0:
                time.sleep(0.002)
                assert vm.report()

    for number in range(35):  # each combination once: imports, caches, malloc's arenas
        cycle(number)
    before, memory = left_over(), resident()
    for number in range(CYCLES):
        cycle(number)
    assert left_over() == before
    assert resident() - memory < 24 << 20
    assert sys.getswitchinterval() == switching


def test_a_thread_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = left_over()

    def refuse(*_: object) -> None:
        raise HostError("no thread")

    monkeypatch.setattr("pyvmm.machine.Machine._start_threads", refuse)
    vm = Vm(["hello"])
    with pytest.raises(HostError, match="no thread"):
        vm.wait()
    assert "no thread" in vm.ended()
    vm.close()
    monkeypatch.undo()
    assert left_over() == before


def test_the_catalogue_has_the_guests_used_here() -> None:
    assert {"echo", "hello", "smp"} <= catalogue.load().keys()
