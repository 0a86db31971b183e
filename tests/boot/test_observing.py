"""Stock Linux watched: counts beside perf's, and a report that names the kernel's functions without a symbol file.

With PYVMM_FULL only: minutes each on the nested host.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.report import hot, model, names
from tests.kvm.test_stats_perf import EVENTS, counts
from tests.support import features, initramfs, linux

pytestmark = [
    pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux,
    pytest.mark.skipif(not os.environ.get("PYVMM_FULL"), reason="takes minutes: PYVMM_FULL=1 runs it"),
]  # fmt: skip
LIMIT = 300.0  # seconds
SHIFT = 4  # functions begin at multiples of 16
TEXT = 0xFFFF_FFFF_8100_0000  # _stext, without KASLR
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
dd if=/dev/zero of=/dev/null bs=64k count=1000 2>/dev/null
cat /proc/kallsyms >/dev/null
echo PROFILE
cmp -l /proc/profile /dev/zero 2>/dev/null
echo END
poweroff -f
"""
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
    """And they are those that the guest's own kernel found, which has looked where it is at each of its ticks (profile=)."""
    path, initrd = tmp_path / "linux.pvm", tmp_path / "initrd"
    initrd.write_bytes(initramfs.build(INIT))
    guest = [
        "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(initrd), "-append", f"console=ttyS0 quiet nokaslr profile={SHIFT}",
        "-m", "128", "-no-reboot", "--timeout", str(LIMIT),
    ]  # fmt: skip
    done = features.run_pyvmm("record", *guest, "-F", "50", "-o", str(path), timeout=LIMIT + 120)
    assert done.returncode == 0, done.stderr
    with Recording.open(str(path)) as recording:
        samples = [each for each in model.load(recording).samples if each.rip >= KERNEL and not each.user]
        name = names.choose("", recording)
        found = hot.spots(samples, name)
    assert len(samples) > 100
    named = sum(spot.count for spot in found if not spot.name.startswith("0x"))
    assert named > 0.95 * sum(spot.count for spot in found)
    ticks = guests_own(done.stdout.decode("latin-1"), name)
    print("\n".join(f"{100 * spot.share:5.1f} % {100 * ticks[spot.name] / ticks.total():5.1f} % {spot.name}" for spot in found[:10]))
    # Ticks that come while interrupts are off wait for the end of that: the console's output is all counted there.
    del ticks["_raw_spin_unlock_irqrestore"]
    theirs = [each for each, _ in ticks.most_common(5)]
    assert len({spot.name for spot in found[:20]}.intersection(theirs)) >= 4, (theirs, [spot.name for spot in found[:20]])


def guests_own(shown: str, name: hot.Name) -> Counter[str]:
    """Ticks by function, from what INIT printed: /proc/profile is a word and then a counter of 4 bytes for each 2**SHIFT bytes of text."""
    ticks: Counter[str] = Counter()
    for at, value in re.findall(r"^ *(\d+) +([0-7]+) +0\s*$", shown.partition("PROFILE")[2].partition("END")[0], re.MULTILINE):
        index, byte = divmod(int(at) - 1, 4)
        if index:
            ticks[name(TEXT + (index - 1 << SHIFT))] += int(value, 8) << 8 * byte
    return ticks
