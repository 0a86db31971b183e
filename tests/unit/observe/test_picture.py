"""pyvmm/observe/picture: well-formed, self-contained SVG that says what memory and registers say, and is bounded whatever those hold."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pyvmm.devices.e1000 import constants as card
from pyvmm.observe.debug.session import Session
from pyvmm.observe.debug.style import PLAIN
from pyvmm.observe.debug.views.pages import page_walk
from pyvmm.observe.picture import cardring, svg, timeline, virtqueue, walk
from pyvmm.observe.picture.timeline import Step
from pyvmm.observe.recording.player import Player
from pyvmm.observe.recording.reader import Recording
from tests.support import browser
from tests.support.fake_subject import RAM, FakeMemory, FakeSubject
from tests.support.recorded import Tape

pytest.importorskip("capstone")
SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    """All texts of a picture that is well-formed, refers to nothing outside, and runs nothing."""
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{SVG}svg" and root.get("width") == "900"
    assert not re.search(r"<script|href|@import|url\((?!#)|http(?!://www\.w3\.org/2000/svg)", picture)
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def memory(*pieces: tuple[int, bytes]) -> FakeMemory:
    found = FakeMemory(bytearray(RAM))
    for at, data in pieces:
        found.data[at : at + len(data)] = data
    return found


# --- the file -----------------------------------------------------------------------------------------------------------
def test_texts_are_escaped_cut_and_printable() -> None:
    drawing = svg.Drawing('<script>alert("&")</script>\x00\x1b\ud800')
    drawing.text(0, 0, "x" * 1000)
    drawing.box(0, 0, 1, 1, tip="</title><script>")
    found = texts(drawing.finish().replace("&lt;script", "&lt;SCRIPT"))
    assert found[0].endswith("\ufffd\ufffd\ufffd") and '("&")' in found[0]
    assert len(found[1]) == 400


# --- timeline -------------------------------------------------------------------------------------------------------------
def test_a_timeline_of_a_live_guest(tmp_path: Path) -> None:
    subject = FakeSubject()
    session = Session(subject)
    assert "nothing has happened yet" in session.execute(f"picture timeline {tmp_path}/a.svg").text
    session.execute("step 5")
    reply = session.execute(f"picture timeline {tmp_path}/a.svg")
    assert reply.text == f"{tmp_path}/a.svg: a timeline of exits 1 to 5" and reply.data["drawn"] == 5
    found = texts((tmp_path / "a.svg").read_text())
    assert found[0] == "hello: exits 1 to 5" and found.count("COM1") == 5
    for number in range(1, 6):
        assert f"exit {number}" in found and subject.explain(number).title.removeprefix("vCPU 0 ") in found
    assert not any(" us" in each for each in found)  # nobody has measured


def test_a_timeline_of_a_recording_has_times(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "tape.pvm", vcpus=2, name="two")
    tape.io(1, 0x3F8, b"x", took=12_300)
    tape.io(0, 0x3FD, answer=b"\x60", vcpu=1, took=45_000_000)
    with Recording.open(tape.close()) as recording:
        session = Session(Player(recording))
        session.execute("goto end")
        assert not session.execute(f"picture timeline 1 2 {tmp_path}/a.svg").error
        assert "exits 1 to 2 are known" in session.execute(f"picture timeline 1 3 {tmp_path}/a.svg").text
    found = texts((tmp_path / "a.svg").read_text())
    assert {"vCPU 0", "vCPU 1"} <= set(found)
    assert any("answer 12.3 us" in each for each in found) and any("answer 45.0 ms" in each for each in found)


def test_a_long_timeline_is_cut_in_the_middle() -> None:
    steps = [
        Step(number=each, vcpu=each % 300, time=each, reason="KVM_EXIT_IO", title="&<" * 500, device="<b>" * 99) for each in range(1, 49)
    ]
    picture = timeline.draw("x" * 5000, steps, 300, 1 << 40)
    assert any(f"{1 << 40} exits left out" in each for each in texts(picture)) and len(picture) < 300_000


def test_the_command_cuts_too(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "tape.pvm")
    for _ in range(60):
        tape.io(1, 0x3F8, b"x")
    with Recording.open(tape.close()) as recording:
        reply = Session(Player(recording)).execute(f"picture timeline 1 60 {tmp_path}/a.svg")
    assert reply.data["drawn"] == timeline.MOST and "12 in the middle are left out" in reply.text


# --- virtqueues -----------------------------------------------------------------------------------------------------------
TABLE, AVAIL, USED = 0x1000, 0x2000, 0x3000
STATE = {"size": 8, "enabled": 1, "desc": TABLE, "driver": AVAIL, "device": USED}


def chain(*parts: tuple[int, int, int, int, int]) -> list[tuple[int, bytes]]:
    """(index, address, length, flags, next) of descriptors."""
    return [(TABLE + 16 * index, struct.pack("<QIHH", address, length, flags, follows)) for index, address, length, flags, follows in parts]


def queue(**state: int) -> tuple[virtqueue.Queue, list[str]]:
    """Two requests, of which the device has answered the first."""
    held = memory(
        *chain((0, 0x5000, 16, 1, 1), (1, 0x6000, 512, 3, 2), (2, 0x5010, 1, 2, 0), (5, 0x7000, 64, 4, 0)),
        (AVAIL, struct.pack("<HH2H", 0, 2, 0, 5)),
        (USED, struct.pack("<HHII", 0, 1, 0, 513)),
        (0x7000, struct.pack("<QIHH", 0x8000, 16, 1, 1) + struct.pack("<QIHH", 0x9000, 4096, 2, 0)),
    )
    found = virtqueue.read("disk, queue 0", STATE | state, held)
    return found, texts(virtqueue.draw(found))


def test_a_queue_as_memory_has_it() -> None:
    found, said = queue()
    assert found.avail == [(0, 0), (1, 5)] and found.used == [(0, 0, 513)] and found.waiting == 1
    assert [each.index for each in found.chains[0]] == [0, 1, 2] and [each.words for each in found.chains[0]] == [
        "NEXT",
        "NEXT WRITE",
        "WRITE",
    ]
    assert found.indirect is not None and found.indirect[0] == 5 and [each.address for each in found.indirect[1]] == [0x8000, 0x9000]
    assert {
        "disk, queue 0: a split virtqueue of 8",
        "head 5",
        "head 0, 513 B",
        "0x6000",
        "INDIRECT",
        "indirect table of descriptor 5",
    } <= set(said)
    assert any("1 not answered yet" in each for each in said) and "\u22ee 2 more" in said


def test_indices_go_round() -> None:
    held = memory(
        *chain((3, 0x5000, 16, 0, 0)), (AVAIL, struct.pack("<HH8H", 0, 0x1_0002 & 0xFFFF, *[3] * 8)), (USED, struct.pack("<HH", 0, 0xFFFF))
    )
    found = virtqueue.read("q", STATE, held)
    assert found.waiting == 3 and [slot for slot, _ in found.avail] == [0, 1]  # as after a wrap, older ones are not known for sure
    texts(virtqueue.draw(found))


def test_a_ring_of_32768_and_hostile_chains_are_bounded() -> None:
    loop = memory(
        *((TABLE + 16 * each, struct.pack("<QIHH", each, 1, 1, each + 1)) for each in range(3000)),
        (0x40000, struct.pack("<HH", 0, 0xFFFF) + struct.pack("<H", 7) * 32768),
        (0x60000, struct.pack("<HH", 0, 0xFFF0) + b"\xff" * 8 * 32768),
    )
    found = virtqueue.read("q", STATE | {"size": 32768, "driver": 0x40000, "device": 0x60000}, loop)
    picture = virtqueue.draw(found)
    assert len(found.avail) == 8 and len(found.chains[7]) == virtqueue.LONGEST and len(picture) < 100_000
    assert "\u22ee 7 more" in texts(picture)
    itself = memory(*chain((0, 0, 0, 1, 0)), (AVAIL, struct.pack("<HHH", 0, 1, 0)))
    assert len(virtqueue.read("q", STATE, itself).chains[0]) == 1
    for where in ("desc", "driver", "device"):
        said = queue(**{where: 1 << 60})[1]
        assert any("outside guest RAM" in each for each in said)
    assert queue(size=0)[0].size == 1


# --- a card's rings ----------------------------------------------------------------------------------------------------------
def ring(side: str = "tx", head: int = 1, tail: int = 3, count: int = 8) -> tuple[cardring.Ring, list[str]]:
    low, high, length, at_head, at_tail = cardring.REGISTERS[side]
    regs = {low: TABLE, high: 0, length: 16 * count, at_head: head, at_tail: tail}
    held = memory(
        (TABLE, struct.pack("<QQ", 0x5000, 1 << 32 | 0xB << 24 | 60)),  # legacy, EOP IFCS RS, done
        (TABLE + 16, struct.pack("<QQ", 0x6000, 0x29 << 24 | 1 << 20 | 0x12345)),  # data
        (TABLE + 32, struct.pack("<QQ", 0x7000, 0x20 << 24)),  # context
    )
    found = cardring.read("e1000-nic0", side, regs, held)
    picture = cardring.draw(found)
    assert len(picture) < 100_000 and "nan" not in picture
    return found, texts(picture)


def test_a_transmit_ring() -> None:
    found, said = ring()
    assert [each.card for each in found.slots] == [False, True, True, False, False, False, False, False]
    assert found.slots[0].text == "EOP IFCS RS | DD" and found.slots[0].length == 60
    assert found.slots[1].text == "data EOP RS DEXT" and found.slots[1].length == 0x12345 and found.slots[2].text == "context DEXT"
    assert "TDBAL/H = 0x1000, TDLEN = 128, TDH = 1, TDT = 3" in said and "2 of 8" in said


def test_a_receive_ring_full_empty_long_and_broken() -> None:
    assert "7 of 8" in ring("rx", 5, 4)[1] and "0 of 8" in ring("rx", 5, 5)[1]
    found, said = ring("rx", 0xFF0, 0x10, 0x1000)
    assert len(found.slots) == 16 and "\u22ee 4080 more" in said and "32 of 4096" in said
    assert "the ring has no descriptors: RDLEN is 0" in ring("rx", count=0)[1]
    assert any("is not one of 8 descriptors" in each for each in ring(head=8)[1])
    regs = dict.fromkeys(range(0x4000), 0xFFFF_FFF0) | {card.TDH: 0, card.TDT: 1}
    assert "outside guest RAM" in cardring.read("n", "tx", regs, memory()).missing


# --- page walks ------------------------------------------------------------------------------------------------------------
class Paged(FakeSubject):
    """Page tables of three kinds at once: four levels from 0x1000, two from 0x6000, PAE's from 0x8020."""

    def __init__(self, cr3: int = 0x1000, cr4: int = 0x20, efer: int = 0xD00) -> None:
        super().__init__()
        self.control = cr3, cr4, efer
        for at, entry in (
            (0x1000, 0x2007), (0x2000, 0x3007), (0x3000 + 8 * 2, 0x4007), (0x4000 + 8 * 511, 1 << 63 | 0x9025),
            (0x3000 + 8 * 3, 0x600000 | 0xE3),
            (0x6000 + 4, 0x7027), (0x7000 + 4 * 0x3FF, 0xA067), (0x8020 + 8 * 1, 0x3001),
        ):  # fmt: skip
            self._memory[at : at + 8] = struct.pack("<Q", entry)

    def sregs(self, vcpu: int) -> Any:
        found = super().sregs(vcpu)
        found.cr0, (found.cr3, found.cr4, found.efer) = 0x8001_0011, self.control
        found.cs.l = bool(self.control[2])
        return found


def walked(linear: int, **more: int) -> list[str]:
    _, data = page_walk(Session(Paged(**more)), linear, PLAIN)
    return texts(walk.draw(data))


def test_a_walk_of_four_levels() -> None:
    said = walked(0x5F_F123)
    assert {"bits 47-39", "bits 20-12", "bits 11-0", "8000000000009025", "at 0x4000", "at 0x9000", "0x9123", "+ 0x123", " 511"} <= set(said)
    assert "user and kernel" in said and "read only" in said and "no execution" in said


def test_large_pages_faults_and_the_older_ways() -> None:
    assert {"bits 29-21", "bits 20-0", "at 0x600000", "large page"} <= set(walked(0x60_0123))
    assert {"page fault", "not present"} <= set(walked(0x80_0000))
    assert "page fault: it is not canonical" in walked(1 << 60)
    assert {"bits 31-22", "bits 21-12", "0000a067", "0xa00c", "1023"} <= set(walked(0x7F_F00C, cr3=0x6000, cr4=0, efer=0))
    assert {"bits 31-30", "at 0x8020", "0000000000003001", "   3", "0x600123"} <= set(walked(0x4060_0123, cr3=0x8020, efer=0))
    subject = FakeSubject()
    assert "paging is off: linear addresses are physical" in texts(walk.draw(page_walk(Session(subject), 0x1234, PLAIN)[1]))


def test_an_index_is_that_of_the_table_wherever_it_lies() -> None:
    """PAE's first table is aligned to 32 bytes, not to a page (SDM 3A, 4.4.1)."""
    _, data = page_walk(Session(Paged(cr3=0x8020, efer=0)), 0x4060_0123, PLAIN)
    assert [each["index"] for each in data["levels"]] == [1, 3]


# --- the command -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("picture", "give what to draw: timeline, ring, pagewalk"),
        ("picture nothing a.svg", "give what to draw"),
        ("picture pagewalk 0x10", "a file whose name ends in .svg"),
        ("picture pagewalk a.svg", "give a linear address"),
        ("picture pagewalk nobody a.svg", "nobody"),
        ("picture ring a.svg", "this machine has none with rings"),
        ("picture ring disk a.svg", "there is no ring of 'disk': no device here has rings"),
        ("picture pagewalk 0x10 /nowhere/a.svg", "/nowhere/a.svg: No such file or directory"),
        ("picture pagewalk 0x10 a\0.svg", "NUL"),
    ],
)
def test_mistakes_are_one_line(line: str, says: str) -> None:
    reply = Session(FakeSubject()).execute(line)
    assert reply.error and says in reply.text and "\n" not in reply.text


class Carded(FakeSubject):
    """With a disk and a network card."""

    def devices(self) -> Any:
        regs = {card.TDBAL: TABLE, card.TDLEN: 128, card.TDH: 1, card.TDT: 3}
        return super().devices() | {"disk0-core": {"queues": [STATE, STATE | {"enabled": 0}]}, "e1000-nic0-mac": {"regs": regs}}


def test_rings_by_device_and_number(tmp_path: Path) -> None:
    session, path = Session(Carded()), tmp_path / "a.svg"
    assert session.execute(f"picture ring disk0 {path}").text == f"{path}: queue 0 of disk0, available 0, used 0"
    assert texts(path.read_text())[0] == "disk0, queue 0: a split virtqueue of 8"
    assert "not enabled" in session.execute(f"picture ring disk0 1 {path}").text
    assert "has queues 0 to 1" in session.execute(f"picture ring disk0 2 {path}").text
    assert session.execute(f"picture ring e1000-nic0 {path}").text.endswith("the tx ring of e1000-nic0, head 1, tail 3")
    assert texts(path.read_text())[0] == "e1000-nic0: the transmit ring, 8 descriptors"
    assert "two rings: tx and rx" in session.execute(f"picture ring e1000-nic0 up {path}").text
    assert "rings have disk0, e1000-nic0" in session.execute(f"picture ring x {path}").text


def test_chromium_draws_them_in_light_and_dark(tmp_path: Path) -> None:
    """PYVMM_SCREENSHOTS=DIR keeps what it saw."""
    binary = browser.find()
    if binary is None:
        pytest.skip(f"no Chromium here: apt install {browser.PACKAGE}")
    _, data = page_walk(Session(Paged()), 0x5F_F123, PLAIN)
    steps = [
        Step(number=each, vcpu=each % 2, time=1000 * each, reason="KVM_EXIT_IO", title="wrote 0x48 'H' to COM1 THR", device="COM1")
        for each in range(1, 6)
    ]
    drawn = {
        "walk": walk.draw(data), "queue": virtqueue.draw(queue()[0]), "card": cardring.draw(ring()[0]),
        "timeline": timeline.draw("two", steps, 2),
    }  # fmt: skip
    kept = Path(os.environ.get("PYVMM_SCREENSHOTS", tmp_path))
    with browser.Browser(binary, tmp_path / "profile", 920, 640) as page:
        for name, picture in drawn.items():
            path = tmp_path / f"{name}.svg"
            path.write_text(picture)
            seen = set()
            for scheme in ("light", "dark"):
                page.scheme(scheme)
                page.shows(path)
                seen.add(page.evaluate("getComputedStyle(document.querySelector('.paper')).fill"))
                page.screenshot(kept / f"picture-{name}-{scheme}.png")
            assert seen == {"rgb(255, 255, 255)", "rgb(23, 27, 32)"}
            wide = page.evaluate(
                "Math.max(...[...document.querySelectorAll('text')].map(each => { const b = each.getBBox(); return b.x + b.width; }))"
            )
            assert wide <= 900, f"{name}: a text ends at {wide}"
