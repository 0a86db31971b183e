"""From a -drive to a disk: everything that may be wrong with an image, in one line that says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvmm.backends.block import backend, direct
from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.block.direct import DirectFile
from pyvmm.backends.block.overlay import Overlay
from pyvmm.backends.block.raw import RawFile
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError
from tests.support.process import descriptors

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    with open(tmp_path / "disk.img", "wb") as file:
        file.truncate(SIZE)
    return str(tmp_path / "disk.img")


def refused(**options: object) -> str:
    before = descriptors()
    with pytest.raises(ConfigError) as caught:
        open_drive(DriveConfig(id="d", **options))  # type: ignore[arg-type]
    assert descriptors() == before, "a descriptor is left open"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_kinds(path: str) -> None:
    for options, kind in (({}, RawFile), ({"snapshot": True}, Overlay), ({"snapshot": True, "readonly": True}, RawFile)):
        disk = open_drive(DriveConfig(id="d", file=path, **options))  # type: ignore[arg-type]
        assert type(disk) is kind
        assert disk.name.startswith(path)
        assert (disk.size, disk.block_size) == (SIZE, 512)
        disk.close()


@pytest.mark.parametrize(
    ("cache", "through", "is_direct", "flushes"),
    [
        ("writeback", False, False, True), ("none", False, True, True), ("writethrough", True, False, True),
        ("directsync", True, True, True), ("unsafe", False, False, False),
    ],
)  # fmt: skip
def test_cache_modes(path: str, cache: str, through: bool, is_direct: bool, flushes: bool) -> None:
    import fcntl

    disk = open_drive(DriveConfig(id="d", file=path, cache=cache))
    assert isinstance(disk, DirectFile if is_direct else RawFile)
    flags = fcntl.fcntl(disk.fd, fcntl.F_GETFL)
    assert bool(flags & os.O_DIRECT) == is_direct
    assert bool(flags & os.O_DSYNC) == through
    assert not flags & os.O_NONBLOCK
    assert disk.write_cache != through
    assert disk._flushes == flushes
    assert fcntl.fcntl(disk.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    disk.close()


def test_discard(path: str) -> None:
    for options, expected in (({}, False), ({"discard": "unmap"}, True), ({"discard": "unmap", "readonly": True}, False)):
        disk = open_drive(DriveConfig(id="d", file=path, **options))  # type: ignore[arg-type]
        assert disk.discard == expected
        disk.close()


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "odd").write_bytes(bytes(1000))
    assert "No such file or directory: `truncate -s 1G FILE` makes" in refused(file=str(tmp_path / "missing"))
    assert "the file is empty: give it a size" in refused(file=str(tmp_path / "empty"))
    assert "directory: name a disk image" in refused(file=str(tmp_path / "folder"))
    assert "directory: name a disk image" in refused(file=str(tmp_path / "folder"), readonly=True)
    assert "neither a regular file nor a block device" in refused(file=str(tmp_path / "fifo"))
    assert "neither a regular file nor a block device" in refused(file=str(tmp_path / "fifo"), readonly=True)
    assert "1000 bytes are no multiple of 512: if it is a disk image, `truncate -s 1024 FILE`" in refused(file=str(tmp_path / "odd"))
    assert "Not a directory" in refused(file=str(tmp_path / "odd" / "below"))
    assert "null" in refused(file="a\0b")
    assert "-drive file=" in refused(file="\udcff\ud800")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_no_permission(path: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Made up, because root may do everything."""
    real = os.open

    def refuse(name: str, flags: int, *rest: int) -> int:
        if name == path and (flags & os.O_ACCMODE or everything):
            raise OSError(number, os.strerror(number))
        return real(name, flags, *rest)

    monkeypatch.setattr(backend.os, "open", refuse)
    everything = False
    assert "cannot be written: add readonly=on, or snapshot=on" in refused(file=path)
    for options in ({"readonly": True}, {"snapshot": True}, {"auto_read_only": True}):
        disk = open_drive(DriveConfig(id="d", file=path, **options))  # type: ignore[arg-type]
        assert disk.readonly == ("snapshot" not in options)
        disk.close()
    everything = True
    assert "cannot be read by this user" in refused(file=path, readonly=True)
    assert "cannot be read by this user" in refused(file=path, auto_read_only=True)


@pytest.mark.parametrize(("offset", "magic", "name"), backend._MAGIC)
def test_an_image_of_another_format_is_not_taken_for_raw(path: str, offset: int, magic: bytes, name: str) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(magic)
    for cache in ("writeback", "none"):
        said = refused(file=path, probed=True, cache=cache)
        assert f"begins like a {name} image: convert it (qemu-img convert -O raw), or add format=raw" in said
    open_drive(DriveConfig(id="d", file=path)).close()


def test_raw_needs_no_format(path: str) -> None:
    open_drive(DriveConfig(id="d", file=path, probed=True)).close()


def test_a_file_system_without_direct_io(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(name: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(name, flags, *rest)

    monkeypatch.setattr(backend.os, "open", refuse)
    assert "has no O_DIRECT: leave out cache=none" in refused(file=path, cache="none")


def test_direct_io_in_larger_blocks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    smallest = 4096

    def refuse(fd: int, views: list[memoryview], offset: int, *rest: int) -> int:
        if offset % smallest or any(len(view) % smallest for view in views):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, views, offset, *rest)

    monkeypatch.setattr(direct.os, "preadv", refuse)
    disk = open_drive(DriveConfig(id="d", file=path, cache="none"))
    assert disk.block_size == 4096
    buffer = bytearray(512)
    disk.read(512, [memoryview(buffer)])
    disk.close()
    os.truncate(path, SIZE + 512)
    assert "no multiple of 4096, the block of direct I/O here: use cache=writeback" in refused(file=path, cache="none")
    smallest = 1 << 20
    assert "takes no direct I/O in blocks" in refused(file=path, cache="none")


def test_other_errors_have_no_traceback(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(backend.os, "lseek", fail)
    assert refused(file=path) == f"-drive file={path}: Input/output error"
