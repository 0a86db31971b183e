"""What reports say of recordings whose every exit is known."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import ConfigError
from pyvmm.observe.recording import extras
from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.report import chrome, hot, html, model, text, told
from pyvmm.observe.report.model import Filter
from pyvmm.snapshot.plain import pack
from tests.support.recorded import Tape


def name(address: int) -> str:
    return {1: "memset", 2: "schedule"}.get(address, "")


@pytest.fixture
def path(tmp_path: Path) -> str:
    tape = Tape(tmp_path / "tape.pvm", vcpus=2)
    tape.io(1, 0x3F8, b"H", console=b"H")
    tape.io(1, 0x3F8, b"i", console=b"i", vcpu=1, took=1500)
    tape.io(0, 0x3FD, answer=b"\x60", rip=2)
    tape.io(0, 0x3FD, answer=b"\x60", rip=2)
    tape.mmio(0xD000_0000, 4, b"\1\0\0\0", took=10_000)
    tape.mmio(0xD000_0000, 4, b"\2\0\0\0", took=20_000)
    tape.sample((1500, 0, 0, 1), (1600, 0, 0, 1), (1700, 1, 0, 2), (1800, 1, extras.ASLEEP, 3), (1900, 0, extras.USER, 0x4000))
    tape.writer.add(extras.SPANS, 0, {"names": ["blk0"], "spans": extras.SPAN.pack(5000, 3000, 0, 2) + extras.SPAN.pack(7000, 3000, 0, 2)})
    tape.writer.add(extras.EVENTS, 0, {"events": [[1200, "vcpu1", "irq_line", "GSI 4 high"]]})
    tape.counters(*((time, {"exits": exits, "halt_wait_ns": 40 * exits}) for time, exits in ((0, 0), (10_000, 50), (20_000, 80))))
    return tape.close()


def load(path: str, **wanted: Any) -> model.Story:
    return model.load(Recording.open(path), Filter(**wanted))


def test_rows_have_what_was_recorded(path: str) -> None:
    rows = {(row.access, row.address): row for row in load(path).rows}
    out = rows["out", 0x3F8]
    assert (out.device, out.register, out.count, out.total, out.least, out.most) == ("COM1", "THR", 2, 2000, 500, 1500)
    assert rows["write", 0xD000_0000].device == ""
    assert rows["write", 0xD000_0000].total == 30_000


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"vcpu": 1}, [2]),
        ({"device": "COM1"}, [1, 2, 3, 4]),
        ({"device": "nobody"}, [5, 6]),
        ({"reason": "mmio"}, [5, 6]),
        ({"begin": 5000, "end": 12_000}, [2, 3, 4]),
        ({"reason": "hlt"}, []),
    ],
)
def test_filters(path: str, wanted: dict[str, Any], numbers: list[int]) -> None:
    story = load(path, **wanted)
    assert list(story.numbers) == numbers
    assert sum(row.count for row in story.rows) == len(numbers)
    assert text.render(story, name)
    assert len(told.tell(story).which) == len(numbers)


def test_hot_spots_are_of_those_awake(path: str) -> None:
    found = hot.spots(load(path).samples, name)
    assert [(spot.name, spot.count, spot.share, spot.user) for spot in found] == [
        ("memset", 2, 0.5, False),
        ("0x4000..", 1, 0.25, True),
        ("schedule", 1, 0.25, False),
    ]


def test_text(path: str) -> None:
    shown = text.render(load(path), name, addresses=True)
    assert "5 samples, 1 of them asleep" in shown
    assert " 50.00%        2  memset" in shown
    assert "COM1 THR" in shown
    assert "poweroff" in shown.splitlines()[0]
    code = shown[shown.index("exits by the guest's code") :].splitlines()
    assert code[2].split() == ["2", "0.03", "0x1", "memset", "mmio", "write", "0xd0000000/4"]
    assert [line.split()[:4] for line in code if "COM1 LSR" in line] == [["2", "0.00", "0x2", "schedule"]]


def test_folded_stacks(path: str) -> None:
    assert text.folded(load(path), name).splitlines() == [
        "vCPU 0;memset 2", "vCPU 0;user mode 1", "vCPU 1;asleep 1", "vCPU 1;schedule 1",
    ]  # fmt: skip


def test_folded_stacks_without_samples_are_microseconds(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "tape.pvm")
    tape.io(1, 0x3F8, b"H", took=7000, guest=3000)
    assert text.folded(load(tape.close()), name).splitlines() == ["vCPU 0;guest 4", "vCPU 0;user space;io out;COM1 THR 7"]


def test_chrome_slices_nest(path: str) -> None:
    """Two slices of a track are apart, or one is inside the other: what Perfetto wants."""
    file = io.StringIO()
    chrome.write(load(path), name, file)
    events = json.loads(file.getvalue())["traceEvents"]
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) == 3
    for slices in tracks.values():
        for begin, end in slices:
            for other, its_end in slices:
                assert (
                    its_end <= begin + 1e-6 or end <= other + 1e-6 or begin <= other <= its_end <= end or other <= begin <= end <= its_end
                )
    assert {event["name"] for event in events} >= {
        "guest",
        "io out",
        "COM1 THR",
        "queue 2",
        "memset",
        "asleep",
        "irq_line",
        "kernel, vCPU 1",
    }


def test_each_exit_is_told_and_equal_ones_share_a_text(path: str) -> None:
    found = told.tell(load(path))
    assert found.which == [0, 1, 2, 2, 3, 4]
    assert found.titles[0].startswith("vCPU 0 wrote 0x48 'H' to COM1 THR")
    assert found.titles[1].startswith("vCPU 1 wrote 0x69 'i'")
    assert "LSR = 0x60" in found.texts[found.bodies[2]]
    assert "0x00000001" in found.titles[3]
    assert "0x00000002" in found.titles[4]


def test_a_port_that_shows_another_register_is_told_by_the_state_of_its_time(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "tape.pvm")
    tape.io(0, 0x71, answer=b"\x11")
    tape.io(1, 0x70, b"\4", changes=pack({"rtc": {"index": 4}}))
    tape.io(0, 0x71, answer=b"\x11")
    found = told.tell(load(tape.close()))
    assert "SEC" in found.titles[found.which[0]]
    assert "HOUR" in found.titles[found.which[2]]


def test_too_many_different_exits_have_a_title_each_and_share_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "MOST", 10)
    tape = Tape(tmp_path / "tape.pvm")
    for value in range(40):
        tape.io(1, 0x3F8, bytes([0x41 + value % 26]), rip=value)
    found = told.tell(load(tape.close()))
    assert len(found.texts) == 10
    assert len(found.titles) == len(found.bodies) == 40
    assert found.titles[30].startswith("vCPU 0 wrote 0x45 'E'")


# --- the page ------------------------------------------------------------------------------------------------------------
def data_of(page: str) -> dict[str, Any]:
    start = page.index('id="data">') + len('id="data">')
    found: dict[str, Any] = json.loads(page[start : page.index("</script>", start)])
    return found


def test_page_has_everything_in_it(path: str) -> None:
    page = html.page(load(path), name)
    assert "default-src 'none'" in page
    for mark in ("@DATA@", "@CSS@", "@JS@", "@TITLE@", " src=", "http:", "https:", "import(", "url("):
        assert mark not in page
    data = data_of(page)
    assert data["count"] == 6
    assert data["console"] == "Hi"
    assert data["console_end"] == [1, 2]
    assert data["devices"] == ["", "COM1"]
    assert data["threads"] == ["blk0"]
    assert data["hot"][0] == ["memset", 0.5, 2]
    assert data["kernel"] == [[0, 10_000, 1e7, 0.2, 0.0], [10_000, 20_000, 6e6, 0.12, 0.0]]


def test_what_a_guest_prints_cannot_leave_its_place_in_the_page(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "tape.pvm", name="</title><script>")
    tape.io(1, 0x3F8, b"<", console=b"</script><script>alert(1)</script>@JS@@CSS@@DATA@")
    page = html.page(load(tape.close()), name)
    assert page.count("<script") == 2
    assert data_of(page)["console"] == "</script><script>alert(1)</script>@JS@@CSS@@DATA@"


def test_a_recording_without_exits(tmp_path: Path) -> None:
    story = load(Tape(tmp_path / "tape.pvm").close())
    assert "no samples" in text.render(story, name)
    assert data_of(html.page(story, name))["count"] == 0


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (extras.SAMPLES, {}), (extras.SAMPLES, {"samples": 5}), (extras.SPANS, {"names": [], "spans": extras.SPAN.pack(1, 1, 9, 0)}),
        (extras.KERNEL, {"lengths": "x"}), (extras.KERNEL, []),
        (extras.KERNEL, {"fields": [[], [["exits", 0, 1 << 60, 0]]], "vcpus": 1, "nanoseconds": [], "lengths": [0, 8], "rows": bytes(64)}),
        (extras.KERNEL, {"fields": [[], []], "vcpus": 1, "nanoseconds": [], "lengths": [-16, 8], "rows": bytes(64)}),
        (extras.EVENTS, {"events": [5]}), (extras.EVENTS, {"events": [["x"]]}),
    ],
)  # fmt: skip
def test_chunks_no_recorder_writes_are_one_error(tmp_path: Path, kind: bytes, data: Any) -> None:
    tape = Tape(tmp_path / "tape.pvm")
    tape.io(1, 0x3F8, b"H")
    tape.writer.add(kind, 0, data)
    path = tape.close()
    with pytest.raises(ConfigError):
        load(path)


def test_a_guest_that_names_many_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_MOST_SITES", 10)
    tape = Tape(tmp_path / "tape.pvm")
    for page in range(50):
        tape.mmio(0xD000_0000 + 4096 * page, 4, b"\0\0\0\0")
    story = load(tape.close())
    assert len(story.rows) == 11
    assert story.rows[-1].access == "others"
    assert story.rows[-1].count == 40
    assert data_of(html.page(story, name))["count"] == 50


def test_mutated_recordings_make_a_page_or_one_line(path: str, tmp_path: Path) -> None:
    """Bodies with right check sums and wrong contents: what the reader cannot know."""
    import random

    from pyvmm.observe.recording import format

    original = Path(path).read_bytes()
    chunks = []
    at = format.START.size
    while at < len(original):
        head = original[at : at + format.CHUNK.size]
        chunk = format.parse(head, original[at + len(head) : at + len(head) + format.CHUNK.unpack(head)[3]], 0)
        assert chunk is not None
        begin = at + len(head) + len(chunk.table)
        chunks.append((chunk, format.body_of(chunk, original[begin : begin + chunk.stored])))
        at = begin + chunk.stored
    dice = random.Random(5)
    ends = {"page": 0, "line": 0}
    for _ in range(400):
        victim = dice.randrange(len(chunks))
        pieces = [original[: format.START.size]]
        for number, (chunk, body) in enumerate(chunks):
            if number == victim:
                changed = bytearray(body)
                for _ in range(dice.randrange(1, 4)):
                    changed[dice.randrange(len(changed))] = dice.choice((0, 0xFF, 0x39, dice.randrange(256)))
                body = bytes(changed)
            pieces += format.chunk(chunk.kind, chunk.exit, chunk.count, body, chunk.table, chunk.flags & ~format.PACKED)
        mutant = tmp_path / "mutant.pvm"
        mutant.write_bytes(b"".join(pieces))
        try:
            with Recording.open(str(mutant)) as recording:
                story = model.load(recording)
                text.render(story, name)
                json.dumps(list(chrome.events(story, name)))
                html.page(story, name)
            ends["page"] += 1
        except ConfigError as error:
            assert "\n" not in str(error)
            ends["line"] += 1
    assert min(ends.values()) > 20, ends
