"""Skips and failures that tell the truth about KVM.

A test marked ``kvm`` runs wherever /dev/kvm can be opened and speaks API 12. Where it cannot, the test is skipped with the
reason, and ``--require-kvm`` (CI on machines that have KVM) turns that into a failure of the run. Tests may further need what
not every KVM can do (``@pytest.mark.kvm("paging32")``): that is found out by trying it, never by asking for a capability.
"""

from __future__ import annotations

import gc
import signal

import pytest

from tests.support import reseed

pytest_plugins = ["pyvmm.testing"]  # --require-kvm is the plugin's; an installed pyvmm has loaded it already, by the same name


def pytest_configure() -> None:
    reseed.apply()
    # A runner started by nohup ignores SIGHUP, a shell's background job SIGINT and SIGQUIT, and so would the processes whose
    # reaction to them is tested. (A handler, as SIGINT gets here, becomes the default in a child.)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from tests.support import features  # not before the plugin has come

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


def pytest_collection_finish() -> None:
    """Thousands of tests are a million objects that stay to the end: who asks the collector to look need not wait for all of them."""
    gc.collect()
    gc.freeze()
