"""pyvmm/cli/gdb.py: which registers gdb is told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.gdb import _is_32_bit
from tests.support import images


@pytest.mark.parametrize(
    ("data", "narrow"),
    [
        (images.vmlinux(bits=32), True),
        (images.vmlinux(), False),
        (images.bzimage(xloadflags=0), True),
        (images.bzimage(xloadflags=3), False),
        (images.bzimage(xloadflags=0, version=0x20B), False),  # older than the flag: who knows
        (images.boot_sector(), False),
        (b"", False),
    ],
    ids=["vmlinux 32", "vmlinux 64", "bzImage 32", "bzImage 64", "old bzImage", "boot sector", "empty"],
)
def test_what_gdb_will_have_with_it(tmp_path: Path, data: bytes, narrow: bool) -> None:
    path = tmp_path / "guest"
    path.write_bytes(data)
    assert _is_32_bit(str(path)) is narrow


def test_a_guest_that_is_not_there(tmp_path: Path) -> None:
    assert not _is_32_bit(str(tmp_path / "none"))
