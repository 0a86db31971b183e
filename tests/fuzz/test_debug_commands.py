"""Command lines of every kind, right, half right and wrong: the debugger answers each in bounded time, never with a bug of its own."""

from __future__ import annotations

import os
import random

import pytest

from pyvmm.observe.debug.completion import candidates
from pyvmm.observe.debug.exit_names import NAMES
from pyvmm.observe.debug.session import Session
from tests.support.fake_subject import FakeSubject
from tests.unit.observe.debug.test_expression import Symbols

LINES = int(os.environ.get("PYVMM_FUZZ_LINES", "20000"))
PIECES = (
    "$rax",
    "$rip",
    "main",
    "serial0.THR",
    "serial0",
    "acpi-pm.status",
    "0x7c00",
    "0",
    "1",
    "-1",
    "99999999999999999999",
    "*(int *)",
    "{char}",
    "(",
    ")",
    "+",
    "-",
    "/",
    "=",
    "==",
    ",",
    "if",
    "vcpu",
    "port",
    "mmio",
    "irq",
    "vector",
    "exit",
    "read",
    "write",
    "'A'",
    "'",
    '"',
    "\\",
    "$",
    "$1",
    "#",
    "begin",
    "end",
    "/x",
    "/4i",
    "/s",
    "/999999b",
    "info",
    "registers",
    "run",
    "on",
    "off",
    "\x00",
    "\x1b[31m",
    "\xff",
    "ü",
    "%s",
    "{}",
    "..",
    "[",
    "]",
    "&",
    "|",
    "<<",
    "1-5",
    "0x500, 4",
    *list(NAMES)[:6],
)
# they run what the user says or touch files: not with random arguments
LEFT_OUT = {"python", "source", "save", "quit"}


def _line(random_: random.Random, names: list[str]) -> str:
    kind = random_.random()
    if kind < 0.05:
        return "".join(chr(random_.randrange(1, 0x250)) for _ in range(random_.randrange(60)))
    words = [random_.choice(PIECES) for _ in range(random_.randrange(6))]
    name = random_.choice(names)
    if random_.random() < 0.1:
        name = name[: random_.randrange(len(name)) + 1]
    return name + random_.choice(("", "/4x", "/i", " ", " ", " ")) + random_.choice((" ", "")).join(words)


def test_command_lines() -> None:
    pytest.importorskip("capstone")
    random_ = random.Random(5)
    session = Session(FakeSubject(vcpus=2), Symbols(), type_=lambda data: None)
    names = [name for name in session.commands._aliases if session.commands._aliases[name].name not in LEFT_OUT]
    for number in range(LINES):
        if number % 500 == 0:
            session = Session(FakeSubject(live=bool(number % 1000), vcpus=2), Symbols(), type_=lambda data: None)
        line = _line(random_, names)
        command = line.strip().partition(" ")[0]
        if command and any(each.startswith(command[:2]) for each in LEFT_OUT):
            continue
        reply = session.execute(line)
        assert "a bug in pyvmm" not in reply.text, (line, reply.text)
        assert not reply.error or "\n" not in reply.text, (line, reply.text)
        assert "\x1b" not in reply.text or "\x1b" in line, (line, reply.text)
        assert len(reply.text) < 1 << 22, (line, len(reply.text))
        if number % 10 == 0:
            candidates(session, line, line.split(" ")[-1])
