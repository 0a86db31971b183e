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
seabios = pytest.mark.skipif(not SEABIOS.is_dir(), reason="SeaBIOS is not installed: apt-get install seabios")


def load(address: int) -> bytes:
    """16-bit code: mov al,[address] by a 32-bit address; out dx,al."""
    return b"\x67\xa0" + address.to_bytes(4, "little") + b"\xee"


def store(address: int, value: bytes) -> bytes:
    return b"\x67\xc6\x05" + address.to_bytes(4, "little") + value


def test_the_rom_stays_and_its_copy_is_ram(tmp_path: Path) -> None:
    high, low = 0xFFFF_8000, 0xF_8000
    # lgdt cs:[0x100]; CR0.PE on; mov bx,8; mov ds,bx; mov dx,0x3f8
    code = bytes.fromhex("2e660f01160001 0f20c0 0c01 0f22c0 bb0800 8edb baf803")
    code += load(high) + load(low) + store(high, b"X") + load(high) + store(low, b"W") + load(low) + load(high)
    code += bytes.fromhex("b031 baf400 ee ebfe")  # mov al,0x31; mov dx,0xf4; out dx,al
    gdt = bytes(8) + bytes.fromhex("ffff000000 93cf00")  # flat data
    image = bytearray(64 << 10)
    image[: len(code)] = code
    image[0x100:0x106] = (15).to_bytes(2, "little") + (0xFFFF_0108).to_bytes(4, "little")
    image[0x108 : 0x108 + len(gdt)] = gdt
    image[0x8000] = ord("R")
    image[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp 0
    file = tmp_path / "rom"
    file.write_bytes(image)
    console = vm.Collector()
    config = Config(
        boot=BootConfig(kernel=str(file), fmt="bios"), memory=4 * MIB, serials=(SerialConfig(kind="null"),), devices=(vm.DEBUG_EXIT,)
    )
    with Machine(config, [console]) as machine:
        reason = vm.run(machine)
        assert (reason.kind, reason.value) == (events.DEBUG_EXIT, 0x31), reason
        assert console.output == b"RRRWR"
        assert machine.memory.read(0xFFFF_FFF0, 3) == b"\xe9\x0d\x00"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyvmm", "run", "-m", "16M", "--timeout", "60", *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)


def boot_sector(work: str, strings: bytes) -> bytes:
    """Real-mode code at 0x7c00 that begins with all segments 0; the strings at 0x7d00."""
    code = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c" + work)
    return images.boot_sector(code.ljust(0x100, b"\0") + strings)


@seabios
def test_seabios_boots_a_disk_that_resets_once(tmp_path: Path) -> None:
    """Reads its second sector, counts in it, writes it; the first time it resets the machine, then it says so and ends."""
    # mov si,0x7de0; mov ah,0x42; int 0x13; jc fail; inc byte [0x7e00]; mov ax,0x4300; int 0x13; jc fail
    work = "bee07d b442 cd13 7236 fe06007e b80043 cd13 722b"
    # cmp byte [0x7e00],0x32; jae +8; mov al,6; mov dx,0xcf9; out dx,al; hlt; jmp $-1
    work += "803e007e32 7309 b006 baf90c ee f4 ebfd"
    # mov si,0x7e00; next: lodsb; test al,al; jz done; mov ah,0xe; mov bx,7; int 0x10; jmp next; done: mov al,0x31
    work += "be007e ac 84c0 7409 b40e bb0700 cd10 ebf2 b031 eb02"
    # fail: mov al,0x32; end: mov dx,0xf4; out dx,al; hlt
    work += "b032 baf400 ee f4"
    packet = bytes.fromhex("10000100 007e0000 0100000000000000")  # one sector, 0000:7e00, LBA 1
    sector = bytearray(boot_sector(work, b""))
    sector[0x1E0:0x1F0] = packet
    disk = tmp_path / "disk"
    disk.write_bytes(sector + b"0 = boots, from the second sector\r\n".ljust(512, b"\0") + bytes(1 << 20))
    done = run(
        *("-bios", str(SEABIOS / "bios-256k.bin"), "-drive", f"file={disk},format=raw", "-smp", "2"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
    )
    assert (done.returncode, done.stderr) == (0x63, ""), done.stdout
    assert done.stdout.count("Booting from Hard Disk") == 2
    assert "2 = boots, from the second" in done.stdout  # its serial console keeps the last characters for a while
    assert disk.read_bytes()[512:513] == b"2"


@seabios
def test_seabios_finds_what_it_looks_for(tmp_path: Path) -> None:
    """Its log: memory, processors, the disk and the network card, our ACPI tables; then there is nothing to boot."""
    log = tmp_path / "log"
    done = run(
        *("-bios", str(SEABIOS / "bios-256k.bin"), "-smp", "3", "-debugcon", f"file:{log}", "-no-reboot", "-timeout", "4"),
        *("-drive", "format=scratch,size=1M", "-nic", "none"),
    )
    assert done.returncode == 124
    assert "SeaBIOS (version" in done.stdout and "No bootable device." in done.stdout
    text = log.read_text()
    for words in (
        "Found QEMU fw_cfg", "len 0x0000000001000000 [RAM]", "Found 3 cpu(s)", "found virtio-blk at 00:01.0", "using modern (1.0) virtio mode",
        "(via xsdt)", "sercon: using ioport 0x3f8",
    ):  # fmt: skip
        assert words in text, text
