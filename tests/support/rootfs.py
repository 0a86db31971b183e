"""A small Linux on an ext4 image: busybox, mkfs.ext4, e2fsck, lspci from Debian's packages; and the initrd that gets a kernel there.

    python tests/support/rootfs.py root.img [--initrd boot.cpio] [--kernel generic|cloud] [--size MIB]

No root is needed: mke2fs fills the image from a directory. Debian's kernels have the disk's driver and ext4 as modules, so
they need the initrd, which loads those, mounts what `root=` says and starts /sbin/init there; see docs/disks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):  # run as a program: make `tests` importable, as pytest does
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import cpio, debian, initramfs

MIB = 1 << 20
SIZE = 48  # MiB
READY = "PYVMM-ROOT"  # printed by /sbin/init: the kernel, the root's device, its mount options
# The initrd loads them in this order, what they depend on before them. virtio_ring first: virtio_pci finds its rings only when it is there.
# ext4 asks for crc32c by an algorithm's name, which no list of dependencies holds.
MODULES = ("virtio_ring", "virtio_pci", "virtio_mmio", "virtio_blk", "crc32c_generic", "ext4", "virtio_rng", "virtio_console")
_PACKAGES = (
    "busybox-static", "libc6",
    "e2fsprogs", "libext2fs2", "libcom-err2", "libss2", "libblkid1", "libuuid1",
    "pciutils", "libpci3", "libudev1", "libkmod2", "liblzma5", "libzstd1", "libssl3", "zlib1g",
)  # fmt: skip
_PROGRAMS = ("sbin/mke2fs", "sbin/e2fsck", "usr/bin/lspci")
_LINKS = {"sbin/mkfs.ext4": "mke2fs", "sbin/fsck.ext4": "e2fsck", "bin/sh": "busybox"}
_LIBRARIES = "lib/x86_64-linux-gnu"

# To the root file system. A file /job in the initrd is handed over: tests put their script there.
_BOOT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod $module || echo "initrd: cannot load $module"; done
root= flags=ro type=ext4
for word in $(cat /proc/cmdline); do
  case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) type=${word#rootfstype=} ;;
    rw|ro) flags=$word ;;
  esac
done
tries=0
while [ ! -b "$root" ] && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
mkdir /new
if ! mount -t $type -o $flags "$root" /new; then
  echo "initrd: cannot mount root=$root; block devices: $(ls /sys/block | tr '\\n' ' ')"
  exec setsid cttyhack sh
fi
for name in proc sys dev; do mount --move /$name /new/$name; done
mount -t tmpfs run /new/run
[ -f /job ] && cp /job /new/run/job
exec switch_root /new /sbin/init
"""
_INIT = f"""#!/bin/sh
export PATH=/sbin:/usr/sbin:/bin:/usr/bin
mount -t tmpfs tmp /tmp
hostname guest
echo "{READY} kernel=$(uname -r) $(awk '$2 == "/" && $1 != "rootfs" {{ print "device=" $1 " options=" $4 }}' /proc/mounts)"
[ -f /run/job ] && sh /run/job
[ -f /run/job ] || setsid cttyhack sh
sync
mount -o remount,ro /
poweroff -f
"""


def tree(into: Path) -> None:
    """The files of the root file system."""
    packages = debian.tree([debian.Wanted(name) for name in _PACKAGES])
    for name in ("bin", "sbin", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc", "lib64", _LIBRARIES):
        (into / name).mkdir(parents=True, exist_ok=True)
    for name in _PROGRAMS:
        shutil.copy(packages / name, into / name)
    for folder in (packages / _LIBRARIES, packages / "usr" / _LIBRARIES):
        for library in folder.glob("*.so*"):  # not what is in folders below: character sets, plug-ins
            shutil.copy(library, into / _LIBRARIES / library.name, follow_symlinks=False)
    shutil.copy(packages / "bin/busybox", into / "bin/busybox")
    for name, target in {**_LINKS, "lib64/ld-linux-x86-64.so.2": f"../{_LIBRARIES}/ld-linux-x86-64.so.2"}.items():
        (into / name).symlink_to(target)
    listed = subprocess.run([into / "bin/busybox", "--list-full"], capture_output=True, text=True, check=True, timeout=60).stdout
    for name in listed.split():
        path = into / name
        if path.parent.is_dir() and not path.is_symlink() and not path.exists():
            path.symlink_to(os.path.relpath(into / "bin/busybox", path.parent))
    for name, text in {"sbin/init": _INIT, "etc/mke2fs.conf": (packages / "etc/mke2fs.conf").read_text()}.items():
        (into / name).unlink(missing_ok=True)
        (into / name).write_text(text)
    (into / "sbin/init").chmod(0o755)


def build(image: Path, size: int = SIZE) -> None:
    """Makes the ext4 image ``image`` of ``size`` MiB."""
    mke2fs = debian.require({"mke2fs": "e2fsprogs"})["mke2fs"]
    with tempfile.TemporaryDirectory(prefix="pyvmm-root-") as scratch:
        root = Path(scratch) / "root"
        root.mkdir(mode=0o755)
        tree(root)
        image.unlink(missing_ok=True)
        fixed = "b5f2c9a6-0000-4000-8000-707976006d6d"
        command = [mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-d", str(root)]
        command += ["-U", fixed, "-E", f"root_owner=0:0,hash_seed={fixed}"]
        done = subprocess.run([*command, str(image), f"{size}M"], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise debian.DebianError(f"mke2fs: {(done.stderr.strip() or 'no message').splitlines()[-1]}")


def initrd(kernel: debian.Kernel, job: str = "") -> bytes:
    """The initrd for ``kernel``; ``job`` is a shell script to run in place of a shell."""
    extra = initramfs.modules(kernel, MODULES, signed=False)
    return initramfs.build(_BOOT, extra=extra) + (with_job(job) if job else b"")


def with_job(job: str) -> bytes:
    """To be appended to an initrd: the kernel unpacks archives that follow one another."""
    return cpio.archive([cpio.file("job", job.encode())])


def cached() -> Path:
    """The image in the cache, built when this file or the packages changed."""
    packages = debian.tree([debian.Wanted(name) for name in _PACKAGES])
    key = hashlib.sha256(packages.name.encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    image = debian.cache_dir() / f"root-{key}.img"
    if not image.exists():
        for old in image.parent.glob("root-*.img"):
            old.unlink(missing_ok=True)
        part = image.with_suffix(f".{os.getpid()}")
        build(part)
        os.replace(part, image)
    return image


def cached_initrd(flavour: debian.Flavour) -> Path:
    """The initrd for one of Debian's kernels, in the cache."""
    kernel = debian.kernel(flavour)
    key = hashlib.sha256(kernel.release.encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    path = debian.cache_dir() / f"root-initrd-{flavour}-{key}.cpio"
    if not path.exists():
        for old in path.parent.glob(f"root-initrd-{flavour}-*.cpio"):
            old.unlink(missing_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(initrd(kernel))
        os.replace(part, path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description="Make an ext4 image with a small Linux, and the initrd that boots it.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--size", type=int, default=SIZE, metavar="MIB", help=f"of the image (default {SIZE})")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="write the initrd too")
    parser.add_argument("--kernel", choices=["generic", "cloud"], default="generic", help="whose modules the initrd holds")
    options = parser.parse_args()
    try:
        build(options.image, options.size)
        print(f"root file system {options.image}")
        if options.initrd:
            kernel = debian.kernel(options.kernel)
            options.initrd.write_bytes(initrd(kernel))
            print(f"initrd {options.initrd}\nkernel {kernel.vmlinuz}")
    except (debian.DebianError, OSError) as error:
        print(f"rootfs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
