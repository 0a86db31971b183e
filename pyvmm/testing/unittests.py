"""kvm-unit-tests' manifests (``x86/unittests.cfg``) as plain data. Format: that project's docs/unittests.md, scripts/common.bash."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from pyvmm.errors import ConfigError

_PARAMS = ("extra_params", "qemu_params")
_KEYS = (*_PARAMS, "kvmtool_params", "file", "smp", "test_args", "groups", "arch", "machine", "check", "accel", "timeout", "disabled_if")
_SECTION = re.compile(r"\[(.*)\]$")
_PAIR = re.compile(r"(\w+)\s*=\s*(.*)$")
_SHELL = re.compile(r"`[^`]*`|\$\(.*\)|\$\{?\w+\}?")
_SECONDS = re.compile(r"(\d+)\s*(s|m|)$")
# x86/run of kvm-unit-tests 1da1819e
_COMMON = (
    "-no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 "
    "-display none -serial stdio -device pci-testdev -machine accel=kvm"
)


@dataclass
class UnitTest:
    """One section.

    Attributes:
        image: path of the ``.flat`` file, which need not be there.
        smp: number of vCPUs, as written.
        options: further words for the shell to take apart: ``-append '...'``, and ``extra_params``.
        groups: words to select by.
        timeout: seconds.
        check: (path, content) pairs that must hold on the host.
    """

    name: str
    image: Path
    smp: str = "1"
    options: str = ""
    groups: tuple[str, ...] = ()
    arch: str = ""
    accel: str = ""
    timeout: float = 90.0
    check: list[tuple[str, str]] = field(default_factory=list)
    disabled_if: str = ""

    def arguments(self) -> list[str]:
        """Of ``pyvmm run``: what the project's own runner gives to QEMU. ConfigError: its shell would have to run something."""
        words = f"-smp {self.smp} {self.options}"
        if found := _SHELL.search(words):
            raise ConfigError(f"its options need a shell: {found.group()}")
        try:
            return [*_COMMON.split(), "-kernel", str(self.image), *shlex.split(words)]
        except ValueError as error:
            raise ConfigError(f"its options cannot be read: {error}: {words}") from None

    def why_not(self, chosen: bool) -> str:
        """Why the project's runner would not run it here; "" when it would.

        Args:
            chosen: it was asked for by its name.
        """
        if "nodefault" in self.groups and not chosen:
            return "marked as manual run only: name it"
        if self.arch not in ("", "x86_64"):
            return f"{self.arch} only"
        if self.accel not in ("", "kvm"):
            return f"{self.accel} only"
        if not self.image.exists():
            return f"{self.image} was not built"
        for path, value in self.check:
            if not Path(path).is_file() or Path(path).read_text(encoding="utf-8").strip() != value:
                return f"{path} not equal to {value}"
        if self.disabled_if:
            return f"whether it is disabled, a shell would have to say: {self.disabled_if}"
        for group, lack in (("migration", "there is no migration"), ("panic", "there is no GUEST_PANICKED event")):
            if group in self.groups:
                return lack
        return ""


def load(path: Path) -> list[UnitTest]:
    """The sections of a manifest, in order.

    Raises:
        ConfigError: it cannot be read; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    sections: list[tuple[str, dict[str, str]]] = []
    rest = enumerate(lines, 1)
    for number, line in rest:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if section := _SECTION.match(line):
            sections.append((section[1], {}))
            continue
        pair = _PAIR.match(line)
        if pair is None or pair[1] not in _KEYS or not sections:
            raise ConfigError(f"{path}:{number}: {line!r} is neither [name] nor, inside one, a known key = value")
        key, value = pair[1], pair[2]
        if value.startswith('"""'):
            value = value[3:]
            while '"""' not in value:
                try:
                    value += "\n" + next(rest)[1]
                except StopIteration:
                    raise ConfigError(f'{path}:{number}: the """ of {key} does not end') from None
            value = value.partition('"""')[0].replace("\\\n", "")
        sections[-1][1]["extra_params" if key in _PARAMS else key] = value
    return [_test(path, name, values) for name, values in sections]


def _test(path: Path, name: str, values: dict[str, str]) -> UnitTest:
    if not values.get("file"):
        raise ConfigError(f"{path}: [{name}] has no file")
    arguments = f"-append {values['test_args']}" if values.get("test_args") else ""
    seconds = _SECONDS.match(values.get("timeout", "90"))
    if seconds is None:
        raise ConfigError(f"{path}: [{name}]: timeout = {values['timeout']}: give seconds")
    return UnitTest(
        name=name,
        image=path.parent / values["file"],
        smp=values.get("smp", "1"),
        options=f"{arguments} {values.get('extra_params', '')}",
        groups=tuple(values.get("groups", "").split()),
        arch=values.get("arch", ""),
        accel=values.get("accel", ""),
        timeout=float(seconds[1]) * (60 if seconds[2] == "m" else 1),
        check=[(left, value) for left, _, value in (each.partition("=") for each in values.get("check", "").split())],
        disabled_if=values.get("disabled_if", ""),
    )
