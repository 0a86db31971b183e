"""The EEPROM by pins and by EERD."""

from __future__ import annotations

import pytest

from pyvmm.devices.e1000 import constants as c
from tests.support.e1000_driver import MAC, Driver, Rig


def test_contents_by_pins_word_by_word_as_linux_reads_them() -> None:
    driver = Driver(Rig())
    words = [driver.eeprom_read(address)[0] for address in range(64)]
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC
    assert sum(words) & 0xFFFF == 0xBABA
    assert words == driver.rig.card.mac.eeprom.state.words


def test_sequential_read_wraps_around() -> None:
    driver = Driver(Rig())
    words = driver.rig.card.mac.eeprom.state.words
    assert driver.eeprom_read(62, 4) == [words[62], words[63], words[0], words[1]]


def eerd(rig: Rig, address: int) -> int:
    rig.write(c.EERD, address << 8 | 1)
    return rig.read(c.EERD)


def test_contents_by_eerd() -> None:
    rig = Rig()
    for address in range(64):
        value = eerd(rig, address)
        assert value & 0xFF == 0x10, "DONE, and not bit 1, by which iPXE tells the other layout"
        assert value >> 16 == rig.card.mac.eeprom.state.words[address]
    assert eerd(rig, 200) >> 16 == 0xFFFF
    rig.write(c.EERD, 0)
    assert rig.read(c.EERD) == 0


ENABLE, DISABLE, ERASE_ALL, WRITE_ALL = 0b100_110000, 0b100_000000, 0b100_100000, 0b100_010000


def test_writing_needs_the_enable_latch() -> None:
    driver = Driver(Rig())
    before = driver.eeprom_read(0x20)
    write = (0b101_000000 | 0x20) << 16 | 0xCAFE
    driver.eeprom_command(write, 25)
    assert driver.eeprom_read(0x20) == before
    driver.eeprom_command(ENABLE, 9)
    driver.eeprom_command(write, 25)
    assert driver.eeprom_read(0x20) == [0xCAFE]
    driver.eeprom_command(DISABLE, 9)
    driver.eeprom_command(write ^ 0xFFFF, 25)
    assert driver.eeprom_read(0x20) == [0xCAFE]


def test_erasing() -> None:
    driver = Driver(Rig())
    driver.eeprom_command(ENABLE, 9)
    driver.eeprom_command(0b111_000000 | 5, 9)
    assert driver.eeprom_read(5) == [0xFFFF]
    driver.eeprom_command(WRITE_ALL << 16 | 0x1234, 25)
    assert driver.eeprom_read(0, 64) == [0x1234] * 64
    driver.eeprom_command(ERASE_ALL, 9)
    assert driver.eeprom_read(0, 64) == [0xFFFF] * 64


def test_an_address_written_there_is_loaded_and_outlives_a_reset() -> None:
    rig = Rig()
    driver = Driver(rig)
    driver.eeprom_command(ENABLE, 9)
    driver.eeprom_command((0b101_000000 | 0) << 16 | 0x2211, 25)
    assert rig.read(c.RA) & 0xFFFF == 0x0052 | 0x54 << 8 or rig.read(c.RA) & 0xFFFF == int.from_bytes(MAC[:2], "little")
    rig.write(c.CTRL_EXT, c.CTRL_EXT_EE_RST)
    assert rig.read(c.RA) & 0xFFFF == 0x2211
    assert not rig.read(c.CTRL_EXT) & c.CTRL_EXT_EE_RST
    rig.card.reset()
    assert rig.read(c.RA) & 0xFFFF == 0x2211


@pytest.mark.parametrize("size", range(1, 9))
def test_a_command_cut_short_is_forgotten(size: int) -> None:
    driver = Driver(Rig())
    driver.eeprom_command(0b110_000011 >> 9 - size, size)
    assert sum(driver.eeprom_read(0, 64)) & 0xFFFF == 0xBABA
