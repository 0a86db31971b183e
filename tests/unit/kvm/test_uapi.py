"""uapi.py and structs.py against <linux/kvm.h>: every number, size and offset, as this machine's compiler sees them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm import exits
from pyvmm.kvm import structs, uapi

# Newer than the oldest header we test with (6.1); checked as soon as the header has them
MAY_BE_MISSING = {"KVM_EXIT_MEMORY_FAULT"}

NUMBERS = {name: value for name, value in vars(uapi).items() if name.startswith("KVM_") and isinstance(value, int)}
STRUCTS = {
    name: kind
    for name, kind in ((name, getattr(structs, name)) for name in structs.NAMES)
    if name.startswith("kvm_")
}
# Where the run loop and the decoder look into struct kvm_run -> the header's name of the place
RUN_PAGE = {
    structs.RUN_REQUEST_INTERRUPT_WINDOW: "request_interrupt_window",
    structs.RUN_IMMEDIATE_EXIT: "immediate_exit",
    structs.RUN_EXIT_REASON: "exit_reason",
    structs.RUN_READY_FOR_INTERRUPT: "ready_for_interrupt_injection",
    structs.RUN_IF_FLAG: "if_flag",
    structs.RUN_FLAGS: "flags",
    structs.RUN_CR8: "cr8",
    structs.RUN_APIC_BASE: "apic_base",
    structs.RUN_UNION: "hw",
    structs.RUN_VALID_REGS: "kvm_valid_regs",
    structs.RUN_DIRTY_REGS: "kvm_dirty_regs",
    structs.RUN_SYNC_REGS: "s",
}
RUN_UNION = {
    structs.RUN_IO_DIRECTION: "io.direction",
    structs.RUN_IO_SIZE: "io.size",
    structs.RUN_IO_PORT: "io.port",
    structs.RUN_IO_COUNT: "io.count",
    structs.RUN_IO_DATA_OFFSET: "io.data_offset",
}
RUN_MMIO = {
    structs.RUN_MMIO_ADDRESS: "mmio.phys_addr",
    structs.RUN_MMIO_DATA: "mmio.data",
    structs.RUN_MMIO_LEN: "mmio.len",
    structs.RUN_MMIO_IS_WRITE: "mmio.is_write",
}
# exit reason -> (member of the union, {our field: the header's}); fields that are named alike are left out
MEMBERS: dict[int, tuple[str, dict[str, str]]] = {
    uapi.KVM_EXIT_UNKNOWN: ("hw", {}),
    uapi.KVM_EXIT_EXCEPTION: ("ex", {}),
    uapi.KVM_EXIT_IO: ("io", {}),
    uapi.KVM_EXIT_HYPERCALL: ("hypercall", {}),
    uapi.KVM_EXIT_DEBUG: ("debug.arch", {}),
    uapi.KVM_EXIT_MMIO: ("mmio", {"address": "phys_addr", "size": "len"}),
    uapi.KVM_EXIT_FAIL_ENTRY: ("fail_entry", {}),
    uapi.KVM_EXIT_TPR_ACCESS: ("tpr_access", {}),
    uapi.KVM_EXIT_INTERNAL_ERROR: ("internal", {}),
    uapi.KVM_EXIT_SYSTEM_EVENT: ("system_event", {}),
    uapi.KVM_EXIT_IOAPIC_EOI: ("eoi", {}),
    uapi.KVM_EXIT_HYPERV: ("hyperv", {}),
    uapi.KVM_EXIT_X86_RDMSR: ("msr", {"value": "data"}),
    uapi.KVM_EXIT_X86_WRMSR: ("msr", {"value": "data"}),
    uapi.KVM_EXIT_XEN: ("xen", {}),
    uapi.KVM_EXIT_NOTIFY: ("notify", {}),
}

# struct.field of ours -> the header's spelling of it
SPELLED = {"kvm_guest_debug.debugreg": "arch.debugreg"}


def _is_padding(name: str) -> bool:
    return name.startswith(("pad", "reserved"))


def _program() -> str:
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <linux/kvm.h>", "int main(void) {"]
    for name in NUMBERS:
        if name.startswith(("KVM_MP_STATE", "KVM_IRQCHIP")):
            lines.append(f'printf("n {name} %llu\\n", (unsigned long long){name});')
        else:
            lines.append(f'#ifdef {name}\nprintf("n {name} %llu\\n", (unsigned long long){name});\n#endif')
    for name, kind in STRUCTS.items():
        lines.append(f'printf("s {name} %zu\\n", sizeof(struct {name}));')
        for field, *_ in kind._fields_:
            if not _is_padding(field):
                there = SPELLED.get(f"{name}.{field}", field)
                lines.append(
                    f'printf("f {name}.{field} %zu %zu\\n", offsetof(struct {name}, {there}), sizeof(((struct {name} *)0)->{there}));'
                )
    places = {*RUN_PAGE.values(), *RUN_UNION.values(), *RUN_MMIO.values()}
    for number, (member, names) in MEMBERS.items():
        places |= {f"{member}.{names.get(field, field)}" for field, _, _ in exits.LAYOUTS[number]}
    places |= {"emulation_failure.insn_size", "emulation_failure.insn_bytes", "internal.data", "system_event.data"}
    for place in sorted(places):
        lines.append(f'printf("r {place} %zu\\n", offsetof(struct kvm_run, {place}));')
    lines.append('printf("n exponent_is_signed %d\\n", ((struct kvm_stats_desc){.exponent = -1}).exponent < 0);')
    return "\n".join([*lines, "return 0; }"])


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[int]]]:
    """What the header says: kind -> name -> numbers."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("no C compiler or no <linux/kvm.h> to compare with")
    folder = tmp_path_factory.mktemp("uapi")
    (folder / "uapi.c").write_text(_program())
    built = subprocess.run([compiler, "-w", "-o", folder / "uapi", folder / "uapi.c"], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    output = subprocess.run([folder / "uapi"], capture_output=True, text=True, timeout=10, check=True).stdout
    found: dict[str, dict[str, list[int]]] = {"n": {}, "s": {}, "f": {}, "r": {}}
    for line in output.splitlines():
        kind, name, *numbers = line.split()
        found[kind][name] = [int(number) for number in numbers]
    return found


def test_every_number_is_the_headers(header: dict[str, dict[str, list[int]]]) -> None:
    numbers = header["n"]
    assert {name for name in NUMBERS if name not in numbers} <= MAY_BE_MISSING
    assert {name: hex(value) for name, value in NUMBERS.items() if numbers.get(name, [value]) != [value]} == {}


def test_every_struct_has_the_headers_size(header: dict[str, dict[str, list[int]]]) -> None:
    assert {name: ctypes.sizeof(kind) for name, kind in STRUCTS.items()} == {name: sizes[0] for name, sizes in header["s"].items()}


def test_ioctl_numbers_hold_the_sizes_of_the_structs() -> None:
    assert {name: ctypes.sizeof(getattr(structs, name)) for name in uapi.STRUCT_SIZES if name != "u64"} | {"u64": 8} == uapi.STRUCT_SIZES


def test_every_field_is_where_the_header_has_it(header: dict[str, dict[str, list[int]]]) -> None:
    ours = {}
    for name, kind in STRUCTS.items():
        for field, *_ in kind._fields_:
            if not _is_padding(field):
                place = getattr(kind, field)
                ours[f"{name}.{field}"] = [place.offset, place.size]
    assert ours == header["f"]


def test_run_page_offsets(header: dict[str, dict[str, list[int]]]) -> None:
    for places in (RUN_PAGE, RUN_UNION, RUN_MMIO):
        for offset, place in places.items():
            assert header["r"][place] == [offset], place


def test_exit_layouts_are_the_headers(header: dict[str, dict[str, list[int]]]) -> None:
    for number, (member, names) in MEMBERS.items():
        for field, _, offset in exits.LAYOUTS[number]:
            assert header["r"][f"{member}.{names.get(field, field)}"] == [offset], (exits.exit_name(number), field)
    assert set(exits.LAYOUTS) - set(MEMBERS) == {uapi.KVM_EXIT_MEMORY_FAULT}
    assert header["r"]["emulation_failure.insn_size"] == [0x30]
    assert header["r"]["emulation_failure.insn_bytes"] == [0x31]
    assert header["r"]["internal.data"] == header["r"]["system_event.data"] == [structs.RUN_UNION + 8]


def test_statistics_exponents_are_signed(header: dict[str, dict[str, list[int]]]) -> None:
    assert header["n"]["exponent_is_signed"] == [1]
    assert structs.kvm_stats_desc(exponent=-9).exponent == -9


@pytest.mark.parametrize(
    ("name", "value"),
    [  # from Documentation/virt/kvm/api.rst's header, kernel 6.1; these hold without any header installed
        ("KVM_GET_API_VERSION", 0xAE00),
        ("KVM_CREATE_VM", 0xAE01),
        ("KVM_RUN", 0xAE80),
        ("KVM_GET_REGS", 0x8090AE81),
        ("KVM_SET_SREGS", 0x4138AE84),
        ("KVM_SET_USER_MEMORY_REGION", 0x4020AE46),
        ("KVM_SET_IRQCHIP", 0x8208AE63),
        ("KVM_GET_SUPPORTED_CPUID", 0xC008AE05),
        ("KVM_SET_CPUID2", 0x4008AE90),
        ("KVM_IRQFD", 0x4020AE76),
        ("KVM_IOEVENTFD", 0x4040AE79),
        ("KVM_SET_GUEST_DEBUG", 0x4048AE9B),
        ("KVM_GET_XSAVE2", 0x9000AECF),
        ("KVM_CLEAR_DIRTY_LOG", 0xC018AEC0),
        ("KVM_EXIT_MMIO", 6),
        ("KVM_CAP_COALESCED_PIO", 162),
    ],
)
def test_known_numbers(name: str, value: int) -> None:
    assert getattr(uapi, name) == value


def test_ioctl_names() -> None:
    assert uapi.ioctl_name(uapi.KVM_SET_SREGS) == "KVM_SET_SREGS"
    # the same number 0xa3 in both; direction and size tell them apart
    assert uapi.ioctl_name(uapi.KVM_ENABLE_CAP) == "KVM_ENABLE_CAP"
    assert uapi.ioctl_name(uapi.KVM_GET_TSC_KHZ) == "KVM_GET_TSC_KHZ"
    assert uapi.ioctl_name(0x1234) == "ioctl 0x1234"


def test_with_array_keeps_the_headers_size_in_the_ioctl_number() -> None:
    table = structs.with_array(structs.kvm_msrs, structs.kvm_msr_entry, 3)
    assert ctypes.sizeof(table) == 8 + 3 * 16
    assert table.entries.offset == ctypes.sizeof(structs.kvm_msrs)
