"""A network namespace for a piece of a test: nothing of the host's network is touched."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable

_CLONE_NEWNET = 0x4000_0000


def why_not() -> str:
    """Why no namespace with a tap can be had here; "" when it can."""
    if os.geteuid() != 0:
        return "needs root for a network namespace"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "needs unshare and ip"
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        return "no network namespace may be made here"
    return ""


def inside(body: Callable[[], None]) -> None:
    """Calls ``body`` on a thread in a fresh namespace, with ``lo`` up; threads and processes it starts are in there as well."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            ip("link set lo up")
            body()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def ip(words: str) -> None:
    """``ip`` with these arguments."""
    subprocess.run(["ip", *words.split()], check=True)


def tap(name: str, address: str, mtu: int = 1500) -> None:
    """A tap interface that stays when nobody has it open, up, with an address, without IPv6 and its chatter."""
    ip(f"tuntap add dev {name} mode tap")
    with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:
        file.write("1")
    ip(f"addr add {address} dev {name}")
    ip(f"link set {name} mtu {mtu} up")
