"""Debian's unmodified kernels on pyvmm's disks: root=/dev/vda, mkfs.ext4, data both ways; each way an interrupt can go.

As test_linux.py: tox -e nested runs them inside host B. One boot does much, as a boot is the dear part.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import debian, features, linux, rootfs

pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
LIMIT = 300.0  # seconds for one boot; about 40 on host B
MIB = 1 << 20
HALF = 8 * MIB  # of the disk for data both ways: the first written by the host, the second by the guest
FILES = 8  # of HALF bytes each: the 64 MB that are written into the new file system

# `rest` is what a case adds. No power-off: without ACPI there is none, and -no-reboot makes a reboot the end.
JOB = """
section() { echo "== $1"; }
section sums; head -c 8388608 /dev/vdc | sha256sum
head -c 8388608 /dev/urandom >/run/random
dd if=/run/random of=/dev/vdc bs=1M seek=8 conv=fsync 2>&1
sha256sum </run/random
section filesystem
mkfs.ext4 -q -F /dev/vdb && mount -t ext4 /dev/vdb /mnt || echo FAILED
for number in 1 2 3 4 5 6 7 8; do cp /run/random /mnt/file$number || echo FAILED; done
sync
umount /mnt || echo FAILED
%s
section interrupts; grep virtio /proc/interrupts
section disks; cd /sys/block
for disk in vd*; do echo $disk $(cat $disk/size $disk/ro) $(cat $disk/serial) $(cat $disk/cache_type); done
cd /
section log; dmesg -r | sed -n 's/^<[0-3]>//p'
section end
sync
mount -o remount,ro /
reboot -f
"""
EVERYTHING = """
section lspci; lspci -vv -n 2>/dev/null
section hwrng; cat /sys/class/misc/hw_random/rng_current; head -c 4096 /dev/hwrng | wc -c
section console; echo "through hvc0" >/dev/hvc0
section readonly; head -c 4 /dev/vdd; echo; echo x 2>&1 >/dev/vdd || echo refused
section discard; mount -t ext4 /dev/vdb /mnt && rm /mnt/file[2-8] && sync && fstrim -v /mnt && umount /mnt
section kept; echo kept >/root/kept
"""


@dataclass(frozen=True)
class Case:
    flavour: debian.Flavour
    append: str
    interrupts: str  # pattern that the line of a disk in /proc/interrupts matches
    smp: int = 2
    transport: str = "pci"


CASES = {
    # name of test: the MSI-X case has a test of its own
    "intx": Case("cloud", "pci=nomsi", r"IO-APIC +\d+-fasteoi"),
    "mmio": Case("cloud", "", r"IO-APIC +\d+-(fasteoi|level)", transport="mmio"),
    "noapic": Case("generic", "noapic pci=nomsi", r"XT-PIC", smp=1),
    "noacpi": Case("generic", "acpi=off pci=nomsi", r"IO-APIC +\d+-fasteoi"),
}
if os.environ.get("PYVMM_FULL"):
    CASES["mmio-noapic"] = Case("generic", "noapic", r"XT-PIC", smp=1, transport="mmio")


def drives(case: Case, *files: tuple[Path, str]) -> list[str]:
    """Command line for images with their options, in this order: vda, vdb, ..."""
    words = []
    for number, (path, options) in enumerate(files):
        interface = "virtio" if case.transport == "pci" else "none"
        words += ["-drive", f"file={path},format=raw,if={interface},id=d{number}{options}"]
        if case.transport == "mmio":
            words += ["-device", f"virtio-blk-device,drive=d{number}"]
    return words


def boot(case: Case, *options: str, rest: str = "", scratch: Path) -> dict[str, str]:
    """Runs the job; {section: what was printed in it}."""
    initrd = scratch / "initrd"
    initrd.write_bytes(rootfs.cached_initrd(case.flavour).read_bytes() + rootfs.with_job(JOB % rest))
    ended = features.run_pyvmm(
        "run", "-kernel", str(linux.image(case.flavour, "bzimage")), "-initrd", str(initrd), "-append",
        f"console=ttyS0 quiet root=/dev/vda rw {case.append}", "-m", "256", "-smp", str(case.smp), "-no-reboot", "--timeout", str(LIMIT),
        *options, timeout=LIMIT + 60,
    )  # fmt: skip
    shown = ended.stdout.decode("latin-1").replace("\r", "")
    assert ended.returncode == 0 and ended.stderr == b"", f"status {ended.returncode}\n{shown[-3000:]}\n{ended.stderr.decode()}"
    parts = re.split(r"^== (\w+)\n", shown, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert "end" in found, shown[-3000:]
    assert re.search(rf"{rootfs.READY} kernel=\S+ device=/dev/vda options=rw", parts[0]), parts[0][-3000:]
    return found


def blank(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def digest(path: Path, offset: int = 0, length: int = -1) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(length)).hexdigest()


def host(program: str, *arguments: str) -> str:
    """A program of e2fsprogs on an image, after the guest is gone; its output, status 0 asserted."""
    command = [debian.require({program: "e2fsprogs"})[program], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def check(case: Case, found: dict[str, str], fresh: Path, both: Path, sent: str, scratch: Path, files: int = FILES) -> None:
    """What every case must have done."""
    sums = re.findall(r"^([0-9a-f]{64}) ", found["sums"], re.MULTILINE)
    assert sums == [sent, digest(both, HALF, HALF)], found["sums"]
    assert "FAILED" not in found["filesystem"], found["filesystem"]
    host("e2fsck", "-fn", str(fresh))
    for number in {1, files}:
        copy = scratch / "copy"
        host("debugfs", "-R", f"dump file{number} {copy}", str(fresh))
        assert digest(copy) == sums[1]
    assert re.search(case.interrupts, found["interrupts"]), found["interrupts"]
    assert "virtio" not in found["log"] and "I/O error" not in found["log"], found["log"]


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, str]:
    """A disk whose first half holds random data of the host, and that half's SHA-256."""
    path = blank(tmp_path / "both.img", 2 * HALF)
    data = random.Random(3).randbytes(HALF)
    with path.open("r+b") as file:
        file.write(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_disks(name: str, both: tuple[Path, str], tmp_path: Path) -> None:
    case, image = CASES[name], rootfs.cached()
    before = digest(image)
    fresh = blank(tmp_path / "fresh.img", 96 * MIB)
    given = drives(case, (image, ",snapshot=on"), (fresh, ""), (both[0], ",serial=both"))
    found = boot(case, *given, scratch=tmp_path)
    check(case, found, fresh, *both, scratch=tmp_path)
    assert digest(image) == before, "snapshot=on wrote to the image"
    assert re.search(r"^vdc 32768 0 both write back", found["disks"], re.MULTILINE), found["disks"]


def test_everything_with_msix(both: tuple[Path, str], tmp_path: Path) -> None:
    """Also lspci, hwrng, hvc0, discard, a read-only disk, and what the guest wrote to its root is there afterwards."""
    case = Case("generic", "", r"PCI-MSI \d+-edge +virtio\d+-req")
    root = tmp_path / "root.img"
    shutil.copyfile(rootfs.cached(), root)
    fresh = blank(tmp_path / "fresh.img", 96 * MIB)
    fixed = tmp_path / "fixed.img"
    fixed.write_bytes(b"text" + bytes(4092))
    fixed.chmod(0o444)
    log = tmp_path / "hvc0.log"
    given = drives(case, (root, ""), (fresh, ",discard=unmap"), (both[0], ",cache=writethrough"), (fixed, ",readonly=on"))
    given += ["-device", "virtio-rng-pci", "-chardev", f"file,id=log,path={log}"]
    given += ["-device", "virtio-serial-pci,id=serial0", "-device", "virtconsole,chardev=log"]
    found = boot(case, *given, rest=EVERYTHING, scratch=tmp_path)
    check(case, found, fresh, *both, scratch=tmp_path, files=1)
    _lspci(found["lspci"])
    assert found["hwrng"].split() == ["virtio_rng.0", "4096"]
    assert log.read_bytes().replace(b"\r", b"") == b"through hvc0\n"
    assert found["readonly"].startswith("text\n") and found["readonly"].endswith("refused\n"), found["readonly"]
    assert fixed.read_bytes() == b"text" + bytes(4092)
    assert os.stat(fresh).st_blocks * 512 < 4 * HALF, "holes are where the files were"
    host("e2fsck", "-fn", str(root))
    assert host("debugfs", "-R", "cat /root/kept", str(root)).strip() == "kept"
    assert re.search(r"^vdb 196608 0 write back\nvdc 32768 0 write through\nvdd 8 1 ", found["disks"], re.MULTILINE), found["disks"]


def _lspci(shown: str) -> None:
    """What `lspci -vv` decodes is what we claim to have."""
    functions = shown.strip().split("\n\n")
    for text in ("00:00.0 0600: ", " 0100: 1af4:1042 ", " 00ff: 1af4:1044 ", " 0780: 1af4:1043 "):  # bridge, disk, entropy, console
        assert any(text in function for function in functions), shown
    disk = next(function for function in functions if "1af4:1042" in function)
    for part in (
        "BusMaster+", "DisINTx+", "Status: Cap+", "MSI-X: Enable+ Count=2 Masked-", "(64-bit, prefetchable) [size=16K]",
        "VirtIO: CommonCfg", "VirtIO: Notify", "multiplier=00000004", "VirtIO: ISR", "VirtIO: DeviceCfg",
        "Kernel driver in use: virtio-pci",
    ):  # fmt: skip
        assert part in disk, disk
    for part in ("[virtual]", "[disabled]", "rev ff", "!!!"):  # how lspci says that something cannot be
        assert part not in shown, shown
