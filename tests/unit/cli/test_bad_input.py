"""Bad input, one row each: one line on stderr that names the problem and the fix, status 2, nothing on stdout.

Every row fails before a guest would run, and before /dev/kvm is opened unless the row is about /dev/kvm.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import catalogue, cli
from pyvmm.cli.run import _STOP_SIGNALS
from tests.support import images

HELLO = catalogue.find("hello").file
MULTIBOOT = catalogue.find("multiboot").file

# what is typed after `pyvmm run`, and words the line must hold. @NAME is a file that ``files`` makes.
ROWS: list[tuple[str, list[str]]] = [
    # --- image ---
    ("@missing", ["@missing", "No such file"]),
    ("@empty", ["@empty", "empty"]),
    ("@folder", ["@folder", "directory"]),
    ("@fifo", ["@fifo", "not a regular file"]),
    ("/dev/null", ["/dev/null", "not a regular file"]),
    ("@short.elf", ["@short.elf"]),
    ("@short-linux", ["@short-linux"]),
    ("@short-multiboot", ["@short-multiboot"]),
    ("@text", ["@text", "not recognised", "--format"]),
    ("@text/below", ["@text/below", "Not a directory"]),
    ("@gzip", ["@gzip", "unpack"]),
    ("no-such-guest", ["no-such-guest", "hello"]),
    ("@big -format flat32 -m 1M", ["@big", "raise -m"]),
    ("@big -format flat64 -m 1M", ["@big", "raise -m"]),
    ("@big -format flat16", ["@big", "1 MiB"]),
    ("hello -kernel @text", ["hello", "@text", "not both"]),
    ("hello multiboot", ["hello multiboot", "more than one guest"]),
    ("", ["nothing to boot", "-kernel"]),
    ("-nographic", ["nothing to boot"]),
    ("hello -format nonsense", ["nonsense", "flat16", "multiboot"]),
    ("hello -address 0x7c0000", ["0x7c0000"]),
    ("hello -address x", ["-address x", "0x100000"]),
    ("hello -address -1", ["-address -1"]),
    ("hello -address 0x10000000000000000", ["-address", "0x100000"]),
    ("hello -entry 0x99999999", ["entry 0x99999999"]),
    ("hello -entry one", ["-entry one", "0x100000"]),
    ("multiboot -address 0x100000", ["flat", "multiboot", "remove"]),
    # --- firmware ---
    ("-bios @missing", ["@missing", "No such file"]),
    ("@firmware", ["@firmware", "-bios"]),
    ("-bios @empty", ["@empty", "empty"]),
    ("-bios @folder", ["@folder", "directory"]),
    ("-bios @text", ["@text", "multiple of 64 KiB", "seabios"]),
    ("-bios @huge", ["@huge", "at most 256 KiB"]),
    ("-bios=", ["-bios", "/usr/share/seabios"]),
    ("-bios", ["-bios", "value must follow"]),
    ("hello -bios @text", ["-bios and hello", "one of the two"]),
    ("-kernel @text -bios @text", ["-bios and -kernel", "-drive"]),
    ("-bios @text -format flat16", ["-bios and -format"]),
    ("-bios @text -boot x", ["-boot x", "order=", "menu="]),
    ("-bios @text -boot menu=maybe", ["menu=maybe"]),
    ("-bios @text -boot=", ["-boot", "order="]),
    ("hello -boot c", ["-boot c", "-bios"]),
    ("-bios @text -append quiet", ["-append", "firmware"]),
    # --- initrd and command line ---
    ("@linux -initrd @missing", ["initrd", "@missing", "No such file"]),
    ("@linux -initrd @folder", ["initrd", "@folder", "directory"]),
    ("@linux -initrd @empty", ["initrd", "@empty", "empty"]),
    ("@linux -m 64M -initrd @huge", ["@huge", "does not fit", "raise -m"]),
    ("multiboot -m 4M -initrd @big", ["@big", "-m"]),
    ("hello -initrd @text", ["flat16", "initrd", "remove"]),
    ("@linux -append @long", ["command line", "shorten -append"]),
    ("hello -append @long", ["command line", "shorten -append"]),
    ("multiboot -append @long", ["command line", "shorten -append"]),
    # --- machine ---
    ("hello -smp 0", ["-smp 0", "from 1 to 255"]),
    ("hello -smp 256", ["-smp 256", "from 1 to 255"]),
    ("hello -smp x", ["-smp x", "from 1 to 255"]),
    ("hello -smp -1", ["-smp -1"]),
    ("hello -smp 1000000000000000000000", ["from 1 to 255"]),
    ("hello -smp sockets=2", ["-smp sockets=2"]),
    ("hello -m 1T", ["1048576 MiB", "2048 MiB", "lower -m"]),
    ("hello -m 999999999999T", ["lower -m"]),
    ("hello -m 0", ["0 bytes", "-m"]),
    ("hello -m 1K", ["1024 bytes", "-m"]),
    ("hello -m 1025K", ["multiples of 4 KiB"]),
    ("hello -m -5", ["-m -5", "256M"]),
    ("hello -m 12Q", ["-m 12Q", "256M"]),
    ("hello -m 1.5G", ["-m 1.5G"]),
    ("hello -m M", ["-m M"]),
    ("hello -m 99999999999999999999", ["-m 9"]),
    ("hello -m=", ["-m", "256M"]),
    ("hello -machine nonsense", ["-machine nonsense", "microvm"]),
    ("hello -machine usb=on", ["-machine usb=on", "acpi=on|off"]),
    ("hello -machine acpi=maybe", ["acpi=maybe", "acpi=on|off"]),
    ("hello -M acpi=", ["acpi=", "acpi=on|off"]),
    ("hello -accel tcg", ["-accel tcg", "kvm"]),
    ("hello -display gtk", ["-display gtk", "none"]),
    ("hello -net user", ["-net user", "none"]),
    # --- options ---
    ("hello -nonsense", ["-nonsense", "-help"]),
    ("hello -kernal @text", ["unknown option -kernal (did you mean -kernel?)"]),
    ("hello --json-log -", ["--json-log -", "/dev/fd/3"]),
    ("hello --json-log @folder", ["--json-log @folder", "directory"]),
    ("hello -pidfile x", ["-pidfile: not supported", "--json-log"]),
    ("hello -no-acpi", ["-machine acpi=off"]),
    ("hello --nonsense=1", ["--nonsense=1", "-help"]),
    ("hello --", ["unknown option --"]),
    ("hello -S=1", ["-S=1"]),
    ("hello -m", ["-m", "value must follow"]),
    ("hello -append", ["-append", "value must follow"]),
    ("-kernel", ["-kernel", "value must follow"]),
    ("hello --timeout", ["--timeout", "value must follow"]),
    ("hello --timeout 0", ["--timeout 0", "above 0"]),
    ("hello --timeout -1", ["--timeout -1", "above 0"]),
    ("hello --timeout nan", ["--timeout nan", "above 0"]),
    ("hello --timeout inf", ["--timeout inf", "above 0"]),
    ("hello --timeout 1e400", ["--timeout 1e400", "above 0"]),
    ("hello --timeout soon", ["--timeout soon", "above 0"]),
    ("hello --timeout=", ["--timeout", "above 0"]),
    # --- devices ---
    ("hello -device nonsense", ["nonsense", "isa-debug-exit", "pc-testdev"]),
    ("hello -device=", ["-device", "isa-debug-exit"]),
    ("hello -device isa-debug-exit,iobase", ["iobase", "KEY=VALUE"]),
    ("hello -device isa-debug-exit,", ["KEY=VALUE"]),
    # --- disks (the grammar: test_drives.py; images: backends/block/test_backend.py) ---
    ("hello -drive file=@missing,format=raw", ["-drive file=@missing", "No such file", "truncate"]),
    ("hello -drive file=@empty", ["@empty", "empty", "truncate"]),
    ("hello -drive file=@folder,readonly=on", ["@folder", "directory"]),
    ("hello -drive file=@fifo", ["@fifo", "block device"]),
    ("hello -drive file=/dev/null", ["/dev/null", "block device"]),
    ("hello -drive file=@odd", ["@odd", "1000 bytes", "512", "1024"]),
    ("hello -drive file=@qcow2", ["@qcow2", "qcow2 image", "format=raw"]),
    ("hello -drive file=@qcow2,format=qcow2", ["@qcow2", "format=qcow2", "convert"]),
    ("hello -drive file=@big -drive file=@big,snapshot=on", ["@big", "locked"]),
    ("hello -chardev file,id=c,path=@folder", ["-chardev", "@folder", "directory"]),
    ("hello -hda @big", ["IDE", "-drive file=@big,format=raw,if=virtio"]),
    # --- consoles ---
    ("hello -serial nonsense", ["-serial nonsense", "stdio", "unix:PATH"]),
    ("hello -serial file", ["-serial file", "file:PATH"]),
    ("hello -serial file:", ["-serial file:", "file:PATH"]),
    ("hello -serial pty:x", ["-serial pty:x"]),
    ("hello -serial stdio -serial stdio", ["stdio given twice"]),
    ("hello -serial stdio -serial mon:stdio", ["stdio given twice"]),
    ("hello" + " -serial null" * 5, ["5 times", "4 serial ports"]),
    ("hello -serial file:@missing/log", ["-serial", "@missing/log", "No such file", "can be written"]),
    ("hello -serial file:@folder", ["@folder", "directory", "can be written"]),
    ("hello -serial file:@fifo", ["@fifo", "no program reads"]),
    ("hello -serial unix:@missing", ["-serial", "@missing", "No such file", "server"]),
    ("hello -serial unix:@text", ["@text", "Connection refused"]),
    ("hello -serial unix:@text,server=on,wait=off", ["@text", "in use"]),
    ("hello -serial unix:@taken,server=on,wait=off", ["@taken", "in use"]),
    ("hello -serial unix:@missing,server=maybe", ["server=maybe", "server=on|off"]),
    ("hello -serial unix:@missing,speed=9600", ["speed=9600", "server=on|off"]),
    ("hello -serial unix:,server=on", ["path is missing"]),
    (f"hello -serial unix:/{'x' * 200}", ["too long"]),
    (f"hello -serial unix:/tmp/{'x' * 200},server=on,wait=off", ["too long"]),
    ("hello -debugcon nonsense", ["-debugcon nonsense", "file:PATH"]),
    ("hello -debugcon pty", ["-debugcon pty", "file:PATH"]),
    ("hello -debugcon file:@folder", ["-debugcon", "@folder", "directory"]),
]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Name -> path of what the rows talk about."""
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("hello\n" * 200)
    (tmp_path / "odd").write_bytes(bytes(1000))
    (tmp_path / "qcow2").write_bytes(b"QFI\xfb" + bytes(1020))
    (tmp_path / "firmware").write_bytes(bytes((64 << 10) - 16) + b"\xea".ljust(16, b"\0"))
    (tmp_path / "gzip").write_bytes(b"\x1f\x8b\x08" + bytes(1000))
    for name, size in (("big", 3 << 20), ("huge", 100 << 20)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    kernel = images.bzimage()
    (tmp_path / "linux").write_bytes(kernel)
    (tmp_path / "short-linux").write_bytes(kernel[:0x230])
    elf = Path(MULTIBOOT).read_bytes()
    (tmp_path / "short.elf").write_bytes(b"\x7fELF" + elf[4:40])
    (tmp_path / "short-multiboot").write_bytes(elf[: len(elf) // 4])
    taken = socket.socket(socket.AF_UNIX)
    taken.bind(str(tmp_path / "taken"))
    taken.listen(8)
    names = [*os.listdir(tmp_path), "missing"]
    made = {f"@{name}": str(tmp_path / name) for name in sorted(names, key=len, reverse=True)}  # @short.elf before @short
    made["@long"] = "x" * 70_000
    yield made
    taken.close()


@pytest.fixture(autouse=True)
def keep_handlers() -> Iterator[None]:
    """``pyvmm run`` takes the signals over; pytest wants its Ctrl-C back."""
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command line that must be refused; returns its one line."""
    capfd.readouterr()
    status = cli.main([*arguments])
    out, err = capfd.readouterr()
    assert (status, out) == (2, ""), err
    assert err.startswith("pyvmm: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert err.rstrip("\n").isprintable(), err
    assert "internal error" not in err and "Traceback" not in err and "None" not in err
    return err


def fill(text: str, files: dict[str, str]) -> str:
    for name, path in files.items():
        text = text.replace(name, path)
    return text


@pytest.mark.parametrize(("typed", "words"), ROWS, ids=[typed[:60] or "nothing" for typed, _ in ROWS])
def test_run_refuses(
    typed: str, words: list[str], files: dict[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.memory.host_memory", lambda: 2 << 30)
    monkeypatch.setattr("pyvmm.kvm.system.DEVICE", "/nonexistent/kvm")  # no row may get that far
    said = refused(capfd, "run", *(fill(word, files) for word in typed.split()))
    for word in words:
        assert fill(word, files) in said
    assert "/nonexistent/kvm" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["nonsense", "run", "inspect", "check", "guests"]),
        ([""], ["no command ''"]),
        (["-x"], ["-x"]),
        (["guests", "more"], ["no arguments", "more"]),
        (["inspect"], ["usage: pyvmm inspect"]),
        (["inspect", "a", "b"], ["usage: pyvmm inspect"]),
        (["inspect", "/nonexistent"], ["/nonexistent", "No such file"]),
        (["inspect", "nonsense"], ["nonsense", "hello"]),
        (["inspect", "-format", "nonsense", HELLO], ["nonsense", "flat16"]),
        (["check", "--nonsense"], ["unknown option --nonsense", "pyvmm check -help"]),
        (["check", "--jsn"], ["did you mean --json?"]),
        (["rnu", "hello"], ["no command 'rnu' (did you mean run?)"]),
        (["guests", "-x"], ["unknown option -x", "pyvmm guests -help"]),
        (["list", "-x"], ["unknown option -x", "pyvmm list -help"]),
        (["help", "nonsense"], ["no command 'nonsense'"]),
        (["inspect", "hello", "-format", "nonsense"], ["nonsense", "flat16"]),
        (["replay", "a", "-foo"], ["unknown option -foo", "pyvmm replay -help"]),
        (["report", "a", "b"], ["name one recording, not a b"]),
        (["report", "a", "--top", "-1"], ["from 0 to 1000000"]),
        (["report", "a", "--from", "5", "--to", "1"], ["--from 5 --to 1", "smaller"]),
        (["check", "json"], ["usage: pyvmm check"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_other_commands_refuse(arguments: list[str], words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(capfd, *arguments)
    for word in words:
        assert word in said


# Line feed, escape sequence, NUL, undecodable bytes (as sys.argv has them), a lone surrogate no file system can hold.
@pytest.mark.parametrize("nasty", ["a\nb", "\x1b[2J", "a\0b", "\udcff\udcfe", "\ud800"], ids=ascii)
@pytest.mark.parametrize(
    "template",
    [
        "{}", "run {}", "run ./{}", "run -{}", "run hello -m {}", "run hello -smp {}", "run hello -format {}", "run hello -device {}",
        "run hello -machine {}", "run hello -serial {}", "run hello -serial file:/nonexistent/{}", "run hello -serial unix:/nonexistent/{}",
        "run hello -serial unix:/nonexistent/{},server=on", "run hello --timeout {}", "run hello -address {}", "run @linux -initrd {}",
        "run hello -debugcon {}", "run hello -drive file={}", "run hello -drive id={}", "run hello -drive {}=1", "run hello -hda {}",
        "run hello -chardev {}", "run hello -chardev file,id=c,path=/nonexistent/{}", "run hello -object {}", "run hello more{}",
        "inspect {}", "inspect ./{}", "guests {}", "check {}",
    ],
)  # fmt: skip
def test_nasty_text_cannot_break_the_line(template: str, nasty: str, files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    refused(capfd, *(word.replace("{}", nasty) for word in fill(template, files).split(" ")))


def test_nul_in_the_guests_command_line(files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    assert "NUL" in refused(capfd, "run", files["@linux"], "-append", "a\0b")


# --- /dev/kvm -----------------------------------------------------------------------------------------------------------
def test_no_kvm_device(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.kvm.system.DEVICE", "/nonexistent/kvm")
    assert "modprobe" in refused(capfd, "run", "hello")


def test_a_device_that_is_not_kvm(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.kvm.system.DEVICE", "/dev/null")
    assert "/dev/null is not KVM" in refused(capfd, "run", "hello")


@pytest.mark.parametrize(
    ("number", "hint"), [(13, "usermod -aG kvm"), (1, "container"), (6, "modprobe"), (19, "firmware"), (16, "VirtualBox")]
)
def test_kvm_device_that_cannot_be_opened(
    number: int, hint: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: str, *rest: int) -> int:
        if path == "/dev/kvm":
            raise OSError(number, os.strerror(number), path)
        return real(path, *rest)

    monkeypatch.setattr("pyvmm.kvm.system.os.open", refusing)
    said = refused(capfd, "run", "hello")
    assert said.startswith("pyvmm: /dev/kvm: ") and hint in said
