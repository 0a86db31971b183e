"""The machine that UEFI firmware finds, by a ROM of ours; and OVMF where its package is installed (Debian: ovmf)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.config import BootConfig, Config, SerialConfig
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.kvm.test_firmware import load, own, store
from tests.support import fat, vm
from tests.support.process import Screen

OVMF, CODE = Path("/usr/share/ovmf/OVMF.fd"), Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
SIZE = 2 * MIB
FIRST = (1 << 32) - SIZE + 40  # "_FVH" is there


def volume(path: Path, code: bytes) -> Path:
    """A ROM of 2 MiB that begins as firmware for UEFI does and runs this code, as ``own``."""
    file = own(path, code)
    file.write_bytes((bytes(40) + b"_FVH").ljust(SIZE - (64 << 10), b"\0") + file.read_bytes())
    return file


@pytest.mark.kvm
def test_the_machine_it_finds(tmp_path: Path) -> None:
    """A ROM over where KVM's own pages are otherwise, the device id OVMF goes by, no keyboard controller, and the PM block where it
    will look for it: the timer counts, and S5 powers off."""
    code = load(FIRST) + store(FIRST, b"X") + load(FIRST) + load((1 << 32) - 0x4_4000)
    # mov eax,0x80000000; mov dx,0xcf8; out dx,eax; mov dx,0xcfe; in ax,dx; mov dx,0x3f8; out dx,al; mov al,ah; out dx,al
    code += bytes.fromhex("66b800000080 baf80c 66ef bafe0c ed baf803 ee 88e0 ee")
    code += bytes.fromhex("e464 ee")  # in al,0x64; out dx,al
    # mov dx,0xb008; in eax,dx; mov ecx,eax; next: in eax,dx; cmp eax,ecx; je next; mov dx,0xb004; mov ax,0x2000; out dx,ax; hlt
    code += bytes.fromhex("ba08b0 66ed 6689c1 66ed 6639c8 74f9 ba04b0 b80020 ef f4")
    console = vm.Collector()
    config = Config(
        boot=BootConfig(kernel=str(volume(tmp_path, code)), fmt="bios"), memory=64 * MIB, serials=(SerialConfig(kind="null"),)
    )
    with Machine(config, [console]) as machine:
        reason = vm.run(machine)
        assert reason.kind == events.POWEROFF, reason
        assert console.output == b"__\0" + b"\x37\x12" + b"\xff"


POWER_OFF = bytes.fromhex("ba04b0 b80020 ef f4")  # mov dx,0xb004; mov ax,0x2000; out dx,ax; hlt
VARIABLES = (1 << 32) - SIZE - (64 << 10)  # unit 1, below the ROM


def flash(tmp_path: Path, code: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Runs ``code`` from flash unit 0; unit 1 is 64 KiB of V in a file."""
    (tmp_path / "vars").write_bytes(b"V" * (64 << 10))
    units = ("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={volume(tmp_path, code)}")
    units += ("-drive", f"if=pflash,format=raw,unit=1,file={tmp_path / 'vars'}")
    command = [sys.executable, "-m", "pyvmm", "run", "-m", "64M", "--timeout", "60", *units, *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False)


@pytest.mark.kvm
def test_flash_is_memory_until_it_is_told_otherwise(tmp_path: Path) -> None:
    """The slot goes and comes: array, status, array; what was programmed is in the file, the ROM beside it stays one."""
    at = VARIABLES + 5
    code = load(at) + store(at, b"\x10") + store(at, b"W") + load(at) + store(at + 0x3000, b"\x20") + store(at + 0x3000, b"\xd0")
    code += load(at) + store(VARIABLES, b"\xff") + load(at) + load(at + 0x3000) + load(at - 1)
    code += store(FIRST, b"\x10") + store(FIRST, b"W") + load(FIRST) + POWER_OFF
    done = flash(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"V\x80\x80W\xffV_"
    kept = (tmp_path / "vars").read_bytes()
    assert kept == b"VVVVVW".ljust(0x3000, b"V") + b"\xff" * 4096 + b"V" * 0xC000


@pytest.mark.kvm
def test_a_reset_shows_the_array_again(tmp_path: Path) -> None:
    """Left in status mode; what was written before is there."""
    again = store(VARIABLES, b"\x10") + store(VARIABLES, b"N") + bytes.fromhex("b006 baf90c ee f4")  # mov al,6; mov dx,0xcf9; out dx,al
    code = load(VARIABLES) + b"\x3cN\x74" + bytes([len(again)]) + again + POWER_OFF  # cmp al,'N'; je over it
    done = flash(tmp_path, code)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"VN", b"")


ovmf = pytest.mark.skipif(not OVMF.is_file(), reason="OVMF is not installed: apt-get install ovmf")
outside = pytest.mark.skipif("PYVMM_NESTED" in os.environ, reason="QEMU's nested SVM aborts sooner or later under OVMF (docs/firmware.md)")
TICKS = ("-global", "kvm-pit.lost_tick_policy=discard")  # a slow host has no use for those it was late with


@contextmanager
def shell(*options: str) -> Iterator[Screen]:
    """OVMF at the prompt of its shell, which is left by ``reset -s``: a power-off."""
    with Screen("run", "-m", "256", *TICKS, *options) as screen:
        screen.expect(b"to skip")
        screen.type(b" ")
        screen.expect(b"Shell> ")
        yield screen
        screen.type(b"reset -s\r")
        assert screen.end() == 0


@pytest.mark.kvm("ring0-simd")
@ovmf
@outside
def test_ovmf_finds_the_disk_and_takes_keys(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(fat.build({"HELLO.TXT": b"x" * 5000}))
    with shell("-bios", str(OVMF), "-drive", f"file={disk},format=raw") as screen:
        screen.type(b"ls fs0:\r")
        screen.expect(b"5,000")


@pytest.mark.kvm("ring0-simd")
@ovmf
@outside
def test_ovmf_keeps_variables_in_flash(tmp_path: Path) -> None:
    kept = tmp_path / "vars"
    kept.write_bytes((CODE.parent / "OVMF_VARS_4M.fd").read_bytes())
    units = ("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}", "-drive", f"if=pflash,format=raw,unit=1,file={kept}")
    name = b"setvar TestVar -guid 11111111-2222-3333-4444-555555555555"
    with shell(*units) as screen:
        screen.type(name + b" -bs -rt -nv =0x4217\r")
        screen.expect(b"Shell> ")
    assert "TestVar".encode("utf-16-le") in kept.read_bytes()
    with shell(*units) as screen:
        screen.type(name + b"\r")
        screen.expect(b"17 42")  # the least significant byte first
