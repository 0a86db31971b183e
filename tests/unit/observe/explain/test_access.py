"""I/O and MMIO exits against a board: who, which register, why, what next."""

from __future__ import annotations

from pyvmm.observe.explain.access import Access, decode
from pyvmm.observe.explain.explain import explain
from tests.support.exit_pages import BOARD, io, mmio


def access(exit: object, **rest: object) -> Access:
    found = explain(exit, BOARD, **rest).access  # type: ignore[arg-type]
    assert found is not None
    return found


def test_com1_by_its_port_and_others_by_name() -> None:
    assert access(io(0x3F8, b"H")).device == "COM1"
    assert access(io(0x2F8, b"H")).device == "COM2"
    assert access(mmio(0xC002_0000)).device == "nic0"
    assert access(mmio(0xC000_0014)).device == "blk0"


def test_state_before_the_access_chooses_the_register() -> None:
    assert access(io(0x3F8, b"\1")).registers[0].name == "THR"
    assert access(io(0x3F8, b"\1"), before={"serial0": {"lcr": 0x83}}).registers[0].name == "DLL"


def test_configuration_space_of_a_virtio_device() -> None:
    (register,) = access(mmio(0xC000_2000), answer=bytes.fromhex("00080000")).registers
    assert (register.name, register.value, register.note) == ("CAPACITY", 0x800, "only this part of its 8 bytes")


def test_what_another_register_selects() -> None:
    (size,) = access(mmio(0xC000_0018, size=2), before={"blk0-core": {"queue_select": 1}}).registers
    assert size.of == "of queue 1"
    (features,) = access(
        mmio(0xC000_0004), before={"blk0-core": {"device_feature_select": 0}}, answer=(1 << 9).to_bytes(4, "little")
    ).registers
    assert [each.name for each in features.bits] == ["FLUSH"]


def test_wide_accesses_are_split() -> None:
    found = access(io(0x3FC, size=4), answer=bytes.fromhex("0b60b000"))
    assert [each.shown for each in found.registers] == ["0x0b", "0x60", "0xb0", "0x00"]
    assert found.registers[0].note == "the bus splits the access into pieces of 1"


def test_writing_what_is_read_only() -> None:
    assert access(io(0x3FD, b"\0")).registers[0].note == "cannot be written: the write changes nothing"


def test_why() -> None:
    assert "No device of this machine claims it either, so writes vanish" in access(io(0x1234, b"\0")).why
    assert "it reads as all ones" in access(mmio(0xF800_0000)).why
    assert access(io(0x21, b"\xff")).why.startswith("As a rule the master 8259A interrupt controller answers at port 0x21")
    assert "ioeventfd" in access(mmio(0xC000_3000, b"\0\0")).why and "came before" in access(mmio(0xC000_3000, b"\0\0")).why
    assert "read-only" in access(mmio(0x1000, b"\0")).why
    assert "coalescing" in access(io(0x3F8, b"H")).why


def test_without_a_board() -> None:
    found = decode(io(0x3F8, b"H"), None, None, None, None)
    assert (found.device, found.registers, found.values) == ("", [], [0x48])
    assert "No device of this machine" not in found.why


def test_reentry() -> None:
    assert access(io(0x3FD)).reentry.startswith("KVM copies 1 byte from io.data_offset in the page to al")
    assert access(io(0x3F8, b"H")).reentry.startswith("There is nothing to bring back: KVM moves rip behind")
    assert "takes 4 bytes from mmio.data at 0x28" in access(mmio(0xC000_0004)).reentry
    assert access(mmio(0xC000_0004, b"abcd")).reentry.endswith("KVM's emulator finishes the instruction, and the guest goes on.")


def test_more_may_come_at_a_page_s_end_and_after_8_bytes() -> None:
    assert "the rest is another exit" in access(mmio(0xC000_0FFE, b"ab")).reentry
    assert "the rest is another exit" in access(mmio(0xC000_0020, size=8)).reentry
    assert "the rest is another exit" not in access(mmio(0xC000_0020, size=4)).reentry


def test_repeated_port_io() -> None:
    told = explain(io(0xE0, bytes(range(8)), 2), BOARD)
    assert told.title == "vCPU 0 wrote 4 times 2 bytes to port 0xe0, where nobody answers"
    assert told.access is not None and told.access.values == [0x100, 0x302, 0x504, 0x706]
