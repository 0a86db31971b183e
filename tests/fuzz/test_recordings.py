"""Broken and forged recordings: whatever is in the file, opening, seeking, explaining and reading end well or in one line.

Half of the mutants have their check sums put right, so that they get past them: those are somebody's, not an accident's.
PYVMM_FUZZ_RECORDINGS is the number of mutants; seeds are fixed.
"""

from __future__ import annotations

import io
import os
import random
import zlib

import pytest

from pyvmm.errors import GuestFault, PyvmmError
from pyvmm.observe.debug.subject import Moment
from pyvmm.observe.recording import format, writer
from pyvmm.observe.recording.player import Player
from pyvmm.observe.recording.reader import Recording
from tests.support.recordings import letters

MUTANTS = int(os.environ.get("PYVMM_FUZZ_RECORDINGS", "2000"))
SEEDS = range(4)
WORDS = [b"i-1;", b"i99999999999999999999;", b"b99:", b"N", b"[]", b"{}", b"s0:", b"[[[[[[[[", b"\xff", b"}", b"]", b"i0;"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("recordings")
    files = []
    for one_cpu in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "one_cpu", lambda: one_cpu)  # noqa: B023  (called in the same turn)
            files.append(letters(folder / f"large{one_cpu}.pvm", exact=False).read_bytes())
            if not one_cpu:
                files.append(letters(folder / "exact.pvm").read_bytes())
    return files


@pytest.mark.parametrize("seed", SEEDS)
def test_broken_files_end_in_one_line(seed: int, originals: list[bytes]) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(MUTANTS // len(SEEDS)):
        data = mutant(chance, chance.choice(originals))
        try:
            use(chance, data)
        except PyvmmError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400
    assert 0 < refused < MUTANTS // len(SEEDS)


def use(chance: random.Random, data: bytes) -> None:
    """What a user may do with a file."""
    with Recording(io.BytesIO(data), "s.pvm") as recording:
        assert recording.count <= len(data)  # an exit has its bytes in the file
        for number in {0, recording.count, chance.randint(0, recording.count)}:
            state = recording.state(number)
            for gpa in (0, 0x5000, 0x2_2FFE, chance.getrandbits(21)):
                try:
                    assert len(state.memory.read(gpa, 16)) == 16
                except GuestFault:
                    pass
        sum(len(entry.changes) + len(entry.patches) for entry in recording.exits())
        player = Player(recording)
        acts = [
            lambda: player.step(3), player.run, lambda: player.goto(Moment(exit=8)), lambda: player.vcpu_state(0), player.vm_state,
            lambda: player.layout, lambda: player.regs(0), player.console, player.back, lambda: player.memory_note,
            lambda: list(recording.others(b"SAMP")),
        ]  # fmt: skip
        if chance.random() < 0.2:  # the disassembler takes most of the time
            acts += [lambda: player.explain(player.at.exit), lambda: player.explain(recording.count)]
        for act in acts:
            try:
                act()
            except PyvmmError as error:
                assert "\n" not in str(error)


def mutant(chance: random.Random, data: bytes) -> bytes:
    """A file that is nearly right."""
    kind = chance.randrange(6)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    broken = bytearray(data)
    if kind == 1:
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.getrandbits(8)
        return bytes(broken)
    if kind == 2:
        at, length = chance.randrange(len(data)), chance.randint(1, 200)
        del broken[at : at + length]
        return bytes(broken)
    chunks = list(split(data))
    at = chance.randrange(len(chunks))
    if kind == 3:
        other = chance.randrange(len(chunks))
        chunks[at], chunks[other] = chunks[other], chunks[at]
        return join(chunks)
    head, table, body = chunks[at]
    if kind == 4:  # another number in the head
        fields = list(format.CHUNK.unpack(head))
        field = chance.choice((1, 5, 7, 8))
        fields[field] = chance.choice((0, 1, fields[field] + 1, 1 << 15, chance.getrandbits(16)))
        head = format.CHUNK.pack(*fields)
    else:  # other plain data, or another entry
        body = spoil(chance, body)
    chunks[at] = head, table, body
    return join(chunks, sizes=kind == 5)


def spoil(chance: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(3)
        if what == 0:
            data[at : at + chance.randint(0, 9)] = chance.choice(WORDS)
        elif what == 1 and at < len(data):
            data[at] = chance.getrandbits(8)
        else:
            del data[at : at + chance.randint(1, 40)]
    return bytes(data)


def split(data: bytes):  # type: ignore[no-untyped-def]
    """(head, table, unpacked body) of each chunk."""
    at = format.START.size
    while at < len(data):
        head = data[at : at + format.CHUNK.size]
        table_size, stored = format.CHUNK.unpack(head)[3:5]
        at += len(head)
        table, body = data[at : at + table_size], data[at + table_size : at + table_size + stored]
        at += table_size + stored
        yield head, table, zlib.decompress(body) if format.CHUNK.unpack(head)[1] & format.PACKED else body


def join(chunks: list[tuple[bytes, bytes, bytes]], sizes: bool = True) -> bytes:
    """A file of chunks with good check sums; ``sizes``: heads say how long the bodies really are."""
    parts = [format.START.pack(format.MAGIC, format.VERSION)]
    for head, table, body in chunks:
        fields = list(format.CHUNK.unpack(head))
        stored = zlib.compress(body) if fields[1] & format.PACKED else body
        fields[4], fields[6] = len(stored), zlib.crc32(stored)
        if sizes:
            fields[5] = len(body)
        head = format.CHUNK.pack(*fields)[:-4]
        parts += [head, format.LENGTH.pack(zlib.crc32(table, zlib.crc32(head))), table, stored]
    return b"".join(parts)
