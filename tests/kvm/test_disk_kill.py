"""What was flushed stays: kill -9 at any moment of a guest that writes numbered blocks; and what a guest sees of a host's faults.

PYVMM_KILLS=100 kills that many times.
"""

from __future__ import annotations

import os
import random
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm import catalogue, status
from tests.support import process

pytestmark = pytest.mark.kvm
GUESTS = catalogue.load()
KILLS = int(os.environ.get("PYVMM_KILLS", "10"))
SECTOR, MIB = 512, 1 << 20


def command(guest: str, image: Path, append: str = "irq", drive: str = "", device: str = "") -> list[str]:
    """Command line for one of the disk guests on ``image``."""
    words = ["run", "-kernel", GUESTS[guest].file, "-append", append, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-no-reboot"]
    disk = f"file={image},format=raw,id=disk{drive}"
    if not device:
        return [*words, "--timeout", "120", "-drive", f"{disk},if=virtio"]
    return [*words, "--timeout", "120", "-drive", f"{disk},if=none", "-device", f"{device},drive=disk"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    os.truncate(path, 32 * MIB)
    return path


def acknowledged(shown: bytes) -> int:
    """The last number the guest has said in full."""
    numbers = [int(line) for line in shown.replace(b"\r", b"").split(b"\n")[:-1] if line.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    return len(numbers)


def block(number: int) -> bytes:
    return struct.pack("<64Q", *(number << 8 | word for word in range(64)))


def numbers_until(running: process.Process, least: int, shown: bytes = b"") -> bytes:
    """Reads on until the guest has acknowledged ``least`` blocks."""
    assert running.stdout is not None
    deadline = time.monotonic() + process.PATIENCE
    while acknowledged(shown) < least:
        assert time.monotonic() < deadline, shown[-200:]
        more = os.read(running.stdout.fileno(), 65536)
        assert more, f"ended: {running.stderr and running.stderr.read()!r}"
        shown += more
    return shown


@pytest.mark.parametrize(
    "options", [("", ""), (",cache=writethrough", ""), ("", "virtio-blk-pci,ioeventfd=off")], ids=["", "through", "exits"]
)
def test_killed_at_any_moment_nothing_flushed_is_lost(image: Path, options: tuple[str, str]) -> None:
    chance = random.Random(3)
    for attempt in range(KILLS if options == ("", "") else max(1, KILLS // 10)):
        os.truncate(image, 0)
        os.truncate(image, 32 * MIB)
        with process.started(*command("kill-blk", image, chance.choice(["irq", "poll"]), *options)) as running:
            assert running.stdout is not None
            shown = numbers_until(running, 1)
            until = time.monotonic() + chance.random() * 0.4
            while (left := until - time.monotonic()) > 0:
                if select.select([running.stdout], [], [], left)[0]:
                    shown += os.read(running.stdout.fileno(), 65536)
            running.send_signal(signal.SIGKILL)
            running.wait(process.PATIENCE)
            shown += running.stdout.read()
        data, last = image.read_bytes(), acknowledged(shown)
        lost = [number for number in range(1, last + 1) if data[number * SECTOR : (number + 1) * SECTOR] != block(number)]
        assert not lost, f"kill {attempt}: of {last} acknowledged blocks these are not on the disk: {lost[:10]}"


def test_truncated_underneath_reads_fail_and_the_guest_is_told(image: Path) -> None:
    with process.started(*command("bench-blk", image, "op=read count=100000000 irq")) as running:
        assert running.stdout is not None
        process.read_until(running.stdout.fileno(), b"go\n")
        os.truncate(image, 0)
        shown = process.read_until(running.stdout.fileno(), b"failed\n")
        assert b"FAIL: a request failed" in shown
        assert running.wait(process.PATIENCE) == 3  # isa-debug-exit, the guest's own doing
        _no_traceback(running)


def test_replaced_while_running_the_guest_keeps_its_disk(image: Path) -> None:
    with process.started(*command("kill-blk", image)) as running:
        shown = numbers_until(running, 5)
        image.unlink()
        image.mkdir()
        numbers_until(running, acknowledged(shown) + 20, shown)


def test_a_file_that_may_not_grow_is_an_io_error(image: Path) -> None:
    """EFBIG stands for every error a host's write can end with; the machine lives on."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * SECTOR, 20 * SECTOR))

    with process.started(*command("kill-blk", image), preexec_fn=limited) as running:
        assert running.stdout is not None
        shown = process.read_until(running.stdout.fileno(), b"I/O error\n")
        assert shown.replace(b"\r", b"").endswith(b"19\nI/O error\n") or b"19\nI/O error" in shown.replace(b"\r", b"")
        process.read_until(running.stdout.fileno(), b"I/O error\n")  # and again: it has not ended
        running.terminate()
        running.wait(process.PATIENCE)
        _no_traceback(running)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "pyvmm", place], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_host_is_an_io_error_until_there_is_room(small: Path) -> None:
    image = small / "disk.img"
    image.write_bytes(b"")
    os.truncate(image, 32 * MIB)
    with process.started(*command("kill-blk", image)) as running:
        assert running.stdout is not None
        shown = process.read_until(running.stdout.fileno(), b"I/O error\n")
        assert acknowledged(re.sub(rb"I/O error\r?\n", b"", shown)) > 400
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        process.read_until(running.stdout.fileno(), b"\n700")
        running.terminate()
        running.wait(process.PATIENCE)
        _no_traceback(running)


@contextmanager
def block_device(image: Path) -> Iterator[Path]:
    """A block device of the host that has its blocks in ``image``."""
    done = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True) if shutil.which("losetup") else None
    if done is None or done.returncode:
        pytest.skip("a loop device needs losetup and root: " + (done.stderr.strip() if done else ""))
    try:
        yield Path(done.stdout.strip())
    finally:
        subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


@pytest.mark.parametrize("cache", ["writeback", "none"])
def test_a_block_the_hosts_device_cannot_read(image: Path, cache: str) -> None:
    """EIO of the host's block layer, as from a bad sector: of a loop device where its file has nothing to give."""
    with block_device(image) as device:
        os.truncate(image, MIB)
        with device.open("rb", buffering=0) as reader, pytest.raises(OSError, match="Input/output error"):
            reader.seek(MIB)
            reader.read(SECTOR)
        with process.started(*command("bench-blk", device, "op=read size=65536 irq", f",cache={cache}")) as running:
            assert running.stdout is not None and running.stderr is not None
            shown, errors = running.communicate(timeout=process.PATIENCE)
    assert b"FAIL: a request failed" in shown
    assert running.returncode == 3  # isa-debug-exit, the guest's own doing
    assert b"read of 65536 bytes at 0x100000 failed: Input/output error (EIO); the guest sees an I/O error\n" in errors, errors
    assert b"Traceback" not in errors


def test_what_the_hosts_device_took_and_then_could_not_write(small: Path) -> None:
    """A write into the host's page cache succeeds; the flush is told EIO, and so is the guest, from then on for good."""
    image = small / "disk.img"
    image.write_bytes(b"")
    os.truncate(image, 32 * MIB)
    with block_device(image) as device, process.started(*command("kill-blk", device)) as running:
        assert running.stdout is not None
        shown = process.read_until(running.stdout.fileno(), b"I/O error\n")
        assert acknowledged(re.sub(rb"I/O error\r?\n", b"", shown)) > 400
        process.read_until(running.stdout.fileno(), b"I/O error\n")  # and again: it has not ended
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        running.terminate()
        assert running.stderr is not None
        errors = running.stderr.read()
        assert b"warning: drive" in errors and b"flush failed: Input/output error (EIO)" in errors, errors
        assert b"Traceback" not in errors
        running.wait(process.PATIENCE)


def test_a_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    _refused(command("virtio-blk", tmp_path), "directory")


def test_an_image_locked_by_qemu_is_refused_in_one_line(image: Path) -> None:
    qemu = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-monitor", "stdio", "-S"]
    drive = ["-drive", f"file={image},format=raw,if=virtio,file.locking=on"]  # -S: it never runs, but has its disk
    try:
        other = subprocess.Popen([*qemu, *drive], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        pytest.skip("qemu-system-x86_64 is not here")
    with other:
        try:
            assert other.stdout is not None
            process.read_until(other.stdout.fileno(), b"(qemu)")
            _refused(command("virtio-blk", image), "lock")
        finally:
            other.kill()


def _refused(arguments: list[str], word: str) -> None:
    with process.started(*arguments) as running:
        _, errors = running.communicate(timeout=process.PATIENCE)
    assert running.returncode == status.USAGE, errors
    assert errors.startswith(b"pyvmm: ") and errors.count(b"\n") == 1 and word.encode() in errors, errors


def _no_traceback(running: process.Process) -> None:
    assert running.stderr is not None
    errors = running.stderr.read()
    assert b"Traceback" not in errors, errors.decode()
