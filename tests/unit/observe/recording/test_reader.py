"""What was written is read again: exits, states, memory; and files that somebody cut off, or made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvmm import exits
from pyvmm.errors import ConfigError, GuestFault, HostError
from pyvmm.observe.recording import format, writer
from pyvmm.observe.recording.format import Damaged
from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.recording.writer import Writer
from tests.support.recordings import Author, header, letters

TEXT = b"Hello, world"


def test_exits_in_order_and_from_anywhere(tmp_path: Path) -> None:
    with Recording.open(str(letters(tmp_path / "s.pvm"))) as recording:
        assert recording.count == 2 * len(TEXT)
        assert [entry.number for entry in recording.exits()] == list(range(1, 25))
        assert [entry.number for entry in recording.exits(7, 18)] == list(range(7, 19))
        assert [entry.number for entry in recording.exits(23, 99)] == [23, 24]
        assert list(recording.exits(25)) == list(recording.exits(9, 8)) == []
        entry = recording.entry(2)
        assert exits.thaw(entry.frozen).data == b"H"
        assert (entry.vcpu, entry.time, entry.took, entry.inside, entry.rip) == (0, 2000, 500, 400, 0x7C01)
        assert recording.entry(1).answer == b"\x60" and entry.answer == b""
        assert b"".join(each.console for each in recording.exits()) == TEXT
        assert entry.changes == {"serial0": {"sent": 2}}
        for number in (0, 25, -1):
            with pytest.raises(IndexError):
                recording.entry(number)


@pytest.mark.parametrize("order", ["up", "down", "far"])
def test_states_are_the_same_however_one_gets_there(order: str, tmp_path: Path) -> None:
    with Recording.open(str(letters(tmp_path / "s.pvm"))) as recording:
        numbers = {"up": range(25), "down": range(24, -1, -1), "far": [number * 7 % 25 for number in range(25)]}[order]
        for number in numbers:
            state = recording.state(number)
            shown = TEXT[: number // 2]
            assert state.exit == number and state.console == shown
            assert state.devices["serial0"]["sent"] == number // 2 * 2
            assert state.devices["rtc"] == {"ram": bytes(4)}
            assert state.registers[0][128:130] == (0x7C00 + number).to_bytes(2, "little")
            assert state.registers[0][format.REGS :] == recording.state(0).registers[0][format.REGS :]
            assert state.memory.read(0x5000, 13) == (b"\xee" * len(shown)).ljust(13, b"\0")
            assert state.memory.exit == number


def test_memory_of_a_large_guest_is_that_of_the_keyframe(tmp_path: Path) -> None:
    with Recording.open(str(letters(tmp_path / "s.pvm", exact=False))) as recording:
        assert recording.keyframes == [0, 8, 16, 24]
        memory = recording.state(15).memory
        assert memory.exit == 8
        assert memory.read(0x5000, 5) == b"\xee\xee\xee\xee\0"
        assert memory.read(0x22FFE, 4) == b"\0\0\x03\x03"  # over the edge of a page nobody wrote
        assert recording.state(16).memory.read(0x5000, 9) == b"\xee" * 8 + b"\0"
        assert recording.state(7).memory.read(0x5000, 1) == b"\0"
        assert memory.unpack("<H", 0x5003) == (0xEE,)
        assert memory.contains(0, 1 << 20) and not memory.contains(1, 1 << 20) and not memory.contains(0, -1)
        with pytest.raises(GuestFault):
            memory.read((1 << 20) - 1, 2)


def test_after_a_reset_memory_begins_anew(tmp_path: Path) -> None:
    author = Author(tmp_path / "s.pvm")
    author.exit(b"a")
    author.keyframe({5: b"\xaa" * 4096, 6: b"\xbb" * 4096})
    author.exit(b"b")
    author.keyframe({5: b"\xaa" * 4096}, fresh=True)
    author.exit(b"c")
    author.close()
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert recording.state(1).memory.read(0x6000, 1) == b"\xbb"
        state = recording.state(3)
        assert state.memory.read(0x5000, 1) == b"\xaa" and state.memory.read(0x6000, 1) == b"\0"


def test_chunks_of_others_are_kept_and_passed_over(tmp_path: Path) -> None:
    author = Author(tmp_path / "s.pvm")
    author.exit(b"a")
    author.flush()
    author.writer.add(b"SAMP", 1, [[1, 0, 0x1234]])
    author.writer.add(b"????", 1, "from a later pyvmm")
    author.exit(b"b")
    author.close()
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert recording.count == 2 and recording.note == ""
        assert list(recording.others(b"SAMP")) == [(1, [[1, 0, 0x1234]])]
        assert list(recording.others(b"NONE")) == []


def test_a_file_cut_off_anywhere_opens_up_to_the_last_whole_chunk(tmp_path: Path) -> None:
    whole = letters(tmp_path / "s.pvm").read_bytes()
    cut = tmp_path / "cut.pvm"
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        wanted = [recording.state(number) for number in range(25)]
    counts = set()
    for length in range(0, len(whole), 3):
        cut.write_bytes(whole[:length])
        try:
            with Recording.open(str(cut)) as recording:
                assert recording.note != "" and recording.end is None
                counts.add(recording.count)
                state = recording.state(recording.count)
                assert (state.console, state.devices) == (wanted[recording.count].console, wanted[recording.count].devices)
        except ConfigError as error:
            assert "\n" not in str(error) and str(cut) in str(error)
    assert counts == {0, 8, 16, 24}


def test_damage_in_a_body_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    path = letters(tmp_path / "s.pvm")
    with Recording.open(str(path)) as recording:
        chunk = recording._exits[1]
    data = bytearray(path.read_bytes())
    data[chunk.at + 3] ^= 1
    path.write_bytes(data)
    with Recording.open(str(path)) as recording:
        assert recording.count == 24
        assert recording.state(7).console == TEXT[:3]
        assert recording.state(17).console == TEXT[:8]
        with pytest.raises(Damaged, match=r"s.pvm: the part about exit 9 is damaged"):
            recording.state(9)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "this is no recording of pyvmm"),
        (b"\x7fELF" + bytes(100), "this is no recording of pyvmm"),
        (format.START.pack(format.MAGIC, 99), "a recording of version 99, this pyvmm reads 1"),
        (format.START.pack(format.MAGIC, 1), "cut off or damaged before its first exit"),
        (format.START.pack(format.MAGIC, 1) + bytes(500), "cut off or damaged before its first exit"),
        (format.START.pack(format.MAGIC, 1) + b"".join(format.chunk(b"HEAD", 0, 0, b"i5;")), "it is not what a recording has there"),
    ],
)
def test_what_is_no_recording(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        Recording.open(str(tmp_path / "x"))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none"), "a\0b"):
        with pytest.raises(ConfigError, match="cannot read the recording"):
            Recording.open(path)
        with pytest.raises(ConfigError, match="cannot write the recording"):
            Writer(path if path != str(tmp_path / "none") else str(tmp_path / "no" / "x"), header(), lambda error: None)


@pytest.mark.parametrize("one_cpu", [False, True])
def test_a_full_disk_is_told_once(one_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "one_cpu", lambda: one_cpu)
    told: list[BaseException] = []
    full = Writer("/dev/full", header(), told.append)
    assert not full.direct  # no file: who reads a pipe may take his time
    for _ in range(20):
        full.put(format.EXIT, 1, 1, bytes(1 << 20))
        full.add(b"SAMP", 0, [bytes(range(256))] * 100)
    full.close({})
    assert [str(each) for each in told] == ["cannot write the recording /dev/full: No space left on device"]
    assert isinstance(told[0], HostError)


@pytest.mark.parametrize("at_once", [1, 4095, 5000, 1 << 20])
def test_pages_that_are_written_from_memory(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little of them the disk takes at once, and with more than 256 of them in a row."""
    author = direct(tmp_path / "s.pvm", monkeypatch)
    memory = memoryview(bytearray(bytes(range(1, 252)) * 6000)[: 300 * 4096])
    if at_once > 1:
        monkeypatch.setattr(os, "writev", lambda file, pieces: os.write(file, b"".join(pieces)[:at_once]))
    else:
        memory = memory[: 2 * 4096]
        monkeypatch.setattr(os, "writev", lambda file, pieces: os.write(file, next(filter(None, pieces))[:997]))
    author.exit(b"a")
    author.direct({0xCC: [500, 502], 0: [501]}, [(0, memory), (1000, memory[4096:8192])])
    author.close()
    assert not author.errors
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        seen = recording.state(1).memory
        count = len(memory) // 4096
        assert b"".join(seen.page(number) for number in range(count)) == memory
        assert seen.page(1000) == memory[4096:8192] and [seen.page(number)[0] for number in (500, 501, 502)] == [0xCC, 0, 0xCC]


def test_a_disk_that_fills_up_in_the_middle_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, and the file has all exits before."""
    author = direct(tmp_path / "s.pvm", monkeypatch)
    author.exit(b"a")
    author.flush()
    room = [9000]

    def short(file: int, pieces: list[bytes]) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wrote = os.write(file, b"".join(pieces)[: room[0]])
        room[0] -= wrote
        return wrote

    monkeypatch.setattr(os, "writev", short)
    for _ in range(2):
        author.direct({}, [(0, memoryview(bytes(range(1, 129)) * 320))])
    author.writer.close()
    assert [str(each) for each in author.errors] == [f"cannot write the recording {tmp_path / 's.pvm'}: No space left on device"]
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert recording.count == 1 and "cut off" in recording.note and recording.state(1).console == b"a"


def test_only_pages_go_without_a_check_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    author = direct(tmp_path / "s.pvm", monkeypatch)
    author.exit(b"a")
    author.direct({}, [(0, memoryview(b"memory: " * 512))])
    author.close()
    data = (tmp_path / "s.pvm").read_bytes()
    (tmp_path / "s.pvm").write_bytes(data.replace(b"memory: ", b"MEMORY? ", 1))
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        assert recording.state(1).memory.read(0, 16) == b"MEMORY? memory: "
    for kind, flags in ((format.EXIT, 0), (format.PAGE, format.SAME), (format.PAGE, format.PACKED)):
        head, check, table, _ = format.chunk(kind, 0, 1, b"x", flags=flags | format.DIRECT, pack_it=False)
        assert format.parse(head + check, table, 0) is None


def direct(path: Path, monkeypatch: pytest.MonkeyPatch) -> Author:
    """Writes as a recorder does that has one CPU."""
    monkeypatch.setattr(writer, "one_cpu", lambda: True)
    author = Author(path)
    assert author.writer.direct
    return author


def test_a_header_that_describes_no_machine(tmp_path: Path) -> None:
    for changed in ({"vcpus": 0}, {"vcpus": 1 << 40}, {"ram": [[0]]}, {"ram": [[0, -1]]}, {"ram": ["x"]}):
        author = Author(tmp_path / "s.pvm", **changed)
        author.close()
        with pytest.raises(ConfigError):
            Recording.open(str(tmp_path / "s.pvm")).state(0)


def test_pages_that_are_full_of_one_byte_cost_a_few(tmp_path: Path) -> None:
    author = Author(tmp_path / "s.pvm")
    author.exit(b"a")
    poison, mixed = b"\xcc" * 4096, b"\xcc" * 2048 + b"\xcd" + b"\xcc" * 2047
    before = author.writer.written
    author.keyframe({**dict.fromkeys(range(200), poison), 200: mixed, 201: b"\1" * 4096, 202: bytes(4096)})
    author.close()
    assert author.writer.written - before < 12_000
    with Recording.open(str(tmp_path / "s.pvm")) as recording:
        memory = recording.state(1).memory
        assert [memory.page(number) for number in (0, 199, 200, 201, 202)] == [poison, poison, mixed, b"\1" * 4096, bytes(4096)]
