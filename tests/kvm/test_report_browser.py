"""Pages of real recordings in headless Chromium: a hello, four vCPUs, a disk; docs/observing.md names what each part shows.

Skips where no Chromium is installed. PYVMM_SCREENSHOTS=DIR keeps the pictures. PYVMM_FULL=1 also boots stock Linux, on the nested
host where this KVM cannot.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import browser, features, linux
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


def record_linux(folder: Path) -> Path:
    """A boot that prints a lot: each of Linux' initcalls when it begins and when it ends."""
    path = folder / "linux.pvm"
    guest = [
        "-kernel", str(linux.image("cloud", "bzimage")), "-initrd", str(linux.initrd()), "-m", "128", "-no-reboot", "-F", "20",
        "-append", "console=ttyS0 initcall_debug ignore_loglevel", "--timeout", "1500", "-o", str(path),
    ]  # fmt: skip
    command = [sys.executable, "-m", "pyvmm", "record", *guest]
    if not all(features.have(need) for need in ("ring0-simd", "cmpxchg16b")):
        command = [sys.executable, "tests/nested/amd.py", "--timeout", "2000", "--results", str(folder), "--", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return path


@pytest.mark.skipif(not os.environ.get("PYVMM_FULL"), reason="takes many minutes: PYVMM_FULL=1 runs it")
@pytest.mark.skipif("PYVMM_NESTED" in os.environ, reason="the page is for a browser outside")
def test_page_of_linux(chromium: Browser, tmp_path: Path) -> None:
    recording, path = record_linux(tmp_path), tmp_path / "linux.html"
    pyvmm("report", str(recording), "--html", str(path))
    chromium.shows(path)
    count = chromium.evaluate("n")
    assert count > 100_000
    assert {"guest", "kernel", "user space", "COM1", "acpi-pm", "pci", "rtc"} <= set(chromium.evaluate("lanes.map(lane => lane.name)"))
    chromium.evaluate(f"slider.value = {count // 2}; slider.dispatchEvent(new Event('input'))")
    assert chromium.evaluate("current") == count // 2
    assert "initcall" in chromium.evaluate("document.getElementById('console').textContent")
    assert "io_serial" in chromium.evaluate("document.getElementById('facts').textContent")  # the kernel's own names
    pictures = Path(os.environ.get("PYVMM_SCREENSHOTS", tmp_path))
    chromium.screenshot(pictures / "linux.png")
    chromium.key("z")
    chromium.screenshot(pictures / "linux-near.png")
    chromium.key("End")
    assert linux.READY in chromium.evaluate("document.getElementById('console').textContent")
    chromium.alone(path)
    print(f"{count} exits, {path.stat().st_size >> 20} MiB")
