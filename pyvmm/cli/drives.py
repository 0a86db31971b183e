"""``-drive``, ``-chardev`` and ``-object`` in QEMU's spelling, and which ``-device`` uses which of them."""

from __future__ import annotations

from pyvmm.cli.grammar import choice, flag, identifier, pairs
from pyvmm.config import ChardevConfig, DeviceConfig, DriveConfig, SerialConfig, size
from pyvmm.errors import ConfigError

_DRIVE_KEYS = (
    "file", "format", "if", "id", "index", "media", "readonly", "auto-read-only", "snapshot", "cache", "cache.direct",
    "cache.no-flush", "cache.writeback", "discard", "detect-zeroes", "aio", "werror", "rerror", "copy-on-read", "locking", "serial",
    "size", "unit",
)  # fmt: skip
_ALIASES = {
    "read-only": "readonly", "driver": "format", "file.filename": "file", "file.locking": "locking", "file.aio": "aio",
}  # fmt: skip
_CACHES = ("writeback", "none", "writethrough", "directsync", "unsafe")
# What asks for nothing we would do differently. QEMU stops the guest when the host's disk is full (werror=enospc); here the guest
# is told, as with werror=report.
_FIXED = {
    "media": ("disk",), "detect-zeroes": ("off",), "aio": ("threads", "native", "io_uring"), "werror": ("report",), "rerror": ("report",),
    "copy-on-read": ("off",), "file.driver": ("file", "host_device"),
}  # fmt: skip
_PROTOCOLS = (
    "json", "nbd", "nbd+tcp", "nbd+unix", "http", "https", "ftp", "ftps", "tftp", "ssh", "fat", "vvfat", "iscsi", "rbd", "gluster",
    "nfs", "nvme", "blkdebug", "null-co", "null-aio", "host_device",
)  # fmt: skip
_SERIAL_LENGTH = 20  # virtio 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES
_CHARDEV_KEYS = {  # backend: keys beside id
    "stdio": ("signal", "mux"), "file": ("path", "mux"), "pty": ("mux",), "socket": ("path", "server", "wait", "mux"), "null": ("mux",),
}  # fmt: skip
_CHARDEV_KINDS = {"socket": "unix"}
_OBJECT_KEYS = {"rng-random": ("filename",), "rng-builtin": (), "iothread": ("poll-max-ns",)}
_RANDOM = ("/dev/urandom", "/dev/random", "/dev/hwrng")
SCRATCH_ID = "disk0"  # of a catalogue guest's disk


def attach(given: dict[str, list[str]], devices: list[DeviceConfig], disk: int = 0) -> tuple[
    list[DriveConfig], list[ChardevConfig], list[DeviceConfig]
]:  # fmt: skip
    """Everything ``-drive``, ``-chardev``, ``-object`` say, and the devices with those that if=virtio adds, as QEMU does, at the end.

    Args:
        given: {option: values} of the command line.
        devices: every ``-device``.
        disk: bytes of the scratch disk a catalogue guest wants, 0 for none; a ``-drive`` takes its place.

    Raises:
        ConfigError: a name is used twice, or by two, or leads nowhere; one line with problem and fix.
    """
    drives: list[DriveConfig] = []
    for text in given.get("drive", []):
        drives.append(parse_drive(text, drives))
    if "snapshot" in given:
        drives = [drive.replace(snapshot=drive.format != "scratch") for drive in drives]
    wanted = any(device.get("drive") == SCRATCH_ID for device in devices)
    if disk and not any(drive.id == SCRATCH_ID for drive in drives) and (wanted or not drives):
        interface = "none" if wanted else "virtio"
        drives.append(DriveConfig(id=SCRATCH_ID, format="scratch", size=disk, interface=interface, discard="unmap"))
    chardevs = [parse_chardev(text) for text in given.get("chardev", [])]
    objects = [parse_object(text) for text in given.get("object", [])]
    _once("drive", [drive.id for drive in drives])
    _once("chardev", [chardev.id for chardev in chardevs])
    _once("object", [name for name, _ in objects])
    _once("device", [device.get("id") for device in devices if device.get("id")])
    _check_devices(devices, {drive.id: drive for drive in drives}, [each.id for each in chardevs], dict(objects))
    made = []
    for drive in drives:
        if drive.interface == "virtio":
            options = (("drive", drive.id), *((("serial", drive.serial),) if drive.serial else ()))
            made.append(DeviceConfig(name="virtio-blk-pci", options=options))
    return drives, chardevs, [*devices, *made]


def _once(option: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"-{option}: the id '{name}' is given twice: give each its own")


def _check_devices(devices: list[DeviceConfig], drives: dict[str, DriveConfig], chardevs: list[str], objects: dict[str, str]) -> None:
    used: list[str] = []
    ports = 0
    for device in devices:
        where = f"-device {device.name}"
        if device.name.startswith("virtio-blk-"):
            name = device.get("drive")
            if not name:
                raise ConfigError(f"{where}: no drive= is given: add drive=ID, and -drive file=FILE,format=raw,if=none,id=ID")
            if name not in drives:
                raise ConfigError(f"{where},drive={name}: there is no such drive: {_those('-drive', list(drives))}")
            if drives[name].interface != "none":
                raise ConfigError(f"{where},drive={name}: that drive has a device already: add if=none to its -drive")
            if name in used:
                raise ConfigError(f"{where},drive={name}: another device uses that drive: give each its own -drive")
            used.append(name)
        if device.get("iothread") and objects.get(device.get("iothread")) != "iothread":
            raise ConfigError(f"{where},iothread={device.get('iothread')}: there is no such -object iothread")
        if device.get("rng") and not objects.get(device.get("rng"), "").startswith("rng-"):
            raise ConfigError(
                f"{where},rng={device.get('rng')}: there is no such -object: leave rng= out, the host's random numbers are used"
            )
        if device.name.startswith("virtio-serial-"):
            ports += 1
        if device.name == "virtconsole":
            _check_console(device, chardevs, used, ports)


def _check_console(device: DeviceConfig, chardevs: list[str], used: list[str], ports: int) -> None:
    name = device.get("chardev")
    if not ports:
        raise ConfigError("-device virtconsole: put -device virtio-serial-pci before it")
    if name not in chardevs:
        raise ConfigError(f"-device virtconsole,chardev={name}: there is no such chardev: {_those('-chardev', chardevs)}")
    if f"chardev {name}" in used:
        raise ConfigError(f"-device virtconsole,chardev={name}: another device uses that chardev: give each its own -chardev")
    used.append(f"chardev {name}")


def _those(option: str, names: list[str]) -> str:
    return f"there is {', '.join(names)}" if names else f"give one with {option}"


def parse_drive(text: str, others: list[DriveConfig]) -> DriveConfig:
    """One ``-drive``. Raises ConfigError.

    Args:
        others: those before it, of which the default id depends.
    """
    values: dict[str, str] = {}
    for key, value in pairs("drive", text):
        key = _ALIASES.get(key, key)
        if key in _FIXED:
            choice("drive", text, key, value, _FIXED[key])
        elif key not in _DRIVE_KEYS:
            raise ConfigError(f"-drive {text}: '{key}' is not known; there are: {', '.join(_DRIVE_KEYS)}")
        values[key] = value

    def on(key: str, default: bool = False) -> bool:
        return flag("drive", text, key, values[key]) if key in values else default

    if values.get("if", "virtio") not in ("virtio", "none", "pflash"):
        raise ConfigError(f"-drive {text}: if={values['if']} is not supported: write if=virtio, or if=none and a -device for it")
    interface = values.get("if", "virtio")
    unit = _unit(text, values, interface, others)
    kind = _format(text, values)
    if interface == "pflash" and kind != "raw":
        raise ConfigError(f"-drive {text}: flash has an image: write format=raw,file=FILE")
    name = identifier("drive", text, values["id"]) if "id" in values else _free_id(interface, others)
    if values.get("index", "0")[:20].isdigit() is False:
        raise ConfigError(f"-drive {text}: index={values['index']}: give a number")
    if len(values.get("serial", "").encode("utf-8", "surrogatepass")) > _SERIAL_LENGTH:
        raise ConfigError(f"-drive {text}: the serial number is longer than {_SERIAL_LENGTH} bytes: shorten it")
    return DriveConfig(
        id=name,
        file="" if kind == "scratch" else _file(text, values.get("file", "")),
        format=kind,
        probed="format" not in values,
        interface=interface,
        readonly=on("readonly"),
        auto_read_only=on("auto-read-only"),
        snapshot=on("snapshot"),
        cache=_cache(text, values, on),
        discard=_discard(text, values, "unmap" if kind == "scratch" else "ignore"),
        locking=values.get("locking") == "auto" or on("locking", True),
        size=_scratch_size(text, values) if kind == "scratch" else 0,
        serial=values.get("serial", ""),
        unit=unit,
    )


def _unit(text: str, values: dict[str, str], interface: str, others: list[DriveConfig]) -> int:
    """Which flash chip it is; 0 for what is none."""
    if interface != "pflash":
        if "unit" in values:
            raise ConfigError(f"-drive {text}: unit= goes with if=pflash: leave it out")
        return 0
    taken = [drive.unit for drive in others if drive.interface == "pflash"]
    given = values.get("unit", values.get("index", str(len(taken))))
    if given not in ("0", "1"):
        raise ConfigError(f"-drive {text}: there are two flash chips: give unit=0 for the firmware, unit=1 for its variables")
    if int(given) in taken:
        raise ConfigError(f"-drive {text}: another drive is unit {given}: give each its own")
    return int(given)


def with_flash(given: dict[str, list[str]]) -> dict[str, list[str]]:
    """The command line with the firmware that is in flash unit 0 as its -bios. Raises ConfigError."""
    drives: list[DriveConfig] = []
    for text in given["drive"]:
        drives.append(parse_drive(text, drives))
    chips = {drive.unit: drive for drive in drives if drive.interface == "pflash"}
    if not chips:
        return given
    if "bios" in given:
        raise ConfigError("-bios and -drive if=pflash: give one of the two")
    if 0 not in chips:
        raise ConfigError(f"-drive if=pflash,unit=1,file={chips[1].file}: there is no unit 0, which the firmware is in: add it")
    if 1 in chips and chips[1].readonly:
        raise ConfigError(
            f"-drive if=pflash,unit=1,file={chips[1].file},readonly=on: variables must be written: write snapshot=on to forget "
            "them, or leave unit 1 out"
        )
    return {**given, "bios": [chips[0].file]}


def _free_id(interface: str, others: list[DriveConfig]) -> str:
    """virtio0, virtio1, ... or none0, ...: QEMU's names for drives without one."""
    taken = [drive.id for drive in others]
    number = sum(drive.interface == interface for drive in others)
    while f"{interface}{number}" in taken:
        number += 1
    return f"{interface}{number}"


def _format(text: str, values: dict[str, str]) -> str:
    kind = values.get("format", "raw")
    if kind in ("raw", "scratch"):
        if kind == "raw" and "size" in values:
            raise ConfigError(f"-drive {text}: size= goes with format=scratch: a disk is as large as its file")
        if kind == "scratch" and "file" in values:
            raise ConfigError(f"-drive {text}: a scratch disk has no file: leave file= out, or write format=raw")
        return kind
    if kind in ("host_device", "file"):
        raise ConfigError(f"-drive {text}: format={kind} is not supported: write format=raw, for devices too")
    raise ConfigError(f"-drive {text}: format={kind} is not supported: convert it (qemu-img convert -O raw) and write format=raw")


def _file(text: str, path: str) -> str:
    if not path:
        raise ConfigError(f"-drive {text}: no image is named: add file=FILE, or format=scratch,size=SIZE for an empty disk")
    protocol, colon, rest = path.partition(":")
    if colon and protocol in _PROTOCOLS:
        raise ConfigError(f"-drive {text}: {protocol}: is not supported: name a file or a block device (./{path} if that is its name)")
    return rest if protocol == "file" and rest else path


def _cache(text: str, values: dict[str, str], on: object) -> str:
    """cache=, and the three switches it is short for: all but one combination has a name."""
    name = choice("drive", text, "cache", values.get("cache", "writeback"), _CACHES)
    assert callable(on)
    direct = on("cache.direct", name in ("none", "directsync"))
    write_back = on("cache.writeback", name not in ("writethrough", "directsync"))
    if not on("cache.no-flush", name == "unsafe"):
        return {(False, True): "writeback", (True, True): "none", (False, False): "writethrough", (True, False): "directsync"}[
            direct, write_back
        ]
    if direct or not write_back:
        raise ConfigError(f"-drive {text}: cache.no-flush=on goes with cache.direct=off,cache.writeback=on alone: write cache=unsafe")
    return "unsafe"


def _discard(text: str, values: dict[str, str], default: str) -> str:
    value = choice("drive", text, "discard", values.get("discard", default), ("ignore", "off", "unmap", "on"))
    return "unmap" if value in ("unmap", "on") else "ignore"


def _scratch_size(text: str, values: dict[str, str]) -> int:
    if "size" not in values:
        raise ConfigError(f"-drive {text}: a scratch disk needs a size: add size=64M")
    found = size(values["size"])
    if not found or found % 512 or found >> 63:
        raise ConfigError(f"-drive {text}: size={values['size']}: give a size such as 64M, a multiple of 512 bytes")
    return found


def parse_chardev(text: str) -> ChardevConfig:
    """One ``-chardev BACKEND,id=ID,...``. Raises ConfigError."""
    kind, _, rest = text.partition(",")
    kind = kind.removeprefix("backend=")
    if kind not in _CHARDEV_KEYS:
        raise ConfigError(f"-chardev {text}: '{kind}' is not known; there are {', '.join(_CHARDEV_KEYS)}")
    values = _values("chardev", text, rest, ("id", *_CHARDEV_KEYS[kind]))
    if flag("chardev", text, "mux", values.pop("mux", "off")):
        raise ConfigError(f"-chardev {text}: mux=on is not supported: leave it out")
    flag("chardev", text, "signal", values.pop("signal", "on"))
    name, path = _id("chardev", text, values), values.pop("path", "")
    if kind in ("file", "socket") and not path:
        raise ConfigError(f"-chardev {text}: no path is given: add path=FILE")
    if kind == "socket":
        if "," in path:
            raise ConfigError(f"-chardev {text}: a path with a comma is not supported: name another")
        for key, value in values.items():
            path += f",{key}={'on' if flag('chardev', text, key, value) else 'off'}"
    return ChardevConfig(id=name, backend=SerialConfig(kind=_CHARDEV_KINDS.get(kind, kind), target=path))


def parse_object(text: str) -> tuple[str, str]:
    """One ``-object KIND,id=ID,...`` as (id, kind): accepted, because what they ask for is done anyway. Raises ConfigError."""
    kind, _, rest = text.partition(",")
    kind = kind.removeprefix("qom-type=")
    if kind not in _OBJECT_KEYS:
        raise ConfigError(f"-object {text}: '{kind}' is not known; there are {', '.join(_OBJECT_KEYS)}")
    values = _values("object", text, rest, ("id", *_OBJECT_KEYS[kind]))
    if "filename" in values:
        choice("object", text, "filename", values["filename"], _RANDOM)
    return _id("object", text, values), kind


def _values(option: str, text: str, rest: str, known: tuple[str, ...]) -> dict[str, str]:
    values = dict(pairs(option, rest))
    for key in values:
        if key not in known:
            raise ConfigError(f"-{option} {text}: '{key}' is not known; there are: {', '.join(known)}")
    return values


def _id(option: str, text: str, values: dict[str, str]) -> str:
    if "id" not in values:
        raise ConfigError(f"-{option} {text}: no id is given: add id=NAME")
    return identifier(option, text, values.pop("id"))
