"""``pyvmm stat`` counts what perf counts at the kernel's tracepoints, within 1 % (perf needs root and tracefs; pyvmm does not)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.process import COMMAND, PATIENCE, ROOT

pytestmark = pytest.mark.kvm
EVENTS = ("kvm:kvm_exit", "kvm:kvm_userspace_exit")


def _perf() -> str:
    """perf; skips where it cannot count these events."""
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("no perf here: apt install linux-perf")
    tried = subprocess.run([perf, "stat", "-e", ",".join(EVENTS), "true"], capture_output=True, text=True, check=False)
    if tried.returncode or "<not" in tried.stderr:
        pytest.skip(f"perf cannot count {', '.join(EVENTS)} here: {(tried.stderr.strip() or 'no reason given').splitlines()[0]}")
    return perf


def counts(tmp_path: Path, *command: str) -> tuple[dict[str, int], dict[str, int]]:
    """(what perf says, what pyvmm stat says) of one run, by tracepoint."""
    out, table = tmp_path / "stat.json", tmp_path / "perf.csv"
    line = [
        _perf(),
        "stat",
        "-x",
        ",",
        "-o",
        str(table),
        "-e",
        ",".join(EVENTS),
        "--",
        *COMMAND,
        "stat",
        "--json",
        "-o",
        str(out),
        *command,
    ]
    ended = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=4 * PATIENCE, cwd=ROOT, check=False)
    assert ended.returncode in (0, 1), ended.stderr.decode()
    said = {row.split(",")[2]: int(row.split(",")[0]) for row in table.read_text().splitlines() if row[:1].isdigit()}
    found = json.loads(out.read_text())
    assert found["kernel"]["vcpus"], "this kernel has no statistics (Linux 5.14)"
    kernel = sum(each["exits"] for each in found["kernel"]["vcpus"])
    return said, dict(zip(EVENTS, (kernel, found["user_space"]["returns"]), strict=True))


@pytest.mark.parametrize(("guest", "vcpus"), [("bench-out", 1), ("bench-mmio-write", 1), ("bench-hlt", 1), ("smp", 4), ("multiboot", 1)])
def test_a_guest(tmp_path: Path, guest: str, vcpus: int) -> None:
    if guest == "bench-mmio-write" and os.environ.get("PYVMM_NESTED"):
        pytest.skip("half a minute on the nested host; the OUTs stand for it")
    perf, ours = counts(tmp_path, guest)
    for event in EVENTS:
        if event == "kvm:kvm_exit" and not perf[event]:
            continue  # a KVM in software has no hardware exits to trace
        # newer kernels may end a vCPU's first KVM_RUN by EINTR before they come to the tracepoint
        assert abs(perf[event] - ours[event]) <= max(0.01 * perf[event], vcpus), (event, perf, ours)
