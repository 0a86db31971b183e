"""NOR flash: the Intel command set as OVMF drives it, and as nobody should."""

from __future__ import annotations

import errno
import random

import pytest

from pyvmm.devices.flash import BLOCK, BUFFER, Flash

SIZE = 4 * BLOCK


class World:
    """A chip, and what became of its contents outside."""

    def __init__(self) -> None:
        self.kept = bytearray(range(256)) * (SIZE // 256)
        self.exposed: list[bool] = []
        self.broken = False
        self.array = bytearray(self.kept)
        self.flash = Flash("pflash1", memoryview(self.array), self.store, self.exposed.append)

    def store(self, offset: int, data: bytes) -> None:
        if self.broken:
            raise OSError(errno.ENOSPC, "full")
        assert offset >= 0 and data and offset + len(data) <= SIZE
        self.kept[offset : offset + len(data)] = data

    def write(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.flash.write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.flash.read(offset, 1)


def test_how_ovmf_knows_flash_from_rom_and_ram() -> None:
    """QemuFlashFvbServicesRuntimeDxe, QemuFlashDetected: 0x50 must not be there afterwards, 0x70 must bring a status of 0."""
    world = World()
    world.write((3, 0x50))
    assert world.read(3) == 3
    assert world.exposed == []  # it never left the array
    world.write((3, 0x70))
    assert world.read(3) == 0
    world.write((3, 0xFF))
    assert world.read(3) == 3
    assert world.exposed == [False, True]


@pytest.mark.parametrize("command", [0x10, 0x40])
def test_bytes_are_programmed_and_kept(command: int) -> None:
    world = World()
    for at, value in enumerate(b"hello"):
        world.write((100 + at, command), (100 + at, value))
        assert world.read(0) == 0x80
    assert world.exposed == [False]  # one move for all of them
    world.write((104, 0xFF))
    assert world.flash.read(100, 4) == int.from_bytes(b"hell", "little")
    assert world.array[99:106] == b"\x63hello\x69"
    assert world.array == world.kept


def test_a_byte_that_looks_like_a_command_is_a_byte() -> None:
    world = World()
    for value in (0xFF, 0xF0, 0x50, 0xD0):
        world.write((7, 0x10), (7, value))
        assert world.array[7] == world.kept[7] == value


def test_an_erase_clears_its_block() -> None:
    world = World()
    world.write((BLOCK + 17, 0x20), (BLOCK + 17, 0xD0))
    assert world.read(0) == 0x80
    assert world.array == world.kept
    assert world.array[BLOCK : 2 * BLOCK] == b"\xff" * BLOCK
    assert world.array[BLOCK - 1] == 0xFF == BLOCK - 1 & 0xFF
    assert world.array[2 * BLOCK] == 0


def test_an_erase_needs_its_confirmation() -> None:
    for second, status in ((0x00, 0xB0), (0xFF, 0)):
        world = World()
        world.write((0, 0x20), (0, second), (0, 0x70))
        assert world.read(0) == status
        assert world.array == World().array == world.kept


def test_a_buffered_write() -> None:
    world = World()
    world.write((BUFFER, 0xE8))
    assert world.read(0) == 0x80
    world.write((BUFFER, 3), (BUFFER + 5, 1), (BUFFER + 6, 2), (BUFFER + 7, 0xD0), (BUFFER + 8, 0xFF))
    assert world.array[BUFFER + 5] == 5  # not yet
    world.write((BUFFER, 0xD0))
    assert world.array[BUFFER + 4 : BUFFER + 10] == b"\x04\x01\x02\xd0\xff\x09"
    assert world.array == world.kept
    assert world.read(0) == 0x80


def test_a_buffered_write_stays_in_its_buffer() -> None:
    for start, count, places in ((0, 2, (BUFFER - 1, BUFFER)), (0, BUFFER + 1, ()), (SIZE - 1, 1, (SIZE - 1, 0))):
        world = World()
        world.flash.write(start, 1, 0xE8)
        world.flash.write(start, 2, count - 1)
        world.write(*((place, 0) for place in places))
        world.write((0, 0xFF), (0, 0x70))
        assert world.read(0) == 0xB0
        assert world.array == world.kept == World().array


def test_what_the_host_cannot_keep_is_not_there() -> None:
    for pairs, error in ((((1, 0x10), (1, 0xEE)), 0x90), (((0, 0x20), (0, 0xD0)), 0xA0), (((0, 0xE8), (0, 0), (1, 9), (0, 0xD0)), 0x90)):
        world = World()
        world.broken = True
        world.write(*pairs)
        assert world.read(0) == error
        assert world.array == world.kept == World().array
        world.write((0, 0x50), (0, 0x70))
        assert world.read(0) == 0


def test_who_it_is() -> None:
    world = World()
    world.write((0, 0x98))
    assert bytes(map(world.read, range(0x10, 0x15))) == b"QRY\x01\x00"
    assert 1 << world.read(0x27) == SIZE
    assert (world.read(0x2D) + 1, world.read(0x2F) << 8 | world.read(0x30) << 16) == (SIZE // BLOCK, BLOCK)
    assert world.read(0xFF) == 0
    world.write((0, 0xFF), (0, 0x90))
    assert (world.read(0), world.read(1)) == (0, 0)
    world.write((0, 0xFF))
    assert world.read(1) == 1


def test_locks_are_taken_and_mean_nothing() -> None:
    world = World()
    world.write((0, 0x60), (0, 0x01))
    assert world.read(0) == 0x80
    world.write((0, 0x60), (0, 0xD0), (5, 0x10), (5, 0x77))
    assert world.array[5] == 0x77


def test_wide_accesses_end_with_the_array() -> None:
    world = World()
    world.write((0, 0x10))
    world.flash.write(SIZE - 4, 8, (1 << 64) - 1)  # a bus splits this one; the chip must hold all the same
    assert world.flash.read(0, 8) == 0x90
    world.write((0, 0x10))
    world.flash.write(SIZE - 4, 4, 0x04030201)
    assert world.kept[-4:] == world.array[-4:] == b"\x01\x02\x03\x04"


def test_reset_shows_the_array() -> None:
    world = World()
    world.write((0, 0x10))
    world.flash.reset()
    assert (world.read(9), world.exposed) == (9, [False, True])
    world.write((0, 0x70))
    assert world.read(9) == 0


def test_any_writes_end_inside_the_array() -> None:
    dice = random.Random(7)
    commands = (0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xFF, 0x00, 0x01, 0xF0)
    world = World()
    for _ in range(3000):
        size = dice.choice((1, 1, 2, 4, 8))
        offset = dice.randrange(SIZE - size + 1)
        if dice.random() < 0.2:
            assert 0 <= world.flash.read(offset, size) < 1 << 8 * size
        else:
            world.flash.write(offset, size, dice.choice(commands) if dice.random() < 0.8 else dice.getrandbits(8 * size))
        assert len(world.flash.state.buffer) <= BUFFER
    assert world.array == world.kept
    assert world.exposed == [bool(at % 2) for at in range(len(world.exposed))]
