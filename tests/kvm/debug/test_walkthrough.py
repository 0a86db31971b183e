"""docs/debugger.md: every transcript in it is what the debugger says, and its list of commands is the table.

PYVMM_WRITE_GOLDEN=1 writes them anew, to be read before they are committed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pyvmm.kvm.kind import emulates_ring0
from pyvmm.observe.debug.command import GROUPS
from pyvmm.observe.debug.commands import COMMANDS
from pyvmm.observe.debug.commands.info import INFO
from tests.support import transcripts
from tests.support.process import ROOT

pytest.importorskip("capstone")
DOCS = Path(ROOT) / "docs" / "debugger.md"
_LIST = re.compile(r"<!-- commands -->\n.*?<!-- end -->\n", re.DOTALL)


@pytest.mark.kvm
@pytest.mark.parametrize("block", transcripts.blocks(DOCS), ids=lambda block: str(transcripts.blocks(DOCS).index(block)))
def test_transcript(block: transcripts.Block, tmp_path: Path) -> None:
    if block.only and not emulates_ring0():
        pytest.skip(block.reason)
    transcripts.check(block, tmp_path)


def _commands() -> str:
    lines = ["<!-- commands -->"]
    for group, title in GROUPS.items():
        lines += ["", f"**{title}**", "", "| command | |", "|---|---|"]
        for each in COMMANDS.commands.values():
            if each.group == group:
                short = [alias for alias in each.aliases if len(alias) <= 4]
                names = f"`{each.name}`" + (f" (`{'`, `'.join(short)}`)" if short else "")
                arguments = f" `{each.arguments}`".replace("|", "\\|") if each.arguments and each.arguments != "..." else ""
                lines.append(f"| {names}{arguments} | {each.help} |")
    lines += ["", "**info**", "", "| info | |", "|---|---|"]
    lines += [f"| `{each.usage}` | {each.help} |" for each in INFO.commands.values()]
    return "\n".join([*lines, "", "<!-- end -->\n"])


def test_the_list_of_commands_is_the_table() -> None:
    if os.environ.get("PYVMM_WRITE_GOLDEN"):
        DOCS.write_text(_LIST.sub(lambda match: _commands(), DOCS.read_text()))
    found = _LIST.search(DOCS.read_text())
    assert found is not None and found[0] == _commands(), "PYVMM_WRITE_GOLDEN=1 writes it anew"
