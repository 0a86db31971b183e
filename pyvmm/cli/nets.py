"""``-netdev``, ``-nic`` and ``-object filter-dump`` in QEMU's spelling, and which card uses which wire."""

from __future__ import annotations

from pyvmm.cli.devices import NICS
from pyvmm.cli.grammar import choice, identifier, pairs
from pyvmm.config import DeviceConfig, NetConfig
from pyvmm.errors import ConfigError

KINDS: dict[str, tuple[str, ...]] = {  # kind: options beside id and pcap
    "user": ("net", "host", "dns", "dhcpstart", "hostname", "domainname", "restrict", "hostfwd", "ipv4", "ipv6", "tftp", "bootfile",
             "tftp-server-name"),
    "tap": ("ifname", "fd", "script", "downscript", "vnet_hdr", "vhost"),
    "stream": ("addr.type", "addr.path", "addr.host", "addr.port", "addr.str", "server", "reconnect", "reconnect-ms"),
    "socket": ("listen", "connect", "fd"),
    "hubport": ("hubid", "netdev"),
}  # fmt: skip
_REPEATED = ("hostfwd",)
MODELS = {"e1000": "e1000", "virtio": "virtio-net-pci", "virtio-net-pci": "virtio-net-pci", "virtio-net-device": "virtio-net-device"}
_CARD = ("model", "mac", "addr", "vectors")  # options of -nic that are the card's
_DUMP = {"id", "qom-type", "netdev", "file", "maxlen", "queue", "status"}
_FIXED = {"queue": ("all",), "status": ("on",)}
_FIRST_MAC = 0x525400123456  # QEMU's


def attach(given: dict[str, list[str]], devices: list[DeviceConfig]) -> tuple[list[NetConfig], list[DeviceConfig]]:
    """Everything ``-netdev``, ``-nic`` and ``-object filter-dump`` say, and the devices with -nic's first, as QEMU has them.

    Every card gets a ``mac`` and a ``netdev``; one without is not plugged in.

    Args:
        given: {option: values} of the command line; the dumps are taken out of its objects.
        devices: every ``-device``.

    Raises:
        ConfigError: a name is used twice, or by two, or leads nowhere; one line with problem and fix.
    """
    netdevs = [parse_netdev(text) for text in given.get("netdev", [])]
    names = [each.id for each in netdevs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"-netdev: the id '{name}' is given twice: give each its own")
    cards = []
    for text in given.get("nic", []):
        if text.partition(",")[0] != "none":
            netdev, card = parse_nic(text, names)
            names.append(netdev.id)
            netdevs.append(netdev)
            cards.append(card)
    devices = [*cards, *devices]
    netdevs = _dumps(given, netdevs)
    used = _used(netdevs)
    macs = _macs(devices)
    for index, device in enumerate(devices):
        if device.name not in NICS:
            continue
        where = f"-device {device.name}"
        options = dict(device.options)
        name = options.get("netdev", "")
        if not name:
            name = _free("none", names)
            names.append(name)
            netdevs.append(NetConfig(id=name))
        elif name not in names:
            known = f"there is {', '.join(names)}" if names else "give one with -netdev"
            raise ConfigError(f"{where},netdev={name}: there is no such netdev: {known}")
        if name in used:
            raise ConfigError(f"{where},netdev={name}: {used[name]} uses that netdev: give each its own -netdev, or a hubport")
        used[name] = "another device"
        mac = options.get("mac") or _next_mac(macs)
        devices[index] = device.replace(options=tuple({**options, "netdev": name, "mac": mac}.items()))
    return netdevs, devices


def parse_netdev(text: str) -> NetConfig:
    """One ``-netdev``. Raises ConfigError."""
    kind, _, rest = text.partition(",")
    return _netdev("netdev", text, kind.removeprefix("type="), pairs("netdev", rest))


def parse_nic(text: str, names: list[str]) -> tuple[NetConfig, DeviceConfig]:
    """One ``-nic``: a netdev and its card. Raises ConfigError.

    Args:
        names: ids that are taken; one that is not given is another.
    """
    kind, _, rest = text.partition(",")
    options = pairs("nic", rest)
    card = {key: value for key, value in options if key in _CARD}
    left = [(key, value) for key, value in options if key not in _CARD]
    if not any(key == "id" for key, _ in left):
        left.append(("id", _free("net", names)))
    netdev = _netdev("nic", text, kind.removeprefix("type="), left)
    if netdev.id in names:
        raise ConfigError(f"-nic {text}: the id '{netdev.id}' is given twice: give each its own")
    model = choice("nic", text, "model", card.pop("model", "e1000"), tuple(MODELS))
    name = MODELS[model]
    for key in card:
        if key not in NICS[name]:
            raise ConfigError(f"-nic {text}: {name} has no option '{key}'")
    return netdev, DeviceConfig(name=name, options=(*card.items(), ("netdev", netdev.id)))


def _netdev(option: str, text: str, kind: str, options: list[tuple[str, str]]) -> NetConfig:
    if kind not in KINDS:
        more = ", none" if option == "nic" else ""
        raise ConfigError(f"-{option} {text}: '{kind}' is not known: there are {', '.join(KINDS)}{more}")
    name = pcap = ""
    kept: list[tuple[str, str]] = []
    for key, value in options:
        if key == "id":
            name = identifier(option, text, value)
        elif key == "pcap":
            pcap = value
        elif key not in KINDS[kind]:
            there = ", ".join((*KINDS[kind], "pcap"))
            raise ConfigError(f"-{option} {kind}: option '{key}' is not known; there are: {there}")
        elif key not in _REPEATED and any(key == other for other, _ in kept):
            raise ConfigError(f"-{option} {text}: {key}= is given twice")
        else:
            kept.append((key, value))
    if not name:
        raise ConfigError(f"-{option} {text}: no id= is given: add id=NAME, and -device e1000,netdev=NAME")
    return NetConfig(id=name, kind=kind, options=tuple(kept), pcap=pcap)


def _dumps(given: dict[str, list[str]], netdevs: list[NetConfig]) -> list[NetConfig]:
    """Puts ``-object filter-dump`` on the netdevs they name."""
    rest, seen = [], []
    by_id = {netdev.id: netdev for netdev in netdevs}
    for text in given.get("object", []):
        kind, _, more = text.partition(",")
        if kind.removeprefix("qom-type=") != "filter-dump":
            rest.append(text)
            continue
        values = dict(pairs("object", more))
        for key, value in values.items():
            if key not in _DUMP:
                raise ConfigError(f"-object filter-dump: option '{key}' is not known; there are: id, netdev, file, maxlen")
            if key in _FIXED:
                choice("object", text, key, value, _FIXED[key])
        for key in ("id", "netdev", "file"):
            if not values.get(key):
                raise ConfigError(f"-object {text}: no {key}= is given: write filter-dump,id=ID,netdev=ID,file=FILE")
        name, netdev = identifier("object", text, values["id"]), values["netdev"]
        if name in seen:
            raise ConfigError(f"-object: the id '{name}' is given twice: give each its own")
        seen.append(name)
        if netdev not in by_id:
            raise ConfigError(f"-object {text}: there is no netdev '{netdev}'")
        if by_id[netdev].pcap:
            raise ConfigError(f"-object {text}: netdev '{netdev}' has a dump already: one file each")
        by_id[netdev] = by_id[netdev].replace(pcap=values["file"], snaplen=_length(text, values.get("maxlen", "")))
    if "object" in given:
        given["object"] = rest
    return list(by_id.values())


def _length(text: str, number: str) -> int:
    if not number:
        return NetConfig(id="").snaplen
    if not (number.isascii() and number.isdigit()) or len(number) > 9 or not int(number):
        raise ConfigError(f"-object {text}: maxlen={number}: give a number of bytes above 0")
    return int(number)


def _used(netdevs: list[NetConfig]) -> dict[str, str]:
    """{id: by whom} of the netdevs behind hubs."""
    used: dict[str, str] = {}
    for netdev in netdevs:
        outside = netdev.get("netdev") if netdev.kind == "hubport" else ""
        if outside and outside in used:
            raise ConfigError(f"-netdev hubport,netdev={outside}: {used[outside]} uses that netdev")
        if outside:
            used[outside] = used[netdev.id] = "a hub"
    return used


def _macs(devices: list[DeviceConfig]) -> list[int]:
    """Those given, each checked, as numbers."""
    found: list[int] = []
    for device in devices:
        text = device.get("mac") if device.name in NICS else ""
        if not text:
            continue
        parts = text.replace("-", ":").split(":")
        if len(parts) != 6 or any(len(part) not in (1, 2) or not part.isascii() or not part.isalnum() for part in parts):
            raise ConfigError(f"-device {device.name},mac={text}: write six bytes, such as 52:54:00:12:34:56")
        try:
            value = int.from_bytes(bytes(int(part, 16) for part in parts), "big")
        except ValueError:
            raise ConfigError(f"-device {device.name},mac={text}: write six bytes, such as 52:54:00:12:34:56") from None
        if value >> 40 & 1 or not value:
            raise ConfigError(f"-device {device.name},mac={text}: not the address of one card: the first byte must be even")
        if value in found:
            raise ConfigError(f"-device {device.name},mac={text}: two cards have this address: give each its own")
        found.append(value)
    return found


def _next_mac(taken: list[int]) -> str:
    value = _FIRST_MAC
    while value in taken:
        value += 1
    taken.append(value)
    return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))


def _free(prefix: str, names: list[str]) -> str:
    number = 0
    while f"{prefix}{number}" in names:
        number += 1
    return f"{prefix}{number}"
