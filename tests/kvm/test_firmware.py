"""Firmware from the reset vector: one of ours, and SeaBIOS where its package is installed (Debian: seabios)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm import events
from pyvmm.config import BootConfig, Config, SerialConfig
from pyvmm.layout import MIB
from pyvmm.machine import Machine
from tests.support import images, vm

pytestmark = pytest.mark.kvm

SEABIOS = Path("/usr/share/seabios")
HIGH, LOW = 0xFFFF_8000, 0xF_8000  # the same byte of the ROM and of its copy
seabios = pytest.mark.skipif(not SEABIOS.is_dir(), reason="SeaBIOS is not installed: apt-get install seabios")


def load(address: int) -> bytes:
    """16-bit code: mov al,[address] by a 32-bit address; out dx,al."""
    return b"\x67\xa0" + address.to_bytes(4, "little") + b"\xee"


def store(address: int, value: bytes) -> bytes:
    return b"\x67\xc6\x05" + address.to_bytes(4, "little") + value


def own(path: Path, code: bytes) -> Path:
    """A ROM that runs this code, 16-bit, DS a flat segment, DX the serial port; the byte at its offset 0x8000 is R."""
    # lgdt cs:[0x100]; CR0.PE on; mov bx,8; mov ds,bx; mov dx,0x3f8
    code = bytes.fromhex("2e660f01160001 0f20c0 0c01 0f22c0 bb0800 8edb baf803") + code
    image = bytearray(64 << 10)
    image[: len(code)] = code
    image[0x100:0x106] = (15).to_bytes(2, "little") + (0xFFFF_0108).to_bytes(4, "little")
    image[0x110:0x117] = bytes.fromhex("ffff000000 93cf")  # flat data
    image[0x8000] = ord("R")
    image[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp 0
    file = path / "rom"
    file.write_bytes(image)
    return file


def test_the_rom_stays_and_its_copy_is_ram(tmp_path: Path) -> None:
    code = load(HIGH) + load(LOW) + store(HIGH, b"X") + load(HIGH) + store(LOW, b"W") + load(LOW) + load(HIGH)
    code += bytes.fromhex("b031 baf400 ee ebfe")  # mov al,0x31; mov dx,0xf4; out dx,al
    console = vm.Collector()
    config = Config(
        boot=BootConfig(kernel=str(own(tmp_path, code)), fmt="bios"),
        memory=4 * MIB,
        serials=(SerialConfig(kind="null"),),
        devices=(vm.DEBUG_EXIT,),
    )
    with Machine(config, [console]) as machine:
        reason = vm.run(machine)
        assert (reason.kind, reason.value) == (events.DEBUG_EXIT, 0x31), reason
        assert console.output == b"RRRWR"
        assert machine.memory.read(0xFFFF_FFF0, 3) == b"\xe9\x0d\x00"


def test_a_reset_starts_it_anew(tmp_path: Path) -> None:
    """With a fresh copy below 1 MiB."""
    code = load(LOW) + store(LOW, b"W") + load(LOW) + bytes.fromhex("b006 baf90c ee f4 ebfd")  # ...; al=6; dx=0xcf9; out; hlt
    done = run("-bios", str(own(tmp_path, code)), "--timeout", "3")
    assert (done.returncode, done.stdout[:4]) == (124, "RWRW"), done.stderr
    assert done.stdout.replace("RW", "") in ("", "R")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyvmm", "run", "-m", "16M", "--timeout", "60", *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)


@seabios
def test_seabios_boots_a_disk(tmp_path: Path) -> None:
    """Whose boot sector reads the second, writes it changed, says it, and ends. And what SeaBIOS found, by its log."""
    # mov si,0x7de0; mov ah,0x42; int 0x13; jc fail; inc byte [0x7e00]; mov ax,0x4300; int 0x13; jc fail
    work = "bee07d b442 cd13 7220 fe06007e b80043 cd13 7215"
    # mov si,0x7e00; next: lodsb; test al,al; jz done; mov ah,0xe; mov bx,7; int 0x10; jmp next; done: mov al,0x31; jmp end
    work += "be007e ac 84c0 7409 b40e bb0700 cd10 ebf2 b031 eb02"
    work += "b032 baf400 ee f4"  # fail: mov al,0x32; end: mov dx,0xf4; out dx,al; hlt
    code = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c" + work)  # all segments 0, sp 0x7c00
    packet = bytes.fromhex("10000100 007e0000 0100000000000000")  # at 0x7de0: one sector, 0000:7e00, LBA 1
    disk, log, rom = tmp_path / "disk", tmp_path / "log", tmp_path / "option.rom"
    # 512 bytes; mov dx,0x402; mov al,'~'; out dx,al; xor ax,ax; retf; their sum is 0
    option = bytes.fromhex("55aa01 ba0204 b07e ee 31c0 cb").ljust(511, b"\0")
    rom.write_bytes(option + bytes([-sum(option) & 0xFF]))
    disk.write_bytes(
        images.boot_sector(code.ljust(0x1E0, b"\0") + packet) + b"0 = from the second sector\r\n".ljust(512, b"\0") + bytes(MIB)
    )
    done = run(
        *("-bios", str(SEABIOS / "bios-256k.bin"), "-drive", f"file={disk},format=raw", "-smp", "2"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", f"file:{log}"),
        *("-device", f"e1000,addr=5,romfile={rom}"),
    )
    assert (done.returncode, done.stderr) == (0x63, ""), done.stdout
    assert "Booting from Hard Disk" in done.stdout
    assert "1 = from the second" in done.stdout  # its serial console keeps the last characters for a while
    assert disk.read_bytes()[512:513] == b"1"
    text = log.read_text()
    for words in (
        "Found QEMU fw_cfg", "len 0x0000000001000000 [RAM]", "Found 2 cpu(s)", "found virtio-blk at 00:01.0",
        "using modern (1.0) virtio mode", "(via xsdt)", "sercon: using ioport 0x3f8", "~",
    ):  # fmt: skip
        assert words in text, text
