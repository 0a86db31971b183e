"""Linux over the network, as a PC gets it: SeaBIOS, a card's iPXE with its own driver, DHCP, a script, kernel and initrd by TFTP."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import features, linux, netlinux, network

ROMS, BIOS = Path("/usr/lib/ipxe/qemu"), Path("/usr/share/seabios/bios-256k.bin")
CARDS = [("e1000", "pxe-e1000.rom", "82540em"), ("virtio-net-pci", "pxe-virtio.rom", "virtio-net")]
SCRIPT = """#!ipxe
ifstat
kernel tftp://${next-server}/vmlinuz console=ttyS0 quiet panic=-1 initrd=initrd
initrd tftp://${next-server}/initrd
boot
"""
JOB = """
section card; load e1000; load virtio_net; sleep 1; dhcp eth0; ping -q -c 5 -i 0.01 10.0.2.2
"""
pytestmark = [
    pytest.mark.kvm("ring0-simd", "cmpxchg16b"),
    pytest.mark.linux,
    pytest.mark.skipif(not (ROMS / "pxe-e1000.rom").is_file(), reason="iPXE is not installed: apt-get install ipxe-qemu"),
    pytest.mark.skipif(not BIOS.is_file(), reason="SeaBIOS is not installed: apt-get install seabios"),
]


@pytest.mark.parametrize(("card", "rom", "driver"), CARDS if os.environ.get("PYVMM_FULL") else CARDS[:1])
def test_linux_by_pxe(card: str, rom: str, driver: str, tmp_path: Path) -> None:
    if missing := network.why_no_user():
        pytest.skip(missing)
    shutil.copy(linux.image(netlinux.KERNEL, "bzimage"), tmp_path / "vmlinuz")
    netlinux.initrd(netlinux.FUNCTIONS + JOB, tmp_path / "initrd")
    (tmp_path / "script").write_text(SCRIPT)
    ended = features.run_pyvmm(
        "run", "-bios", str(BIOS), "-m", "512", "-no-reboot", "--timeout", "240", "-netdev", f"user,id=n,tftp={tmp_path},bootfile=script",
        "-device", f"{card},netdev=n,bootindex=0,romfile={ROMS / rom}", timeout=300,
    )  # fmt: skip
    shown = ended.stdout.decode("latin-1").replace("\r", "")
    assert ended.returncode == 0 and ended.stderr == b"", f"status {ended.returncode}\n{shown[-4000:]}\n{ended.stderr.decode()[-4000:]}"
    assert f"using {driver} on 0000:00:01.0" in shown, shown[:4000]
    assert "10.0.2.15" in shown.partition("== card")[2] and "5 packets transmitted, 5 packets received" in shown, shown[-4000:]
