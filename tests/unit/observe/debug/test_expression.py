"""pyvmm/observe/debug/expression.py."""

from __future__ import annotations

import pytest

from pyvmm.observe.debug.command import CommandError
from pyvmm.observe.debug.expression import evaluate, number, prefix
from pyvmm.observe.debug.session import Session
from tests.support.fake_subject import FakeSubject


class Symbols:
    def find(self, name: str) -> tuple[int, int] | None:
        return {"main": (0x7C08, 20), "poll": (0x7C12, 0)}.get(name)

    def nearest(self, address: int) -> tuple[str, int] | None:
        return ("main", address - 0x7C08) if 0x7C08 <= address < 0x7C1C else None

    def names(self) -> list[str]:
        return ["main", "poll"]


@pytest.fixture
def session() -> Session:
    return Session(FakeSubject(), Symbols())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17", 17),
        ("0x10", 16),
        ("0b101", 5),
        ("'A'", 65),
        (r"'\n'", 10),
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("10-2-3", 5),
        ("1<<4|1", 17),
        ("-1", (1 << 64) - 1),
        ("~0&0xff", 255),
        ("!5", 0),
        ("7/2", 3),
        ("7%4", 3),
        ("2>1", 1),
        ("2<=1", 0),
        ("1&&0||1", 1),
        ("5==5", 1),
        ("$rip", 0x7C00),
        ("rip", 0x7C00),
        ("$pc+8", 0x7C08),
        ("$eax", 0xAA55),
        ("$al", 0x55),
        ("$ah", 0xAA),
        ("$cr0", 0x10),
        ("$cs.limit", 0xFFFF),
        ("$idt.limit", 0x3FF),
        ("main", 0x7C08),
        ("main+0x10", 0x7C18),
        ("*(char *)0x7c00", 0x31),
        ("*(unsigned short*)0x7c00", 0xC031),
        ("{int}0x7c00", 0xD88EC031),
        ("*0x7c00", 0xC031),
        ("*(u8*)($rip+1)", 0xC0),
        ("&main", 0x7C08),
        ("serial0.lsr", 0x60),
        ("acpi-pm.status + 1", 1),
        ("1<<64", 0),
        ("0xffffffffffffffff+1", 0),
        ("3 - 5", (1 << 64) - 2),
    ],
)
def test_values(session: Session, text: str, value: int) -> None:
    assert number(text, session) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing"),
        ("1+", "missing"),
        ("1 2", "'2' is not understood"),
        ("nobody", "called 'nobody'"),
        ("$nothing", "neither a register"),
        ("1/0", "division by zero"),
        ("5%0", "division by zero"),
        ("(1", "')' is missing"),
        ("*0xfffffff0", "no memory"),
        ("*(foo *)4", "type 'foo'"),
        ("0x1ffffffffffffffff", "more than 64 bits"),
        ("serial0", "is no number"),
        ("serial0.nothing", "has no 'nothing'"),
        ("(" * 100 + "1", "nested too deeply"),
        ("-" * 100 + "1", "nested too deeply"),
        ("1" * 500, "too long"),
        ("&5", "in memory"),
        ("ü", "not understood"),
        ("0x", "not understood"),
    ],
)
def test_what_is_none_says_so_in_a_line(session: Session, text: str, says: str) -> None:
    with pytest.raises(CommandError) as error:
        number(text, session)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_memory_is_behind_a_value(session: Session) -> None:
    value = evaluate("*(int *)0x500", session)
    assert (value.address, value.size) == (0x500, 4)
    assert evaluate("main", session).size == 20


def test_an_expression_and_what_follows(session: Session) -> None:
    value, rest = prefix("0x7c00 + 1, 4", session)
    assert (value.number, rest) == (0x7C01, ", 4")


def test_values_printed_before_and_variables(session: Session) -> None:
    session.remember(5)
    session.remember(7)
    session.variables["mine"] = 9
    assert [number(text, session) for text in ("$", "$$", "$1", "$2", "$mine")] == [7, 5, 5, 7, 9]


def test_a_symbol_goes_before_a_register_without_its_dollar(session: Session) -> None:
    assert session.symbols is not None
    session.symbols.find = lambda name: (1, 0) if name == "rax" else None  # type: ignore[method-assign]
    assert number("rax", session) == 1
    assert number("$rax", session) == 0xAA55
