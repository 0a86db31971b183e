"""Registers: masks, widths, resets, the I/O window, and the register half of `ethtool -t`."""

from __future__ import annotations

import pytest

from pyvmm.devices.device import Register
from pyvmm.devices.e1000 import constants as c
from pyvmm.devices.e1000.mac import MacState
from pyvmm.devices.e1000.regs import IO_REGISTERS, REGISTERS
from tests.support.e1000_driver import LINUX_INTERRUPTS, MAC, Driver, Rig, frame

ALL = 0xFFFF_FFFF
# (offset, bits that must come back, bits written): what a driver's self-test asks of an 82540
PATTERNS = [
    (c.FCAL, ALL, ALL), (c.FCAH, 0xFFFF, ALL), (c.FCT, 0xFFFF, ALL), (c.VET, 0xFFFF, ALL), (c.RDTR, 0xFFFF, ALL), (c.RDBAH, ALL, ALL),
    (c.RDLEN, 0xF_FF80, 0xF_FFFF), (c.RDH, 0xFFFF, 0xFFFF), (c.RDT, 0xFFFF, 0xFFFF), (c.FCRTH, 0xFFF8, 0xFFF8), (c.FCTTV, 0xFFFF, 0xFFFF),
    (c.TIPG, 0x3FFF_FFFF, 0x3FFF_FFFF), (c.TDBAH, ALL, ALL), (c.TDLEN, 0xF_FF80, 0xF_FFFF), (c.RDBAL, ALL ^ 0xF, ALL),
    (c.TXCW, 0xC000_FFFF, 0xFFFF), (c.TDBAL, ALL ^ 0xF, ALL), (c.TIDV, 0xFFFF, 0xFFFF),
    *((c.RA + 8 * index + 4, 0x8003_FFFF, ALL) for index in range(16)), *((c.MTA + 4 * index, ALL, ALL) for index in range(128)),
]  # fmt: skip


def test_register_self_test_of_a_driver() -> None:
    rig = Rig()
    Driver(rig).reset()
    status = rig.read(c.STATUS)
    rig.write(c.STATUS, 0xFFFF_F833)
    assert rig.read(c.STATUS) == status
    for offset, mask, writable in PATTERNS:
        for pattern in (0x5A5A_5A5A, 0xA5A5_A5A5, 0, ALL):
            rig.write(offset, pattern & writable)
            assert rig.read(offset) == pattern & writable & mask, hex(offset)
    rig.write(c.RCTL, 0)
    assert rig.read(c.RCTL) == 0
    for value in (0x003F_FFFB, ALL):
        rig.write(c.RCTL, value & 0x06DF_B3FE)
        assert rig.read(c.RCTL) == value & 0x06DF_B3FE
    rig.write(c.TCTL, 0)
    assert rig.read(c.TCTL) == 0
    Driver(rig).reset()
    driver = Driver(rig)
    driver.open()
    assert rig.card.receive(frame(bytes(50)))
    assert driver.frames() == [frame(bytes(50))]


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_table_tells_the_reset_value(register: Register) -> None:
    rig = Rig()
    rig.card.mac.reset()
    assert register.section
    assert all(field.high < 32 for field in register.fields)
    if "r" in register.access and register.name not in ("RAL0", "RAH0"):  # these come from the EEPROM
        assert rig.read(register.offset) == register.reset


def test_table_names_every_register_once() -> None:
    offsets = [register.offset for register in REGISTERS]
    assert len(set(offsets)) == len(offsets)
    indexed = {base + 4 * index for base in (c.MTA, c.VFTA) for index in range(1, 128)}
    unnamed = set(c.PLAIN) - set(offsets) - indexed
    assert unnamed == {base + step * index for base, step in ((c.IP4AT, 8), (c.IP6AT, 4)) for index in range(4)}
    mac = Rig().card.mac
    handled = set(mac._reads) | set(mac._writes) - {c.CTRL_DUP}
    assert handled - set(offsets) <= {c.CTRL_DUP}


def test_io_table() -> None:
    io = Rig().card.io
    for register in IO_REGISTERS:
        assert io.read(register.offset, 4) == register.reset


def test_address_comes_from_the_eeprom() -> None:
    rig = Rig()
    address = rig.read(c.RA).to_bytes(4, "little") + (rig.read(c.RA + 4) & 0xFFFF).to_bytes(2, "little")
    assert address == MAC
    assert rig.read(c.RA + 4) & c.RAH_VALID


@pytest.mark.parametrize("through", ["mmio", "shadow", "io"])
def test_software_reset(through: str) -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    rig.card.io.write(c.IOADDR, 4, 0x38)
    rig.write(c.RA, 1)
    rig.write(c.MTA, 1)
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.write(c.ICS, c.TXDW)
    rig.write(c.LEDCTL, 0)
    assert rig.line.level == 1
    phy = list(rig.card.mac.phy.state.regs)
    if through == "io":
        rig.card.io.write(c.IOADDR, 4, c.CTRL)
        rig.card.io.write(c.IODATA, 4, c.CTRL_RST)
    else:
        rig.write(c.CTRL if through == "mmio" else c.CTRL_DUP, rig.read(c.CTRL) | c.CTRL_RST)
    assert rig.line.level == 0
    assert rig.read(c.CTRL) == 0x0014_0240
    for offset in (c.ICR, c.IMS, c.RCTL, c.RDLEN, c.TDT, c.MTA):
        assert rig.read(offset) == 0
    assert rig.read(c.RA).to_bytes(4, "little") == MAC[:4]
    assert rig.read(c.LEDCTL) == 0x0706_1302
    assert rig.read(c.STATUS) & c.STATUS_LU
    assert rig.card.mac.phy.state.regs == phy
    assert rig.card.command == 7
    assert rig.card.receive(frame())


def test_power_on_reset_is_a_new_card() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    driver.send(frame(bytes(60)))
    driver.phy_write(20, 0x1234)
    rig.card.io.write(0, 4, 5)
    rig.card.reset()
    new = Rig()
    new.card.write_config(4, 2, 0)
    assert rig.card.mac.state == new.card.mac.state
    assert rig.card.io.state == new.card.io.state
    assert rig.line.level == 0


def test_io_window_takes_dwords_and_real_registers_only() -> None:
    rig = Rig()
    io = rig.card.io
    io.write(0, 4, c.VET)
    assert io.read(0, 4) == c.VET
    assert io.read(4, 4) == 0x8100
    io.write(4, 2, 1)
    io.write(0, 1, 0)
    assert io.read(4, 4) == 0x8100
    assert io.read(4, 2) == io.read(8, 4) == 0
    for address in (0x20000, ALL):
        io.write(0, 4, address)
        io.write(4, 4, ALL)
        assert io.read(4, 4) == 0


def test_narrow_and_unaligned_accesses() -> None:
    rig = Rig()
    mac = rig.card.mac
    rig.write(c.FCAL, 0x0403_0201)
    assert [mac.read(c.FCAL + at, 1) for at in range(4)] == [1, 2, 3, 4]
    assert mac.read(c.FCAL + 2, 2) == 0x0403
    assert mac.read(c.FCAL + 3, 2) == mac.read(c.FCAL + 1, 4) == mac.read(c.FCAL, 8) == 0
    mac.write(c.FCAL, 1, 0xFF)
    mac.write(c.FCAL, 2, 0xFFFF)
    mac.write(c.FCAL + 2, 4, ALL)
    mac.write(c.FCAL, 8, ALL)
    assert rig.read(c.FCAL) == 0x0403_0201


def test_what_is_no_register_reads_zero() -> None:
    rig = Rig()
    for offset in (0x0C, 0x110, 0x1FFC, 0x5FFC, 0x1_0000, 0x1_FFFC):
        rig.write(offset, ALL)
        assert rig.read(offset) == 0


def test_packet_buffer_is_divided() -> None:
    rig = Rig()
    rig.write(c.PBA, 48)
    assert rig.read(c.PBA) == 16 << 16 | 48
    rig.write(c.PBA, 0xFFFF)
    assert rig.read(c.PBA) == 0xFFFF


def test_nothing_is_read_or_written_without_bus_mastering() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    rig.card.write_config(4, 2, 3)
    index = driver.legacy(frame(bytes(60)))
    driver.ring()
    assert rig.card.receive(frame(bytes(50)))
    assert not driver.done(index) and not driver.frames() and not rig.wire.sent
    rig.card.write_config(4, 2, 7)
    assert driver.done(index)
    assert rig.wire.sent == [frame(bytes(60))]


def test_configuration_space() -> None:
    rig = Rig()
    card = rig.card
    assert card.read_config(0, 4) == 0x100E_8086
    assert card.read_config(8, 4) >> 8 == 0x020000
    assert card.read_config(0x3D, 1) == 1
    assert not card.read_config(6, 2) & 0x10
    card.write_config(0x10, 4, ALL)
    card.write_config(0x14, 4, ALL)
    assert card.read_config(0x10, 4) == 0xFFFE_0000
    assert card.read_config(0x14, 4) & ALL == 0xFFFF_FFC1


def copy(state: MacState) -> MacState:
    """Nothing shared with the card."""
    eeprom, phy, transmit = state.eeprom, state.phy, state.transmit
    return state.replace(
        regs=dict(state.regs),
        counts=dict(state.counts),
        eeprom=eeprom.replace(words=list(eeprom.words)),
        phy=phy.replace(regs=list(phy.regs)),
        transmit=transmit.replace(frame=bytearray(transmit.frame), plain=list(transmit.plain), segmented=list(transmit.segmented)),
    )


def test_restored_card_goes_on_as_the_original() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.card.receive(frame(bytes(60)))
    half = frame(bytes(60))
    driver.legacy(half[:20], flags=0)
    driver.ring()
    twin = Rig(memory=rig.memory)
    twin.card.mac.state = copy(rig.card.mac.state)
    twin.card.mac.restored()
    assert twin.line.level == rig.line.level == 1
    other = Driver(twin)
    other.tx_tail, other.rx_next = driver.tx_tail, driver.rx_next
    other.legacy(half[20:])
    other.ring()
    assert twin.wire.sent == [half]
    twin.card.receive(frame(b"second".ljust(50, b"\0")))
    assert other.frames() == [frame(bytes(60)), frame(b"second".ljust(50, b"\0"))]


def test_restored_where_there_is_no_link_the_driver_is_told() -> None:
    rig = Rig()
    Driver(rig).open()
    rig.write(c.IMS, LINUX_INTERRUPTS)
    rig.read(c.ICR)
    twin = Rig()
    twin.card.set_link(False)
    twin.read(c.ICR)
    twin.card.mac.state = copy(rig.card.mac.state)
    twin.card.mac.restored()
    assert not twin.read(c.STATUS) & c.STATUS_LU
    assert twin.line.level == 1
    assert twin.read(c.ICR) & c.LSC


def test_a_restored_line_is_where_it_was_under_moderation() -> None:
    rig = Rig()
    Driver(rig).open()
    rig.write(c.ITR, 1000)
    rig.write(c.IMS, c.CAUSES)
    rig.time.advance(10**9)
    rig.write(c.ICS, c.LSC)
    assert rig.line.level == 1
    twin = Rig(memory=rig.memory)
    twin.card.state.intx = rig.card.state.intx
    twin.card.mac.state = copy(rig.card.mac.state)
    twin.card.mac.restored()
    assert twin.line.level == 1
    twin.read(c.ICR)
    assert twin.line.level == 0
    twin.card.mac.state = copy(rig.card.mac.state)
    rig.read(c.ICR)
    rig.card.mac.state = copy(twin.card.mac.state)
    rig.card.mac.restored()
    assert rig.line.level == 1
    assert rig.card.mac.lasting()


def test_rings_are_told_of() -> None:
    rig = Rig()
    assert rig.card.mac.lasting() == []
    Driver(rig).open()
    ranges = rig.card.mac.lasting()
    assert [gpa for gpa, _ in ranges] == [rig.read(c.RDBAL), rig.read(c.TDBAL)]
    assert [length for _, length in ranges] == [rig.read(c.RDLEN), rig.read(c.TDLEN)]
