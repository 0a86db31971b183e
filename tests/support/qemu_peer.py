"""A Linux guest of QEMU's at the other end of a wire: emulated, out here, so that pyvmm's guest may be on a host that can carry no QEMU.

    with Peer() as peer:
        ... -netdev stream,id=n,addr.type=inet,addr.host=127.0.0.1,addr.port={peer.port} ...

It has 10.7.0.1 on a QEMU virtio-net card, keeps what is sent to TCP port 7000 and gives it back at port 7001. When one leaves the wire, the
next may come. On host B the wire begins at 10.0.2.2, and PYVMM_PEER names it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.support import linux, netlinux

PROGRAM = "qemu-system-x86_64"
ADDRESS = "10.7.0.1"
_JOB = f"""
load virtio_net; sleep 1; ip addr add {ADDRESS}/24 dev eth0; ip link set eth0 up
echo 'cat >/tmp/part; mv /tmp/part /tmp/kept' >/bin/keep
echo 'while [ ! -e /tmp/kept ]; do sleep 0.1; done; cat /tmp/kept; rm /tmp/kept' >/bin/give
chmod +x /bin/keep /bin/give
nc -ll -p 7000 -e sh /bin/keep & nc -ll -p 7001 -e sh /bin/give & wait
"""


class Peer:
    """See the module. Attributes: port, of the wire, on this machine."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="pyvmm-peer-")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        scratch = Path(self._scratch.name)
        self._log = (scratch / "log").open("a+b")  # QEMU shares where it writes with us who read
        command = [
            PROGRAM, "-M", "pc", "-accel", "tcg", "-m", "192", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-kernel", str(linux.image(netlinux.KERNEL, "bzimage")), "-initrd",
            str(netlinux.initrd(netlinux.FUNCTIONS + _JOB, scratch / "initrd")), "-append", "console=ttyS0 quiet panic=-1", "-no-reboot",
            "-netdev", f"stream,id=n,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port={self.port}",
            "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:07:01",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    def printed(self) -> str:
        """What QEMU and its guest have said."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._scratch.cleanup()


def why_not() -> str:
    """Why no peer can be started here; "" when it can, or is there."""
    if "PYVMM_PEER" in os.environ:
        return ""
    if "PYVMM_NESTED" in os.environ:
        return "QEMU beside pyvmm brings this nested host down: PYVMM_PEER=HOST:PORT names one outside (tox -e nested does)"
    return "" if shutil.which(PROGRAM) else "QEMU is not installed (Debian: qemu-system-x86)"
