"""The lessons' pictures: each is what a block of its page draws today. PYVMM_WRITE_GOLDEN=1 draws them anew, to be looked at before
they are committed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pyvmm.kvm.kind import emulates_ring0
from tests.support import network, transcripts
from tests.support.process import ROOT

pytest.importorskip("capstone")
LESSONS = Path(ROOT) / "docs/lessons"
PICTURES = LESSONS / "pictures"
_DRAWS = re.compile(r"^\(pyvmm\) picture .* (\S+\.svg)$", re.MULTILINE)
_SHOWS = re.compile(r"!\[[^\]]+\]\(pictures/([^)]+)\)")
_TIME = re.compile(r"\d+\.\d{3} ms|answer [\d.]+ \ws|KVM_RUN before [\d.]+ \ws")


def drawing() -> list[object]:
    """Blocks that draw."""
    found: list[object] = []
    for page in sorted(LESSONS.glob("*.md")):
        for number, block in enumerate(transcripts.blocks(page), 1):
            if _DRAWS.search(block.text) and not block.linux:
                found.append(pytest.param(block, marks=pytest.mark.kvm(*block.needs), id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("block", drawing())
def test_pictures_are_what_the_pages_draw(block: transcripts.Block, tmp_path: Path) -> None:
    if block.only and (block.only == "software") != emulates_ring0():
        pytest.skip(f"only where ring 0 is {'interpreted' if block.only == 'software' else 'run by hardware'}: {block.reason}")
    if block.network and network.why_no_user():
        pytest.skip(network.why_no_user())
    transcripts.transcript(block, tmp_path)
    for name in _DRAWS.findall(block.text):
        made, kept = (tmp_path / name).read_text(), PICTURES / name
        ElementTree.fromstring(made)
        if os.environ.get("PYVMM_WRITE_GOLDEN"):
            PICTURES.mkdir(exist_ok=True)
            if not kept.exists() or _TIME.sub("", kept.read_text()) != _TIME.sub("", made):
                kept.write_text(made)
        assert kept.exists() and _TIME.sub("", kept.read_text()) == _TIME.sub("", made), f"{kept} is another picture"


def test_every_picture_is_drawn_and_shown() -> None:
    drawn: set[str] = set()
    shown: set[str] = set()
    for page in LESSONS.glob("*.md"):
        drawn |= {name for block in transcripts.blocks(page) for name in _DRAWS.findall(block.text)}
        shown |= set(_SHOWS.findall(page.read_text()))
    kept = {path.name for path in PICTURES.iterdir()} if PICTURES.exists() else set()
    assert kept == shown and shown <= drawn
