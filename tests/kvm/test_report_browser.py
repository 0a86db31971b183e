"""Pages of real recordings in headless Chromium: a hello, four vCPUs, a disk; docs/observing.md names what each part shows.

Skips where no Chromium is installed. PYVMM_SCREENSHOTS=DIR keeps the pictures.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import browser
from tests.support.browser import Browser
from tests.support.process import COMMAND, PATIENCE, ROOT

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = browser.find()
    if binary is None:
        pytest.skip(f"no Chromium here: apt install {browser.PACKAGE}")
    with Browser(binary, tmp_path_factory.mktemp("profile")) as found:
        yield found


def pyvmm(*arguments: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("guest", "lanes", "console"),
    [
        ("hello", {"guest", "user space", "COM1", "acpi-pm"}, "Hello, world!"),
        ("smp", {"guest vCPU 0", "guest vCPU 3", "user space vCPU 3", "COM1"}, "4 processors"),
        ("virtio-blk", {"guest", "COM1", "pci", "virtio-blk0", "virtio-blk0 thread"}, "PASS"),
    ],
)
def test_page(chromium: Browser, tmp_path: Path, guest: str, lanes: set[str], console: str) -> None:
    pyvmm("record", guest, "-F", "500", "-o", str(tmp_path / "run.pvm"))
    path = tmp_path / "run.html"
    pyvmm("report", str(tmp_path / "run.pvm"), "--html", str(path))
    chromium.shows(path)
    assert lanes <= set(chromium.evaluate("lanes.map(lane => lane.name)"))
    count = chromium.evaluate("n")
    for number in range(1, 30):  # walks, from both ends
        chromium.key("ArrowRight")
        assert chromium.evaluate("current") == min(number, count - 1)
        assert chromium.evaluate("document.getElementById('text').textContent.length") > 100
    chromium.evaluate(f"slider.value = {count // 2}; slider.dispatchEvent(new Event('input'))")
    assert chromium.evaluate("current") == count // 2
    chromium.key("z")
    chromium.key("End")
    assert console in chromium.evaluate("document.getElementById('console').textContent")
    chromium.key("0")
    chromium.key("PageUp")
    pictures = Path(os.environ.get("PYVMM_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        chromium.scheme(scheme)
        assert len(chromium.screenshot(pictures / f"{guest}-{scheme}.png")) > 10_000
    chromium.alone(path)
