"""CPUID tables from made-up KVM lists: an AMD host and an Intel host, with their own topology left in, as KVM does."""

from __future__ import annotations

import os
import subprocess
import sys
from struct import pack, unpack
from typing import Any

import pytest

from pyvmm import cpu_models, cpuid
from pyvmm.cpuid import Cpuid
from pyvmm.errors import ConfigError
from pyvmm.kvm import uapi

Leaf = tuple[int, int, int, int, int, int, int]

AMD, INTEL = b"AuthenticAMD", b"GenuineIntel"
SIGNIFICANT = uapi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX
ALL = 0xFFFF_FFFF
# sse3 pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt aes xsave osxsave avx f16c rdrand
LEAF1_ECX = 1 | 2 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 17 | 3 << 19 | 1 << 21 | 3 << 22 | 1 << 25 | 3 << 26 | 7 << 28
LEAF1_EDX = 0x0F8B_FBFF
LEAF7_EBX = 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 16 | 1 << 20 | 1 << 30  # fsgsbase bmi1 avx2 smep bmi2 avx512f smap avx512bw


class FakeKvm:
    """What Cpuid asks of /dev/kvm."""

    def __init__(self, vendor: bytes = AMD, drop: tuple[int, ...] = (), tsc_deadline: int = 1) -> None:
        ebx, edx, ecx = unpack("<3I", vendor)
        self.tsc_deadline = tsc_deadline
        amd = vendor == AMD
        leaves: list[Leaf] = [
            (0, 0, 0, 0x1F, ebx, ecx, edx),
            (1, 0, 0, 0x00A1_0F11, 0x0710_0800, LEAF1_ECX, LEAF1_EDX),  # the host's APIC id 7 and 16 threads
            (6, 0, 0, 4, 0, 0, 0),
            (7, 0, SIGNIFICANT, 1, LEAF7_EBX, 1 << 2 | 1 << 4, 1 << 29),  # umip, ospke; arch-capabilities
            (7, 1, SIGNIFICANT, 1 << 5, 0, 0, 0),  # avx512-bf16
            (0xA, 0, 0, 0x0830_0802, 0, 0, 0x603),
            (0xB, 0, SIGNIFICANT, 1, 2, 0x100, 7),  # the host's topology
            (0xB, 1, SIGNIFICANT, 4, 16, 0x201, 7),
            (0xD, 0, SIGNIFICANT, 0xE7, 0x988, 0x988, 0),
            (0xD, 1, SIGNIFICANT, 0xF, 0x988, 1 << 11, 0),
            (0xD, 2, SIGNIFICANT, 0x100, 0x240, 0, 0),
            (0xD, 5, SIGNIFICANT, 0x40, 0x340, 0, 0),
            (0xD, 6, SIGNIFICANT, 0x200, 0x380, 0, 0),
            (0xD, 7, SIGNIFICANT, 0x400, 0x580, 0, 0),
            (0xD, 11, SIGNIFICANT, 0x10, 0, 1, 0),
            (0x4000_0000, 0, 0, 0, *unpack("<3I", b"KVMKVMKVM\0\0\0")),
            (0x4000_0001, 0, 0, 0x0100_7EFB, 0, 0, 0),
            (0x8000_0000, 0, 0, 0x8000_0021, ebx, ecx, edx),
            (0x8000_0001, 0, 0, 0x00A1_0F11, 0, (0x0040_0127 if amd else 0x121), 0x2FD3_FBFF if amd else 0x2C10_0800),
            (0x8000_0008, 0, 0, 0x3030, 1, 0x700F if amd else 0, 0),
        ]
        if amd:
            leaves += [
                (0x8000_000A, 0, 0, 1, 8, 0, 1),
                (0x8000_001D, 0, SIGNIFICANT, 0x4121, 0x01C0_003F, 0x3F, 0),
                (0x8000_001D, 3, SIGNIFICANT, 0x3C163, 0x03C0_003F, 0x7FFF, 1),
                (0x8000_001E, 0, 0, 7, 0x107, 0x100, 0),
                (0x8000_0026, 0, SIGNIFICANT, 1, 2, 0x100, 7),
            ]
        else:
            leaves += [
                (4, 0, SIGNIFICANT, 0x1C00_4121, 0x01C0_003F, 0x3F, 0),
                (4, 3, SIGNIFICANT, 0x1C03_C163, 0x03C0_003F, 0x7FFF, 6),
            ]
        self.leaves = sorted(leaf for leaf in leaves if leaf[0] not in drop)

    def supported_cpuid(self) -> list[Leaf]:
        return list(self.leaves)

    def check_extension(self, capability: int) -> int:
        assert capability == uapi.KVM_CAP_TSC_DEADLINE_TIMER
        return self.tsc_deadline


def table(
    kvm: Any = None, cpu: str = "host", smp: int = 1, index: int = 0, emulated: bool = False
) -> dict[tuple[int, int], tuple[int, ...]]:
    leaves = Cpuid(kvm or FakeKvm(), cpu, smp, emulated).leaves(index)
    assert len({leaf[:2] for leaf in leaves}) == len(leaves), "a leaf twice"
    return {leaf[:2]: leaf[3:] for leaf in leaves}


def features(row: tuple[int, ...], register: int, *bits: int) -> list[bool]:
    return [bool(row[register] >> bit & 1) for bit in bits]


# --- topology ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vendor", [AMD, INTEL])
@pytest.mark.parametrize("smp", [1, 2, 3, 4, 63, 64, 65, 128, 255])
def test_topology_is_one_socket_of_single_threaded_cores(vendor: bytes, smp: int) -> None:
    kvm = FakeKvm(vendor)
    model = Cpuid(kvm, "host", smp, False)
    width = (smp - 1).bit_length()
    ids = set()
    for index in {0, smp // 2, smp - 1}:
        leaves = {leaf[:2]: leaf[3:] for leaf in model.leaves(index)}
        ebx = leaves[1, 0][1]
        ids.add(ebx >> 24)
        assert ebx >> 24 == index
        assert ebx >> 16 & 0xFF == (smp if smp > 1 else 0)
        assert ebx >> 8 & 0xFF == 8, "cache line size is KVM's"
        assert features(leaves[1, 0], 3, 28) == [smp > 1]
        for function in (0xB, 0x1F):
            assert leaves[function, 0] == (0, 1, 0x100, index)
            assert leaves[function, 1] == (width, smp, 0x201, index)
            assert leaves[function, 2][1] == 0 and leaves[function, 2][2] >> 8 == 0, "ends the enumeration"
        assert (0x8000_0026, 0) not in leaves
        if vendor == AMD:
            assert leaves[0x8000_0008, 0][2] == (width << 12 | smp - 1)
            assert leaves[0x8000_001E, 0] == (index, index, 0, 0)
            assert features(leaves[0x8000_0001, 0], 2, 1) == [smp > 1]
            assert leaves[0x8000_001D, 0][0] >> 14 & 0xFFF == 0, "level 1 is a core's own"
            assert leaves[0x8000_001D, 3][0] >> 14 & 0xFFF == smp - 1
        else:
            assert leaves[0x8000_0008, 0][2] == 0
            assert features(leaves[0x8000_0001, 0], 2, 1) == [False]
            cores = (1 << width) - 1
            assert leaves[4, 0][0] == (0x121 | min(cores, 63) << 26)
            assert leaves[4, 3][0] == (0x163 | cores << 14 | min(cores, 63) << 26)
    assert len(ids) == len({0, smp // 2, smp - 1})


def test_apic_ids_are_all_different() -> None:
    model = Cpuid(FakeKvm(), "host", 255, False)
    ids = [next(leaf[4] >> 24 for leaf in model.leaves(index) if leaf[0] == 1) for index in range(255)]
    assert ids == list(range(255))


def test_one_vcpus_table_does_not_change_anothers() -> None:
    model = Cpuid(FakeKvm(), "host", 2, False)
    first = model.leaves(0)
    model.leaves(1)
    assert model.leaves(0) == first


def test_a_host_without_leaf_b_gets_one() -> None:
    kvm = FakeKvm(drop=(0xB,))
    kvm.leaves[0] = (0, 0, 0, 5, *kvm.leaves[0][4:])
    leaves = table(kvm, smp=2, index=1)
    assert leaves[0, 0][0] == 0xB
    assert leaves[0xB, 1] == (1, 2, 0x201, 1)
    assert (0x1F, 0) not in leaves


# --- what KVM leaves to user space ---------------------------------------------------------------------------------------
def test_bits_that_follow_cr4_are_left_to_kvm() -> None:
    leaves = table()
    assert features(leaves[1, 0], 2, 27) == [False]  # OSXSAVE
    assert features(leaves[7, 0], 2, 4, 2) == [False, True]  # OSPKE; UMIP stays


def test_hypervisor_bit_and_signature() -> None:
    leaves = table()
    assert features(leaves[1, 0], 2, 31) == [True]
    assert pack("<3I", *leaves[0x4000_0000, 0][1:]) == b"KVMKVMKVM\0\0\0"
    assert leaves[0x4000_0000, 0][0] == 0x4000_0001, "0 in old kernels means 0x40000001"
    assert (0x4000_0001, 0) in leaves


def test_tsc_deadline_and_x2apic_need_the_lapic_in_the_kernel() -> None:
    def bits(**arguments: Any) -> list[bool]:
        rows = {leaf[:2]: leaf[3:] for leaf in Cpuid(arguments.pop("kvm", FakeKvm()), "host", 1, False, **arguments).leaves(0)}
        return features(rows[1, 0], 2, 21, 24)

    assert bits() == [True, True]  # x2apic, tsc-deadline
    assert bits(kvm=FakeKvm(tsc_deadline=0)) == [True, False]
    assert bits(lapic=False) == [False, False]


def test_amd_repeats_leaf_1_in_the_extended_leaf() -> None:
    leaves = table(cpu="host,-mmx")
    assert features(leaves[1, 0], 3, 23) == features(leaves[0x8000_0001, 0], 3, 23) == [False]
    assert features(table(FakeKvm(INTEL), "host,-mmx")[0x8000_0001, 0], 3, 20, 23) == [True, False]


# --- models and switches -------------------------------------------------------------------------------------------------
def test_host_and_max_show_everything() -> None:
    leaves = table()
    assert leaves == table(cpu="max") == table(cpu="")
    assert features(leaves[1, 0], 2, 13, 26, 28) == [True] * 3
    assert leaves[0xD, 0] == (0xE7, 0x988, 0x988, 0)
    assert leaves[0xD, 1][2] == 1 << 11


@pytest.mark.parametrize("vendor", [AMD, INTEL])
def test_qemu64_is_conservative_and_keeps_the_hosts_vendor(vendor: bytes) -> None:
    leaves = table(FakeKvm(vendor), "qemu64", 4, 3)
    assert pack("<3I", leaves[0, 0][1], leaves[0, 0][3], leaves[0, 0][2]) == vendor
    assert leaves[0, 0][0] == 0xD and leaves[0x8000_0000, 0][0] == 0x8000_000A
    assert leaves[1, 0][0] == 0x0006_0FB1  # family 15, model 107, stepping 1
    assert features(leaves[1, 0], 2, 0, 13, 21, 31) == [True] * 4  # sse3 cx16 x2apic hypervisor
    assert features(leaves[1, 0], 2, 1, 19, 26, 28, 30) == [False] * 5  # pclmulqdq sse4.1 xsave avx rdrand
    assert features(leaves[0x8000_0001, 0], 3, 11, 20, 29) == [True] * 3  # syscall nx lm: 64-bit guests need them
    assert features(leaves[0x8000_0001, 0], 2, 2, 22) == [False] * 2  # svm topoext
    assert leaves[7, 0][1:] == (0, 0, 0)
    assert not [key for key in leaves if key[0] in (5, 0xA, 0xD) or 0xD < key[0] < 0x4000_0000 or key[0] > 0x8000_000A]
    brand = b"".join(pack("<4I", *leaves[0x8000_0002 + at, 0]) for at in range(3))
    assert brand.rstrip(b"\0") == b"pyvmm virtual CPU"
    assert leaves[1, 0][1] >> 24 == 3


def test_opteron_g1_as_kvm_unit_tests_ask_for_it() -> None:
    leaves = table(FakeKvm(INTEL), "Opteron_G1,vendor=AuthenticAMD")
    assert pack("<3I", leaves[0, 0][1], leaves[0, 0][3], leaves[0, 0][2]) == AMD
    assert leaves[1, 0][0] == leaves[0x8000_0001, 0][0] == 0x0000_0F61  # family 15, model 6, stepping 1
    assert features(leaves[1, 0], 2, 0, 13) == [True, False]  # sse3, no cx16
    assert features(leaves[0x8000_0001, 0], 3, 11, 20, 29) == [True] * 3


def test_switches_take_effect_from_left_to_right() -> None:
    bit = (1 << 2,)
    assert bit[0] & table(cpu="host,-umip")[7, 0][2] == 0
    assert table(cpu="host,-umip,+umip")[7, 0][2] == table()[7, 0][2]
    assert table(cpu="host,+umip,umip=off")[7, 0][2] & bit[0] == 0
    assert features(table(cpu="qemu64,+umip,+rdrand,pcid=on")[1, 0], 2, 17, 30) == [True, True]


@pytest.mark.parametrize("name", ["sse4.1", "sse4_1", "sse4-1", "SSE4.1"])
def test_spellings_of_a_feature(name: str) -> None:
    assert features(table(cpu=f"host,-{name}")[1, 0], 2, 19, 20) == [False, True]


def test_kvmclock_is_two_bits() -> None:
    assert table(cpu="host,-kvmclock")[0x4000_0001, 0][0] & 9 == 0
    assert table()[0x4000_0001, 0][0] & 9 == 9


def test_a_feature_the_host_lacks_is_a_warning_and_stays_off() -> None:
    model = Cpuid(FakeKvm(), "host,+la57,+umip", 1, False)
    assert model.warnings == ["this host's KVM does not support the requested feature la57 (CPUID.7H:ECX[bit 16])"]
    assert not model.has("la57") and model.has("umip")
    with pytest.raises(ConfigError, match="enforce.*la57"):
        Cpuid(FakeKvm(), "host,+la57,enforce", 1, False)


def test_a_hint_needs_no_support() -> None:
    model = Cpuid(FakeKvm(), "host,+kvm-hint-dedicated", 1, False)
    assert model.warnings == [] and model.has("kvm-hint-dedicated")


@pytest.mark.parametrize(
    ("cpu", "text"),
    [
        ("hosst", "unknown CPU model 'hosst': did you mean host"),
        ("Skylake-Client", "unknown CPU model 'Skylake-Client': known are host, max, qemu64"),
        ("host,+sse5.1", r"unknown CPU feature 'sse5.1': did you mean sse4\.1"),
        ("host,-", "unknown CPU feature"),
        ("host,umip=perhaps", "expected on or off"),
        ("host,phys-bits=99", "bad value"),
        ("host,vendor=AMD", "bad value"),
        ("host,model-id=\u00fc", "bad value"),
    ],
)
def test_mistakes_are_one_line(cpu: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        Cpuid(FakeKvm(), cpu, 1, False)
    assert "\n" not in str(caught.value)


def test_qemus_other_properties_are_taken() -> None:
    leaves = table(cpu="max,vendor=GenuineIntel,phys-bits=40,family=6,model=0x5e,stepping=3,model-id=Tiny,migratable=off,+vmx-ept")
    assert pack("<3I", leaves[0, 0][1], leaves[0, 0][3], leaves[0, 0][2]) == INTEL
    assert leaves[0x8000_0008, 0][0] & 0xFF == 40
    assert leaves[1, 0][0] == 0x0005_06E3
    assert pack("<4I", *leaves[0x8000_0002, 0]).rstrip(b"\0") == b"Tiny"
    without = table(cpu="host,kvm=off,pmu=off")
    assert not [key for key in without if key[0] >> 28 == 4] and (0xA, 0) not in without


# --- XSAVE ---------------------------------------------------------------------------------------------------------------
def test_xsave_components_follow_the_features() -> None:
    without_512 = table(cpu="host,-avx512f")
    assert without_512[0xD, 0][0] == 7 and without_512[0xD, 0][2] == 0x340
    assert (0xD, 5) not in without_512 and (0xD, 2) in without_512
    assert features(without_512[7, 0], 1, 5, 16, 30) == [True, False, False]  # avx2; avx512f avx512bw
    assert features(without_512[7, 1], 0, 5) == [False]  # avx512-bf16
    without_avx = table(cpu="host,-avx")
    assert without_avx[0xD, 0][:3] == (3, 576, 576)
    assert features(without_avx[7, 0], 1, 5, 16) == [False] * 2
    without = table(cpu="host,-xsave")
    assert not [key for key in without if key[0] == 0xD]
    assert features(without[1, 0], 2, 26, 28, 12) == [False] * 3  # xsave avx fma


def test_a_feature_without_what_it_needs_is_left_out_with_a_warning() -> None:
    model = Cpuid(FakeKvm(), "host,-avx,+avx2", 1, False)
    assert not model.has("avx2")
    assert model.warnings == ["feature avx2 needs avx, which this CPU does not have: left out"]


# --- the profile for a KVM that interprets ring 0 ------------------------------------------------------------------------
def test_an_interpreting_kvm_hides_what_it_cannot_execute() -> None:
    model = Cpuid(FakeKvm(), "host", 1, emulated=True)
    for name in ("cx16", "xsave", "avx", "avx2", "avx512f", "popcnt", "smap", "rdtscp", "kvm-pv-unhalt", "arch-capabilities"):
        assert not model.has(name), name
    for name in ("sse2", "cx8", "fxsr", "pcid", "umip", "kvmclock", "x2apic", "nx", "lm"):
        assert model.has(name), name
    hidden = model.hidden()
    assert "cx16" in hidden and "sse4.1" in hidden and "sse2" not in hidden and "la57" not in hidden
    assert model.warnings == []


def test_the_profile_can_be_overridden() -> None:
    assert Cpuid(FakeKvm(), "host,+cx16", 1, emulated=True).has("cx16")
    assert "cx16" not in Cpuid(FakeKvm(), "host,+cx16", 1, emulated=True).hidden()
    assert not Cpuid(FakeKvm(), "host,+cx16", 1, emulated=True).has("popcnt")
    assert Cpuid(FakeKvm(), "host", 1, emulated=False).hidden() == []
    assert table(cpu="host,safe=off", emulated=True) == table()
    assert not Cpuid(FakeKvm(), "qemu64", 1, emulated=True).has("cx16")


def test_whether_it_interprets_is_found_out_when_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (True, False):
        monkeypatch.setattr(cpuid, "emulates_ring0", lambda answer=answer: answer)
        assert Cpuid(FakeKvm(), "host", 1).has("cx16") is not answer


# --- the table of names --------------------------------------------------------------------------------------------------
def test_names_are_unambiguous_and_inside_the_register() -> None:
    known = cpu_models.features()
    bits = [bit for bits in known.values() for bit in bits]
    assert len(bits) == len(set(bits)), "a bit with two names"
    assert all(0 <= bit[3] < 32 for bit in bits)
    assert {name for name, bits in known.items() if len(bits) > 1} == {"kvmclock"}


@pytest.mark.parametrize(
    ("name", "bit"),
    [  # SDM volume 2A, CPUID; APM volume 3, appendix E
        ("cx16", (1, 0, 2, 13)),
        ("pbe", (1, 0, 3, 31)),
        ("hypervisor", (1, 0, 2, 31)),
        ("tsc-deadline", (1, 0, 2, 24)),
        ("smap", (7, 0, 1, 20)),
        ("avx512vl", (7, 0, 1, 31)),
        ("la57", (7, 0, 2, 16)),
        ("pks", (7, 0, 2, 31)),
        ("ssbd", (7, 0, 3, 31)),
        ("lam", (7, 1, 0, 26)),
        ("rdtscp", (0x8000_0001, 0, 3, 27)),
        ("3dnow", (0x8000_0001, 0, 3, 31)),
        ("topoext", (0x8000_0001, 0, 2, 22)),
        ("mwaitx", (0x8000_0001, 0, 2, 29)),
        ("npt", (0x8000_000A, 0, 3, 0)),
        ("kvm-pv-sched-yield", (0x4000_0001, 0, 0, 13)),
        ("kvmclock-stable-bit", (0x4000_0001, 0, 0, 24)),
    ],
)
def test_bits_of_names(name: str, bit: tuple[int, int, int, int]) -> None:
    assert bit in cpu_models.features()[name]
    assert cpu_models.feature_of(*bit) == name


def test_everything_named_elsewhere_exists() -> None:
    known = cpu_models.features()
    for words in [cpu_models.INTERPRETER_LACKS, cpu_models.ALWAYS, *(model[4] for model in cpu_models.MODELS.values())]:
        assert [name for name in words.split() if cpu_models.normal(name) not in known] == []
    for needed, dependents in cpu_models.DEPENDS:
        assert [name for name in (needed, *dependents.split()) if cpu_models.normal(name) not in known] == []
    for name in [*cpu_models.XCR0_FEATURES.values(), *cpu_models.XSS_FEATURES.values()]:
        assert cpu_models.normal(name) in known


def test_the_interpreters_masks_are_its_names_and_all_that_depends_on_them() -> None:
    known = cpu_models.features()
    names = {cpu_models.normal(name) for name in cpu_models.INTERPRETER_LACKS.split()}
    for _ in cpu_models.DEPENDS:  # as often as the longest chain could need
        for needed, dependents in cpu_models.DEPENDS:
            if cpu_models.normal(needed) in names:
                names |= {cpu_models.normal(name) for name in dependents.split()}
    masks: dict[tuple[int, int, int], int] = {}
    for function, index, register, bit in (bit for name in names for bit in known[name]):
        masks[function, index, register] = masks.get((function, index, register), 0) | 1 << bit
    assert masks == cpu_models.INTERPRETER_MASKS


def test_help_names_models_and_features() -> None:
    text = cpuid.help_text()
    assert "qemu64" in text and " sse4.1 " in text and "kvmclock" in text


def test_the_boot_path_imports_nothing_slow() -> None:
    root = os.path.dirname(os.path.dirname(cpuid.__file__))
    code = f"import sys; sys.path.insert(0, {root!r}); import pyvmm.cpuid; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    slow = {"dataclasses", "typing", "enum", "re", "functools", "collections", "inspect", "difflib", "textwrap"}
    assert slow & set(found.stdout.split()) == set()
