"""Entry states on whatever KVM is there: broken ones are refused by name before KVM sees them, every boot path's enters.

That the rules are the hardware's own is shown on a stock kvm_intel (tests/nested/suite_intel.py), by the same cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.boot import detect
from pyvmm.boot.plan import BootPlan
from pyvmm.config import BootConfig, Config
from pyvmm.errors import ConfigError
from pyvmm.kvm.system import Kvm
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.layout import IDENTITY_MAP, MIB, TSS
from pyvmm.machine import Machine
from pyvmm.poweron import set_boot_state
from tests.support.entry_cases import ACCEPTED, REFUSED, Case, has_feature
from tests.support.entry_guests import GUESTS, MEMORY, EntryGuest
from tests.support.vm import DEBUG_EXIT, TIMEOUT

pytestmark = pytest.mark.kvm


@pytest.fixture
def vcpu() -> Iterator[Vcpu]:
    """A fresh vCPU with the host's CPUID."""
    with Kvm() as kvm:
        vm = kvm.create_vm()
        vm.set_identity_map_addr(IDENTITY_MAP)
        vm.set_tss_addr(TSS)
        vcpu = vm.create_vcpu(0)
        vcpu.set_cpuid(kvm.supported_cpuid())
        yield vcpu
        vcpu.close()
        vm.close()


@pytest.mark.parametrize("case", REFUSED, ids=Case.name)
def test_a_broken_state_is_refused_by_name_and_not_set(vcpu: Vcpu, case: Case) -> None:
    before = bytes(vcpu.get_sregs()), bytes(vcpu.get_regs())
    with pytest.raises(ConfigError, match=r"^invalid entry state: \S+: [^\n]+ \((26\.3\.1\.\d|KVM_SET_SREGS)\)$"):
        set_boot_state(vcpu, case.state())
    assert (bytes(vcpu.get_sregs()), bytes(vcpu.get_regs())) == before


@pytest.mark.parametrize("case", ACCEPTED, ids=Case.name)
def test_a_valid_state_is_set(vcpu: Vcpu, case: Case) -> None:
    if case.feature and not has_feature(vcpu.vm.kvm.supported_cpuid(), case.feature):
        pytest.skip(f"this host's CPU has no {case.feature.upper()}")
    set_boot_state(vcpu, case.state())
    assert vcpu.get_regs().rip == case.state().rip


def plan_of(guest: EntryGuest, folder: Path) -> tuple[Config, BootPlan]:
    """The guest's image as a file, and its boot plan."""
    image = folder / "guest"
    image.write_bytes(guest.image)
    boot = BootConfig(kernel=str(image), fmt=guest.fmt, address=guest.address)
    config = Config(boot=boot, memory=MEMORY, serials=(), devices=(DEBUG_EXIT,))
    return config, detect.plan(config)


@pytest.mark.parametrize("guest", GUESTS, ids=[guest.name for guest in GUESTS])
def test_every_way_in_leads_to_the_promised_mode(tmp_path: Path, guest: EntryGuest) -> None:
    config, plan = plan_of(guest, tmp_path)
    assert (plan.format, plan.mode) == (guest.format, guest.mode)
    with Machine(config, [], plan) as machine:
        reason = machine.run(TIMEOUT)
    assert (reason.kind, f"{reason.value:#x}") == (events.DEBUG_EXIT, f"{guest.expected():#x}"), reason


def test_the_machine_refuses_a_plan_with_a_broken_state(tmp_path: Path) -> None:
    config, plan = plan_of(GUESTS[0], tmp_path)
    plan.state.tr.type = 9
    with pytest.raises(ConfigError, match=r"^invalid entry state: tr\.type: TR: type 9 must be .* \(26\.3\.1\.2\)$"):
        Machine(config.replace(memory=16 * MIB), [], plan)
