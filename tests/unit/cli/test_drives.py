"""-drive, -chardev, -object: QEMU's spellings, what they make of a Config, and mistakes."""

from __future__ import annotations

import random
import shlex

import pytest

from pyvmm import catalogue
from pyvmm.cli import drives as grammar
from pyvmm.cli.devices import DEVICES
from pyvmm.cli.options import Options
from pyvmm.config import ChardevConfig, Config, DeviceConfig, DriveConfig, SerialConfig, size
from pyvmm.errors import ConfigError
from pyvmm.layout import GIB, MIB


def config(line: str) -> Config:
    made = Options(["-kernel", "k", *shlex.split(line)]).config
    assert made is not None
    return made


def drive(text: str) -> DriveConfig:
    return grammar.parse_drive(text, [])


def blk(name: str, **options: str) -> DeviceConfig:
    return DeviceConfig(name="virtio-blk-pci", options=(("drive", name), *options.items()))


def test_a_drive_is_a_disk_on_virtio() -> None:
    made = config("-drive file=a.img,format=raw")
    assert made.drives == (DriveConfig(id="virtio0", file="a.img", interface="virtio"),)
    assert made.devices == (blk("virtio0"),)


def test_a_drive_for_a_device() -> None:
    made = config("-device virtio-blk-pci,drive=d,addr=5 -drive if=none,id=d,file=a.img,format=raw,serial=S")
    assert made.drives == (DriveConfig(id="d", file="a.img", serial="S"),)
    assert [device.options for device in made.devices] == [(("drive", "d"), ("addr", "5"))]
    assert config("-drive if=none,id=d,file=a").devices == (), "a drive nobody uses is no mistake"


def test_devices_of_drives_come_last_as_in_qemu() -> None:
    made = config("-drive file=a -device pc-testdev -drive file=b,serial=B -drive if=none,file=c")
    assert made.devices == (DeviceConfig(name="pc-testdev"), blk("virtio0"), blk("virtio1", serial="B"))
    assert [each.id for each in made.drives] == ["virtio0", "virtio1", "none0"]
    assert [each.id for each in config("-drive file=a,id=virtio1 -drive file=b").drives] == ["virtio1", "virtio2"]


def test_every_key() -> None:
    assert drive(
        "file=a,,b.img,format=raw,if=none,id=d,index=3,media=disk,read-only=on,auto-read-only=on,snapshot=yes,cache=none,aio=native,"
        "discard=unmap,detect-zeroes=off,werror=report,rerror=report,copy-on-read=off,file.locking=off,serial=123"
    ) == DriveConfig(
        id="d", file="a,b.img", readonly=True, auto_read_only=True, snapshot=True, cache="none", discard="unmap", locking=False,
        serial="123",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cache"),
    [
        ("", "writeback"), ("cache=none", "none"), ("cache=unsafe", "unsafe"), ("cache=directsync", "directsync"),
        ("cache.direct=on", "none"), ("cache.direct=on,cache.writeback=off", "directsync"), ("cache.writeback=off", "writethrough"),
        ("cache.no-flush=on", "unsafe"), ("cache=none,cache.direct=off", "writeback"), ("cache=unsafe,cache.no-flush=off", "writeback"),
    ],
)  # fmt: skip
def test_caches(text: str, cache: str) -> None:
    assert drive(f"file=a,{text}" if text else "file=a").cache == cache


@pytest.mark.parametrize(("text", "expected"), [("on", True), ("auto", True), ("off", False)])
def test_locking(text: str, expected: bool) -> None:
    assert drive(f"file=a,locking={text}").locking == expected


def test_files() -> None:
    assert drive("file=file:a.img").file == "a.img"
    assert drive("file.filename=a:b").file == "a:b"
    assert drive("file=./nbd:x").file == "./nbd:x"
    assert (drive("file=a").probed, drive("file=a,format=raw").probed, drive("file=a,driver=raw").probed) == (True, False, False)


def test_scratch_disks() -> None:
    assert drive("format=scratch,size=64M") == DriveConfig(
        id="virtio0", format="scratch", size=64 * MIB, interface="virtio", discard="unmap"
    )
    assert drive("format=scratch,size=512,discard=ignore").discard == "ignore"


def test_snapshot_for_all() -> None:
    made = config("-snapshot -drive file=a -drive file=b,snapshot=off,readonly=on -drive format=scratch,size=1M")
    assert [each.snapshot for each in made.drives] == [True, True, False]
    assert config("-snapshot").drives == ()


# --- mistakes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-drive nonsense", "-drive nonsense: write 'nonsense' as KEY=VALUE"),
        ("-drive=", "no image is named: add file=FILE"),
        ("-drive format=raw", "no image is named: add file=FILE, or format=scratch"),
        ("-drive file=", "no image is named"),
        ("-drive file=a,colour=blue", "'colour' is not known; there are: file, format, if, id"),
        ("-drive file=a,format=qcow2", "format=qcow2 is not supported: convert it"),
        ("-drive file=a,format=host_device", "write format=raw, for devices too"),
        ("-drive file=a,if=ide", "if=ide is not supported: write if=virtio, or if=none"),
        ("-drive file=a,if=", "if= is not supported"),
        ("-drive file=a,id=7", "'7' is no id"),
        ("-drive file=a,id=", "'' is no id"),
        ("-drive file=a,index=x", "index=x: give a number"),
        ("-drive file=a,media=cdrom", "media=cdrom is not supported: write media=disk"),
        ("-drive file=a,readonly=maybe", "write readonly=on or readonly=off"),
        ("-drive file=a,readonly", "write 'readonly' as KEY=VALUE"),
        ("-drive file=a,cache=fast", "cache=fast is not supported: write cache=writeback|none"),
        ("-drive file=a,cache.no-flush=on,cache.direct=on", "write cache=unsafe"),
        ("-drive file=a,discard=maybe", "discard=maybe is not supported"),
        ("-drive file=a,werror=stop", "werror=stop is not supported: write werror=report"),
        ("-drive file=a,size=1M", "size= goes with format=scratch"),
        ("-drive format=scratch", "add size=64M"),
        ("-drive format=scratch,size=0", "size=0: give a size"),
        ("-drive format=scratch,size=513", "a multiple of 512"),
        ("-drive format=scratch,size=-1", "size=-1: give a size"),
        ("-drive format=scratch,size=99999999999999T", "give a size"),
        ("-drive format=scratch,size=1M,file=a", "a scratch disk has no file"),
        ("-drive file=nbd:localhost:10809", "nbd: is not supported: name a file"),
        ("-drive file=https://x", "https: is not supported"),
        ("-drive file=a,serial=123456789012345678901", "longer than 20 bytes"),
        ("-drive file=a,id=x -drive file=b,id=x", "-drive: the id 'x' is given twice"),
        ("-device virtio-blk-pci", "no drive= is given: add drive=ID"),
        ("-device virtio-blk-pci,drive=x", "drive=x: there is no such drive: give one with -drive"),
        ("-device virtio-blk-device,drive=x -drive file=a,id=y", "there is no such drive: there is y"),
        ("-device virtio-blk-pci,drive=x -drive file=a,id=x", "has a device already: add if=none"),
        (
            "-device virtio-blk-pci,drive=x -device virtio-blk-device,drive=x -drive if=none,file=a,id=x",
            "another device uses that drive",
        ),
        ("-device pc-testdev,id=a -device isa-debug-exit,id=a -drive file=a", "-device: the id 'a' is given twice"),
        ("-device virtio-blk-pci,drive=x,iothread=io -drive if=none,file=a,id=x", "iothread=io: there is no such -object"),
        ("-device virtio-rng-pci,rng=r", "rng=r: there is no such -object"),
        ("-device virtio-rng-pci,rng=r -object iothread,id=r", "rng=r: there is no such -object"),
        ("-object rng-egd,id=r", "'rng-egd' is not known; there are rng-random"),
        ("-object rng-builtin", "no id is given"),
        ("-object rng-random,id=r,filename=/etc/passwd", "is not supported: write filename=/dev/urandom"),
        ("-object rng-builtin,id=r,filename=/dev/random", "'filename' is not known"),
        ("-object rng-builtin,id=r -object iothread,id=r", "-object: the id 'r' is given twice"),
        ("-chardev stdio", "no id is given: add id=NAME"),
        ("-chardev tty,id=c", "'tty' is not known; there are stdio, file"),
        ("-chardev=", "'' is not known"),
        ("-chardev file,id=c", "no path is given"),
        ("-chardev socket,id=c,host=localhost,port=1", "'host' is not known"),
        ("-chardev socket,id=c,path=a,,b", "a path with a comma"),
        ("-chardev stdio,id=c,mux=on", "mux=on is not supported"),
        ("-chardev socket,id=c,path=x,server=maybe", "write server=on or server=off"),
        ("-chardev null,id=c -chardev pty,id=c", "-chardev: the id 'c' is given twice"),
        ("-chardev stdio,id=c -serial stdio", "stdio given twice"),
        ("-chardev stdio,id=c -chardev stdio,id=d", "stdio given twice"),
        ("-serial chardev:x -chardev null,id=y", "-serial chardev:x: not known"),
        ("-chardev null,id=c -serial chardev:c -serial chardev:c", "-serial chardev:c: not known"),
        ("-device virtconsole,chardev=c -chardev null,id=c", "put -device virtio-serial-pci before it"),
        ("-device virtio-serial-pci -device virtconsole,chardev=c", "there is no such chardev: give one with -chardev"),
        ("-device virtio-serial-pci -device virtconsole", "there is no such chardev"),
        (
            "-chardev null,id=c -device virtio-serial-pci -device virtconsole,chardev=c -device virtconsole,chardev=c",
            "another device uses that chardev",
        ),
        ("-hda disk.img", "there are no IDE disks: write -drive file=disk.img,format=raw,if=virtio "),
        ("-hdb=a,b", "file=a,,b,format=raw"),
        ("-cdrom x.iso", "CD-ROM.*file=x.iso,format=raw,if=virtio,readonly=on"),
        ("-fda x", "no floppy disks"),
        ("-hda", "file=FILE"),
        ("-blockdev driver=file", "-blockdev: not supported: write -drive"),
    ],
)  # fmt: skip
def test_mistakes(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config(line)
    assert "\n" not in str(caught.value)


# --- chardevs, objects, the catalogue -----------------------------------------------------------------------------------
def test_chardevs() -> None:
    made = config(
        "-chardev file,id=log,path=a,,b -chardev socket,id=s,path=/p,server=on,wait=off -chardev pty,id=p -chardev null,id=n,mux=off"
    )
    assert made.chardevs == (
        ChardevConfig(id="log", backend=SerialConfig(kind="file", target="a,b")),
        ChardevConfig(id="s", backend=SerialConfig(kind="unix", target="/p,server=on,wait=off")),
        ChardevConfig(id="p", backend=SerialConfig(kind="pty")),
        ChardevConfig(id="n", backend=SerialConfig(kind="null")),
    )
    assert made.serials == (SerialConfig(kind="stdio"),)


def test_the_terminal_goes_to_who_asks_for_it() -> None:
    made = config("-chardev stdio,id=c,signal=off -device virtio-serial-pci -device virtconsole,chardev=c")
    assert (made.serials, [each.id for each in made.chardevs]) == ((SerialConfig(kind="null"),), ["c"])
    made = config("-chardev stdio,id=c -chardev null,id=d -serial chardev:d -serial chardev:c")
    assert (made.serials, made.chardevs) == ((SerialConfig(kind="null"), SerialConfig(kind="stdio")), ())


def test_objects_are_accepted() -> None:
    made = config(
        "-object rng-random,filename=/dev/urandom,id=r -object rng-builtin,id=b -object iothread,id=io -device virtio-rng-pci,rng=r"
        " -drive if=none,id=d,file=a -device virtio-blk-pci,drive=d,iothread=io"
    )
    assert [device.name for device in made.devices] == ["virtio-rng-pci", "virtio-blk-pci"]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> dict[str, catalogue.Guest]:
    made = {"g": catalogue.Guest(name="g", file="g.bin", format="flat16", disk=MIB)}
    monkeypatch.setattr(catalogue, "find", made.__getitem__)
    return made


def test_a_catalogue_guest_brings_its_disk(guest: dict[str, catalogue.Guest]) -> None:
    scratch = DriveConfig(id="disk0", format="scratch", size=MIB, interface="virtio", discard="unmap")
    made = Options(["g"]).config
    assert made is not None and (made.drives, made.devices) == ((scratch,), (blk("disk0"),))
    made = Options(["g", "-drive", "file=a"]).config
    assert made is not None and [each.file for each in made.drives] == ["a"], "the user's takes its place"
    guest["g"] = guest["g"].replace(devices=("virtio-blk-device,drive=disk0",))
    made = Options(["g", "-drive", "file=a"]).config
    assert made is not None and [each.id for each in made.drives] == ["virtio0", "disk0"]
    assert [device.name for device in made.devices] == ["virtio-blk-device", "virtio-blk-pci"]
    made = Options(["g", "-drive", "file=a,id=disk0,if=none"]).config
    assert made is not None and [each.file for each in made.drives] == ["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("512", 512), ("0x200", 512), ("4k", 4096), ("2G", 2 * GIB), ("1T", 1 << 40), ("", None), ("K", None), ("-1", None),
     ("1_0", None), ("1.5G", None), ("٣", None), ("0x", None), ("9" * 30, None), (" 1", None)],
)  # fmt: skip
def test_sizes(text: str, expected: int | None) -> None:
    assert size(text) == expected


def test_no_line_is_too_strange() -> None:
    """Options put together at random: a Config, or one line of ConfigError."""
    words = [
        "file", "format", "if", "id", "cache", "readonly", "size", "raw", "scratch", "virtio", "none", "on", "off", "unmap", "snapshot",
        "=", "=", "=", "=", ",", ",", ",", ",,", "d", "d", "0", "-1", "1M", "512", "drive", "chardev", "addr", "rng", "path", "stdio",
        "null", "socket", "server", "serial", "cache.direct", "index", "\0", "\udcff", "\n", "é", " ", ":", "nbd:",
        "rng-builtin", "iothread", "a",
        *DEVICES,
    ]  # fmt: skip
    good = [
        ("-drive", "file=a,format=raw,if=none,id=d"), ("-drive", "format=scratch,size=1M"), ("-device", "virtio-blk-pci,drive=d"),
        ("-device", "virtio-serial-pci"), ("-chardev", "stdio,id=d"), ("-device", "virtconsole,chardev=d"), ("-object", "rng-builtin,id=d"),
    ]  # fmt: skip
    chance = random.Random(3)
    fine = 0
    for _ in range(6000):
        line: list[str] = ["-kernel", "k"]
        for _ in range(chance.randrange(1, 5)):
            if chance.random() < 0.5:
                option, text = chance.choice(good)
                if chance.random() < 0.5:
                    at = chance.randrange(len(text))
                    text = text[:at] + chance.choice(words) + text[at + chance.randrange(3) :]
            else:
                option = chance.choice(("-drive", "-device", "-chardev", "-object", "-serial"))
                text = "".join(chance.choice(words) for _ in range(chance.randrange(8)))
            line += [option, text]
        try:
            made = Options(line).config
        except ConfigError as error:
            assert str(error)
            continue
        fine += 1
        assert made is not None
        names = [each.id for each in made.drives]
        assert len(set(names)) == len(names)
        assert all(device.get("drive") in names for device in made.devices if device.name.startswith("virtio-blk"))
    assert fine > 300
