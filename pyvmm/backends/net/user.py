"""``-netdev user``: a network of the guest's own behind this process's sockets, without any privilege.

The guest gets 10.0.2.15 by DHCP, the host is 10.0.2.2, names are resolved by 10.0.2.3; its TCP and UDP connections are
connections of this process, ``hostfwd`` lets some in. Done by libslirp, or by the program passt where that library is missing.
"""

from __future__ import annotations

import socket

from pyvmm.backends.net.backend import complain
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.backend import NetBackend
    from pyvmm.config import NetConfig

_MISSING = "neither libslirp nor passt is installed: `apt install libslirp0` (or `apt install passt`), or use -netdev tap or stream"


class Forward(FrozenRecord):
    """One ``hostfwd``; addresses are dotted."""

    udp: bool
    host: str
    host_port: int
    guest: str
    guest_port: int
    text: str


class UserNetwork(FrozenRecord):
    """Checked options. Addresses are numbers, the first byte on top."""

    network: int
    mask: int
    host: int
    dns: int
    dhcp: int
    ipv6: bool
    restrict: bool
    hostname: str
    domain: str
    tftp: str
    bootfile: str
    tftp_server: str
    forwards: tuple[Forward, ...]


def open_user(config: NetConfig, large: bool = True) -> NetBackend:
    """Opens it with what is installed. ``large``: its card may take large frames.

    Raises:
        ConfigError: one line with the problem and what to do.
    """
    options = parse(config)
    from pyvmm.backends.net.slirp import SlirpWire
    from pyvmm.backends.net.slirp_abi import load

    library = load()
    if library is not None:
        return SlirpWire(config, options, library, large)
    from pyvmm.backends.net.passt import find, open_passt

    program = find()
    if not program:
        raise complain(config, _MISSING)
    return open_passt(config, options, program)


def parse(config: NetConfig) -> UserNetwork:
    """Options in QEMU's spelling. Raises ConfigError."""
    if not config.flag("ipv4", True):
        raise complain(config, "ipv4=off: not supported")
    text, slash, size = config.get("net", "10.0.2.0/24").partition("/")
    mask = _mask(config, size) if slash else 0xFFFFFF00
    network = _address(config, "net", text) & mask
    own = ~mask & 0xFFFF_FFFF

    def inside(key: str, default: int) -> int:
        address = _address(config, key, config.get(key)) if config.get(key) else network | default & own
        if address & mask != network or address in (network, network | own):
            raise complain(config, f"{key}={dotted(address)}: not an address of a host in {dotted(network)}/{mask.bit_count()}")
        return address

    host, dns, dhcp = inside("host", 0x0202), inside("dns", 0x0203), inside("dhcpstart", 0x020F)
    if len({host, dns, dhcp}) < 3:
        raise complain(config, f"host={dotted(host)}, dns={dotted(dns)}, dhcpstart={dotted(dhcp)}: give each its own address")
    return UserNetwork(
        network=network,
        mask=mask,
        host=host,
        dns=dns,
        dhcp=dhcp,
        ipv6=config.flag("ipv6", True),
        restrict=config.flag("restrict", False),
        hostname=_name(config, "hostname"),
        domain=_name(config, "domainname"),
        tftp=config.get("tftp"),
        bootfile=_name(config, "bootfile"),
        tftp_server=_name(config, "tftp-server-name"),
        forwards=tuple(_forward(config, value, dotted(dhcp)) for key, value in config.options if key == "hostfwd"),
    )


def dotted(address: int) -> str:
    """``0x0A000202`` as ``10.0.2.2``."""
    return ".".join(str(each) for each in address.to_bytes(4, "big"))


def _address(config: NetConfig, key: str, text: str) -> int:
    try:
        if text.count(".") != 3:
            raise OSError
        return int.from_bytes(socket.inet_aton(text), "big")
    except (OSError, ValueError):  # ValueError: not ASCII
        raise complain(config, f"{key}={text}: give an address such as 10.0.2.2") from None


def _mask(config: NetConfig, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 3:
        bits = int(text)
    else:
        mask = _address(config, "net", text)
        bits = mask.bit_count()
        if mask != (1 << 32) - (1 << 32 - bits):
            bits = 0
    if not 8 <= bits <= 28:  # fewer hold no four hosts beside each other in the usual places
        raise complain(config, f"net=.../{text}: give a mask from 8 to 28 bits")
    return (1 << 32) - (1 << 32 - bits)


def _name(config: NetConfig, key: str) -> str:
    """A string that goes into DHCP replies; the option holds 255 bytes, libslirp reserves 33 for the host's name."""
    text = config.get(key)
    if not text.isascii() or not text.isprintable() or len(text) > (32 if key == "hostname" else 127):
        raise complain(config, f"{key}={text}: give up to {32 if key == 'hostname' else 127} ASCII characters")
    return text


def _forward(config: NetConfig, text: str, guest: str) -> Forward:
    """``[tcp|udp]:[HOSTADDR]:PORT-[GUESTADDR]:PORT``."""
    protocol, _, rest = text.partition(":")
    outside, _, inside = rest.partition("-")
    (host, colon, host_port), (to, second, guest_port) = outside.rpartition(":"), inside.rpartition(":")
    ports = [int(each) if each.isascii() and each.isdigit() and len(each) < 6 else 0 for each in (host_port, guest_port)]
    if protocol not in ("tcp", "udp", "") or not colon or not second or not all(0 < port < 65536 for port in ports):
        raise complain(config, f"hostfwd={text}: write tcp:[HOSTADDR]:PORT-[GUESTADDR]:PORT, or udp:...")
    return Forward(
        udp=protocol == "udp",
        host=dotted(_address(config, "hostfwd", host)) if host else "0.0.0.0",
        host_port=ports[0],
        guest=dotted(_address(config, "hostfwd", to)) if to else guest,
        guest_port=ports[1],
        text=text,
    )
