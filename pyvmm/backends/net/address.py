"""Where a socket netdev listens or connects, in QEMU's spellings."""

from __future__ import annotations

import socket

from pyvmm.backends.net.backend import complain
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import NetConfig


class Address(FrozenRecord):
    """A socket address that is resolved already. ``path`` of a UNIX socket, else ""; ``text`` for messages."""

    family: int
    address: object
    text: str
    path: str = ""


def from_options(config: NetConfig, prefix: str = "addr") -> Address:
    """``addr.type=unix,addr.path=PATH`` or ``addr.type=inet,addr.host=HOST,addr.port=PORT``."""
    kind = config.get(f"{prefix}.type")
    path, host, port = (config.get(f"{prefix}.{each}") for each in ("path", "host", "port"))
    if kind == "unix" and path and not host and not port:
        return Address(family=socket.AF_UNIX, address=path, text=path, path=path)
    if kind == "inet" and not path and port:
        return inet(config, host, port)
    raise complain(config, f"write {prefix}.type=unix,{prefix}.path=PATH or {prefix}.type=inet,{prefix}.host=HOST,{prefix}.port=PORT")


def from_text(config: NetConfig, text: str) -> Address:
    """``[HOST]:PORT`` of the older spelling."""
    host, colon, port = text.rpartition(":")
    if not colon or not port:
        raise complain(config, f"{text}: write HOST:PORT")
    return inet(config, host.strip("[]"), port)


def inet(config: NetConfig, host: str, port: str) -> Address:
    """Resolves a name; may wait for a name server."""
    try:
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise complain(config, f"port {port}: give a number up to 65535")
        found = socket.getaddrinfo(host or "0.0.0.0", int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise complain(config, f"{host}: {getattr(error, 'strerror', None) or error}; is the name right?") from None
    return Address(family=found[0], address=found[4], text=f"{host}:{port}")


def inherited(config: NetConfig, text: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """The socket behind ``fd=N``, which is ours from here on."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else -1
    try:
        found = socket.socket(fileno=number) if number > 2 else None
    except OSError:
        found = None
    if found is None or found.type != kind:
        if found is not None:
            found.detach()
        raise complain(config, f"fd={text}: that is no inherited {'stream' if kind == socket.SOCK_STREAM else 'datagram'} socket")
    found.set_inheritable(False)
    return found
