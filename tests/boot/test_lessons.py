"""docs/lessons: the transcripts that boot a stock Linux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import linux, transcripts
from tests.support.process import ROOT

pytest.importorskip("capstone")
pytestmark = [pytest.mark.kvm("ring0-simd", "cmpxchg16b"), pytest.mark.linux]
BLOCKS = [block for page in sorted((Path(ROOT) / "docs/lessons").glob("*.md")) for block in transcripts.blocks(page) if block.linux]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_transcript(number: int, tmp_path: Path) -> None:
    if "pyvmm debug " in BLOCKS[number].text and not os.environ.get("PYVMM_FULL"):
        pytest.skip("half a minute on host B, for a kernel that unpacks itself under the debugger: PYVMM_FULL=1")
    (tmp_path / "vmlinuz").symlink_to(linux.image("cloud", "bzimage"))
    (tmp_path / "initrd.cpio").symlink_to(linux.initrd())
    transcripts.check(BLOCKS[number], tmp_path)
