"""The guests that come with pyvmm, as their catalogue describes them (``guests/catalogue.cfg``).

The format is that of kvm-unit-tests' ``unittests.cfg``; it is read by hand, because ``configparser`` (it imports re)
would cost every start of the command line more than the whole file is worth.
"""

from __future__ import annotations

import os

import pyvmm
from pyvmm.errors import ConfigError
from pyvmm.layout import GIB, KIB, MIB
from pyvmm.record import FrozenRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "catalogue.cfg"


class Guest(FrozenRecord):
    """One section of the catalogue.

    Fields:
        name: the section's name.
        file: path of the image.
        format: as for ``--format``.
        smp: number of vCPUs.
        memory: bytes of RAM.
        append: the guest's command line.
        devices: extra ``-device`` strings.
        disk: bytes of an empty, temporary disk; 0: none.
        nic: ``-nic`` strings; none of them holds when the command line says anything of networks.
        timeout: seconds after which the guest is stopped.
        input: bytes a test types on the console.
        expect_status: the VMM's exit status, or "crash", or "timeout".
        expect_output: what the console must show, in this order.
        teaches: one line.
        kvm: what a KVM must be able to do to run it.
    """

    name: str
    file: str
    format: str
    smp: int = 1
    memory: int = 128 * MIB
    append: str = ""
    devices: tuple[str, ...] = ()
    disk: int = 0
    nic: tuple[str, ...] = ()
    timeout: float = 10.0
    input: bytes = b""
    expect_status: int | str = 0
    expect_output: tuple[str, ...] = ()
    teaches: str = ""
    kvm: tuple[str, ...] = ()


def directory() -> str:
    """The folder of the guests: package data of an installed pyvmm, or a checkout's ``guests/``."""
    package = os.path.dirname(os.path.abspath(pyvmm.__file__))
    installed = os.path.join(package, "guests")
    return installed if os.path.exists(os.path.join(installed, FILE)) else os.path.join(os.path.dirname(package), "guests")


def find(name: str) -> Guest:
    """The guest called ``name``; ConfigError names those there are. On the way of every start: reads that section only."""
    path = os.path.join(directory(), FILE)
    text = _read(path)
    begin = text.find(f"\n[{name}]\n") + 1
    section = text[begin : text.find("\n[", begin) + 1 or len(text)] if begin else ""
    try:
        return _parse(section, path)[name]
    except (ConfigError, KeyError):
        guests = _parse(text, path)  # says where the mistake is
    if name not in guests:
        raise ConfigError(f"no guest is called {name!r}, and no file; there are: {', '.join(guests)}")
    return guests[name]


def load(path: str = "") -> dict[str, Guest]:
    """Reads a catalogue (default: ours): {name: Guest}, in the order of the file."""
    path = path or os.path.join(directory(), FILE)
    return _parse(_read(path), path)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the catalogue of guests {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read the catalogue of guests {path}: it is not UTF-8 text") from None


def _parse(text: str, path: str) -> dict[str, Guest]:
    sections: dict[str, dict[str, Any]] = {}
    where = path
    try:
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{path}:{number}"
            line = line.strip()
            if line.startswith("[") and line.endswith("]"):
                name = line[1:-1]
                if not name or name in sections:
                    raise ValueError(f"section {line} is empty or there already")
                fields = sections[name] = {"name": name}
            elif line and not line.startswith("#"):
                key, equals, value = line.partition("=")
                if not equals or not sections:
                    raise ValueError(f"{line!r} is neither [name] nor, inside one, key = value")
                _set(fields, key.rstrip(), value.lstrip())
        for name, fields in sections.items():
            where = f"{path}: [{name}]"
            if "file" not in fields or "format" not in fields:
                raise ValueError("file and format must be given")
            fields["file"] = os.path.join(os.path.dirname(path), fields["file"])
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return {name: Guest(**fields) for name, fields in sections.items()}


def _set(fields: dict[str, Any], key: str, text: str) -> None:
    """Puts one ``key = text`` into a section; ValueError says what is wrong with it."""
    if key not in _KEYS:
        raise ValueError(f"unknown key {key!r}; there are: {', '.join(_KEYS)}")
    value = _KEYS[key](text)
    if key in _REPEATABLE:
        fields[key] = (*fields.get(key, ()), value)
    elif key in fields:
        raise ValueError(f"{key} is given twice")
    else:
        fields[key] = value


def _size(text: str) -> int:
    unit = {"K": KIB, "M": MIB, "G": GIB}.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def _typed(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def _status(text: str) -> int | str:
    return text if text in ("crash", "timeout") else int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_KEYS: dict[str, Any] = {  # how the text of each key is read
    "file": str,
    "format": str,
    "smp": int,
    "memory": _size,
    "append": str,
    "devices": str,
    "disk": _size,
    "nic": str,
    "timeout": float,
    "input": _typed,
    "expect_status": _status,
    "expect_output": str,
    "teaches": str,
    "kvm": _words,
}
_REPEATABLE = ("devices", "nic", "expect_output")
