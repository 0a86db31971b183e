"""Both ways to call KVM_RUN, whichever this Python takes by itself: fcntl's, and from Python 3.14 on the C library's."""

from __future__ import annotations

import fcntl
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import events, runloop
from pyvmm.kvm import vcpu
from tests.support import vm

pytestmark = pytest.mark.kvm
RunIoctl = Callable[[int, int], int]


@pytest.fixture(
    params=[
        pytest.param(fcntl.ioctl, id="fcntl", marks=pytest.mark.skipif(sys.version_info >= (3, 14), reason="retries on EINTR")),
        pytest.param(vcpu.c_run(), id="c"),
    ],
    autouse=True,
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RunIoctl:
    monkeypatch.setattr(runloop, "run_ioctl", request.param)
    monkeypatch.setattr(vcpu, "run_ioctl", request.param)
    return request.param  # type: ignore[no-any-return]


def test_a_guest_runs_to_its_end(tmp_path: Path) -> None:
    text = b"".join(b"\xb0" + bytes([each]) + b"\xee" for each in b"hello")
    with vm.flat(b"\x66\xba\xf8\x03" + text + vm.POWER_OFF + vm.HANG, tmp_path) as (machine, console):
        assert vm.run(machine).kind == events.POWEROFF
        assert console.output == b"hello"


@pytest.mark.parametrize("code", [vm.HANG, vm.HALT], ids=["spinning", "halted"])
@pytest.mark.parametrize("smp", [1, 3])
def test_a_kick_comes_through(tmp_path: Path, code: bytes, smp: int) -> None:
    with vm.flat(code, tmp_path, smp=smp) as (machine, _):
        timer = threading.Timer(0.1, machine.stop)
        timer.start()
        assert vm.run(machine).kind == events.QUIT
        assert not machine.hung


def test_pause_and_resume(tmp_path: Path) -> None:
    with vm.flat(bytes.fromhex("ff0500002000 ebf8"), tmp_path) as (machine, _), vm.running(machine):
        for _ in range(20):
            machine.pause()
            before = machine.memory.read(0x200000, 4)
            machine.vcpus[0].get_regs()  # would block while the vCPU is in KVM_RUN
            assert machine.memory.read(0x200000, 4) == before
            machine.resume()


def test_eagain_of_an_application_processor(tmp_path: Path) -> None:
    """INIT and SIPI to a waiting vCPU make its KVM_RUN return EAGAIN; it must be run again and reach its code."""
    # at 0x8000, real mode: inc byte [0x9000]; hlt. The first processor: ICR = INIT, then SIPI vector 8; waits; powers off.
    start = bytes.fromhex("fe060090 f4 ebfd")
    code = (
        bytes.fromhex("c7050003e0fe 00450c00")  # [0xfee00300] = INIT to all but self
        + bytes.fromhex("b900100000 e2fe")
        + bytes.fromhex("c7050003e0fe 08460c00")  # SIPI, vector 8
        + bytes.fromhex("803d00900000 01 75f7")  # wait for the byte
        + vm.POWER_OFF
        + vm.HANG
    )
    with vm.flat(code, tmp_path, smp=2) as (machine, _):
        machine.memory.write(0x8000, start)
        assert vm.run(machine).kind == events.POWEROFF
        assert machine.memory.read(0x9000, 1) == b"\1"


def test_a_failure_is_named(tmp_path: Path) -> None:
    with vm.flat(vm.HANG, tmp_path) as (machine, _):
        saved, machine.vcpus[0].fd = machine.vcpus[0].fd, machine.vm.fd  # KVM_RUN on what is no vCPU
        reason = vm.run(machine)
        machine.vcpus[0].fd = saved
        assert reason.kind == events.KVM_ERROR
        assert "KVM_RUN failed with ENOTTY" in reason.detail


def test_settle_comes_back(tmp_path: Path) -> None:
    with vm.flat(vm.HANG, tmp_path) as (machine, _):
        machine.vcpus[0].settle()
        assert machine.vcpus[0].page[1] == 0, "immediate_exit is taken back"
