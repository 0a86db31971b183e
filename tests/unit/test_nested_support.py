"""The parts of the nested hosts' machinery that need no emulator: archives, kernels, status lines, giving up."""

from __future__ import annotations

import bz2
import lzma
import shutil
import stat
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tests.nested import emulator
from tests.nested.emulator import Limits, Outcome, Verdict
from tests.nested.wire import StatusParser
from tests.support import cpio
from tests.support.bzimage import BzImageError, extract_vmlinux
from tests.support.debian import Kernel
from tests.support.initramfs import load_order, without_signature

# --- cpio ---------------------------------------------------------------------------------------------------------


def parse_newc(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """name -> mode, data, device number: read back by the book (buffer-format.rst), in the order written."""
    members: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        field = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = field[1], field[6], field[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        assert data[at + 110 + name_size - 1] == 0
        begin = (at + 110 + name_size + 3) & ~3
        at = (begin + size + 3) & ~3
        if name == "TRAILER!!!":
            assert not any(data[at:])
            return members
        members[name] = (mode, data[begin : begin + size], (field[9], field[10]))


def test_cpio_reads_back_as_written() -> None:
    entries = [
        cpio.file("init", b"#!/bin/sh\n", executable=True),
        cpio.file("etc/name", b"x" * 1001),
        cpio.symlink("bin/sh", "busybox"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("empty", b""),
    ]
    members = parse_newc(cpio.archive(entries))
    assert members["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert members["etc/name"][:2] == (stat.S_IFREG | 0o644, b"x" * 1001)
    assert members["bin/sh"][:2] == (stat.S_IFLNK | 0o777, b"busybox")
    assert members["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert members["empty"][1] == b""


def test_cpio_puts_parents_before_their_children() -> None:
    names = list(parse_newc(cpio.archive([cpio.file("/a/b/c", b"1"), cpio.file("a/d", b"2")])))
    assert names == ["a", "a/b", "a/b/c", "a/d"]


def test_cpio_last_of_a_name_stands() -> None:
    assert parse_newc(cpio.archive([cpio.file("f", b"old"), cpio.file("f", b"new")]))["f"][1] == b"new"


def test_cpio_archives_can_follow_one_another() -> None:
    assert len(cpio.archive([cpio.file("f", b"odd")])) % 512 == 0


# --- vmlinux out of a bzImage ------------------------------------------------------------------------------------

ELF = b"\x7fELF" + bytes(range(256)) * 64


def bzimage(packed: bytes, *, setup_sects: int = 2, version: int = 0x20F) -> bytes:
    """A header with nothing in it but what extraction looks at, and a stub of 64 bytes before the payload."""
    image = bytearray(((setup_sects or 4) + 1) * 512 + 64)
    image[0x1F1] = setup_sects
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<II", image, 0x248, 64, len(packed))
    return bytes(image) + packed + b"the rest of the image"


def with_size(packed: bytes) -> bytes:
    """As the kernel's build appends it for every compressor but gzip."""
    return packed + struct.pack("<I", len(ELF))


def gzipped() -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(ELF) + packer.flush()


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(gzipped(), id="gzip"),
        pytest.param(with_size(lzma.compress(ELF, check=lzma.CHECK_CRC32)), id="xz"),
        pytest.param(with_size(lzma.compress(ELF, format=lzma.FORMAT_ALONE)), id="lzma"),
        pytest.param(with_size(bz2.compress(ELF)), id="bzip2"),
    ],
)
@pytest.mark.parametrize("setup_sects", [0, 2, 39])
def test_vmlinux_comes_out(packed: bytes, setup_sects: int) -> None:
    assert extract_vmlinux(bzimage(packed, setup_sects=setup_sects)) == ELF


@pytest.mark.parametrize(("program", "arguments"), [("zstd", ["-qc"]), ("lz4", ["-qlc"])])
def test_vmlinux_by_a_program(program: str, arguments: list[str]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    done = subprocess.run([program, *arguments], input=ELF, capture_output=True, timeout=30, check=True)
    assert extract_vmlinux(bzimage(with_size(done.stdout))) == ELF


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"MZ" + bytes(0x300), "HdrS"),
        (bzimage(gzipped(), version=0x207), "2.07"),
        (bzimage(b"?" * 100), "unknown compressor"),
        (bzimage(gzipped())[:-100], "not inside"),
        (bzimage(lzma.compress(ELF) + struct.pack("<I", 1)), "the image says 1"),
        (bzimage(lzma.compress(b"no ELF") + struct.pack("<I", 6)), "ELF"),
    ],
)
def test_what_is_no_kernel_says_why(image: bytes, says: str) -> None:
    with pytest.raises(BzImageError, match=says):
        extract_vmlinux(image)


# --- kernel modules ----------------------------------------------------------------------------------------------


def test_modules_load_after_what_they_need(tmp_path: Path) -> None:
    needs = {"kvm-amd": "kvm,ccp", "kvm": "irqbypass", "ccp": "", "irqbypass": "", "unrelated": "kvm-amd"}
    for name, depends in needs.items():
        (tmp_path / f"{name}.ko").write_bytes(f"\0license=GPL\0depends={depends}\0retpoline=Y\0".encode())
    (tmp_path / "modules.builtin").write_text("kernel/drivers/tty/serial/8250/8250.ko\n")
    kernel = Kernel("6.1", tmp_path / "vmlinuz", tmp_path)
    order = [path.stem for path in load_order(kernel, ["8250", "kvm_amd", "kvm"])]
    assert order == ["irqbypass", "kvm", "ccp", "kvm-amd"]


def test_module_without_its_signature() -> None:
    descriptor = bytes(8) + struct.pack(">I", 5)
    assert without_signature(ELF + b"SIGN!" + descriptor + b"~Module signature appended~\n") == ELF
    assert without_signature(ELF) == ELF


# --- status lines ------------------------------------------------------------------------------------------------

TOKEN = "0123456789abcdef"
STREAM = b"BIOS\n\x1epyvmm:%b:start\nline\n\x1enot ours\nno newline\x1epyvmm:%b:exit 42\r\npowering off" % (
    (TOKEN.encode(),) * 2
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_status_lines_are_cut_out_however_the_stream_is_cut(step: int) -> None:
    parser = StatusParser(TOKEN)
    out = b"".join(parser.feed(STREAM[at : at + step]) for at in range(0, len(STREAM), step)) + parser.finish()
    assert out == b"line\n\x1enot ours\nno newline"
    assert parser.status == 42
    assert bytes(parser.noise) == b"BIOS\n"


def test_output_is_passed_on_at_once_and_a_beginning_held_back() -> None:
    parser = StatusParser(TOKEN)
    assert parser.feed(f"\x1epyvmm:{TOKEN}:start\n".encode()) == b""
    assert parser.feed(b"half a line") == b"half a line"
    assert parser.feed(b"!\x1epyvmm:") == b"!"
    assert parser.status is None
    assert parser.finish() == b"\x1epyvmm:"


def test_status_lines_of_another_run_are_output() -> None:
    parser = StatusParser(TOKEN)
    line = b"\x1epyvmm:ffffffffffffffff:exit 0\n"
    assert parser.feed(f"\x1epyvmm:{TOKEN}:start\n".encode() + line) + parser.finish() == line
    assert parser.status is None


# --- the emulator's end --------------------------------------------------------------------------------------------

START = f"print('\\x1epyvmm:{TOKEN}:start', flush=True); "


def run_fake(tmp_path: Path, code: str, *, limits: Limits, console: bytes | None = None) -> tuple[Outcome, bytes]:
    """A Python one-liner in the role of the emulator."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv (package util-linux)")
    heartbeat = None
    if console is not None:
        heartbeat = tmp_path / "console"
        heartbeat.write_bytes(console)
    out = bytearray()
    outcome = emulator.run(
        [sys.executable, "-c", "import os, time; " + code],
        token=TOKEN,
        limits=limits,
        sink=out.extend,
        stderr=tmp_path / "stderr",
        heartbeat=heartbeat,
        panic_marks=[b"Kernel panic", b"soft lockup"],
    )
    return outcome, bytes(out)


PATIENT = Limits(total=60, boot=60, silence=60)


def test_status_ends_an_emulator_that_would_go_on(tmp_path: Path) -> None:
    code = START + f"print('out'); print('\\x1epyvmm:{TOKEN}:exit 3', flush=True); time.sleep(60)"
    began = time.monotonic()
    outcome, out = run_fake(tmp_path, code, limits=PATIENT)
    assert (outcome.verdict, outcome.status, out) == (Verdict.FINISHED, 3, b"out\n")
    assert not outcome.worth_another_try
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("code", "limits", "console", "verdict", "again"),
    [
        pytest.param(START + "os._exit(7)", PATIENT, None, Verdict.DIED, False, id="died"),
        pytest.param("time.sleep(60)", Limits(60, 0.5, 60), None, Verdict.NO_BOOT, True, id="no boot"),
        pytest.param(START + "time.sleep(60)", Limits(1, 1, 60), None, Verdict.TIMED_OUT, False, id="timeout"),
        pytest.param(START + "time.sleep(60)", Limits(60, 60, 0.5), b"", Verdict.LOCKED_UP, True, id="silence"),
        pytest.param("time.sleep(60)", PATIENT, b"[1] Kernel panic: x\n", Verdict.DIED, False, id="panic"),
        pytest.param("time.sleep(60)", PATIENT, b"BUG: soft lockup - CPU#0\n", Verdict.LOCKED_UP, True, id="lockup"),
    ],
)
def test_failures_of_the_host_are_told_apart(
    tmp_path: Path, code: str, limits: Limits, console: bytes | None, verdict: Verdict, again: bool
) -> None:
    outcome, _ = run_fake(tmp_path, code, limits=limits, console=console)
    assert outcome.verdict is verdict
    assert outcome.status == emulator.HOST_FAILED
    assert outcome.worth_another_try is again


def test_emulator_dies_with_its_runner(tmp_path: Path) -> None:
    """Even where the runner is killed and can clean nothing up."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv (package util-linux)")
    marker = tmp_path / "pid"
    fake = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    runner = (
        "import sys; from pathlib import Path; from tests.nested.emulator import *; "
        f"run([sys.executable, '-c', {fake!r}], token='t', limits=Limits(60, 60, 60), sink=print, "
        f"stderr=Path({str(tmp_path / 'stderr')!r}))"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", runner], cwd=root)
    try:
        deadline = time.monotonic() + 30
        while not (marker.exists() and marker.read_text()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(30)
    status = Path("/proc") / marker.read_text() / "stat"
    while status.exists() and status.read_text().split(") ")[1][0] != "Z":
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)
