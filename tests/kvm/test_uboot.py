"""An unmodified U-Boot as firmware (Debian: u-boot-qemu): drivers of its own for PCI, e1000, virtio-net and virtio-blk, nobody's here.

All of it is 32-bit code of ring 0, so that any KVM runs it.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import fat, network
from tests.support.process import Screen

ROM = Path("/usr/lib/u-boot/qemu-x86/u-boot.rom")
PROMPT = b"\r\n=> "
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not ROM.is_file(), reason="U-Boot is not installed: apt-get install u-boot-qemu"),
]


class Prompt:
    """U-Boot's. Waits for what it prints, then sends the next line: it takes keys only when it has nothing else to do."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def __call__(self, line: str) -> str:
        self.screen.type(line.encode() + b"\r")
        return self.screen.expect(PROMPT).decode("latin-1").removesuffix(PROMPT.decode())


@contextmanager
def started(*options: str) -> Iterator[Prompt]:
    """At its prompt, which is left by a reset."""
    with Screen("run", "-bios", str(ROM), "-m", "128", "-no-reboot", *options) as screen:
        screen.expect(b"stop autoboot")
        screen.type(b" ")
        screen.expect(PROMPT)
        yield Prompt(screen)
        screen.type(b"reset\r")
        assert screen.end() == 0


def crc(prompt: Prompt, address: int, size: int) -> int:
    return int(prompt(f"crc32 {address:x} {size:x}").split()[-1], 16)


def test_its_own_drivers(tmp_path: Path) -> None:
    """One start, as it takes seconds: a disk read and written; by each card an address by DHCP, a ping and a file by TFTP (the e1000's MAC
    address is read from the EEPROM, bit by bit); two processors; no half minute of waiting for IDE disks."""
    if missing := network.why_no_user():
        pytest.skip(missing)
    data = random.Random(1).randbytes(50_000)
    (tmp_path / "file").write_bytes(data)
    disk = tmp_path / "disk"
    disk.write_bytes(fat.build({"HERE.BIN": data}))
    words = ["-smp", "2", "-drive", f"file={disk},format=raw"]
    for number, card in enumerate(("e1000", "virtio-net-pci")):
        words += ["-netdev", f"user,id=n{number},tftp={tmp_path}", "-device", f"{card},netdev=n{number},mac=52:54:00:4d:5a:0{number}"]
    with started(*words) as prompt:
        assert prompt("cpu list").count("cpu@") == 2
        assert "Reset IDE: Bus 0: OK Bus 1: OK" in prompt("ide reset")
        prompt("virtio scan")
        assert "50000 bytes read" in prompt("load virtio 0 2000000 here.bin")
        assert crc(prompt, 0x200_0000, len(data)) == zlib.crc32(data)
        assert "49999 bytes written" in prompt("fatwrite virtio 0 2000001 there.bin c34f")
        for number, name in enumerate(("e1000#0", "virtio-net#0")):
            assert f"{name} 52:54:00:4d:5a:0{number}" in prompt("net list")
            assert "bound to address 10.0.2.15" in prompt(f"setenv ethact {name}; setenv autoload no; dhcp")
            assert "10.0.2.2 is alive" in prompt("ping 10.0.2.2")
            said = prompt(f"tftpboot {0x300_0000 + number:x} 10.0.2.2:file")
            assert f"Using {name} device" in said and "Bytes transferred = 50000" in said
            assert crc(prompt, 0x300_0000 + number, len(data)) == zlib.crc32(data)
    assert data[1:] in disk.read_bytes()
