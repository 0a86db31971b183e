"""S3, suspend to RAM: as kvm-unit-tests' s3 does it, an RTC alarm wakes the guest at its waking vector in real mode."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.boot.acpi import FACS, FACS_WAKING_VECTOR
from pyvmm.cli.run import Session
from pyvmm.config import BootConfig, Config, SerialConfig
from pyvmm.layout import MIB
from tests.support import vm

pytestmark = pytest.mark.kvm

ADDRESS = 0x3_0000
VECTOR = ADDRESS + 0x103  # CS 0x3010, IP 3
COUNTER = 0x20_0000


def guest(vector: int) -> bytes:
    code = b"\xc7\x05" + (FACS + FACS_WAKING_VECTOR).to_bytes(4, "little") + vector.to_bytes(4, "little")
    for index, value in ((1, 0xC0), (3, 0xC0), (5, 0xC0), (0xB, 0x22)):  # alarm every second, interrupt on, 24 hours
        code += bytes([0xB0, index, 0xE6, 0x70, 0xB0, value, 0xE6, 0x71])  # mov al,index; out 0x70,al; mov al,value; out 0x71,al
    code += bytes.fromhex("66ba0206 66b80004 66ef")  # PM1_EN = RTC_EN
    code += bytes.fromhex("66ba0406 66b80024 66ef")  # PM1_CNT = SLP_EN, SLP_TYP 1
    code += bytes.fromhex("ff0500002000 ebf8")  # inc dword [COUNTER]; again
    # Real mode; exit with the low byte of CS plus the upper one of PM1_STS (0x80 WAK_STS, 0x04 RTC_STS):
    awake = bytes.fromhex("8cc8 88c3 ba0006 ed 88e0 00d8 baf400 ee ebfe")  # mov ax,cs; mov bl,al; in ax,0x600; mov al,ah; add al,bl; out
    return code.ljust(VECTOR - ADDRESS, b"\0") + awake


def config(tmp_path: Path, vector: int) -> Config:
    image = tmp_path / "guest.bin"
    image.write_bytes(guest(vector))
    boot = BootConfig(kernel=str(image), fmt="flat32", address=ADDRESS)
    return Config(boot=boot, memory=16 * MIB, smp=2, serials=(SerialConfig(kind="null"),), devices=(vm.DEBUG_EXIT,), no_reboot=True)


def test_an_alarm_wakes_the_guest_at_its_waking_vector(tmp_path: Path) -> None:
    session = Session(config(tmp_path, VECTOR))
    try:
        reason = session.run(vm.TIMEOUT)
    finally:
        session.close()
    assert (reason.kind, reason.value) == (events.DEBUG_EXIT, 0x80 + 0x04 + 0x10)


@pytest.mark.parametrize("vector", [0, 0x10_0000])
def test_without_a_waking_vector_in_reach_it_is_a_reset(tmp_path: Path, vector: int) -> None:
    settings = config(tmp_path, vector)
    with vm.flat(guest(vector), tmp_path, boot=settings.boot) as (machine, _):
        assert vm.run(machine).kind == events.RESET
        assert machine.memory.read(COUNTER, 4) == bytes(4), "the vCPU went on while asleep"


def test_a_sleeping_machine_can_be_paused_and_stopped(tmp_path: Path) -> None:
    code = bytes.fromhex("66ba0406 66b80024 66ef ff0500002000 ebf8")  # nothing enabled: it sleeps for good
    with vm.flat(code, tmp_path) as (machine, _):
        with vm.running(machine):
            pm = machine.devices["acpi-pm"]
            deadline = time.monotonic() + 20
            while not pm.state.asleep and time.monotonic() < deadline:
                time.sleep(0.01)
            machine.pause()
            machine.resume()
            time.sleep(0.1)
        assert machine.reason is not None and machine.reason.kind == events.QUIT
        assert machine.memory.read(COUNTER, 4) == bytes(4)
