"""``-netdev user`` by the program passt, where libslirp is not installed: it speaks QEMU's framing over a socket we share.

passt's parent process leaves when the child is ready, and its status says whether all went well. The child ends by itself when
our end of the socket is closed, however that comes about. Addresses are those of libslirp and QEMU.
"""

from __future__ import annotations

import os
import socket

from pyvmm.backends.net.backend import complain
from pyvmm.backends.net.stream import StreamWire
from pyvmm.backends.net.user import dotted
from pyvmm.backends.stderr import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.user import UserNetwork
    from pyvmm.config import NetConfig

_PATIENCE = 10.0  # seconds until passt must be ready
_NOISE = ("Failed to send", "Don't run as root")  # no syslog here; root is dropped, as it says


def find(name: str = "passt") -> str:
    """The program's path, "" when it is not there."""
    for folder in os.get_exec_path():
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def arguments(config: NetConfig, options: UserNetwork, fd: int) -> list[str]:
    """passt's command line, without the program. Raises ConfigError for what it cannot do."""
    for key, wanted in (
        ("restrict", options.restrict),
        ("hostname", options.hostname),
        ("tftp", options.tftp),
        ("bootfile", options.bootfile),
    ):
        if wanted:
            raise complain(config, f"{key}: passt, which is installed here, cannot do this: `apt install libslirp0`")
    if any(each.guest != dotted(options.dhcp) for each in options.forwards):
        raise complain(
            config, f"hostfwd: passt, which is installed here, forwards to {dotted(options.dhcp)} alone: `apt install libslirp0`"
        )
    host, dns = dotted(options.host), dotted(options.dns)
    given = ["--fd", str(fd), "--quiet", "--stderr", "--mtu", "1500", "--address", dotted(options.dhcp), "--netmask", dotted(options.mask)]
    given += ["--gateway", host, "--dns", dns, "--dns-forward", dns]
    if options.domain:
        given += ["--search", options.domain]
    if not options.ipv6:
        given += ["--ipv4-only"]
    for each in options.forwards:
        given += ["--udp-ports" if each.udp else "--tcp-ports", f"{each.host}/{each.host_port}:{each.guest_port}"]
    return given


def open_passt(config: NetConfig, options: UserNetwork, program: str) -> StreamWire:
    """Starts passt and talks to it.

    Raises:
        ConfigError: it does not start; passt's own words.
    """
    import subprocess

    ours, theirs = socket.socketpair()
    try:
        with theirs:
            done = subprocess.run(
                [program, *arguments(config, options, theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                timeout=_PATIENCE,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        ours.close()
        raise complain(config, f"{program}: {getattr(error, 'strerror', None) or 'not ready in time'}") from None
    except BaseException:
        ours.close()
        raise
    if done.returncode:
        ours.close()
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip() and not line.startswith(_NOISE)]
        raise complain(config, f"passt: {one_line(lines[-1] if lines else f'status {done.returncode}')}")
    return StreamWire(config.id, ours)
