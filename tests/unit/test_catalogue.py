"""The catalogue of guests: its parser, and that ours is in order."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pyvmm import catalogue
from pyvmm.boot.detect import FORMATS
from pyvmm.errors import ConfigError
from pyvmm.layout import KIB, MIB

FULL = r"""
# a comment
[one]
file = one/one.bin
format = flat16
smp = 4
memory = 64K
append = a=b  c
devices = pc-testdev
devices = isa-debug-exit,iobase=0xf4,iosize=0x4
disk = 1M
nic = user,model=e1000
nic = none
timeout = 1.5
input = q\n\x04
expect_status = 43
expect_output = first = here
expect_output = second
teaches = something
kvm = paging32 smp

[two]
file = two.elf
format = elf
expect_status = crash
"""


def write(tmp_path, text: str) -> str:
    path = str(tmp_path / "catalogue.cfg")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def test_every_key(tmp_path) -> None:
    one = catalogue.load(write(tmp_path, FULL))["one"]
    assert one == catalogue.Guest(
        name="one",
        file=str(tmp_path / "one" / "one.bin"),
        format="flat16",
        smp=4,
        memory=64 * KIB,
        append="a=b  c",
        devices=("pc-testdev", "isa-debug-exit,iobase=0xf4,iosize=0x4"),
        disk=MIB,
        nic=("user,model=e1000", "none"),
        timeout=1.5,
        input=b"q\n\x04",
        expect_status=43,
        expect_output=("first = here", "second"),
        teaches="something",
        kvm=("paging32", "smp"),
    )


def test_defaults(tmp_path) -> None:
    two = catalogue.load(write(tmp_path, FULL))["two"]
    assert (two.smp, two.memory, two.timeout, two.expect_status, two.devices) == (1, 128 * MIB, 10.0, "crash", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nfile = x\nformat = y\ncolour = blue\n", ":4: unknown key 'colour'; there are: file, format"),
        ("[a]\nfile = x\nfile = y\n", ":3: file is given twice"),
        ("[a]\nfile = x\nformat = y\n[a]\n", r":4: section \[a\] is empty or there already"),
        ("[]\n", ":1: section"),
        ("file = x\n", ":1: 'file = x' is neither"),
        ("[a]\nnonsense\n", ":2: 'nonsense' is neither"),
        ("[a]\nsmp = many\n", ":2: invalid literal"),
        ("[a]\nmemory = 12Q\n", ":2: invalid literal"),
        ("[a]\nexpect_status = bad\n", ":2: invalid literal"),
        ("[a]\nfile = x\n", r": \[a\]: file and format must be given"),
    ],
)
def test_errors_name_the_place(tmp_path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="catalogue.cfg" + message):
        catalogue.load(write(tmp_path, text))


def test_missing_catalogue(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot read the catalogue .*: No such file"):
        catalogue.load(str(tmp_path / "none"))


def test_find() -> None:
    assert catalogue.find("hello").format == "flat16"
    with pytest.raises(ConfigError, match="no guest is called 'hallo', and no file; there are: hello, "):
        catalogue.find("hallo")
    every = catalogue.load()
    assert {name: catalogue.find(name) for name in every} == every


def test_find_says_where_a_mistake_is(tmp_path, monkeypatch) -> None:
    write(tmp_path, FULL + "[bad]\nsmp = many\n")
    monkeypatch.setattr(catalogue, "directory", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=f"catalogue.cfg:{FULL.count(chr(10)) + 2}: invalid literal"):
        catalogue.find("bad")


def test_installed_guests_come_first(tmp_path, monkeypatch) -> None:
    """A wheel carries the guests inside the package; only a checkout has them beside it."""
    package = tmp_path / "pyvmm"
    package.mkdir()
    monkeypatch.setattr(catalogue.pyvmm, "__file__", str(package / "__init__.py"))
    assert catalogue.directory() == str(tmp_path / "guests")
    (package / "guests").mkdir()
    (package / "guests" / "catalogue.cfg").touch()
    assert catalogue.directory() == str(package / "guests")


@pytest.mark.parametrize("guest", catalogue.load().values(), ids=lambda guest: guest.name)
def test_our_guests(guest: catalogue.Guest) -> None:
    """Each has its folder with source, image and README, says what it teaches, and starts small."""
    folder = os.path.dirname(guest.file)
    assert os.path.basename(folder) == guest.name
    assert os.path.getsize(guest.file) < 8 * KIB
    assert any(os.path.exists(os.path.join(folder, guest.name + end)) for end in (".S", ".c"))
    assert os.path.exists(os.path.join(folder, "README.md"))
    assert guest.teaches
    assert guest.format in FORMATS


def test_every_folder_is_in_the_catalogue() -> None:
    folders = {entry.name for entry in os.scandir(catalogue.directory()) if entry.is_dir()} - {"include"}
    assert folders == set(catalogue.load())


def test_imports_nothing_heavy() -> None:
    """``pyvmm run hello`` must start as fast as QEMU does."""
    heavy = ["re", "configparser", "tomllib", "dataclasses", "typing", "enum", "pathlib", "importlib.resources"]
    where = os.path.dirname(os.path.dirname(catalogue.__file__))
    code = (
        f"import sys; sys.path.insert(0, {where!r}); from pyvmm import catalogue; catalogue.find('hello');"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
