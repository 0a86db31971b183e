"""Locks on images: among ourselves, after a death, and against a real QEMU."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.backends.block import locks
from pyvmm.backends.block.backend import open_drive
from pyvmm.config import DriveConfig
from pyvmm.errors import ConfigError

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    with open(tmp_path / "disk.img", "wb") as file:
        file.truncate(SIZE)
    return str(tmp_path / "disk.img")


def take(path: str, **options: object) -> None:
    """Opens and closes; ConfigError when locked."""
    open_drive(DriveConfig(id="d", file=path, **options)).close()  # type: ignore[arg-type]


WRITER: dict[str, object] = {}
READER: dict[str, object] = {"readonly": True}
SNAPSHOT: dict[str, object] = {"snapshot": True}
IGNORANT: dict[str, object] = {"locking": False}


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (WRITER, WRITER, False), (WRITER, READER, False), (READER, WRITER, False), (READER, READER, True), (WRITER, SNAPSHOT, False),
        (SNAPSHOT, SNAPSHOT, True), (SNAPSHOT, READER, True), (SNAPSHOT, WRITER, False), (WRITER, IGNORANT, True), (IGNORANT, WRITER, True),
    ],
)  # fmt: skip
def test_two_drives(path: str, first: dict[str, object], second: dict[str, object], fits: bool) -> None:
    held = open_drive(DriveConfig(id="a", file=path, **first))  # type: ignore[arg-type]
    if fits:
        take(path, **second)
    else:
        with pytest.raises(ConfigError, match=r"disk.img: it is locked: another program, or another -drive, .*: stop that one, or "):
            take(path, **second)
        with pytest.raises(ConfigError):
            take(path, **second)  # who was refused has left nothing behind
    held.close()
    take(path, **second)


def test_a_link_is_no_way_around(path: str) -> None:
    os.link(path, path + ".link")
    held = open_drive(DriveConfig(id="a", file=path))
    with pytest.raises(ConfigError, match="locked"):
        take(path + ".link")
    held.close()


def test_a_lock_dies_with_its_process(path: str) -> None:
    program = (
        "import sys; from pyvmm.backends.block.backend import open_drive; from pyvmm.config import DriveConfig;"
        "held = open_drive(DriveConfig(id='d', file=sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, path]
    root = Path(__file__).resolve().parents[4]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="locked"):
            take(path)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    take(path)


def test_others_exclusive_locks_are_respected(path: str) -> None:
    other = os.open(path, os.O_RDWR)
    fcntl.fcntl(other, fcntl.F_OFD_SETLK, locks._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    with pytest.raises(ConfigError, match="locked"):
        take(path)
    take(path, locking=False)
    os.close(other)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(path: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "fcntl", refuse)
    take(path)


# --- QEMU ---------------------------------------------------------------------------------------------------------------
@contextmanager
def qemu(path: str, options: str = "") -> Iterator[tuple[int, str]]:
    """A QEMU that has the image as a disk: (-1, "") while it runs, or status and message when it refused."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    # -S: nothing runs; its monitor says when the disk has been opened
    drive = f"file={path},format=raw,if=none,id=d{options}"
    command = [program, "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "16", "-monitor", "stdio"]
    with subprocess.Popen(
        [*command, "-drive", drive, "-device", "virtio-blk-pci,drive=d"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdin.write(b"info version\n")
            process.stdin.flush()
            told = b""
            end = time.monotonic() + 60
            while told.count(b"(qemu)") < 2 and (more := os.read(process.stdout.fileno(), 4096)):
                told += more
                assert time.monotonic() < end
            if told.count(b"(qemu)") >= 2:
                yield -1, ""
            else:
                error = process.stderr.read().decode()
                yield process.wait(60), error
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("theirs", "ours", "fits"),
    [
        ("", WRITER, False), ("", READER, False), (",readonly=on", WRITER, False), (",readonly=on", READER, True),
        ("", SNAPSHOT, False), (",snapshot=on", READER, True), (",file.locking=off", WRITER, True), ("", IGNORANT, True),
    ],
)  # fmt: skip
def test_qemu_first(path: str, theirs: str, ours: dict[str, object], fits: bool) -> None:
    with qemu(path, theirs) as (status, message):
        assert status == -1, message
        if fits:
            take(path, **ours)
        else:
            with pytest.raises(ConfigError, match="locked"):
                take(path, **ours)


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        (WRITER, "", False), (WRITER, ",readonly=on", False), (READER, "", False), (READER, ",readonly=on", True),
        (SNAPSHOT, "", False), (SNAPSHOT, ",snapshot=on", True), (WRITER, ",file.locking=off", True), (IGNORANT, "", True),
    ],
)  # fmt: skip
def test_we_first(path: str, ours: dict[str, object], theirs: str, fits: bool) -> None:
    held = open_drive(DriveConfig(id="a", file=path, **ours))  # type: ignore[arg-type]
    with qemu(path, theirs) as (status, message):
        assert (status == -1) == fits, message
        if not fits:
            assert "lock" in message and "Is another process using the image" in message
    held.close()
