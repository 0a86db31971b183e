"""PCI configuration accesses: who, which register, which capability."""

from __future__ import annotations

from pyvmm.observe.explain.explain import explain
from pyvmm.observe.explain.pci import address, chosen, register_offset, registers
from tests.support.exit_pages import BOARD, CONFIG, io

BLK = BOARD.functions[8]
STATES = {"blk0-card": {"config": bytes(CONFIG)}}


def test_addresses_in_words() -> None:
    assert address(0x8000_0810, BOARD) == "slot 1, function 0 (blk0), register 0x10"
    assert address(0x8000_1000, BOARD) == "slot 2, function 0 (nobody there), register 0x0"
    assert address(0x0000_0800, BOARD) == "slot 1, function 0 (blk0), register 0x0; CONE is 0, so the data port is off"
    assert address(0x8001_0800, BOARD) == "bus 1, slot 1, function 0 (nobody there), register 0x0"


def test_who_is_chosen() -> None:
    assert chosen(BOARD, 0x8000_0800) is BLK
    assert chosen(BOARD, 0x0000_0800) is None
    assert chosen(BOARD, 0x8001_0800) is None


def test_which_byte() -> None:
    assert register_offset(0x8000_0810, 2, 2) == 0x12
    assert register_offset(0x8000_0813, 0, 1) == 0x13
    assert register_offset(0x8000_0813, 0, 4) == 0x10


def test_header_and_capabilities() -> None:
    found, capability = registers(BLK, 0x04, 4, False, STATES)
    assert ([each.name for each in found], capability) == (["CMD", "STS"], "")
    found, capability = registers(BLK, 0x42, 2, True, STATES)
    assert ([each.name for each in found], capability) == (["CONTROL"], "MSI-X")
    found, capability = registers(BLK, 0x50, 1, False, STATES)
    assert ([each.name for each in found], capability) == (["BAR"], "virtio, common configuration")
    assert [each.name for each in registers(BLK, 0x50, 1, False, None)[0]] == ["RESERVED"]


def test_what_only_other_cards_have() -> None:
    """Linux sizes every function's ROM; found by explaining its boot."""
    told = explain(io(0xCFC, b"\0\xf8\xff\xff", 4), BOARD, before={"pci": {"address": 0x8000_0830}})
    assert told.title == "vCPU 0 wrote 0xfffff800 to blk0's PCI configuration at 0x30, ROM"
    assert [each.name for each in registers(BLK, 0x3C, 4, False, STATES)[0]] == ["ILINE", "IPIN"]
    assert [each.name for each in registers(BLK, 0x3E, 2, False, STATES)[0]] == ["MIN_GNT", "MAX_LAT"]
    assert [each.name for each in registers(BLK, 0x38, 4, False, STATES)[0]] == ["RESERVED"]


def test_a_list_that_goes_in_circles_ends() -> None:
    config = bytearray(CONFIG)
    config[0x41] = 0x40
    assert registers(BLK, 0xF0, 4, False, {"blk0-card": {"config": bytes(config)}})[1] == ""


def test_the_data_port_shows_the_function() -> None:
    before = {"pci": {"address": 0x8000_0840}, **STATES}
    told = explain(io(0xCFC, size=4), BOARD, before=before, answer=bytes.fromhex("11 4c 01 00"))
    assert told.title == "vCPU 0 read 0x00014c11 from blk0's PCI configuration at 0x40 (capability MSI-X), CAP_ID, NEXT, CONTROL"
    assert told.access is not None
    assert [each.shown for each in told.access.registers] == ["0x11 (MSI-X)", "0x4c", "0x0001"]


def test_nobody_at_the_address() -> None:
    told = explain(io(0xCFC, size=4), BOARD, before={"pci": {"address": 0x8000_1000}}, answer=b"\xff" * 4)
    assert told.title == "vCPU 0 read 0xffffffff from pci CONFDATA"
    assert told.access is not None and told.access.where == "configuration of slot 2, function 0 (nobody there), register 0x0"
