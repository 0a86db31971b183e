"""The probes on the real KVM: those every KVM passes, and that none leaves anything behind."""

from __future__ import annotations

import signal
import threading

import pytest

from pyvmm.boot.cpu import protected_mode
from pyvmm.hostcheck import examine, usable
from pyvmm.kvm import uapi
from pyvmm.probes import CODE, PROBES, Bench, probe
from tests.support.process import descriptors

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("name", ["real-mode", "long_mode"])
def test_every_kvm_runs_these(name: str) -> None:
    assert probe(name) is True


def test_probes_answer_the_same_twice_and_leave_nothing_open() -> None:
    bench = Bench()
    probe("real-mode", bench)
    before = descriptors()
    threads = threading.active_count()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    names = [name for name in PROBES if name != "hypercall"]  # may run into its time limit
    first = [probe(name, bench) for name in names]
    assert [probe(name, bench) for name in names] == first
    assert descriptors() == before
    assert threading.active_count() == threads
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    bench.close()


def test_a_guest_that_never_ends_is_stopped() -> None:
    bench = Bench()
    with bench.guest(protected_mode(CODE), b"\xeb\xfe") as guest:
        assert guest.run(0.05) == -1
        assert guest.vcpu.get_regs().rip == CODE
    with bench.guest(protected_mode(CODE), b"\xf4") as guest:
        assert guest.run() == uapi.KVM_EXIT_HLT
    bench.close()


def test_this_host_is_usable() -> None:
    findings = examine()
    assert usable(findings), [dict(finding) for finding in findings if finding.level == "fail"]
    assert [finding for finding in findings if finding.topic == "probe"]
