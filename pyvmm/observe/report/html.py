"""One self-contained page: timeline, explanations, console, histogram. Nothing is fetched, and a policy in the page sees to that.

``page.html``, ``page.css`` and ``page.js`` are the page without its data. What there is one of for each exit goes in as base64 of
little-endian numbers (about 45 bytes an exit), texts once for all exits that are alike.
"""

from __future__ import annotations

import html
import json
import sys
from array import array
from base64 import b64encode
from pathlib import Path

from pyvmm.observe.report.hot import spots
from pyvmm.observe.report.model import ended, trusted
from pyvmm.observe.report.told import tell
from pyvmm.observe.stats.text import milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyvmm.observe.report.hot import Name
    from pyvmm.observe.report.model import Story

_HERE = Path(__file__).parent
_SAMPLES_MAX = 200_000
_HOT = 15


def page(story: Story, name: Name) -> str:
    """The page's text.

    Args:
        story: the recording.
        name: functions by address.

    Raises:
        ConfigError: the recording has what no recorder writes.
    """
    with trusted():
        data = content(story, name)
    parts = {
        "@TITLE@": html.escape(f"{story.recording.header.name}: {len(story.numbers)} exits"),
        "@CSS@": (_HERE / "page.css").read_text(encoding="utf-8"),
        "@JS@": (_HERE / "page.js").read_text(encoding="utf-8"),
        "@DATA@": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    shown = (_HERE / "page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        shown = shown.replace(mark, text)
    return shown


def content(story: Story, name: Name) -> dict[str, Any]:
    """What page.js wants."""
    recording, told = story.recording, tell(story)
    header = recording.header
    devices = sorted({row.device for row in story.rows if row.address >= 0})
    threads = sorted({span[2] for span in story.spans})
    samples = story.samples[:_SAMPLES_MAX]
    names = ["asleep", "user mode"]
    numbered = {each: index for index, each in enumerate(names)}
    console, marks, ends = [], [], []
    length = 0
    for index, data in story.console:
        console.append(data.decode("latin-1"))
        length += len(data)
        marks.append(index)
        ends.append(length)

    def sample_name(rip: int) -> int:
        shown = name(rip) or f"{rip:#x}"
        if shown not in numbered:
            numbered[shown] = len(names)
            names.append(shown)
        return numbered[shown]

    sample_names = [0 if each.asleep else 1 if each.user else sample_name(each.rip) for each in samples]
    vcpus = f"{header.vcpus} vCPU{'s' * (header.vcpus > 1)}"
    return {
        "name": header.name,
        "about": f"{milliseconds(story.duration)}, {len(story.numbers):,} exits, {vcpus}; {ended(recording)}; {header.host} ({header.kvm})",
        "count": len(story.numbers),
        "total": recording.count,
        "begin": story.wanted.begin,
        "duration": story.duration,
        "vcpus": header.vcpus,
        "devices": devices,
        "threads": threads,
        "rows": [
            {
                "what": f"{row.reason} {row.access}".rstrip(),
                "who": f"{row.device} {row.register}".strip() or ("nobody" if row.address >= 0 else ""),
                "place": row.place,
                "device": devices.index(row.device) if row.address >= 0 else -1,
                "count": row.count,
                "total": row.total,
                "least": row.least,
                "p99": row.p99,
                "most": row.most,
            }
            for row in story.rows
        ],
        "times": _packed("d", story.times),
        "took": _packed("I", story.took),
        "inside": _packed("f", story.inside),
        "vcpus_of": _packed("H", story.vcpus),
        "rows_of": _packed("H", story.sites),
        "text_of": _packed("I", told.which),
        "numbers": _packed("I", story.numbers),
        "titles": told.titles,
        "functions": [name(rip) for rip in told.rips],
        "bodies": told.bodies,
        "texts": told.texts,
        "console": "".join(console),
        "console_at": marks,
        "console_end": ends,
        "kernel": kernel(story),
        "span_times": _packed("d", [span[0] for span in story.spans]),
        "span_took": _packed("I", [span[1] for span in story.spans]),
        "span_lanes": _packed("H", [threads.index(span[2]) for span in story.spans]),
        "span_queues": _packed("H", [span[3] for span in story.spans]),
        "sample_times": _packed("d", [each.time for each in samples]),
        "sample_vcpus": _packed("H", [each.vcpu for each in samples]),
        "sample_names": _packed("I", sample_names),
        "names": names,
        "hot": [[spot.name, round(spot.share, 4), spot.count] for spot in spots(story.samples, name)[:_HOT]],
    }


def kernel(story: Story) -> list[list[float]]:
    """Between two looks at the kernel's counters: [begin, end, exits/s, share of time asleep, interrupts/s], all vCPUs together."""
    found = []
    for before, now in zip(story.kernel, story.kernel[1:], strict=False):
        passed = now["time"] - before["time"]
        if passed <= 0 or len(now["vcpus"]) != len(before["vcpus"]):
            continue  # another machine began: a reset

        def new(counter: str, before: dict[str, Any] = before, now: dict[str, Any] = now) -> int:
            return sum(late.get(counter, 0) - early.get(counter, 0) for early, late in zip(before["vcpus"], now["vcpus"], strict=True))

        asleep = new("halt_wait_ns") + new("halt_poll_success_ns") + new("halt_poll_fail_ns")
        rates = (
            max(new("exits"), 0) * 1e9 / passed,
            max(asleep, 0) / passed / len(now["vcpus"]),
            max(new("irq_injections"), 0) * 1e9 / passed,
        )
        found.append([before["time"], now["time"], *(round(rate, 3) for rate in rates)])
    return found


def _packed(kind: str, values: Iterable[float]) -> str:
    numbers = array(kind, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()
