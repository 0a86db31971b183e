"""Files that are gone at the end, wherever TMPDIR points."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvmm.backends.block import temporary
from pyvmm.backends.block.backend import open_drive
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError
from tests.support.process import descriptors

SCRATCH = DriveConfig(id="s", format="scratch", size=1 << 20, discard="unmap")


@pytest.fixture
def image(tmp_path: Path) -> DriveConfig:
    (tmp_path / "image").write_bytes(b"i" * 65536)
    return DriveConfig(id="d", file=str(tmp_path / "image"), snapshot=True)


def test_a_scratch_disk() -> None:
    disk = open_drive(SCRATCH)
    assert (disk.size, disk.readonly, disk.write_cache, disk.discard, disk.name) == (1 << 20, False, True, True, "scratch disk s")
    buffer = bytearray(b"x" * 4096)
    disk.read(4096, [memoryview(buffer)])
    assert buffer == bytes(4096)
    disk.write(0, [memoryview(b"y" * 512)])
    disk.flush()
    disk.close()


@pytest.mark.parametrize("unnamed", [True, False])
def test_no_file_is_left_nor_seen(image: DriveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    if not unnamed:
        real = os.open

        def refuse(path: str, flags: int, *rest: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *rest)

        monkeypatch.setattr(temporary.os, "open", refuse)
    disks = [open_drive(image), open_drive(SCRATCH)]
    folder = str(tmp_path / "temporary")
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
    assert sum(link.startswith(folder) for link in links) == 2
    assert os.listdir(folder) == []
    for disk in disks:
        disk.write(0, [memoryview(b"x" * 512)])
        disk.close()
    assert Path(image.file).read_bytes() == b"i" * 65536


def test_no_folder(image: DriveConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    before = descriptors()
    for drive in (image, SCRATCH):
        with pytest.raises(ConfigError, match="no temporary file in /nonexistent: No such file or directory: set TMPDIR"):
            open_drive(drive)
    assert descriptors() == before


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 512])
def test_too_large_for_the_file_system(size: int) -> None:
    with pytest.raises(ConfigError, match="too many for a file in|no temporary file in"):
        open_drive(SCRATCH.replace(size=size))
