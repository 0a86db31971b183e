"""tests/support/transcripts.py: a page that is not true is found out, whatever way it is not true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import transcripts


def page(folder: Path, text: str) -> Path:
    """A page, beside which a shell has an empty folder."""
    file = folder / "page.md"
    file.write_text(text)
    return file


def verdict(folder: Path, text: str, number: int = 0) -> str:
    """"" when a block is true, else what is said of it."""
    try:
        transcripts.check(transcripts.blocks(page(folder, text))[number], folder / "shell")
    except AssertionError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def _a_shell_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shell").mkdir()
    monkeypatch.delenv("PYVMM_WRITE_GOLDEN", raising=False)


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ echo a; echo b >&2\na\nb\n```\n",
        "```console\n$ false\n$ echo $?\n1\n```\n",
        "```console\n$ x=5\n$ echo $x\n5\n```\n",
        "```console\n$ printf a\na\n```\n",
        "```console\n$ cat <<'E'\n> $ one\n> (two)\n> E\n$ one\n(two)\n```\n".replace("$ one", "# one"),
        "```console\n$ seq 5\n1\n...\n5\n```\n",
        "```console\n$ seq 2\n1\n...\n2\n```\n",
        "<!-- test: varies seconds /[a-z]+d\\b/ -->\n```console\n$ echo 1.25 s, changed\n99.0 s, moved\n```\n",
        "```console\n$ ls README.md docs/lessons/README.md\nREADME.md\ndocs/lessons/README.md\n```\n",
    ],
    ids=range(9),
)
def test_what_is_true(text: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ echo a\nb\n```\n",
        "```console\n$ echo a\n```\n",
        "```console\n$ true\na\n```\n",
        "```console\n$ seq 5\n1\n...\n6\n```\n",
        "```console\n$ seq 5\n2\n...\n5\n```\n",
        "```console\n$ echo 1.25 s\n99.0 s\n```\n",
        "<!-- test: varies seconds -->\n```console\n$ echo 1.25 s, changed\n99.0 s, moved\n```\n",
    ],
    ids=range(7),
)
def test_what_is_not_true(text: str, tmp_path: Path) -> None:
    assert "page.md is not true\n--- the page\n+++ what was said" in verdict(tmp_path, text)


def test_what_is_too_wide(tmp_path: Path) -> None:
    line = "x" * (transcripts.WIDTH + 1)
    assert verdict(tmp_path, f"```console\n$ printf '%0121d' 0 | tr 0 x\n{line}\n```\n")


def test_a_block_that_continues_finds_the_files_of_the_one_above(tmp_path: Path) -> None:
    text = "```console\n$ echo a > file\n```\n{}```console\n$ cat file\na\n```\n"
    assert verdict(tmp_path, text.format("<!-- test: continues -->\n"), 1) == ""
    (tmp_path / "shell/file").unlink()
    assert "No such file" in verdict(tmp_path, text.format(""), 1)


def test_a_page_is_written_anew_where_it_is_wrong_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_WRITE_GOLDEN", "1")
    text = "words\n<!-- test: varies seconds -->\n```console\n$ echo 1.5 s\n{}\n```\nmore words\n"
    assert verdict(tmp_path, text.format("2.5 s")) == ""
    assert (tmp_path / "page.md").read_text() == text.format("2.5 s")
    assert verdict(tmp_path, text.format("2.5 minutes")) == ""
    assert (tmp_path / "page.md").read_text() == text.format("1.5 s")


def test_the_debugger_s_prompts_become_its_arguments() -> None:
    block = transcripts.Block(Path("page"), "$ pyvmm debug it\n(pyvmm) break 'x'\nBreakpoint 1\n(pyvmm) step\n$ echo\n")
    first, second = block.commands
    assert first.line.startswith("pyvmm debug it --batch -ex 'echo (pyvmm) break '\\''x'\\''' -ex 'break '\\''x'\\''' -ex ")
    assert second.line == "echo"


@pytest.mark.parametrize("clause", ["nonsense", "only software", "only vmx: why", "varies", "continues"])
def test_a_clause_that_means_nothing(clause: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError)):
        transcripts.blocks(page(tmp_path, f"<!-- test: {clause} -->\n```console\n$ true\n```\n"))


def test_what_is_understood(tmp_path: Path) -> None:
    text = "<!-- test: needs paging32 syscall; only hardware: it is quicker; linux -->\n```console\n$ true\n```\n"
    (block,) = transcripts.blocks(page(tmp_path, text))
    assert (block.needs, block.only, block.reason, block.linux) == (["paging32", "syscall"], "hardware", "it is quicker", True)


def test_commands_that_nobody_types_are_found(tmp_path: Path) -> None:
    text = "```sh\nls\n```\n```text\n$ ls\n```\n```console\nhello\n```\n```console\n$ ls\n(pyvmm) s\n```\n"
    assert transcripts.untested(page(tmp_path, text)) == ["$ ls", "hello"]


def test_excerpts_are_compared_with_their_file(tmp_path: Path) -> None:
    text = "<!-- from guests/hello/hello.S -->\n```asm\n{}\n```\n"
    true = "        xor     ax, ax\n        mov     ds, ax\n".rstrip()
    assert transcripts.wrong_sources(page(tmp_path, text.format(true.splitlines()[0]))) == []
    assert transcripts.wrong_sources(page(tmp_path, text.format("        xor     ax, ax\n...\nhalt:   hlt"))) == []
    assert transcripts.wrong_sources(page(tmp_path, text.format("halt:   hlt\n...\n        xor     ax, ax")))
    assert transcripts.wrong_sources(page(tmp_path, text.format("        xor     bx, bx")))
