"""Every kind of disk against a bytearray: random requests with fixed seeds, alone and from several threads."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.block.direct import DirectFile
from pyvmm.backends.block.overlay import Overlay
from pyvmm.backends.block.raw import RawFile
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError
from pyvmm.scatter import IOV_MAX, supported
from tests.support.disk import scattered

if TYPE_CHECKING:
    from pyvmm.backends.block.backend import BlockBackend
    from pyvmm.scatter import Views

SIZE = (1 << 20) + 3 * 512  # neither whole clusters nor whole blocks of 4 KiB


def drive(path: Path, **options: object) -> BlockBackend:
    try:
        return open_drive(DriveConfig(id="d", file=str(path), **options))  # type: ignore[arg-type]
    except ConfigError as error:
        if "O_DIRECT" in str(error) or "direct I/O" in str(error):
            pytest.skip(str(error))
        raise


def coarse(path: Path, cluster: int) -> Overlay:
    """An overlay with clusters that most writes fill in part."""
    top = drive(path, format="scratch", size=SIZE, discard="unmap")
    base = RawFile(os.open(path, os.O_RDONLY), str(path), SIZE, readonly=True)
    made = Overlay(base, top, True)
    made.cluster = cluster
    return made


def blocks(path: Path) -> BlockBackend:
    """Direct I/O as on a disk of 4096-byte sectors, whatever this host has. Its image is whole blocks."""
    os.truncate(path, SIZE + 5 * 512)
    disk = drive(path, cache="none")
    disk.close()
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    made = DirectFile(fd, str(path), SIZE + 5 * 512, block_size=4096)
    made.size = SIZE  # the model's
    made._check = lambda offset, length: None  # type: ignore[method-assign]  # the last block reaches behind it
    return made


KINDS: dict[str, Callable[[Path], BlockBackend]] = {
    "writeback": drive,
    "unmap": lambda path: drive(path, discard="unmap"),
    "none": lambda path: drive(path, cache="none"),
    "none, 4096": blocks,
    "directsync": lambda path: drive(path, cache="directsync"),
    "writethrough": lambda path: drive(path, cache="writethrough", discard="unmap"),
    "snapshot": lambda path: drive(path, snapshot=True),
    "snapshot, unmap, none": lambda path: drive(path, snapshot=True, discard="unmap", cache="none"),
    "clusters of 64 KiB": lambda path: coarse(path, 65536),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(random.Random(9).randbytes(SIZE))
    return tmp_path / "disk"


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, path: Path) -> object:
    made = KINDS[request.param](path)
    yield made
    made.close()


def pieces(chance: random.Random, buffer: bytearray, odd: bool) -> Views:
    """The buffer in several views, of odd lengths too: drivers may cut a request anywhere. As a list, or as the kernel takes them."""
    view, found, at = memoryview(buffer), [], 0
    while at < len(view):
        length = min(chance.choice((1, 7, 511, 4096) if odd else (512, 1024, 4096, 65536)), len(view) - at)
        found.append((at, length))
        at += length
    if supported() and len(found) <= IOV_MAX and chance.random() < 0.5:
        return scattered(buffer, found)
    return [view[start : start + length] for start, length in found]


def step(chance: random.Random, disk: BlockBackend, model: bytearray, low: int, high: int) -> None:
    """One request inside sectors [low, high), and its effect on the model."""
    first = chance.randrange(low, high)
    count = min(chance.choice((1, 2, 7, 8, 9, 64, 300)), high - first)
    offset, length = first * 512, count * 512
    kind = chance.choice(("read", "read", "write", "write", "write", "zero", "unmap", "discard", "flush", "try"))
    buffer = bytearray(length)
    views = pieces(chance, buffer, chance.random() < 0.2)
    if kind == "write":
        buffer[:] = chance.randbytes(length)
        disk.write(offset, views)
        model[offset : offset + length] = buffer
    elif kind in ("zero", "unmap"):
        disk.write_zeroes(offset, length, kind == "unmap")
        model[offset : offset + length] = bytes(length)
    elif kind == "flush":
        disk.flush()
    else:
        if kind == "discard":
            disk.discard_range(offset, length)
        if kind != "try":
            disk.read(offset, views)
        elif not disk.try_read(offset, views):
            return
        if kind == "discard":  # whatever is read from now on: it must stay the same
            model[offset : offset + length] = buffer
        assert buffer == model[offset : offset + length], (kind, offset, length)


def test_a_disk_is_an_array_of_bytes(disk: BlockBackend, path: Path) -> None:
    model = bytearray(path.read_bytes()[:SIZE])
    before = bytes(model)
    chance = random.Random(1)
    for _ in range(600):
        step(chance, disk, model, 0, SIZE // 512)
    whole = bytearray(SIZE)
    disk.read(0, [memoryview(whole)])
    assert whole == model
    if isinstance(disk, Overlay):
        assert path.read_bytes() == before
    else:
        disk.flush()
        assert path.read_bytes()[:SIZE] == model


def test_threads_that_share_no_sector_do_not_disturb_each_other(disk: BlockBackend, path: Path) -> None:
    """Their sectors alternate in runs much shorter than a cluster or a block, so they meet in every one."""
    sectors = 256
    model = bytearray(path.read_bytes()[:SIZE])
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        chance = random.Random(number)
        try:
            barrier.wait(60)
            for _ in range(250):
                first = chance.randrange(sectors // 12) * 12 + number * 3  # three sectors each, one after another
                step(chance, disk, model, first, first + 3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not failures, failures[0]
    whole = bytearray(SIZE)
    disk.read(0, [memoryview(whole)])
    assert whole == model


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none, 4096"])
@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (SIZE, 512), (SIZE - 512, 1024), (1 << 62, 512), (0, SIZE + 512)])
def test_nothing_happens_outside(kind: str, path: Path, offset: int, length: int) -> None:
    disk = KINDS[kind](path)
    before = path.read_bytes()
    views = [memoryview(bytearray(length))]
    for call in (
        lambda: disk.read(offset, views),
        lambda: disk.write(offset, views),
        lambda: disk.discard_range(offset, length),
        lambda: disk.write_zeroes(offset, length, True),
    ):
        with pytest.raises(OSError, match="Input/output error"):
            call()
    assert not disk.try_read(offset, views)
    assert path.read_bytes() == before
    disk.close()
