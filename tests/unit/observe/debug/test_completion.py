"""pyvmm/observe/debug/completion.py: what Tab offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.observe.debug.completion import candidates
from pyvmm.observe.debug.session import Session
from tests.support.fake_subject import FakeSubject
from tests.unit.observe.debug.test_expression import Symbols


@pytest.mark.parametrize(
    ("line", "word", "offered"),
    [
        ("st", "st", ["step", "stepi"]),
        ("reverse-", "reverse-", ["reverse-continue", "reverse-stepi"]),
        ("info mem", "mem", ["memory-map"]),
        ("i re", "re", ["registers"]),
        ("info registers rs", "rs", ["rsi", "rsp"]),
        ("break serial0.T", "serial0.T", ["serial0.THR"]),
        ("break serial0.t", "serial0.t", ["serial0.THR"]),
        ("break mai", "mai", ["main"]),
        ("break exit hl", "hl", ["hlt"]),
        ("break ac", "ac", ["acpi-pm"]),
        ("print $r1", "$r1", [f"$r1{n}{end}" for n in range(6) for end in ("", "b", "d", "w")]),
        ("print serial0.l", "serial0.l", ["serial0.lcr", "serial0.lsr"]),
        ("info devices ser", "ser", ["serial0"]),
        ("set con", "con", ["context"]),
        ("help pag", "pag", ["pagewalk"]),
        ("nonsense x", "x", []),
        ("step ", "", []),
    ],
)
def test_candidates(line: str, word: str, offered: list[str]) -> None:
    assert candidates(Session(FakeSubject(), Symbols()), line, word) == sorted(offered)


def test_breakpoints_and_files(tmp_path: Path) -> None:
    session = Session(FakeSubject())
    session.execute("b 1")
    assert candidates(session, "delete ", "") == ["1"]
    (tmp_path / "script").write_text("")
    (tmp_path / "some").mkdir()
    assert candidates(session, f"source {tmp_path}/s", f"{tmp_path}/s") == [f"{tmp_path}/script", f"{tmp_path}/some/"]
    assert candidates(session, "source /nowhere/x", "/nowhere/x") == []
    assert candidates(session, "source /a\0b/x", "/a\0b/x") == []
