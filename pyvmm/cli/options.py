"""``pyvmm run``'s options in QEMU's own spellings, with one dash or two, and what they make of a Config.

A table rather than argparse: QEMU's grammar (``-m 1G``, ``-device name,key=value``, repeatable ``-serial``) is its own, an
unknown option must name itself in one line, and argparse costs 12 ms of start-up.
"""

from __future__ import annotations

import os

from pyvmm import catalogue
from pyvmm.cli.devices import DEVICES, NICS, parse_device, with_default
from pyvmm.config import BootConfig, ChardevConfig, Config, DriveConfig, NetConfig, SerialConfig, switch
from pyvmm.errors import ConfigError
from pyvmm.layout import GIB, KIB, MAX_VCPUS, MIB, SERIAL_PORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

HELP = """\
usage: pyvmm run GUEST [OPTIONS]        GUEST is a name from `pyvmm guests`, or an image file

what to boot
  -kernel FILE             the image (instead of GUEST)
  -bios FILE               a PC firmware (SeaBIOS, OVMF) instead, which boots from the first disk (docs/firmware.md)
  -drive if=pflash,format=raw,unit=0|1[,readonly=on],file=FILE   UEFI firmware in flash, and its variables (docs/firmware.md)
  -boot [order=]LETTERS,menu=on|off   what it tries: c the disk, n a network card's romfile; a choice by ESC
  -initrd FILE             initrd; for Multiboot modules: "file args,file2 args"
  -append STRING           kernel command line
  -format NAME             force the format: {formats}
  -address N, -entry N     load address and entry point of a flat image
the machine
  -m SIZE                  guest memory in MiB, or with suffix K, M, G (default 128M)
  -smp N                   number of vCPUs (default 1)
  -cpu MODEL[,+F,-F]       host, max or qemu64, with features switched (default: what suits this host)
  -machine KEY=VALUE,...   {machine}
  -global NAME=VALUE       {globals}: what becomes of timer ticks the guest was too late
                           for (delay: they come later, the default)
  -serial DEST             stdio, file:PATH, pty, unix:PATH[,server=on][,wait=off], null, none; repeatable up to 4
                           times
  -debugcon DEST           where bytes to ports 0xe9 and 0x402 go: stdio, file:PATH, null
  -device NAME,KEY=VALUE   {devices}
  -nodefaults              no default serial port
disks (what else a -drive can be told: README)
  -drive file=FILE,format=raw[,KEY=VALUE...]   a disk on virtio; -drive format=scratch,size=SIZE an empty, temporary one
                           if=virtio|none,id=ID,readonly=on,snapshot=on,discard=unmap,serial=TEXT,locking=off,
                           cache=writeback|none|writethrough|directsync|unsafe
  -snapshot                nothing is written to any image
  -chardev KIND,id=ID      stdio; file,path=PATH; pty; socket,path=PATH[,server=on][,wait=off]; null: for a virtconsole,
                           or -serial chardev:ID
the network (what else: docs/networks.md)
  -nic KIND[,model=e1000|virtio][,mac=ADDRESS][,KEY=VALUE...]   a card and its wire; or -netdev KIND,id=ID[,KEY=VALUE...]
                           and -device e1000|virtio-net-pci,netdev=ID. pcap=FILE writes every frame down
                           (QEMU's -object filter-dump,id=ID,netdev=ID,file=FILE too)
                           user[,hostfwd=tcp::PORT-:PORT][,restrict=on]; tap,ifname=NAME; hubport,hubid=N;
                           stream,addr.type=unix,addr.path=PATH[,server=on][,reconnect=SECONDS]; socket,listen=|connect=
the run
  --timeout SECONDS        stop with status 124 after that long
  --load FILE              go on from a snapshot of this guest (docs/snapshots.md), taken with the same options
  -no-reboot               a guest's reset ends the run
  --json-log FILE          what happens in the run, a JSON object per line (docs/guests-as-tests.md)
  -S                       start paused (Ctrl-A p goes on)
  -gdb tcp:[HOST]:PORT|unix:PATH[,history=on]   let gdb in, with -S before the first instruction; -s is -gdb tcp::1234.
                           history=on for reverse execution, at a checkpoint per exit (docs/gdb.md)
  -monitor unix:PATH,server=on,wait=off   the debugger's commands on a socket, as Ctrl-A c has them on the terminal; -qmp the
                           same as JSON, in QEMU's protocol (docs/debugger.md); none
  -unclaimed               list the ports and addresses the guest used and nobody answered
  --trace-net              tell on stderr what becomes of each packet, from descriptor to wire and back
  --trace EVENTS[,file=FILE]   a line on stderr, or in FILE, for each of these events: names and patterns, such as
                           'serial_*,irq_*' (pyvmm list has them all)
  -no-coalesce             every byte to the serial port exits at once
safety (docs/sandbox.md)
  -sandbox on              give up files, system calls and privileges the run does not need [,landlock=off][,seccomp=off]
  -runas USER|UID:GID, -chroot DIR   as root: become that user, with that directory as root, before the guest runs
                           (QEMU's -run-with user=,chroot= too)
accepted for QEMU's sake: -display none, -nographic, -accel kvm, -enable-kvm, -M, -vga none, -net none, -nic none,
  -vnc none, -parallel none, -no-user-config, -name,
  -object rng-random|rng-builtin|iothread

exit status: 0 power-off (or reset under -no-reboot), (v<<1)|1 isa-debug-exit, 2 usage, 100 guest crash, 102 KVM error,
  104 pyvmm error, 124 timeout, 128+n signal
"""
SERIAL_KINDS = ("stdio", "file", "pty", "unix", "null", "none")
DEBUGCON_KINDS = ("stdio", "file", "null", "none")  # output only

WITH_VALUE = {
    "kernel", "initrd", "append", "format", "address", "entry", "m", "smp", "cpu", "machine", "M", "serial", "debugcon",
    "device", "timeout", "display", "accel", "vga", "net", "nic", "name", "global", "vnc", "monitor", "qmp", "parallel",
    "bios", "boot", "drive", "chardev", "object", "netdev", "load", "json-log", "trace", "sandbox", "runas", "chroot", "run-with", "gdb",
}  # fmt: skip
FLAGS = {
    "nodefaults",
    "snapshot",
    "no-reboot",
    "S",
    "s",
    "unclaimed",
    "trace-net",
    "no-coalesce",
    "nographic",
    "enable-kvm",
    "no-user-config",
    "help",
    "h",
}
_ONLY_VALUE = {
    "display": "none", "accel": "kvm", "vga": "none", "net": "none", "vnc": "none", "parallel": "none",
}  # fmt: skip
# vmport: VMware's port is not there either way; a guest that looks for it reads all-ones, which says so
_MACHINE_KEYS = {"acpi": ("on", "off"), "pit": ("on", "off"), "accel": ("kvm",), "kernel_irqchip": ("on",), "vmport": ("on", "off")}
_GLOBALS = {"kvm-pit.lost_tick_policy": ("delay", "discard"), "virtio-pci.disable-legacy": ("on", "off")}
_ATTACHED = {"drive", "chardev", "object", "snapshot"}  # what cli.drives knows about
_SAFETY = {"sandbox", "runas", "chroot", "run-with"}  # and cli.safety
_NETWORK = {"netdev", "nic", "object"}  # and cli.nets
_SHOWN = {"isa-debug-exit": ("iobase", "iosize"), "virtio-blk-pci": ("drive", "serial", "num-queues"), "virtconsole": ("chardev",),
          "e1000": ("netdev", "mac")}  # fmt: skip
MACHINE_NAMES = ("pc", "q35", "microvm", "pyvmm")


class Options:
    """A parsed command line.

    Attributes:
        config: the machine, None when only help was asked for.
        timeout: seconds or None.
        paused: -S.
        gdb: -gdb or -s, "" for none.
        monitors: ("monitor" or "qmp", what is behind "unix:"), in their order.
        load: path of a snapshot, "" for none.
        json_log: path, "" for none.
        seal: closes the sandbox (``cli.safety``), None without one.
        trace: events to be traced (``cli.trace``).
        guest: the catalogue entry, when GUEST named one.
    """

    def __init__(self, arguments: list[str]) -> None:
        words, given = _split(arguments)
        self.config: Config | None = None
        self.timeout: float | None = None
        self.guest: catalogue.Guest | None = None
        self.debugcon = _debugcon(given)
        self.paused = "S" in given
        self.monitors = [_monitor(name, value) for name in ("monitor", "qmp") for value in given.get(name, []) if value != "none"]
        self.gdb = _last(given, "gdb", "tcp::1234" if "s" in given else "")
        self.load = _last(given, "load", "")
        self.json_log = _last(given, "json-log", "")
        self.trace = given.get("trace", [])
        self.seal: Callable[[], None] | None = None
        if not ("help" in given or "h" in given):
            self._build(words, given)
        if self.config is not None and given.keys() & _SAFETY:
            from pyvmm.cli.safety import seal

            self.seal = seal(given, self.config)

    def _build(self, words: list[str], given: dict[str, list[str]]) -> None:
        if len(words) > 1:
            raise ConfigError(f"more than one guest named: {' '.join(words)}")
        for name, only in _ONLY_VALUE.items():
            for value in given.get(name, []):
                if value.split(",")[0] != only:
                    raise ConfigError(f"-{name} {value}: only '-{name} {only}' is supported")
        guest_format, kernel, devices = "auto", _last(given, "kernel", ""), []
        memory, smp, cmdline, timeout, disk = 128 * MIB, 1, "", None, 0
        if words and kernel:
            raise ConfigError(f"give either a guest ({words[0]}) or -kernel {kernel}, not both")
        if any("pflash" in text for text in given.get("drive", ())):
            from pyvmm.cli.drives import with_flash

            given = with_flash(given)
        if "bios" in given:
            kernel, guest_format = _bios(words, given), "bios"
        if words:
            kernel = words[0]
            if "/" not in kernel and not os.path.exists(kernel):
                self.guest = catalogue.find(kernel)
                kernel, guest_format = self.guest.file, self.guest.format
                memory, smp, cmdline = self.guest.memory, self.guest.smp, self.guest.append
                devices = [parse_device(text) for text in self.guest.devices]
                disk = self.guest.disk
                if self.guest.nic and not given.keys() & {"netdev", "nic"}:
                    given["nic"] = list(self.guest.nic)
        if not kernel:
            raise ConfigError("nothing to boot: name a guest (pyvmm guests lists them) or give -kernel FILE")
        if "timeout" in given:
            timeout = _number("timeout", given["timeout"][-1])
        accelerators = [f"accel={value}" for value in given.get("accel", [])]  # -accel kvm,KEY=VALUE is -machine accel=kvm,KEY=VALUE
        machine = _machine(given.get("machine", []) + given.get("M", []) + accelerators)
        self.timeout = timeout
        devices += [parse_device(text) for text in given.get("device", [])]
        drives: list[DriveConfig] = []
        chardevs: list[ChardevConfig] = []
        netdevs: list[NetConfig] = []
        if given.keys() & _NETWORK or any(device.name in NICS for device in devices):
            from pyvmm.cli.nets import attach as attach_nets

            netdevs, devices = attach_nets(given, devices)
        if disk or given.keys() & _ATTACHED or any(device.name.startswith("virt") for device in devices):
            from pyvmm.cli.drives import attach

            drives, chardevs, devices = attach(given, devices, disk)
        defaults = _globals(given.get("global", []))
        if "virtio-pci.disable-legacy" in defaults:
            devices = [with_default(device, "disable-legacy", defaults["virtio-pci.disable-legacy"]) for device in devices]
        serials, chardevs = _serials(given, chardevs)
        self.config = Config(
            boot=BootConfig(
                kernel=kernel,
                initrd=_last(given, "initrd", ""),
                cmdline=_last(given, "append", cmdline),
                fmt=_last(given, "format", guest_format),
                address=_integer("address", given),
                entry=_integer("entry", given),
                **_boot(given),
            ),
            memory=_size("-m", given["m"][-1]) if "m" in given else memory,
            smp=_smp(given["smp"][-1]) if "smp" in given else smp,
            cpu=_last(given, "cpu", ""),
            serials=serials,
            devices=tuple(devices),
            drives=tuple(drives),
            chardevs=tuple(chardevs),
            netdevs=tuple(netdevs),
            machine=tuple(machine.items()),
            pit_reinject=defaults.get("kvm-pit.lost_tick_policy") != "discard",
            acpi=machine.get("acpi", "on") == "on",
            no_reboot="no-reboot" in given,
            list_unclaimed="unclaimed" in given,
            trace_net="trace-net" in given,
            coalesce="no-coalesce" not in given,
        )


def help_text() -> str:
    """The text of ``pyvmm run -help``."""
    from pyvmm.boot.detect import FORMATS

    return HELP.format(
        formats=", ".join(FORMATS),
        devices=_listed([",".join([name, *(f"{key}=" for key in _SHOWN.get(name, ()))]) for name in DEVICES], 27),
        machine=_known(_MACHINE_KEYS).replace(", kernel", ",\n" + " " * 27 + "kernel"),
        globals=_known(_GLOBALS),
    )


def _split(arguments: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Sorts a command line into words and {option: [values]}."""
    words: list[str] = []
    given: dict[str, list[str]] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        if name in FLAGS and not equals:
            given.setdefault(name, []).append("")
        elif name in WITH_VALUE:
            if not equals:
                try:
                    value = next(rest)
                except StopIteration:
                    raise ConfigError(f"{argument}: a value must follow") from None
            given.setdefault(name, []).append(value)
        else:
            from pyvmm.cli.hints import unknown

            raise ConfigError(unknown(argument, FLAGS | WITH_VALUE, "run", next(rest, "")))
    return words, given


def _bios(words: list[str], given: dict[str, list[str]]) -> str:
    """The file of ``-bios``, which stands alone: what it boots is on a disk."""
    for name in (*words, *(f"-{name}" for name in ("kernel", "format") if name in given)):
        raise ConfigError(f"-bios and {name}: give one of the two; a firmware boots what is on a -drive")
    if not given["bios"][-1]:
        raise ConfigError("-bios: name a firmware file, such as /usr/share/seabios/bios-256k.bin")
    return given["bios"][-1]


def _boot(given: dict[str, list[str]]) -> dict[str, Any]:
    """``-boot``: a firmware's business."""
    if "boot" in given and "bios" not in given:
        raise ConfigError(f"-boot {given['boot'][-1]}: a kernel is started directly: leave it out, or give -bios FILE")
    found: dict[str, Any] = {}
    for text in given.get("boot", []):
        for at, part in enumerate(text.split(",")):
            key, equals, value = part.partition("=")
            if not equals and not at:
                key, value = "order", key
            if key == "order" and value and set(value) <= set("acdn"):
                found["order"] = value
            elif key == "menu" and (on := switch(value)) is not None:
                found["menu"] = on
            else:
                raise ConfigError(f"-boot {part}: not known; there are order=LETTERS of a, c, d, n and menu=on|off")
    return found


def _monitor(name: str, text: str) -> tuple[str, str]:
    kind, _, target = text.partition(":")
    if kind != "unix" or not target:
        raise ConfigError(f"-{name} {text}: give unix:PATH,server=on,wait=off, or none; on the terminal it is Ctrl-A c")
    return name, target


def _last(given: dict[str, list[str]], name: str, default: str) -> str:
    return given[name][-1] if name in given else default


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise ConfigError(f"--{name} {text}: give a number of seconds above 0")
    return value


def _integer(name: str, given: dict[str, list[str]]) -> int | None:
    if name not in given:
        return None
    try:
        value = int(given[name][-1], 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise ConfigError(f"-{name} {given[name][-1]}: give an address such as 0x100000")
    return value


def _size(option: str, text: str) -> int:
    """``512`` (MiB), ``512M``, ``1G``, ``size=1G``."""
    amount = text.split(",")[0].removeprefix("size=")
    units = {"K": KIB, "M": MIB, "G": GIB, "T": GIB << 10}
    unit = units.get(amount[-1:].upper())
    digits = amount[:-1] if unit else amount
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
        raise ConfigError(f"{option} {text}: give a size such as 256M or 2G")
    return int(digits) * (unit or MIB)


def _smp(text: str) -> int:
    count = text.split(",")[0].removeprefix("cpus=")
    if not (count.isascii() and count.isdigit()) or len(count) > 6 or not 1 <= int(count) <= MAX_VCPUS:
        raise ConfigError(f"-smp {text}: give a number of vCPUs from 1 to {MAX_VCPUS}")
    return int(count)


def _machine(texts: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if key in MACHINE_NAMES and not equals or key == "type" and value in MACHINE_NAMES:
                continue
            key = key.replace("-", "_")
            if key not in _MACHINE_KEYS:
                raise ConfigError(
                    f"-machine {part}: not known; there are {_known(_MACHINE_KEYS)}, and the names {', '.join(MACHINE_NAMES)}"
                )
            if value not in _MACHINE_KEYS[key]:
                raise ConfigError(f"-machine {part}: not supported; there is {key}={'|'.join(_MACHINE_KEYS[key])}")
            options[key] = value
    return options


def _globals(texts: list[str]) -> dict[str, str]:
    """Every ``-global DRIVER.PROPERTY=VALUE``. One that nobody reads is refused: QEMU only warns, and the guest is another."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if value not in _GLOBALS.get(name, ()):
            raise ConfigError(f"-global {text}: not known; there is {_known(_GLOBALS)}")
        found[name] = value
    return found


def _listed(words: list[str], indent: int) -> str:
    """Words in lines of at most 120 columns, the first of which begins at ``indent``."""
    text = ""
    width = indent
    for word in words:
        if width + len(word) > 118 and text:
            text, width = text + "\n" + " " * indent, indent
        text += word + "; "
        width += len(word) + 2
    return "\n".join(line.rstrip() for line in text.rstrip("; ").split("\n"))


def _known(options: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{key}={'|'.join(values)}" for key, values in options.items())


def _serials(given: dict[str, list[str]], chardevs: list[ChardevConfig]) -> tuple[tuple[SerialConfig, ...], list[ChardevConfig]]:
    """The serial ports, and the chardevs that none of them has taken (``-serial chardev:ID``)."""
    stdio = sum(chardev.backend.kind == "stdio" for chardev in chardevs)
    if "serial" in given:
        serials = []
        for text in given["serial"]:
            named = [chardev for chardev in chardevs if text == f"chardev:{chardev.id}"]
            serials.append(named[0].backend if named else parse_serial("serial", text))
            chardevs = [chardev for chardev in chardevs if chardev not in named]
        stdio = sum(each.kind == "stdio" for each in (*serials, *(chardev.backend for chardev in chardevs)))
    elif "nodefaults" in given and "nographic" not in given:
        serials = []
    else:
        serials = [SerialConfig(kind="null" if stdio else "stdio")]
    if len(serials) > len(SERIAL_PORTS):
        raise ConfigError(f"-serial given {len(serials)} times: a PC has {len(SERIAL_PORTS)} serial ports")
    if stdio > 1:
        raise ConfigError("-serial stdio given twice: only one port can have the terminal (a -chardev stdio counts)")
    while serials and serials[-1].kind == "none":
        serials.pop()
    return tuple(serials), chardevs


def parse_serial(option: str, text: str) -> SerialConfig:
    """``stdio``, ``file:PATH``, ... as a SerialConfig. ``mon:stdio`` counts as stdio."""
    kind, _, target = text.removeprefix("mon:").partition(":")
    kinds = DEBUGCON_KINDS if option == "debugcon" else SERIAL_KINDS
    if kind not in kinds or (kind in ("file", "unix")) != bool(target):
        known = ", ".join(f"{each}:PATH" if each in ("file", "unix") else each for each in kinds)
        raise ConfigError(f"-{option} {text}: not known; give one of {known}")
    return SerialConfig(kind=kind, target=target)


def _debugcon(given: dict[str, list[str]]) -> SerialConfig | None:
    return parse_serial("debugcon", given["debugcon"][-1]) if "debugcon" in given else None
