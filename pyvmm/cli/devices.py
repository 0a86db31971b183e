"""``-device NAME,key=value``: which there are, and what each may be told. What the values mean is checked by whoever builds it."""

from __future__ import annotations

from pyvmm.cli.grammar import choice, identifier, pairs
from pyvmm.config import DeviceConfig
from pyvmm.errors import ConfigError

_BLK = ("drive", "serial", "num-queues", "queue-size", "logical_block_size", "physical_block_size", "min_io_size", "opt_io_size",
        "write-cache", "discard", "bootindex", "iothread")  # fmt: skip
_RNG = ("rng", "max-bytes", "period")
_SERIAL = ("max_ports",)
_NET = ("netdev", "mac", "bootindex")
_VIRTIO_NET = ("mq", "csum", "guest_csum", "host_tso4", "host_tso6", "host_ecn", "guest_tso4", "guest_tso6", "guest_ecn", "mrg_rxbuf",
               "status", "ctrl_vq", "ctrl_rx", "ctrl_vlan", "host_mtu", "rx_queue_size", "tx_queue_size")  # fmt: skip
_PCI = ("addr", "bus", "vectors", "ioeventfd", "disable-legacy", "disable-modern", "romfile")
_MMIO = ("ioeventfd",)
DEVICES: dict[str, tuple[str, ...]] = {  # name: options; id goes with each
    "isa-debug-exit": ("iobase", "iosize"),
    "pc-testdev": (),
    "pci-testdev": (),
    "virtio-blk-pci": _BLK + _PCI,
    "virtio-rng-pci": _RNG + _PCI,
    "virtio-serial-pci": _SERIAL + _PCI,
    "virtio-blk-device": _BLK + _MMIO,
    "virtio-rng-device": _RNG + _MMIO,
    "virtio-serial-device": _SERIAL + _MMIO,
    "virtconsole": ("chardev", "name", "bus"),
    "e1000": (*_NET, "addr", "bus", "romfile"),
    "virtio-net-pci": _NET + _VIRTIO_NET + _PCI,
    "virtio-net-device": _NET + _VIRTIO_NET + _MMIO,
}
NICS = {name: options for name, options in DEVICES.items() if "netdev" in options}
_ALIASES = {
    "virtio-blk": "virtio-blk-pci", "virtio-rng": "virtio-rng-pci", "virtio-serial": "virtio-serial-pci", "virtio-net": "virtio-net-pci",
    "e1000-82540em": "e1000",
}  # fmt: skip
_FIXED = {
    "disable-modern": ("off", "false", "no"), "bus": ("pci.0", "pcie.0"),
    "disable-legacy": ("on", "off", "auto", "true", "false", "yes", "no"),
}  # fmt: skip


def parse_device(text: str) -> DeviceConfig:
    """``NAME,key=value,...`` as a DeviceConfig. Raises ConfigError for a device, or an option, pyvmm does not have."""
    name, comma, rest = text.partition(",")
    name = name.removeprefix("driver=")
    name = _ALIASES.get(name, name).removesuffix("-non-transitional")
    legacy = name.endswith("-pci-transitional")
    name = name.removesuffix("-transitional")
    if name not in DEVICES:
        raise ConfigError(f"-device {name or text!r}: not known; there are {', '.join(DEVICES)}")
    if comma and not rest:
        raise ConfigError(f"-device {text}: write KEY=VALUE behind the comma")
    options = pairs("device", rest)
    if legacy:
        options.append(("disable-legacy", "off"))
    for key, value in options:
        if key == "id":
            identifier("device", text, value)
        elif key not in DEVICES[name]:
            raise ConfigError(f"-device {name}: option '{key}' is not known; there are: {', '.join(DEVICES[name]) or 'none'}")
        elif key in _FIXED and name != "virtconsole":
            choice("device", text, key, value, _FIXED[key])
    return DeviceConfig(name=name, options=tuple(options))


def with_default(device: DeviceConfig, key: str, value: str) -> DeviceConfig:
    """The device with an option that its name allows and nobody has given."""
    if key not in DEVICES.get(device.name, ()) or key in dict(device.options):
        return device
    return device.replace(options=(*device.options, (key, value)))
