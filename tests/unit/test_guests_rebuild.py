"""The committed guest images are what their sources build to, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from pyvmm import catalogue

GUESTS = catalogue.directory()


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
    again = os.path.join(rebuilt, os.path.relpath(guest.file, GUESTS))
    with open(guest.file, "rb") as committed, open(again, "rb") as built:
        assert committed.read() == built.read(), f"{guest.name}: source and image differ; run make -C guests and commit both"


def test_nothing_else_is_built(rebuilt: str) -> None:
    built = {os.path.join(folder, name) for folder, _, names in os.walk(rebuilt) for name in names}
    listed = {os.path.join(rebuilt, os.path.relpath(guest.file, GUESTS)) for guest in catalogue.load().values()}
    assert built == listed
