"""What a command line makes of a Config: QEMU's spellings, defaults, the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import catalogue
from pyvmm.cli.options import DEVICES, Options, help_text, parse_device, parse_serial
from pyvmm.config import Config, DeviceConfig, SerialConfig
from pyvmm.errors import ConfigError
from pyvmm.layout import GIB, KIB, MIB


def config(line: str) -> Config:
    made = Options(line.split()).config
    assert made is not None
    return made


def test_defaults() -> None:
    made = config("-kernel image")
    assert made == Config(boot=made.boot)
    assert (made.memory, made.smp, made.serials, made.acpi, made.coalesce) == (128 * MIB, 1, (SerialConfig(kind="stdio"),), True, True)
    assert (made.boot.kernel, made.boot.fmt, made.boot.initrd, made.boot.cmdline) == ("image", "auto", "", "")
    assert (made.boot.address, made.boot.entry) == (None, None)
    options = Options(["-kernel", "image"])
    assert (options.timeout, options.paused, options.guest, options.debugcon) == (None, False, None, None)


def test_firmware_stands_for_the_image() -> None:
    made = config("-bios sea.bin -m 64")
    assert (made.boot.kernel, made.boot.fmt) == ("sea.bin", "bios")
    assert made == config("-kernel sea.bin -format bios -m 64")
    assert (made.boot.order, made.boot.menu) == ("", False)
    for text, order, menu in (("c", "c", False), ("order=nc,menu=on", "nc", True), ("menu=on -boot d", "d", True)):
        made = config(f"-bios sea.bin -boot {text}")
        assert (made.boot.order, made.boot.menu) == (order, menu)


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_one_dash_or_two_and_a_value_behind_an_equals_sign(dashes: str) -> None:
    spaced = Options([f"{dashes}kernel", "k", f"{dashes}append", "a=b c", f"{dashes}no-reboot"]).config
    joined = Options([f"{dashes}kernel=k", f"{dashes}append=a=b c", f"{dashes}no-reboot"]).config
    assert spaced is not None and spaced == joined
    assert (spaced.boot.kernel, spaced.boot.cmdline, spaced.no_reboot) == ("k", "a=b c", True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 * MIB), ("1M", MIB), ("2G", 2 * GIB), ("2g", 2 * GIB), ("4096K", 4 * MIB), ("1T", 1024 * GIB),
        ("size=1G", GIB), ("1G,slots=2,maxmem=4G", GIB), ("0", 0), ("3K", 3 * KIB),
    ],
)  # fmt: skip
def test_memory(text: str, size: int) -> None:
    assert config(f"-kernel k -m {text}").memory == size


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("255", 255), ("cpus=4", 4), ("2,maxcpus=8", 2), ("cpus=3,cores=3", 3)])
def test_smp(text: str, count: int) -> None:
    assert config(f"-kernel k -smp {text}").smp == count


def test_the_last_of_a_repeated_option_counts() -> None:
    assert config("-kernel a -kernel b -m 1M -m 2M -append x -append y").replace(smp=1).boot.kernel == "b"
    assert config("-kernel k -m 1M -m 2M").memory == 2 * MIB


def test_a_catalogue_guest_brings_its_machine() -> None:
    smp = catalogue.find("smp")
    options = Options(["smp"])
    assert options.config is not None and options.guest == smp
    made = options.config
    assert (made.boot.kernel, made.boot.fmt, made.smp, made.memory) == (smp.file, smp.format, 4, smp.memory)
    assert made.devices == (DeviceConfig(name="isa-debug-exit", options=(("iobase", "0xf4"), ("iosize", "0x4"))),)
    assert config("multiboot").boot.cmdline == "color=blue"


def test_options_override_the_catalogue_and_devices_add_to_it() -> None:
    made = config("smp -smp 2 -m 64M -append x -format elf -device pc-testdev")
    assert (made.smp, made.memory, made.boot.cmdline, made.boot.fmt) == (2, 64 * MIB, "x", "elf")
    assert [device.name for device in made.devices] == ["isa-debug-exit", "pc-testdev"]


def test_a_file_wins_over_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config("hello").boot.kernel == catalogue.find("hello").file
    (tmp_path / "hello").touch()
    assert (config("hello").boot.kernel, config("hello").boot.fmt) == ("hello", "auto")
    assert config("./hello").boot.kernel == "./hello"


def test_addresses() -> None:
    boot = config("-kernel k -address 0x10000 -entry 65552").boot
    assert (boot.address, boot.entry) == (0x10000, 0x10010)


def test_timeout_and_pause() -> None:
    options = Options(["-kernel", "k", "--timeout", "1.5", "-S"])
    assert (options.timeout, options.paused) == (1.5, True)


def test_machine_options() -> None:
    assert config("-kernel k -machine acpi=off").acpi is False
    assert dict(config("-kernel k -machine pc,accel=kvm,pit=off -M q35").machine) == {"accel": "kvm", "pit": "off"}
    assert config("-kernel k -machine type=microvm").machine == ()
    assert dict(config("-kernel k -machine kernel-irqchip=on,vmport=off -accel kvm,kernel_irqchip=on").machine) == {
        "kernel_irqchip": "on", "vmport": "off", "accel": "kvm",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-machine kernel_irqchip=split", "-machine kernel_irqchip=split: not supported; there is kernel_irqchip=on"),
        ("-M q35,kernel-irqchip=off", "-machine kernel-irqchip=off: not supported; there is kernel_irqchip=on"),
        ("-accel kvm,kernel-irqchip=split", "-machine kernel-irqchip=split: not supported"),
        ("-machine smm=off", "-machine smm=off: not known; there are acpi=on|off, pit=on|off"),
        ("-global kvm-pit.lost_tick_policy=slew", "-global kvm-pit.lost_tick_policy=slew: .* kvm-pit.lost_tick_policy=delay|discard"),
        ("-global ICH9-LPC.disable_s3=1", "-global ICH9-LPC.disable_s3=1: not known"),
    ],
)
def test_what_the_machine_cannot_is_refused_by_name(line: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("|", "[|]")):
        config(f"-kernel k {line}")


def test_the_policy_for_lost_timer_ticks() -> None:
    assert config("-kernel k").pit_reinject
    assert config("-kernel k -global kvm-pit.lost_tick_policy=delay").pit_reinject
    assert not config("-kernel k -global kvm-pit.lost_tick_policy=discard").pit_reinject


def test_everything_a_qemu_script_says_is_accepted() -> None:
    config(
        "-kernel k -nodefaults -no-reboot -no-user-config -display none -vga none -net none -nic none -vnc none -monitor none "
        "-parallel none -accel kvm -enable-kvm -nographic -name guest -global kvm-pit.lost_tick_policy=discard -cpu host,-x2apic"
    )


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("", ["stdio"]),
        ("-nodefaults", []),
        ("-nodefaults -nographic", ["stdio"]),
        ("-serial none", []),
        ("-serial null", ["null"]),
        ("-serial mon:stdio", ["stdio"]),
        ("-serial none -serial stdio", ["none", "stdio"]),
        ("-serial stdio -serial none", ["stdio"]),
        ("-nodefaults -serial stdio", ["stdio"]),
        ("-serial stdio -serial file:a -serial pty -serial unix:b", ["stdio", "file", "pty", "unix"]),
    ],
)
def test_serial_ports(line: str, kinds: list[str]) -> None:
    assert [serial.kind for serial in config(f"-kernel k {line}").serials] == kinds


def test_serial_targets_may_hold_colons_and_commas() -> None:
    assert parse_serial("serial", "file:/a:b,c") == SerialConfig(kind="file", target="/a:b,c")
    assert parse_serial("serial", "unix:/s,server=on") == SerialConfig(kind="unix", target="/s,server=on")


def test_debugcon() -> None:
    assert Options(["-kernel", "k", "-debugcon", "file:log"]).debugcon == SerialConfig(kind="file", target="log")


def test_every_device_named_in_the_help_can_be_asked_for() -> None:
    for name in DEVICES:
        assert parse_device(name) == DeviceConfig(name=name)
        assert name in help_text()


def test_flags() -> None:
    made = config("-kernel k -unclaimed -no-coalesce")
    assert (made.list_unclaimed, made.coalesce, made.no_reboot) == (True, False, False)


@pytest.mark.parametrize("word", ["-help", "--help", "-h"])
def test_help_wins_over_everything(word: str) -> None:
    assert Options(["no-such-guest", "-m", "nonsense", word]).config is None


def test_the_help_names_every_option() -> None:
    from pyvmm.cli import options

    text = help_text()
    for name in options.WITH_VALUE | options.FLAGS:
        assert f"-{name}" in text or name in ("h", "help"), name
