"""Stock Linux watched: counts beside perf's, and a report that names the kernel's functions without a symbol file.

With PYVMM_FULL only: minutes each on the nested host.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.report import hot, model, names
from tests.kvm.test_stats_perf import EVENTS, counts
from tests.support import features, linux

pytestmark = [
    pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux,
    pytest.mark.skipif(not os.environ.get("PYVMM_FULL"), reason="takes minutes: PYVMM_FULL=1 runs it"),
]  # fmt: skip
LIMIT = 300.0  # seconds
KERNEL = 0xFFFF_FFFF_8000_0000  # where Linux' text is, wherever KASLR puts it


def _guest(*options: str) -> list[str]:
    return [
        "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-append", "console=ttyS0 quiet", "-m", "128",
        "-no-reboot", "--timeout", str(LIMIT), *options,
    ]  # fmt: skip


def test_stat_counts_what_perf_counts(tmp_path: Path) -> None:
    perf, ours = counts(tmp_path, *_guest())
    assert perf[EVENTS[0]] > 10_000
    for event in EVENTS:
        assert abs(perf[event] - ours[event]) <= 0.01 * perf[event], (event, perf, ours)


def test_a_report_names_the_hottest_functions(tmp_path: Path) -> None:
    path = str(tmp_path / "linux.pvm")
    done = features.run_pyvmm("record", *_guest("-F", "50", "-o", path), timeout=LIMIT + 120)
    assert done.returncode in (0, 124), done.stderr  # recorded in an emulator in an emulator, it may not reach the end
    with Recording.open(path) as recording:
        samples = [each for each in model.load(recording).samples if each.rip >= KERNEL and not each.user]
        name = names.choose("", recording)
        found = hot.spots(samples, name)
    assert len(samples) > 100
    named = sum(spot.count for spot in found if not spot.name.startswith("0x"))
    assert named > 0.95 * sum(spot.count for spot in found)
    assert len(found) > 10
    print("\n".join(f"{100 * spot.share:5.1f} % {spot.name}" for spot in found[:10]))
