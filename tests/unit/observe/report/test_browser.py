"""The page in headless Chromium: it draws, moves and explains without an error, and asks the network for nothing.

Skips where no Chromium is installed. PYVMM_SCREENSHOTS=DIR keeps the pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.observe.recording import extras
from pyvmm.observe.recording.reader import Recording
from pyvmm.observe.report import html, model, names, told
from tests.support import browser
from tests.support.browser import Browser
from tests.support.recorded import Tape

MANY = 120_000


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = browser.find()
    if binary is None:
        pytest.skip(f"no Chromium here: apt install {browser.PACKAGE}")
    with Browser(binary, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    path = Path(os.environ.get("PYVMM_SCREENSHOTS", tmp_path))
    path.mkdir(parents=True, exist_ok=True)
    return path


def page(recording: str, path: Path) -> Path:
    with Recording.open(recording) as opened:
        story = model.load(opened)
        path.write_text(html.page(story, names.none), encoding="utf-8")
    return path


def at(chromium: Browser) -> int:
    return int(chromium.evaluate("+document.getElementById('slider').value"))


def text(chromium: Browser, element: str) -> str:
    return str(chromium.evaluate(f"document.getElementById('{element}').textContent"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    tape = Tape(tmp_path / "tape.pvm", vcpus=2, name="two")
    for number, letter in enumerate(b"Hello, world!\r\n" * 4):
        tape.io(0, 0x3FD, answer=b"\x60", took=400 + 37 * number, rip=2)
        tape.io(1, 0x3F8, bytes([letter]), console=bytes([letter]), took=2000 + 900 * (number % 7), vcpu=number & 1)
    tape.mmio(0xD000_0000, 4, b"\1\0\0\0", took=50_000)
    tape.sample(*((1000 + 2000 * number, number & 1, 0, 0x1000 * (1 + number % 3)) for number in range(80)))
    spans = b"".join(extras.SPAN.pack(5000 + 20_000 * number, 9000, 0, number & 1) for number in range(10))
    tape.writer.add(extras.SPANS, 0, {"names": ["virtio-blk0"], "spans": spans})
    tape.counters(
        *(
            (30_000 * number, {"exits": 40 * number * number, "halt_wait_ns": 3000 * number, "irq_injections": number})
            for number in range(10)
        )
    )
    return page(tape.close(), tmp_path / "two.html")


def test_a_small_one_by_keys_and_mouse(chromium: Browser, small: Path, pictures: Path) -> None:
    chromium.shows(small)
    assert at(chromium) == 0
    chromium.key("ArrowRight")
    chromium.key("ArrowRight")
    chromium.key("ArrowRight")
    assert at(chromium) == 3
    assert "wrote 0x65 'e' to COM1 THR" in text(chromium, "text")
    assert text(chromium, "console") == "He"
    chromium.key("ArrowLeft")
    assert at(chromium) == 2
    assert text(chromium, "console") == "H"
    chromium.key("n")
    assert at(chromium) == 4  # the next read of LSR
    chromium.key("End")
    assert "0xd0000000" in text(chromium, "text")
    assert "where nobody answers" in text(chromium, "text")
    chromium.evaluate("slider.value = 1; slider.dispatchEvent(new Event('input'))")
    assert "COM1 THR" in text(chromium, "text")
    span = chromium.evaluate("to - from")
    chromium.wheel(700, 100, -300)
    assert chromium.evaluate("to - from") < span
    chromium.key("0")
    x, y, moment = chromium.evaluate(
        "(r => [r.x + at(times[60]), r.y + lanes.find(l => l.name === 'COM1').y + 5, 60])(canvas.getBoundingClientRect())"
    )
    chromium.click(x, y)
    assert abs(at(chromium) - moment) <= 1
    chromium.evaluate("document.querySelector('#rows tr:nth-child(2)').click()")
    assert chromium.evaluate("document.querySelectorAll('#rows tr.chosen').length") == 1
    assert chromium.evaluate("document.querySelectorAll('#hot tr').length") == 3
    light = chromium.screenshot(pictures / "two-light.png")
    chromium.scheme("dark")
    dark = chromium.screenshot(pictures / "two-dark.png")
    chromium.scheme("light")
    assert light != dark
    assert chromium.errors == []
    assert len(chromium.requests) == 1


@pytest.mark.parametrize("width", [1200, 1000, 400])
def test_nothing_is_beyond_the_edge(chromium: Browser, small: Path, width: int) -> None:
    chromium.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    try:
        chromium.shows(small)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        bar = chromium.evaluate("[...document.querySelectorAll('nav > *')].map(e => e.getBoundingClientRect().right)")
        assert max(bar) <= width
        if width >= 1000:  # on a telephone the explanation is scrolled, its columns stay columns
            assert chromium.evaluate("document.querySelector('#text').scrollWidth <= document.querySelector('#text').clientWidth")
        assert chromium.evaluate("getComputedStyle(document.querySelector('#text')).whiteSpace") == "pre"
    finally:
        chromium.call("Emulation.clearDeviceMetricsOverride")


def test_every_pixel_row_of_a_lane_is_drawn(chromium: Browser, small: Path) -> None:
    """Not just no error: what was recorded is on the canvas."""
    chromium.shows(small)
    colours = chromium.evaluate("""(() => {
        const ratio = devicePixelRatio || 1;
        const line = y => canvas.getContext("2d").getImageData(LABEL * ratio, y * ratio, canvas.width - LABEL * ratio, 1).data;
        return lanes.map(lane => new Set(new Uint32Array(line(lane.y + 9).buffer)).size);
    })()""")
    assert len(colours) == 8  # kernel, two vCPUs with two lanes each, nobody, COM1, the disk's thread
    assert all(count > 1 for count in colours)


def test_a_large_one_stays_quick(chromium: Browser, tmp_path: Path, pictures: Path) -> None:
    """As many exits as Linux makes that prints a lot: 40 places, more texts than a page holds, a disk's thread, samples."""
    tape = Tape(tmp_path / "tape.pvm", name="large")
    large(tape)
    path = page(tape.close(), tmp_path / "large.html")
    assert path.stat().st_size < 80 * MANY
    chromium.shows(path)
    assert chromium.evaluate("n") == MANY
    assert chromium.evaluate("data.texts.length") == told.MOST
    took = chromium.evaluate("""(() => {
        const begin = performance.now();
        for (let i = 1; i <= 10; i++) { slider.value = n * i / 11; slider.dispatchEvent(new Event("input")); draw(); }
        return (performance.now() - begin) / 10;
    })()""")
    assert took < 1000, f"{took} ms to move and draw: the limit is for machines that do much else"
    assert at(chromium) == round(MANY * 10 / 11)
    chromium.key("Home")
    chromium.key("PageDown")
    assert at(chromium) == 100
    chromium.screenshot(pictures / "large.png")
    chromium.key("z")
    chromium.screenshot(pictures / "large-near.png")
    chromium.key("End")
    assert at(chromium) == MANY - 1
    chromium.alone(path)


def large(tape: Tape) -> None:
    """Many exits, a chunk of a few thousand at a time that differ in their times only: writing each would take longer than the test."""
    from pyvmm.exits import freeze
    from pyvmm.observe.recording import format
    from tests.unit.test_runloop import FakeVcpu

    pages = []
    for number in range(40 * 40):
        vcpu = FakeVcpu()
        vcpu.io(1, 0x3F8 if number % 40 == 0 else 0x1000 + number % 40, 1, bytes([number // 40 + 48]))
        pages.append(freeze(vcpu.page))
    time = 0
    for first in range(1, MANY, 5000):
        body = bytearray()
        for number in range(5000):
            frozen = pages[number % 1600]
            console = format.CONSOLE if number % 40 == 0 else 0
            time += 5000 + 137 * (number % 53) + (30_000_000 if number == 4999 else 0)
            body += format.ENTRY.pack(0, console, 0, len(frozen), 0, 800 + 61 * (number % 97), time, 3000, 1 + number % 7)
            body += frozen + bytes(format.REGS) + (format.LENGTH.pack(1) + b"x" if console else b"")
        tape.writer.put(format.EXIT, first, 5000, bytes(body))
    for first in range(0, 20_000, 4000):
        spans = b"".join(extras.SPAN.pack(time * number // 20_000, 9000, 0, 0) for number in range(first, first + 4000))
        tape.writer.add(extras.SPANS, 0, {"names": ["virtio-blk0"], "spans": spans})
    tape.sample(*((time * number // 3000, 0, number % 3, 0x1000 * (number % 31)) for number in range(3000)))
    tape.count, tape.time = MANY, time


@pytest.mark.parametrize("digits", range(3, 10))
def test_no_two_labels_of_the_axis_are_alike(chromium: Browser, tmp_path: Path, digits: int) -> None:
    tape = Tape(tmp_path / "tape.pvm")
    for _ in range(3):
        tape.io(1, 0x3F8, b"x", guest=10**digits)
    chromium.shows(page(tape.close(), tmp_path / "axis.html"))
    for _ in range(12):
        labels = [label for _, label in chromium.evaluate("marks()")]
        assert len(labels) == len(set(labels)) >= 2, labels
        assert all(len(label) < 16 for label in labels), labels
        chromium.key("+")


def test_one_without_exits(chromium: Browser, tmp_path: Path) -> None:
    path = page(Tape(tmp_path / "tape.pvm").close(), tmp_path / "none.html")
    chromium.shows(path)
    chromium.key("ArrowRight")
    chromium.key("n")
    chromium.key("+")
    chromium.drawn()
    assert chromium.errors == []
