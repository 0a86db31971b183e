"""Statistics of real guests: exact counts, and the kernel's counters beside them."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from pyvmm.observe.stats.collect import Collector
from tests.support import vm
from tests.support.process import COMMAND, PATIENCE, ROOT

pytestmark = pytest.mark.kvm
# flat32: mov ecx,N; 1: out 0x80,al; loop 1b; mov eax,[0xd0000000]; power off
OUTS = 3000
PROGRAM = b"\xb9" + OUTS.to_bytes(4, "little") + bytes.fromhex("e680 e2fc a1000000d0") + vm.POWER_OFF + vm.HANG


def test_every_exit_is_counted_once(tmp_path: Path) -> None:
    with vm.flat(PROGRAM, tmp_path) as (machine, _):
        collector = Collector()
        collector.attach(machine)
        vm.run(machine)
        found = collector.summary()
        assert not any(loop._observers for loop in machine.runloops)
    rows = {(row.reason, row.access, row.address): row for row in found.rows}
    out = rows["io", "out", 0x80]
    assert (out.count, out.device, out.register) == (OUTS, "post", "POST")
    assert 0 < out.least <= out.average <= out.most
    assert out.p99 <= out.most
    assert (rows["mmio", "read", 0xD000_0000].count, rows["mmio", "read", 0xD000_0000].device) == (1, "")
    assert rows["io", "out", 0x604].count == 1
    assert 0 < found.busy < found.wall
    # each return was a VM exit, or an instruction that the kernel emulated on its own
    if found.kernel:
        exits = found.kernel[0]["exits"]
        assert isinstance(exits, int)
        assert exits >= OUTS


def test_two_vcpus_two_columns(tmp_path: Path) -> None:
    with vm.flat(PROGRAM, tmp_path, smp=2) as (machine, _):
        collector = Collector()
        collector.attach(machine)
        vm.run(machine)
    found = collector.summary()
    assert found.vcpus == 2
    assert len(found.kernel) in (0, 2)
    assert [row.count for row in found.rows if row.address == 0x80] == [OUTS]


def test_a_running_machine_can_be_looked_at(tmp_path: Path) -> None:
    """``pyvmm top``: counts grow while it runs, from another thread."""
    forever = bytes.fromhex("e680 ebfc")
    with vm.flat(forever, tmp_path) as (machine, _):
        collector = Collector()
        collector.attach(machine)
        counts: list[int] = []
        with vm.running(machine):
            wait = threading.Event()
            while len(counts) < 3 or counts[-1] < 100:
                counts.append(collector.summary().returns)
                wait.wait(0.01)
        assert counts == sorted(counts)
        assert collector.summary().returns > counts[-1]


def test_a_reset_goes_on_counting(tmp_path: Path) -> None:
    with vm.flat(PROGRAM, tmp_path) as (machine, _):
        collector = Collector()
        collector.attach(machine)
        vm.run(machine)
    with vm.flat(PROGRAM, tmp_path) as (machine, _):
        collector.attach(machine)
        vm.run(machine)
    found = collector.summary()
    assert found.machines == 2
    assert next(row for row in found.rows if row.address == 0x80).count == 2 * OUTS


# --- the command ----------------------------------------------------------------------------------------------------------
def stat(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "stat", *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False)


def test_table_goes_to_stderr_the_guest_to_stdout() -> None:
    done = stat("hello")
    assert done.returncode == 0
    assert done.stdout == "Hello, world! This is a guest in 16-bit real mode.\n"
    assert "COM1 THR" in done.stderr
    assert "poweroff" in done.stderr


def test_json_to_a_file_and_the_guests_status(tmp_path: Path) -> None:
    done = stat("--json", "exit-code", "-o", str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    assert done.stderr == ""
    assert found["format"] == "pyvmm-stat-1"
    assert found["guest"] == "exit-code"
    assert sum(each["count"] for each in found["user_space"]["exits"]) == found["user_space"]["returns"] > 0
    assert done.returncode not in (0, 2, 104)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello --sort size", "--sort size: give one of time"),
        ("hello -o", "-o: a value must follow"),
        ("hello -o /nowhere/x", "-o /nowhere/x: No such file"),
        ("nosuchguest", "nosuchguest"),
        ("hello --jsn", "unknown option --jsn"),
    ],
)
def test_mistakes_are_one_line(line: str, message: str) -> None:
    done = stat(*line.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_under_o_is_told_as_that() -> None:
    done = stat("hello", "-o", "/dev/full")
    assert done.returncode == 2 and "pyvmm: -o /dev/full: No space left on device" in done.stderr


def test_bytes_that_did_not_exit_are_told_of() -> None:
    done = stat("serial-poll", "-serial", "null")
    assert "that the kernel collected came in" in done.stderr
