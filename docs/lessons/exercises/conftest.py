"""What the checks of the exercises share: the student's files, which stand beside them.

Copy this folder, work in the copy, and run pytest on one file of it; docs/lessons/README.md has the commands.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pyvmm.testing"]  # the fixture `guest`; loaded already where pyvmm is installed

PATIENCE = 60  # seconds


def check(condition: object, hint: str) -> None:
    """Ends the test with the hint, and without a page of Python, unless the condition holds."""
    __tracebackhide__ = True
    if not condition:
        pytest.fail(hint, pytrace=False)


class Answer:
    """The student's files.

    Args:
        folder: where they are.
        scratch: where what is built of them goes.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch

    def path(self, name: str, start: str = "") -> Path:
        """A file; ``start`` is what one copies to begin."""
        path = self._folder / name
        check(path.exists(), f"there is no {path}" + (f"; begin with: cp {start} {path}" if start else ""))
        return path

    def text(self, name: str) -> str:
        """What a .txt says, without comments (#) and blanks around it."""
        lines = [line.partition("#")[0].strip() for line in self.path(name).read_text().splitlines()]
        found = " ".join(line for line in lines if line)
        check(found, f"{name} has no answer yet: write it under the comments")
        return found

    def number(self, name: str) -> int:
        """A number in a .txt, decimal or 0x hexadecimal."""
        text = self.text(name)
        try:
            return int(text, 0)
        except ValueError:
            pytest.fail(f"{name}: {text!r} is not a number; write one like 42 or 0x2a", pytrace=False)

    def program(self, name: str, start: str = "") -> str:
        """Runs a .py; returns what it prints."""
        path = self.path(name, start)
        try:
            done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{name} did not end within {PATIENCE} seconds", pytrace=False)
        check(done.returncode == 0, f"{name} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def image(self, name: str, address: int = 0x7C00) -> Path:
        """Assembles a .S for an address with as and ld; returns a flat image (-format flat16, flat32 or flat64; the .code
        directives in the file say which)."""
        path = self.path(name)
        for tool in ("as", "ld"):
            check(shutil.which(tool), f"this exercise needs {tool} (Debian, Ubuntu: apt install binutils)")
        object_file, image = self._scratch / f"{name}.o", self._scratch / f"{name}.bin"
        link = ["ld", "-m", "elf_i386", "-Ttext", hex(address), "-e", "start", "--oformat", "binary", "-o", image, object_file]
        for command in (["as", "--32", "-o", object_file, path], link):
            done = subprocess.run(command, capture_output=True, text=True)
            check(done.returncode == 0, f"{name} does not {'assemble' if command[0] == 'as' else 'link'}:\n{done.stderr}")
        return image


@pytest.fixture
def answer(request: pytest.FixtureRequest, tmp_path: Path) -> Answer:
    """The files beside the test."""
    return Answer(request.path.parent, tmp_path)


@pytest.fixture(name="check")
def _check() -> Callable[[object, str], None]:
    """``check(condition, hint)``."""
    return check


@pytest.fixture
def run(guest: Callable[..., Any]) -> Callable[..., Any]:
    """``run(image, format="flat16", memory={address: bytes}, ...)``: boots it and waits for its end. Returns the guest (``vm.serial``,
    ``vm.exits``, ``vm.memory``, ``vm.exit_status``: docs/guests-as-tests.md)."""

    def boot(image: Path, memory: dict[int, bytes] | None = None, **options: Any) -> Any:
        __tracebackhide__ = True
        from pyvmm.testing.vm import GuestTimeout

        vm = guest(image.stem, file=image, **{"format": "flat16", "m": "16M", "timeout": PATIENCE, "S": True, **options})
        for address, data in (memory or {}).items():
            vm.memory.write(address, data)
        vm.resume()
        try:
            vm.wait(options.get("timeout", 10))
        except GuestTimeout:
            pytest.fail("your guest does not end; it should switch itself off, by writing 0x2000 to port 0x604", pytrace=False)
        return vm

    return boot
