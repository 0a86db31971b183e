"""The ``guest`` fixture's object: from a name or an image to a running guest, and what a failed test shows of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pyvmm import catalogue
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.snapshot.capture import Snapshot
from pyvmm.testing import need
from pyvmm.testing.vm import Vm, arguments

_PATHS = ("kernel", "initrd")  # options that name a file of the test's


def require_kvm(config: pytest.Config, needs: Sequence[str] = ()) -> None:
    """Skips, or with --require-kvm fails, where guests cannot run; skips where this KVM lacks one of ``needs`` (pyvmm.probes)."""
    reason = need.why_no_kvm()
    if reason and config.getoption("--require-kvm"):
        pytest.fail(f"--require-kvm: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"no KVM here: {reason}")
    for word in needs:
        try:
            able = need.have(word)
        except ConfigError as error:
            pytest.fail(f"needs: {error}", pytrace=False)
        if not able:
            pytest.skip(f"this KVM cannot do: {word}")


def default_timeout(config: pytest.Config) -> float:
    """Seconds that a guest may run when nobody says (``guest_timeout`` of the ini file)."""
    text = config.getini("guest_timeout")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise pytest.UsageError(f"guest_timeout = {text}: give a number of seconds above 0")
    return seconds


class Factory:
    """Called for each guest of a test; see ``__call__``.

    Attributes:
        vms: the guests so far.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.vms: list[Vm] = []
        self._node = request.node
        self._folder = request.path.parent
        self._config = request.config
        self._marks: dict[str, dict[str, Any]] = {}
        for mark in request.node.iter_markers("guest"):  # the closest first
            if len(mark.args) != 1:
                pytest.fail(f'{request.node.nodeid}: @pytest.mark.guest("NAME", file=...) takes one name, then keywords', pytrace=False)
            self._marks.setdefault(mark.args[0], mark.kwargs)

    def __call__(
        self,
        name: str | Path | None = None,
        *words: str,
        timeout: float | None = None,
        exits: bool = True,
        restore: Snapshot | None = None,
        needs: Sequence[str] = (),
        **options: Any,
    ) -> Vm:
        """Starts a guest; returns when it runs.

        Args:
            name: what a ``guest`` marker has declared, else a name of pyvmm's catalogue, else an image: a path, relative to the
                test's folder. None: the only one the markers declare, or what ``kernel=`` says.
            words: further arguments of ``pyvmm run`` as they are.
            timeout: seconds it may run in all.
            exits: False: do not look at exits; the guest is a little quicker.
            restore: go on from this snapshot of a guest with the same options.
            needs: skip the test where this KVM lacks one of these.
            options: those of ``pyvmm run``: ``smp=2``, ``no_reboot=True``, ``device=["a", "b"]``.

        Raises:
            PyvmmError: it cannot be started; one line says why.
        """
        __tracebackhide__ = True
        if name is None and len(self._marks) == 1 and "kernel" not in options:
            (name,) = self._marks
        declared = dict(self._marks.get(str(name), {}))
        declared.update(options)
        require_kvm(self._config, (*declared.pop("needs", ()), *needs))
        limit = declared.pop("timeout", None) if timeout is None else timeout
        if limit is None:
            limit = default_timeout(self._config)
        if not 0 < limit < 1e9:
            raise ConfigError(f"timeout={limit}: give a number of seconds above 0")
        image: str | Path | None = declared.pop("file", name)
        for option in _PATHS:
            if option in declared:
                declared[option] = self._path(declared[option])
        label = f"guest {name if name is not None else os.path.basename(str(declared.get('kernel', '')))}"
        if sum(vm.label.partition(" #")[0] == label for vm in self.vms):
            label += f" #{len(self.vms) + 1}"
        found = arguments((*self._image(image), *words), declared)
        try:
            vm = Vm(found, label, limit, watch=exits, restore=restore)
        except PyvmmError as error:  # says it in one line: no reason to show how pyvmm came to it
            raise error.with_traceback(None) from None
        self.vms.append(vm)
        return vm

    def _image(self, name: str | Path | None) -> tuple[str, ...]:
        if name is None:
            return ()
        if isinstance(name, str) and name in catalogue.load() and not (self._folder / name).exists():
            return (name,)
        return (self._path(name),)

    def _path(self, name: str | Path) -> str:
        return str(self._folder / name)

    def close(self) -> None:
        """Ends every guest."""
        errors: list[Exception] = []
        for vm in self.vms:
            ended = vm.ended() or "still running at the end of the test"
            total = f"; {vm.exits.count()} exits" if vm.exits.on else ""
            self._node.user_properties.append((vm.label, ended + total))  # for JUnit's <property>
            try:
                vm.close()
            except Exception as error:  # the others are to be closed as well
                errors.append(error)
        self.vms.clear()
        if errors:
            raise errors[0]


def show(report: Any, vms: list[Vm]) -> None:
    """Adds to a failed test's report what there is to see of its guests, which end here."""
    for vm in vms:
        try:
            sections = vm.report()
        except Exception as error:  # a report that fails must not hide the failure
            sections = [(f"{vm.label}: no report", f"{type(error).__name__}: {error}")]
        for title, text in sections:
            if hasattr(report.longrepr, "addsection"):  # goes into JUnit's <failure> as well
                report.longrepr.addsection(title, text, "-")
            else:
                report.longrepr = f"{report.longrepr}\n\n--- {title} ---\n{text}"
