"""The machine that UEFI firmware finds, by a ROM of ours; and OVMF where its package is installed (Debian: ovmf), with PYVMM_FULL=1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.config import BootConfig, Config, SerialConfig
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.kvm.test_firmware import load, own, store
from tests.support import fat, vm
from tests.support.process import Screen

OVMF = Path("/usr/share/ovmf/OVMF.fd")
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


@pytest.mark.kvm("ring0-simd")
@pytest.mark.skipif(not OVMF.is_file(), reason="OVMF is not installed: apt-get install ovmf")
@pytest.mark.skipif(os.environ.get("PYVMM_FULL") != "1", reason="nested in an emulator it may end that one: PYVMM_FULL=1 runs it")
def test_ovmf_reaches_its_shell_and_takes_keys(tmp_path: Path) -> None:
    """From a disk without a boot loader; ``reset -s`` is a power-off."""
    disk = tmp_path / "disk"
    disk.write_bytes(fat.build({"HELLO.TXT": b"x" * 5000}))
    options = ("-m", "128", "-drive", f"file={disk},format=raw", "-global", "kvm-pit.lost_tick_policy=discard")
    with Screen("run", "-bios", str(OVMF), *options) as screen:
        screen.expect(b"to skip")
        screen.type(b" ")
        screen.expect(b"Shell> ")
        screen.type(b"ls fs0:\r")
        screen.expect(b"5,000")
        screen.type(b"reset -s\r")
        assert screen.end() == 0
