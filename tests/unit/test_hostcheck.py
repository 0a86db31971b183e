"""Findings about made-up hosts: what they say, what they advise, what makes a host unusable."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import pytest

from pyvmm import hostcheck
from pyvmm.errors import ConfigError, HostError, KvmError
from pyvmm.hostcheck import Finding, examine, render, render_json, usable
from pyvmm.kvm import kind, uapi
from pyvmm.kvm.kind import KvmKind
from pyvmm.probes import PROBES, probe

INTEL = KvmKind(name="vmx", module="kvm_intel", emulated=False, nested=True, evidence="CPU flag vmx")
SOFTWARE = KvmKind(name="software (pvm)", module="kvm_pvm", emulated=True, nested=True, evidence="no vmx or svm CPU flag")


class FakeVm:
    def close(self) -> None:
        pass


class FakeKvm:
    """A host that has every capability but those in ``lacks``."""

    lacks: tuple[int, ...] = ()
    vm_error: KvmError | None = None

    def __enter__(self) -> FakeKvm:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check_extension(self, number: int) -> int:
        return 0 if number in self.lacks else 8

    def create_vm(self) -> FakeVm:
        if self.vm_error:
            raise self.vm_error
        return FakeVm()

    def supported_cpuid(self) -> list[Any]:
        return [(0, 0, 0, 1, 0, 0, 0), (1, 0, 0, 0, 0, 1 << 13, 0)]  # cx16


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[FakeKvm]:
    class Host(FakeKvm):
        pass

    monkeypatch.setattr(hostcheck, "Kvm", Host)
    monkeypatch.setattr(hostcheck, "kvm_kind", lambda: INTEL)
    monkeypatch.setattr("pyvmm.cpuid.emulates_ring0", lambda: False)
    return Host


def by_topic(findings: list[Finding], topic: str) -> list[Finding]:
    return [finding for finding in findings if finding.topic == topic]


def test_a_good_host(host: type[FakeKvm]) -> None:
    findings = examine(probe=False)
    assert usable(findings) and all(finding.level != "fail" for finding in findings)
    assert by_topic(findings, "device")[0].level == "ok"
    assert "vmx, in a virtual machine" in by_topic(findings, "kvm")[0].text
    assert "all 13" in by_topic(findings, "capabilities")[0].text
    assert by_topic(findings, "cpu")[0].text == "guests see every feature KVM offers"
    assert by_topic(findings, "probe") == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOENT, "nested virtualisation"),
        (errno.EACCES, "usermod -aG kvm"),
        (errno.EACCES, 'KERNEL=="kvm"'),
        (errno.EPERM, "--device /dev/kvm"),
        (errno.ENODEV, "firmware"),
    ],
)
def test_a_device_that_does_not_open(monkeypatch: pytest.MonkeyPatch, number: int, advice: str) -> None:
    real_open = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if path == "/dev/kvm":
            raise OSError(number, os.strerror(number))
        return real_open(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    findings = examine()
    assert not usable(findings)
    (device,) = by_topic(findings, "device")
    assert device.level == "fail" and advice in device.advice
    assert by_topic(findings, "probe") == []


def test_a_missing_capability_is_fatal_when_needed(host: type[FakeKvm]) -> None:
    host.lacks = (uapi.KVM_CAP_IMMEDIATE_EXIT,)
    findings = examine()
    assert not usable(findings)
    assert "KVM_CAP_IMMEDIATE_EXIT" in by_topic(findings, "capabilities")[0].text
    assert by_topic(findings, "probe") == [], "no guest is run on a host that cannot"


def test_a_missing_nicety_is_a_warning_with_its_price(host: type[FakeKvm]) -> None:
    host.lacks = (uapi.KVM_CAP_COALESCED_PIO,)
    findings = examine(probe=False)
    assert usable(findings)
    assert [finding.text for finding in by_topic(findings, "capabilities")[1:]] == ["no KVM_CAP_COALESCED_PIO: more exits on the console"]


def test_a_vm_that_cannot_be_made(host: type[FakeKvm]) -> None:
    host.vm_error = KvmError("KVM_CREATE_VM", errno.ENODEV, "no extension")
    findings = examine()
    assert not usable(findings) and by_topic(findings, "vm")[0].text == "KVM_CREATE_VM failed with ENODEV: no extension"


def test_an_interpreting_kvm(host: type[FakeKvm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostcheck, "kvm_kind", lambda: SOFTWARE)
    monkeypatch.setattr("pyvmm.cpuid.emulates_ring0", lambda: True)
    findings = examine(probe=False)
    assert usable(findings)
    assert by_topic(findings, "kvm")[0].level == "warn" and "interpreted" in by_topic(findings, "kvm")[0].text
    assert by_topic(findings, "cpu")[0].text.endswith("in ring 0: cx16")


@pytest.fixture
def probed(host: type[FakeKvm], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the probes that succeed; the test fills it."""
    works: set[str] = set()

    class Bench:
        def close(self) -> None:
            pass

    monkeypatch.setattr(hostcheck, "Bench", Bench)
    monkeypatch.setattr(hostcheck, "probe", lambda name, bench: name in works)
    return works


def test_probes_that_succeed(probed: set[str]) -> None:
    probed |= set(PROBES)
    findings = examine()
    assert usable(findings) and by_topic(findings, "linux")[0].level == "ok"
    assert all(text in by_topic(findings, "probe")[0].text for _, text in PROBES.values())


def test_probes_that_fail_are_warnings(probed: set[str]) -> None:
    probed |= set(PROBES) - {"cmpxchg16b", "sw-breakpoint"}
    findings = examine()
    assert usable(findings) and by_topic(findings, "linux")[0].level == "warn"
    assert [finding.text for finding in by_topic(findings, "probe")[1:]] == [
        "does not work: cmpxchg16b in ring 0",
        "does not work: software breakpoints (the debugger uses a trapping byte or steps instead)",
    ]


def test_a_host_on_which_nothing_runs(probed: set[str]) -> None:
    findings = examine()
    assert not usable(findings) and "not even a single hlt" in by_topic(findings, "probe")[0].text


def test_rendering() -> None:
    findings = [Finding(level="ok", topic="device", text="opens"), Finding(level="fail", topic="vm", text="no", advice="do this")]
    assert render(findings).splitlines() == [
        "ok    device  opens",
        "fail  vm      no",
        "              -> do this",
        "guests cannot run here: see the lines marked fail",
    ]
    assert render(findings[:1]).endswith("guests can run here")
    parsed = json.loads(render_json(findings))
    assert parsed["usable"] is False
    assert parsed["findings"][1] == {"level": "fail", "topic": "vm", "text": "no", "advice": "do this"}


def test_an_unknown_probe_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no probe 'paging31': known are real-mode"):
        probe("paging31")


# --- which KVM -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("modules", "flags", "name", "emulated", "nested"),
    [
        (("kvm_intel",), "fpu vmx", "vmx", False, False),
        (("kvm_amd",), "fpu svm hypervisor", "svm", False, True),
        (("kvm_intel", "kvm_amd"), "fpu svm", "svm", False, False),  # both built in
        (("kvm_pvm",), "fpu hypervisor", "software (pvm)", True, True),
        (("kvm_amd", "kvm_pvm"), "fpu svm", "svm", False, False),
        (("kvm_intel", "kvm_pvm"), "fpu", "software (pvm)", True, False),
        ((), "fpu svm", "svm", False, False),  # /sys hidden from a container
        (("kvm_amd",), "", "svm", False, False),  # /proc hidden
        (("kvm_pvm",), "fpu svm", "software (pvm)", True, False),  # there, but not what is used
        ((), "fpu", "software", True, False),
        ((), "", "unknown", False, False),
    ],
)
def test_kvm_kind(monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...], flags: str, name: str, emulated: bool, nested: bool) -> None:
    present = {kind._MODULES + module for module in modules}
    monkeypatch.setattr(kind.os.path, "exists", lambda path: path in present)
    monkeypatch.setattr(kind, "cpu_flags", flags.split)
    found = kind.kvm_kind()
    assert (found.name, found.emulated, found.nested) == (name, emulated, nested)
    assert kind.emulates_ring0() is emulated
    assert found.module == "" or found.module in modules


def test_flags_of_this_machine() -> None:
    flags = kind.cpu_flags()
    if not flags:
        pytest.skip("/proc/cpuinfo shows no flags line")
    assert "fpu" in flags and "lm" in flags


def test_host_error_is_what_a_probe_raises_without_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise HostError("/dev/kvm: gone")

    monkeypatch.setattr("pyvmm.probes.Kvm", missing)
    with pytest.raises(HostError):
        probe("real-mode")
