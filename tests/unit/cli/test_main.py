"""``pyvmm.cli.main``: every way a command can fail becomes one line and a status; and the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm import __version__, cli, events, status
from pyvmm.errors import ConfigError, HostError, ImageError, KvmError, PyvmmError, UnhandledExit
from pyvmm.events import StopReason


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def raising(_: list[str]) -> int:
        raise error

    monkeypatch.setattr("pyvmm.cli.guests.command", raising)
    return cli.main(["guests"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (ImageError("x"), 2),
        (HostError("x"), 2),
        (MemoryError(), 2),
        (KvmError("KVM_RUN", 14), 102),
        (UnhandledExit("x"), 104),
        (PyvmmError("x"), 104),
        (ZeroDivisionError("two\nlines"), 104),
        (OSError(5, "x"), 104),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_a_status(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYVMM_DEBUG", raising=False)
    assert failing(monkeypatch, error) == code
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("pyvmm: ") and err.count("\n") == 1
    assert "Traceback" not in err


def test_the_traceback_of_a_bug_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYVMM_DEBUG", "1")
    assert failing(monkeypatch, ZeroDivisionError("oh")) == status.VMM
    err = capfd.readouterr().err
    assert err.startswith("Traceback") and "in raising" in err and err.splitlines()[-1].startswith("pyvmm: internal error in test_main.py")


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert failing(monkeypatch, KeyboardInterrupt()) == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("word", ["version", "-version", "--version", "-V"])
def test_version(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    assert capfd.readouterr().out == f"pyvmm {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["help"], ["-h"], ["--help"], ["-help"]])
def test_help(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert out == cli.USAGE and err == ""


COMMANDS = [line.split()[0] for line in cli.USAGE.splitlines()[2:-3] if line[2:3].strip()]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in ("bench", "version,")])
def test_every_command_has_a_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    shown = []
    for arguments in ([command, "-help"], [command, "--help"], [command, "-h"], ["help", command]):
        assert cli.main(arguments) == 0
        out, err = capfd.readouterr()
        assert out.startswith(f"usage: pyvmm {command}") and out.endswith("\n") and err == ""
        shown.append(out)
    assert len(set(shown)) == 1


def test_run_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-help"]) == 0
    assert "--timeout SECONDS" in capfd.readouterr().out


def test_guests_lists_the_catalogue(capfd: pytest.CaptureFixture[str]) -> None:
    from pyvmm import catalogue

    assert cli.main(["guests"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(catalogue.load())


@pytest.mark.parametrize("arguments", [["inspect", "multiboot"], ["inspect", "--format", "flat32", "multiboot"]])
def test_inspect_takes_a_name_from_the_catalogue(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert "multiboot.elf" in out and err == ""


def test_inspect_of_an_undecodable_file_name(tmp_path: Path) -> None:
    from tests.support.images import boot_sector

    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(path, "wb") as file:
        file.write(boot_sector())
    done = pyvmm(b"inspect", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"flat16" in done.stdout


# --- the process --------------------------------------------------------------------------------------------------------
def pyvmm(*arguments: str | bytes, shell: str = "", **options: object) -> subprocess.CompletedProcess[bytes]:
    command: list[str | bytes] = [sys.executable, "-m", "pyvmm", *arguments]
    if shell:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    return subprocess.run(command, capture_output=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_the_process_ends_with_the_status_and_one_line() -> None:
    done = pyvmm("run", "hello", "-m", "12Q")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"pyvmm: -m 12Q") and done.stderr.count(b"\n") == 1


def test_arguments_that_are_no_utf8() -> None:
    done = pyvmm(b"run", b"\xff\xfe/kernel")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"pyvmm: ") and done.stderr.isascii() and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1"])
def test_no_locale_breaks_a_message(locale: str) -> None:
    done = pyvmm("run", "./\u00fc\U0001f600", env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"pyvmm: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(closed: str) -> None:
    assert pyvmm("guests", shell=closed).returncode == 0
    assert pyvmm("nonsense", shell=closed).returncode == 2


def test_a_full_disk_under_stdout_is_said() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    done = pyvmm("guests", shell="> /dev/full")
    assert done.returncode == 2
    assert done.stderr.lower().startswith(b"pyvmm: cannot write to stdout: no space left on device;") and done.stderr.count(b"\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "pyvmm", "guests"], stdout=write, stderr=subprocess.PIPE, timeout=120)
    finally:
        os.close(write)
    assert done.stderr == b""


# --- statuses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        (events.POWEROFF, 0, 0),
        (events.RESET, 0, 0),
        (events.WAKE, 0, 0),
        (events.HALTED, 0, 0),
        (events.QUIT, 0, 0),
        (events.QUIT, 15, 143),
        (events.DEBUG_EXIT, 0, 1),
        (events.DEBUG_EXIT, 1, 3),
        (events.DEBUG_EXIT, 0x7F, 255),
        (events.DEBUG_EXIT, 0xFFFF_FFFF, 255),
        (events.CRASH, 0, 100),
        (events.KVM_ERROR, 0, 102),
        (events.VMM_ERROR, 0, 104),
        (events.TIMEOUT, 0, 124),
    ],
)
def test_statuses(kind: str, value: int, code: int) -> None:
    assert status.of(StopReason(kind=kind, value=value)) == code


def test_every_kind_of_end_has_a_status() -> None:
    kinds = [value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)]
    assert len(kinds) == 10
    for kind in kinds:
        assert 0 <= status.of(StopReason(kind=kind)) <= 255


def test_pyvmms_own_statuses_cannot_be_a_guests() -> None:
    own = {status.USAGE, status.CRASH, status.KVM, status.VMM, status.TIMEOUT}
    assert len(own) == 5 and all(code % 2 == 0 and code for code in own)


def test_cpu_help_lists_models_and_features(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "hello", "-cpu", "help"]) == 0
    shown = capfd.readouterr().out
    assert "qemu64" in shown and "x2apic" in shown


def test_inspect_of_what_cannot_boot_has_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\x7fELF" + bytes(60))
    assert cli.main(["inspect", str(image)]) == 2
    assert "cannot boot" in capfd.readouterr().out
