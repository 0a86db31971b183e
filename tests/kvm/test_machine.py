"""The run loop and the machine's life on a real KVM: verdicts, stop, pause, kick, string I/O, odd accesses."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.machine import Machine
from tests.support import vm
from tests.support.process import descriptors

pytestmark = pytest.mark.kvm


def test_power_off(tmp_path: Path) -> None:
    with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path) as (machine, _):
        assert vm.run(machine).kind == events.POWEROFF


def test_debug_exit_hands_over_the_value(tmp_path: Path) -> None:
    code = bytes.fromhex("b805000000 e7f4") + vm.HANG  # mov eax,5; out 0xf4,eax
    with vm.flat(code, tmp_path) as (machine, _):
        reason = vm.run(machine)
        assert (reason.kind, reason.value, reason.vcpu) == (events.DEBUG_EXIT, 5, None)


def test_serial_output_arrives(tmp_path: Path) -> None:
    code = b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([c]) + b"\xee" for c in b"hi!") + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path) as (machine, console):
        vm.run(machine)
        assert console.output == b"hi!"


@pytest.mark.parametrize("code", [vm.HANG, vm.HALT], ids=["spinning", "halted"])
def test_timeout(tmp_path: Path, code: bytes) -> None:
    with vm.flat(code, tmp_path) as (machine, _):
        assert machine.run(0.2).kind == events.TIMEOUT
        assert not machine.hung


@pytest.mark.parametrize("smp", [1, 2, 4])
def test_stop_from_another_thread(tmp_path: Path, smp: int) -> None:
    # Application processors wait for INIT in KVM_RUN, the first spins: all must come back.
    with vm.flat(vm.HANG, tmp_path, smp=smp) as (machine, _):
        timer = threading.Timer(0.2, machine.stop)
        timer.start()
        assert vm.run(machine).kind == events.QUIT
        assert not machine.hung


def test_stop_before_run(tmp_path: Path) -> None:
    with vm.flat(vm.HANG, tmp_path) as (machine, _):
        machine.stop()
        assert vm.run(machine).kind == events.QUIT


def test_the_first_reason_stands(tmp_path: Path) -> None:
    with vm.flat(vm.HANG, tmp_path) as (machine, _):
        machine.request_stop(events.StopReason(kind=events.POWEROFF))
        machine.stop()
        assert vm.run(machine).kind == events.POWEROFF


def test_no_instruction_runs_after_a_stop_request(tmp_path: Path) -> None:
    # out 0xf4 asks to stop; the OUT to the serial port behind it must never be seen.
    code = bytes.fromhex("31c0 e7f4 66baf803 b058 ee") + vm.HANG
    with vm.flat(code, tmp_path) as (machine, console):
        vm.run(machine)
        assert console.output == b""


def test_pause_stops_the_guest_and_resume_lets_it_go_on(tmp_path: Path) -> None:
    # inc dword [0x200000]; jmp back
    code = bytes.fromhex("ff0500002000 ebf8")
    with vm.flat(code, tmp_path) as (machine, _):

        def counter() -> int:
            return int(machine.memory.unpack("<I", 0x200000)[0])

        with vm.running(machine):
            for _ in range(5):
                machine.pause()
                before = counter()
                time.sleep(0.02)
                assert counter() == before
                rip = machine.vcpus[0].get_regs().rip  # does not block: the vCPU is off KVM_RUN
                assert 0x100000 <= rip < 0x100010
                machine.resume()
                deadline = time.monotonic() + 10
                while counter() == before and time.monotonic() < deadline:
                    time.sleep(0.001)
                assert counter() != before


def test_starting_paused(tmp_path: Path) -> None:
    with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path) as (machine, _):
        start = time.monotonic()
        threading.Timer(0.2, machine.resume).start()
        assert machine.run(vm.TIMEOUT, paused=True).kind == events.POWEROFF
        assert time.monotonic() - start >= 0.2


def test_rep_ins_and_outs_move_every_element(tmp_path: Path) -> None:
    # pc-testdev's latch is not needed: an RTC register read 300 times by rep insb must fill all 300 bytes.
    code = bytes.fromhex("bf00002000 b92c010000 66ba7100 f36c") + vm.POWER_OFF + vm.HANG  # edi=2M, ecx=300, dx=0x71, rep insb
    with vm.flat(code, tmp_path) as (machine, _):
        machine.memory.write(0x200000, b"\xee" * 310)
        vm.run(machine)
        data = machine.memory.read(0x200000, 310)
        assert data[300:] == b"\xee" * 10
        assert 0xEE not in data[:300]  # index 0: the seconds


def test_rep_outsb_to_the_serial_port(tmp_path: Path) -> None:
    text = bytes(range(32, 127)) * 3
    code = bytes.fromhex("be00002000 b9") + len(text).to_bytes(4, "little") + bytes.fromhex("66baf803 f36e") + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path) as (machine, console):
        machine.memory.write(0x200000, text)
        vm.run(machine)
        assert console.output == text


def test_unclaimed_ports_and_addresses_read_all_ones_and_are_listed(tmp_path: Path) -> None:
    # in eax,0x10 -> [0x200000]; mov eax,[0xd0000000] -> [0x200004]
    code = bytes.fromhex("e510 a300002000 a1000000d0 a304002000") + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path, list_unclaimed=True) as (machine, _):
        vm.run(machine)
        assert machine.memory.read(0x200000, 8) == b"\xff" * 8
        assert machine.ports.unclaimed == {(0x10, 4, False): 1}
        assert machine.mmio.unclaimed == {(0xD000_0000, 4, False): 1}


def test_a_pci_address_is_no_reset(tmp_path: Path) -> None:
    # mov dx,0xcf8; mov eax,0x8000ff04; out dx,eax: its second byte has all the bits of a reset at 0xcf9
    code = bytes.fromhex("66baf80c b804ff0080 ef ed a300002000") + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path) as (machine, _):
        assert vm.run(machine).kind == events.POWEROFF
        assert machine.memory.read(0x200000, 4) == bytes.fromhex("04ff0080")


def test_a_byte_to_the_reset_control_resets(tmp_path: Path) -> None:
    with vm.flat(bytes.fromhex("66baf90c b006 ee") + vm.HANG, tmp_path) as (machine, _):
        assert vm.run(machine).kind == events.RESET


def test_a_store_over_the_end_of_ram(tmp_path: Path) -> None:
    # mov dword [16M-2], 0x44332211: two bytes to RAM, two to nobody; the guest goes on
    code = bytes.fromhex("c705feffff00 11223344") + vm.POWER_OFF + vm.HANG
    with vm.flat(code, tmp_path) as (machine, _):
        assert vm.run(machine).kind == events.POWEROFF
        assert machine.memory.read((16 << 20) - 2, 2) in (b"\x11\x22", bytes(2))


def test_a_device_that_raises_ends_the_run_in_one_line(tmp_path: Path) -> None:
    class Broken:
        name = "broken"
        state = None

        def read(self, offset: int, size: int) -> int:
            raise ValueError("oh")

        def write(self, offset: int, size: int, value: int) -> None:
            raise OSError(5, "a device's own")

        def reset(self) -> None: ...

    for code, text in ((b"\xe4\x20", "ValueError: oh"), (b"\xe6\x22", "a device's own")):
        code = bytes([code[0], 0x22]) + vm.HANG
        with vm.flat(code, tmp_path, wire=lambda machine: void(machine.ports.add(0x22, 1, Broken()))) as (machine, _):
            reason = vm.run(machine)
            assert reason.kind == events.VMM_ERROR
            assert text in reason.detail
            assert "\n" not in reason.detail


def void(_: object) -> None:
    """Makes a wiring lambda return None."""


def test_triple_fault_is_a_crash(tmp_path: Path) -> None:
    code = bytes.fromhex("0f011d00002000 0f0b") + vm.HANG  # lidt [0x200000] (limit 0); ud2
    with vm.flat(code, tmp_path) as (machine, _):
        reason = vm.run(machine)
        assert (reason.kind, reason.detail, reason.vcpu) == (events.CRASH, "KVM_EXIT_SHUTDOWN", 0)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """File descriptors, threads and mappings after 50 machines."""

    def once() -> None:
        with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path, smp=2) as (machine, _):
            vm.run(machine)

    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1])

    for _ in range(5):
        once()
    gc.collect()
    before = len(descriptors()), threading.active_count(), resident()
    for _ in range(50):
        once()
    gc.collect()
    assert (len(descriptors()), threading.active_count()) == before[:2]
    assert resident() - before[2] < 1024, "more than 4 MiB stayed"


def test_a_failed_build_leaves_no_descriptor(tmp_path: Path) -> None:
    from pyvmm.config import DeviceConfig
    from pyvmm.errors import ConfigError

    before = len(descriptors())
    clash = DeviceConfig(name="isa-debug-exit", options=(("iobase", "0x3f8"), ("iosize", "4")))
    with pytest.raises(ConfigError, match="overlaps serial0"), vm.flat(vm.HANG, tmp_path, devices=(clash,)):
        pass
    gc.collect()
    assert len(descriptors()) == before


@pytest.mark.parametrize("count", [8])
def test_many_vcpus_end_together(tmp_path: Path, count: int) -> None:
    with vm.flat(vm.POWER_OFF + vm.HANG, tmp_path, smp=count) as (machine, _):
        assert isinstance(machine, Machine)
        assert vm.run(machine).kind == events.POWEROFF
        assert not machine.hung
