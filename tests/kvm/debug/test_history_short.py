"""The few of ``test_history`` that a slow host runs as well: each mode, paging, a disk, both cards, several processors."""

from __future__ import annotations

import pytest

from tests.support.timetravel import there_and_back

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(
    "name", ["hello", "hello-c", "modes", "paging32", "ring3", "timer-lapic", "virtio-blk", "virtio-net", "e1000", "smp"]
)
def test_back_and_forward_the_state_is_the_recorded_one(name: str) -> None:
    there_and_back(name)
