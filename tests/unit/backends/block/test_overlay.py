"""Overlays: where each cluster is, what is copied up, and what a full host does to it. Contents: test_model.py."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from pyvmm.backends.block import overlay, raw
from pyvmm.backends.block.overlay import Overlay
from pyvmm.backends.block.raw import RawFile
from pyvmm.errors import ConfigError
from tests.support.fakes import FaultySystem

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Overlay:
    (tmp_path / "base").write_bytes(b"b" * SIZE)
    base = RawFile(os.open(tmp_path / "base", os.O_RDONLY), "base", SIZE, readonly=True)
    top = os.open(tmp_path / "top", os.O_RDWR | os.O_CREAT)
    os.ftruncate(top, SIZE)
    return Overlay(base, RawFile(top, "top", SIZE, discard=True, flushes=False), True)


def read(disk: Overlay, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.read(offset, [memoryview(buffer)])
    return bytes(buffer)


def test_whole_clusters_are_not_copied_up(disk: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.base.read = None  # type: ignore[method-assign, assignment]
    disk.write(8192, [memoryview(b"x" * 8192)])
    assert disk._map[:5] == b"\0\0\1\1\0"
    disk.write(8192 + 512, [memoryview(b"y" * 512)])  # ours already
    assert os.fstat(disk.top.fd).st_blocks * 512 == 8192


def test_a_part_brings_the_rest_along(disk: Overlay) -> None:
    disk.write(4096 + 512, [memoryview(b"x" * 4096)])
    assert disk._map[:4] == b"\0\1\1\0"
    assert read(disk, 0, 16384) == b"b" * 4608 + b"x" * 4096 + b"b" * 7680
    assert os.pread(disk.top.fd, 8192, 4096) == b"b" * 512 + b"x" * 4096 + b"b" * 3584


def test_a_read_across_both(disk: Overlay) -> None:
    for cluster in (1, 3, 4):
        disk.write(cluster * 4096, [memoryview(bytes([48 + cluster]) * 4096)])
    expected = b"".join(each * 4096 for each in (b"b", b"1", b"b", b"3", b"4", b"b"))
    assert read(disk, 0, 6 * 4096) == expected
    buffer = bytearray(5 * 4096)
    views = [memoryview(buffer)[:5000], memoryview(buffer)[5000:]]
    if disk.try_read(2048, views):
        assert buffer == expected[2048 : 2048 + 5 * 4096]
    disk.base.try_read = lambda *_: False  # type: ignore[method-assign]
    assert not disk.try_read(2048, views)
    assert disk.try_read(4096, [memoryview(buffer)[:4096]]) in (True, False)


@pytest.mark.parametrize("where", ["pwritev", "preadv"])
def test_a_write_that_fails_has_not_happened(disk: Overlay, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    system = FaultySystem()
    monkeypatch.setattr(raw, "os", system)
    system.planned = {where: [1024, -errno.ENOSPC] if where == "pwritev" else [-errno.EIO]}
    with pytest.raises(OSError):
        disk.write(512, [memoryview(b"x" * 8192)])
    assert disk._map.find(b"\1") < 0
    assert read(disk, 0, 16384) == b"b" * 16384
    disk.write(512, [memoryview(b"x" * 8192)])
    assert read(disk, 0, 16384) == b"b" * 512 + b"x" * 8192 + b"b" * 7680
    assert not disk._ranges._held


def test_a_second_writer_waits_for_the_first_to_copy_up(disk: Overlay) -> None:
    """Else he would write beside the copy, and the copy over him."""
    copying, go_on = threading.Event(), threading.Event()
    real = disk.base.read

    def slow(offset: int, views: list[memoryview]) -> None:
        real(offset, views)
        copying.set()
        assert go_on.wait(60)

    disk.base.read = slow  # type: ignore[method-assign]
    first = threading.Thread(target=disk.write, args=(0, [memoryview(b"1" * 512)]))
    first.start()
    assert copying.wait(60)
    second = threading.Thread(target=disk.write, args=(1024, [memoryview(b"2" * 512)]))
    second.start()
    disk.write(4096, [memoryview(b"3" * 4096)])  # elsewhere nobody waits
    second.join(0.05)
    assert second.is_alive()
    go_on.set()
    first.join(60)
    second.join(60)
    assert read(disk, 0, 4096) == b"1" * 512 + b"b" * 512 + b"2" * 512 + b"b" * 2560


def test_zeros_and_holes(disk: Overlay) -> None:
    disk.write(0, [memoryview(b"x" * 32768)])
    disk.write_zeroes(512, 16384, False)
    assert read(disk, 0, 32768) == b"x" * 512 + bytes(16384) + b"x" * 15872
    disk.write_zeroes(SIZE - 65536, 65536, True)
    assert read(disk, SIZE - 65536, 65536) == bytes(65536), "not the image's again"
    room = os.fstat(disk.top.fd).st_blocks
    disk.discard_range(16384, 16384)
    assert os.fstat(disk.top.fd).st_blocks < room
    disk.discard_range(100, 200)  # less than a cluster: nothing
    assert read(disk, 0, 512) == b"x" * 512


def test_discard_ignored(disk: Overlay) -> None:
    disk.discard = False
    disk.discard_range(0, SIZE)
    assert read(disk, 0, SIZE) == b"b" * SIZE


class Huge:
    name = "huge"
    block_size = 512
    size = 0


@pytest.mark.parametrize(
    ("size", "cluster"), [(512, 4096), (64 << 30, 4096), (65 << 30, 8192), (1 << 40, 65536), (1 << 44, 1 << 20), (1 << 46, 1 << 20)]
)
def test_the_map_stays_small(size: int, cluster: int) -> None:
    base = Huge()
    base.size = size
    made = Overlay(base, Huge())  # type: ignore[arg-type]
    assert made.cluster == cluster
    assert len(made._map) == -(-size // cluster)


def test_a_disk_beyond_all_maps() -> None:
    base = Huge()
    base.size = 1 << 62
    with pytest.raises(ConfigError, match="too many for snapshot=on"):
        Overlay(base, Huge())  # type: ignore[arg-type]


def test_what_is_temporary_is_not_flushed(disk: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    system = FaultySystem()
    system.planned = {"fdatasync": []}
    monkeypatch.setattr(raw, "os", system)
    monkeypatch.setattr(overlay, "os", system)
    disk.flush()
    assert not system.calls
    disk.close()
    disk.close()
