"""Pieces of memory as the kernel takes them."""

from __future__ import annotations

import errno
import os
import random
import signal
from pathlib import Path

import pytest

from pyvmm import scatter
from pyvmm.kvm import native
from pyvmm.scatter import IOV_MAX
from tests.support.disk import scattered

PIECES = [(3, 4), (100, 1), (0, 3), (50, 20)]  # start, length; in no order


@pytest.fixture
def memory() -> bytearray:
    return bytearray(range(128))


@pytest.fixture(autouse=True)
def there() -> None:
    if not scatter.supported():
        pytest.skip("this C library has no preadv2")


def test_it_is_a_sequence_of_views(memory: bytearray) -> None:
    pieces = scattered(memory, PIECES)
    expected = [bytes(memory[start : start + length]) for start, length in PIECES]
    assert (len(pieces), pieces.length, pieces.lengths()) == (4, 28, [4, 1, 3, 20])
    assert [bytes(view) for view in pieces] == expected
    assert [bytes(pieces[index]) for index in range(-4, 4)] == expected * 2
    for index in (4, -5):
        with pytest.raises(IndexError):
            pieces[index]
    pieces[1][0] = 0xAA
    assert memory[100] == 0xAA
    assert b"".join(pieces) == b"".join([expected[0], b"\xaa", *expected[2:]])


def test_pieces_are_taken_off_at_both_ends(memory: bytearray) -> None:
    pieces = scattered(memory, PIECES)
    assert bytes(pieces.pop()) == bytes(memory[50:70])
    assert bytes(pieces.pop(0)) == bytes(memory[3:7])
    assert (pieces.length, [bytes(view) for view in pieces]) == (4, [b"\x64", b"\0\1\2"])
    pieces.pop()
    pieces.pop()
    assert (len(pieces), pieces.length, list(pieces)) == (0, 0, [])
    with pytest.raises(IndexError):
        pieces.pop()


def test_the_kernel_reads_and_writes_them(tmp_path: Path) -> None:
    chance = random.Random(2)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 40)
    for count in (1, 2, 100, IOV_MAX):
        memory = bytearray(chance.randbytes(64 * IOV_MAX))
        starts = chance.sample(range(IOV_MAX), count)
        cuts = [(64 * start, chance.randint(1, 64)) for start in starts]
        pieces = scattered(memory, cuts)
        content = b"".join(pieces)
        for offset in (0, 511, (1 << 40) - len(content)):  # more than 32 bits
            assert pieces.pwritev(fd, offset) == len(content)
            assert os.pread(fd, len(content), offset) == content
        other = bytearray(len(memory))
        assert scattered(other, cuts).preadv(fd, 511) == len(content)
        kept = bytearray(len(memory))
        for start, length in cuts:
            kept[start : start + length] = memory[start : start + length]
        assert other == kept, "nothing beside the pieces"
        assert scattered(other, cuts).preadv(fd, 1 << 40) == 0
        assert scattered(other, cuts).preadv(fd, (1 << 40) - 1) == 1
    os.close(fd)


def test_nothing_is_nothing(tmp_path: Path, memory: bytearray) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    empty = scattered(memory, [])
    assert (empty.preadv(fd, 0), empty.pwritev(fd, 0)) == (0, 0)
    os.close(fd)


def test_errors_are_those_of_the_host(memory: bytearray) -> None:
    pieces = scattered(memory, PIECES)
    with pytest.raises(OSError) as caught:
        pieces.preadv(-1, 0)
    assert caught.value.errno == errno.EBADF
    with open("/dev/full", "wb") as full, pytest.raises(OSError) as caught:
        pieces.pwritev(full.fileno(), 0)
    assert caught.value.errno == errno.ENOSPC
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        pieces.preadv(reading, -1)
    os.close(reading)
    os.close(writing)


def test_a_signal_does_not_end_a_call(memory: bytearray) -> None:
    """PEP 475: the handler runs, the call goes on. An empty pipe waits as no file does."""
    reading, writing = os.pipe()
    rung: list[int] = []

    def ring(*_: object) -> None:
        rung.append(1)
        if len(rung) == 3:
            os.write(writing, b"hello")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        assert scattered(memory, PIECES).preadv(reading, -1) == 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(reading)
        os.close(writing)
    assert len(rung) >= 3
    assert bytes(memory[3:7]) + bytes(memory[100:101]) == b"hello"


def test_other_threads_run_meanwhile(memory: bytearray) -> None:
    import threading

    reading, writing = os.pipe()
    thread = threading.Timer(0.05, os.write, (writing, b"x" * 28))
    thread.start()
    assert scattered(memory, PIECES).preadv(reading, -1) == 28
    thread.join()
    os.close(reading)
    os.close(writing)


def test_without_the_call_in_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: object) -> object:
        raise OSError(f"undefined symbol: {name}")

    monkeypatch.setattr(scatter, "_calls", {})
    monkeypatch.setattr(native, "function", absent)
    assert not scatter.supported()
