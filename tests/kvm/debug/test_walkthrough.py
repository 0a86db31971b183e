"""docs/debugger.md: every transcript in it is what the debugger says, and its list of commands is the table.

PYVMM_WRITE_GOLDEN=1 writes them anew, to be read before they are committed.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pyvmm.kvm.kind import emulates_ring0
from pyvmm.observe.debug.command import GROUPS
from pyvmm.observe.debug.commands import COMMANDS
from pyvmm.observe.debug.commands.info import INFO
from tests.support.process import COMMAND, ROOT

pytest.importorskip("capstone")
DOCS = Path(ROOT) / "docs" / "debugger.md"
PROMPT = "(pyvmm) "
_BLOCK = re.compile(r"```console\n(\$ pyvmm debug [^\n]*\n.*?)```\n", re.DOTALL)
_LIST = re.compile(r"<!-- commands -->\n.*?<!-- end -->\n", re.DOTALL)
_TIME = re.compile(r" +\d+\.\d{3} ms")


def blocks() -> list[str]:
    """The transcripts as they stand."""
    return [match[1] for match in _BLOCK.finditer(DOCS.read_text())]


def transcript(block: str) -> str:
    """What the commands of a block really say."""
    first, *lines = block.splitlines()
    arguments: list[str] = []
    for line in lines:
        if line.startswith(PROMPT):
            arguments += ["-ex", f"echo {line}", "-ex", line.removeprefix(PROMPT)]
    done = subprocess.run(
        [*COMMAND, *first.removeprefix("$ pyvmm ").split(), "--batch", *arguments], capture_output=True, cwd=ROOT, timeout=300
    )
    assert not done.returncode, done.stdout + done.stderr
    return f"{first}\n{done.stdout.decode()}"


def comparable(text: str) -> str:
    """Without times, which are another each time."""
    return _TIME.sub("  0.000 ms", text)


@pytest.mark.kvm
@pytest.mark.parametrize("number", range(len(blocks())))
def test_transcript(number: int) -> None:
    block = blocks()[number]
    if not emulates_ring0() and ("(pyvmm) explain" in block or "triple-fault" in block):
        pytest.skip(
            "where KVM leaves rip at an exit, and what AMD leaves of a dead vCPU, are other matters on hardware"
        )
    said = transcript(block)
    if os.environ.get("PYVMM_WRITE_GOLDEN") and comparable(said) != comparable(block):
        DOCS.write_text(DOCS.read_text().replace(block, said))
    assert comparable(said) == comparable(blocks()[number])
    assert max(map(len, said.splitlines())) <= 120


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
