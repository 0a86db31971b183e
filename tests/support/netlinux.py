"""A Linux guest for networks: Debian's generic kernel with its own drivers, busybox and ethtool, no disk; it runs a job and ends."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from tests.support import cpio, debian, initramfs

KERNEL: debian.Flavour = "generic"  # the cloud kernel has no e1000
READY = "PYVMM-NET"
# virtio_ring first: virtio_pci finds its rings only when it is there.
MODULES = ("virtio_ring", "virtio_pci", "virtio_blk", "virtio_net", "e1000", "8021q")
DRIVERS = ("virtio_net", "e1000")  # not loaded by /init: jobs load and unload them
_PACKAGES = ("ethtool", "libmnl0", "libc6")
_LIBRARIES = ("lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libm.so.6", "usr/lib/x86_64-linux-gnu/libmnl.so.0")
_LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"

_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
ip link set lo up
for module in $(cat /modules/order); do
  case $module in {"|".join(f"*/{name}.ko" for name in DRIVERS)}) ;; *) insmod $module ;; esac
done
echo "{READY} kernel=$(uname -r)"
. /job
section end
dmesg -n 1
poweroff -f 2>/dev/null
reboot -f
"""
_DHCP = """#!/bin/busybox sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev $interface
ip addr add $ip/${mask:-24} dev $interface
[ -n "$router" ] && ip route add default via $router dev $interface 2>/dev/null
echo "$interface: $1 $ip/$mask router $router dns $dns lease $lease"
"""


@functools.cache
def base() -> Path:
    """The initramfs without a job, in the cache."""
    kernel = debian.kernel(KERNEL)
    packages = debian.tree([debian.Wanted(name) for name in _PACKAGES])
    key = hashlib.sha256(f"{kernel.release} {packages.name}".encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    path = debian.cache_dir() / f"net-initrd-{key}.cpio"
    if path.exists():
        return path
    for old in path.parent.glob("net-initrd-*.cpio"):
        old.unlink(missing_ok=True)
    extra = [
        *initramfs.modules(kernel, MODULES, signed=False),
        cpio.file("bin/ethtool", _first(packages, "sbin/ethtool", "usr/sbin/ethtool").read_bytes(), executable=True),
        cpio.file("lib64/ld-linux-x86-64.so.2", _first(packages, _LOADER, f"usr/{_LOADER}").read_bytes(), executable=True),
        *(cpio.file(f"lib/x86_64-linux-gnu/{Path(name).name}", _first(packages, name, f"usr/{name}").read_bytes()) for name in _LIBRARIES),
        cpio.file("dhcp", _DHCP.encode(), executable=True),
    ]
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(initramfs.build(_INIT, extra=extra))
    os.replace(part, path)
    return path


def _first(root: Path, *names: str) -> Path:
    found = next((root / name for name in names if (root / name).exists()), None)
    if found is None:
        raise debian.DebianError(f"{root}: no {names[0]}; empty the cache")
    return found.resolve()


def initrd(job: str, into: Path) -> Path:
    """Writes the initramfs with a shell script to run; it is sourced by /init."""
    into.write_bytes(base().read_bytes() + cpio.archive([cpio.file("job", job.encode())]))
    return into


# What jobs are made of. Every section is "== NAME SECONDS" and what follows.
FUNCTIONS = """
section() { echo "== $1 $(cut -d' ' -f1 /proc/uptime)"; }
load() { insmod /modules/$1.ko || echo FAILED insmod $1; }
wait_for() { # seconds, command: until it succeeds
  tries=$(($1 * 10)); shift
  while ! "$@" >/dev/null 2>&1; do
    tries=$((tries - 1)); [ $tries -gt 0 ] || { echo "FAILED waiting for $*"; return 1; }
    sleep 0.1
  done
}
drained() { ! awk 'NR > 1 { print $4 }' /proc/net/tcp | grep -qE '01|04|09|0B'; } # what programs have sent by TCP has arrived
carrier() { [ "$(cat /sys/class/net/$1/carrier 2>/dev/null)" = $2 ]; }
dhcp() { ip link set $1 up; wait_for 20 carrier $1 1; udhcpc -i $1 -n -q -f -t 10 -T 2 -s /dhcp 2>&1; }
"""
