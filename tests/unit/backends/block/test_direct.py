"""Direct I/O: what may go to the kernel as it is, and the buffer for the rest."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.block import direct, raw
from pyvmm.backends.block.backend import open_drive
from pyvmm.backends.block.direct import DirectFile
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError
from tests.support.fakes import FaultySystem

SIZE = 8 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DirectFile]:
    (tmp_path / "disk").write_bytes(os.urandom(SIZE))
    try:
        made = open_drive(DriveConfig(id="d", file=str(tmp_path / "disk"), cache="none"))
    except ConfigError as error:
        pytest.skip(str(error))
    assert isinstance(made, DirectFile)
    yield made
    made.close()


def content(disk: DirectFile) -> bytes:
    return Path(disk.name).read_bytes()


def test_aligned_requests_need_no_copy(disk: DirectFile) -> None:
    with mmap.mmap(-1, 1 << 20) as buffer, memoryview(buffer) as view, view[:65536] as first, view[65536:131072] as second:
        disk.read(4096, [first, second])
        assert bytes(view[:131072]) == content(disk)[4096 : 4096 + 131072]
        first[:] = b"x" * 65536
        disk.write(8192, [first])
        assert content(disk)[8192 : 8192 + 65536] == b"x" * 65536
    assert not disk._buffers


@pytest.mark.parametrize("shift", [1, 8, 256, 513])
def test_any_address_will_do(disk: DirectFile, shift: int) -> None:
    buffer = bytearray((3 << 20) + shift)  # longer than the bounce buffer
    view = memoryview(buffer)[shift:]
    disk.read(512, [view[:100], view[100:]])
    assert view == content(disk)[512 : 512 + len(view)]
    view[:] = os.urandom(len(view))
    disk.write(1024, [view[:7], view[7:]])
    assert content(disk)[1024 : 1024 + len(view)] == view
    assert len(disk._buffers) == 1, "one buffer, used again"


def test_nothing_is_in_a_cache(disk: DirectFile) -> None:
    assert not disk.try_read(0, [memoryview(bytearray(4096))])


def test_short_direct_reads_go_on(disk: DirectFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an offset no direct read may have: through the buffer then."""
    system = FaultySystem()
    monkeypatch.setattr(raw, "os", system)
    with mmap.mmap(-1, 8192) as buffer, memoryview(buffer) as view:
        system.planned = {"preadv": [1536, 512]}
        disk.read(0, [view])
        assert bytes(view) == content(disk)[:8192]
        view[:] = b"y" * 8192
        system.planned = {"pwritev": [512]}
        disk.write(0, [view])
        assert content(disk)[:8192] == b"y" * 8192


def test_a_file_that_became_shorter(disk: DirectFile) -> None:
    os.truncate(disk.name, SIZE // 2 + 512)
    for shift in (0, 1):
        with pytest.raises(OSError, match="Input/output"):
            disk.read(SIZE // 2, [memoryview(bytearray(4096 + shift))[shift:]])
    assert len(disk._buffers) <= direct._KEPT
