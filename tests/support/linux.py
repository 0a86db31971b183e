"""Stock Linux as a test guest: Debian's kernels and a busybox initramfs whose /init says how far it got."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from tests.support import debian, initramfs

READY = "PYVMM-INIT"  # printed by /init, with nproc and uptime

_INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
echo "{READY} nproc=$(nproc) uptime=$(cut -d' ' -f1 /proc/uptime) memory=$(awk '/MemTotal/{{print $2}}' /proc/meminfo)"
for word in $(cat /proc/cmdline); do
  case $word in
    pyvmm.run=shell) exec setsid cttyhack sh ;;
    pyvmm.run=reboot) reboot -f ;;
    pyvmm.run=warnings) dmesg -r | sed -n 's/^<[0-4]>/KMSG &/p' ;;
    pyvmm.run=devices) cat /proc/tty/driver/serial /proc/ioports /proc/interrupts ;;
  esac
done
poweroff -f
"""


@functools.cache
def initrd() -> Path:
    """The initramfs, built into the cache once per session."""
    path = debian.cache_dir() / f"linux-test-{'-'.join(map(str, sys.version_info[:2]))}.cpio"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(initramfs.build(_INIT))
    return path


def image(flavour: debian.Flavour, kind: str) -> Path:
    """A kernel image: ``kind`` is "bzimage" or "vmlinux"."""
    kernel = debian.kernel(flavour)
    return kernel.vmlinuz if kind == "bzimage" else kernel.vmlinux()
