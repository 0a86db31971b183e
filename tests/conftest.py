"""Skips and failures that tell the truth about KVM.

A test marked ``kvm`` runs wherever /dev/kvm can be opened and speaks API 12. Where it cannot, the test is skipped with the
reason, and ``--require-kvm`` (CI on machines that have KVM) turns that into a failure of the run. Tests may further need what
not every KVM can do (``@pytest.mark.kvm("paging32")``): that is found out by trying it, never by asking for a capability.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import features


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-kvm", action="store_true", help="fail when a KVM test cannot run for want of /dev/kvm")
    parser.addoption("--ledger", type=Path, help="leave out the tests this file names, and add each that ends (tests/nested/suite_amd.py)")


def pytest_configure() -> None:
    # A runner started by nohup ignores SIGHUP, a shell's background job SIGINT and SIGQUIT, and so would the processes whose
    # reaction to them is tested. (A handler, as SIGINT gets here, becomes the default in a child.)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = features.why_no_kvm()
    if reason and config.getoption("--require-kvm"):
        raise pytest.UsageError(f"--require-kvm: {reason}")
    for item in items:
        for mark in item.iter_markers("kvm"):
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"no KVM here: {reason}"))
                continue
            for need in mark.args:
                if not features.have(need):
                    item.add_marker(pytest.mark.skip(reason=f"this KVM cannot do: {need}"))
    ledger: Path | None = config.getoption("--ledger")
    if ledger is not None and ledger.exists():
        ended = {line.partition(" ")[2] for line in ledger.read_text().splitlines()}
        left_out = [item for item in items if item.nodeid in ended]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in ended]


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Writes "passed TEST" or "failed TEST" when a test has ended, on the disk before the next begins: the host may lock up."""
    result = yield
    ledger: Path | None = item.config.getoption("--ledger")
    if ledger is not None:
        with ledger.open("a") as file:
            file.write(f"{'failed' if item.stash.get(_failed, False) else 'passed'} {item.nodeid}\n")
            file.flush()
            os.fsync(file.fileno())
    return result
