"""The lessons: every command on their pages is typed, and every transcript compared (tests/support/transcripts.py has the notation)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.kvm.kind import emulates_ring0
from tests.support import network, transcripts
from tests.support.process import ROOT

pytest.importorskip("capstone")
LESSONS = Path(ROOT) / "docs/lessons"
PAGES = sorted(LESSONS.glob("*.md"))


def _blocks() -> list[object]:
    found = []
    for page in PAGES:
        for number, block in enumerate(transcripts.blocks(page), 1):
            if not block.linux:  # those are typed by tests/boot
                found.append(pytest.param(block, marks=pytest.mark.kvm(*block.needs), id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("block", _blocks())
def test_transcript(block: transcripts.Block, tmp_path: Path) -> None:
    if block.only and (block.only == "software") != emulates_ring0():
        pytest.skip(f"only where ring 0 is {'interpreted' if block.only == 'software' else 'run by hardware'}: {block.reason}")
    if block.network and network.why_no_user():
        pytest.skip(network.why_no_user())
    transcripts.check(block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_nothing_is_typed_that_no_test_types(page: Path) -> None:
    assert transcripts.untested(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_source_excerpts_are_in_the_sources(page: Path) -> None:
    assert transcripts.wrong_sources(page) == []


def test_the_first_program_is_one_page() -> None:
    assert len((LESSONS / "01/first.py").read_text().splitlines()) <= 66
