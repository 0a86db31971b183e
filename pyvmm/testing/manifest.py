"""Manifests as test items: kvm-unit-tests' ``unittests.cfg``, and catalogues as ours (``guests/catalogue.cfg``)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyvmm import catalogue, status
from pyvmm.catalogue import Guest
from pyvmm.errors import ConfigError
from pyvmm.testing import VMS, unittests
from pyvmm.testing.factory import default_timeout, require_kvm
from pyvmm.testing.unittests import UnitTest
from pyvmm.testing.vm import Vm

_KEY = re.compile(r"^\s*(file|format)\s*=\s*\S", re.MULTILINE)
_WORDS: dict[int | str, int] = {"crash": status.CRASH, "timeout": status.TIMEOUT}
PASSED, SKIPPED = 1, 77  # what kvm-unit-tests' images leave by isa-debug-exit: 0 and 38, as (v << 1) | 1


class GuestFailed(Exception):
    """A guest of a manifest did not end as it should; the message says how it ended."""


def is_manifest(path: Path) -> bool:
    """Whether a .cfg file is a manifest of guests, by its keys."""
    return "file" in _keys(path)


def _keys(path: Path) -> set[str]:
    try:
        return set(_KEY.findall(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return set()


class Manifest(pytest.File):
    """One manifest."""

    def collect(self) -> Iterable[pytest.Item]:
        """An item per section; with ``format`` keys it is a catalogue as ours."""
        try:
            if "format" in _keys(self.path):
                for guest in catalogue.load(str(self.path)).values():
                    yield CatalogueItem.from_parent(self, name=guest.name, guest=guest)
            else:
                for test in unittests.load(self.path):
                    yield UnitTestItem.from_parent(self, name=test.name, test=test)
        except ConfigError as error:
            raise self.CollectError(str(error)) from None


class GuestItem(pytest.Item):
    """A guest that runs to its end and is judged by it."""

    def start(self, arguments: list[str], timeout: float) -> Vm:
        """Boots the guest; it is closed in teardown, so that a failure can show it."""
        vm = Vm(arguments, f"guest {self.name}", timeout, coalesce=True)
        self.stash[VMS] = [vm]
        return vm

    def teardown(self) -> None:
        """Gives back what the guest held."""
        for vm in self.stash.get(VMS, []):
            vm.close()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One line for what is the guest's doing."""
        if isinstance(excinfo.value, GuestFailed | ConfigError | AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What a failure's heading says."""
        return self.path, None, f"{self.path.name}: {self.name}"


class UnitTestItem(GuestItem):
    """One test of kvm-unit-tests, judged as its own runner does."""

    def __init__(self, *, test: UnitTest, **rest: Any) -> None:
        super().__init__(**rest)
        self.test = test
        self.extra_keyword_matches.update(test.groups)  # for -k

    def runtest(self) -> None:
        """Skips what the project's runner would skip, and what pyvmm refuses; the reason says which."""
        test = self.test
        chosen = any(argument.endswith(f"::{self.name}") for argument in self.config.args)
        if reason := test.why_not(chosen):
            pytest.skip(reason)
        require_kvm(self.config)
        try:
            vm = self.start(test.arguments(), test.timeout)
        except ConfigError as error:
            pytest.skip(f"pyvmm: {error}")
        ended = vm.wait()
        if ended == SKIPPED:
            skips = [line for line in vm.serial.text.splitlines() if "SKIP" in line or "skip" in line]
            pytest.skip(skips[-1] if skips else "the guest says so")
        if ended != PASSED:
            failures = [line for line in vm.serial.text.splitlines() if line.startswith("FAIL")]
            raise GuestFailed("\n".join([vm.ended(), *failures]))


class CatalogueItem(GuestItem):
    """One guest of a catalogue: its status and what it prints."""

    def __init__(self, *, guest: Guest, **rest: Any) -> None:
        super().__init__(**rest)
        self.guest = guest

    def runtest(self) -> None:
        """Boots it, types, waits for its end, compares."""
        guest = self.guest
        require_kvm(self.config, guest.kvm)
        hangs = guest.expect_status == "timeout"
        limit = guest.timeout if hangs else max(guest.timeout, default_timeout(self.config))
        vm = self.start(_arguments(guest), limit)
        if guest.input:
            vm.serial.send(guest.input)
        try:
            found: int | None = vm.wait()
        except AssertionError:
            found = vm.exit_status
        if found != _WORDS.get(guest.expect_status, guest.expect_status):
            raise GuestFailed(f"{vm.ended()}; the catalogue says {guest.expect_status}")
        shown, at = vm.serial.text, 0
        for text in guest.expect_output:
            at = shown.find(text, at)
            if at < 0:
                raise GuestFailed(f"{text!r} is missing from the output, or out of order")
            at += len(text)


def _arguments(guest: Guest) -> list[str]:
    """What of ``pyvmm run`` says the same as a section."""
    found = [guest.file, "-format", guest.format, "-smp", str(guest.smp), "-m", f"{guest.memory >> 10}K"]
    if guest.append:
        found += ["-append", guest.append]
    for device in guest.devices:
        found += ["-device", device]
    for nic in guest.nic:
        found += ["-nic", nic]
    if guest.disk:
        interface = "none" if any("drive=disk0" in device for device in guest.devices) else "virtio"
        found += ["-drive", f"format=scratch,size={guest.disk},id=disk0,if={interface},discard=unmap"]
    return found
