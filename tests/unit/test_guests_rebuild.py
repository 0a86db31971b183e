"""The committed guest images are what their sources build to, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from pyvmm import catalogue

GUESTS = catalogue.directory()
COMMITTED_GCC = "12"


def gcc_version() -> str:
    """The compiler's major version."""
    return subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip().partition(".")[0]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> str:
    """A folder with every guest built anew."""
    missing = [tool for tool in ("make", "gcc", "as", "ld") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"building the guests needs {', '.join(missing)}")
    folder = str(tmp_path_factory.mktemp("guests"))
    result = subprocess.run(["make", "-C", GUESTS, f"O={folder}"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("guest", catalogue.load().values(), ids=lambda guest: guest.name)
def test_same_bytes(rebuilt: str, guest: catalogue.Guest) -> None:
    """Assembly gives the same bytes everywhere; a compiler does so only while it is the same compiler."""
    if os.path.exists(os.path.splitext(guest.file)[0] + ".c") and (version := gcc_version()) != COMMITTED_GCC:
        pytest.skip(f"the image was compiled by GCC {COMMITTED_GCC}, here is GCC {version}")
    again = os.path.join(rebuilt, os.path.relpath(guest.file, GUESTS))
    with open(guest.file, "rb") as committed, open(again, "rb") as built:
        assert committed.read() == built.read(), f"{guest.name}: source and image differ; run make -C guests and commit both"


def test_nothing_else_is_built(rebuilt: str) -> None:
    built = {os.path.join(folder, name) for folder, _, names in os.walk(rebuilt) for name in names}
    listed = {os.path.join(rebuilt, os.path.relpath(guest.file, GUESTS)) for guest in catalogue.load().values()}
    assert built == listed
