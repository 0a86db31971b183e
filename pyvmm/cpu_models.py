"""CPU features by QEMU's names, the models made of them, and what a KVM that interprets ring 0 cannot execute.

Bits: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; KVM's own leaf: Documentation/virt/kvm/x86/cpuid.rst.
Names are QEMU's, so that ``-cpu`` lines can be taken over; ``-``, ``_`` and ``.`` in a name mean the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Bit = tuple[int, int, int, int]  # (function, index, register, bit); register 0..3 = EAX EBX ECX EDX

EAX, EBX, ECX, EDX = 0, 1, 2, 3

# One line per register that holds feature bits. Names stand in the order of their bits from 0; "22:name" jumps to a bit.
WORDS: tuple[tuple[int, int, int, str], ...] = (
    (
        1,
        0,
        EDX,
        "fpu vme de pse tsc msr pae mce cx8 apic 11:sep mtrr pge mca cmov pat pse36 pn clflush 21:ds acpi mmx fxsr "
        "sse sse2 ss ht tm ia64 pbe",
    ),
    (
        1,
        0,
        ECX,
        "pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid 12:fma cx16 xtpr pdcm 17:pcid dca sse4.1 sse4.2 x2apic "
        "movbe popcnt tsc-deadline aes xsave 28:avx f16c rdrand hypervisor",
    ),
    (6, 0, EAX, "2:arat"),
    (
        7,
        0,
        EBX,
        "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm 13:zero-fcs-fds mpx 16:avx512f avx512dq rdseed "
        "adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
    ),
    (
        7,
        0,
        ECX,
        "1:avx512vbmi umip pku 5:waitpkg avx512vbmi2 shstk gfni vaes vpclmulqdq avx512vnni avx512bitalg 14:avx512-vpopcntdq 16:la57 "
        "22:rdpid 24:bus-lock-detect cldemote 27:movdiri movdir64b 30:sgxlc pks",
    ),
    (
        7,
        0,
        EDX,
        "2:avx512-4vnniw avx512-4fmaps fsrm 8:avx512-vp2intersect 10:md-clear 14:serialize 16:tsx-ldtrk 19:arch-lbr ibt 22:amx-bf16 "
        "avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
    ),
    (
        7,
        1,
        EAX,
        "sha512 sm3 sm4 4:avx-vnni avx512-bf16 lass cmpccxadd 10:fzrm fsrs fsrc 17:fred lkgs wrmsrns 21:amx-fp16 23:avx-ifma 26:lam",
    ),
    (7, 1, EDX, "4:avx-vnni-int8 avx-ne-convert 8:amx-complex 10:avx-vnni-int16 14:prefetchiti 19:avx10"),
    (7, 2, EDX, "psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"),
    (0xD, 1, EAX, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (
        0x4000_0001,
        0,
        EAX,
        "kvmclock kvm-nopiodelay kvm-mmu kvmclock kvm-asyncpf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt 9:kvm-pv-tlb-flush "
        "kvm-asyncpf-vmexit kvm-pv-ipi kvm-poll-control kvm-pv-sched-yield kvm-asyncpf-int kvm-msi-ext-dest-id kvm-map-gpa-range "
        "kvm-migration-control 24:kvmclock-stable-bit",
    ),
    (0x4000_0001, 0, EDX, "kvm-hint-dedicated"),
    (0x8000_0001, 0, EDX, "11:syscall 20:nx 22:mmxext 25:fxsr-opt pdpe1gb rdtscp 29:lm 3dnowext 3dnow"),
    (
        0x8000_0001,
        0,
        ECX,
        "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt 15:lwp fma4 tce "
        "19:nodeid-msr 21:tbm topoext perfctr-core perfctr-nb 28:perfctr-llc mwaitx",
    ),
    (0x8000_0007, 0, EDX, "8:invtsc"),
    (
        0x8000_0008,
        0,
        EBX,
        "clzero 2:xsaveerptr 4:rdpru 9:wbnoinvd 12:ibpb 14:ibrs amd-stibp 17:stibp-always-on 24:amd-ssbd virt-ssbd amd-no-ssb 28:amd-psfd",
    ),
    (
        0x8000_000A,
        0,
        EDX,
        "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists 10:pause-filter 12:pfthreshold avic "
        "15:v-vmsave-vmload vgif 25:vnmi 28:svme-addr-chk",
    ),
    (0x8000_0021, 0, EAX, "no-nested-data-bp 2:lfence-always-serializing 6:null-sel-clr-base 8:auto-ibrs"),
)

_ALIASES = {
    "sse3": "pni",
    "pclmuldq": "pclmulqdq",
    "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
    "ffxsr": "fxsr-opt",
    "i64": "lm",
    "xd": "nx",
    "lzcnt": "abm",
}

# (a feature, the features that mean nothing without it): QEMU drops the latter with the former, so does pyvmm.
DEPENDS: tuple[tuple[str, str], ...] = (
    ("xsave", "xsaveopt xsavec xgetbv1 xsaves avx mpx pku"),
    ("avx", "avx2 fma f16c vaes vpclmulqdq avx512f xop fma4 avx-vnni avx-ifma avx-vnni-int8 avx-ne-convert avx-vnni-int16 sha512 sm3 sm4"),
    (
        "avx512f",
        "avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 avx512vnni avx512bitalg "
        "avx512-vpopcntdq avx512-4vnniw avx512-4fmaps avx512-vp2intersect avx512-bf16 avx512-fp16 avx10",
    ),
    ("xsavec", "xfd amx-tile"),
    ("xfd", "amx-tile"),
    ("amx-tile", "amx-int8 amx-bf16 amx-fp16 amx-complex"),
    (
        "svm",
        "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists pause-filter "
        "pfthreshold avic v-vmsave-vmload vgif vnmi",
    ),
    ("sse2", "pni ssse3 sse4.1 sse4.2 sse4a aes pclmulqdq sha-ni gfni"),
    ("lm", "lahf-lm syscall"),
    ("fred", "lkgs"),
)

# XSAVE state components (SDM volume 1, 13.1) and the feature each belongs to; x87 and SSE belong to xsave itself.
XCR0_FEATURES = {2: "avx", 3: "mpx", 4: "mpx", 5: "avx512f", 6: "avx512f", 7: "avx512f", 9: "pku", 17: "amx-tile", 18: "amx-tile"}
XSS_FEATURES = {8: "intel-pt", 11: "shstk", 12: "shstk", 15: "arch-lbr"}

# Ring-0 code on a software KVM runs through an instruction emulator (no virtualisation extension below it). What the
# emulator lacks ends the guest with KVM_EXIT_INTERNAL_ERROR, or (lzcnt, tzcnt) computes something else. Guests look at
# CPUID before they use these, so hiding the bits is enough. SSE and SSE2 stay: every 64-bit guest takes them as given.
# kvm-pv-*: their hypercalls never return there. arch-capabilities: the MSR behind the bit is refused.
INTERPRETER_LACKS = (
    "cx16 popcnt rdtscp rdpid monitor mwaitx xsave avx pni ssse3 sse4.1 sse4.2 sse4a aes pclmulqdq sha-ni gfni movbe bmi1 bmi2 abm tbm adx "
    "smap pku clwb clzero waitpkg movdiri movdir64b serialize shstk ibt xop fma4 lwp 3dnow 3dnowext cmpccxadd wrmsrns lkgs fred rdpru "
    "rdrand rdseed arch-capabilities kvm-pv-unhalt kvm-pv-ipi kvm-pv-sched-yield kvm-map-gpa-range"
)
# KVM nested in QEMU's emulator: XSETBV is not intercepted there, so KVM never learns XCR0 and its CPUID leaf 0xD is wrong.
TCG_BRAND = "QEMU TCG"
TCG_MASKS = {(1, 0, ECX): 1 << 26}  # XSAVE; what needs it goes with it
# The bits of these and of what depends on them, so that starting on such a host parses no names; a test keeps them in step.
INTERPRETER_MASKS = {
    (1, 0, ECX): 0x76D8_320B,
    (7, 0, EBX): 0xFD3F_4128,
    (7, 0, ECX): 0x1840_5FEA,
    (7, 0, EDX): 0x23D0_410C,
    (7, 1, EAX): 0x00AE_00B7,
    (7, 1, EDX): 0x0008_0530,
    (0xD, 1, EAX): 0x0000_001F,
    (0x4000_0001, 0, EAX): 0x0001_2880,
    (0x8000_0001, 0, EDX): 0xC800_0000,
    (0x8000_0001, 0, ECX): 0x2021_8860,
    (0x8000_0008, 0, EBX): 0x0000_0011,
}

# Family, model, stepping, brand string, features. Everything KVM offers in its own leaf and ``ALWAYS`` come on top.
MODELS: dict[str, tuple[int, int, int, str, str]] = {
    "qemu64": (
        15,
        107,
        1,
        "pyvmm virtual CPU",
        "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 lm syscall nx lahf-lm",
    ),
    "kvm64": (
        15,
        6,
        1,
        "pyvmm virtual CPU (kvm64)",
        "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 lm syscall nx",
    ),
    "Opteron_G1": (  # K8 revision E: what kvm-unit-tests' syscall asks for
        15,
        6,
        1,
        "AMD Opteron 240 (Gen 1 Class Opteron)",
        "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni lm syscall nx",
    ),
}
ALWAYS = "hypervisor x2apic arat kvm-hint-dedicated"
LEVEL, EXTENDED_LEVEL = 0xD, 0x8000_000A  # last leaves of a named model, as QEMU's qemu64

# Bits a user may switch on though KVM does not list them: they tell the guest something, KVM need not do anything.
FREE = ("kvm-hint-dedicated", "hypervisor")


def _spell(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").lower()


_features: dict[str, list[Bit]] = {}


def features() -> dict[str, list[Bit]]:
    """Every feature's bits by normal spelling (see ``normal``). "kvmclock" alone has two. Made on first use, 0.1 ms."""
    table = _features
    if table:
        return table
    for function, index, register, names in WORDS:
        bit = 0
        for name in names.split():
            at, colon, rest = name.partition(":")
            if colon:
                bit, name = int(at), rest
            table.setdefault(_spell(name), []).append((function, index, register, bit))
            bit += 1
    return table


def normal(name: str) -> str:
    """The one spelling of a feature name that ``features`` knows: lower case, dashes, no alias."""
    name = _spell(name)
    return _spell(_ALIASES.get(name, name))


def shown(name: str) -> str:
    """A normal spelling as QEMU and the manuals print it."""
    return name.replace("sse4-", "sse4.")


def feature_of(function: int, index: int, register: int, bit: int) -> str:
    """QEMU's name of a CPUID bit, or ""."""
    for name, bits in features().items():
        if (function, index, register, bit) in bits:
            return name
    return ""
