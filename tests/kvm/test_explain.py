"""What the exits of the catalogue's guests are, line by line, as a student would read them: golden transcripts.

Lines that say the same but for numbers are kept twice. The instruction is in them wherever KVM leaves rip: software and hardware do
not agree on that, the lines do.
"""

from __future__ import annotations

import re

import pytest

from pyvmm import catalogue
from pyvmm.observe.explain.explain import Explanation
from pyvmm.observe.explain.text import WIDTH, render
from tests.support import golden, network
from tests.support.explained import explanations

pytest.importorskip("capstone")
GUESTS = catalogue.load()
LIMIT = 1500
TRANSCRIPTS = (
    "hello", "echo", "exit-code", "unclaimed", "mmio", "paging", "ring3", "smp", "timer-pit", "timer-lapic", "triple-fault", "multiboot",
    "virtio-blk", "e1000", "virtio-net",
)  # fmt: skip
# guest -> the line its transcript ends with: what comes later depends on when replies arrive
UNTIL = {"e1000": " RCTL", "virtio-net": "queue_enable of queue 1"}
# guest -> lines that depend on time (was the key pressed before the guest looked) or on the KVM (AMD's forgets the registers)
LEFT_OUT = {"echo": "COM1 LSR", "triple-fault": "triple fault"}


def _summary(name: str, told: list[Explanation]) -> str:
    """The lines of a transcript; those that one instruction makes again and again, with other numbers, are kept twice."""
    seen: dict[str, int] = {}
    lines = []
    for each in told:
        if name in LEFT_OUT and LEFT_OUT[name] in each.title:
            continue
        site = each.line.rpartition(" at ")[2]
        key = re.sub(r"0x[0-9a-f]+( '.*?')?|\[\d+\]|: .*", "#", each.title) + site
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 2:
            lines.append(each.line)
        if name in UNTIL and UNTIL[name] in each.title:
            break
    return "\n".join(lines)


def _params() -> list[object]:
    return [pytest.param(name, marks=pytest.mark.kvm(*GUESTS[name].kvm)) for name in TRANSCRIPTS]


@pytest.mark.parametrize("name", _params())
def test_transcript(name: str) -> None:
    if any(nic.startswith("user") for nic in GUESTS[name].nic) and (missing := network.why_no_user()):
        pytest.skip(missing)
    told: list[Explanation] = []
    explanations(name, told.append, LIMIT, repeats=4)
    for each in told:
        assert max(map(len, render(each).split("\n"))) <= WIDTH
        assert each.access is None or not each.access.device or each.access.registers, each.line
    golden.check(f"explain/guest-{name}.txt", _summary(name, told))
