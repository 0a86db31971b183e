"""Pages whose transcripts are tests: what stands behind a prompt is typed again, and what is said is compared with the page.

A ```console block is one terminal. ``$ `` before a line is the shell's prompt, ``> `` continues the line above it, ``(pyvmm) `` is
typed to the pyvmm debug or replay that the shell started. A line ``...`` stands for any number of lines. What else there is to know
stands in a comment above the block, in clauses with a semicolon between them:

    <!-- test: varies ms count; continues; needs paging32; only software: what does not hold on hardware -->

``varies`` names what is another each time (VARIES), or has a /regular expression/; ``continues`` types the block above first, in the same
folder; ``network`` is for a host that has libslirp or passt; ``only software`` and ``only hardware`` (a KVM that interprets ring 0,
or not) need a reason; ``linux`` is for a KVM that boots one.
PYVMM_WRITE_GOLDEN=1 writes the page anew where it is not true, to be read before it is committed.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.process import ROOT

SHELL, MORE, DEBUGGER = "$ ", "> ", "(pyvmm) "
ELISION = "..."
WIDTH = 120
VARIES = {
    "ms": r" *\d+\.\d{3} ms",  # of the guest's time
    "seconds": r"\d+(\.\d+)? ?s\b",
    "count": r"\b\d[\d,]*\b",
    "pointer": r"\b0x[0-9a-f]{9,16}\b",  # an address of the host's
    "hex": r"\b0x[0-9a-f]+\b",
    # Whether KVM has moved rip when an exit arrives is its own affair; explain tells.
    "rip": r"\s+\(rip\s+0x[0-9a-f]+\s+is\s+behind\s+it\)$"
    r"|(rip\s+is\s+behind|KVM\s+moves\s+rip\s+behind)[^;.]*and\s+the\s+guest\s+goes\s+on\.",
    "version": r"\b\d+(\.\d+)+\S*",
}
_NOTE = r"(?:<!-- test: (?P<note>[^\n]*) -->\n)?"
_BLOCK = re.compile(_NOTE + r"```console\n(?P<text>.*?)```\n", re.DOTALL)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SOURCE = re.compile(r"<!-- from (\S+) -->\n```\w+\n(.*?)```\n", re.DOTALL)
_MARK = "\x01"


@dataclass
class Block:
    """A terminal on a page.

    Attributes:
        page: where it stands.
        text: its lines as they are there.
        before: the block above, whose files are wanted; None for one that begins in an empty folder.
        varies: regular expressions of what is another each time.
        needs: words for pytest.mark.kvm.
        only: "software", "hardware", or "".
        reason: why only there.
        linux: it boots a Linux.
        network: it needs a user network (libslirp or passt).
    """

    page: Path
    text: str
    before: Block | None = None
    varies: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    only: str = ""
    reason: str = ""
    linux: bool = False
    network: bool = False

    @property
    def commands(self) -> list[Command]:
        """What is typed at the shell."""
        found: list[Command] = []
        continuing = False
        for line in self.text.splitlines():
            if line.startswith(SHELL):
                found.append(Command([line]))
            elif line.startswith(MORE) and continuing:
                found[-1].typed.append(line)
            elif line.startswith(DEBUGGER):
                found[-1].asked.append(line)
            continuing = line.startswith((SHELL, MORE)) and bool(found)
        return found

    def comparable(self, text: str) -> str:
        """Without what varies."""
        for pattern in self.varies:
            text = re.sub(pattern, "" if pattern == VARIES["rip"] else "<varies>", text, flags=re.MULTILINE)
        return "".join(line.rstrip() + "\n" for line in text.splitlines())

    def holds(self, said: str) -> bool:
        """Whether this is what the page shows."""
        shown = self.comparable(self.text).splitlines(keepends=True)
        pattern = "".join("(?:.*\n)*?" if line == ELISION + "\n" else re.escape(line) for line in shown)
        return re.fullmatch(pattern, self.comparable(said)) is not None


@dataclass
class Command:
    """One prompt of the shell.

    Attributes:
        typed: the line behind it and those that continue it, with their prompts.
        asked: what is then typed to the debugger, with its prompts.
    """

    typed: list[str]
    asked: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """What the shell gets."""
        text = "\n".join(line[len(SHELL) :] for line in self.typed)
        if not self.asked:
            return text
        words = [f"-ex {_quoted('echo ' + line)} -ex {_quoted(line.removeprefix(DEBUGGER))}" for line in self.asked]
        return f"{text} --batch {' '.join(words)}"


def blocks(page: Path) -> list[Block]:
    """The terminals of a page, in order."""
    found: list[Block] = []
    for match in _BLOCK.finditer(page.read_text()):
        block = Block(page, match["text"])
        for clause in filter(None, map(str.strip, (match["note"] or "").split(";"))):
            _understand(block, clause, found)
        found.append(block)
    return found


def _understand(block: Block, clause: str, above: list[Block]) -> None:
    word, _, rest = clause.partition(" ")
    kind, _, reason = rest.partition(": ")
    if word == "varies" and rest:
        for each in rest.split():
            block.varies.append(each[1:-1] if each[0] == each[-1] == "/" else VARIES[each])
    elif word == "needs" and rest:
        block.needs += rest.split()
    elif word == "only" and kind in ("software", "hardware") and reason:
        block.only, block.reason = kind, reason
    elif clause == "continues" and above:
        block.before = above[-1]
    elif clause == "network":
        block.network = True
    elif clause == "linux":
        block.linux = True
    else:
        raise ValueError(f"{block.page.name}: what does {clause!r} mean?")


def transcript(block: Block, folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Types a block in a shell; what then stands in the terminal.

    Args:
        folder: empty; it becomes the checkout with a place to write.
        more: environment variables.
    """
    if block.before is not None:
        transcript(block.before, folder, more)
    commands = block.commands
    script = "".join(f"__status=$?; printf '\\001'; (exit $__status)\n{command.line}\n" for command in commands)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**_environment(folder), **(more or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    answers = done.stdout.decode(errors="replace").split(_MARK)[1:]
    assert len(answers) == len(commands), done.stdout
    said = ""
    for command, answer in zip(commands, answers, strict=True):
        if answer and not answer.endswith("\n"):
            answer += "\n"
        said += "\n".join(command.typed) + "\n" + answer
    return said


def _environment(folder: Path) -> dict[str, str]:
    """A new user's: in a checkout, with pyvmm installed, on a terminal that has no colours."""
    tools = folder / ".tools"
    if not tools.exists():
        tools.mkdir(parents=True)
        for name in os.listdir(ROOT):
            if not name.startswith("."):
                (folder / name).symlink_to(Path(ROOT) / name)
        words = {"pyvmm": " -m pyvmm", "pytest": " -m pytest -p no:cacheprovider", "python3": ""}
        for name, module in words.items():
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable}{module} "$@"\n')
            (tools / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYVMM_", "XDG_"))}
    return {
        **clean,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_STATE_HOME": str(tools),
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
    }


def check(block: Block, folder: Path, more: Mapping[str, str] | None = None) -> None:
    """Types a block; an AssertionError shows where the page is not true."""
    said = transcript(block, folder, more)
    said = "".join(line.rstrip() + "\n" for line in said.splitlines())
    typed = [line for line in block.text.splitlines() if line.startswith(DEBUGGER)]
    heard = [line for line in said.splitlines() if line.startswith(DEBUGGER)]
    assert typed == heard, f"the debugger left before the end:\n{said}"  # --batch ends at the first mistake
    if os.environ.get("PYVMM_WRITE_GOLDEN") and not block.holds(said):
        assert block.page.read_text().count(f"```console\n{block.text}```\n") == 1, "the same block twice: which one?"
        block.page.write_text(block.page.read_text().replace(f"```console\n{block.text}```\n", f"```console\n{said}```\n"))
        block.text = said
    if not block.holds(said):
        page, terminal = (block.comparable(text).splitlines() for text in (block.text, said))
        difference = "\n".join(difflib.unified_diff(page, terminal, "the page", "what was said", lineterm=""))
        raise AssertionError(f"{block.page.name} is not true\n{difference}")
    assert max(map(len, said.splitlines())) <= WIDTH, f"a line is longer than {WIDTH}"


def untested(page: Path) -> list[str]:
    """Lines behind a prompt that nobody types: outside a ```console block, or before the shell's first prompt in one."""
    found: list[str] = []
    for match in _FENCE.finditer(page.read_text()):
        language, lines = match[1], match[2].splitlines()
        if language != "console" or not lines[0].startswith(SHELL):
            found += [line for line in lines if line.startswith((SHELL, DEBUGGER))] or (lines if language == "console" else [])
    return found


def wrong_sources(page: Path) -> list[str]:
    """Excerpts that are not in the file they are from, line by line; ``...`` skips."""
    found: list[str] = []
    for match in _SOURCE.finditer(page.read_text()):
        file = (Path(ROOT) / match[1]).read_text()
        at = 0
        for piece in re.split(rf"^\s*{re.escape(ELISION)}\n", match[2], flags=re.MULTILINE):
            where = f"\n{file}".find(f"\n{piece}", at)
            if where < 0:
                found.append(f"not in {match[1]}: {piece}")
                break
            at = where + len(piece)
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
