"""Every guest of the catalogue ends as the catalogue says."""

from __future__ import annotations

import os

import pytest

from pyvmm import catalogue, status
from tests.support import features, network

GUESTS = catalogue.load()
WORDS = {"crash": status.CRASH, "timeout": status.TIMEOUT}
SLOW = 10  # a nested KVM under emulation needs this many times longer


def _params() -> list[object]:
    return [pytest.param(guest, id=name, marks=pytest.mark.kvm(*guest.kvm)) for name, guest in GUESTS.items()]


@pytest.mark.parametrize("guest", _params())
def test_guest_ends_as_the_catalogue_says(guest: catalogue.Guest) -> None:
    if guest.name.startswith("bench-") and os.environ.get("PYVMM_NESTED") and not os.environ.get("PYVMM_FULL"):
        pytest.skip("a loop of 50,000 takes up to half a minute on the nested host, where others make the same exits: PYVMM_FULL=1 runs it")
    if any(nic.startswith("user") for nic in guest.nic) and (missing := network.why_no_user()):
        pytest.skip(missing)
    hangs = guest.expect_status == "timeout"
    limit = guest.timeout if hangs else guest.timeout * SLOW
    ended = features.run_pyvmm("run", guest.name, "--timeout", str(limit), stdin=guest.input, timeout=limit + 60)
    shown = ended.stdout.decode("latin-1")
    expected = WORDS.get(guest.expect_status, guest.expect_status)  # type: ignore[call-overload]
    assert ended.returncode == expected, f"status {ended.returncode}\n{shown}\n{ended.stderr.decode()}"
    at = 0
    for text in guest.expect_output:
        found = shown.find(text, at)
        assert found >= 0, f"{text!r} is missing (or out of order) in:\n{shown}"
        at = found + len(text)
    if guest.expect_status == 0:
        assert ended.stderr == b""
