"""Raw files: what the kernel may do to a read or a write, and what the guest hears of it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import scatter
from pyvmm.backends.block import raw
from pyvmm.backends.block.fallocate import fallocate
from pyvmm.backends.block.raw import RawFile
from tests.support.disk import scattered
from tests.support.fakes import FaultySystem

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(bytes(range(256)) * (SIZE // 256))
    return tmp_path / "disk"


@pytest.fixture
def disk(path: Path) -> Iterator[RawFile]:
    made = RawFile(os.open(path, os.O_RDWR), str(path), SIZE, discard=True)
    yield made
    made.close()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> FaultySystem:
    made = FaultySystem()
    monkeypatch.setattr(raw, "os", made)
    return made


def read(disk: RawFile, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.read(offset, [memoryview(buffer)])
    return bytes(buffer)


def test_short_reads_and_writes_go_on(disk: RawFile, system: FaultySystem, path: Path) -> None:
    system.planned = {"preadv": [1, 511, 3], "pwritev": [1000, 1, 24]}
    buffer = bytearray(4096)
    disk.read(512, [memoryview(buffer)[:100], memoryview(buffer)[100:]])
    assert buffer == path.read_bytes()[512 : 512 + 4096]
    data = os.urandom(4096)
    disk.write(1024, [memoryview(data)[:1001], memoryview(data)[1001:]])
    assert path.read_bytes()[1024 : 1024 + 4096] == data
    assert [offset for name, offset in system.calls if name == "pwritev"] == [1024, 2024, 2025, 2049]


def test_short_calls_with_what_the_kernel_takes_as_it_is(disk: RawFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Scatter that was read or written in part goes on as views."""
    if not scatter.supported():
        pytest.skip("this C library has no preadv2")
    for name in ("preadv2", "pwritev2"):
        real = scatter._calls[name]
        monkeypatch.setitem(scatter._calls, name, lambda fd, iovecs, count, *rest, real=real: real(fd, iovecs, count // 2, *rest))
    pieces = [(1000, 500), (0, 12), (700, 1), (3000, 511)]
    buffer = bytearray(4096)
    assert not disk.try_read(512, scattered(buffer, pieces)), "found in part: the rest has to be waited for"
    disk.read(512, scattered(buffer, pieces))
    assert b"".join(scattered(buffer, pieces)) == path.read_bytes()[512:1536]
    data = bytearray(os.urandom(4096))
    disk.write(1024, scattered(data, pieces))
    assert path.read_bytes()[1024:2048] == b"".join(scattered(data, pieces))


def test_more_views_than_one_call_takes(disk: RawFile, path: Path) -> None:
    data = os.urandom(5000)
    disk.write(0, [memoryview(data)[index : index + 1] for index in range(5000)])
    assert path.read_bytes()[:5000] == data
    buffer = bytearray(5000)
    views = [memoryview(buffer)[index : index + 1] for index in range(5000)]
    assert not disk.try_read(0, views)
    disk.read(0, views)
    assert buffer == data


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_errors_of_the_host_are_passed_on(disk: RawFile, system: FaultySystem, number: int) -> None:
    system.planned = {"preadv": [-number, 512, -number], "pwritev": [-number, 0, 512, -number]}
    views = [memoryview(bytearray(1024))]
    for call in (disk.read, disk.read, disk.write):
        with pytest.raises(OSError) as caught:
            call(0, views)
        assert caught.value.errno == number
    with pytest.raises(OSError, match="Input/output"):
        disk.write(0, views)  # nothing was written, and no reason given
    with pytest.raises(OSError):
        disk.write(0, views)
    disk.write(0, views)  # and works again when the host does


def test_an_interrupted_call_is_made_again(disk: RawFile) -> None:
    """Python's half of it: the signal's handler runs, the call goes on (PEP 475)."""
    import signal

    fired = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for _ in range(300):
            disk.write(0, [memoryview(bytes(SIZE))])
            assert read(disk, 0, SIZE) == bytes(SIZE)
            disk.write_zeroes(0, SIZE, True)
        assert fired
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_file_that_became_shorter(disk: RawFile, path: Path) -> None:
    """EIO, not zeros as in QEMU: a guest that is handed zeros for its data goes on to write them back."""
    os.truncate(path, SIZE // 2)
    assert read(disk, SIZE // 2 - 512, 512)
    for offset in (SIZE // 2 - 512, SIZE // 2):
        with pytest.raises(OSError, match="Input/output"):
            read(disk, offset, 1024)
        assert not disk.try_read(offset, [memoryview(bytearray(1024))])
        if scatter.supported():
            with pytest.raises(OSError, match="Input/output"):
                disk.read(offset, scattered(bytearray(1024), [(512, 512), (0, 512)]))
            with pytest.raises(OSError, match="Input/output"):
                disk.write(offset, scattered(bytearray(1024), [(512, 512), (0, 512)]))
            assert not disk.try_read(offset, scattered(bytearray(1024), [(512, 512), (0, 512)]))
    disk.discard_range(SIZE - 4096, 4096)
    for unmap in (False, True):
        try:
            disk.write_zeroes(SIZE - 4096, 4096, unmap)
        except OSError as error:  # a file system without FALLOC_FL_ZERO_RANGE: they were to be written
            assert error.errno == errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        disk.write(SIZE // 2 - 512, [memoryview(bytes(1024))])
    disk.write(SIZE // 2 - 512, [memoryview(bytes(512))])
    assert path.stat().st_size == SIZE // 2, "it has not become longer again"


def test_no_room(tmp_path: Path) -> None:
    """A sparse file on a full file system: the write fails, the rest of the disk works, and room makes it work again."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256K", "tmpfs", str(tmp_path)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small tmpfs needs root: " + done.stderr.decode().strip())
    try:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, SIZE)
        disk = RawFile(fd, "disk", SIZE, discard=True)
        with pytest.raises(OSError) as caught:
            disk.write(0, [memoryview(b"x" * (SIZE // 2))])
        assert caught.value.errno == errno.ENOSPC
        assert read(disk, SIZE - 512, 512) == bytes(512)
        disk.discard_range(0, SIZE // 2)
        disk.write(SIZE - 4096, [memoryview(b"y" * 4096)])
        assert read(disk, SIZE - 4096, 4096) == b"y" * 4096
        assert os.fstat(fd).st_blocks * 512 == 4096
        disk.flush()
        disk.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_the_limit_on_file_size_is_an_error_and_no_signal(disk: RawFile) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            disk.write(SIZE - 512, [memoryview(bytes(512))])
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_flush_that_failed_fails_for_good(disk: RawFile, system: FaultySystem) -> None:
    """The kernel reports lost pages once; the next fdatasync would say that all is well."""
    system.planned = {"fdatasync": [None, -errno.EIO]}
    disk.flush()
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            disk.flush()
    assert len(system.calls) == 2


def test_who_need_not_flush_does_not(path: Path, system: FaultySystem) -> None:
    system.planned = {"fdatasync": []}
    disk = RawFile(os.open(path, os.O_RDWR), str(path), SIZE, flushes=False)
    disk.flush()
    assert not system.calls
    disk.close()


def test_reading_from_the_cache(disk: RawFile, system: FaultySystem) -> None:
    buffer = bytearray(8192)
    disk.read(0, [memoryview(buffer)])
    again = bytearray(8192)
    if not disk.try_read(0, [memoryview(again)]):
        pytest.skip("the file system of the temporary folder cannot tell whether it would wait")
    assert again == buffer
    system.planned = {"preadv": [-errno.EAGAIN, 512, 0, -errno.EIO, None]}
    views = [memoryview(again)]
    assert [disk.try_read(0, views) for _ in range(5)] == [False, False, False, False, True]
    assert all(each == ("preadv", 0) for each in system.calls)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_tell_is_asked_once(disk: RawFile, system: FaultySystem, number: int) -> None:
    system.planned = {"preadv": [-number]}
    views = [memoryview(bytearray(512))]
    assert not any(disk.try_read(0, views) for _ in range(4))
    assert len(system.calls) == 1
    disk.read(0, views)


def test_a_reader_cannot_write(path: Path) -> None:
    before = path.read_bytes()
    disk = RawFile(os.open(path, os.O_RDWR), str(path), SIZE, readonly=True, discard=True)
    for call in (
        lambda: disk.write(0, [memoryview(b"x" * 512)]),
        lambda: disk.discard_range(0, 4096),
        lambda: disk.write_zeroes(0, 4096, True),
    ):
        with pytest.raises(OSError, match="Read-only"):
            call()
    disk.close()
    assert path.read_bytes() == before


# --- holes and zeros ----------------------------------------------------------------------------------------------------
def room(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_what_is_discarded_is_freed(disk: RawFile, path: Path) -> None:
    before = room(path)
    disk.discard_range(0, SIZE // 2)
    if not disk._can_punch:
        pytest.skip("no holes here")
    assert room(path) <= before - SIZE // 2 + 8192
    disk.write_zeroes(SIZE // 2, SIZE // 4, True)
    assert room(path) <= before - SIZE * 3 // 4 + 8192
    assert read(disk, SIZE // 2, SIZE // 4) == bytes(SIZE // 4)
    disk.write_zeroes(SIZE // 2, SIZE // 4, False)
    assert read(disk, SIZE // 2, SIZE // 2)[: SIZE // 4] == bytes(SIZE // 4)
    assert path.stat().st_size == SIZE


def test_discard_ignored(path: Path) -> None:
    disk = RawFile(os.open(path, os.O_RDWR), str(path), SIZE)
    before = room(path), path.read_bytes()
    disk.discard_range(0, SIZE)
    assert (room(path), path.read_bytes()) == before
    disk.write_zeroes(0, SIZE, True)
    assert room(path) >= before[0] and path.read_bytes() == bytes(SIZE), "discard=ignore: zeros keep their storage"
    disk.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_holes(disk: RawFile, path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    asked = []

    def refuse(fd: int, mode: int, offset: int, length: int) -> None:
        asked.append(mode)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(raw, "fallocate", refuse)
    monkeypatch.setattr(raw, "_ZEROS", 4096)
    for _ in range(3):
        disk.write_zeroes(512, 20_480, True)
        disk.discard_range(SIZE // 2, 4096)
    content = path.read_bytes()
    assert content[512 : 512 + 20_480] == bytes(20_480) and content[:512] == bytes(range(256)) * 2
    assert content[512 + 20_480 : 512 + 20_480 + 256] == bytes(range(256))
    assert len(asked) == (9 if number == errno.EINVAL else 2), "what cannot be is tried once; EINVAL may be about the range"


def test_other_errors_of_fallocate_are_passed_on(disk: RawFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(raw, "fallocate", fail)
    for call in (lambda: disk.write_zeroes(0, 512, False), lambda: disk.discard_range(0, 512)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC


def test_fallocate_says_why_not(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError) as caught:
        fallocate(fd, 3, 0, 4096)
    assert caught.value.errno == errno.EBADF
    os.close(fd)


def test_zeros_are_durable_when_writes_are(path: Path, system: FaultySystem) -> None:
    disk = RawFile(os.open(path, os.O_RDWR | os.O_DSYNC), str(path), SIZE, write_cache=False)
    system.planned = {"fdatasync": []}
    disk.write_zeroes(0, 4096, False)
    assert len(system.calls) == (1 if disk._can_zero else 0)
    disk.close()


def test_closing_twice(path: Path) -> None:
    disk = RawFile(os.open(path, os.O_RDWR), str(path), SIZE)
    disk.close()
    disk.close()


def test_nothing_is_nothing(disk: RawFile) -> None:
    disk.read(SIZE, [])
    disk.write(SIZE, [])
    disk.write_zeroes(SIZE, 0, True)
    disk.discard_range(SIZE, 0)
