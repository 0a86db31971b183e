"""What to build, as frozen plain data. The command line fills it, tests write it by hand, ``machine.build`` reads it."""

from __future__ import annotations

from pyvmm.layout import MIB
from pyvmm.record import FrozenRecord


class SerialConfig(FrozenRecord):
    """One ``-serial``: ``kind`` is "stdio", "file", "pty", "unix", "null" or "none" (no port); ``target`` the path, if needed."""

    kind: str = "null"
    target: str = ""


class DeviceConfig(FrozenRecord):
    """One ``-device NAME,key=value,...``; the values still are strings, checked by whoever builds the device."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def get(self, key: str, default: str = "") -> str:
        """The value of an option, or the default."""
        return dict(self.options).get(key, default)


class BootConfig(FrozenRecord):
    """What to boot.

    Fields:
        kernel: path of the guest image.
        initrd: for Linux and PVH one path; for Multiboot a comma-separated list of "path args" modules; "" for none.
        cmdline: kernel command line, without the program name.
        fmt: "auto" or a name of ``pyvmm.boot.detect.FORMATS``.
        address: load address of a flat image, None for the mode's default.
        entry: entry point of a flat image, None for its load address.
    """

    kernel: str
    initrd: str = ""
    cmdline: str = ""
    fmt: str = "auto"
    address: int | None = None
    entry: int | None = None


class Config(FrozenRecord):
    """A whole machine.

    Fields:
        boot: what to boot.
        memory: bytes of guest RAM.
        smp: number of vCPUs.
        cpu: ``-cpu`` as given: model and feature switches; "" for this host's default.
        serials: COM1..COM4 in order; a missing one is not there for the guest.
        devices: every ``-device``.
        machine: ``-machine`` options (pit=off, ...).
        pit_reinject: timer ticks the guest was too late for come later (True), or never.
        acpi: False leaves out the ACPI tables.
        no_reboot: a guest's reset ends the run.
        list_unclaimed: collect accesses nobody answered.
        coalesce: let the kernel batch writes to the UART's transmit register.
    """

    boot: BootConfig
    memory: int = 128 * MIB
    smp: int = 1
    cpu: str = ""
    serials: tuple[SerialConfig, ...] = (SerialConfig(kind="stdio"),)
    devices: tuple[DeviceConfig, ...] = ()
    machine: tuple[tuple[str, str], ...] = ()
    pit_reinject: bool = True
    acpi: bool = True
    no_reboot: bool = False
    list_unclaimed: bool = False
    coalesce: bool = True
