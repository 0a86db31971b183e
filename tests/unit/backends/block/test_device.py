"""A block device as a disk: a loop device, where root may have one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.block.backend import open_drive
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError

SIZE = 4 << 20


@pytest.fixture(params=[512, 4096])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if shutil.which("losetup") is None:
        pytest.skip("no losetup here")
    image = tmp_path / "image"
    image.write_bytes(b"\xaa" * SIZE)
    done = subprocess.run(["losetup", "-f", "--show", "-b", str(request.param), str(image)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("a loop device needs root: " + done.stderr.strip())
    yield done.stdout.strip()
    subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


@pytest.mark.parametrize("cache", ["writeback", "none", "directsync"])
def test_every_operation(device: str, cache: str) -> None:
    disk = open_drive(DriveConfig(id="d", file=device, cache=cache, discard="unmap"))
    assert disk.size == SIZE
    data = os.urandom(1536)
    disk.write(512, [memoryview(data)])
    buffer = bytearray(2560)
    disk.read(0, [memoryview(buffer)])
    assert buffer == b"\xaa" * 512 + data + b"\xaa" * 512
    disk.write_zeroes(512, 512, False)  # may be less than one of its sectors
    disk.write_zeroes(8192, 8192, True)
    disk.discard_range(65536, 65536)
    disk.discard_range(512, 512)
    disk.flush()
    whole = bytearray(32768)
    disk.read(0, [memoryview(whole)])
    assert whole[8192:16384] == bytes(8192) and whole[16384:] == b"\xaa" * 16384
    assert whole[1024:2048] == data[512:]
    with pytest.raises(OSError):
        disk.write(SIZE, [memoryview(bytes(512))])
    disk.close()


def test_a_device_the_host_uses_is_not_written(device: str) -> None:
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)  # as a mount does
    with pytest.raises(ConfigError, match="this host has mounted it, or uses it otherwise: unmount it, or add readonly=on"):
        open_drive(DriveConfig(id="d", file=device))
    for options in ({"readonly": True}, {"snapshot": True}, {"locking": False}):
        open_drive(DriveConfig(id="d", file=device, **options)).close()  # type: ignore[arg-type]
    os.close(holder)
    open_drive(DriveConfig(id="d", file=device)).close()


def test_other_devices_are_no_disks() -> None:
    for path in ("/dev/null", "/dev/zero"):
        with pytest.raises(ConfigError, match="neither a regular file nor a block device"):
            open_drive(DriveConfig(id="d", file=path))
