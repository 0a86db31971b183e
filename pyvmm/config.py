"""What to build, as frozen plain data. The command line fills it, tests write it by hand, ``machine.build`` reads it."""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.layout import GIB, KIB, MIB
from pyvmm.record import FrozenRecord


class SerialConfig(FrozenRecord):
    """One ``-serial``: ``kind`` is "stdio", "file", "pty", "unix", "null" or "none" (no port); ``target`` the path, if needed."""

    kind: str = "null"
    target: str = ""


class ChardevConfig(FrozenRecord):
    """One ``-chardev``: a place for bytes under a name, for a device's ``chardev=`` or for ``-serial chardev:ID``."""

    id: str
    backend: SerialConfig


class DeviceConfig(FrozenRecord):
    """One ``-device NAME,key=value,...``; the values still are strings, checked by whoever builds the device."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def get(self, key: str, default: str = "") -> str:
        """The value of an option, or the default."""
        return dict(self.options).get(key, default)

    @property
    def transitional(self) -> bool:
        """Whether a virtio card has the legacy interface as well, as QEMU's have where nobody says otherwise."""
        return self.get("disable-legacy", "on") in ("off", "auto", "false", "no")

    def flag(self, key: str, default: bool) -> bool:
        """An option that is on or off. ConfigError says so when it is neither."""
        value = switch(self.get(key, "on" if default else "off"))
        if value is None:
            raise ConfigError(f"-device {self.name},{key}={self.get(key)}: write {key}=on or {key}=off")
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """An option that is a number from ``low`` to ``high``, with a suffix K, M, G or without. Raises ConfigError."""
        text = self.get(key)
        if not text:
            return default
        value = size(text)
        if value is None or not low <= value <= high:
            raise ConfigError(f"-device {self.name},{key}={text}: give a number from {low} to {high}")
        return value


class DriveConfig(FrozenRecord):
    """One ``-drive``: an image and how it is opened. What the guest sees of it is a device whose ``drive`` option is ``id``.

    Fields:
        id: its name; no other drive has it.
        file: path of a file or a block device; "" for a scratch disk.
        format: "raw", or "scratch": empty, temporary, ``size`` bytes.
        probed: True when no format was given: an image that begins like another format is refused then.
        interface: "virtio": the command line has made a device for it; "none": a ``-device`` names it, or nobody; "pflash": it is flash.
        readonly: the guest may not write; the image is opened for reading alone.
        auto_read_only: read-only when the image cannot be opened for writing.
        snapshot: what the guest writes goes into a temporary file and is gone at the end.
        cache: "writeback", "none" (past the host's page cache), "writethrough" (each write waits for the disk), "directsync"
            (both), "unsafe" (a flush does nothing).
        discard: "unmap": what the guest discards is freed on the host; "ignore".
        locking: False: do not look whether another program uses the image, and do not tell it.
        size: bytes of a scratch disk.
        serial: what the guest reads as the disk's serial number.
        unit: which flash chip it is, 0 (the firmware, at the end of 4 GiB) or 1 (below it).
    """

    id: str
    file: str = ""
    format: str = "raw"
    probed: bool = False
    interface: str = "none"
    readonly: bool = False
    auto_read_only: bool = False
    snapshot: bool = False
    cache: str = "writeback"
    discard: str = "ignore"
    locking: bool = True
    size: int = 0
    serial: str = ""
    unit: int = 0


class NetConfig(FrozenRecord):
    """One ``-netdev``, or the network half of a ``-nic``: the wire behind a card whose ``netdev`` option is ``id``.

    Fields:
        id: its name; no other netdev has it.
        kind: "user", "tap", "stream", "socket", "hubport", or "none": a cable that is not plugged in.
        options: as given, known to ``cli.nets``; ``hostfwd`` may come more than once.
        pcap: file that gets every frame, "" for none.
        snaplen: bytes of each frame that go there.
    """

    id: str
    kind: str = "none"
    options: tuple[tuple[str, str], ...] = ()
    pcap: str = ""
    snaplen: int = 262144

    def get(self, key: str, default: str = "") -> str:
        """The value of an option, or the default."""
        return dict(self.options).get(key, default)

    def flag(self, key: str, default: bool) -> bool:
        """An option that is on or off. ConfigError says so when it is neither."""
        value = switch(self.get(key, "on" if default else "off"))
        if value is None:
            raise ConfigError(f"-netdev {self.kind},id={self.id}: write {key}=on or {key}=off")
        return value


class BootConfig(FrozenRecord):
    """What to boot.

    Fields:
        kernel: path of the guest image.
        initrd: for Linux and PVH one path; for Multiboot a comma-separated list of "path args" modules; "" for none.
        cmdline: kernel command line, without the program name.
        fmt: "auto" or a name of ``pyvmm.boot.detect.FORMATS``.
        address: load address of a flat image, None for the mode's default.
        entry: entry point of a flat image, None for its load address.
        menu: firmware offers a choice of what to boot.
        order: what firmware tries first, by QEMU's letters.
    """

    kernel: str
    initrd: str = ""
    cmdline: str = ""
    fmt: str = "auto"
    address: int | None = None
    entry: int | None = None
    menu: bool = False
    order: str = ""


class Config(FrozenRecord):
    """A whole machine.

    Fields:
        boot: what to boot.
        memory: bytes of guest RAM.
        smp: number of vCPUs.
        cpu: ``-cpu`` as given: model and feature switches; "" for this host's default.
        serials: COM1..COM4 in order; a missing one is not there for the guest.
        devices: every ``-device``, and one for each drive with if=virtio.
        drives: every ``-drive``.
        chardevs: every ``-chardev``.
        netdevs: every ``-netdev``, and one for each ``-nic``.
        machine: ``-machine`` options (pit=off, ...).
        pit_reinject: timer ticks the guest was too late for come later (True), or never.
        acpi: False leaves out the ACPI tables.
        no_reboot: a guest's reset ends the run.
        list_unclaimed: collect accesses nobody answered.
        trace_net: tell on stderr what becomes of each packet.
        coalesce: let the kernel batch writes to the UART's transmit register.
    """

    boot: BootConfig
    memory: int = 128 * MIB
    smp: int = 1
    cpu: str = ""
    serials: tuple[SerialConfig, ...] = (SerialConfig(kind="stdio"),)
    devices: tuple[DeviceConfig, ...] = ()
    drives: tuple[DriveConfig, ...] = ()
    chardevs: tuple[ChardevConfig, ...] = ()
    netdevs: tuple[NetConfig, ...] = ()
    machine: tuple[tuple[str, str], ...] = ()
    pit_reinject: bool = True
    acpi: bool = True
    no_reboot: bool = False
    list_unclaimed: bool = False
    trace_net: bool = False
    coalesce: bool = True


def switch(text: str) -> bool | None:
    """``on``, ``off`` and what else QEMU takes for them; None for other text."""
    return {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}.get(text)


def size(text: str) -> int | None:
    """``4096``, ``0x1000``, ``4K``, ``1M``, ``2G``, ``1T`` as bytes; None for other text."""
    unit = {"K": KIB, "M": MIB, "G": GIB, "T": GIB << 10}.get(text[-1:].upper())
    digits = text[:-1] if unit else text
    if len(digits) > 20 or not digits.isascii() or not digits[:1].isdigit() or "_" in digits:
        return None
    try:
        return int(digits, 16 if digits[:2] in ("0x", "0X") else 10) * (unit or 1)
    except ValueError:
        return None
