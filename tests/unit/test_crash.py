"""Crash reports from made-up vCPUs: the cause named, the state shown, and nothing that can go wrong stops the report."""

from __future__ import annotations

import builtins
from struct import pack
from typing import Any

import pytest

from pyvmm.boot.cpu import CpuState, long_mode, memory_for, protected_mode, real_mode
from pyvmm.exits import Exit, exit_name
from pyvmm.kvm import kind, structs, uapi
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.observe import causes, disasm, paging
from pyvmm.observe.crash import report

CODE, IDT = 0x2_0000, 0x4_0000


class FakeVcpu:
    """Registers of a CpuState, as the ioctls give them."""

    index = 0

    def __init__(self, state: CpuState) -> None:
        self.state = state
        self.events = structs.kvm_vcpu_events()

    def get_regs(self) -> Any:
        names = [name for name, *_ in structs.kvm_regs._fields_]
        return structs.kvm_regs(**{name: getattr(self.state, name) for name in names})

    def get_sregs(self) -> Any:
        sregs = structs.kvm_sregs()
        for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt", "gdt", "idt"):
            for field, value in getattr(self.state, name):
                setattr(getattr(sregs, name), field, value)
        for name in ("cr0", "cr2", "cr3", "cr4", "efer"):
            setattr(sregs, name, getattr(self.state, name))
        return sregs

    def get_events(self) -> Any:
        return self.events


def shutdown() -> Exit:
    return Exit(name="KVM_EXIT_SHUTDOWN", number=uapi.KVM_EXIT_SHUTDOWN, fields={})


def emulation(data: bytes = b"", *words: int) -> Exit:
    fields = {"suberror": 1, "ndata": len(words), "data": words}
    return Exit(name="KVM_EXIT_INTERNAL_ERROR", number=uapi.KVM_EXIT_INTERNAL_ERROR, fields=fields, data=data)


def failed_entry(reason: int = 0x8000_0021) -> Exit:
    fields = {"hardware_entry_failure_reason": reason, "cpu": 0}
    return Exit(name="KVM_EXIT_FAIL_ENTRY", number=uapi.KVM_EXIT_FAIL_ENTRY, fields=fields)


def guest(state: CpuState, code: bytes = b"\x90") -> tuple[FakeVcpu, GuestMemory]:
    memory = GuestMemory(2 * MIB)
    for gpa, data in memory_for(state):
        memory.write(gpa, data)
    memory.write(CODE, code)
    return FakeVcpu(state), memory


def crash(state: CpuState, code: bytes = b"\x90", exit: Exit | None = None) -> str:
    return report(*guest(state, code), exit or shutdown())  # type: ignore[arg-type]


def with_gates(state: CpuState, memory: GuestMemory, *vectors: int, handler: int = CODE + 0x100) -> None:
    """An IDT of 32 entries in which the given vectors have interrupt gates."""
    wide = bool(state.efer & paging.EFER_LMA)
    size = 16 if wide else 8
    state.idt = state.idt.replace(base=IDT, limit=32 * size - 1)
    for vector in vectors:
        gate = pack("<HHBBH", handler & 0xFFFF, 0x10, 0, 0x8E, handler >> 16 & 0xFFFF) + (pack("<II", handler >> 32, 0) if wide else b"")
        memory.write(IDT + vector * size, gate)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "emulates_ring0", lambda: False)


@pytest.fixture
def software(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "emulates_ring0", lambda: True)


def likely(text: str) -> list[str]:
    """The lines under "likely cause"."""
    lines = text.splitlines()
    if "likely cause:" not in lines:
        return []
    found = []
    for line in lines[lines.index("likely cause:") + 1 :]:
        if not line.startswith("  - "):
            break
        found.append(line[4:])
    return found


# --- the page ------------------------------------------------------------------------------------------------------------
def test_the_page_has_every_part() -> None:
    text = crash(long_mode(CODE, rax=0x1122_3344_5566_7788), b"\x48\x31\xc0\xf4")
    assert text.startswith("pyvmm: vCPU 0 died: KVM_EXIT_SHUTDOWN\n  triple fault")
    assert "mode: 64-bit long mode, ring 0" in text
    assert "rax 1122334455667788" in text and f"rip {CODE:016x}" in text
    assert "cr0 80000011 PE ET PG" in text and "cr4 00000020 PAE" in text and "efer 00000500 LME LMA" in text
    assert "cs  0010 base 0 limit ffffffff type b code 64-bit dpl 0" in text and "ldt 0000 unusable" in text
    assert "<48> 31 c0 f4" in text and f"{CODE:#x}: 4831c0" in text and "xor rax, rax" in text
    assert "stack:\n  0x8ff0: 0000000000000000" in text
    assert text.endswith("\n")


@pytest.mark.parametrize(
    ("state", "mode", "instruction"),
    [  # the same bytes in three modes
        (real_mode(CODE), "real mode", "mov ax, 0x1234"),
        (protected_mode(CODE), "32-bit protected mode, paging off, ring 0", "mov eax, 0x56781234"),
        (long_mode(CODE), "64-bit long mode, ring 0", "mov eax, 0x56781234"),
    ],
)
def test_code_is_decoded_in_the_right_mode(state: CpuState, mode: str, instruction: str) -> None:
    pytest.importorskip("capstone")
    text = crash(state, b"\xb8\x34\x12\x78\x56")
    assert f"mode: {mode}" in text and instruction in text


def test_code_before_rip_is_shown() -> None:
    state = protected_mode(CODE + 4)
    vcpu, memory = guest(state, b"\x11\x22\x33\x44\x90\x91")
    assert "11 22 33 44 <90> 91" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]


def test_real_mode_stack_uses_its_segment() -> None:
    state = real_mode(CODE, rsp=0x1_0100)  # only sp counts
    state.ss = state.ss.replace(base=0x3_0000, selector=0x3000)
    vcpu, memory = guest(state)
    memory.write(0x3_0100, pack("<2H", 0xBEEF, 0xCAFE))
    assert "0x30100: beef cafe" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]


# --- triple faults -------------------------------------------------------------------------------------------------------
def test_no_idt() -> None:
    causes_found = likely(crash(protected_mode(CODE), b"\x0f\x0b"))
    assert any("no IDT (limit 0)" in line for line in causes_found)


def test_ud2_is_named() -> None:
    pytest.importorskip("capstone")
    assert likely(crash(protected_mode(CODE), b"\x0f\x0b"))[0].startswith("ud2 at rip raises #UD on purpose")


@pytest.mark.parametrize(
    ("code", "state", "text"),
    [
        (b"\x8e\xd8", protected_mode(CODE, rax=0x48), "'mov ds, eax' loads selector 0x48, beyond the GDT's limit 0x2f: #GP"),
        (b"\x8e\xd0", protected_mode(CODE, rax=0), "'mov ss, eax' loads the null selector: #GP"),
        (b"\xea\x00\x00\x00\x00\x33\x00", protected_mode(CODE), "'ljmp 0x33:0' loads selector 0x33, beyond the GDT's limit 0x2f: #GP"),
        (b"\xea\x00\x00\x00\x00\x02\x00", protected_mode(CODE), "'ljmp 2:0' loads the null selector: #GP"),
        (b"\x8e\xd8", protected_mode(CODE, rax=0x28), "'mov ds, eax' loads selector 0x28, whose descriptor is not present: #NP"),
    ],
    ids=range(5),
)

def test_selectors_that_lead_nowhere(code: bytes, state: CpuState, text: str) -> None:
    pytest.importorskip("capstone")
    state.gdt = state.gdt.replace(limit=0x2F)
    assert likely(crash(state, code))[0] == text


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (b"\x8e\xd8", protected_mode(CODE)),  # the null selector may be in DS
        (b"\x8e\xd8", protected_mode(CODE, rax=0x18)),
        (b"\x8e\xd8", protected_mode(CODE, rax=0x4C)),  # of an LDT
        (b"\x8e\x18", protected_mode(CODE)),  # from memory
        (b"\x8e\xd8", real_mode(CODE)),
    ],
    ids=range(5),
)

def test_selectors_that_nothing_is_said_of(code: bytes, state: CpuState) -> None:
    assert not any("selector" in line for line in likely(crash(state, code)))


def test_jump_to_unmapped_memory() -> None:
    state = long_mode(CODE)
    state.rip = 0x7000_0000_0000
    assert "the next instruction cannot be fetched: rip 0x700000000000 is not mapped: its PML4 entry is not present" in crash(state)
    state.rip = 0x8000_0000_0000
    text = crash(state)
    assert "is not canonical" in text and "unreadable: 0x800000000000" in text


def test_jump_out_of_ram() -> None:
    state = protected_mode(CODE)
    state.rip = 0x100_0000
    text = crash(state)
    assert "executes at guest physical 0x1000000, which is not RAM" in text
    assert "unreadable: 0x1000000 is guest physical 0x1000000, outside RAM" in text


def test_page_fault_with_the_level_that_ends() -> None:
    state = long_mode(CODE)
    state.cr2 = 0xFFFF_8000_0000_1000
    assert any("cr2 = 0xffff800000001000, which is not mapped: its PML4 entry is not present" in line for line in likely(crash(state)))


def test_ring_3_in_a_kernel_page() -> None:
    state = long_mode(CODE)
    state.cs, state.ss = state.cs.replace(dpl=3), state.ss.replace(dpl=3)
    assert "ring 3 executes at 0x20000, a page that only rings 0 to 2 may use" in crash(state)
    vcpu, memory = guest(state)
    for table in (0x9000, 0xA000, 0xB000):  # the first 2 MiB are ring 3's
        memory.write(table, bytes([memory.read(table, 1)[0] | 4]))
    state.cr2 = 0x20_0000
    assert "cr2 = 0x200000, which ring 3 may not touch" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]


def test_operand_that_leads_nowhere() -> None:
    pytest.importorskip("capstone")
    state = long_mode(CODE, rax=0x8000_0000_0000, rcx=2)
    found = likely(crash(state, b"\x48\x8b\x5c\x88\x10"))  # mov rbx, [rax + rcx*4 + 0x10]
    assert found[0] == "'mov rbx, qword ptr [rax + rcx*4 + 0x10]' accesses 0x800000000018, which is not canonical"


def test_rip_relative_operand() -> None:
    pytest.importorskip("capstone")
    state = long_mode(CODE)
    vcpu, memory = guest(state, b"\x48\x8b\x05" + pack("<i", 0x100))  # mov rax, [rip + 0x100]
    memory.write(0x9000, bytes(8))  # PML4[0] gone: nothing is mapped any more, not even the code
    assert "cannot be fetched" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    (instruction,) = disasm.decode(b"\x48\x8b\x05" + pack("<i", 0x100), CODE, 64)
    (text,) = causes._bad_operand(instruction, regs, sregs, memory)
    assert f"accesses {CODE + 7 + 0x100:#x}, which is not mapped" in text


def test_sse_without_osfxsr() -> None:
    pytest.importorskip("capstone")
    assert "needs CR4.OSFXSR set first: #UD" in likely(crash(long_mode(CODE), b"\x66\x0f\xef\xc0"))[0]
    assert "needs CR4.OSXSAVE" in likely(crash(long_mode(CODE), b"\xc5\xf8\x57\xc0"))[0]


def test_idt_that_is_too_short_or_has_holes() -> None:
    state = protected_mode(CODE)
    vcpu, memory = guest(state)
    with_gates(state, memory, 6, 8, 13)
    found = likely(report(vcpu, memory, shutdown()))  # type: ignore[arg-type]
    assert found == ["the IDT's entry for #PF page fault is not present"]
    state.idt = state.idt.replace(limit=14 * 8 - 1)
    assert likely(report(vcpu, memory, shutdown())) == ["the IDT ends before #PF page fault (limit 0x6f)"]  # type: ignore[arg-type]


def test_idt_with_a_bad_gate() -> None:
    state = long_mode(CODE)
    vcpu, memory = guest(state)
    with_gates(state, memory, 6, 8, 13, 14)
    assert likely(report(vcpu, memory, shutdown()))[0].startswith("an exception whose handler faults")  # type: ignore[arg-type]
    memory.write(IDT + 13 * 16 + 2, b"\x80\x00")
    assert likely(report(vcpu, memory, shutdown())) == [  # type: ignore[arg-type]
        "the IDT's entry for #GP general protection names selector 0x80, outside the GDT (limit 0x2f)"
    ]
    with_gates(state, memory, 13, handler=0x4000_0000_0000)
    assert "the handler for #GP general protection at 0x400000000000 is not mapped" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]
    memory.write(IDT + 13 * 16 + 5, b"\x85")
    assert "has type 0x5, which is no gate in this mode" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]


def test_idt_not_mapped() -> None:
    state = long_mode(CODE)
    state.idt = state.idt.replace(base=0x7F00_0000_0000, limit=0xFFF)
    assert "the IDT itself cannot be read: 0x7f0000000000 is not mapped" in crash(state)


def test_stack_that_cannot_take_a_frame() -> None:
    state = long_mode(CODE)
    state.rsp = 0x6000_0000_0000
    text = crash(state)
    assert "the stack cannot take the exception's frame: 0x5ffffffffff8 is not mapped" in text
    assert "stack:\n  unreadable: 0x600000000000 is not mapped" in text
    state = protected_mode(CODE)
    state.rsp = 0x800_0000
    assert "0x7fffff8 is not RAM" in crash(state)


def test_pending_exception_is_named() -> None:
    vcpu, memory = guest(protected_mode(CODE))
    vcpu.events.exception.injected, vcpu.events.exception.nr = 1, 13
    vcpu.events.exception.has_error_code, vcpu.events.exception.error_code = 1, 0x18
    text = report(vcpu, memory, shutdown())  # type: ignore[arg-type]
    assert likely(text)[0] == "the exception in question: #GP general protection"
    assert "events:\n  #GP general protection being delivered, error code 0x18" in text


def test_registers_after_amds_reset_are_not_shown_as_the_guests() -> None:
    state = real_mode(CODE)
    state.cs = state.cs.replace(base=0xFFFF_0000, selector=0xF000)
    state.rip, state.rdx = 0xFFF0, 0x600
    text = crash(state)
    assert "has reset the vCPU" in text and "registers:" not in text and "0xfff0" in text


def test_paging_without_long_mode_on_a_software_kvm(software: None) -> None:
    pytest.importorskip("capstone")
    assert "no 32-bit or PAE paging" in likely(crash(protected_mode(CODE), b"\x0f\x22\xc0"))[0]


def test_paging_without_long_mode_on_hardware(hardware: None) -> None:
    assert "no 32-bit or PAE paging" not in crash(protected_mode(CODE), b"\x0f\x22\xc0")


# --- emulation failures --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "feature"),
    [
        (b"\x48\x0f\xc7\x08", "cx16"),
        (b"\xf3\x0f\xb8\xc1", "popcnt"),
        (b"\xc5\xfd\x6f\x00", "avx"),
        (b"\xc4\xe2\x71\x9a\xc0", "fma"),
        (b"\x62\xf1\x7c\x48\x28\x00", "avx512f"),
        (b"\x0f\x01\xd0", "xsave"),
        (b"\x0f\x01\xcb", "smap"),
        (b"\x66\x0f\x38\x00\xc1", "ssse3"),
        (b"\x66\x0f\x38\xdc\xc1", "aes"),
        (b"\xf2\x0f\x38\xf0\xc1", "sse4.2"),
        (b"\xc4\xe2\x78\xf2\xc1", "bmi1"),
        (b"\x0f\xae\x28", "xsave"),
    ],
)
def test_an_interpreters_gap_names_the_feature_to_hide(software: None, code: bytes, feature: str) -> None:
    pytest.importorskip("capstone")
    (line,) = likely(crash(long_mode(CODE), code, emulation(code)))
    assert "runs ring 0 in software" in line and f"-cpu host,-{feature} " in line
    from pyvmm import cpu_models

    assert cpu_models.normal(feature) in cpu_models.features()


@pytest.mark.parametrize("code", [b"\xcc", b"\xcd\x80", b"\xdd\xd8", b"\x66\x0f\xef\xc0"])
def test_an_instruction_no_bit_hides(software: None, code: bytes) -> None:
    pytest.importorskip("capstone")
    (line,) = likely(crash(long_mode(CODE), code, emulation()))
    assert "no CPUID bit hides it" in line and code.hex(" ") in line


def test_emulation_failure_on_hardware_is_about_memory(hardware: None) -> None:
    pytest.importorskip("capstone")
    (line,) = likely(crash(long_mode(CODE), b"\x0f\xae\x00", emulation()))
    assert "fxsave" in line and "software" not in line


def test_fetch_from_a_device() -> None:
    state = protected_mode(CODE)
    state.rip = 0xFEE0_0000
    (line,) = likely(crash(state, exit=emulation()))
    assert "jumped to guest physical 0xfee00000, where there is no RAM" in line


def test_kvms_bytes_serve_where_memory_cannot_be_read(software: None) -> None:
    pytest.importorskip("capstone")
    state = long_mode(CODE)
    state.rip = 0x7000_0000_0000
    text = crash(state, exit=emulation(b"\xcc"))
    assert "<cc>" in text and "int3" in likely(text)[0]


def test_delivery_into_nothing() -> None:
    state = protected_mode(CODE)
    state.idt = state.idt.replace(base=0x1000_0000, limit=0x7FF)
    exit = Exit(name="KVM_EXIT_INTERNAL_ERROR", number=17, fields={"suberror": 3, "ndata": 2, "data": (0x8000_030E, 0x31)})
    found = likely(crash(state, exit=exit))
    assert "lies where there is no RAM" in found[0] and found[1] == "it was #PF page fault"
    assert "the IDT's entry for #UD invalid opcode cannot be read" in found


# --- refused entries -----------------------------------------------------------------------------------------------------
def test_a_refused_entry_names_the_broken_rule() -> None:
    state = protected_mode(CODE)
    state.tr = state.tr.replace(type=9)
    text = crash(state, exit=failed_entry())
    assert "invalid guest state" in text
    assert any("tr.type" in line for line in likely(text))


def test_a_refused_entry_without_a_rule_says_so() -> None:
    assert "no rule that pyvmm knows is broken" in likely(crash(protected_mode(CODE), exit=failed_entry()))[0]
    assert likely(crash(protected_mode(CODE), exit=failed_entry(7))) == []


# --- nothing stops the report --------------------------------------------------------------------------------------------
class BrokenVcpu:
    index = 3

    def __getattr__(self, name: str) -> Any:
        raise OSError(5, "gone")


def test_a_dead_vcpu_still_gets_a_report() -> None:
    text = report(BrokenVcpu(), GuestMemory(MIB), shutdown())  # type: ignore[arg-type]
    assert text.startswith("pyvmm: vCPU 3 died: KVM_EXIT_SHUTDOWN") and "registers: unreadable" in text


def test_parts_fail_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("broken")

    monkeypatch.setattr("pyvmm.observe.crash.causes.likely", broken)
    monkeypatch.setattr("pyvmm.observe.crash.read_linear", broken)
    text = crash(long_mode(CODE))
    assert "likely cause: unreadable (ValueError: broken)" in text
    assert "code: unreadable" in text and "stack: unreadable" in text and "cr0 80000011" in text


def test_without_capstone_there_is_hex(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_capstone(name: str, *rest: Any, **more: Any) -> Any:
        if name == "capstone":
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_capstone)
    for exit in (shutdown(), emulation(b"\xcc")):
        text = crash(long_mode(CODE), b"\xcc\x90", exit)
        assert "<cc> 90" in text and disasm.NOT_INSTALLED in text and "unreadable" not in text


def test_page_tables_that_point_nowhere() -> None:
    state = long_mode(CODE)
    vcpu, memory = guest(state)
    state.cr3 = 0x7FFF_F000
    assert "needs a page table at 0x7ffff000, outside guest memory" in report(vcpu, memory, shutdown())  # type: ignore[arg-type]


def test_an_unknown_exit_gets_the_state_without_causes() -> None:
    text = crash(long_mode(CODE), exit=Exit(name=exit_name(99), number=99, fields={}))
    assert "died: KVM_EXIT_? (99)" in text and likely(text) == [] and "registers:" in text


# --- walking page tables -------------------------------------------------------------------------------------------------
def tables32() -> tuple[Any, GuestMemory]:
    vcpu, memory = guest(protected_mode(CODE))
    sregs = vcpu.get_sregs()
    sregs.cr0 |= paging.CR0_PG
    sregs.cr3 = 0x1_0000
    return sregs, memory


def test_32_bit_paging() -> None:
    sregs, memory = tables32()
    memory.write(0x1_0000 + 1 * 4, pack("<I", 0x1_1003))
    memory.write(0x1_1000 + 5 * 4, pack("<I", 0x0005_6003))
    found = paging.walk(memory, sregs, 0x40_5123)
    assert found.gpa == 0x5_6123 and [step[0] for step in found.steps] == ["PD", "PT"]
    assert found.writable and not found.user
    memory.write(0x1_0000 + 1 * 4, pack("<I", 0x1_1007))
    memory.write(0x1_1000 + 5 * 4, pack("<I", 0x0005_6005))
    found = paging.walk(memory, sregs, 0x40_5123)
    assert found.user and not found.writable
    assert paging.walk(memory, sregs, 0x40_6123).fault == "is not mapped: its PT entry is not present"
    assert paging.walk(memory, sregs, 0x80_0000).fault == "is not mapped: its PD entry is not present"


def test_pse_page_needs_cr4_pse() -> None:
    sregs, memory = tables32()
    memory.write(0x1_0000 + 2 * 4, pack("<I", 0x00C0_0083 | 1 << 13))  # PSE-36: address bit 32
    assert paging.walk(memory, sregs, 0x80_0123).gpa is None, "without PSE the bit means nothing: a table at 0xc02000"
    sregs.cr4 |= paging.CR4_PSE
    assert paging.walk(memory, sregs, 0x80_0123).gpa == 0x1_00C0_0123


def test_pae_paging() -> None:
    sregs, memory = tables32()
    sregs.cr4 |= paging.CR4_PAE
    sregs.cr3 = 0x1_0020  # 32-byte aligned
    memory.write(0x1_0020 + 3 * 8, pack("<Q", 0x1_1001))
    memory.write(0x1_1000 + 2 * 8, pack("<Q", 0x0060_0083))
    memory.write(0x1_1000 + 3 * 8, pack("<Q", 0x1_2003))
    memory.write(0x1_2000 + 7 * 8, pack("<Q", 0x7_7003 | 1 << 63))
    base = 0xC000_0000
    assert paging.walk(memory, sregs, base + 0x40_1234).gpa == 0x60_1234
    assert paging.walk(memory, sregs, base + 0x60_7ABC).gpa == 0x7_7ABC
    assert paging.walk(memory, sregs, 0).fault == "is not mapped: its PDPT entry is not present"


def test_long_mode_page_sizes() -> None:
    vcpu, memory = guest(long_mode(CODE))
    sregs = vcpu.get_sregs()
    assert paging.walk(memory, sregs, 0x1234_5678).gpa == 0x1234_5678  # 2 MiB pages of the boot tables
    memory.write(0x9000 + 1 * 8, pack("<Q", 0x1_1003))  # PML4[1]
    memory.write(0x1_1000, pack("<Q", 0x4000_0083))  # 1 GiB
    memory.write(0x1_1008, pack("<Q", 0x1_2003))
    memory.write(0x1_2000, pack("<Q", 0x1_3003))
    memory.write(0x1_3000 + 8, pack("<Q", 0xAB_C003))
    base = 1 << 39
    assert paging.walk(memory, sregs, base + 0x123_4567).gpa == 0x4123_4567
    found = paging.walk(memory, sregs, base + (1 << 30) + 0x1010)
    assert found.gpa == 0xAB_C010 and [step[0] for step in found.steps] == ["PML4", "PDPT", "PD", "PT"]


def test_five_levels() -> None:
    vcpu, memory = guest(long_mode(CODE))
    sregs = vcpu.get_sregs()
    sregs.cr4 |= paging.CR4_LA57
    sregs.cr3 = 0x1_0000
    memory.write(0x1_0000, pack("<Q", 0x9003))  # PML5[0] -> the boot PML4
    assert paging.walk(memory, sregs, 0x1000).gpa == 0x1000
    assert paging.walk(memory, sregs, 1 << 50).fault == "is not mapped: its PML5 entry is not present"
    assert paging.walk(memory, sregs, 1 << 56).fault == "is not canonical"


def test_reading_stops_where_mapping_stops() -> None:
    sregs, memory = tables32()
    memory.write(0x1_0000, pack("<I", 0x1_1003))
    memory.write(0x1_1000, pack("<I", 0x5_0003))
    memory.write(0x5_0FFE, b"\x11\x22")
    assert paging.read_linear(memory, sregs, 0xFFE, 8) == b"\x11\x22"
    memory.write(0x1_1004, pack("<I", 0x6_0003))
    memory.write(0x6_0000, b"\x33\x44")
    assert paging.read_linear(memory, sregs, 0xFFE, 4) == b"\x11\x22\x33\x44"
