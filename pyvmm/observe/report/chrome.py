"""Chrome's trace event format (JSON), for Perfetto and chrome://tracing: a track for each vCPU and I/O thread, counters of the kernel."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TextIO

    from pyvmm.observe.report.hot import Name
    from pyvmm.observe.report.model import Story

_VCPUS, _DEVICES = 1, 2  # "processes": groups of tracks
_COUNTERS = ("exits", "irq_injections", "insn_emulation")


def write(story: Story, name: Name, file: TextIO) -> None:
    """Writes the whole trace, an event to a line."""
    file.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
    for number, event in enumerate(events(story, name)):
        file.write((",\n" if number else "") + json.dumps(event, separators=(",", ":")))
    file.write("\n]}\n")


def events(story: Story, name: Name) -> Iterator[dict[str, Any]]:
    """Slices that nest: what is inside another one ends with it or before; those of one track never overlap otherwise."""
    yield _named("process_name", _VCPUS, 0, story.recording.header.name)
    for vcpu in sorted(set(story.vcpus)):
        yield _named("thread_name", _VCPUS, vcpu + 1, f"vCPU {vcpu}")
    tracks = {device: number + 1 for number, device in enumerate(sorted({span[2] for span in story.spans}))}
    if tracks:
        yield _named("process_name", _DEVICES, 0, "I/O threads")
    for device, track in tracks.items():
        yield _named("thread_name", _DEVICES, track, device)
    yield from _exits(story)
    for time, took, device, queue in _apart([(span[0], span[1], *span[2:]) for span in story.spans]):
        yield _slice(_DEVICES, tracks[device], f"queue {queue}", time, took)
    for sample in story.samples:
        what = "asleep" if sample.asleep else "user mode" if sample.user else name(sample.rip) or f"{sample.rip:#x}"
        yield {"ph": "i", "s": "t", "pid": _VCPUS, "tid": sample.vcpu + 1, "ts": sample.time / 1e3, "name": what, "cat": "sample"}
    for time, who, event, words in story.events:
        track = int(who[4:]) + 1 if who.startswith("vcpu") and who[4:].isdigit() else 0
        yield {"ph": "i", "s": "t", "pid": _VCPUS, "tid": track, "ts": time / 1e3, "name": event, "args": {"text": words}}
    for data in story.kernel:
        for index, counters in enumerate(data["vcpus"]):
            values = {key: counters[key] for key in _COUNTERS if key in counters}
            yield {"ph": "C", "pid": _VCPUS, "tid": 0, "ts": data["time"] / 1e3, "name": f"kernel, vCPU {index}", "args": values}


def _exits(story: Story) -> Iterator[dict[str, Any]]:
    """KVM_RUN, then the exit, with who answered inside it."""
    ends: dict[int, float] = {}
    for number, vcpu, site, time, took, inside in zip(
        story.numbers, story.vcpus, story.sites, story.times, story.took, story.inside, strict=True
    ):
        row = story.rows[site]
        begin = max(time - inside, ends.get(vcpu, 0))
        if begin < time:
            yield _slice(_VCPUS, vcpu + 1, "guest", begin, time - begin)
        start = max(time, ends.get(vcpu, 0))
        took = max(time + took - start, 0)
        yield _slice(_VCPUS, vcpu + 1, f"{row.reason} {row.access}".rstrip(), start, took, exit=number, place=row.place)
        if row.device:
            yield _slice(_VCPUS, vcpu + 1, f"{row.device} {row.register}".rstrip(), start, took)
        ends[vcpu] = start + took


def _apart(spans: list[tuple[int, int, str, int]]) -> Iterator[tuple[int, int, str, int]]:
    """Spans of one device in order; one that began before the last had ended is cut."""
    ends: dict[str, int] = {}
    for time, took, device, queue in sorted(spans):
        start = max(time, ends.get(device, 0))
        if time + took > start:
            yield start, time + took - start, device, queue
            ends[device] = time + took


def _slice(group: int, track: int, name: str, begin: float, took: float, **arguments: object) -> dict[str, Any]:
    event = {"ph": "X", "pid": group, "tid": track, "ts": begin / 1e3, "dur": took / 1e3, "name": name}
    return {**event, "args": arguments} if arguments else event


def _named(kind: str, group: int, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": group, "tid": track, "name": kind, "args": {"name": name}}
