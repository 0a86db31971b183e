"""What a user gets from ``pip install``: the command, with the guests inside, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "pyvmm"
pytestmark = pytest.mark.skipif(not COMMAND.exists(), reason="pyvmm is not installed beside this Python (tox installs it)")


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([COMMAND, *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=120)


def test_guests_are_installed(tmp_path: Path) -> None:
    listed = _run(tmp_path, "guests")
    assert listed.returncode == 0, listed.stderr
    assert "hello" in listed.stdout
    inspected = _run(tmp_path, "inspect", "multiboot")
    assert inspected.returncode == 0, inspected.stderr


def test_pytest_finds_the_plugin_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(request):\n    assert request.config.pluginmanager.has_plugin('pyvmm.testing')\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    for more in ([], ["-p", "pyvmm.testing"]):  # named as well, it is loaded once
        done = subprocess.run([*command, *more], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_end_for_qemus_users_is_installed(tmp_path: Path) -> None:
    done = subprocess.run([COMMAND.with_name("pyvmm-qemu"), "-version"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("QEMU emulator version")


@pytest.mark.kvm
def test_hello_runs_from_any_folder(tmp_path: Path) -> None:
    ended = _run(tmp_path, "run", "hello", "--timeout", "60")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Hello" in ended.stdout
